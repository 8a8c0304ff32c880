//! The first pass, made while rows are still being read: counts rows by class and, for cross-validation, deals them to
//! folds.
//!
//! Invariant: a row's fold depends on its features and its label alone, not on who read it: the same rows make the same
//! folds on any number of slaves, and rows that are alike are never in two.

use super::task::class_of;
use flexps_common::data::block::{Block, Row};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Input, Progress, Steps};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// The column of each row's fold.
pub const FOLDS: &str = "folds";

/// What the first pass is to do.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// The rows.
    pub input: Input,
    /// Folds, 1 without cross-validation.
    pub folds: u32,
    /// Whether labels are numbers.
    pub numbers: bool,
    /// Of the folds.
    pub seed: u64,
}

/// Counts, summed in the master.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Rows by fold, then class.
    pub rows: Vec<Vec<f64>>,
    /// Sums of the labels by fold, where they are numbers.
    pub sums: Vec<f64>,
}

fn rows_of(fold: usize, class: usize) -> String {
    format!("rows_{fold}_{class}")
}

/// What a worker has counted.
#[derive(Debug)]
pub struct Tally {
    measure: Measure,
    /// As [`Counts::rows`] and [`Counts::sums`].
    rows: Vec<Vec<u64>>,
    sums: Vec<f64>,
}

impl Tally {
    /// Counts the rows of the slave's block `at`, and deals them to folds, if there are any.
    pub fn add(&mut self, worker: &mut Worker<'_>, at: usize, block: &Block) -> Result<()> {
        if self.measure.folds <= 1 {
            block.labels.iter().for_each(|label| self.count(*label, 0));
            return Ok(());
        }
        let dealt: Vec<u32> = (0..block.rows()).map(|i| self.measure.fold(&block.row(i))).collect();
        block.labels.iter().zip(&dealt).for_each(|(label, fold)| self.count(*label, *fold as usize));
        worker.put_column(self.measure.input, at, FOLDS, dealt)
    }

    #[inline]
    fn count(&mut self, label: f32, fold: usize) {
        let class = if self.measure.numbers { 0 } else { class_of(label) };
        let counts = &mut self.rows[fold];
        if counts.len() <= class {
            counts.resize(class + 1, 0);
        }
        counts[class] += 1;
        self.sums[fold] += f64::from(label);
    }

    /// Reports what was counted, by fold.
    pub fn report(self, worker: &mut Worker<'_>) {
        for (fold, (rows, sum)) in self.rows.into_iter().zip(self.sums).enumerate() {
            for (class, count) in rows.into_iter().enumerate() {
                worker.report(&rows_of(fold, class), Metric::Count(count));
            }
            worker.report(&format!("labels_{fold}"), Metric::Sum(sum));
        }
    }
}

impl Measure {
    /// Before a worker's first row.
    pub fn tally(self) -> Tally {
        let folds = self.folds as usize;
        Tally { measure: self, rows: vec![Vec::new(); folds], sums: vec![0.0; folds] }
    }

    /// The stage function.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut tally, mut pass) = (self.tally(), worker.pass(self.input));
        while let Some((at, block)) = pass.next(worker)? {
            tally.add(worker, at, &block)?;
        }
        tally.report(worker);
        Ok(())
    }

    /// A row's fold, by a hash of its content.
    fn fold(&self, row: &Row<'_>) -> u32 {
        let mut state = self.seed ^ u64::from(row.label.to_bits());
        let mut mix = |word: u64| {
            state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            state ^= state >> 29;
        };
        for (at, key) in row.indices.iter().enumerate() {
            mix(u64::from(*key) << 32 | u64::from(row.values.map_or(1f32, |v| v[at]).to_bits()));
        }
        mix(row.indices.len() as u64);
        (((state >> 32) * u64::from(self.folds)) >> 32) as u32
    }

    /// What the stage `name` counted; refuses folds and classes without rows.
    pub fn counts(&self, progress: &Progress, name: &str, classes: usize) -> Result<Counts> {
        let metric = |metric: &str| progress.metric(name, metric).unwrap_or(0.0);
        let of_fold = |fold| (0..classes.max(1)).map(|class| metric(&rows_of(fold, class))).collect::<Vec<f64>>();
        let counts = Counts {
            rows: (0..self.folds as usize).map(of_fold).collect(),
            sums: (0..self.folds).map(|fold| metric(&format!("labels_{fold}"))).collect(),
        };
        let total: f64 = counts.rows.iter().flatten().sum();
        if f64::from(self.folds) > total {
            return Err(Error::user(format!("--cv {} folds need as many rows, there are {total}", self.folds)));
        }
        if self.folds > 1 && counts.rows.iter().any(|rows| rows.iter().sum::<f64>() == 0.0) {
            return Err(Error::user(format!(
                "one of {} folds got none of the {total} rows (rows that are alike share a fold); give fewer with --cv",
                self.folds
            )));
        }
        Ok(counts)
    }
}

impl Counts {
    /// Rows of a class outside the fold that is held out.
    pub fn trained(&self, class: usize, held_out: Option<u32>) -> f64 {
        let kept = self.rows.iter().enumerate().filter(|(fold, _)| Some(*fold as u32) != held_out);
        kept.map(|(_, rows)| rows.get(class).copied().unwrap_or(0.0)).sum()
    }

    /// Sum of the labels outside the fold that is held out.
    pub fn labels(&self, held_out: Option<u32>) -> f64 {
        let kept = self.sums.iter().enumerate().filter(|(fold, _)| Some(*fold as u32) != held_out);
        kept.map(|(_, sum)| sum).sum()
    }
}

/// Behind the stage `measure`, where the job goes on from a checkpoint: what workers kept of their rows is lost, and made anew by
/// the next gradient. Where it begins the first problem says the same.
pub fn remeasured(steps: &mut Steps) {
    steps.decide(|progress| {
        let named = [("look", 1.0), ("moved", 1.0), ("scored", 0.0), ("foreseen", 0.0)];
        named.into_iter().for_each(|(name, value)| progress.set(name, value));
        Ok(Flow::Next)
    });
}
