//! Judging a point by rows that it was not trained on: those of a fold, or of another input.
//!
//! Of more than two classes each problem tells one class's scores; the row is taken for the class with the highest, so
//! what is right at a step of the path is known when the last class has spoken. Invariant: what is reported depends on the point and the rows
//! alone.

use super::gradient::{block, dot};
use super::loss::Smooth;
use super::task::Task;
use crate::objective::is_right;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::metrics::{Metric, Scores};
use flexps_common::plan::Table;
use flexps_common::value::Element;
use flexps_common::worker::Worker;

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
}

impl<T: Element + Into<f64>> Judge<T> {
    /// The stage function. Reports `loss`, in which rows count what their class does, summed over `rows`; of classes `right`, of two `auc`.
    pub fn run(&self, of: impl Smooth, worker: &mut Worker<'_>) -> Result<()> {
        self.judge(of, worker, true)
    }

    /// The same, but of more than two classes `right` are rows that are told from the rest: [`super::guess`] labels them.
    pub fn alone(&self, of: impl Smooth, worker: &mut Worker<'_>) -> Result<()> {
        self.judge(of, worker, false)
    }

    fn judge(&self, of: impl Smooth, worker: &mut Worker<'_>, guesses: bool) -> Result<()> {
        let (task, bias) = (Task::of(worker), worker.scalar("bias", 0.0));
        let class = Some(worker.scalar("class", -1.0)).filter(|class| *class >= 0.0);
        let step = worker.scalar("path_step", 0.0);
        let best = [format!("best-score-{step}"), format!("best-class-{step}")];
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
                let guesses = match class.filter(|_| guesses) {
                    Some(class) => {
                        let mut held: [Vec<f64>; 2] = Default::default();
                        for (held, name) in held.iter_mut().zip(&best) {
                            *held = worker.take_column(self.rows.input, number, name, block.rows())?;
                        }
                        let [score, guess] = &mut held;
                        for ((score, guess), now) in score.iter_mut().zip(guess.iter_mut()).zip(&scores) {
                            if class == 0.0 || now > score {
                                (*score, *guess) = (*now, class);
                            }
                        }
                        let guesses = guess.clone();
                        for (held, name) in held.into_iter().zip(&best) {
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
