//! A model that is wanted whole on one slave.

use flexps_common::error::Result;
use flexps_common::job::Job;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Consistency, Plan, Table, Threads};
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Keys of a chunk of a table of one f32 per key.
const CHUNK: u32 = 1 << 16;

/// A table that two slaves made, read and written whole by one worker.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct Transfer {
    /// MB of the table; half of it has to go to the other slave.
    #[arg(long, default_value_t = 200)]
    megabytes: u32,
}

impl Job for Transfer {
    const NAME: &'static str = "transfer";
    const ABOUT: &'static str = "Brings a model to one slave";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let table = plan.table::<f32>("model", 1);
        let chunks = self.megabytes * 1_000_000 / (4 * CHUNK);
        let own = move |worker: &mut Worker<'_>| {
            let ones = vec![1.0; CHUNK as usize];
            for chunk in (worker.place.index as u32..chunks).step_by(worker.place.threads) {
                worker.add_range(table, keys(chunk), &ones)?;
            }
            // So that they are in the table when it is to move.
            worker.clock()
        };
        plan.body.stage("make", own).threads(Threads::Count(2));
        // Asynchronous: its updates go to the table at once, so that what is timed is their way.
        plan.body
            .stage("use", move |worker| work(worker, table, chunks))
            .threads(Threads::OneSlave(1))
            .consistency(Consistency::Asp);
        Ok(())
    }
}

fn keys(chunk: u32) -> std::ops::Range<u32> {
    chunk * CHUNK..(chunk + 1) * CHUNK
}

/// Reads all, then writes all, sixteen chunks a request.
fn work(worker: &mut Worker<'_>, table: Table<f32>, chunks: u32) -> Result<()> {
    let (mut values, start) = (Vec::new(), Instant::now());
    for chunk in (0..chunks).step_by(16) {
        worker.get_range(table, keys(chunk).start..keys(chunks.min(chunk + 16) - 1).end, &mut values)?;
    }
    worker.report("read_ms", Metric::Max(start.elapsed().as_secs_f64() * 1e3));
    let (ones, start) = (vec![1.0; 16 * CHUNK as usize], Instant::now());
    for chunk in (0..chunks).step_by(16) {
        let keys = keys(chunk).start..keys(chunks.min(chunk + 16) - 1).end;
        worker.add_range(table, keys.clone(), &ones[..keys.len()])?;
    }
    worker.clock()?;
    // Answered when all of it has arrived, by either slave.
    worker.get(table, &[0, CHUNK], &mut values)?;
    worker.report("write_ms", Metric::Max(start.elapsed().as_secs_f64() * 1e3));
    Ok(())
}
