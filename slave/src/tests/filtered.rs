//! Small updates of other slaves' shards that are held back: none is lost, none for longer than the filter says.

use super::cluster::Cluster;
use flexps_common::error::Result;
use flexps_common::ids::{Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Consistency, Plan, Significant, Table};
use flexps_common::report::FilterUse;
use flexps_common::wire::control::Outcome;
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};

const CLOCKS: u64 = 30;
/// Keys of a chunk: the next ones lie on the other slave.
const CHUNK: Key = 1 << 16;
/// Changes are small beside all that are not zero.
const FILTER: Significant = Significant { share: 1e6, clocks: 3 };

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Counting {}

const MODELS: [Consistency; 3] = [Consistency::Bsp, Consistency::Ssp { staleness: 1 }, Consistency::Asp];

impl Job for Counting {
    const NAME: &'static str = "counting";
    const ABOUT: &'static str = "Stages whose workers add one to each key at each clock";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        for (at, model) in MODELS.into_iter().enumerate() {
            let sums = plan.table::<f32>(&format!("sums-{at}"), 1);
            plan.body
                .stage(&format!("{model:?}"), move |w| counting(w, sums, model))
                .consistency(model)
                .filter(Some(FILTER));
        }
        Ok(())
    }
}

/// Two runs of keys with gaps, one on either slave.
fn keys() -> Vec<Key> {
    (0..100)
        .map(|key| 3 * key)
        .flat_map(|key| [key, key + CHUNK])
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn counting(worker: &mut Worker<'_>, sums: Table<f32>, model: Consistency) -> Result<()> {
    let (keys, mut seen) = (keys(), Vec::new());
    let threads = worker.place.threads as u64;
    for clock in 0..CLOCKS {
        worker.get(sums, &keys, &mut seen)?;
        // What others must not miss: all of the clocks that ended so long ago that none of it may be held back.
        let least = match model {
            Consistency::Bsp => clock.saturating_sub(u64::from(FILTER.clocks)),
            Consistency::Ssp { staleness } => clock.saturating_sub(u64::from(FILTER.clocks + staleness)),
            _ => 0,
        };
        let most = if model == Consistency::Bsp { threads * clock } else { threads * CLOCKS };
        let allowed = (threads * least) as f32..=most as f32;
        assert!(
            seen.iter().all(|value| allowed.contains(value)),
            "{seen:?} at clock {clock}, {allowed:?} under {model:?}"
        );
        worker.add(sums, &keys, &vec![1.0; keys.len()])?;
        if clock + 1 < CLOCKS {
            worker.clock()?;
        }
    }
    Ok(())
}

fn used(outcomes: &[Outcome]) -> FilterUse {
    let mut sum = FilterUse::default();
    outcomes.iter().for_each(|outcome| sum.merge(&outcome.filter));
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_arrives_by_the_stages_end_and_no_reader_misses_more_than_the_bound() {
    let mut cluster = Cluster::open(Registry::new().with::<Counting>(), 2, "counting", "{}").await;
    for (stage, model) in (0..).zip(MODELS) {
        let found = used(&cluster.run(stage, &[2, 1]).await);
        for start in [0, CHUNK] {
            let values = cluster.read(TableId(stage as u16), start..start + 300).await;
            for (key, value) in (start..).zip(values) {
                let expected = if keys().contains(&key) { 3.0 * CLOCKS as f32 } else { 0.0 };
                assert_eq!(value, expected, "key {key} under {model:?}");
            }
        }
        // Each worker adds to the hundred keys of the other slave.
        assert_eq!(found.entries, 3 * 100 * CLOCKS);
        assert!(2 * found.held > found.entries && 2 * found.sent < found.entries, "{found:?} under {model:?}");
        assert_eq!(found.saved_bytes, 4 * (found.entries - found.sent));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_held_back_where_all_tables_are_beside_the_workers() {
    let mut cluster = Cluster::open(Registry::new().with::<Counting>(), 1, "counting", "{}").await;
    assert_eq!(used(&cluster.run(0, &[2]).await), FilterUse::default());
}
