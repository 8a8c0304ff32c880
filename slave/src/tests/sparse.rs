//! SparseSSP over several slaves: how far workers go ahead, what they read, and what is refused.

use super::cluster::{Cluster, LIMIT};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Consistency, Plan, Table};
use flexps_common::wire::control::Outcome;
use flexps_common::worker::{Touch, Worker};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const STALENESS: u32 = 1;
const SPECULATION: u32 = 6;
const BOTH: u64 = (STALENESS + SPECULATION) as u64;
const CLOCKS: u64 = 20;

/// Which keys the workers of the slow stage have in common with the slow one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
enum Common {
    None,
    /// One, at every clock.
    Always,
    /// One, at the slow one's clock 2 and at clock 6 of the others.
    Once,
}

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Sparse {
    /// Without it: SSP.
    #[arg(long)]
    speculation: Option<u32>,
    #[arg(long)]
    common: Common,
}

const SLOW: u32 = 0;
const DRAWN: u32 = 1;
const UNANNOUNCED: u32 = 2;

const VALUES: TableId = TableId(0);

impl Job for Sparse {
    const NAME: &'static str = "sparse";
    const ABOUT: &'static str = "Stages with announced keys";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let consistency = match self.speculation {
            Some(speculation) => Consistency::SparseSsp { staleness: STALENESS, speculation },
            None => Consistency::Ssp { staleness: STALENESS },
        };
        let values = plan.table::<f32>("values", 1);
        let progress = plan.table::<f32>("progress", 1);
        let common = self.common;
        let body = &mut plan.body;
        body.stage("slow", move |w| slow(w, values, progress, common)).consistency(consistency);
        body.stage("drawn", move |w| drawn(w, values)).consistency(consistency);
        body.stage("unannounced", move |w| unannounced(w, values)).consistency(consistency);
        Ok(())
    }
}

/// Announces up to as many clocks ahead as count, from the first that was not announced.
fn announce(worker: &mut Worker<'_>, next: &mut u64, keys: impl Fn(u64) -> [(TableId, Vec<Key>); 2]) -> Result<()> {
    let Some(ahead) = worker.ahead() else { return Ok(()) };
    while *next <= worker.clocks() + u64::from(ahead) {
        let touches = keys(*next);
        worker.announce(
            *next,
            &touches.each_ref().map(|(table, keys)| Touch { tables: std::slice::from_ref(table), keys }),
        )?;
        *next += 1;
    }
    Ok(())
}

/// Worker 0 stays at its first clock until all others stand still, and reports where.
fn slow(worker: &mut Worker<'_>, values: Table<f32>, progress: Table<f32>, common: Common) -> Result<()> {
    let (index, threads) = (worker.place.index as u32, worker.place.threads as u32);
    // In chunks of all shards; keys of two workers never meet but for the common one.
    let keys = |clock: u64| {
        let mut keys: Vec<Key> = (0..20).map(|i| i * 30_000 + 10 + index).collect();
        let meets = match common {
            Common::None => false,
            Common::Always => true,
            Common::Once => clock == if index == 0 { 2 } else { 6 },
        };
        if meets {
            keys.insert(0, 7);
        }
        [(values.id, keys), (progress.id, vec![index])]
    };
    let (mut next, mut out) = (0, Vec::new());
    while worker.clocks() < CLOCKS {
        announce(worker, &mut next, keys)?;
        let [(_, keys), _] = keys(worker.clocks());
        worker.get(values, &keys, &mut out)?;
        worker.add(progress, &[index], &[1.0])?;
        worker.add(values, &keys, &vec![1.0; keys.len()])?;
        if index == 0 && worker.clocks() == 0 {
            let others: Vec<Key> = (1..threads).collect();
            let (start, mut seen, mut still) = (Instant::now(), Vec::new(), Instant::now());
            while still.elapsed() < Duration::from_millis(300) && start.elapsed() < LIMIT / 2 {
                std::thread::sleep(Duration::from_millis(5));
                worker.peek(progress, &others, &mut out)?;
                if out != seen {
                    (seen, still) = (out.clone(), Instant::now());
                }
            }
            let reached = |pick: fn(f32, f32) -> f32| f64::from(seen.iter().copied().reduce(pick).unwrap_or(0.0)) - 1.0;
            worker.report("least", Metric::Sum(reached(f32::min)));
            worker.report("most", Metric::Sum(reached(f32::max)));
        }
        worker.clock()?;
    }
    Ok(())
}

/// A few of 40 keys over all shards, by worker and clock.
fn some(worker: u64, clock: u64) -> Vec<Key> {
    let mut seed = worker * 1_000_003 + clock * 7919 + 17;
    let mut keys: Vec<Key> = (0..3)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % 40) as Key * 30_000
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Every worker counts its clocks in drawn keys, and checks that it reads what it must of them and no more than it may.
fn drawn(worker: &mut Worker<'_>, values: Table<f32>) -> Result<()> {
    let (index, threads) = (worker.place.index as u64, worker.place.threads as u64);
    let mut out = Vec::new();
    let mut next = 0;
    while worker.clocks() < CLOCKS {
        announce(worker, &mut next, |clock| [(values.id, some(index, clock)), (TableId(1), Vec::new())])?;
        let (clock, keys) = (worker.clocks(), some(index, worker.clocks()));
        worker.get(values, &keys, &mut out)?;
        for (key, value) in keys.iter().zip(&out) {
            let until = |end: u64| {
                let touched = (0..threads).flat_map(|w| (0..end.min(CLOCKS)).map(move |clock| (w, clock)));
                touched.filter(|(w, clock)| some(*w, *clock).contains(key)).count() as f32
            };
            let (least, most) = (until(clock.saturating_sub(STALENESS.into())), until(clock + BOTH + 1));
            if !(least..=most).contains(value) {
                return Err(Error::bug(format!("{value} at clock {clock}, it must be {least} to {most}")));
            }
        }
        worker.add(values, &keys, &vec![1.0; keys.len()])?;
        if (index + clock).is_multiple_of(5) {
            std::thread::sleep(Duration::from_millis(1 + index));
        }
        worker.clock()?;
    }
    Ok(())
}

