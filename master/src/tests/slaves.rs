//! Slaves that come, go and fail.

use super::again::ended;
use super::fake::*;
use crate::slaves::Slaves;
use flexps_common::Error;
use flexps_common::data::Form;
use flexps_common::error::Fault;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::report::State;
use flexps_common::transport::{Connection, Network};
use flexps_common::wire::api::JobNews;
use flexps_common::wire::control::{FromMaster, FromSlave, Outcome, SILENCE_MS, ToMaster, ToSlave};
use flexps_common::wire::slaves::{Member, Registration, SlaveLine};
use std::time::{Duration, Instant};

/// Its workers never end by themselves.
fn idle(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Launch(_) => (Ok(FromSlave::Ok), Vec::new()),
        other => obey(me, other),
    }
}

/// Runs a job on two slaves, lets the second one go, and gives the error.
async fn without_the_second(go: impl FnOnce(Fake) -> Option<Fake>, how: &str, within: Duration) {
    let cluster = Cluster::new().await;
    let first = cluster.slave("h1", 1).await;
    let second = cluster.scripted("h2", 1, 0.5, idle).await;
    let id = cluster.submit(Rounds { threads: 2, ..Rounds::default() }).await.unwrap();
    cluster.until(id, |news, _| news.stage.is_some()).await;
    let (since, gone) = (Instant::now(), second.id);
    let _kept = go(second);
    let report = cluster.end(id).await;
    assert!(since.elapsed() < within, "{:?}", since.elapsed());
    let error = report.error.unwrap();
    assert_eq!((report.state, error.fault), (State::Failed, Fault::Cluster));
    assert_eq!(error.message, format!("slave {gone} (h2) is gone ({how}) in stage work, epoch 1"));
    assert!(first.saw(|m| matches!(m, ToSlave::Close { job } if *job == id)));
    let next = cluster.submit(Rounds::default()).await.unwrap();
    assert_eq!(cluster.end(next).await.state, State::Done, "the cluster takes the next job");
    let lines: Vec<SlaveLine> = cluster.get("slaves").await.unwrap();
    assert_eq!(lines.iter().map(|l| (l.name.as_str(), l.busy)).collect::<Vec<_>>(), [("h1", 0)]);
}

