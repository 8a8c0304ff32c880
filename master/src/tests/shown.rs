//! What the master shows of itself while jobs run, and counts of them.

use super::again::never_ends;
use super::fake::*;
use crate::{Overview, http};
use flexps_common::Error;
use flexps_common::report::State;
use flexps_common::wire::control::{FromSlave, ToSlave};
use std::io::{Read, Write};
use std::time::Duration;

#[tokio::test]
async fn slots_of_workers_that_have_ended_are_shown_as_free_while_others_go_on() {
    let cluster = Cluster::new().await;
    let (first, second) =
        (cluster.scripted("h1", 2, 0.5, obey).await, cluster.scripted("h2", 2, 0.5, never_ends).await);
    let job = cluster.submit(Rounds { threads: 4, ..Rounds::default() }).await.unwrap();
    let shown = async {
        loop {
            let view: Overview = cluster.get("overview").await.unwrap();
            if view.running.iter().any(|run| !run.ended.is_empty()) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let view = tokio::time::timeout(DEADLINE, shown).await.expect("some workers end");
    let [run] = &view.running[..] else { panic!("{view:?}") };
    assert_eq!(run.workers, [(second.id, 2)]);
    let &[(id, threads, at)] = &run.ended[..] else { panic!("{run:?}") };
    assert_eq!((id, threads), (first.id, 2));
    assert!(run.start <= at && at <= view.seconds, "{run:?}");
    let busy: Vec<u32> = view.slaves.iter().map(|slave| slave.busy).collect();
    assert_eq!(busy, [0, 2]);
    cluster.cancel(job).await;
    assert_eq!(cluster.end(job).await.state, State::Cancelled);
}

#[tokio::test]
async fn what_workers_sent_is_counted_of_runs_too_that_no_report_lists() {
    let options = http::Options { address: "127.0.0.1:0".to_owned(), secret: None, names: Vec::new() };
    let cluster = Cluster::serving(Some(options)).await;
    let fails = |me, message: &ToSlave| match message {
        ToSlave::Launch(launch) => (Ok(FromSlave::Ok), vec![done(me, launch, Some(Error::user("no luck")))]),
        other => obey(me, other),
    };
    let _slave = cluster.scripted("h1", 1, 0.5, fails).await;
    let job = cluster.submit(Rounds::default()).await.unwrap();
    let report = cluster.end(job).await;
    assert!(report.state == State::Failed && report.stages.is_empty(), "{report:?}");
    let pages = cluster.master.pages().unwrap().to_owned();
    let metrics = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&pages).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {pages}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let metrics = metrics.await.unwrap();
    assert!(metrics.lines().any(|line| line == "flexps_sent_bytes_total 1"), "{metrics}");
}
