//! Jobs that may restart and lose slaves: they wait for others, and tell of it when they have started over.

use super::again::{ended, never_ends, restarting};
use super::fake::*;
use flexps_common::Error;
use flexps_common::ids::StageRun;
use flexps_common::report::{Report, State};
use flexps_common::wire::control::{FromMaster, FromSlave, ToMaster, ToSlave};
use flexps_common::wire::slaves::Member;
use flexps_common::wire::snapshot::{Marked, ToKeeper, Wanted};
use std::time::Duration;

fn told(report: &Report) -> bool {
    report.notes.iter().any(|note| note.ends_with("the job started over"))
}

#[tokio::test]
async fn a_job_that_may_restart_waits_for_a_slave_when_none_is_left() {
    let cluster = Cluster::new().await;
    let both = [cluster.scripted("h1", 1, 0.5, never_ends).await, cluster.scripted("h2", 1, 0.5, never_ends).await];
    let (job, _folder) = restarting(&cluster).await;
    drop(both);
    cluster.until(job, |news, _| news.waiting.as_deref() == Some("waits for a slave")).await;
    let _third = cluster.slave("h3", 2).await;
    let report = cluster.end(job).await;
    assert_eq!((report.state, report.error.as_ref()), (State::Done, None));
    assert!(told(&report), "{:?}", report.notes);
}

/// Its workers of the first run end when they are cancelled.
fn once(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Launch(launch) if launch.run > StageRun(1) => obey(me, message),
        other => never_ends(me, other),
    }
}

#[tokio::test]
async fn a_job_that_may_restart_waits_for_slots_when_too_few_are_left_whoever_goes_meanwhile() {
    let cluster = Cluster::new().await;
    let (_first, second) = (cluster.scripted("h1", 1, 0.5, once).await, cluster.scripted("h2", 1, 0.5, once).await);
    let (job, _folder) = restarting(&cluster).await;
    drop(second);
    let needs = "stage work needs 2 slots, the cluster has 1";
    let waits = async || {
        cluster.until(job, |news, _| news.waiting.as_ref().is_some_and(|why| why.starts_with(needs))).await;
    };
    waits().await;
    // It would fit for a moment.
    let busy = cluster.scripted("h3", 1, 0.5, deaf).await;
    cluster.until(job, |_, report| report.state == State::Running).await;
    drop(busy);
    waits().await;
    let _third = cluster.slave("h4", 1).await;
    assert_eq!(cluster.end(job).await.state, State::Done);
}

/// Opens nothing.
fn deaf(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Open { .. } => (Err(Error::cluster("the connection to h3 is closed").retryable()), Vec::new()),
        other => obey(me, other),
    }
}

#[tokio::test]
async fn that_a_job_started_over_is_not_said_before_it_did() {
    let cluster = Cluster::new().await;
    let stubborn = |me, message: &ToSlave| match message {
        ToSlave::CancelStage { .. } => (Ok(FromSlave::Ok), Vec::new()),
        other => never_ends(me, other),
    };
    let (first, second) =
        (cluster.scripted("h1", 2, 0.5, stubborn).await, cluster.scripted("h2", 1, 0.5, never_ends).await);
    let (job, _folder) = restarting(&cluster).await;
    drop(second);
    while !first.saw(|message| matches!(message, ToSlave::CancelStage { .. })) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.cancel(job).await;
    cluster.ask(ended(first.me, job, StageRun(1), Error::cancelled())).await.unwrap();
    let report = cluster.end(job).await;
    assert_eq!((report.state, report.repeats.len(), told(&report)), (State::Cancelled, 0, false), "{:?}", report.notes);
}

#[tokio::test]
async fn a_snapshot_of_a_job_that_starts_over_says_so() {
    let cluster = Cluster::new().await;
    let busy = |me, message: &ToSlave| match message {
        ToSlave::Snapshot(ToKeeper::Mark { .. }) => (Ok(FromSlave::Marked(Marked::Busy)), Vec::new()),
        other => never_ends(me, other),
    };
    let (first, second) = (cluster.scripted("h1", 2, 0.5, busy).await, cluster.scripted("h2", 1, 0.5, busy).await);
    let (job, folder) = restarting(&cluster).await;
    let path = folder.path().join("snapshot").to_string_lossy().into_owned();
    let wanted = ToMaster::Snapshot(Wanted { job, path, overwrite: false });
    let client = cluster.client.clone();
    let asked = tokio::spawn(async move { client.ask::<_, FromMaster>(&wanted, DEADLINE).await });
    while !first.saw(|message| matches!(message, ToSlave::Snapshot(_))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.ask(ToMaster::Leave { slave: second.me }).await, Ok(FromMaster::Ok));
    let error = asked.await.unwrap().unwrap_err();
    assert!(error.message.contains("started over before all was read; ask again"), "{error}");
}
