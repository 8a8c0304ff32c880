//! What readers of one slave promise together.

use super::*;

#[test]
fn what_they_keep_in_memory_is_bounded_together_and_is_room_again_when_one_is_gone() {
    let (_folder, path) = file("rows", numbered(2000).as_bytes());
    let spill = tempfile::tempdir().unwrap();
    run(async {
        let most = 30_000;
        let room = CacheRoom::of(most);
        let start = || {
            let options = Options { room: room.clone(), spill: spill.path().to_owned(), ..options() };
            self::start(options, schema(), from_list(splits(&path, &[])))
        };
        let readers = [start(), start(), start()];
        let mut cached = 0;
        for reader in &readers {
            assert_numbered(&rows(reader).await.unwrap(), 2000);
            let done = reader.done().await.unwrap();
            cached += done.cached_bytes;
            assert!(done.cached_bytes + done.spilled_bytes > most / 2, "{done:?}");
        }
        assert!(cached <= most && cached > most / 2, "{cached} bytes of {most}");
        drop(readers);
        // Its threads end a moment later.
        let all = async {
            while !room.take(most) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        all.await;
    });
}
