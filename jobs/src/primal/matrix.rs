//! The stage that learns without an L1 penalty where features are few: Newton steps found by the matrix of all of them, made of
//! the rows as they lie in their blocks, of which nothing is copied.
//!
//! Invariant: what it leaves, weights, intercept and scores, belong together, and the objective is no higher than it was.

use super::bounds::Bounds;
use super::gram::lines::Lines;
use super::gram::{FILLED, Gram};
use super::inner::{Own, STEPS, Shared, Values, WELL};
use super::kept;
use super::loss::Smooth;
use super::task::Task;
use crate::parts::{Parts, Rows};
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// The rows.
    pub rows: Rows,
    /// The weights.
    pub point: Table<f64>,
    /// For sums over the workers.
    pub sums: Table<f64>,
    /// Whether there is an intercept.
    pub bias: bool,
    /// The gap that is asked for, as a part of the objective.
    pub tolerance: f64,
}

impl Matrix {
    /// The stage function. Reports `bias`, `steps`, `halvings`, `foreseen`.
    pub fn run<L: Smooth>(&self, loss: L, worker: &mut Worker<'_>) -> Result<()> {
        let (features, bias) = (worker.scalar("features", 0.0) as usize, worker.scalar("bias", 0.0));
        let mut weights = Vec::new();
        worker.get_range(self.point, 0..features as Key, &mut weights)?;
        let (lines, targets) = self.read(worker, features)?;
        let (mut gram, mut scores) = (Gram::whole(lines, self.bias), Vec::new());
        gram.lines.scores(worker, &weights, bias, &mut scores)?;
        let mut own = Own::new(targets, scores);
        let shared = Shared::new(worker, self.sums, (features, self.rows.memory), self.bias, self.tolerance);
        let mut shared = Shared { weights: weights.clone(), ..shared };
        let ((steps, halvings), foreseen) = if L::KINKED {
            let (made, scores) = shared.settle_kinked(loss, worker, &mut own, &mut gram)?;
            (made, Some(scores))
        } else {
            (shared.settle_whole(loss, worker, &mut own, &mut gram)?, None)
        };
        let part = worker.place.share(features);
        let changes: Vec<f64> =
            weights[part.clone()].iter().zip(&shared.weights[part.clone()]).map(|(old, new)| new - old).collect();
        worker.add_range(self.point, part.start as Key..part.end as Key, &changes)?;
        let bias = shared.bias.unwrap_or(0.0);
        worker.report("bias", Metric::Max(bias));
        worker.report("steps", Metric::Max(steps as f64));
        worker.report("halvings", Metric::Max(f64::from(halvings)));
        worker.report("foreseen", Metric::Max(f64::from(u8::from(foreseen.is_some()))));
        // Made anew so that no rounding of many steps is in them.
        gram.lines.scores(worker, &shared.weights, bias, &mut own.scores)?;
        kept::keep(worker, self.rows, kept::SCORES, own.scores)?;
        foreseen.map_or(Ok(()), |scores| kept::keep(worker, self.rows, kept::FORESEEN, scores))
    }

    /// This worker's rows, their targets and weights.
    fn read(&self, worker: &mut Worker<'_>, features: usize) -> Result<(Lines, Vec<(f64, f64)>)> {
        let (task, mut targets) = (Task::of(worker), Vec::new());
        let part = Parts::new(worker, self.rows)?.whole(worker)?;
        let part = part.ok_or_else(|| Error::bug("rows of few features come in parts"))?;
        task.targets_of(worker, self.rows.input, &part, &mut targets)?;
        let count = targets.len();
        Ok((Lines::of_blocks(part, features, count), targets))
    }
}

impl Shared {
    /// Newton steps of all features until the gap is well below what is asked for: how many, and how often they were halved.
    fn settle_whole<L: Smooth>(
        &mut self,
        loss: L,
        worker: &mut Worker<'_>,
        own: &mut Own,
        gram: &mut Gram,
    ) -> Result<(usize, u32)> {
        let (mut steps, mut halvings, mut last) = (0, 0, f64::INFINITY);
        while steps < STEPS {
            worker.check()?;
            let (view, []) = self.look(loss, worker, (own, Values::Lines(&gram.lines)), [])?;
            let (now, asked) = (view.certificate, self.tolerance * view.certificate.objective);
            if now.gap <= WELL * asked || self.ends_slowly(&now, last) || !now.objective.is_finite() {
                break;
            }
            last = now.gap;
            // It costs the most, and where the curvature of all rows changes, it changes little from one step to the next.
            if L::PIECEWISE || steps.is_multiple_of(FILLED) {
                gram.fill(worker, &mut self.reduce, &own.bends)?;
            }
            let way = gram.step((&self.weights, &Bounds::of(None)), &view.gradient, view.constant[0], self.penalty);
            own.begin(worker, &way, Values::Lines(&gram.lines))?;
            let Some(cut) = self.go(loss, worker, own, (&view, &way))? else { break };
            (steps, halvings) = (steps + 1, halvings + cut);
        }
        Ok((steps, halvings))
    }
}
