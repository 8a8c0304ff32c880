//! What a row's label means in the problem at hand: its target and its weight.
//!
//! One job may solve many problems on the same rows: one class against the rest, one fold held out. Which it is stands in
//! the job's scalars. Invariant: a row that is held out has weight 0, and so no part in any sum.

use super::flags::ClassWeights;
use super::measure::FOLDS;
use crate::parts::Part;
use flexps_common::data::{Block, Facts, Labels};
use flexps_common::plan::{Input, Progress};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// The problem at hand, as a worker sees it.
#[derive(Debug, Clone)]
pub struct Task {
    /// The class that is learnt against the rest, of more than two.
    class: Option<f32>,
    /// Weights by class; none where all are 1.
    weights: Vec<f64>,
    /// The fold that is held out.
    held_out: Option<u32>,
}

/// The name of the scalar that holds a class's weight.
fn weight_of(class: usize) -> String {
    format!("weight_of_class_{class}")
}

/// The place of a row's label among the classes: of two, whose labels are -1 and +1, 0 is the negative one.
#[inline]
pub fn class_of(label: f32) -> usize {
    label.max(0.0) as usize
}

/// Sets the scalars of a problem: the class that is learnt, if there are more than two, and the fold that is held out.
pub fn set(progress: &mut Progress, class: Option<usize>, held_out: Option<u32>) {
    progress.set("class", class.map_or(-1.0, |class| class as f64));
    progress.set("held_out", held_out.map_or(-1.0, f64::from));
}

/// Sets the weights of all classes.
fn set_weights(progress: &mut Progress, weights: &[f64]) {
    progress.set("weighted_classes", weights.len() as f64);
    for (class, weight) in weights.iter().enumerate() {
        progress.set(&weight_of(class), *weight);
    }
}

/// Behind the first pass, which counted the rows of each class: refuses what can't be learnt, and sets the weights of the
/// classes and the scalars `rows` and `features`.
pub fn begin(progress: &mut Progress, facts: &Facts, rows: &[f64], weights: Option<&ClassWeights>) -> Result<()> {
    if let Some(empty) = rows.iter().position(|rows| *rows == 0.0) {
        let name = name_of(&facts.labels, empty);
        return Err(Error::data(format!("no row has the label {name}; each class needs some")));
    }
    if let Some(weights) = weights {
        if rows.is_empty() {
            return Err(Error::user("--class-weight needs classes; these labels are numbers"));
        }
        set_weights(progress, &weights.of(&facts.labels, rows)?);
    }
    let problems = problems(&facts.labels);
    // Where a class's weights end is a key too.
    if problems > 1 && facts.features.saturating_mul(problems as u64) >= 1 << 32 {
        return Err(Error::user(format!(
            "{problems} classes times {} features are too many weights for a table, which has room for fewer than 2^32; hash \
             features to fewer",
            facts.features
        )));
    }
    progress.set("rows", facts.rows as f64);
    progress.set("features", facts.features as f64);
    Ok(())
}

/// How many classes a problem is made for: each of more than two, or one.
pub fn problems(labels: &Labels) -> usize {
    let classes = labels.all().len();
    if classes > 2 { classes } else { 1 }
}

/// The weight of a class.
pub fn weight(progress: &Progress, class: usize) -> f64 {
    progress.scalar(&weight_of(class), 1.0)
}

impl Task {
    /// The problem that the scalars describe.
    pub fn of(worker: &Worker<'_>) -> Self {
        let known = |name| Some(worker.scalar(name, -1.0)).filter(|value| *value >= 0.0);
        let classes = worker.scalar("weighted_classes", 0.0) as usize;
        Self {
            class: known("class").map(|class| class as f32),
            weights: (0..classes).map(|class| worker.scalar(&weight_of(class), 1.0)).collect(),
            held_out: known("held_out").map(|fold| fold as u32),
        }
    }

    /// Whether each row counts 1 and should score its label.
    pub fn is_plain(&self) -> bool {
        self.class.is_none() && self.weights.is_empty() && !self.holds_out()
    }

    /// Whether a fold is held out.
    pub fn holds_out(&self) -> bool {
        self.held_out.is_some()
    }

    /// What a row with this label should score.
    #[inline]
    pub fn target(&self, label: f32) -> f64 {
        match self.class {
            Some(class) => {
                if label == class {
                    1.0
                } else {
                    -1.0
                }
            }
            None => f64::from(label),
        }
    }

    /// What a row with this label counts.
    #[inline]
    pub fn weight(&self, label: f32) -> f64 {
        if self.weights.is_empty() { 1.0 } else { self.weights[class_of(label)] }
    }

    /// Adds targets and weights of the rows of the slave's block `at`; the weight of a row that is held out is 0.
    pub fn targets(
        &self,
        worker: &mut Worker<'_>,
        (input, at): (Input, usize),
        block: &Block,
        to: &mut Vec<(f64, f64)>,
    ) -> Result<()> {
        self.folds(worker, (input, at, block.rows()), |folds| {
            let kept = |i: usize| folds.is_none_or(|(folds, held_out)| folds[i] != held_out);
            let weight = |i: usize, label| if kept(i) { self.weight(label) } else { 0.0 };
            to.extend(block.labels.iter().enumerate().map(|(i, l)| (self.target(*l), weight(i, *l))));
        })
    }

    /// Adds targets and weights of all rows of a part.
    pub fn targets_of(
        &self,
        worker: &mut Worker<'_>,
        input: Input,
        part: &Part,
        to: &mut Vec<(f64, f64)>,
    ) -> Result<()> {
        for at in 0..part.blocks() {
            let block = part.in_order(worker, at)?;
            self.targets(worker, (input, part.number_of(at)), &block, to)?;
        }
        Ok(())
    }

    /// Calls `each` with the folds of the rows of the slave's block `at`; none where no fold is held out.
    pub fn folds<T>(
        &self,
        worker: &mut Worker<'_>,
        (input, at, rows): (Input, usize, usize),
        each: impl FnOnce(Option<(&[u32], u32)>) -> T,
    ) -> Result<T> {
        let Some(held_out) = self.held_out else { return Ok(each(None)) };
        let folds: Vec<u32> = worker.take_column(input, at, FOLDS, rows)?;
        let made = each(Some((&folds, held_out)));
        worker.put_column(input, at, FOLDS, folds)?;
        Ok(made)
    }
}

/// The labels of the classes as the user reads them.
pub fn name_of(labels: &Labels, class: usize) -> String {
    labels.all().get(class).map_or_else(|| class.to_string(), f32::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_several_classes_that_reach_the_last_key_are_refused() {
        let begun = |features: u64, classes: u32| {
            let labels = Labels::classes((0..classes).map(|class| class as f32).collect());
            let facts = Facts { rows: 8, features, labels, ..Facts::default() };
            begin(&mut Progress::default(), &facts, &vec![1.0; classes as usize], None)
        };
        assert!(begun((1 << 30) - 1, 4).is_ok() && begun(1 << 32, 2).is_ok());
        for (features, classes) in [(1 << 30, 4), (1 << 30, 5), (u64::MAX / 2, 4)] {
            let error = begun(features, classes).unwrap_err();
            let words = format!("{classes} classes times {features} features");
            assert!(error.message.contains(&words), "{} lacks {words}", error.message);
        }
    }
}