#[tokio::test]
async fn a_silent_slave_fails_its_job_by_name_and_the_cluster_takes_the_next_one() {
    let silence = Duration::from_millis(SILENCE_MS);
    let keep = |slave: Fake| {
        slave.fall_silent();
        Some(slave)
    };
    without_the_second(keep, "silent for 5 s", silence + Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_slave_whose_connection_breaks_fails_its_job_at_once() {
    without_the_second(|_| None, "connection closed", Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_slave_that_registers_anew_has_dropped_its_jobs_and_lends_all_its_slots() {
    let cluster = Cluster::new().await;
    let slave = cluster.scripted("h1", 1, 0.5, idle).await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(id, |news, _| news.stage.is_some()).await;
    let anew = Registration { incarnation: 2, ..Cluster::registration("h1", 2, 1) };
    let Ok(FromMaster::Registered { slave: new }) = cluster.ask(ToMaster::Register(anew)).await else { panic!() };
    let error = cluster.end(id).await.error.unwrap();
    let how = "it had lost the master and dropped its jobs";
    assert_eq!(error.message, format!("slave {} (h1) is gone ({how}) in stage work, epoch 1", slave.id));
    let lines: Vec<SlaveLine> = cluster.get("slaves").await.unwrap();
    assert_eq!(lines.iter().map(|line| (line.id, line.busy)).collect::<Vec<_>>(), [(new.id, 0)]);
}

#[tokio::test]
async fn a_worker_that_fails_cancels_the_others_and_the_job_fails_with_its_error() {
    let cluster = Cluster::new().await;
    let other = cluster
        .scripted("h1", 1, 0.5, |me, message| match message {
            ToSlave::CancelStage { job, run, .. } => {
                let outcome = Outcome { error: Some(Error::cancelled()), ..Outcome::default() };
                let outcome = ToMaster::StageDone { slave: me, job: *job, run: *run, outcome };
                (Ok(FromSlave::Ok), vec![outcome])
            }
            other => idle(me, other),
        })
        .await;
    let _failing = cluster
        .scripted("h2", 1, 0.5, |me, message| match message {
            ToSlave::Launch(launch) => {
                (Ok(FromSlave::Ok), vec![done(me, launch, Some(Error::data("worker 1 on h2: a bad row")))])
            }
            other => obey(me, other),
        })
        .await;
    let id = cluster.submit(Rounds { threads: 2, ..Rounds::default() }).await.unwrap();
    let report = cluster.end(id).await;
    assert_eq!((report.state, report.error), (State::Failed, Some(Error::data("worker 1 on h2: a bad row"))));
    assert!(other.saw(|m| matches!(m, ToSlave::CancelStage { reason, .. } if reason.contains("a bad row"))));
}

#[tokio::test]
async fn a_slave_that_refuses_a_job_fails_it_by_name() {
    let cluster = Cluster::new().await;
    let slave = cluster
        .scripted("h1", 1, 0.5, |me, message| match message {
            ToSlave::Open { .. } => (Err(Error::cluster("this slave is of another build")), Vec::new()),
            other => obey(me, other),
        })
        .await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    let error = cluster.end(id).await.error.unwrap();
    assert_eq!(error.message, format!("slave {} (h1): this slave is of another build", slave.id));
}

#[tokio::test]
async fn a_slave_that_refuses_a_stage_is_not_waited_for() {
    let cluster = Cluster::new().await;
    let _slave = cluster
        .scripted("h1", 1, 0.5, |me, message| match message {
            ToSlave::Launch(_) => (Err(Error::bug("no such stage")), Vec::new()),
            other => obey(me, other),
        })
        .await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    let since = Instant::now();
    let error = cluster.end(id).await.error.unwrap();
    assert!(error.message.ends_with("(h1): no such stage"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_slave_that_a_stage_does_not_reach_is_gone_whatever_its_heartbeats_say() {
    let cluster = Cluster::new().await;
    let silent = || Error::cluster("no answer within 10s").retryable();
    let slave = cluster
        .scripted("h1", 1, 0.5, move |me, message| match message {
            ToSlave::Launch(_) => (Err(silent()), Vec::new()),
            other => obey(me, other),
        })
        .await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    let error = cluster.end(id).await.error.unwrap();
    let how = "no answer within 10s";
    assert_eq!(error.message, format!("slave {} (h1) is gone ({how}) in stage work, epoch 1", slave.id));
    let lines: Vec<SlaveLine> = cluster.get("slaves").await.unwrap();
    assert!(lines.is_empty(), "its slots are lent to nobody: {lines:?}");
}

#[tokio::test]
async fn a_reader_that_fails_fails_the_job() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let _slave = cluster
        .scripted("h1", 1, 0.5, |me, message| match message {
            ToSlave::Read { job, input, time, .. } => {
                let result = Err(Error::data("/f line 3: index 0 under base 1"));
                (
                    Ok(FromSlave::Ok),
                    vec![ToMaster::ReadDone { slave: me, job: *job, input: *input, time: *time, result }],
                )
            }
            other => obey(me, other),
        })
        .await;
    let id = cluster.submit(Rounds { input: Some(rows(&dir)), ..Rounds::default() }).await.unwrap();
    let report = cluster.end(id).await;
    assert_eq!(report.error, Some(Error::data("/f line 3: index 0 under base 1")));
}

#[tokio::test]
async fn a_file_that_one_of_several_slaves_can_not_read_is_an_error_with_that_slaves_name() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let _first = cluster.slave("h1", 1).await;
    let second = cluster
        .scripted("h2", 1, 0.5, |me, message| match message {
            ToSlave::Read { job, input, time, .. } => {
                let result = Err(Error::user("/f: permission denied"));
                (
                    Ok(FromSlave::Ok),
                    vec![ToMaster::ReadDone { slave: me, job: *job, input: *input, time: *time, result }],
                )
            }
            other => obey(me, other),
        })
        .await;
    let job = Rounds { input: Some(rows(&dir)), threads: 2, ..Rounds::default() };
    let id = cluster.submit(job).await.unwrap();
    let error = cluster.end(id).await.error.unwrap();
    assert_eq!(error, Error::user(format!("slave {} (h2): /f: permission denied", second.id)));
}

#[tokio::test]
async fn splits_are_handed_to_the_slaves_of_the_job_alone_and_each_once() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let slave = cluster
        .scripted("h1", 1, 0.5, |me, message| match message {
            ToSlave::Read { .. } => (Ok(FromSlave::Ok), Vec::new()),
            other => idle(me, other),
        })
        .await;
    let job = cluster.submit(Rounds { input: Some(rows(&dir)), ..Rounds::default() }).await.unwrap();
    cluster.until(job, |news, _| news.reading && news.stage.is_some()).await;
    let next = |slave, job| ToMaster::NextSplit { slave, job, input: InputId(0), time: 1, read: 0 };
    let Ok(FromMaster::Split(Some(split))) = cluster.ask(next(slave.me, job)).await else { panic!() };
    assert_eq!((split.start, split.end, split.file_len, split.form), (0, 20, 20, Form::Text));
    assert_eq!(cluster.ask(next(slave.me, job)).await, Ok(FromMaster::Split(None)));
    assert_eq!(cluster.ask(next(Member { id: SlaveId(99), ..slave.me }, job)).await, Ok(FromMaster::Unknown));
    assert_eq!(cluster.ask(next(slave.me, JobId(99))).await.unwrap_err().fault, Fault::Cancelled);
}

#[tokio::test]
async fn a_slave_with_nothing_to_read_gets_what_another_one_has_not_begun() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    // Three splits, too small to be cut while they are read.
    let path = dir.path().join("long.libsvm");
    std::fs::write(&path, "+1 1:1\n-1 2:1\n".repeat(40_000)).unwrap();
    let reads = |me, message: &ToSlave| match message {
        ToSlave::Read { .. } => (Ok(FromSlave::Ok), Vec::new()),
        ToSlave::Give { index, keep, .. } => {
            assert!(*index == 2 && *keep > 0.0 && *keep < 1.0);
            (Ok(FromSlave::Kept(Some(373_334))), Vec::new())
        }
        other => idle(me, other),
    };
    let (first, second) = (cluster.scripted("h1", 1, 0.5, reads).await, cluster.scripted("h2", 1, 0.5, reads).await);
    let input = Some(path.to_string_lossy().into_owned());
    let job = cluster.submit(Rounds { input, threads: 2, ..Rounds::default() }).await.unwrap();
    cluster.until(job, |news, _| news.reading && news.stage.is_some()).await;
    let next = async |slave: &Fake, read| {
        let ask = ToMaster::NextSplit { slave: slave.me, job, input: InputId(0), time: 1, read };
        cluster.ask(ask).await.unwrap()
    };
    let range = |answer| match answer {
        FromMaster::Split(Some(split)) => (split.index, split.start, split.end),
        other => panic!("{other:?}"),
    };
    assert_eq!(range(next(&first, 0).await), (0, 0, 186_666));
    assert_eq!(range(next(&first, 0).await), (2, 373_333, 560_000));
    assert_eq!(range(next(&second, 0).await), (1, 186_666, 373_333));
    let got = async {
        loop {
            match next(&second, 1).await {
                FromMaster::Later(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                answer => return range(answer),
            }
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, got).await.unwrap(), (3, 373_334, 560_000));
    let news: JobNews = cluster.get(&format!("jobs/{job}")).await.unwrap();
    assert_eq!(news.report.read.stolen, 1);
}

#[tokio::test]
async fn a_job_that_waits_for_more_than_is_left_when_a_slave_goes_is_refused_with_the_numbers() {
    let cluster = Cluster::new().await;
    let _first = cluster.scripted("h1", 1, 0.5, idle).await;
    let second = cluster.scripted("h2", 3, 0.5, idle).await;
    let running = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(running, |news, _| news.stage.is_some()).await;
    let [wide, narrow] = [4, 1].map(|threads| Rounds { threads, ..Rounds::default() });
    let wide = cluster.submit(wide).await.unwrap();
    cluster.until(wide, |news, _| news.waiting.as_deref() == Some("needs 4 slots, 3 of 4 are free")).await;
    let gone = second.id;
    drop(second);
    let report = cluster.end(wide).await;
    let error = report.error.unwrap();
    let why = format!("slave {gone} (h2) is gone (connection closed)");
    let numbers = "stage work needs 4 slots, the cluster has 1; give it at most 1 threads";
    assert_eq!((error.fault, error.message), (Fault::User, format!("{why}: {numbers}")));
    let narrow = cluster.submit(narrow).await.unwrap();
    cluster.until(narrow, |news, _| news.stage.is_some() || news.waiting.is_some()).await;
}

#[tokio::test]
async fn a_slave_that_leaves_is_not_used_any_more() {
    let cluster = Cluster::new().await;
    let slave = cluster.slave("h1", 1).await;
    assert_eq!(cluster.ask(ToMaster::Leave { slave: slave.me }).await, Ok(FromMaster::Ok));
    assert_eq!(cluster.get("slaves").await, Ok(Vec::<SlaveLine>::new()));
    let (job, run, outcome) = (JobId(1), StageRun(1), Outcome::default());
    let report = ToMaster::StageDone { slave: slave.me, job, run, outcome };
    assert_eq!(cluster.ask(report).await, Ok(FromMaster::Ok));
    let beat = ToMaster::Heartbeat { slave: slave.me, incarnation: 1 };
    assert_eq!(cluster.ask(beat).await, Ok(FromMaster::Unknown));
}

#[tokio::test]
async fn what_was_meant_for_another_master_reaches_no_job_of_this_one() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let reads = |me, message: &ToSlave| match message {
        ToSlave::Read { .. } => (Ok(FromSlave::Ok), Vec::new()),
        other => idle(me, other),
    };
    let slave = cluster.scripted("h1", 1, 0.5, reads).await;
    let job = cluster.submit(Rounds { input: Some(rows(&dir)), ..Rounds::default() }).await.unwrap();
    cluster.until(job, |news, _| news.reading && news.stage.is_some()).await;
    let old = Member { master: slave.me.master ^ 1, ..slave.me };
    let next = |slave| ToMaster::NextSplit { slave, job, input: InputId(0), time: 1, read: 0 };
    for message in [next(old), ToMaster::Heartbeat { slave: old, incarnation: 1 }, ToMaster::Leave { slave: old }] {
        assert_eq!(cluster.ask(message).await, Ok(FromMaster::Unknown));
    }
    // These are answered when they come.
    let late = || Error::cluster("the master has forgotten this slave");
    let read = ToMaster::ReadDone { slave: old, job, input: InputId(0), time: 1, result: Err(late()) };
    for message in [ended(old, job, StageRun(1), late()), read] {
        assert_eq!(cluster.ask(message).await, Ok(FromMaster::Ok));
    }
    assert!(matches!(cluster.ask(next(slave.me)).await, Ok(FromMaster::Split(Some(_)))), "none was handed out before");
    let news: JobNews = cluster.get(&format!("jobs/{job}")).await.unwrap();
    assert_eq!((news.report.state, news.stage.is_some()), (State::Running, true));
}

/// None when it is to ask again.
fn asks(slaves: &mut Slaves, incarnation: u64, at: u64) -> flexps_common::Result<Option<(SlaveId, Option<SlaveId>)>> {
    let registration = Cluster::registration("h1", 2, incarnation);
    slaves.register(registration, Connection(incarnation), &Network::in_process(), Duration::from_millis(at))
}

fn join(slaves: &mut Slaves, incarnation: u64, at: u64) -> flexps_common::Result<(SlaveId, Option<SlaveId>)> {
    asks(slaves, incarnation, at).map(|taken| taken.expect("nobody has its name"))
}

#[test]
fn a_second_slave_of_the_same_name_is_refused_unless_the_first_is_dead() {
    let mut slaves = Slaves::default();
    let (first, _) = join(&mut slaves, 1, 0).unwrap();
    assert_eq!(join(&mut slaves, 1, 10).unwrap(), (first, None), "the same process, asking again");
    assert_eq!(asks(&mut slaves, 2, 20), Ok(None), "whether the first lives is not known");
    assert!(slaves.heard(first, Connection(1), Some(1), Duration::from_millis(25)));
    assert_eq!(asks(&mut slaves, 2, 30), Ok(None), "it may have been under way when the first died");
    assert!(slaves.heard(first, Connection(1), Some(1), Duration::from_millis(525)));
    let error = asks(&mut slaves, 2, 530).unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("a slave named h1 is here already"), "{error}");
    slaves.broken(Connection(1), Duration::from_millis(540));
    let (second, replaced) = join(&mut slaves, 2, 550).unwrap();
    assert!(second != first && replaced == Some(first));
}

#[test]
fn a_slave_whose_process_was_killed_waits_under_its_name_until_the_old_one_is_silent() {
    let mut slaves = Slaves::default();
    let (first, _) = join(&mut slaves, 1, 0).unwrap();
    for at in [400, 900, 1_400] {
        assert_eq!(asks(&mut slaves, 2, at), Ok(None), "at {at} ms");
    }
    assert_eq!(join(&mut slaves, 2, 1_900).unwrap().1, Some(first));
}

#[test]
fn a_slave_is_gone_a_second_after_its_connection_broke_unless_it_comes_back() {
    let at = Duration::from_millis;
    let mut slaves = Slaves::default();
    let (id, _) = join(&mut slaves, 1, 0).unwrap();
    slaves.broken(Connection(1), at(100));
    assert!(slaves.gone(at(1_000)).is_empty());
    assert_eq!(slaves.gone(at(1_100)), [(id, "connection closed".to_owned())]);
    assert!(slaves.heard(id, Connection(5), Some(1), at(1_100)));
    let end = 1_100 + SILENCE_MS;
    for time in (1_200..end).step_by(50) {
        assert!(slaves.gone(at(time)).is_empty(), "gone after {time} ms");
    }
    assert_eq!(slaves.gone(at(end)), [(id, "silent for 5 s".to_owned())]);
}

#[test]
fn a_master_that_stood_still_blames_no_slave_for_it() {
    let at = Duration::from_millis;
    let mut slaves = Slaves::default();
    let (id, _) = join(&mut slaves, 1, 0).unwrap();
    assert!(slaves.gone(at(1_000)).is_empty());
    assert!(slaves.gone(at(100_000)).is_empty(), "it was not there to hear anybody");
    let end = 99_000 + SILENCE_MS;
    for time in (100_050..end).step_by(50) {
        assert!(slaves.gone(at(time)).is_empty(), "gone after {time} ms");
    }
    assert_eq!(slaves.gone(at(end)).len(), 1, "{id:?} was silent ever since");
}

#[test]
fn a_heartbeat_under_an_identity_that_a_restarted_master_gave_to_another_is_unknown() {
    let mut slaves = Slaves::default();
    let (id, _) = join(&mut slaves, 1, 0).unwrap();
    assert!(!slaves.heard(id, Connection(2), Some(2), Duration::ZERO));
    assert!(slaves.heard(id, Connection(1), Some(1), Duration::ZERO));
}

#[test]
fn slots_and_memory_are_taken_and_given_back_run_by_run() {
    let mut slaves = Slaves::default();
    let registration = Registration { memory: Some(100), ..Cluster::registration("h1", 2, 1) };
    let (id, _) =
        slaves.register(registration, Connection(1), &Network::in_process(), Duration::ZERO).unwrap().unwrap();
    slaves.take(JobId(1), StageRun(1), &[(id, 1)], 30);
    slaves.take(JobId(2), StageRun(1), &[(id, 1)], 40);
    let left = |slaves: &Slaves| (slaves.get(id).unwrap().free(), slaves.get(id).unwrap().memory_left());
    assert_eq!(left(&slaves), (0, 30));
    assert!(slaves.give_back(id, JobId(1), StageRun(1)));
    assert!(!slaves.give_back(id, JobId(1), StageRun(1)), "once");
    assert_eq!(left(&slaves), (1, 60));
}

#[test]
fn cores_of_a_machine_count_once_however_many_slaves_are_on_it() {
    let mut slaves = Slaves::default();
    let mut join = |name: &str, control: &str, cores| {
        let mut registration = Cluster::registration(name, 8, 1);
        (registration.control, registration.cores, registration.own_cores) = (control.to_owned(), cores, false);
        slaves.register(registration, Connection(1), &Network::in_process(), Duration::ZERO).unwrap().unwrap().0
    };
    let all = [join("h1", "10.0.0.1:70", 2), join("h2", "10.0.0.1:71", 2), join("h3", "[fd00::1]:70", 16)];
    let embedded = [join("h4", "h4 control", 4), join("h5", "h5 control", 4)];
    assert_eq!([slaves.cores(&all), slaves.cores(&all[..2]), slaves.cores(&[])], [18, 2, 0]);
    assert_eq!(slaves.cores(&embedded), 4);
}