fn unannounced(worker: &mut Worker<'_>, values: Table<f32>) -> Result<()> {
    worker.announce(0, &[Touch { tables: &[values.id], keys: &[3, 70_000] }])?;
    worker.announce(1, &[Touch { tables: &[values.id], keys: &[4] }])?;
    worker.get(values, &[3, 70_000], &mut Vec::new())?;
    worker.clock()?;
    worker.add(values, &[4, 70_000], &[1.0, 1.0])
}

async fn open(slaves: usize, speculation: Option<u32>, common: Common) -> Cluster {
    let params = serde_json::to_string(&Sparse { speculation, common }).unwrap();
    Cluster::open(Registry::new().with::<Sparse>(), slaves, "sparse", &params).await
}

/// Where the others stood still: least and most.
fn stood(outcomes: &[Outcome]) -> (u64, u64) {
    let value = |name| outcomes[0].metrics.value(name).unwrap() as u64;
    (value("least"), value("most"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_slow_worker_disjoint_keys_go_up_to_the_speculation_and_ssp_and_meeting_keys_do_not() {
    let staleness = u64::from(STALENESS);
    for (speculation, common, expected) in [
        (Some(SPECULATION), Common::None, BOTH),
        (Some(SPECULATION), Common::Always, staleness),
        // Clock 6 meets clock 2, which is no part of the staleness.
        (Some(SPECULATION), Common::Once, 5),
        (Some(0), Common::None, staleness),
        (None, Common::None, staleness),
    ] {
        for workers in [[3, 0, 0], [1, 1, 1], [1, 2, 0]] {
            let mut cluster = open(3, speculation, common).await;
            let outcomes = cluster.run(SLOW, &workers).await;
            let case = format!("{workers:?}, {speculation:?}, {common:?}");
            assert_eq!(stood(&outcomes), (expected, expected), "{case}");
            let most = outcomes.iter().map(|o| o.pace.most_lead).max().unwrap();
            assert!(most >= expected && most <= u64::from(STALENESS + speculation.unwrap_or(0)), "{case}: {most}");
            let conflicts: u64 = outcomes.iter().map(|o| o.pace.conflicts).sum();
            assert_eq!(
                conflicts > 0,
                speculation == Some(SPECULATION) && common != Common::None,
                "{case}: {conflicts}"
            );
            let values = cluster.read(VALUES, 7..13).await;
            let common_key = match common {
                Common::None => 0.0,
                Common::Always => 3.0 * CLOCKS as f32,
                Common::Once => 3.0,
            };
            assert_eq!(values, [common_key, 0.0, 0.0, CLOCKS as f32, CLOCKS as f32, CLOCKS as f32], "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_told_before_a_slave_was_launched_count_there() {
    let mut cluster = open(2, Some(SPECULATION), Common::None).await;
    let run = cluster.launch_in_turn(SLOW, &[1, 1], Duration::from_millis(100)).await;
    let outcomes = cluster.outcomes(run, &[1, 1]).await;
    assert_eq!(stood(&outcomes), (BOTH, BOTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_sees_all_updates_of_its_keys_that_ssp_would_show_it() {
    for workers in [[2, 1, 2], [4, 0, 0], [0, 2, 1]] {
        let mut cluster = open(3, Some(SPECULATION), Common::None).await;
        cluster.run(DRAWN, &workers).await;
        let threads = u64::from(workers.iter().sum::<u32>());
        let values = cluster.read(VALUES, 0..40 * 30_000).await;
        for (key, value) in values.iter().enumerate().filter(|(key, _)| key % 30_000 == 0) {
            let all = (0..threads).flat_map(|w| (0..CLOCKS).map(move |clock| some(w, clock)));
            assert_eq!(*value, all.filter(|keys| keys.contains(&(key as Key))).count() as f32, "key {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_not_announced_for_the_clock_is_an_error_that_names_it() {
    let mut cluster = open(2, Some(SPECULATION), Common::None).await;
    let run = cluster.launch(UNANNOUNCED, &[1, 0]).await;
    let error = cluster.next_outcome(run).await.error.unwrap();
    let expected = "sparse epoch 3 stage unannounced worker 0 on h1: key 70000 of table values was not announced for \
                    clock 1;";
    assert!(error.message.starts_with(expected), "{error}");
    let mut cluster = open(2, None, Common::None).await;
    cluster.run(UNANNOUNCED, &[1, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_counts_every_clock_by_its_lead_and_the_bytes_that_told_of_them() {
    let mut cluster = open(3, Some(SPECULATION), Common::None).await;
    let outcomes = cluster.run(SLOW, &[1, 1, 0]).await;
    for outcome in &outcomes {
        assert_eq!(outcome.pace.lead.iter().sum::<u64>(), CLOCKS, "{:?}", outcome.pace);
        assert_eq!(outcome.pace.worker_waits.len(), 1);
    }
    // The one that leads waits for the slow one, which waits for nobody while it lags.
    assert!(outcomes[1].pace.worker_waits[0] > 0.25, "{:?}", outcomes[1].pace);
    // A message a clock, of up to 150 bytes with the keys of a clock; the third slave, which has no workers, hears none.
    for bytes in outcomes.iter().map(|o| o.pace.control_bytes) {
        assert!(bytes > CLOCKS * 40 && bytes < CLOCKS * 150 + 1000, "{bytes} bytes of control messages");
    }
}
