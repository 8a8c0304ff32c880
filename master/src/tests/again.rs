//! Slaves that go while a job reads: the others read what they had, and the plan begins anew.

use super::fake::*;
use flexps_common::Error;
use flexps_common::error::Fault;
use flexps_common::ids::{InputId, JobId, StageRun};
use flexps_common::report::{Report, State};
use flexps_common::scheduling::Scheduling;
use flexps_common::wire::control::{FromMaster, FromSlave, Outcome, ToMaster, ToSlave};
use flexps_common::wire::slaves::{Member, SlaveLine};
use std::collections::BTreeSet;
use std::time::Duration;

const INPUT: InputId = InputId(0);

/// Reads when the test does; its first workers end when they are cancelled, later ones at once.
fn reads(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Read { .. } => (Ok(FromSlave::Ok), Vec::new()),
        ToSlave::Launch(launch) if launch.run == StageRun(1) => (Ok(FromSlave::Ok), Vec::new()),
        ToSlave::CancelStage { job, run, .. } => (Ok(FromSlave::Ok), vec![ended(me, *job, *run, Error::cancelled())]),
        other => obey(me, other),
    }
}

pub fn ended(slave: Member, job: JobId, run: StageRun, error: Error) -> ToMaster {
    ToMaster::StageDone { slave, job, run, outcome: Outcome { error: Some(error), ..Outcome::default() } }
}

/// Two slaves of so many slots that have taken a split of a job with a worker on each of them.
struct Reading {
    cluster: Cluster,
    first: Fake,
    second: Fake,
    job: JobId,
    /// Splits that the first has.
    has: BTreeSet<u32>,
    _folder: tempfile::TempDir,
}

/// The same, but its workers go on when they are cancelled.
fn slow_to_stop(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::CancelStage { .. } => (Ok(FromSlave::Ok), Vec::new()),
        other => reads(me, other),
    }
}

impl Reading {
    async fn new(slots: u32) -> Self {
        Self::of(slots, reads).await
    }

    async fn of(slots: u32, script: fn(Member, &ToSlave) -> Reaction) -> Self {
        let (cluster, folder) = (Cluster::new().await, tempfile::tempdir().unwrap());
        let path = folder.path().join("long.libsvm");
        std::fs::write(&path, "+1 1:1\n-1 2:1\n".repeat(40_000)).unwrap();
        let (first, second) =
            (cluster.scripted("h1", slots, 0.5, script).await, cluster.scripted("h2", slots, 0.5, script).await);
        let input = Some(path.to_string_lossy().into_owned());
        let job = cluster.submit(Rounds { input, threads: 2, ..Rounds::default() }).await.unwrap();
        cluster.until(job, |news, _| news.reading && news.stage.is_some()).await;
        let mut this = Self { cluster, first, second, job, has: BTreeSet::new(), _folder: folder };
        let taken = this.take().await;
        this.has.extend(taken);
        assert!(matches!(this.next(this.second.me, 0).await, FromMaster::Split(Some(_))));
        this
    }

    async fn next(&self, slave: Member, read: u64) -> FromMaster {
        self.cluster.ask(ToMaster::NextSplit { slave, job: self.job, input: INPUT, time: 1, read }).await.unwrap()
    }

    /// What the first slave gets that has read what it has; none when it is told the end.
    async fn take(&self) -> Option<u32> {
        self.take_as(self.first.me, self.has.len() as u64).await
    }

