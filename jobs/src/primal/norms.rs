//! The stage before a path of penalties: each feature's norm over all rows, and how many have it.
//!
//! Invariant: rows that are held out count too, so that a norm is never below that of the rows at hand.

use super::gradient::block;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// The rows.
    pub rows: Rows,
    /// Where they go, two numbers for a feature: its squared norm, and its non-zeros; zero at the start.
    pub norms: Table<f64>,
}

impl Norms {
    /// The stage function.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut parts = Parts::new(worker, self.rows)?;
        let mut sums: Vec<f64> = Vec::new();
        while let Some(part) = parts.next(worker)? {
            sums.clear();
            sums.resize(2 * part.map.len(), 0.0);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                for i in 0..block.rows() {
                    let row = block.row(i);
                    for (at, index) in row.indices.iter().enumerate() {
                        let x = row.values.map_or(1.0, |values| f64::from(values[at]));
                        let own = &mut sums[2 * *index as usize..][..2];
                        own[0] += x * x;
                        own[1] += 1.0;
                    }
                }
            }
            worker.add_mapped(self.norms, &part.map, &sums)?;
            if !part.is_all() {
                // So that the shards need not keep those of all parts.
                worker.clock()?;
            }
        }
        Ok(())
    }
}
