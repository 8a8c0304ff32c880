//! Records: written, read back, cut off, played again.

use super::*;
use crate::scheduler::policy;
use crate::simulate::{bounds, measure, simulate};
use std::time::Duration;

fn begin() -> Record {
    Record::Begin { format: FORMAT, policy: "greedy".into(), unix_ms: 1 }
}

/// Two jobs on two slaves of two slots: the second waits for the first's wide stage.
fn records() -> Vec<Record> {
    let job = |at, id, priority| Record::Job {
        at,
        job: JobId(id),
        name: "lr".into(),
        scheduling: Scheduling { priority, ..Scheduling::default() },
    };
    let slave = |id| Record::Slave { at: 0.0, slave: SlaveId(id), name: format!("h{id}"), slots: 2 };
    let run = |id, epoch, ready, start, end, threads: [u32; 2]| Record::Run {
        job: JobId(id),
        stage: "pass".into(),
        epoch,
        ready,
        start,
        end,
        workers: (1..).map(SlaveId).zip(threads).filter(|w| w.1 > 0).collect(),
        lead: 0.0,
    };
    let end = |at, id| Record::End { at, job: JobId(id), state: State::Done, error: None };
    vec![
        begin(),
        slave(3),
        slave(1),
        slave(2),
        Record::Gone { at: 0.5, slave: SlaveId(3) },
        job(1.0, 1, 0),
        job(1.5, 2, 0),
        run(1, 1, 1.0, 1.0, 3.0, [2, 2]),
        run(2, 1, 1.5, 3.0, 4.0, [1, 0]),
        run(1, 2, 3.5, 3.5, 6.0, [1, 1]),
        end(4.25, 2),
        end(6.0, 1),
    ]
}

#[test]
fn what_was_written_is_read_back_and_a_torn_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let (mut log, before) = Log::open(Some(&path)).unwrap();
    assert_eq!(before, []);
    records().iter().for_each(|r| log.push(r));
    log.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(read("h", &text).unwrap(), (records(), None));
    let (lines, next) = log.page(0);
    assert_eq!((lines.len(), next), (records().len(), 7));
    assert_eq!(log.page(5).0, text.lines().skip(10).map(ToOwned::to_owned).collect::<Vec<_>>());
    assert_eq!(log.page(7), (Vec::new(), 7));
    let (some, cut) = read("h", &text[..text.len() - 5]).unwrap();
    assert_eq!(some, records()[..records().len() - 1]);
    assert_eq!(
        cut.unwrap(),
        format!("h is cut off in line {0}; the {1} records before count", records().len(), records().len() - 1)
    );
    let torn = text.replacen("\"what\":\"job\"", "\"what\":\"jo", 1);
    assert!(read("h", &torn).unwrap_err().message.starts_with("h:6:"));
    assert!(read("h", "").unwrap_err().message.contains("is no history"));
    let other = text.replacen("\"format\":1", "\"format\":9", 1);
    assert_eq!(read("h", &other).unwrap_err().message, "h has format 9, this build reads 1");
}

#[test]
fn a_replay_under_the_same_policy_repeats_what_was_recorded() {
    let records = records();
    let names = [(JobId(2), "second".to_owned())].into();
    let live = trace(&records, &names, |_| true);
    assert_eq!(live.jobs.iter().map(|j| j.name.as_str()).collect::<Vec<_>>(), ["lr j1", "second"]);
    let (workload, cluster) = workload("w", &records, &names, |_| true);
    assert_eq!(cluster.slots, [2, 2]);
    let replayed = simulate(&workload, &cluster, &*policy("greedy").unwrap(), 1).unwrap();
    let order = |t: &crate::simulate::Trace| t.runs.iter().map(|r| (r.job, r.start, r.end)).collect::<Vec<_>>();
    assert_eq!(order(&live), order(&replayed));
    let bounds = bounds(&workload, &cluster, 1);
    assert_eq!(bounds.alone, [Duration::from_secs(5), Duration::from_secs(1)]);
    assert_eq!(measure(&live, &bounds).worst_wait, 1.5);
}

#[test]
fn the_next_master_learns_what_the_last_one_recorded_and_ends_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let mut log = Log::open(Some(&path)).unwrap().0;
    // Without the last record, the end of j1.
    let left = &records()[..records().len() - 1];
    left.iter().for_each(|r| log.push(r));
    log.flush();
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"what\":")).unwrap();
    let (_, read) = Log::open(Some(&path)).unwrap();
    assert_eq!((read.as_slice(), std::fs::read_to_string(&path).unwrap()), (left, whole));
    // The first master began in millisecond 1.
    let past = Past::of(&read, 10_001, 200);
    assert_eq!((past.jobs, past.slaves, past.now), (2, 3, Duration::from_secs(10)));
    let ended: Vec<_> = past.ended.iter().map(|job| (job.id, job.report.state, job.report.stages.len())).collect();
    assert_eq!(ended, [(JobId(1), State::Failed, 2), (JobId(2), State::Done, 1)]);
    let gone = |slave| Record::Gone { at: 10.0, slave: SlaveId(slave) };
    assert!(matches!(&past.missing[0], Record::End { at: 10.0, job: JobId(1), state: State::Failed, .. }));
    assert_eq!(past.missing[1..], [gone(1), gone(2)]);
    assert_eq!(past.runs.len(), 3);
    // A clock that was set back does not make time fall; of many jobs the newest are kept.
    assert_eq!(Past::of(&read, 0, 200).now, Duration::from_secs_f64(6.0));
    assert_eq!(Past::of(&read, 0, 1).ended.iter().map(|job| job.id).collect::<Vec<_>>(), [JobId(2)]);
}

#[test]
fn what_is_kept_in_memory_is_bounded_and_is_the_newest() {
    let mut log = Log::default();
    log.push(&begin());
    let end = |job| Record::End { at: job as f64, job: JobId(job), state: State::Done, error: Some("x".repeat(1000)) };
    let count = 40_000;
    (0..count).for_each(|job| log.push(&end(job)));
    assert_eq!(log.next(), count);
    let (mut kept, mut from) = (Vec::new(), 1);
    loop {
        let (lines, next) = log.page(from);
        if next == from {
            break;
        }
        (kept, from) = ([kept, lines].concat(), next);
    }
    let bytes: usize = kept.iter().map(String::len).sum();
    assert!((15 << 20..=16 << 20).contains(&bytes), "{bytes} bytes");
    assert_eq!(serde_json::from_str::<Record>(kept.last().unwrap()).unwrap(), end(count - 1));
}
