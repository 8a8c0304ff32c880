//! Which of the jobs that have ended a master still knows, and what of them.

use super::fake::*;
use flexps_common::Error;
use flexps_common::ids::JobId;
use flexps_common::report::State;
use flexps_common::scheduling::Scheduling;
use flexps_common::wire::api::{HistoryPage, JobNews};
use flexps_common::wire::control::{FromSlave, ToSlave};

/// More jobs than a master keeps.
const MANY: usize = 205;

async fn end_many(cluster: &Cluster) -> JobId {
    let mut last = JobId(0);
    for _ in 0..MANY {
        last = cluster.submit(Rounds::default()).await.unwrap();
        assert_eq!(cluster.end(last).await.state, State::Done);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ends_behind_many_younger_ones_is_known_to_who_follows_it_and_to_who_waits_for_it() {
    let cluster = Cluster::new().await;
    let _slave = cluster.scripted("h1", 2, 0.5, until_cancelled(|job| job == JobId(1))).await;
    let long = cluster.submit(Rounds { rounds: 200, ..Rounds::default() }).await.unwrap();
    let after = Scheduling { after: vec![long], ..Scheduling::default() };
    let waiting = cluster.submit_scheduled(Rounds::default(), after).await.unwrap();
    let last = end_many(&cluster).await;
    cluster.cancel(long).await;
    assert_eq!(cluster.end(long).await.state, State::Cancelled);
    let report = cluster.end(waiting).await;
    assert!(report.error.unwrap().message.contains("j1, after which it was to run, was cancelled"));
    // It ended last; the first of the others are too old by now.
    let known = async |job: JobId| cluster.get::<JobNews>(&format!("jobs/{job}?seen=0&wait_ms=0")).await.is_ok();
    assert_eq!(
        [known(long).await, known(waiting).await, known(last).await, known(JobId(3)).await],
        [true, true, true, false]
    );
    end_many(&cluster).await;
    assert!(!known(long).await, "it is too old too");
}

#[tokio::test]
async fn a_stage_that_failed_is_recorded_as_cut_short() {
    let cluster = Cluster::new().await;
    let fails = |me, message: &ToSlave| match message {
        ToSlave::Launch(launch) => (Ok(FromSlave::Ok), vec![done(me, launch, Some(Error::data("a bad row")))]),
        other => obey(me, other),
    };
    let _slave = cluster.scripted("h1", 1, 0.5, fails).await;
    let job = cluster.submit(Rounds::default()).await.unwrap();
    assert_eq!(cluster.end(job).await.state, State::Failed);
    let page: HistoryPage = cluster.get("history?from=0").await.unwrap();
    let run = page.records.iter().map(|record| record.get()).find(|record| record.contains("\"what\":\"run\""));
    assert!(run.is_some_and(|run| run.contains("\"cut\":true")), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_whose_stage_runs_are_too_many_to_be_kept_says_so() {
    let cluster = Cluster::new().await;
    let _slave = cluster.slave("h1", 1).await;
    let [many, few] = [150, 50].map(|rounds| Rounds { rounds, ..Rounds::default() });
    let [many, few] = [cluster.submit(many).await.unwrap(), cluster.submit(few).await.unwrap()];
    for (job, stages) in [(many, 150), (few, 50)] {
        assert_eq!(cluster.end(job).await.stages.len(), stages);
    }
    for _ in 0..25 {
        let job = cluster.submit(Rounds::default()).await.unwrap();
        cluster.end(job).await;
    }
    for (job, stages) in [(many, 100), (few, 50)] {
        let report = cluster.end(job).await;
        let told = report.notes.iter().any(|note| note.contains("stage runs") && note.contains("no longer kept"));
        assert_eq!((report.stages.len(), told), (stages, stages < 150 && job == many), "{:?}", report.notes);
    }
}

#[tokio::test]
async fn a_model_that_another_job_will_save_is_refused_at_once() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let model = dir.path().join("model").to_string_lossy().into_owned();
    let job = || Rounds { input: Some(rows(&dir)), model: Some(model.clone()), ..Rounds::default() };
    let first = cluster.submit(job()).await.unwrap();
    let error = cluster.submit(job()).await.unwrap_err();
    assert!(error.exit_code() == 2 && error.message.starts_with("job j1 will save its model to "), "{error}");
    let elsewhere = Rounds { model: Some(format!("{model}-2")), ..job() };
    cluster.submit(elsewhere).await.unwrap();
    cluster.cancel(first).await;
    cluster.end(first).await;
    cluster.submit(job()).await.unwrap();
}
