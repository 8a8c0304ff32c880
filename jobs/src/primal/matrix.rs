//! The stage that learns without an L1 penalty where features are few: Newton steps found by the matrix of all of them, made of
//! the rows as they lie in their blocks, of which nothing is copied.
//!
//! Invariant: what it leaves, weights, intercept and scores, belong together, and the objective is no higher than it was.

use super::bounds::Bounds;
use super::certificate::Penalty;
use super::columns::Columns;
use super::gram::lines::Lines;
use super::gram::{FILLED, Gram};
use super::inner::{Own, Room, Shared};
use super::kept;
use super::loss::Smooth;
use super::reduce::Reduce;
use super::task::Task;
use crate::parts::{Parts, Rows};
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// Newton steps at most.
const STEPS: usize = 50;
/// The steps end when the gap is this part of what is asked for...
const WELL: f64 = 0.3;
/// ... or less than this part of it, if the last step did not halve the gap.
const SLOW: f64 = 0.9;

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
        let mut own = Own {
            bends: vec![[0.0; 2]; scores.len()],
            targets,
            scores,
            anchor: None,
            columns: Columns::default(),
            sums: None,
            room: Room::default(),
            foresight: None,
        };
        let mut shared = Shared {
            rows: worker.scalar("trained_rows", 1.0),
            penalty: Penalty { l1: 0.0, l2: worker.scalar("l2", 0.0) },
            tolerance: self.tolerance,
            quadratic: false,
            weights: weights.clone(),
            bias: self.bias.then_some(bias),
            strayed: 0.0,
            all: true,
            reduce: Reduce::new(self.sums, (features + 16).max(Gram::numbers(features, self.rows.memory))),
            memory: self.rows.memory,
        };
        let (steps, halvings) = match L::KINKED {
            true => shared.settle_kinked(loss, worker, &mut own, &mut gram)?,
            false => shared.settle_whole(loss, worker, &mut own, &mut gram)?,
        };
        let part = worker.place.share(features);
        let changes: Vec<f64> =
            weights[part.clone()].iter().zip(&shared.weights[part.clone()]).map(|(old, new)| new - old).collect();
        worker.add_range(self.point, part.start as Key..part.end as Key, &changes)?;
        let bias = shared.bias.unwrap_or(0.0);
        worker.report("bias", Metric::Max(bias));
        worker.report("steps", Metric::Max(steps as f64));
        worker.report("halvings", Metric::Max(f64::from(halvings)));
        worker.report("foreseen", Metric::Max(f64::from(u8::from(own.foresight.is_some()))));
        // Made anew so that no rounding of many steps is in them.
        gram.lines.scores(worker, &shared.weights, bias, &mut own.scores)?;
        kept::keep_scores(worker, self.rows, own.scores)?;
        own.foresight.map_or(Ok(()), |foresight| kept::keep_foreseen(worker, self.rows, foresight.scores))
    }

    /// This worker's rows, their targets and weights.
    fn read(&self, worker: &mut Worker<'_>, features: usize) -> Result<(Lines, Vec<(f64, f64)>)> {
        let (task, mut targets) = (Task::of(worker), Vec::new());
        let part = Parts::new(worker, self.rows)?.whole(worker)?;
        let part = part.ok_or_else(|| Error::bug("rows of few features come in parts"))?;
        for at in 0..part.blocks() {
            let block = part.in_order(worker, at)?;
            task.targets(worker, (self.rows.input, part.number_of(at)), &block, &mut targets)?;
        }
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
            let (view, []) = self.look(loss, worker, (own, Some(gram)), [])?;
            let (now, asked) = (view.certificate, self.tolerance * view.certificate.objective);
            let slow = now.gap <= SLOW * asked && now.gap > 0.5 * last;
            if now.gap <= WELL * asked || slow || !now.objective.is_finite() {
                break;
            }
            last = now.gap;
            // It costs the most, and where the curvature of all rows changes, it changes little from one step to the next.
            if L::PIECEWISE || steps.is_multiple_of(FILLED) {
                gram.fill(worker, &mut self.reduce, &own.bends)?;
            }
            let way = gram.step((&self.weights, &Bounds::of(None)), &view.gradient, view.constant[0], self.penalty);
            own.begin(worker, &way, Some(gram))?;
            let Some(cut) = self.go(loss, worker, own, (&view, &way))? else { break };
            (steps, halvings) = (steps + 1, halvings + cut);
        }
        Ok((steps, halvings))
    }
}
