//! What the reader promises of rows that are consumed.

use super::*;

/// The same text with and without values of ones, so that blocks differ in what they hold.
fn mixed(rows: u64) -> String {
    let value = |i| if i % 300 < 100 { "1" } else { "0.5" };
    (1..=rows).map(|i| format!("+1 {}:{} {}:{}\n", i, value(i), i + 2, value(i))).collect()
}

#[test]
fn consumed_rows_are_those_that_would_be_kept_each_is_there_once_and_none_remain() {
    let (_folder, path) = file("rows", mixed(5000).as_bytes());
    let spill = tempfile::tempdir().unwrap();
    run(async {
        let reader = start(options(), schema(), from_list(splits(&path, &[20_000])));
        let (kept, all) = (rows(&reader).await.unwrap(), reader.done().await.unwrap().occurring);
        assert!(all.at_most().is_some_and(|features| features > 5000), "{all:?}");
        for cache_memory in [u64::MAX, 20_000, 0] {
            let options = Options {
                consumed: true,
                room: CacheRoom::of(cache_memory),
                spill: spill.path().to_owned(),
                ..options()
            };
            let reader = start(options, schema(), from_list(splits(&path, &[20_000])));
            assert_eq!(rows(&reader).await.unwrap(), kept);
            let done = reader.done().await.unwrap();
            assert_eq!((done.facts.rows, done.facts.nonzeros, done.cached_bytes), (5000, 10_000, 0));
            assert_eq!(done.occurring, all);
            let again = reader.block(3).await.unwrap_err();
            assert!(again.message.starts_with("block 3 was asked for again"), "{again}");
            let numbered = reader.key_map().await.unwrap_err();
            assert!(numbered.message.contains("are not numbered"), "{numbered}");
        }
    });
}

#[test]
fn reading_goes_on_though_nobody_consumes() {
    let (_folder, path) = file("rows", mixed(5000).as_bytes());
    run(async {
        let reader = start(Options { consumed: true, ..options() }, schema(), from_list(splits(&path, &[])));
        let done = reader.done().await.unwrap();
        assert!(done.facts.rows == 5000 && reader.blocks().await.unwrap() > 20, "{done:?}");
    });
}

#[test]
fn reading_waits_for_who_waits_for_nothing_else() {
    let (_folder, path) = file("rows", mixed(2000).as_bytes());
    run(async {
        let options = Options { consumed: true, patient: true, ..options() };
        let reader = start(options, schema(), from_list(splits(&path, &[])));
        let mut at = 0;
        // Later than it would be over if it went on.
        for _ in 0..2 {
            let all = tokio::time::timeout(Duration::from_secs(1), reader.blocks()).await;
            assert!(all.is_err(), "all of {:?} blocks were read though nobody takes them", all.map(Result::ok));
            assert!(reader.block(at).await.unwrap().is_some());
            at += 1;
        }
        while reader.block(at).await.unwrap().is_some() {
            at += 1;
        }
        assert!(at > 20 && reader.done().await.unwrap().facts.rows == 2000, "{at} blocks");
    });
}

#[test]
fn a_block_that_is_held_keeps_its_rows_while_others_memory_is_filled_again() {
    let (_folder, path) = file("rows", mixed(5000).as_bytes());
    run(async {
        let start = |consumed| start(Options { consumed, ..options() }, schema(), from_list(splits(&path, &[])));
        let (kept, consumed) = (start(false), start(true));
        let mut held = Vec::new();
        for at in 0..kept.blocks().await.unwrap() {
            let block = consumed.block(at).await.unwrap().unwrap();
            if at % 3 == 0 {
                held.push((at, block));
            }
        }
        for (at, block) in held {
            assert_eq!(Some(block), kept.block(at).await.unwrap(), "block {at}");
        }
    });
}

#[test]
fn a_worker_that_is_not_needed_waits_until_no_block_is_left() {
    let (_folder, path) = file("rows", mixed(5000).as_bytes());
    run(async {
        let reader = start(Options { consumed: true, ..options() }, schema(), from_list(splits(&path, &[])));
        reader.admit(0).await.unwrap();
        assert!(futures::FutureExt::now_or_never(reader.admit(7)).is_none());
        let mut at = 0;
        while reader.block(at).await.unwrap().is_some() {
            at += 1;
        }
        assert!(at > 20);
        reader.admit(7).await.unwrap();
    });
}

#[test]
fn where_a_worker_takes_nothing_the_next_one_does() {
    let (_folder, path) = file("rows", mixed(5000).as_bytes());
    run(async {
        let reader = start(Options { consumed: true, ..options() }, schema(), from_list(splits(&path, &[])));
        reader.admit(0).await.unwrap();
        reader.admit(2).await.unwrap();
        assert!(reader.block(0).await.unwrap().is_some());
    });
}
