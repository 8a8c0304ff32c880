//! What the reader promises of files that are packed, cut, long, changing or bad.

mod consumed;
mod given;
mod numbered;
mod together;

use super::*;
use flexps_common::data::generate::{Generator, Kind, Shape};
use flexps_common::data::{Form, Labels, libsvm};
use flexps_common::ids::InputId;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn schema() -> Schema {
    Schema {
        index_base: 1,
        base_detected: true,
        features: None,
        labels: Labels::two(-1.0, 1.0),
        labels_detected: true,
        bad_rows: 0,
    }
}

fn options() -> Options {
    Options { parsers: 2, chunk: 1000, ..Options::new("here") }
}

/// A file in a folder of its own.
fn file(name: &str, bytes: &[u8]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn modified(path: &str) -> u64 {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The file cut at `cuts`.
fn splits(path: &str, cuts: &[u64]) -> Vec<Split> {
    let len = std::fs::metadata(path).unwrap().len();
    let mut edges = vec![0];
    edges.extend(cuts);
    edges.push(len);
    let split = |(i, edge): (usize, &[u64])| Split {
        input: InputId(0),
        index: i as u32,
        path: path.to_owned(),
        start: edge[0],
        end: edge[1],
        file_len: len,
        modified: modified(path),
        form: Form::Text,
        hosts: vec![],
    };
    edges.windows(2).enumerate().map(split).collect()
}

fn whole(path: &str) -> Vec<Split> {
    let mut splits = splits(path, &[]);
    splits[0].form = Form::detect(&std::fs::read(path).unwrap(), path).unwrap();
    splits
}

fn from_list(splits: Vec<Split>) -> NextSplit {
    let mut splits = VecDeque::from(splits);
    Box::new(move || {
        let next = splits.pop_front();
        Box::pin(async move { Ok(next) })
    })
}

fn start(options: Options, schema: Schema, next: NextSplit) -> Reader {
    Reader::start(options, schema, Storage::default(), Arc::new(Held::new(1)), next).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs a test's future with a deadline.
fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("hangs") })
}

type PlainRow = (f32, Vec<u32>, Option<Vec<f32>>);

async fn rows(reader: &Reader) -> Result<Vec<PlainRow>> {
    let mut rows = Vec::new();
    let mut at = 0;
    while let Some(block) = reader.block(at).await? {
        for i in 0..block.rows() {
            let row = block.row(i);
            rows.push((row.label, row.indices.to_vec(), row.values.map(<[f32]>::to_vec)));
        }
        at += 1;
    }
    Ok(rows)
}

fn read(options: Options, splits: Vec<Split>) -> Result<Vec<PlainRow>> {
    run(async { rows(&start(options, schema(), from_list(splits))).await })
}

/// Labels and indices of numbered rows: row i has feature i + 1 alone.
fn numbered(count: usize) -> String {
    (0..count).map(|i| format!("{} {}:1\n", if i % 3 == 0 { "+1" } else { "-1" }, i + 1)).collect()
}

fn assert_numbered(rows: &[PlainRow], count: usize) {
    let indices: Vec<_> = rows.iter().map(|r| r.1[0] as usize).collect();
    assert_eq!(indices, (0..count).collect::<Vec<_>>());
}

