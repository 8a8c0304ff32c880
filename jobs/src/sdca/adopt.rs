//! Starting from a saved model.
//!
//! The solver moves dual variables, so it takes for each row the one that belongs to its margin, a = -f'(m), and the weights
//! w(a) that they give together. These are the model's own where it is an optimum; where it is not they may be far off, so
//! all a are taken times the g in 0..=1 for which the dual objective is, since f* is convex and f*(0) = 0, at least
//! ```text
//! D(g a) >= -g (1/n) sum c f*(-a) - g^2 lambda/2 |w(a)|^2
//! ```
//! at its largest. Invariant: training starts no lower in the dual than from zeros.

use super::bias;
use super::loss::{Kind, Loss, with_loss};
use super::rows::{Own, targets_or_labels};
use crate::logistic::{add_scaled_unchecked, dot_wide_unchecked};
use crate::parts::{Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::schema::DataPath;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Steps, Table, TableOp, Threads};
use flexps_common::worker::Worker;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Adopt {
    /// The rows.
    pub rows: Rows,
    /// The model.
    pub start: Vector,
    /// What is learned; zero.
    pub weights: Table<f32>,
}

impl Adopt {
    /// Plans the start from `model`.
    pub fn plan(self, steps: &mut Steps, model: &DataPath, kind: Kind, threads: Threads) {
        self.start.load(steps, model, self.rows.input);
        steps
            .stage("adopt", move |worker| with_loss!(kind, L => self.run::<L>(worker)))
            .threads(threads)
            .input(self.rows.input);
        steps.norm2(self.weights, "norm2");
        steps.decide(move |progress| {
            let metric = |name| progress.metric("adopt", name);
            let (conjugates, bias, sum) = (metric("conjugates")?, metric("bias")?, metric("sum")?);
            let (lambda, rows) = (progress.scalar("lambda", 0.0), progress.scalar("rows", 1.0));
            let curved = lambda * progress.scalar("norm2", 0.0);
            let best = if curved > 0.0 { -conjugates / rows / curved } else { 1.0 };
            let scale = if best.is_finite() { best.clamp(0.0, 1.0) } else { 0.0 };
            progress.set("start_scale", scale);
            progress.ops.push(TableOp::Scale { table: self.weights.id, by: scale });
            if self.start.bias.is_some() {
                bias::begin(progress, bias, scale * sum);
            }
            Ok(Flow::Next)
        });
    }

    /// The stage function: sets the dual variables, adds what they give to the weights. Reports the sum of the rows'
    /// `conjugates`, the `sum` of their dual variables with the signs of their targets, and the model's `bias`.
    fn run<L: Loss>(&self, worker: &mut Worker<'_>) -> Result<()> {
        let bias = f64::from(self.start.get_bias(worker)?);
        let share = 1.0 / (worker.scalar("lambda", 0.0) * worker.scalar("rows", 1.0));
        let mut parts = Parts::new(worker, self.rows)?;
        let features = parts.whole(worker)?.map_or(0, |part| part.map.len());
        let mut own = Own::take(worker, self.rows.input, features)?;
        let (mut start, mut made) = (Vec::new(), Vec::new());
        let (mut conjugates, mut sum) = (0.0, 0.0);
        while let Some(part) = parts.next(worker)? {
            worker.get_mapped(self.start.features, &part.map, &mut start)?;
            made.clear();
            made.resize(start.len(), 0.0);
            for i in part.start..part.start + part.blocks() {
                let block = own.block(worker, &part, i)?;
                let held = &mut own.blocks[i];
                let targets = targets_or_labels(&held.targets, &block);
                for (i, (a, target)) in held.dual.iter_mut().zip(targets).enumerate() {
                    let (row, target) = (block.row(i), f64::from(*target));
                    // SAFETY: `Own::block` checked the indices.
                    let score = bias + unsafe { dot_wide_unchecked(&row, &start) };
                    *a = L::dual(target.signum() * score) as f32;
                    let now = f64::from(*a);
                    conjugates += target.abs() * L::conjugate(now);
                    sum += target * now;
                    // SAFETY: as above, and there are as many sums as weights.
                    unsafe { add_scaled_unchecked(&row, (share * target * now) as f32, &mut made) };
                }
            }
            worker.add_mapped(self.weights, &part.map, &made)?;
        }
        worker.report("conjugates", Metric::Sum(conjugates));
        worker.report("sum", Metric::Sum(sum));
        worker.report("bias", Metric::Max(bias));
        own.put(worker)
    }
}
