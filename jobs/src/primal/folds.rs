//! Cross-validation: which problems there are on the same rows, and what those that were held out showed.
//!
//! Whoever solves them, they come in the same order: each fold held out, and at last none; in each the classes against the
//! rest; in each the lambdas of a path. Invariant: losses are divided by rows, as those that are trained on are, so the two
//! compare whatever rows of a class count.

use super::measure::Counts;
use super::task::{self, name_of};
use flexps_common::data::Labels;
use flexps_common::plan::Progress;
use flexps_common::{Error, Result};

/// The stage that judges by the rows that are held out.
pub const STAGE: &str = "held-out";

/// Which problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The fold that is held out; none at last.
    pub fold: Option<u32>,
    /// Of more than two classes.
    pub class: Option<usize>,
    /// In the path, from 0.
    pub step: u32,
}

/// What folds are of.
#[derive(Debug, Clone, Copy)]
pub struct Folds {
    /// Their number; 0 without cross-validation.
    pub count: u32,
    /// How many lambdas a path has; 1 without one.
    pub steps: u32,
}

/// The scalar that sums something over folds, of a step of the path.
fn sum_of(name: &str, step: u32) -> String {
    format!("cv_{name}_{step}")
}

/// Forgets what folds have shown, before others solve the same problems from the start.
pub fn forget(progress: &mut Progress) {
    progress.scalars.retain(|name, _| !name.starts_with("cv_"));
}

/// How many rows of each class are trained on while `fold` is held out; refuses folds that have all rows of a class.
pub fn trained(counts: &Counts, labels: &Labels, fold: Option<u32>) -> Result<Vec<f64>> {
    let rows: Vec<f64> = (0..labels.all().len().max(1)).map(|class| counts.trained(class, fold)).collect();
    match rows.iter().position(|rows| *rows == 0.0) {
        None => Ok(rows),
        Some(empty) => Err(Error::data(format!(
            "without fold {} no row has the label {}; give fewer folds with --cv",
            fold.map_or(0, |fold| fold + 1),
            name_of(labels, empty)
        ))),
    }
}

impl Folds {
    /// How many problems there are.
    pub fn all(&self, labels: &Labels) -> u64 {
        (u64::from(self.count) + 1) * task::problems(labels) as u64 * u64::from(self.steps)
    }

    /// The place of the problem of this number; none behind the last.
    pub fn place(&self, labels: &Labels, number: u64) -> Option<Place> {
        let (classes, steps) = (task::problems(labels) as u64, u64::from(self.steps));
        let folds = u64::from(self.count);
        let fold = number / (classes * steps);
        let class = (number / steps % classes) as usize;
        let fold = if fold < folds { Some(fold as u32) } else { None };
        let there = number < self.all(labels);
        there.then_some(Place { fold, class: (classes > 1).then_some(class), step: (number % steps) as u32 })
    }

    /// Behind the stage that judged by the rows that are held out: adds what they showed.
    pub fn finish(&self, progress: &mut Progress, place: Place, labels: &Labels) -> Result<()> {
        let [loss, rows] = ["loss", "rows"].map(|name| progress.metric(STAGE, name));
        let (loss, rows) = (loss?, rows?);
        progress.epoch_metrics.insert("held_out_loss".to_owned(), loss / rows);
        let mut sums = vec![("loss", loss), ("judged", rows)];
        // Of more than two classes the label is known once the last of them has spoken; numbers are of none.
        if place.class.is_none_or(|class| class + 1 == task::problems(labels)) && !labels.all().is_empty() {
            sums.extend([("right", progress.metric(STAGE, "right")?), ("rows", rows)]);
        }
        for (name, value) in sums {
            let name = sum_of(name, place.step);
            let sum = progress.scalar(&name, 0.0) + value;
            progress.set(&name, sum);
        }
        let best = self.best(progress);
        let loss = Self::mean(progress, best);
        progress.set("cv_loss", loss);
        let rows = progress.scalar(&sum_of("rows", best), 0.0);
        if rows > 0.0 {
            progress.set("cv_accuracy", progress.scalar(&sum_of("right", best), 0.0) / rows);
        }
        Ok(())
    }

    fn mean(progress: &Progress, step: u32) -> f64 {
        progress.scalar(&sum_of("loss", step), f64::INFINITY) / progress.scalar(&sum_of("judged", step), 1.0)
    }

    /// The step of the path with the least loss on rows that were held out; the first of equals, with the most penalty.
    pub fn best(&self, progress: &Progress) -> u32 {
        let better =
            |best: u32, step: u32| if Self::mean(progress, step) < Self::mean(progress, best) { step } else { best };
        (1..self.steps).fold(0, better)
    }
}
