//! `store`: how fast keys are read and updated.

use flexps_common::error::Result;
use flexps_common::ids::Key;
use flexps_common::job::Job;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Consistency, Plan, Table, Threads};
use flexps_common::value::Element;
use flexps_common::worker::{Pull, Worker};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Instant;

/// Keys of a chunk of a table of one f32 per key. Chunks alternate between two shards.
const CHUNK_KEYS: u32 = 1 << 16;

/// Random keys, read and updated by one worker; half of the chunks are the other slave's when there are two.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct Store {
    /// Keys of the table that one of two slaves serves.
    #[arg(long, default_value_t = 10_000_000)]
    keys: u32,
    /// Keys of a request.
    #[arg(long, default_value_t = 10_000)]
    request: usize,
    /// Requests per measurement.
    #[arg(long, default_value_t = 4_000)]
    requests: usize,
    /// Requests under way at once.
    #[arg(long, default_value_t = 8)]
    window: usize,
    /// Different key lists, taken in turn; as many as requests makes every list new.
    #[arg(long, default_value_t = 64)]
    lists: usize,
}

impl Job for Store {
    const NAME: &'static str = "store";
    const ABOUT: &'static str = "Reads and updates random keys";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let table = plan.table::<f32>("values", 1);
        let (chunks, store) = (self.chunks(), self.clone());
        // Two workers, so that a job on two slaves has a shard on each.
        plan.body
            .stage("fill", move |worker| {
                for chunk in (worker.place.index as u32..2 * chunks).step_by(worker.place.threads) {
                    let ones = vec![1.0; CHUNK_KEYS as usize];
                    worker.add_range(table, chunk * CHUNK_KEYS..(chunk + 1) * CHUNK_KEYS, &ones)?;
                }
                Ok(())
            })
            .threads(Threads::Count(2));
        plan.body
            .stage("measure", move |worker| store.measure(worker, table))
            .threads(Threads::Count(1))
            .consistency(Consistency::Asp);
        Ok(())
    }
}

impl Store {
    /// Chunks that one of two slaves serves.
    fn chunks(&self) -> u32 {
        self.keys.div_ceil(CHUNK_KEYS)
    }

    fn measure(&self, worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
        let mut values = Vec::new();
        // The slower parity is the other process's.
        for (parity, name) in [(0, "even"), (1, "odd")] {
            let lists = self.key_lists(parity);
            let keys = (self.requests * lists[0].len()) as f64;
            // One round over all lists first, so that remembered lists are remembered.
            self.read(worker, table, &lists, lists.len().min(self.requests))?;
            let start = Instant::now();
            self.read(worker, table, &lists, self.requests)?;
            worker.report(&format!("get_{name}"), Metric::Max(keys / start.elapsed().as_secs_f64()));
            values.resize(lists[0].len(), 1.0f32);
            let start = Instant::now();
            for i in 0..self.requests {
                worker.add(table, &lists[i % lists.len()], &values)?;
            }
            worker.clock()?;
            let small = &lists[0][..10.min(self.request)];
            // Answered when all of them have arrived.
            worker.get(table, small, &mut values)?;
            worker.report(&format!("add_{name}"), Metric::Max(keys / start.elapsed().as_secs_f64()));
            let start = Instant::now();
            for _ in 0..1_000 {
                worker.get(table, small, &mut values)?;
            }
            worker.report(&format!("round_trip_{name}_us"), Metric::Max(start.elapsed().as_secs_f64() * 1e3));
        }
        Ok(())
    }

    fn key_lists(&self, parity: u32) -> Vec<Vec<Key>> {
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(parity) + 1);
        let mut list = || {
            let mut keys: Vec<Key> = (0..self.request)
                .map(|_| {
                    let at = random.random_range(0..self.chunks() * CHUNK_KEYS);
                    (2 * (at / CHUNK_KEYS) + parity) * CHUNK_KEYS + at % CHUNK_KEYS
                })
                .collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        let mut lists: Vec<Vec<Key>> = (0..self.lists.max(1)).map(|_| list()).collect();
        // All lists as long as the shortest, so that a request's size is one number.
        let shortest = lists.iter().map(Vec::len).min().unwrap_or(0);
        lists.iter_mut().for_each(|l| l.truncate(shortest));
        lists
    }

    fn read(&self, worker: &mut Worker<'_>, table: Table<f32>, lists: &[Vec<Key>], requests: usize) -> Result<()> {
        let mut values = vec![0.0f32; lists[0].len()];
        let mut under_way = VecDeque::new();
        for i in 0..requests + self.window {
            if i >= self.window.min(requests)
                && let Some(ticket) = under_way.pop_front()
            {
                worker.finish_get(ticket, &mut [f32::wrap_mut(&mut values)])?;
            }
            if i < requests {
                let keys = &lists[i % lists.len()];
                under_way.push_back(worker.start_get(&[Pull { table: table.id, keys }])?);
            }
        }
        for ticket in under_way {
            worker.finish_get(ticket, &mut [f32::wrap_mut(&mut values)])?;
        }
        Ok(())
    }
}
