//! What the workers of a slave share of what they read: one fetch for all, never more than their model allows.

use super::cluster::Cluster;
use flexps_common::error::{Error, Result};
use flexps_common::experiment::{Experiment, Switch};
use flexps_common::ids::{Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Consistency, Plan, Table};
use flexps_common::report::CacheUse;
use flexps_common::value::Element;
use flexps_common::wire::control::Outcome;
use flexps_common::worker::{Pull, Worker};
use serde::{Deserialize, Serialize};

const CLOCKS: u64 = 30;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Sharing {
    /// None: ASP; -1: BSP; else SSP.
    #[arg(long)]
    staleness: Option<i64>,
}

const TOGETHER: u32 = 0;
const APART: u32 = 1;
const AHEAD: u32 = 2;

impl Job for Sharing {
    const NAME: &'static str = "sharing";
    const ABOUT: &'static str = "Stages whose workers read the same keys";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let staleness = self.staleness;
        let consistency = match staleness {
            None => Consistency::Asp,
            Some(-1) => Consistency::Bsp,
            Some(s) => Consistency::Ssp { staleness: s as u32 },
        };
        let counts = plan.table::<f32>("counts", 1);
        let body = &mut plan.body;
        body.stage("together", move |w| together(w, counts, staleness)).consistency(consistency);
        body.stage("apart", move |w| apart(w, counts)).consistency(consistency);
        body.stage("ahead", move |w| ahead(w, counts)).consistency(consistency);
        Ok(())
    }
}

/// Keys in a chunk of either of two slaves, no two of which share a slot.
fn keys() -> Vec<Key> {
    (0..600).map(|i| i + i / 300 * ((1 << 16) + 1000)).collect()
}

fn get(worker: &mut Worker<'_>, table: Table<f32>, keys: &[Key]) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    worker.get(table, keys, &mut out)?;
    Ok(out)
}

/// Each worker adds its own number to all keys at each clock, and reads them: its own updates, and those of the others that
/// it must see.
fn together(worker: &mut Worker<'_>, table: Table<f32>, staleness: Option<i64>) -> Result<()> {
    let keys = keys();
    let (own, threads) = ((worker.place.index + 1) as f32, worker.place.threads as f32);
    let all = threads * (threads + 1.0) / 2.0;
    for clock in 0..CLOCKS {
        let values = get(worker, table, &keys)?;
        let of_all = match staleness {
            None => 0,
            Some(-1) => clock,
            Some(staleness) => clock.saturating_sub(staleness as u64),
        };
        let least = of_all as f32 * all + (clock - of_all) as f32 * own;
        let exact = staleness == Some(-1);
        if let Some(value) = values.iter().find(|value| **value < least || exact && **value != least) {
            return Err(Error::bug(format!("{value} at clock {clock}, at least {least} expected")));
        }
        worker.add(table, &keys, &vec![own; keys.len()])?;
        worker.clock()?;
    }
    Ok(())
}

/// Each worker reads keys of its own.
fn apart(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    let first = worker.place.index as Key;
    let keys: Vec<Key> = (0..1000).map(|i| (1 << 15) + first + 8 * i + i / 500 * (1 << 16)).collect();
    for _ in 0..CLOCKS {
        get(worker, table, &keys)?;
        worker.add(table, &keys, &vec![1.0; keys.len()])?;
        worker.clock()?;
    }
    Ok(())
}

/// Reads that are begun in one clock and ended in the next, or never, and others in between.
fn ahead(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    let keys = keys();
    let pull = [Pull { table: table.id, keys: &keys }];
    let mut out = vec![0.0; keys.len()];
    for clock in 0..CLOCKS {
        let ticket = worker.start_get(&pull)?;
        if clock % 3 == worker.place.index as u64 % 3 {
            worker.start_get(&pull)?;
        }
        get(worker, table, &keys[..400])?;
        if clock % 2 == 0 {
            worker.clock()?;
        }
        worker.finish_get(ticket, &mut [f32::wrap_mut(&mut out)])?;
        if clock % 2 == 1 {
            worker.clock()?;
        }
    }
    Ok(())
}

async fn open(staleness: Option<i64>, slave_cache: Switch) -> Cluster {
    let params = format!(r#"{{"staleness":{}}}"#, staleness.map_or("null".to_owned(), |s| s.to_string()));
    let experiment = Experiment { slave_cache, ..Experiment::default() };
    Cluster::open_with(Registry::new().with::<Sharing>(), 2, "sharing", &params, experiment).await
}

fn used(outcomes: &[Outcome]) -> CacheUse {
    let mut sum = CacheUse::default();
    outcomes.iter().for_each(|outcome| sum.merge(&outcome.cache));
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fetch_of_a_key_serves_all_workers_of_a_slave_at_a_bsp_clock() {
    let mut cluster = open(Some(-1), Switch::On).await;
    let found = used(&cluster.run(TOGETHER, &[4, 3]).await);
    // 300 keys of either slave at the other one.
    assert_eq!(found, CacheUse { hits: 300 * CLOCKS * (3 + 2), misses: 300 * CLOCKS * 2, off: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_reads_its_own_updates_and_those_that_it_must_see_whatever_its_siblings_have_read() {
    for staleness in [Some(0), Some(2), Some(5), None] {
        let mut cluster = open(staleness, Switch::On).await;
        let found = used(&cluster.run(TOGETHER, &[3, 2]).await);
        assert_eq!(found.hits + found.misses, 300 * CLOCKS * 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_ended_late_or_never_keep_nobody_waiting() {
    for staleness in [Some(-1), Some(1), None] {
        let mut cluster = open(staleness, Switch::On).await;
        cluster.run(AHEAD, &[3, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_with_too_few_hits_is_left() {
    let mut cluster = open(Some(-1), Switch::Auto).await;
    let found = used(&cluster.run(APART, &[2, 2]).await);
    assert_eq!((found.hits, found.off), (0, 2));
    assert!(found.misses < 500 * CLOCKS * 4, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_on_a_slave_and_tables_beside_the_workers_need_no_cache() {
    let mut cluster = open(Some(-1), Switch::On).await;
    assert_eq!(used(&cluster.run(TOGETHER, &[1, 1]).await), CacheUse::default());
    let mut cluster = open(Some(-1), Switch::Off).await;
    assert_eq!(used(&cluster.run(TOGETHER, &[2, 2]).await), CacheUse::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_changes_no_bit_under_bsp() {
    let mut bits = Vec::new();
    for switch in [Switch::On, Switch::Off, Switch::On] {
        let mut cluster = open(Some(-1), switch).await;
        cluster.run(TOGETHER, &[2, 3]).await;
        let values = cluster.read(TableId(0), 0..70_000).await;
        bits.push(values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    }
    assert!(bits[0] == bits[1] && bits[0] == bits[2]);
}
