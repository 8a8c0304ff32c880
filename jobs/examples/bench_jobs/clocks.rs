//! `clocks`: what a clock costs when nothing else happens, beside the round trips of one worker.

use flexps_common::error::{Error, Result};
use flexps_common::job::Job;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Consistency, Plan, Table, Threads};
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A chunk of a table of one f32 per key: chunks of two shards follow one another.
const CHUNK_KEYS: u32 = 1 << 16;

/// Clocks in which nothing happens, under BSP.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct Clocks {
    /// Workers.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Clocks.
    #[arg(long, default_value_t = 2000)]
    clocks: u64,
}

impl Job for Clocks {
    const NAME: &'static str = "clocks";
    const ABOUT: &'static str = "Ends clocks in which nothing happens";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let table = plan.table::<f32>("values", 1);
        let clocks = self.clocks;
        let tick = move |worker: &mut Worker<'_>| {
            // All are there behind the first.
            worker.clock()?;
            let start = Instant::now();
            (0..clocks).try_for_each(|_| worker.clock())?;
            worker.report("clock_us", Metric::Max(start.elapsed().as_secs_f64() * 1e6 / clocks as f64));
            Ok(())
        };
        plan.body.stage("clocks", tick).threads(Threads::Count(self.threads)).consistency(Consistency::Bsp);
        let trips = move |worker: &mut Worker<'_>| {
            // A worker beside each shard, so that the table stays on both; one of them reads.
            if worker.place.index > 0 { Ok(()) } else { round_trips(worker, table) }
        };
        plan.body.stage("round-trips", trips).threads(Threads::PerSlave(1)).consistency(Consistency::Asp);
        Ok(())
    }
}

/// Reads a key of each shard, again and again; the slower one is the other process's.
fn round_trips(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    const TRIPS: u32 = 1_000;
    let (mut slowest, mut out) = (0.0f64, Vec::new());
    for key in [0, CHUNK_KEYS] {
        let start = Instant::now();
        for _ in 0..TRIPS {
            worker.get(table, &[key], &mut out)?;
        }
        slowest = slowest.max(start.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS));
    }
    if out != [0.0] {
        return Err(Error::bug("nobody wrote to the table"));
    }
    worker.report("round_trip_us", Metric::Max(slowest));
    Ok(())
}
