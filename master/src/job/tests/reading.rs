//! What an input turned out to hold.

use crate::assigner::{Next, Reader, Rules, Source, cut};
use crate::job::reading::{Listed, Reading};
use flexps_common::data::{Facts, Form, InputSpec, Labels, Schema, Wanted, schema::DataPath};
use flexps_common::error::Fault;
use flexps_common::ids::{InputId, SlaveId};
use flexps_common::report::ReadReport;
use flexps_common::storage::{BlockMeta, FileMeta};
use flexps_common::wire::control::ReadDone;
use std::time::Duration;

fn reading(like: bool) -> Reading {
    let spec = InputSpec {
        name: "input".to_owned(),
        paths: vec![DataPath("/f".to_owned())],
        index_base: None,
        features: None,
        labels: None,
        wanted: Wanted::Two,
        bad_rows: 1,
        like: like.then_some(InputId(0)),
    };
    let schema = Schema {
        index_base: 1,
        base_detected: true,
        features: Some(50),
        labels: Labels::two(0.0, 1.0),
        labels_detected: true,
        bad_rows: 1,
    };
    let block = BlockMeta { start: 0, end: 1 << 20, hosts: vec!["h1".to_owned()], racks: vec![] };
    let file = FileMeta { path: "/f".to_owned(), len: 1 << 20, modified: 0, blocks: vec![block] };
    let listed = Listed { sources: vec![Source { file, form: Form::Text, edges: Vec::new() }], schema };
    let readers = [1, 2].map(|id| Reader { slave: SlaveId(id), host: format!("h{id}") });
    let splits = cut(InputId(0), &listed.sources, 2);
    Reading::new(
        &spec,
        &listed,
        splits,
        readers.to_vec(),
        Rules { reproducible: true, ..Rules::default() },
        Duration::ZERO,
    )
}

fn part(rows: u64, positives: u64, bad_rows: u64) -> ReadDone {
    let facts = Facts { rows, positives, bad_rows, features: 10, sum_norm2: 0.1, ..Facts::default() };
    ReadDone { facts, bytes: 1000, local_bytes: 900, notes: vec!["slow disk".to_owned()], ..ReadDone::default() }
}

fn read(reading: &mut Reading, parts: [ReadDone; 2]) -> flexps_common::Result<Option<Facts>> {
    let [first, second] = parts;
    assert_eq!(reading.done(SlaveId(2), second, Duration::from_secs(1)).unwrap(), None);
    reading.done(SlaveId(1), first, Duration::from_secs(2))
}

#[test]
fn facts_come_when_the_last_slave_has_read() {
    let mut input = reading(false);
    while matches!(input.next(SlaveId(1), 0, Duration::ZERO), Next::Split(_)) {}
    let facts = read(&mut input, [part(3, 1, 0), part(4, 2, 1)]).unwrap().unwrap();
    assert_eq!((facts.rows, facts.positives, facts.bad_rows, facts.features), (7, 3, 1, 50));
    let mut report = ReadReport::default();
    input.report(Duration::from_secs(9), &mut report);
    assert_eq!((report.rows, report.bytes, report.local_bytes, report.seconds), (7, 2000, 1800, 2.0));
    assert_eq!(report.inputs["input"], facts);
    // The report keeps one of each.
    assert!(input.notes().eq(["slow disk"; 2]));
}

#[test]
fn features_that_occur_are_counted_over_all_slaves() {
    let occurring = |features: std::ops::Range<u32>| {
        let mut part = part(3, 1, 0);
        part.occurring.note(&features.collect::<Vec<_>>());
        part
    };
    let facts = read(&mut reading(false), [occurring(0..200_000), occurring(100_000..400_000)]).unwrap().unwrap();
    assert!((400_000..550_000).contains(&facts.occurring), "{}", facts.occurring);
    assert_eq!(read(&mut reading(false), [part(3, 1, 0), part(4, 2, 0)]).unwrap().unwrap().occurring, 0);
}

#[test]
fn an_input_without_rows_or_with_one_class_is_an_error_that_says_so() {
    let error = read(&mut reading(false), [part(0, 0, 1), part(0, 0, 0)]).unwrap_err();
    assert!(error.fault == Fault::Data && error.message.contains("no rows in --input"), "{error}");
    let error = read(&mut reading(false), [part(3, 3, 0), part(1, 1, 0)]).unwrap_err();
    assert!(error.message.contains("all 4 rows of --input have the label 1"), "{error}");
    let error = read(&mut reading(false), [part(3, 0, 0), part(1, 0, 0)]).unwrap_err();
    assert!(error.message.contains("have the label 0"), "{error}");
    assert!(read(&mut reading(true), [part(3, 0, 0), part(1, 0, 0)]).is_ok(), "a validation set may have one class");
}

#[test]
fn bad_rows_are_counted_over_all_slaves() {
    let error = read(&mut reading(false), [part(3, 1, 1), part(4, 2, 1)]).unwrap_err();
    assert!(error.message.contains("2 bad rows, at most 1"), "{error}");
}
