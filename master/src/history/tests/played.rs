//! What a replay takes from the records beside the runs: their order, the slaves, shares, and what was known before.

use super::*;
use crate::simulate::{SlaveTrace, Trace};

fn job(at: f64, id: u64) -> Record {
    Record::Job {
        at,
        job: JobId(id),
        name: "sleep".into(),
        scheduling: Scheduling::default(),
        token: None,
        detached: None,
    }
}

/// A run of a job that waits for none.
fn run(id: u64, (run, stage): (u64, &str), [ready, start, end]: [f64; 3], (slave, threads): (u32, u32)) -> Record {
    Record::Run {
        job: JobId(id),
        run: StageRun(run),
        after: Some(Vec::new()),
        stage: stage.into(),
        epoch: 1,
        ready,
        start,
        end,
        workers: vec![(SlaveId(slave), threads)],
        lead: 0.0,
        ends: Vec::new(),
        want: Some(Want::Spread { threads, each: 0 }),
        memory: 0,
        bound: false,
        cut: false,
    }
}

fn end(at: f64, id: u64) -> Record {
    Record::End { at, job: JobId(id), state: State::Done, error: None }
}

fn both(records: &[Record], name: &str) -> (Trace, Trace) {
    let (workload, cluster) = workload("w", records, &BTreeMap::new(), |_| true);
    let played = simulate(&workload, &cluster, &*policy(name).unwrap(), 0).unwrap();
    (trace(records, &BTreeMap::new(), |_| true), played)
}

#[test]
fn a_run_that_was_cut_short_tells_nobody_how_long_its_stage_takes() {
    let records = |short: bool| {
        let mut of_short = run(2, (1, "short"), [6.0, 6.0, 7.0], (1, 1));
        if let Record::Run { cut, .. } = &mut of_short {
            *cut = short;
        }
        vec![
            begin(),
            slave(1),
            job(1.0, 1),
            run(1, (1, "long"), [1.0, 1.0, 6.0], (1, 1)),
            end(6.0, 1),
            job(6.0, 2),
            of_short,
            end(7.0, 2),
            job(7.0, 3),
            run(3, (1, "long"), [7.0, 7.0, 12.0], (1, 1)),
            end(12.0, 3),
            job(8.0, 4),
            run(4, (1, "wide"), [8.0, 12.0, 13.0], (1, 2)),
            end(13.0, 4),
            job(9.0, 5),
            run(5, (1, "short"), [9.0, 13.0, 14.0], (1, 1)),
            end(14.0, 5),
        ]
    };
    // What is known of one run is taken for half as much more.
    for (short, lasts, starts) in [(false, Some(Duration::from_millis(1500)), 9), (true, None, 13)] {
        let records = records(short);
        let text: String = records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
        let records = read("h", text.as_bytes()).unwrap().0;
        let before = &records[..8];
        assert_eq!(known(before).of("sleep", "short", 1), lasts);
        assert_eq!(past(before, 10_001, 200).estimates.of("sleep", "short", 1), lasts);
        // In the hole before the wide one is room for a second, if one knows that it is no longer.
        let (_, played) = both(&records, "backfill");
        let last = played.runs.iter().find(|run| run.job == 4).unwrap();
        assert_eq!(last.start, Duration::from_secs(starts));
    }
}

#[test]
fn stages_side_by_side_start_in_the_order_in_which_they_were_launched() {
    // Recorded in the order of their ends.
    let mut records = vec![
        begin(),
        slave(1),
        job(1.0, 1),
        run(1, (2, "right"), [1.0, 1.0, 2.0], (1, 1)),
        run(1, (3, "third"), [1.0, 2.0, 3.0], (1, 1)),
        run(1, (1, "left"), [1.0, 1.0, 5.0], (1, 1)),
        end(5.0, 1),
    ];
    let started = |trace: &Trace| {
        let mut runs: Vec<_> = trace.runs.iter().map(|r| (r.start, r.end, r.stage.clone())).collect();
        runs.sort();
        (runs, trace.jobs[0].end)
    };
    for name in ["greedy", "prioritized", "backfill", "fair", "sequential"] {
        let (recorded, played) = both(&records, name);
        assert_eq!(started(&played), started(&recorded), "{name}");
    }
    // Older builds did not number them.
    for record in &mut records {
        if let Record::Run { run, after, .. } = record {
            (*run, *after) = (StageRun(0), None);
        }
    }
    let (workload, _) = workload("w", &records, &BTreeMap::new(), |_| true);
    let stages: Vec<_> = workload.jobs[0].stages.iter().map(|s| (s.name.as_str(), s.after.as_slice())).collect();
    assert_eq!(stages, [("right", &[][..]), ("third", &[0][..]), ("left", &[1][..])]);
}

#[test]
fn a_slave_that_went_and_came_back_is_one_and_as_large_as_it_was_used() {
    let joined =
        |id, name: &str, slots| Record::Slave { at: 0.0, slave: SlaveId(id), name: name.into(), slots, memory: None };
    let gone = |id| Record::Gone { at: 0.0, slave: SlaveId(id) };
    let records = vec![
        begin(),
        // Nothing ran on these.
        joined(1, "h1", 16),
        gone(1),
        joined(2, "h2", 4),
        gone(2),
        joined(3, "h1", 4),
        job(1.0, 1),
        run(1, (1, "a"), [1.0, 1.0, 3.0], (3, 4)),
        end(3.0, 1),
        gone(3),
        joined(4, "h1", 2),
        job(4.0, 2),
        run(2, (1, "a"), [4.0, 4.0, 6.0], (4, 2)),
        end(6.0, 2),
    ];
    let (recorded, played) = both(&records, "greedy");
    assert_eq!(recorded.slaves, [SlaveTrace { name: "h1".into(), slots: 4 }]);
    assert_eq!(played.slaves, recorded.slaves);
    let placed = |trace: &Trace| trace.runs.iter().map(|r| (r.start, r.workers.clone())).collect::<Vec<_>>();
    assert_eq!(placed(&recorded).iter().map(|run| run.1[0]).collect::<Vec<_>>(), [(0, 4), (0, 2)]);
    assert_eq!(placed(&played), placed(&recorded));
}

#[test]
fn shares_weigh_in_a_replay_as_they_did_when_it_was_recorded() {
    let begin = |shares: &[(&str, f64)]| Record::Begin {
        format: FORMAT,
        policy: "fair".into(),
        unix_ms: 1,
        shares: shares.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
    };
    let records =
        [begin(&[("bob", 9.0)]), slave(1), job(1.0, 1), run(1, (1, "a"), [1.0, 1.0, 2.0], (1, 1)), end(2.0, 1)];
    let text: String = records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
    let records = read("h", text.as_bytes()).unwrap().0;
    let weights = workload("w", &records, &BTreeMap::new(), |_| true).1.weights;
    assert_eq!(weights.into_iter().collect::<Vec<_>>(), [("bob".to_owned(), 9.0)]);
    // As older builds wrote it.
    let old: Record = serde_json::from_str(r#"{"what":"begin","format":1,"policy":"fair","unix_ms":1}"#).unwrap();
    assert_eq!(old, begin(&[]));
}

#[test]
fn what_earlier_masters_recorded_is_known() {
    let known = known(&records());
    let of = |job, stage| known.of(job, stage, 2);
    assert_eq!(of("lr", "pass"), past(&records(), 0, 200).estimates.of("lr", "pass", 2));
    assert!(of("lr", "pass").is_some() && of("lr", "other").is_none());
}
