//! Judging a point by rows that it was not trained on: those of a fold, or of another input.
//!
//! Of more than two classes each problem tells one class's scores. Where all classes keep the weights of the same step of a path,
//! the row is taken for the class with the highest, so what is right there is known when the last class has spoken; else
//! the stage `guess` tells at the end. Invariant: what is reported depends on the point and the rows alone.

use super::gradient::{block, dot};
use super::loss::Smooth;
use super::task::Task;
use crate::flags::Inputs;
use crate::objective::is_right;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::metrics::{Metric, Scores};
use flexps_common::plan::{Plan, Table};
use flexps_common::value::Element;
use flexps_common::worker::Worker;

/// Columns, on rows of more than two classes: the highest score among those of the classes so far, and whose it is; of each
/// row one for each step of a path.
const BEST: [&str; 2] = ["best-score", "best-class"];

/// Has what the classes before the one at hand scored go with checkpoints, of all rows that are judged class by class. Two
/// solvers of one job may ask for it.
pub fn keep(plan: &mut Plan, inputs: Inputs, has_folds: bool) {
    for Rows { input, .. } in has_folds.then_some(inputs.rows).into_iter().chain(inputs.validation) {
        for name in BEST {
            if !plan.columns.iter().any(|column| column.input == input.id && column.name == name) {
                plan.keep_column(input, name);
            }
        }
    }
}

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Judge<T> {
    /// The rows.
    pub rows: Rows,
    /// The weights.
    pub point: Table<T>,
    /// Whether to judge by the rows of the fold that is held out alone, not by all.
    pub held_out: bool,
    /// Whether labels are those of classes.
    pub classes: bool,
    /// Whether rows are labelled by the scores of more than two classes so far; else they are but told from a class's rest.
    pub guesses: bool,
    /// How many lambdas a path has; 1 without one.
    pub steps: u32,
}

impl<T: Element + Into<f64>> Judge<T> {
    /// The stage function. Reports `loss`, in which rows count what their class does, summed over `rows`; of classes `right`, of two `auc`.
    pub fn run(&self, of: impl Smooth, worker: &mut Worker<'_>) -> Result<()> {
        let (task, bias) = (Task::of(worker), worker.scalar("bias", 0.0));
        let class = Some(worker.scalar("class", -1.0)).filter(|class| *class >= 0.0);
        let (steps, step) = (self.steps as usize, worker.scalar("path_step", 0.0) as usize);
        let (mut loss, mut rows, mut right) = (0.0, 0u64, 0u64);
        let (mut sketch, mut held, mut weights) = (Scores::default(), Vec::new(), Vec::<f64>::new());
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            worker.get_mapped(self.point, &part.map, &mut held)?;
            weights.clear();
            weights.extend(held.iter().map(|weight| (*weight).into()));
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                let number = part.number_of(at);
                let place = (self.rows.input, number, block.rows());
                // SAFETY: `block` checked the indices.
                let scores: Vec<f64> =
                    (0..block.rows()).map(|i| bias + unsafe { dot(&block.row(i), &weights) }).collect();
                let guesses = match class.filter(|_| self.guesses) {
                    Some(class) => {
                        let mut held: [Vec<f64>; 2] = Default::default();
                        for (held, name) in held.iter_mut().zip(BEST) {
                            *held = worker.take_column(self.rows.input, number, name, block.rows() * steps)?;
                        }
                        let [score, guess] = held.each_mut().map(|held| held.iter_mut().skip(step).step_by(steps));
                        let mut guesses = Vec::with_capacity(block.rows());
                        for ((score, guess), now) in score.zip(guess).zip(&scores) {
                            if class == 0.0 || now > score {
                                (*score, *guess) = (*now, class);
                            }
                            guesses.push(*guess);
                        }
                        for (held, name) in held.into_iter().zip(BEST) {
                            worker.put_column(self.rows.input, number, name, held)?;
                        }
                        Some(guesses)
                    }
                    None => None,
                };
                task.folds(worker, place, |folds| {
                    for (i, (z, label)) in scores.iter().zip(&block.labels).enumerate() {
                        if self.held_out && folds.is_some_and(|(folds, held_out)| folds[i] != held_out) {
                            continue;
                        }
                        let (y, counts) = (task.target(*label), task.weight(*label));
                        loss += counts * of.loss(y, *z);
                        rows += 1;
                        right += u64::from(match &guesses {
                            Some(guesses) => guesses[i] == f64::from(*label),
                            None => is_right(y, *z),
                        });
                        if self.classes && class.is_none() {
                            sketch.add(*z as f32, y > 0.0);
                        }
                    }
                })?;
            }
        }
        worker.report("loss", Metric::Sum(loss));
        worker.report("rows", Metric::Count(rows));
        worker.report("right", Metric::Count(right));
        if self.classes && class.is_none() {
            worker.report("auc", Metric::Auc(sketch.into_sketch()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{self, path};
    use crate::flags::Common;
    use crate::lr::{Lr, Solver};
    use crate::primal::flags::Flags;
    use flexps_common::job::DynJob;

    #[test]
    fn checkpoints_keep_what_classes_scored_on_rows_that_are_judged_class_by_class() {
        for solver in [Solver::Sdca, Solver::Newton, Solver::Auto] {
            for (cv, held_out) in [(None, false), (Some(3), false), (None, true), (Some(3), true)] {
                let validation = if held_out { vec![path("held-out")] } else { Vec::new() };
                let common = Common { validation, ..fixtures::flags() };
                let job = Lr { common, solver, primal: Flags { cv, ..Flags::default() }, ..Lr::default() };
                let plan = DynJob::plan(&job).unwrap();
                // Newton's method labels rows to validate by at its end.
                let validates = held_out && solver != Solver::Newton;
                let wanted = usize::from(cv.is_some()) + usize::from(validates);
                for name in super::BEST {
                    let kept = plan.columns.iter().filter(|column| column.name == name).count();
                    assert_eq!(kept, wanted, "{name} by {solver:?}, {cv:?} folds");
                }
            }
        }
    }
}
