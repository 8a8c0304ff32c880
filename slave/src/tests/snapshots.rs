//! Snapshots of tables while a stage goes on.

use super::cluster::Cluster;
use flexps_common::error::Result;
use flexps_common::home::Home;
use flexps_common::ids::TableId;
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Consistency, Plan, TableOp};
use flexps_common::wire::snapshot::{Boundary, Marked, Meeting, Met, Moment};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::Duration;

const TABLE: TableId = TableId(0);
/// A chunk on each of three slaves.
const KEYS: u32 = 3 << 16;
/// More than are ended while a test looks.
const CLOCKS: u64 = 100_000;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Equal {}

impl Job for Equal {
    const NAME: &'static str = "equal";
    const ABOUT: &'static str = "Each worker adds one to each value at each clock";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let table = plan.table::<f32>("t", 1);
        let work = move |clocks: u64| {
            move |worker: &mut flexps_common::worker::Worker<'_>| {
                let ones = vec![1.0; KEYS as usize];
                (0..clocks).try_for_each(|_| {
                    worker.add_range(table, 0..KEYS, &ones)?;
                    worker.clock()
                })
            }
        };
        plan.body.stage("endless", work(CLOCKS)).consistency(Consistency::Bsp);
        plan.body.stage("short", work(5)).consistency(Consistency::Bsp);
        plan.body.stage("asp", work(CLOCKS)).consistency(Consistency::Asp);
        Ok(())
    }
}

async fn open() -> Cluster {
    Cluster::open(Registry::default().with::<Equal>(), 3, "equal", "{}").await
}

/// Brings all slaves to keep one moment, as a master does.
async fn take(cluster: &Cluster, snapshot: u64) -> Moment {
    let (mut meeting, mut at) = (Meeting::default(), None);
    loop {
        let answers = cluster.mark(snapshot, at).await.into_iter().collect::<Result<Vec<_>>>().unwrap();
        match meeting.hear(&answers) {
            Met::All(moment, homes) => {
                assert_eq!(homes, cluster.homes.lock()[..]);
                return moment;
            }
            Met::Ask(next) => at = next,
        }
    }
}

/// All values of a snapshot, chunk `c` at the shard of this place.
async fn values(cluster: &Cluster, snapshot: u64, shards: [u32; 3]) -> Vec<f32> {
    let mut found = Vec::new();
    for (chunk, shard) in (0..).zip(shards) {
        found.extend(cluster.kept(shard, snapshot, TABLE, chunk << 16..(chunk + 1) << 16).await.unwrap());
    }
    found
}

fn all(values: &[f32], expected: f32) -> bool {
    values.len() == KEYS as usize && values.iter().all(|value| *value == expected)
}

const SPREAD: [u32; 3] = [0, 1, 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_bsp_is_of_the_boundary_of_one_clock_on_all_slaves_while_workers_go_on() {
    let mut cluster = open().await;
    // The third slave has no workers, and hears of clocks alone.
    let workers = [2, 1, 0];
    let run = cluster.launch(0, &workers).await;
    let mut last = 0;
    for snapshot in 1..8 {
        let moment = take(&cluster, snapshot).await;
        let clock = moment.clock.unwrap();
        assert_eq!((moment.stage.as_str(), moment.epoch), ("endless", 3));
        // Workers have the time to go on.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let values = values(&cluster, snapshot, SPREAD).await;
        assert!(all(&values, 3.0 * clock as f32), "clock {clock}: {}", values[0]);
        assert!(clock >= last, "{clock} behind {last}");
        last = clock;
        cluster.release(snapshot).await;
        let gone = cluster.kept(0, snapshot, TABLE, 0..1).await.unwrap_err();
        assert!(gone.message.contains("not kept any more"), "{gone}");
    }
    assert!(last > 0, "nobody went on");
    cluster.cancel(run).await;
    cluster.outcomes(run, &workers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_stages_a_snapshot_is_of_all_that_was_done_whatever_follows_and_wherever_tables_move() {
    let mut cluster = open().await;
    let begun = cluster.mark(1, None).await;
    assert!(begun.iter().all(|marked| *marked.as_ref().unwrap() == Marked::Busy), "nothing has begun");
    cluster.run(1, &[1, 1, 1]).await;
    let moment = take(&cluster, 2).await;
    assert_eq!((moment.stage.as_str(), moment.clock), ("short", None));
    cluster.ops(&[TableOp::Scale { table: TABLE, by: 2.0 }]).await;
    assert!(all(&values(&cluster, 2, SPREAD).await, 15.0), "what was done behind it");
    take(&cluster, 3).await;
    // To one slave, where its workers change it, and back, over what the others had.
    cluster.move_to(&[Home::on(&[1], 3)]).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    cluster.run(1, &[0, 1, 0]).await;
    assert!(all(&values(&cluster, 3, SPREAD).await, 30.0));
    cluster.move_to(&[Home::All]).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    cluster.run(1, &[1, 1, 1]).await;
    assert!(all(&values(&cluster, 3, SPREAD).await, 30.0));
    take(&cluster, 4).await;
    assert!(all(&values(&cluster, 4, SPREAD).await, 50.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_tables_on_one_slave_is_found_there() {
    let mut cluster = open().await;
    cluster.move_to(&[Home::on(&[1], 3)]).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    let run = cluster.launch(0, &[0, 1, 0]).await;
    let moment = take(&cluster, 1).await;
    assert!(all(&values(&cluster, 1, [1; 3]).await, moment.clock.unwrap() as f32));
    cluster.cancel(run).await;
    cluster.outcomes(run, &[0, 1, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_no_clock_comes_to_is_given_up_when_the_stage_is_cancelled_or_another_is_asked_for() {
    let mut cluster = open().await;
    let run = cluster.launch(0, &[1, 0, 0]).await;
    let never = Some(Boundary { phase: cluster.phase.load(Ordering::Relaxed), clock: CLOCKS - 1 });
    let later = || tokio::time::sleep(Duration::from_millis(30));
    let busy = |marked: &Vec<Result<Marked>>| marked.iter().any(|one| *one.as_ref().unwrap() == Marked::Busy);
    let (marked, _) = tokio::join!(cluster.mark(1, never), async {
        later().await;
        take(&cluster, 2).await
    });
    assert!(busy(&marked), "{marked:?}");
    let (marked, ()) = tokio::join!(cluster.mark(3, never), async {
        later().await;
        cluster.cancel(run).await;
    });
    assert!(busy(&marked), "{marked:?}");
    cluster.outcomes(run, &[1, 0, 0]).await;
    // Of a stage that was cancelled there is none.
    assert!(cluster.mark(4, None).await.iter().any(Result::is_err));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clocks_that_say_so_a_snapshot_is_of_now_and_each_chunk_is_whole() {
    let mut cluster = open().await;
    let run = cluster.launch(2, &[1, 1, 1]).await;
    let moment = take(&cluster, 1).await;
    assert_eq!(moment.clock, None);
    let first = values(&cluster, 1, SPREAD).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(values(&cluster, 1, SPREAD).await == first, "it stays as it was read");
    for chunk in first.chunks(1 << 16) {
        assert!(chunk.iter().all(|value| *value == chunk[0]), "a chunk in the middle of an update");
    }
    cluster.cancel(run).await;
    cluster.outcomes(run, &[1, 1, 1]).await;
}