    /// What a slave gets that has read so many splits.
    async fn take_as(&self, slave: Member, read: u64) -> Option<u32> {
        let got = async {
            loop {
                match self.next(slave, read).await {
                    FromMaster::Later(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    FromMaster::Split(split) => return split.map(|split| split.index),
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, got).await.unwrap()
    }

    /// The second slave is gone; the report when the job has ended or begins anew.
    async fn lose(&mut self) -> Report {
        let gone = self.cluster.slave("h3", 1).await;
        drop(std::mem::replace(&mut self.second, gone));
        let again = |report: &Report| !report.repeats.is_empty() && !report.stages.is_empty();
        self.cluster.until(self.job, |_, report| report.state.ended() || again(report)).await
    }

    /// The first slave reads all that is left, each split once, and says so; the job's end.
    async fn read_on(&mut self) -> Report {
        self.read_all().await;
        self.cluster.end(self.job).await
    }

    async fn read_all(&mut self) {
        while let Some(index) = self.take().await {
            assert!(self.has.insert(index), "split {index} is read twice");
        }
        let read = ToSlave::Read { job: self.job, input: INPUT, time: 1, schema: self.schema() };
        for message in obey(self.first.me, &read).1 {
            self.cluster.ask(message).await.unwrap();
        }
    }

    /// The second slave is gone, and the workers of the first are told to stop.
    async fn lose_while_workers_go_on(&mut self) {
        let gone = self.cluster.slave("h3", 1).await;
        drop(std::mem::replace(&mut self.second, gone));
        let told = async {
            while !self.first.saw(|message| matches!(message, ToSlave::CancelStage { .. })) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, told).await.unwrap();
    }

    /// They have stopped.
    async fn stop(&self) {
        let stopped = ended(self.first.me, self.job, StageRun(1), Error::cancelled());
        self.cluster.ask(stopped).await.unwrap();
    }

    fn schema(&self) -> flexps_common::data::Schema {
        let seen = self.first.seen.lock();
        let schema =
            seen.iter().find_map(|m| if let ToSlave::Read { schema, .. } = m { Some(schema.clone()) } else { None });
        schema.expect("it was told to read")
    }
}

#[tokio::test]
async fn what_a_slave_had_taken_is_read_by_the_other_and_the_plan_begins_anew() {
    let mut reading = Reading::new(2).await;
    let gone = reading.second.id;
    let report = reading.lose().await;
    assert_eq!(report.state, State::Running, "{report:?}");
    let report = reading.read_on().await;
    assert_eq!((report.state, report.error), (State::Done, None));
    assert_eq!(reading.has, BTreeSet::from([0, 1, 2]));
    let [repeat] = &report.repeats[..] else { panic!("{:?}", report.repeats) };
    assert_eq!((repeat.slave.as_str(), repeat.why.as_str(), repeat.splits), ("h2", "connection closed", 1));
    assert!((186_000..187_000).contains(&repeat.bytes), "{repeat:?}");
    let note = format!("slave {gone} (h2) is gone (connection closed) after");
    assert!(
        report.notes.iter().any(|said| said.starts_with(&note) && said.ends_with("began anew")),
        "{:?}",
        report.notes
    );
    assert_eq!(report.stages.iter().map(|stage| stage.slaves.join(" ")).collect::<Vec<_>>(), ["h1"]);
    let lines: Vec<SlaveLine> = reading.cluster.get("slaves").await.unwrap();
    assert!(lines.iter().all(|line| line.busy == 0), "{lines:?}");
    let seen = reading.first.seen.lock();
    let opened =
        seen.iter().filter_map(|m| if let ToSlave::Open { slaves, .. } = m { Some(slaves.len()) } else { None });
    assert_eq!(opened.collect::<Vec<_>>(), [2, 1]);
    assert_eq!(seen.iter().filter(|m| matches!(m, ToSlave::Read { .. })).count(), 1, "its reader reads on");
}

#[tokio::test]
async fn a_slave_that_died_when_it_had_read_its_part_is_read_again_though_all_was_read_before_it_was_missed() {
    let mut reading = Reading::new(2).await;
    let third = reading.take().await.unwrap();
    reading.has.insert(third);
    assert!(matches!(reading.next(reading.second.me, 1).await, FromMaster::Later(_)), "another one reads");
    reading.second.fall_silent();
    // All is read, but the second will not ask any more.
    for _ in 0..20 {
        assert!(matches!(reading.next(reading.first.me, 2).await, FromMaster::Later(_)), "rows would be lost");
    }
    let report = reading.lose().await;
    assert_eq!((report.state, report.repeats.len()), (State::Running, 1), "{report:?}");
    assert_eq!(reading.read_on().await.state, State::Done);
    assert_eq!(reading.has, BTreeSet::from([0, 1, 2]));
}

#[tokio::test]
async fn a_worker_that_missed_the_slave_before_it_was_known_to_be_gone_fails_no_job() {
    let mut reading = Reading::new(2).await;
    let broken = Error::cluster("the connection to h2 is closed").retryable();
    let done = ended(reading.first.me, reading.job, StageRun(1), broken);
    assert_eq!(reading.cluster.ask(done).await, Ok(FromMaster::Ok));
    assert_eq!(reading.lose().await.state, State::Running);
    assert_eq!(reading.read_on().await.state, State::Done);
}

#[tokio::test]
async fn a_plan_that_does_not_fit_on_the_slaves_that_are_left_fails_by_name_with_the_numbers() {
    let mut reading = Reading::new(1).await;
    let gone = reading.second.id;
    let report = reading.lose().await;
    let error = report.error.unwrap();
    let says = format!(
        "slave {gone} (h2) is gone (connection closed) in stage work, epoch 1: stage work needs 2 slots, the cluster has 1; give it \
         at most 1 threads"
    );
    assert_eq!((error.fault, error.message, report.repeats), (Fault::Cluster, says, Vec::new()));
}

#[tokio::test]
async fn a_slave_that_goes_when_the_end_was_told_fails_the_job_by_name() {
    let mut reading = Reading::new(2).await;
    let third = reading.take().await.unwrap();
    reading.has.insert(third);
    assert!(matches!(reading.next(reading.second.me, 0).await, FromMaster::Later(_)), "another one reads");
    assert!(matches!(reading.next(reading.first.me, 2).await, FromMaster::Later(_)), "another one reads");
    assert!(
        matches!(reading.next(reading.second.me, 1).await, FromMaster::Later(_)),
        "whether the first lives is not known"
    );
    assert!(matches!(reading.next(reading.first.me, 2).await, FromMaster::Split(None)));
    let report = reading.lose().await;
    assert!(report.error.unwrap().message.contains("(h2) is gone") && report.repeats.is_empty());
}

/// Opens nothing.
fn deaf(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Open { .. } => (Err(Error::cluster("the connection to h2 is closed").retryable()), Vec::new()),
        other => obey(me, other),
    }
}

#[tokio::test]
async fn a_job_whose_slave_goes_while_it_opens_it_queues_anew_for_any_slaves() {
    let cluster = Cluster::new().await;
    let dying = cluster.scripted("h2", 1, 0.5, deaf).await;
    let job = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(job, |_, report| report.state == State::Running).await;
    let other = cluster.slave("h1", 1).await;
    let gone = dying.id;
    drop(dying);
    let report = cluster.end(job).await;
    assert_eq!((report.state, report.error), (State::Done, None));
    let [repeat] = &report.repeats[..] else { panic!("{:?}", report.repeats) };
    assert_eq!((repeat.slave.as_str(), repeat.splits, repeat.bytes), ("h2", 0, 0));
    let note = format!("slave {gone} (h2) is gone (connection closed) after");
    let said = |said: &String| said.starts_with(&note) && said.ends_with("while the job was opened: it queued anew");
    assert!(report.notes.iter().any(said), "{:?}", report.notes);
    assert!(other.saw(|message| matches!(message, ToSlave::Launch(_))));
}

#[tokio::test]
async fn of_a_job_that_queues_anew_the_slaves_that_had_opened_it_close_it_first() {
    let cluster = Cluster::new().await;
    let (first, dying) = (cluster.slave("h1", 2).await, cluster.scripted("h2", 1, 0.5, deaf).await);
    let job = cluster.submit(Rounds { threads: 2, ..Rounds::default() }).await.unwrap();
    cluster.until(job, |_, report| report.state == State::Running).await;
    drop(dying);
    assert_eq!(cluster.end(job).await.state, State::Done);
    let seen = first.seen.lock();
    let order = seen.iter().filter_map(|message| match message {
        ToSlave::Open { slaves, .. } => Some(slaves.len()),
        ToSlave::Close { .. } => Some(0),
        _ => None,
    });
    assert_eq!(order.take(3).collect::<Vec<_>>(), [2, 0, 1]);
}

#[tokio::test]
async fn a_job_whose_only_slave_goes_while_it_opens_it_fails_by_name() {
    let cluster = Cluster::new().await;
    let dying = cluster.scripted("h2", 1, 0.5, deaf).await;
    let job = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(job, |_, report| report.state == State::Running).await;
    drop(dying);
    let error = cluster.end(job).await.error.unwrap();
    assert!(error.fault == Fault::Cluster && error.message.contains("(h2) is gone"), "{error}");
}

/// Its workers of every run end when they are cancelled.
pub fn never_ends(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Launch(_) => (Ok(FromSlave::Ok), Vec::new()),
        ToSlave::CancelStage { job, run, .. } => (Ok(FromSlave::Ok), vec![ended(me, *job, *run, Error::cancelled())]),
        other => obey(me, other),
    }
}

/// A job of two workers that may restart once, all of whose rows are read.
pub async fn restarting(cluster: &Cluster) -> (JobId, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.libsvm");
    std::fs::write(&path, "+1 1:1\n-1 2:1\n").unwrap();
    let model = Some(folder.path().join("model").to_string_lossy().into_owned());
    let job = Rounds { input: Some(path.to_string_lossy().into_owned()), threads: 2, model, ..Rounds::default() };
    let scheduling = Scheduling { restarts: 1, ..Scheduling::default() };
    let job = cluster.submit_scheduled(job, scheduling).await.unwrap();
    cluster.until(job, |news, report| !news.reading && news.stage.is_some() && report.read.rows > 0).await;
    (job, folder)
}

#[tokio::test]
async fn a_job_that_may_restart_starts_over_on_what_is_there_and_counts_on() {
    let cluster = Cluster::new().await;
    let (first, dying) = (cluster.slave("h1", 2).await, cluster.scripted("h2", 1, 0.5, never_ends).await);
    let (job, _folder) = restarting(&cluster).await;
    let gone = dying.id;
    drop(dying);
    let report = cluster.end(job).await;
    assert_eq!((report.state, report.error, report.stages.len()), (State::Done, None, 1));
    let (epoch, lost) = (report.epochs[0].seconds, report.repeats[0].seconds);
    assert!(epoch > lost - 0.5 && lost > 0.9, "time counts from the first start: {epoch} s, {lost} s");
    let note = format!("slave {gone} (h2) is gone (connection closed) after");
    let said =
        |said: &String| said.starts_with(&note) && said.ends_with("in stage work, epoch 1: the job started over");
    assert!(report.notes.iter().any(said), "{:?}", report.notes);
    let seen = first.seen.lock();
    // How many slaves open it, which reading and which run begins; 0 where it is closed.
    let order = seen.iter().filter_map(|message| match message {
        ToSlave::Open { slaves, .. } => Some(("open", slaves.len() as u64)),
        ToSlave::Read { time, .. } => Some(("read", u64::from(*time))),
        ToSlave::Launch(launch) => Some(("run", launch.run.0)),
        ToSlave::Close { .. } => Some(("close", 0)),
        _ => None,
    });
    let once = [("open", 2), ("read", 1), ("run", 1), ("close", 0)];
    let anew = [("open", 1), ("read", 2), ("run", 2), ("close", 0)];
    assert_eq!(order.collect::<Vec<_>>(), [once, anew].concat());
}

#[tokio::test]
async fn what_comes_late_of_the_reading_before_belongs_to_none() {
    let cluster = Cluster::new().await;
    let quiet = |me, message: &ToSlave| match message {
        ToSlave::Read { time: 2, .. } => (Ok(FromSlave::Ok), Vec::new()),
        other => never_ends(me, other),
    };
    let (first, dying) =
        (cluster.scripted("h1", 2, 0.5, quiet).await, cluster.scripted("h2", 1, 0.5, never_ends).await);
    let (job, _folder) = restarting(&cluster).await;
    drop(dying);
    cluster.until(job, |news, report| !report.repeats.is_empty() && news.stage.is_some()).await;
    let ask = |time| ToMaster::NextSplit { slave: first.me, job, input: INPUT, time, read: 0 };
    assert_eq!(cluster.ask(ask(1)).await.unwrap_err().fault, Fault::Cancelled);
    let failed = Err(Error::cancelled());
    let late = ToMaster::ReadDone { slave: first.me, job, input: INPUT, time: 1, result: failed };
    assert_eq!(cluster.ask(late).await, Ok(FromMaster::Ok));
    assert!(matches!(cluster.ask(ask(2)).await, Ok(FromMaster::Split(Some(_)))), "it goes on");
}

#[tokio::test]
async fn a_job_that_has_restarted_as_often_as_it_may_fails_by_name() {
    let cluster = Cluster::new().await;
    let (_first, second) =
        (cluster.scripted("h1", 2, 0.5, never_ends).await, cluster.scripted("h2", 1, 0.5, never_ends).await);
    let (job, _folder) = restarting(&cluster).await;
    let third = cluster.scripted("h3", 1, 0.5, never_ends).await;
    drop(second);
    let again = |report: &Report| !report.repeats.is_empty() && report.read.rows > 0;
    cluster.until(job, |news, report| again(report) && news.stage.is_some()).await;
    drop(third);
    let error = cluster.end(job).await.error.unwrap();
    assert!(error.message.contains("(h3) is gone"), "{error}");
}

#[tokio::test]
async fn what_is_read_to_its_end_while_workers_stop_is_known_to_the_plan_that_begins_anew() {
    let mut reading = Reading::of(2, slow_to_stop).await;
    reading.lose_while_workers_go_on().await;
    reading.read_all().await;
    reading.stop().await;
    let report = reading.cluster.end(reading.job).await;
    assert_eq!((report.state, report.error), (State::Done, None));
    // Its slave is told behind the opening, which knows of nothing.
    let seen = reading.first.seen.lock();
    let told = seen.iter().filter_map(|message| match message {
        ToSlave::Open { .. } => Some("open"),
        ToSlave::Facts { .. } => Some("facts"),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["open", "facts", "open", "facts"]);
}

#[tokio::test]
async fn a_reader_that_fails_while_workers_stop_is_the_end() {
    let mut reading = Reading::of(2, slow_to_stop).await;
    reading.lose_while_workers_go_on().await;
    let failed = Err(Error::cluster("the disk is full"));
    let (slave, job) = (reading.first.me, reading.job);
    reading.cluster.ask(ToMaster::ReadDone { slave, job, input: INPUT, time: 1, result: failed }).await.unwrap();
    reading.stop().await;
    let error = reading.cluster.end(job).await.error.unwrap();
    assert!(error.message.contains("the disk is full"), "{error}");
}
