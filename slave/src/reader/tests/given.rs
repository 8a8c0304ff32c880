//! What a reader promises of splits of which another one takes a part.

use super::*;

/// The text of a split that is read in pieces of `most` bytes; after `pieces` of them `keep` of the rest is kept.
async fn text(split: &Split, most: usize, given: Option<(usize, f64)>) -> (Vec<u8>, Option<u64>) {
    let held = Arc::new(Held::new(1));
    held.take(split);
    let mut source = source::Source::open(&Storage::default(), split, held.clone()).await.unwrap();
    assert_eq!(held.claim(split.index, split.start), Some(split.end));
    let (mut text, mut end) = (Vec::new(), None);
    for piece in 0.. {
        if let Some((_, keep)) = given.filter(|(pieces, _)| *pieces == piece) {
            end = held.give(split.index, keep);
        }
        if source.fill(&mut text, most).await.unwrap() == 0 {
            break;
        }
    }
    assert_eq!(held.done(split.index), end.unwrap_or(split.end) - split.start);
    (text, end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_split_that_is_given_away_while_it_is_read_loses_no_row_and_repeats_none(
        lengths in prop::collection::vec(0usize..40, 1..40),
        (from, to) in (0.0..1.0f64, 0.0..1.0f64),
        most in 1usize..60,
        pieces in 0usize..30,
        keep in 0.0..1.0f64,
        newline: bool,
    ) {
        let mut rows = lengths.iter().map(|n| "x".repeat(*n) + "\n").collect::<String>();
        if !newline {
            rows.pop();
        }
        let (_folder, path) = file("rows", rows.as_bytes());
        let [from, to] = [from.min(to), from.max(to)].map(|part| (part * rows.len() as f64) as u64);
        let whole = splits(&path, &[from, to]).remove(1);
        if whole.start == whole.end {
            return Ok(());
        }
        let both = run(async {
            let (mut first, end) = text(&whole, most, Some((pieces, keep))).await;
            if let Some(end) = end {
                assert!((whole.start..whole.end).contains(&end));
                first.extend(text(&Split { start: end, ..whole.clone() }, most, None).await.0);
            }
            (first, text(&whole, 1 << 20, None).await.0)
        });
        prop_assert_eq!(both.0, both.1);
    }
}

#[test]
fn what_is_not_begun_is_given_whole_and_what_is_compressed_and_begun_is_kept() {
    let (_folder, path) = file("rows", numbered(300).as_bytes());
    let held = Held::new(200);
    let mut plain = splits(&path, &[500, 900]);
    plain[1].form = Form::Dataset;
    plain.iter().for_each(|split| held.take(split));
    assert_eq!((held.give(0, 0.9), held.claim(0, 0)), (Some(0), Some(0)), "a split that was given away is empty");
    assert_eq!(held.claim(1, 500), Some(900));
    assert_eq!(held.give(1, 0.0), None, "a compressed file is read whole");
    assert_eq!(held.claim(2, 1000), Some(plain[2].end));
    assert_eq!(held.give(2, 0.0), Some(1000), "what is being read is kept");
    assert_eq!(held.give(2, 0.0), None, "less than the least part is left");
    assert_eq!((held.give(9, 0.5), held.claim(9, 1)), (None, None));
    assert_eq!([0, 1, 2].map(|index| held.done(index)), [0, 400, 100]);
    assert_eq!(held.read(), 3);
}

#[test]
fn a_reader_skips_what_was_given_away_before_it_began() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    run(async {
        let held = Arc::new(Held::new(1));
        let (mut left, giving) = (VecDeque::from(splits(&path, &[3000, 6000])), held.clone());
        let next: NextSplit = Box::new(move || {
            // When the third is asked for, the second has been opened.
            if left.len() == 1 {
                assert_eq!(giving.give(1, 0.5), Some(3000));
            }
            let next = left.pop_front();
            Box::pin(async move { Ok(next) })
        });
        let reader = Reader::start(options(), schema(), Storage::default(), held.clone(), next).unwrap();
        let (rows, done) = (rows(&reader).await.unwrap(), reader.done().await.unwrap());
        let all = std::fs::metadata(&path).unwrap().len();
        assert_eq!((done.splits, done.bytes, held.read()), (2, all - 3000, 3));
        assert!(rows.len() < 1000 && rows.last().unwrap().1 == [999]);
    });
}

#[test]
fn a_pause_ends_when_a_split_is_read_to_its_end() {
    let (_folder, path) = file("rows", b"+1 1:1\n");
    let (held, split) = (Held::new(1), splits(&path, &[]).remove(0));
    held.take(&split);
    run(async {
        let reads = async {
            held.claim(split.index, split.end);
            held.done(split.index);
        };
        tokio::join!(held.pause(std::time::Duration::from_secs(3600)), reads);
    });
}

#[test]
fn blocks_say_where_in_the_input_they_start_whoever_reads_them() {
    let text = numbered(1000);
    let (_folder, path) = file("rows", text.as_bytes());
    // Where rows start, in order.
    let starts: Vec<u64> =
        text.lines().scan(0, |at, line| Some(std::mem::replace(at, *at + line.len() as u64 + 1))).collect();
    for (cuts, chunk) in [(&[][..], 1000), (&[3000, 6001], 700), (&[1, 5999, 6000], 5000)] {
        let done = run(async {
            let options = Options { chunk, ..options() };
            start(options, schema(), from_list(splits(&path, cuts))).done().await.unwrap()
        });
        assert!(done.blocks.is_sorted_by_key(|block| (block.split, block.offset)), "{:?}", done.blocks);
        let mut first = 0;
        for (block, next) in done.blocks.iter().zip(done.blocks.iter().skip(1).map(Some).chain([None])) {
            let own = starts.iter().filter(|start| **start >= block.offset);
            let own = own.filter(|start| next.is_none_or(|next| **start < next.offset));
            assert_eq!(own.count(), block.rows as usize, "{block:?} before {next:?}");
            first += block.rows as usize;
        }
        assert_eq!(first, 1000);
    }
    let consumed = options().consumed(true);
    let done = run(async {
        let reader = start(consumed, schema(), from_list(splits(&path, &[])));
        rows(&reader).await.unwrap();
        reader.done().await.unwrap()
    });
    assert!(done.blocks.is_empty());
}
