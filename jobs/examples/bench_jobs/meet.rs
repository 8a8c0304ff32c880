//! `meet`: workers that take turns at being slow, and touch keys that meet those of others with a given probability.
//!
//! A clock's time is slept, so that it does not depend on how many cores there are.

use flexps_common::error::{Error, Result};
use flexps_common::ids::Key;
use flexps_common::job::Job;
use flexps_common::plan::{Consistency, Plan, Table, Threads};
use flexps_common::worker::{Touch, Worker};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Keys of a worker's own that each of its clocks touches.
const OWN: Key = 10;

/// Clocks whose keys meet now and then.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct Meet {
    /// Workers.
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// Clocks of each.
    #[arg(long, default_value_t = 240)]
    clocks: u64,
    /// What a clock takes, in microseconds.
    #[arg(long, default_value_t = 1000)]
    work: u64,
    /// How many times as long it takes for the worker whose turn it is to be slow.
    #[arg(long, default_value_t = 4)]
    factor: u64,
    /// Clocks of a turn.
    #[arg(long, default_value_t = 3)]
    turn: u64,
    /// Probability that clocks of two workers have a key in common.
    #[arg(long, default_value_t = 0.1)]
    conflict: f64,
    /// bsp, ssp, asp or sparse-ssp.
    #[arg(long, default_value = "sparse-ssp")]
    model: String,
    /// Clocks that are always allowed ahead.
    #[arg(long, default_value_t = 1)]
    staleness: u32,
    /// Clocks further that are allowed when no keys meet.
    #[arg(long, default_value_t = 16)]
    speculation: u32,
}

impl Job for Meet {
    const NAME: &'static str = "meet";
    const ABOUT: &'static str = "Runs clocks whose keys meet now and then, beside a worker that is slow";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let Self { staleness, speculation, .. } = *self;
        let consistency = match self.model.as_str() {
            "bsp" => Consistency::Bsp,
            "ssp" => Consistency::Ssp { staleness },
            "asp" => Consistency::Asp,
            "sparse-ssp" => Consistency::SparseSsp { staleness, speculation },
            other => return Err(Error::user(format!("'{other}' is no model; give bsp, ssp, asp or sparse-ssp"))),
        };
        if !(0.0..=1.0).contains(&self.conflict) {
            return Err(Error::user(format!("--conflict {} is no probability; give 0 to 1", self.conflict)));
        }
        let (table, meet) = (plan.table::<f32>("values", 1), self.clone());
        let stage = plan.body.stage("meet", move |worker| meet.run(worker, table));
        stage.threads(Threads::Count(self.threads)).consistency(consistency);
        Ok(())
    }
}

impl Meet {
    fn run(&self, worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
        let index = worker.place.index as u64;
        let (mut announced, mut values) = (0, Vec::new());
        while worker.clocks() < self.clocks {
            let clock = worker.clocks();
            if let Some(ahead) = worker.ahead() {
                while announced <= clock + u64::from(ahead) {
                    worker.announce(announced, &[Touch { tables: &[table.id], keys: &self.keys(index, announced) }])?;
                    announced += 1;
                }
            }
            let keys = self.keys(index, clock);
            worker.get(table, &keys, &mut values)?;
            let slow = clock / self.turn % u64::from(self.threads) == index;
            std::thread::sleep(Duration::from_micros(self.work * if slow { self.factor } else { 1 }));
            worker.add(table, &keys, &vec![1.0; keys.len()])?;
            worker.clock()?;
        }
        Ok(())
    }

    /// A worker's own keys, and in some clocks key 0: two clocks meet when both have it.
    fn keys(&self, worker: u64, clock: u64) -> Vec<Key> {
        let mut random = ChaCha8Rng::seed_from_u64(worker << 32 | clock);
        let common = random.random_bool(self.conflict.sqrt());
        let own = 1 + OWN * worker as Key;
        (0..Key::from(common)).chain(own..own + OWN).collect()
    }
}
