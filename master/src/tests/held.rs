//! Queued jobs for which slots are held.

use super::fake::*;
use flexps_common::ids::JobId;
use flexps_common::report::State;
use flexps_common::scheduling::Scheduling;
use flexps_common::wire::control::ToSlave;
use flexps_common::wire::slaves::Registration;

/// Two slaves of 8 GiB, all of whose memory is taken: h1 with eight slots of which none is free, h2 with four, of which two are.
struct Full {
    cluster: Cluster,
    h1: Fake,
    h2: Fake,
    /// On h1, in six slots and no memory.
    wide: JobId,
    /// Two on h2, then two on h1, each in a slot and 4 GiB.
    halves: Vec<JobId>,
}

impl Full {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        cluster.post("policy", &serde_json::json!({ "policy": "backfill" })).await.unwrap();
        let lends = |name, slots| Registration { memory: Some(8 << 30), ..Cluster::registration(name, slots, 1) };
        let h1 = cluster.registered(lends("h1", 8), 0.5, until_cancelled(|_| true)).await;
        let h2 = cluster.registered(lends("h2", 4), 0.5, until_cancelled(|_| true)).await;
        let wide = Scheduling { slaves: Some(1), ..Scheduling::default() };
        let wide = cluster.submit_scheduled(Rounds { threads: 6, ..Rounds::default() }, wide).await.unwrap();
        runs(&cluster, wide).await;
        let mut halves = Vec::new();
        for _ in 0..4 {
            halves.push(asks(&cluster, 4).await);
            runs(&cluster, halves[halves.len() - 1]).await;
        }
        let on = |slave: &Fake| halves.iter().map(|half| launched(slave, *half)).collect::<Vec<_>>();
        assert_eq!((on(&h2), launched(&h1, wide)), (vec![true, true, false, false], true));
        Self { cluster, h1, h2, wide, halves }
    }

    /// A job that waits for 6 GiB and for which a slot of h2 is held, before one that waits for more.
    async fn hold(&self, gib: u64) -> [JobId; 2] {
        let giant = asks(&self.cluster, 6).await;
        self.cluster.until(giant, |news, _| news.waiting.is_some() && news.report.state == State::Queued).await;
        let next = asks(&self.cluster, gib).await;
        let held = "1 slots are held for it";
        self.cluster.until(giant, |news, _| news.waiting.as_ref().is_some_and(|why| why.ends_with(held))).await;
        [giant, next]
    }

    async fn ends(&self, job: JobId) {
        self.cluster.cancel(job).await;
        self.cluster.end(job).await;
    }
}

/// A job of one thread that asks for so much memory.
async fn asks(cluster: &Cluster, gib: u64) -> JobId {
    let scheduling = Scheduling { memory: Some(gib << 30), ..Scheduling::default() };
    cluster.submit_scheduled(Rounds::default(), scheduling).await.unwrap()
}

async fn runs(cluster: &Cluster, job: JobId) {
    cluster.until(job, |news, _| news.stage.is_some()).await;
}

fn launched(slave: &Fake, job: JobId) -> bool {
    slave.saw(|message| matches!(message, ToSlave::Launch(launch) if launch.job == job))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_for_a_queued_job_stays_held_when_another_slave_has_more_free_slots() {
    let full = Full::new().await;
    let [giant, next] = full.hold(4).await;
    full.ends(full.halves[0]).await;
    // Now h1 has the most free slots, and no memory.
    full.ends(full.wide).await;
    full.ends(full.halves[1]).await;
    runs(&full.cluster, giant).await;
    assert!(launched(&full.h2, giant));
    assert!(!launched(&full.h1, next) && !launched(&full.h2, next), "it took what was held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_job_goes_elsewhere_than_where_slots_are_held_for_it_as_soon_as_it_can_start_there() {
    let full = Full::new().await;
    let [giant, next] = full.hold(8).await;
    full.ends(full.halves[2]).await;
    full.ends(full.halves[3]).await;
    runs(&full.cluster, giant).await;
    assert!(launched(&full.h1, giant));
    assert!(!launched(&full.h1, next) && !launched(&full.h2, next), "it went first");
}
