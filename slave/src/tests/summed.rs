//! What the workers of a slave add to other slaves' shards, summed: each update once, in one order, in fewer messages.

use super::cluster::Cluster;
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Consistency, Plan, Storage, Table, TableSpec};
use flexps_common::report::SumUse;
use flexps_common::value::Type;
use flexps_common::wire::control::Outcome;
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};

const CLOCKS: u64 = 20;
/// Keys of a chunk of the wider table.
const CHUNK: Key = 1 << 15;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Adding {}

const BSP: u32 = 0;
const SSP: u32 = 1;

impl Job for Adding {
    const NAME: &'static str = "adding";
    const ABOUT: &'static str = "Stages whose workers add to the same keys";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let sums = plan.table::<f32>("sums", 2);
        let last = plan.table_with::<f32>(TableSpec {
            name: "last".to_owned(),
            element: Type::F32,
            width: 1,
            storage: Storage::Dense,
            update: "assign".to_owned(),
            update_params: Vec::new(),
        });
        for (name, model) in [("bsp", Consistency::Bsp), ("ssp", Consistency::Ssp { staleness: 1 })] {
            plan.body.stage(name, move |w| adding(w, sums, last)).consistency(model);
        }
        Ok(())
    }
}

/// A hundred keys on either of two slaves: a worker's own, and those that it shares with the next one.
fn keys(worker: usize) -> Vec<Key> {
    let first = 50 * worker as Key;
    (first..first + 100)
        .flat_map(|key| [key, key + CHUNK])
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Each worker ends at a clock of its own, the last of them without a clock's end behind its updates.
fn clocks(worker: usize) -> u64 {
    CLOCKS - worker as u64 % 2
}

/// A fraction that another order of summing would round otherwise.
fn value(worker: usize, clock: u64, key: Key) -> f32 {
    1.0 / (1 + worker as u64 + 7 * clock + u64::from(key % CHUNK)) as f32
}

fn adding(worker: &mut Worker<'_>, sums: Table<f32>, last: Table<f32>) -> Result<()> {
    let me = worker.place.index;
    let keys = keys(me);
    for clock in 0..clocks(me) {
        let values: Vec<_> = keys.iter().flat_map(|key| [value(me, clock, *key), 1.0]).collect();
        worker.add(sums, &keys, &values)?;
        worker.add(last, &keys, &vec![(100 * clock as usize + me) as f32; keys.len()])?;
        if clock + 1 < clocks(me) {
            worker.clock()?;
        }
    }
    Ok(())
}

async fn open(slaves: usize, sum_updates: bool) -> Cluster {
    let experiment = Experiment { sum_updates, ..Experiment::default() };
    Cluster::open_with(Registry::new().with::<Adding>(), slaves, "adding", "{}", experiment).await
}

fn used(outcomes: &[Outcome]) -> SumUse {
    let mut sum = SumUse::default();
    outcomes.iter().for_each(|outcome| sum.merge(&outcome.sums));
    sum
}

/// Both tables, of two slaves with so many workers.
async fn values(cluster: &Cluster) -> [Vec<f32>; 2] {
    let mut tables = [TableId(0), TableId(1)].map(|_| Vec::new());
    for (at, table) in tables.iter_mut().enumerate() {
        for start in [0, CHUNK] {
            table.extend(cluster.read(TableId(at as u16), start..start + 400).await);
        }
    }
    tables
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn summed_updates_are_each_applied_once_and_those_that_do_not_add_up_in_their_order() {
    const WORKERS: [u32; 2] = [3, 2];
    let mut cluster = open(2, true).await;
    let found = used(&cluster.run(BSP, &WORKERS).await);
    let [sums, last] = values(&cluster).await;
    for key in 0..400 {
        let adders: Vec<_> = (0..5).filter(|worker| keys(*worker).contains(&key)).collect();
        let each = |worker: &usize| (0..clocks(*worker)).map(|clock| value(*worker, clock, key)).sum::<f32>();
        let (sum, count) =
            (adders.iter().map(each).sum::<f32>(), adders.iter().map(|worker| clocks(*worker)).sum::<u64>());
        // Of those who were there at the last clock, the last one.
        let told = adders.iter().map(|worker| 100 * (clocks(*worker) - 1) + *worker as u64).max().unwrap_or(0);
        for half in [0, 400] {
            let at = half + key as usize;
            assert!((sums[2 * at] - sum).abs() <= 1e-4 * sum, "{} at {at}, {sum} expected", sums[2 * at]);
            assert_eq!((sums[2 * at + 1], last[at]), (count as f32, told as f32), "key {key}");
        }
    }
    let updates: u64 = (0..5).map(clocks).sum();
    let bytes = |keys: u64| 8 * keys;
    assert_eq!((found.updates, found.bytes), (updates, bytes(100 * updates)));
    assert_eq!(found.sent, 2 * CLOCKS);
    // Three workers of one slave have 200 keys of the other's; two have 150.
    assert!(found.sent_bytes <= bytes((200 + 150) * CLOCKS) && found.sent_bytes > bytes((200 + 150) * (CLOCKS - 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_have_the_same_bits_in_twenty_runs() {
    let mut first = None;
    for _ in 0..20 {
        let mut cluster = open(2, true).await;
        cluster.run(BSP, &[3, 2]).await;
        let bits = values(&cluster).await.map(|table| table.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        assert!(*first.get_or_insert_with(|| bits.clone()) == bits);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_summed_unless_it_is_asked_for_and_siblings_wait_for_one_another() {
    for (sum_updates, stage, workers) in [(false, BSP, [2, 2]), (true, SSP, [2, 2]), (true, BSP, [1, 1])] {
        let mut cluster = open(2, sum_updates).await;
        assert_eq!(used(&cluster.run(stage, &workers).await), SumUse::default());
    }
}
