//! How many rows that were held out of training the model of several classes labels right: behind the last problem, when all
//! classes have the weights that are kept. Along a path each class keeps those of a step of its own.
//!
//! Invariant: a row is taken for the class with the highest score, of equals the first one, as whoever uses the model takes it.

use super::gradient::{block, dot};
use crate::parts::{Part, Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Progress};
use flexps_common::worker::Worker;

/// The stage's name.
pub const STAGE: &str = "guess";
/// The scalar that says whether several classes have weights of their own, and that which says how many.
pub const SEVERAL: &str = "several";
const CLASSES: &str = "guessed_classes";

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Guess {
    /// The rows.
    pub rows: Rows,
    /// The weights of all classes, those of each in turn.
    pub model: Vector,
}

impl Guess {
    /// The stage function. Reports `right` and `rows`.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let classes = worker.scalar(CLASSES, 1.0) as Key;
        let (mut biases, mut weights) = (vec![0.0f32; classes as usize], Vec::new());
        if let Some(table) = self.model.bias {
            worker.get_range(table, 0..classes, &mut biases)?;
        }
        let (mut right, mut rows) = (0u64, 0u64);
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            // The highest score of each row so far, and whose it is.
            let mut best: Vec<(f64, Key)> = Vec::new();
            for (class, bias) in (0..classes).zip(&biases) {
                self.weights(worker, &part, class, &mut weights)?;
                let mut row = 0;
                for at in 0..part.blocks() {
                    let block = block(worker, &part, at)?;
                    for i in 0..block.rows() {
                        // SAFETY: `block` checked the indices, and there is a weight for each feature of the part.
                        let score = f64::from(*bias) + unsafe { dot(&block.row(i), &weights) };
                        match best.get_mut(row) {
                            Some(best) if score > best.0 => *best = (score, class),
                            Some(_) => {}
                            None => best.push((score, class)),
                        }
                        row += 1;
                    }
                }
            }
            let mut guesses = best.into_iter();
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                let guessed = block.labels.iter().zip(&mut guesses);
                right += guessed.filter(|(label, (_, class))| f64::from(**label) == f64::from(*class)).count() as u64;
                rows += block.rows() as u64;
            }
        }
        worker.report("right", Metric::Count(right));
        worker.report("rows", Metric::Count(rows));
        Ok(())
    }

    /// The weights of a class for all features of a part; of those that no row had that was learnt they are 0.
    fn weights(&self, worker: &mut Worker<'_>, part: &Part, class: Key, to: &mut Vec<f64>) -> Result<()> {
        let features = worker.scalar("features", 0.0) as Key;
        let (first, mut held) = (class * features, Vec::new());
        match &*part.map {
            KeyMap::Identity(all) => {
                worker.get_range(self.model.features, first..first + features.min(*all), &mut held)?;
            }
            KeyMap::Sorted(keys) => {
                let known = keys.iter().take_while(|key| **key < features);
                let keys: Vec<Key> = known.map(|key| first + key).collect();
                worker.get(self.model.features, &keys, &mut held)?;
            }
        }
        to.clear();
        to.extend(held.iter().map(|weight| f64::from(*weight)));
        to.resize(part.map.len(), 0.0);
        Ok(())
    }
}

/// Before the first problem, of so many classes.
pub fn begin(progress: &mut Progress, classes: usize) {
    progress.set(SEVERAL, f64::from(u8::from(classes > 1)));
    progress.set(CLASSES, classes as f64);
}

/// Behind the stage: what part of the rows the model labels right.
pub fn guessed(progress: &mut Progress) -> Result<Flow> {
    let part = progress.metric(STAGE, "right")? / progress.metric(STAGE, "rows")?;
    progress.set("validation_accuracy", part);
    Ok(Flow::Next)
}
