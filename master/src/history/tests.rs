//! Records: written, read back, cut off, played again.

mod lives;
mod played;
mod queued;

use super::*;
use crate::scheduler::{Want, policy};
use crate::simulate::{bounds, measure, simulate};
use flexps_common::error::Fault;
use std::collections::BTreeMap;
use std::time::Duration;

fn begin() -> Record {
    Record::Begin { format: FORMAT, policy: "greedy".into(), unix_ms: 1, shares: BTreeMap::new() }
}

/// A slave of two slots and 8 GiB.
fn slave(id: u32) -> Record {
    Record::Slave { at: 0.0, slave: SlaveId(id), name: format!("h{id}"), slots: 2, memory: Some(8 << 30) }
}

/// The log in a file, and what stood there.
fn opened(path: &std::path::Path) -> flexps_common::Result<(Log, Vec<Record>)> {
    let mut records = Vec::new();
    let log = Log::open(Some(path), |record| records.push(record))?;
    Ok((log, records))
}

fn past(records: &[Record], unix_ms: u64, keep: usize) -> Past {
    let mut told = Telling::new(keep);
    records.iter().cloned().for_each(|record| told.take(record));
    told.end(unix_ms)
}

/// Two jobs on two slaves of two slots: the second waits for the first's wide stage.
fn records() -> Vec<Record> {
    let job = |at, id, priority| Record::Job {
        at,
        job: JobId(id),
        name: "lr".into(),
        scheduling: Scheduling { priority, ..Scheduling::default() },
        token: None,
        detached: None,
    };
    let run = |id, epoch, ready, start, end, threads: [u32; 2]| Record::Run {
        job: JobId(id),
        run: StageRun(epoch),
        after: Some((1..epoch).map(StageRun).collect()),
        stage: "pass".into(),
        epoch,
        ready,
        start,
        end,
        workers: (1..).map(SlaveId).zip(threads).filter(|w| w.1 > 0).collect(),
        lead: 0.0,
        ends: Vec::new(),
        want: None,
        memory: 0,
        bound: false,
        cut: false,
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
    let (mut log, before) = opened(&path).unwrap();
    assert_eq!(before, []);
    records().iter().for_each(|r| log.push(r));
    log.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(read("h", text.as_bytes()).unwrap(), (records(), None));
    let all = log.page(0);
    assert_eq!((all.lines.len(), all.first, all.next), (records().len(), 0, 7));
    assert_eq!(log.page(5).lines, text.lines().skip(10).map(Box::from).collect::<Vec<Box<str>>>());
    assert_eq!(log.page(7), Page { first: 0, next: 7, end: 7, lines: Vec::new() });
    let (some, cut) = read("h", &text.as_bytes()[..text.len() - 5]).unwrap();
    assert_eq!(some, records()[..records().len() - 1]);
    assert_eq!(
        cut.unwrap(),
        format!("h is cut off in line {0}; the {1} records before count", records().len(), records().len() - 1)
    );
    let torn = text.replacen("\"what\":\"job\"", "\"what\":\"jo", 1);
    assert!(read("h", torn.as_bytes()).unwrap_err().message.starts_with("h:6:"));
    assert!(read("h", &b""[..]).unwrap_err().message.contains("is no history"));
    let other = text.replacen("\"format\":1", "\"format\":9", 1);
    assert_eq!(read("h", other.as_bytes()).unwrap_err().message, "h has format 9, this build reads 1");
}

#[test]
fn a_history_cut_off_within_a_character_is_read_up_to_its_last_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let slave = |name: &str| Record::Slave { at: 0.0, slave: SlaveId(1), name: name.into(), slots: 1, memory: None };
    let whole = [begin(), slave("h1")];
    let lines = |records: &[Record]| -> String {
        records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect()
    };
    let (kept, last) = (lines(&whole), lines(&[slave("h\u{fc}")]));
    let cut = [kept.as_bytes(), &last.as_bytes()[..=last.find('\u{fc}').unwrap()]].concat();
    assert!(std::str::from_utf8(&cut).is_err(), "the cut is not within the character");
    let (records, remark) = read("h", &*cut).unwrap();
    assert_eq!(
        (records.as_slice(), remark.as_deref()),
        (&whole[..], Some("h is cut off in line 3; the 2 records before count"))
    );
    std::fs::write(&path, &cut).unwrap();
    assert_eq!(opened(&path).unwrap().1, whole);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kept, "what was cut off is still there");
    let error = read("h", &b"\xff{}\n"[..]).unwrap_err();
    assert!(error.exit_code() == 2 && error.message.starts_with("h is no text at byte 0"), "{error}");
}

