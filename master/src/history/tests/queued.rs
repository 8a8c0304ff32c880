//! Jobs that a later master queues again.

use super::*;
use flexps_common::Error;

#[test]
fn a_job_that_nobody_waits_for_is_to_be_queued_again_as_it_was_submitted() {
    let submission = Submission {
        scheduling: Scheduling { priority: 3, after: vec![JobId(1)], ..Scheduling::default() },
        name: "lr".to_owned(),
        params: r#"{"epochs":5}"#.to_owned(),
        plan_hash: u64::MAX,
        reproducible: true,
        token: Some(u64::MAX - 1),
        experiment: Experiment { fixed_threads: Some(3), ..Experiment::default() },
        detached: true,
    };
    let job = |id, at, detached| {
        Record::of(JobId(id), &Submission { detached, ..submission.clone() }, Duration::from_secs(at))
    };
    let end = |id, at| Record::End { at, job: JobId(id), state: State::Done, error: None };
    let first = Submission { scheduling: Scheduling::default(), ..submission.clone() };
    let first = Record::of(JobId(1), &first, Duration::from_secs(1));
    let records = [
        begin(),
        slave(1),
        slave(2),
        first,
        end(1, 2.0),
        job(2, 3, true),
        job(3, 4, false),
        job(4, 5, true),
        end(4, 6.0),
    ];
    // As a file holds them.
    let mut records: Vec<Record> =
        records.iter().map(|r| serde_json::from_str(&serde_json::to_string(r).unwrap()).unwrap()).collect();
    // What one waits for is known however old it is.
    let past = past(&records, 10_001, 1);
    let [found] = &past.waiting[..] else { panic!("{}", past.waiting.len()) };
    assert_eq!((found.id, found.submission(), found.submitted), (JobId(2), submission.clone(), Duration::from_secs(3)));
    assert_eq!(past.away.iter().collect::<Vec<_>>(), ["h1", "h2"]);
    assert!(past.ended.iter().any(|job| job.id == JobId(1)));
    assert!(past.ended.iter().all(|job| job.id != JobId(2)));
    // One that was followed is told from others as well.
    let followed = past.ended.iter().find(|job| job.id == JobId(3)).unwrap();
    assert_eq!([submission.token, Some(7), None].map(|token| followed.is_of(token)), [true, false, true]);
    // The next master tells of it once more, and has no luck either.
    records.extend([begin(), slave(3), job(2, 20, true)]);
    let past = self::past(&records, 30_001, 200);
    assert_eq!(
        past.waiting.iter().map(|w| (w.id, w.submitted)).collect::<Vec<_>>(),
        [(JobId(2), Duration::from_secs(3))]
    );
    records.push(end(2, 25.0));
    assert!(self::past(&records, 30_001, 200).waiting.is_empty());
}

#[test]
fn the_token_of_a_job_that_an_older_build_recorded_is_known_if_it_was_to_be_queued_again() {
    let kept = r#"{"params":"{}","plan_hash":1,"reproducible":false,"token":5,"experiment":EXPERIMENT}"#;
    let kept = kept.replace("EXPERIMENT", &serde_json::to_string(&Experiment::default()).unwrap());
    let token = |detached: &str| {
        let scheduling = serde_json::to_string(&Scheduling::default()).unwrap();
        let job = format!(r#"{{"what":"job","at":1.0,"job":1,"name":"lr","scheduling":{scheduling}{detached}}}"#);
        let past = past(&[begin(), serde_json::from_str(&job).unwrap()], 10_001, 200);
        past.waiting.iter().chain(&past.ended).map(|job| job.token).collect::<Vec<_>>()
    };
    assert_eq!([token(&format!(r#","detached":{kept}"#)), token("")], [vec![Some(5)], vec![None]]);
}

#[test]
fn a_job_that_somebody_had_end_is_not_queued_again_and_was_cancelled() {
    let submission = Submission { detached: true, ..Submission::bare("lr") };
    let job = |id| Record::of(JobId(id), &submission, Duration::from_secs(1));
    let records = [begin(), job(1), job(2), Record::Cancel { at: 2.0, job: JobId(1) }];
    let text: String = records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
    let past = past(&read("h", text.as_bytes()).unwrap().0, 10_001, 200);
    assert_eq!(past.waiting.iter().map(|job| job.id).collect::<Vec<_>>(), [JobId(2)]);
    let [ended] = &past.ended[..] else { panic!("{}", past.ended.len()) };
    assert_eq!((ended.report.state, ended.report.error.as_ref()), (State::Cancelled, Some(&Error::cancelled())));
    let told = Record::End { at: 2.0, job: JobId(1), state: State::Cancelled, error: Some("cancelled".to_owned()) };
    assert_eq!(past.missing, [told]);
}

#[test]
fn of_a_job_that_was_queued_again_what_came_since_counts() {
    let job = |at| Record::Job {
        at,
        job: JobId(1),
        name: "lr".into(),
        scheduling: Scheduling::default(),
        token: None,
        detached: None,
    };
    let slave = |id, at| Record::Slave { at, slave: SlaveId(id), name: "h1".to_owned(), slots: 2, memory: None };
    let open = |at, id| Record::Open { at, job: JobId(1), slaves: vec![SlaveId(id)] };
    let run = |run, [start, end]: [f64; 2], id| Record::Run {
        job: JobId(1),
        run: StageRun(run),
        after: Some((1..run).map(StageRun).collect()),
        stage: "pass".into(),
        epoch: run,
        ready: start,
        start,
        end,
        workers: vec![(SlaveId(id), 2)],
        lead: 0.0,
        ends: Vec::new(),
        want: None,
        memory: 0,
        bound: false,
        cut: false,
    };
    let records = [
        begin(),
        slave(1, 0.5),
        job(1.0),
        open(1.0, 1),
        run(1, [1.0, 3.0], 1),
        Record::Gone { at: 9.0, slave: SlaveId(1) },
        begin(),
        job(10.0),
        slave(2, 10.5),
        open(11.0, 2),
        run(1, [11.0, 12.0], 2),
        run(2, [12.0, 13.0], 2),
        Record::End { at: 13.0, job: JobId(1), state: State::Done, error: None },
    ];
    let names = BTreeMap::new();
    let told = trace(&records, &names, |_| true);
    let [only] = &told.jobs[..] else { panic!("{:?}", told.jobs) };
    assert_eq!((only.arrival, only.end), (Duration::from_secs(10), Some(Duration::from_secs(13))));
    assert_eq!(told.runs.iter().map(|r| r.start.as_secs()).collect::<Vec<_>>(), [11, 12]);
    let (played, cluster) = workload("h", &records, &names, |_| true);
    let again = simulate(&played, &cluster, &*policy("greedy").unwrap(), 1).unwrap();
    let lasts = |trace: &crate::simulate::Trace| {
        trace.runs.iter().map(|r| (r.start - trace.jobs[0].arrival, r.end - r.start)).collect::<Vec<_>>()
    };
    assert_eq!(lasts(&again), lasts(&told));
}
