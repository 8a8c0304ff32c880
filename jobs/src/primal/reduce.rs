//! Sums over all workers of a stage, wherever they are: each gives its values, all get the same sums.
//!
//! The workers of a slave sum among themselves; of several slaves each one's first worker adds the slave's sums to a
//! table and reads all slaves' after a clock. Two regions of the table take turns, and what was read from one is taken
//! out of it again while the other is in use. Invariant: between stages the table is zero.

use flexps_common::Result;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// The sums of one stage. Every worker must make the same calls with equally many values, and no other clock.
#[derive(Debug)]
pub struct Reduce {
    table: Table<f64>,
    /// Keys of a region.
    room: u32,
    turn: u32,
}

impl Reduce {
    /// Sums of at most `room` values each.
    pub fn new(table: Table<f64>, room: usize) -> Self {
        Self { table, room: room as u32, turn: 0 }
    }

    /// Replaces `values` by their sums over all workers.
    pub fn sum(&mut self, worker: &mut Worker<'_>, values: &mut Vec<f64>) -> Result<()> {
        worker.sum_local(values)?;
        if worker.place.slaves <= 1 || values.is_empty() {
            return Ok(());
        }
        debug_assert!(values.len() <= self.room as usize);
        let from = self.turn % 2 * self.room;
        let keys = from..from + values.len() as u32;
        self.turn += 1;
        let leads = worker.place.local_index == 0;
        if leads {
            worker.add_range(self.table, keys.clone(), values)?;
        }
        worker.clock()?;
        if leads {
            worker.get_range(self.table, keys.clone(), values)?;
        } else {
            values.fill(0.0);
        }
        if worker.place.index == 0 {
            let back: Vec<f64> = values.iter().map(|value| -value).collect();
            worker.add_range(self.table, keys, &back)?;
        }
        worker.sum_local(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::host::Host;
    use flexps_common::plan::Plan;

    #[test]
    fn every_worker_gets_the_sum_of_all_and_nothing_stays_behind() {
        for (slaves, slots) in [(1, 1), (1, 3), (3, 1), (2, 2)] {
            let mut plan = Plan::default();
            let table = plan.table::<f64>("sums", 1);
            for _ in 0..2 {
                plan.body.stage("sum", move |worker| {
                    let mut reduce = Reduce::new(table, 4);
                    let (index, threads) = (worker.place.index as f64, worker.place.threads as f64);
                    for round in 0..5 {
                        let mut values = vec![index + 1.0, f64::from(round)];
                        reduce.sum(worker, &mut values)?;
                        assert_eq!(values, [threads * (threads + 1.0) / 2.0, threads * f64::from(round)]);
                    }
                    Ok(())
                });
            }
            let outcome = Host::cluster(slaves, slots).run(&plan).unwrap();
            assert_eq!(outcome.table("sums", 0..8), [0.0; 8]);
        }
    }
}
