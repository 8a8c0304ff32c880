//! The weights made anew from the dual variables, before a certificate, where rounding may have led the ones away from the others.
//!
//! A step adds a x/(lambda n) to weights of 24 bits. Where a weight is made of very many rows that is little beside it, and what
//! is rounded off adds up, always the same way for rows that are alike; the certificate takes weights w for those of the dual
//! variables, w(a), and lacks lambda/2 |w - w(a)|^2. Margins tell, for nothing, how far apart the two are along w itself:
//! lambda w.w(a) = (1/n) sum a m. Invariant: what is apart that far is added to the gap; where it counts weights are made anew before
//! the certificates that follow, and are those of the dual variables then, but for one rounding.

use super::rows::{Own, targets_or_labels};
use crate::parts::{Part, Parts, Rows};
use crate::primal::{add_scaled, ranges};
use flexps_common::Result;
use flexps_common::plan::{Plan, Progress, Steps, Table, Threads};
use flexps_common::worker::Worker;

/// The part of a weight that a step's rounding may take, at most.
const ROUNDING: f64 = 1.0 / (1u32 << 25) as f64;
/// What the gap lacks counts where it is above this part of what is asked for, or of this part of the objective where that is less.
const COUNTS: f64 = 0.1;
const LEAST: f64 = 1e-8;

/// The scalar that asks for it.
const ASKED: &str = "renews";
/// The scalar that says that certificates need it.
const NEEDED: &str = "renewal_needed";
/// The scalar that counts epochs since.
const SINCE: &str = "epochs_since_renewal";

/// What the stages need of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Renew {
    rows: Rows,
    weights: Table<f32>,
    /// What dual variables give; zero before.
    made: Table<f64>,
}

/// Before the first epoch of a problem.
pub fn begin(progress: &mut Progress) {
    [ASKED, NEEDED, SINCE].into_iter().for_each(|name| progress.set(name, 0.0));
}

/// Before a certificate, if one comes: whether weights are to be made anew.
pub fn before(progress: &mut Progress) {
    let asked = progress.scalar(NEEDED, 0.0) > 0.0 && progress.scalar("judge", 0.0) > 0.0;
    progress.set(ASKED, f64::from(u8::from(asked)));
    progress.set(SINCE, if asked { 0.0 } else { progress.scalar(SINCE, 0.0) + 1.0 });
}

/// Behind a certificate: what the gap lacks, where this part of an objective is asked for. Along w the two are apart by the part r of it, and no
/// weight by more than all steps' rounding together; if that is e, |w - w(a)|^2 is about r e |w|^2 at most.
pub fn missing(progress: &mut Progress, (tolerance, objective): (f64, f64)) -> Result<f64> {
    let (rows, lambda) = (progress.scalar("rows", 1.0), progress.scalar("lambda", 0.0));
    let along = progress.metric("certificate", "along")? / rows;
    let most = (ROUNDING * rows * progress.scalar(SINCE, 0.0)).min(1.0);
    let missing = 0.5 * most * (along - lambda * progress.scalar("norm2", 0.0)).abs();
    if missing > COUNTS * tolerance.max(LEAST) * objective {
        progress.set(NEEDED, 1.0);
    }
    Ok(missing)
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
