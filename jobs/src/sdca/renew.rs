//! The weights made anew from the dual variables, before a certificate, where rounding may have led the ones away from the others.
//!
//! A step adds a x/(lambda n) to weights of 24 bits. Where a weight is made of very many rows that is little beside it, and what
//! is rounded off adds up, always the same way for rows that are alike; the certificate takes weights for those of the dual
//! variables. Invariant: behind this they are, but for one rounding; where it can't matter nothing is done.

use super::rows::{Own, targets_or_labels};
use crate::parts::{Part, Parts, Rows};
use crate::primal::{add_scaled, ranges};
use flexps_common::Result;
use flexps_common::data::Facts;
use flexps_common::plan::{Plan, Progress, Steps, Table, Threads};
use flexps_common::worker::Worker;

/// Weights that are so many times what a row can add to them: a step then has four bits, or fewer.
const COARSE: f64 = (1u32 << 20) as f64;

/// The scalar that asks for it.
const ASKED: &str = "renews";
/// The scalar that says how much a row adds, for a dual variable of 1: what it counts times its norm.
const ROW: &str = "row_adds";

/// What the stages need of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Renew {
    rows: Rows,
    weights: Table<f32>,
    /// What dual variables give; zero before.
    made: Table<f64>,
}

/// Sets what [`before`] needs: that rows of some class count `least`, and none less.
pub fn begin(progress: &mut Progress, facts: &Facts, least: f64) {
    progress.set(ROW, least * (facts.sum_norm2 / facts.rows.max(1) as f64).sqrt());
}

/// Before a certificate, if one comes: whether weights are to be made anew.
pub fn before(progress: &mut Progress) {
    let all = progress.scalar("lambda", 0.0) * progress.scalar("rows", 1.0);
    let coarse = all * progress.scalar("norm2", 0.0).sqrt() > COARSE * progress.scalar(ROW, 0.0);
    let asked = coarse && progress.scalar("judge", 0.0) > 0.0;
    progress.set(ASKED, f64::from(u8::from(asked)));
}

impl Renew {
    /// Adds its table to the plan.
    pub fn new(plan: &mut Plan, rows: Rows, weights: Table<f32>) -> Self {
        Self { rows, weights, made: plan.table("made", 1) }
    }

    /// Plans it, where it is asked for.
    pub fn plan(self, epoch: &mut Steps, threads: Threads) {
        epoch.when(ASKED, 1.0, |epoch| {
            epoch.zero(self.made);
            epoch.stage("sum-rows", move |worker| self.sum(worker)).threads(threads).input(self.rows.input);
            epoch.stage("renew", move |worker| self.renew(worker)).threads(threads);
            epoch.norm2(self.weights, "norm2");
        });
    }

    /// The stage function that sums what the rows' dual variables give.
    fn sum(self, worker: &mut Worker<'_>) -> Result<()> {
        let share = 1.0 / (worker.scalar("lambda", 0.0) * worker.scalar("rows", 1.0));
        let mut parts = Parts::new(worker, self.rows)?;
        let features = parts.whole(worker)?.map_or(0, |part| part.map.len());
        let mut own = Own::take(worker, self.rows.input, features)?;
        while let Some(part) = parts.next(worker)? {
            let made = of_part(worker, &mut own, &part, share)?;
            worker.add_mapped(self.made, &part.map, &made)?;
            if !part.is_all() {
                // So that the shards need not keep the sums of all parts.
                worker.clock()?;
            }
        }
        own.put(worker)
    }

    /// The stage function behind it: puts them in the weights' place.
    fn renew(self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut made, mut weights) = (Vec::new(), Vec::new());
        ranges(worker, |worker, keys| {
            worker.get_range(self.made, keys.clone(), &mut made)?;
            worker.get_range(self.weights, keys.clone(), &mut weights)?;
            weights.iter_mut().zip(&made).for_each(|(weight, made)| *weight = (made - f64::from(*weight)) as f32);
            worker.add_range(self.weights, keys, &weights)
        })
    }
}

/// The sums of a part's rows, by its features.
fn of_part(worker: &mut Worker<'_>, own: &mut Own, part: &Part, share: f64) -> Result<Vec<f64>> {
    let mut made = vec![0.0; part.map.len()];
    for i in part.start..part.start + part.blocks() {
        let block = own.block(worker, part, i)?;
        let held = &own.blocks[i];
        let targets = targets_or_labels(&held.targets, &block);
        for (i, (a, target)) in held.dual.iter().zip(targets).enumerate() {
            let by = share * f64::from(*target) * f64::from(*a);
            // SAFETY: `Own::block` checked the indices.
            unsafe { add_scaled(&block.row(i), by, false, &mut made) };
        }
    }
    Ok(made)
}