#[test]
fn a_file_that_is_no_history_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    for content in ["what I must not lose", "{\"what\":\"job\"", "\u{fc}", "two\nlines"] {
        std::fs::write(&path, content).unwrap();
        let error = opened(&path).err().unwrap();
        assert!(error.exit_code() == 2 && error.message.contains("--history"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    // A master that was killed at its first record.
    for begun in ["", "{\"wh", "{\"what\":\"begin\",\"form"] {
        std::fs::write(&path, begun).unwrap();
        assert_eq!(opened(&path).unwrap().1, []);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
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
    assert_eq!(bounds.alone, [Duration::from_secs(5), Duration::from_millis(1250)]);
    assert_eq!(measure(&live, &bounds).worst_wait, 1.5);
}

#[test]
fn a_replay_opens_and_closes_jobs_and_frees_slots_as_it_was_recorded() {
    let job = |at, id, after: &[u64]| Record::Job {
        at,
        job: JobId(id),
        name: "lr".into(),
        scheduling: Scheduling { after: after.iter().copied().map(JobId).collect(), ..Scheduling::default() },
        token: None,
        detached: None,
    };
    let run =
        |(id, run, after): (_, _, &[u64]), stage: &str, times: [f64; 4], workers: &[(u32, u32)], ends: &[f64], want| {
            let (run, after) = (StageRun(run), Some(after.iter().copied().map(StageRun).collect()));
            let [ready, lead, start, end] = times;
            let workers = workers.iter().map(|(id, n)| (SlaveId(*id), *n)).collect();
            let (job, stage, ends, want) = (JobId(id), stage.to_owned(), ends.to_vec(), Some(want));
            Record::Run {
                job,
                run,
                after,
                stage,
                epoch: 1,
                ready,
                start,
                end,
                workers,
                lead,
                ends,
                want,
                memory: 0,
                bound: false,
                cut: false,
            }
        };
    let end = |at, id| Record::End { at, job: JobId(id), state: State::Done, error: None };
    let records = vec![
        begin(),
        slave(1),
        slave(2),
        job(1.0, 1, &[]),
        job(1.25, 2, &[]),
        job(1.25, 3, &[1]),
        // It keeps its turn while it is opened: the second job, which takes all slots, is opened behind it.
        run((1, 1, &[]), "own", [1.0, 0.75, 1.75, 3.25], &[(1, 2)], &[], Want::OneSlave(2)),
        run((2, 1, &[]), "wide", [1.25, 0.25, 3.5, 5.5], &[(1, 2), (2, 2)], &[5.5, 4.5], Want::All),
        // Two at a time, half a second after the one before them ended, where the wide one ends first; the last as long after
        // both: so long it takes in the shards.
        run((1, 2, &[1]), "left", [3.75, 0.0, 4.5, 5.5], &[(2, 1)], &[], Want::Spread { threads: 1, each: 0 }),
        run((1, 3, &[1]), "right", [3.75, 0.0, 4.5, 6.5], &[(2, 1)], &[], Want::Spread { threads: 1, each: 0 }),
        run((1, 4, &[2, 3]), "last", [7.0, 0.0, 7.0, 7.5], &[(1, 1), (2, 1)], &[], Want::PerSlave(1)),
        end(8.0, 2),
        // It saves its model, then the one that is to run after it begins.
        end(8.5, 1),
        run((3, 1, &[]), "own", [8.5, 0.5, 9.0, 9.5], &[(1, 1)], &[], Want::OneSlave(1)),
        end(10.0, 3),
    ];
    let live = trace(&records, &BTreeMap::new(), |_| true);
    let (workload, cluster) = workload("w", &records, &BTreeMap::new(), |_| true);
    let after = |job: usize| workload.jobs[job].stages.iter().map(|s| s.after.as_slice()).collect::<Vec<_>>();
    assert_eq!(after(0), [&[][..], &[0], &[0], &[1, 2]]);
    for name in ["greedy", "prioritized", "backfill", "fair"] {
        let replayed = simulate(&workload, &cluster, &*policy(name).unwrap(), 1).unwrap();
        let times = |t: &crate::simulate::Trace| {
            let mut times: Vec<_> = t.runs.iter().map(|r| (r.start, r.end, r.ready, r.job, r.stage.clone())).collect();
            times.sort();
            times
        };
        assert_eq!(times(&live), times(&replayed), "{name}");
        assert_eq!(live.jobs, replayed.jobs, "{name}");
    }
    // One job at a time: the next is opened when the one before has saved its model.
    let one = simulate(&workload, &cluster, &*policy("sequential").unwrap(), 1).unwrap();
    let ends: Vec<_> = one.jobs.iter().map(|j| j.end.unwrap().as_secs_f64()).collect();
    assert_eq!(ends, [7.75, 12.5, 14.0]);
}

#[test]
fn runs_whose_memory_did_not_fit_together_are_played_one_after_the_other() {
    let played = |memory| {
        let job = |id| Record::Job {
            at: 1.0,
            job: JobId(id),
            name: "lr".into(),
            scheduling: Scheduling::default(),
            token: None,
            detached: None,
        };
        let run = |id, start| Record::Run {
            job: JobId(id),
            run: StageRun(1),
            after: Some(Vec::new()),
            stage: "s".into(),
            epoch: 1,
            ready: 1.0,
            start,
            end: start + 2.0,
            workers: vec![(SlaveId(1), 1)],
            lead: 0.0,
            ends: Vec::new(),
            want: Some(Want::OneSlave(1)),
            memory,
            bound: false,
            cut: false,
        };
        let end = |at, id| Record::End { at, job: JobId(id), state: State::Done, error: None };
        let records = vec![begin(), slave(1), job(1), job(2), run(1, 1.0), end(3.0, 1), run(2, 3.0), end(5.0, 2)];
        let text: String = records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
        assert_eq!(read("h", text.as_bytes()).unwrap(), (records, None));
        let (workload, cluster) = workload("w", &read("h", text.as_bytes()).unwrap().0, &BTreeMap::new(), |_| true);
        let trace = simulate(&workload, &cluster, &*policy("greedy").unwrap(), 1).unwrap();
        trace.runs.iter().map(|r| r.start.as_secs_f64()).collect::<Vec<_>>()
    };
    assert_eq!(played(5 << 30), [1.0, 3.0]);
    assert_eq!(played(4 << 30), [1.0, 1.0]);
}

/// A run's job, when it began, and where.
type Placed = (usize, Duration, Vec<(String, u32)>);

#[test]
fn a_job_is_played_again_on_the_slaves_that_it_had() {
    let job = |id, slaves: &[u32]| {
        let (job, scheduling) = (JobId(id), Scheduling::default());
        let open = Record::Open { at: 1.0, job, slaves: slaves.iter().copied().map(SlaveId).collect() };
        [Record::Job { at: 1.0, job, name: "lr".into(), scheduling, token: None, detached: None }, open]
    };
    let run = |id, run, [start, end]: [f64; 2], workers: &[(u32, u32)], want, bound| Record::Run {
        job: JobId(id),
        run: StageRun(run),
        after: Some((1..run).map(StageRun).collect()),
        stage: "s".into(),
        epoch: 1,
        ready: start,
        start,
        end,
        workers: workers.iter().map(|(id, n)| (SlaveId(*id), *n)).collect(),
        lead: 0.0,
        ends: Vec::new(),
        want: Some(want),
        memory: 0,
        bound,
        cut: false,
    };
    let end = |at, id| Record::End { at, job: JobId(id), state: State::Done, error: None };
    let one = Want::Spread { threads: 1, each: 0 };
    let mut records = vec![begin(), slave(1), slave(2), slave(3), slave(4)];
    // h4 goes unused; h3 is used, goes and comes back.
    records.push(Record::Gone { at: 0.5, slave: SlaveId(4) });
    records.extend([job(1, &[2]), job(2, &[3, 2])].concat());
    records.extend([
        run(1, 1, [1.0, 3.0], &[(2, 1)], one, false),
        run(2, 1, [1.0, 4.0], &[(3, 2)], Want::OneSlave(2), false),
        run(2, 2, [4.0, 5.0], &[(3, 1), (2, 1)], Want::PerSlave(1), false),
        run(2, 3, [5.0, 6.0], &[(2, 1)], Want::OneSlave(1), true),
        end(3.0, 1),
        end(6.0, 2),
        Record::Gone { at: 7.0, slave: SlaveId(3) },
        Record::Slave { at: 8.0, slave: SlaveId(5), name: "h3".into(), slots: 2, memory: None },
    ]);
    let where_to = |t: &crate::simulate::Trace| {
        let named = |w: &(u32, u32)| (t.slaves[w.0 as usize].name.clone(), w.1);
        let mut runs: Vec<_> = t.runs.iter().map(|r| (r.job, r.start, r.workers.iter().map(named).collect())).collect();
        runs.sort();
        runs
    };
    let recorded: Vec<Placed> = where_to(&trace(&records, &BTreeMap::new(), |_| true));
    let (workload, cluster) = workload("w", &records, &BTreeMap::new(), |_| true);
    assert_eq!((cluster.names.join(" "), cluster.slots.len()), ("h1 h2 h3".to_owned(), 3));
    assert_eq!((&workload.jobs[0].slaves, &workload.jobs[1].slaves), (&vec![1], &vec![2, 1]));
    assert_eq!(
        (bounds(&workload, &cluster, 0).makespan, workload.jobs[1].stages[2].slaves.len()),
        (Duration::from_secs(5), 1)
    );
    for name in ["greedy", "prioritized", "backfill", "fair"] {
        assert_eq!(where_to(&simulate(&workload, &cluster, &*policy(name).unwrap(), 1).unwrap()), recorded, "{name}");
    }
}

#[test]
fn of_a_job_whose_plan_began_anew_what_ran_since_counts() {
    let (job, scheduling) = (JobId(1), Scheduling::default());
    let open = |at, slaves: &[u32]| Record::Open { at, job, slaves: slaves.iter().copied().map(SlaveId).collect() };
    let run = |run, times: [f64; 3], lead, workers: &[u32]| Record::Run {
        job,
        run: StageRun(run),
        after: Some(if run % 2 == 0 { vec![StageRun(run - 1)] } else { Vec::new() }),
        stage: "s".into(),
        epoch: 1,
        ready: times[0],
        start: times[1],
        end: times[2],
        workers: workers.iter().map(|id| (SlaveId(*id), 1)).collect(),
        lead,
        ends: Vec::new(),
        want: Some(Want::PerSlave(1)),
        memory: 0,
        bound: false,
        cut: false,
    };
    let mut records = vec![
        begin(),
        slave(1),
        slave(2),
        Record::Job { at: 1.0, job, name: "lr".into(), scheduling, token: None, detached: None },
    ];
    records.extend([
        open(1.0, &[1, 2]),
        run(1, [1.0, 1.25, 1.5], 0.25, &[1, 2]),
        run(2, [1.5, 1.5, 2.0], 0.0, &[1, 2]),
        Record::Gone { at: 2.0, slave: SlaveId(2) },
        open(2.0, &[1]),
        run(3, [1.0, 2.5, 4.0], 1.5, &[1]),
        run(4, [4.0, 4.0, 5.0], 0.0, &[1]),
        Record::End { at: 5.0, job, state: State::Done, error: None },
    ]);
    let recorded = trace(&records, &BTreeMap::new(), |_| true);
    let times = |t: &crate::simulate::Trace| t.runs.iter().map(|r| [r.ready, r.start, r.end]).collect::<Vec<_>>();
    let at = |ms: [u64; 3]| ms.map(Duration::from_millis);
    assert_eq!(times(&recorded), [at([1000, 2500, 4000]), at([4000, 4000, 5000])]);
    let (workload, cluster) = workload("w", &records, &BTreeMap::new(), |_| true);
    assert_eq!((cluster.names.join(" "), workload.jobs[0].stages.len()), ("h1".to_owned(), 2));
    let replayed = simulate(&workload, &cluster, &*policy("greedy").unwrap(), 1).unwrap();
    assert_eq!((times(&replayed), replayed.jobs), (times(&recorded), recorded.jobs));
    let past = past(&records, 10_000, 200);
    let lasted: Vec<_> = past.ended[0].report.stages.iter().map(|run| (run.threads, run.seconds)).collect();
    assert_eq!(lasted, [(1, 1.5), (1, 1.0)]);
}

#[test]
fn the_next_master_learns_what_the_last_one_recorded_and_ends_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let mut log = opened(&path).unwrap().0;
    // Without the last record, the end of j1.
    let left = &records()[..records().len() - 1];
    left.iter().for_each(|r| log.push(r));
    log.flush();
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"what\":")).unwrap();
    let error = opened(&path).err().unwrap();
    assert!(error.exit_code() == 2 && error.message.contains("another master writes it"), "{error}");
    drop(log);
    let (_, read) = opened(&path).unwrap();
    assert_eq!((read.as_slice(), std::fs::read_to_string(&path).unwrap()), (left, whole));
    // The first master began in millisecond 1.
    let of = |unix_ms, keep| past(&read, unix_ms, keep);
    let learnt = of(10_001, 200);
    assert_eq!((learnt.jobs, learnt.slaves, learnt.now), (2, 3, Duration::from_secs(10)));
    let ended: Vec<_> = learnt.ended.iter().map(|job| (job.id, job.report.state, job.report.stages.len())).collect();
    assert_eq!(ended, [(JobId(1), State::Failed, 2), (JobId(2), State::Done, 1)]);
    let gone = |slave| Record::Gone { at: 10.0, slave: SlaveId(slave) };
    assert!(matches!(&learnt.missing[0], Record::End { at: 6.0, job: JobId(1), state: State::Failed, .. }));
    assert_eq!(learnt.missing[1..], [gone(1), gone(2)]);
    assert!(learnt.estimates.of("lr", "pass", 2).is_some());
    assert_eq!(learnt.ended[0].report.seconds, 5.0, "nobody knows of more");
    // A clock that was set back does not make time fall.
    assert_eq!(of(0, 200).now, Duration::from_secs_f64(6.0));
    // Of many jobs those are kept that ended last, however early they began.
    assert_eq!(past(&records(), 0, 1).ended.iter().map(|job| job.id).collect::<Vec<_>>(), [JobId(1)]);
}