#[test]
fn every_kind_of_compression_gives_the_same_rows() {
    let text = numbered(5000);
    let gzip = |text: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text.as_bytes()).unwrap();
    let mut snappy = snap::write::FrameEncoder::new(Vec::new());
    snappy.write_all(text.as_bytes()).unwrap();
    let raw = snap::raw::Encoder::new().compress_vec(text.as_bytes()).unwrap();
    let lengths = [text.len() as u32, raw.len() as u32].map(u32::to_be_bytes).concat();
    let (first, second) = text.as_bytes().split_at(text.len() / 3);
    for (name, bytes) in [
        ("plain.libsvm", text.clone().into_bytes()),
        ("rows.gz", gzip(text.as_bytes())),
        ("members.gz", [gzip(first), gzip(second)].concat()),
        ("no-name", gzip(text.as_bytes())),
        ("rows.bz2", bzip2.finish().unwrap()),
        ("rows.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ("rows.sz", snappy.into_inner().unwrap()),
        ("rows.snappy", [lengths, raw].concat()),
    ] {
        let (_folder, path) = file(name, &bytes);
        let rows = read(options(), whole(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_numbered(&rows, 5000);
    }
}

#[test]
fn a_truncated_gzip_is_an_error_that_names_the_file() {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(numbered(5000).as_bytes()).unwrap();
    let bytes = out.finish().unwrap();
    let (_folder, path) = file("rows.gz", &bytes[..bytes.len() / 2]);
    let error = read(options(), whole(&path)).unwrap_err();
    assert!(error.message.contains("rows.gz: the gzip file is truncated"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_cut_at_any_byte_gives_each_row_exactly_once() {
    let text = "+1 1:1\r\n-1 2:1\n\n# remark\n+1 3:1 4:1\n-1 5:1";
    let (_folder, path) = file("rows", text.as_bytes());
    let expected = read(options(), splits(&path, &[])).unwrap();
    assert_eq!(expected.len(), 4);
    let len = text.len() as u64;
    for first in 0..=len {
        for second in first..=len {
            let rows = read(options(), splits(&path, &[first, second])).unwrap();
            assert_eq!(rows, expected, "cut at {first} and {second}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_cuts_and_chunks_give_each_row_exactly_once(
        lengths in prop::collection::vec(0usize..400, 1..80),
        mut cuts in prop::collection::vec(0.0..1.0f64, 0..12),
        chunk in 1usize..3000,
        parsers in 1usize..4,
        newline: bool,
    ) {
        let mut text = String::new();
        for (i, length) in lengths.iter().enumerate() {
            text += &format!("+1 {}:1 # {}\n", i + 1, "x".repeat(*length));
        }
        if !newline {
            text.pop();
        }
        let (_folder, path) = file("rows", text.as_bytes());
        cuts.sort_by(f64::total_cmp);
        let cuts: Vec<_> = cuts.iter().map(|c| (c * text.len() as f64) as u64).collect();
        let rows = read(Options { chunk, parsers, ..options() }, splits(&path, &cuts)).unwrap();
        assert_numbered(&rows, lengths.len());
    }
}

#[test]
fn a_row_longer_than_a_chunk_and_than_its_split_is_whole() {
    let long: String = (1..50_000).map(|i| format!(" {i}:0.5")).collect();
    let text = format!("+1 1:1\n-1{long}\n+1 2:1\n");
    let (_folder, path) = file("rows", text.as_bytes());
    for cuts in [&[][..], &[10, 20, 30, 100_000], &[7, text.len() as u64 - 3]] {
        let rows = read(options(), splits(&path, cuts)).unwrap();
        assert_eq!(rows.iter().map(|r| r.1.len()).collect::<Vec<_>>(), [1, 49_999, 1]);
    }
}

#[test]
fn a_file_that_changed_between_listing_and_reading_is_an_error() {
    let (_folder, path) = file("rows", numbered(100).as_bytes());
    let listed = splits(&path, &[500]);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"+1 1:1\n").unwrap();
    let message = read(options(), listed.clone()).unwrap_err().message;
    assert!(message.contains("was written to after it was listed"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let message = read(options(), listed).unwrap_err().message;
    assert!(message.contains("the file vanished after it was listed"), "{message}");

    let (_folder, path) = file("rows", numbered(100).as_bytes());
    let mut listed = splits(&path, &[]);
    listed[0].modified -= 1;
    let message = read(options(), listed).unwrap_err().message;
    assert!(message.contains("was written to after it was listed"), "{message}");
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_an_error() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    let mut listed = VecDeque::from(splits(&path, &[4000]));
    let next: NextSplit = Box::new(move || {
        let next = listed.pop_front();
        if listed.is_empty() {
            // The first split is open by now, the second one is being opened.
            std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"+1 1:1\n").unwrap();
        }
        Box::pin(async move { Ok(next) })
    });
    let message = run(async { rows(&start(options(), schema(), next)).await }).unwrap_err().message;
    assert!(message.contains("was written to after it was listed"), "{message}");
}

#[test]
fn the_first_block_comes_before_the_last_split_is_handed_out() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    run(async {
        let (go, mut wait) = tokio::sync::mpsc::channel::<()>(1);
        let mut splits = VecDeque::from(splits(&path, &[3000, 6000]));
        let last = splits.pop_back().unwrap();
        let mut gate = Some(async move {
            wait.recv().await;
            last
        });
        let next: NextSplit = Box::new(move || match (splits.pop_front(), gate.take()) {
            (Some(split), kept) => {
                gate = kept;
                Box::pin(async move { Ok(Some(split)) })
            }
            (None, Some(kept)) => Box::pin(async move { Ok(Some(kept.await)) }),
            (None, None) => Box::pin(async { Ok(None) }),
        });
        let reader = start(options(), schema(), next);
        let first = reader.block(0).await.unwrap().unwrap();
        assert_eq!(first.row(0).indices, [0]);
        go.send(()).await.unwrap();
        assert_numbered(&rows(&reader).await.unwrap(), 1000);
    });
}

#[test]
fn a_bad_row_fails_all_waits_with_its_line_or_its_place() {
    let mut text = numbered(3000);
    text += "+1 0:1\n";
    text += &numbered(3000);
    let (_folder, path) = file("rows", text.as_bytes());
    run(async {
        let reader = Arc::new(start(options(), schema(), from_list(splits(&path, &[]))));
        let waits = [reader.clone(), reader.clone()].map(|r| tokio::spawn(async move { r.blocks().await }));
        for wait in waits {
            let message = wait.await.unwrap().unwrap_err().message;
            assert!(message.contains("rows, line 3001: index 0 in '0:1'"), "{message}");
        }
        assert!(reader.block(0).await.is_err() && reader.key_map().await.is_err() && reader.done().await.is_err());
    });
    // In a later split lines are not known.
    let place = numbered(3000).len();
    let message = read(options(), splits(&path, &[100])).unwrap_err().message;
    assert!(message.contains(&format!("rows, line at byte {place}: index 0")), "{message}");
}

#[test]
fn bad_rows_up_to_the_limit_are_skipped_over_all_chunks_and_told() {
    let text: String =
        (0..300).map(|i| format!("+1 {}:1\n{}", i + 1, if i % 100 == 7 { "spam\n" } else { "" })).collect();
    let (_folder, path) = file("rows", text.as_bytes());
    run(async {
        let lenient = Schema { bad_rows: 3, ..schema() };
        let reader = start(options(), lenient.clone(), from_list(splits(&path, &[])));
        let done = reader.done().await.unwrap();
        assert_eq!((done.facts.rows, done.facts.bad_rows), (300, 3));
        assert!(done.notes[0].starts_with("3 bad rows were skipped"), "{:?}", done.notes);
        assert!(done.notes[1].contains("rows, line 9: label 'spam'"), "{:?}", done.notes);
        let strict = Schema { bad_rows: 2, ..lenient };
        let options = Options { parsers: 1, ..options() };
        let message = start(options, strict, from_list(splits(&path, &[]))).done().await.unwrap_err().message;
        assert!(message.contains("3 bad rows, at most 2 are allowed"), "{message}");
        assert!(message.contains("the first: ") && message.contains("rows, line 9: label 'spam'"), "{message}");
    });
}

#[test]
fn an_error_of_the_split_service_and_a_cancel_end_all_waits() {
    run(async {
        let next: NextSplit = Box::new(|| Box::pin(async { Err(Error::cluster("the master is gone")) }));
        let reader = start(options(), schema(), next);
        assert_eq!(reader.block(0).await.unwrap_err().message, "the master is gone");

        let next: NextSplit = Box::new(|| Box::pin(std::future::pending()));
        let reader = Arc::new(start(options(), schema(), next));
        let wait = tokio::spawn({
            let reader = reader.clone();
            async move { reader.block(0).await }
        });
        reader.cancel(Error::cancelled());
        assert_eq!(wait.await.unwrap().unwrap_err(), Error::cancelled());
    });
}

#[test]
fn totals_say_what_was_read_and_how_much_of_it_was_local() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    run(async {
        let reader = start(options(), schema(), from_list(splits(&path, &[3000, 6000])));
        let done = reader.done().await.unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        assert_eq!((done.splits, done.bytes, done.local_bytes), (3, len, len));
        assert_eq!((done.facts.rows, done.facts.features, done.facts.nonzeros), (1000, 1000, 1000));
        assert_eq!((done.facts.positives, done.spilled_bytes), (334, 0));
        // Labels, row starts and indices; ones take no values.
        let blocks = reader.blocks().await.unwrap() as u64;
        assert_eq!(done.cached_bytes, 4 * (3 * 1000 + blocks));
        assert_eq!(reader.block(blocks as usize).await.unwrap(), None);

        let empty = start(options(), schema(), from_list(vec![]));
        assert_eq!((empty.blocks().await.unwrap(), empty.block(0).await.unwrap()), (0, None));
        assert_eq!(*empty.key_map().await.unwrap(), KeyMap::Identity(0));
    });
}

#[test]
fn the_same_splits_give_the_same_bits() {
    let shape = Shape { features: 3000, nonzeros: 40, ..Shape::new(Kind::Webspam, 2000) };
    let mut text = Vec::new();
    Generator::new(shape).unwrap().write(0..shape.rows, &mut text).unwrap();
    let (_folder, path) = file("rows", &text);
    let once = |parsers| {
        run(async {
            let reader =
                start(Options { parsers, ..options() }, schema(), from_list(splits(&path, &[100_000, 200_001])));
            let rows = rows(&reader).await.unwrap();
            (rows, reader.done().await.unwrap().facts)
        })
    };
    let (rows, facts) = once(1);
    for parsers in [2, 4] {
        let (again, facts_again) = once(parsers);
        assert_eq!(rows, again);
        assert_eq!(facts.sum_norm2.to_bits(), facts_again.sum_norm2.to_bits());
    }
}

/// Rows whose features are the squares.
fn squares() -> String {
    (1..2000u64).map(|i| format!("+1 {}:1 {}:0.5\n", i * i, (i + 1) * (i + 1))).collect()
}

#[test]
fn the_key_map_renumbers_rows_in_memory_and_on_disk() {
    let (_folder, path) = file("rows", squares().as_bytes());
    let spill = tempfile::tempdir().unwrap();
    run(async {
        for cache_memory in [u64::MAX, 10_000, 0] {
            let options = Options { room: CacheRoom::of(cache_memory), spill: spill.path().to_owned(), ..options() };
            let reader = start(options, schema(), from_list(splits(&path, &[7000])));
            // A block that is held keeps its features.
            let held = reader.block(0).await.unwrap().unwrap();
            let plain = rows(&reader).await.unwrap();
            assert_eq!(plain[2].1, [8, 15]);
            let map = reader.key_map().await.unwrap();
            let features: Vec<u32> = (1..=2000u32).map(|i| i * i - 1).collect();
            assert_eq!(*map, KeyMap::Sorted(features.into()));
            assert_eq!(held.row(2).indices, [8, 15]);
            for (i, (row, local)) in plain.iter().zip(rows(&reader).await.unwrap()).enumerate() {
                assert_eq!(local.1, [i as u32, i as u32 + 1]);
                assert_eq!((row.0, &row.2), (local.0, &local.2));
            }
            let done = reader.done().await.unwrap();
            assert!(done.cached_bytes <= cache_memory);
            assert_eq!(done.spilled_bytes > 0, cache_memory < u64::MAX);
            assert!(Arc::ptr_eq(&map, &reader.key_map().await.unwrap()));
        }
    });
    assert_eq!(std::fs::read_dir(spill.path()).unwrap().count(), 0);
}

#[test]
fn rows_that_use_most_features_keep_them() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    run(async {
        let reader = start(options(), schema(), from_list(splits(&path, &[])));
        assert_eq!(*reader.key_map().await.unwrap(), KeyMap::Identity(1000));
        assert_numbered(&rows(&reader).await.unwrap(), 1000);
    });
}

#[test]
fn a_spill_folder_that_cant_be_used_fails_the_reading() {
    let (_folder, path) = file("rows", numbered(1000).as_bytes());
    let options = Options { room: CacheRoom::of(0), spill: Path::new("/proc/none").into(), ..options() };
    let message = read(options, splits(&path, &[])).unwrap_err().message;
    assert!(message.starts_with("the row cache in /proc/none: "), "{message}");
}

#[test]
fn the_ring_lends_no_more_than_its_buffers() {
    run(async {
        let options = options();
        let store = Arc::new(Store::new(schema(), &options));
        let mut ring = parsers::start(&options, &schema(), &store).unwrap();
        let mut lent = Vec::new();
        for _ in 0..options.parsers + SPARE_BUFFERS {
            lent.push(ring.take().await.unwrap());
        }
        assert!(futures::FutureExt::now_or_never(ring.take()).is_none());
        // A chunk that fails gives its buffer back all the same.
        let (bytes, kind) = (b"spam\n".repeat(10), parsers::Kind::Lines(None));
        ring.give(parsers::Chunk { number: 0, bytes, path: "rows".into(), offset: 0, kind }).unwrap();
        ring.take().await.unwrap();
        assert!(store.failed());
    });
}

/// A dataset file of a block for each text, and where the blocks end.
fn dataset(texts: &[String]) -> (TempDir, String, Vec<u64>) {
    let mut bytes = Vec::new();
    let mut writer = flexps_common::data::dataset::Writer::new(&mut bytes, 1).unwrap();
    let mut parser = libsvm::Parser::new(Schema { labels: Labels::numbers(), ..schema() });
    for text in texts {
        let place = libsvm::Place { path: "", offset: 0, line: None };
        writer.block(&parser.parse(text.as_bytes(), &place).unwrap().block).unwrap();
    }
    let edges = writer.finish().unwrap().0.edges;
    let (folder, path) = file("rows", &bytes);
    (folder, path, edges)
}

#[test]
fn blocks_of_a_dataset_file_come_in_order_whatever_the_splits() {
    let text = numbered(3000);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (_folder, path, edges) = dataset(&lines.chunks(500).map(|part| part.concat()).collect::<Vec<_>>());
    for cuts in [vec![0, 6], vec![0, 1, 6], vec![0, 2, 3, 5, 6]] {
        let cuts: Vec<u64> = cuts.into_iter().map(|i| edges[i]).collect();
        let mut splits = splits(&path, &cuts);
        splits.remove(0);
        splits.pop();
        splits.iter_mut().for_each(|split| split.form = Form::Dataset);
        assert_numbered(&read(options(), splits).unwrap(), 3000);
    }
}

#[test]
fn a_split_that_does_not_start_with_a_block_is_an_error() {
    let (_folder, path, edges) = dataset(&[numbered(100)]);
    let mut splits = splits(&path, &[edges[0] + 4, edges[1]]);
    splits[1].form = Form::Dataset;
    let error = read(options(), vec![splits.remove(1)]).unwrap_err();
    assert!(error.message.contains("rows, block at byte 20: its length is wrong"), "{error}");
    assert_eq!(error.exit_code(), 2);
}
