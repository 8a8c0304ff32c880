//! The stage before a path of penalties: each feature's norm over all rows, and how many have it; of the latter a worker
//! also keeps its own rows', for its columns.
//!
//! Invariant: rows that are held out count too, so that a norm is never below that of the rows at hand.

use super::columns;
use super::gradient::block;
use super::occurring;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// The rows.
    pub rows: Rows,
    /// Where they go, two numbers for a feature, as [`occurring`] says: its squared norm, and its non-zeros; zero at the start.
    pub norms: Table<f64>,
}

impl Norms {
    /// The stage function.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut parts = Parts::new(worker, self.rows)?;
        let mut sums: Vec<[f64; 2]> = Vec::new();
        while let Some(part) = parts.next(worker)? {
            sums.clear();
            sums.resize(part.map.len(), [0.0; 2]);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                let mut add = |index: &u32, x: f64| {
                    // SAFETY: `block` checked the indices, and there are as many sums.
                    let [norm2, count] = unsafe { sums.get_unchecked_mut(*index as usize) };
                    *norm2 += x * x;
                    *count += 1.0;
                };
                match &block.values {
                    Some(values) => block.indices.iter().zip(values).for_each(|(index, x)| add(index, f64::from(*x))),
                    None => block.indices.iter().for_each(|index| add(index, 1.0)),
                }
            }
            occurring::add(worker, self.norms, &part, sums.as_flattened())?;
            if part.is_all() {
                columns::keep_counts(worker, self.rows, sums.iter().map(|[_, count]| *count as u32).collect())?;
            }
            if !part.is_all() {
                // So that the shards need not keep those of all parts.
                worker.clock()?;
            }
        }
        Ok(())
    }
}