#[test]
fn the_end_of_a_job_of_an_earlier_master_is_whose_fault_it_was() {
    let end = |id, state| Record::End { at: 7.0, job: JobId(id), state, error: Some("why".into()) };
    let all = [records(), vec![end(1, State::Cancelled), end(2, State::Failed)]].concat();
    let faults = past(&all, 10_000, 200).ended.into_iter().map(|job| job.report.error.unwrap().fault);
    assert_eq!(faults.collect::<Vec<_>>(), [Fault::Cancelled, Fault::Cluster]);
}

#[test]
fn the_last_records_are_the_newest_however_many_are_asked_for() {
    let mut log = Log::default();
    let end = |job| Record::End { at: 1.0, job: JobId(job), state: State::Done, error: Some("x".repeat(1000)) };
    (0..2000).for_each(|job| log.push(&end(job)));
    let last = |count| log.page(log.number(Start::Last(count)));
    for (asked, given) in [(0, 0..=0), (3, 3..=3), (1500, 450..=520), (u64::MAX, 450..=520)] {
        let Page { lines, next, .. } = last(asked);
        assert!(given.contains(&lines.len()) && next == 2000, "{} of {asked}, then {next}", lines.len());
        let newest = lines.last().map(|line| serde_json::from_str::<Record>(line).unwrap());
        assert_eq!(newest, (asked > 0).then(|| end(1999)));
    }
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
        let page = log.page(from);
        assert_eq!(page.end, count);
        if page.next == from {
            break;
        }
        (kept, from) = ([kept, page.lines].concat(), page.next);
    }
    // Whoever reads it learns what is missing.
    assert_eq!(log.page(1).first, count - kept.len() as u64);
    let bytes: usize = kept.iter().map(|line| line.len()).sum();
    assert!((15 << 20..=16 << 20).contains(&bytes), "{bytes} bytes");
    assert_eq!(serde_json::from_str::<Record>(kept.last().unwrap()).unwrap(), end(count - 1));
}
