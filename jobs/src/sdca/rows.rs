//! A worker's rows with what is kept of them from stage to stage: dual variables and squared norms as columns, targets
//! where labels alone don't tell them, how many rows a block has and below how many features its indices are, and
//! which of them rest.
//!
//! Invariants: a block's columns are out of the slave's keeping only inside a stage, and don't depend on how many workers
//! share the blocks; a block is given out only after it was found that all of its indices are below the number of features.

use super::crowd::Crowd;
use super::rests::Rests;
use crate::logistic::needed_len;
use crate::parts::Part;
use crate::primal::measure::Measure;
use crate::primal::task::Task;
use flexps_common::data::Block;
use flexps_common::metrics::Metric;
use flexps_common::plan::Input;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use std::sync::Arc;

/// Number of rows, and [`needed_len`] of the block by the numbers of all rows: with features numbered anew it is no more.
const ROWS: &str = "rows";
const RESTS: &str = "rests";
pub const DUAL: &str = "dual";
const NORMS: &str = "norms";
const TARGETS: &str = "targets";
pub const WAY: &str = "way";

/// One block's columns.
#[derive(Debug)]
pub struct Held {
    /// The block's place among the slave's.
    at: usize,
    /// How many features its indices are known to be below, if no part numbers them; a block has the same rows each time.
    needs: u32,
    /// A dual variable per row.
    pub dual: Vec<f32>,
    /// A row's squared norm; empty when all values are 1.
    pub norms: Vec<f32>,
    /// What a row counts, with the sign of what it should score, 0 if it is held out; empty where these are the labels.
    pub targets: Vec<f32>,
    /// Which rows rest.
    pub rests: Rests,
    /// How the dual variables moved last; empty where that was not asked for.
    pub way: Vec<f32>,
}

/// What the rows of a block count, as [`Held::targets`] says: these, or the labels where there are none.
#[inline(always)]
pub fn targets_or_labels<'a>(targets: &'a [f32], block: &'a Block) -> &'a [f32] {
    if targets.is_empty() { &block.labels } else { targets }
}

/// A worker's rows.
#[derive(Debug)]
pub struct Own {
    input: Input,
    features: usize,
    /// Where labels are not the targets.
    task: Option<Task>,
    /// Targets and weights of a block; kept for its memory.
    pairs: Vec<(f64, f64)>,
    /// By place among the worker's blocks.
    pub blocks: Vec<Held>,
}

/// The stage function of the first pass, made while rows are still being read: measures them.
pub fn measure(worker: &mut Worker<'_>, measure: Measure) -> Result<()> {
    let (input, mut crowd, mut tally) = (measure.input, Crowd::default(), measure.tally());
    let mut pass = worker.pass(input);
    while let Some((at, block)) = pass.next(worker)? {
        crowd.sample(at, &block);
        tally.add(worker, at, &block)?;
        // While the block is in the caches.
        let needs = u32::try_from(needed_len(&block)).unwrap_or(u32::MAX);
        worker.put_column::<u32>(input, at, ROWS, vec![block.rows() as u32, needs])?;
        if block.values.is_some() {
            let norms = (0..block.rows()).map(|i| block.row(i).norm2() as f32).collect();
            worker.put_column::<f32>(input, at, NORMS, norms)?;
        }
    }
    crowd.report(worker);
    tally.report(worker);
    worker.report("workers", Metric::Count(1));
    worker.report("slaves", Metric::Count(u64::from(worker.place.local_index == 0)));
    Ok(())
}

impl Own {
    /// Takes the columns of the worker's rows. `features` is the length of the slave's key map, or 0 where parts of the
    /// rows have numbers of their own. Where the scalar `fresh` says that a problem begins, what was kept of the one before is
    /// dropped.
    pub fn take(worker: &mut Worker<'_>, input: Input, features: usize) -> Result<Self> {
        let own = worker.own_blocks(input)?;
        let mut blocks = Vec::with_capacity(own.len());
        let task = Some(Task::of(worker)).filter(|task| !task.is_plain() || worker.scalar("bias_norm2", 0.0) > 0.0);
        let fresh = worker.scalar("fresh", 0.0) > 0.0;
        for at in own {
            let known: Vec<u32> = worker.take_column(input, at, ROWS, 2)?;
            let (rows, needs) = (known[0] as usize, known[1]);
            let mut dual: Vec<f32> = worker.find_column(input, at, DUAL)?.unwrap_or_default();
            let norms = worker.find_column(input, at, NORMS)?.unwrap_or_default();
            let mut targets = worker.find_column(input, at, TARGETS)?.unwrap_or_default();
            let mut rests = Rests::of(worker.find_column(input, at, RESTS)?.unwrap_or_default());
            let mut way = worker.find_column(input, at, WAY)?.unwrap_or_default();
            if fresh {
                match worker.scalar("start_scale", 0.0) as f32 {
                    // Written before they are read: fresh pages would be made twice else.
                    0.0 => dual.clear(),
                    start => dual.iter_mut().for_each(|a| *a *= start),
                }
                dual.resize(rows, 0.0);
                targets.clear();
                rests.wake();
                way = Vec::new();
            }
            blocks.push(Held { at, needs, dual, norms, targets, rests, way });
        }
        Ok(Self { input, features, task, pairs: Vec::new(), blocks })
    }

    /// Puts them back.
    pub fn put(self, worker: &mut Worker<'_>) -> Result<()> {
        for held in self.blocks {
            worker.put_column(self.input, held.at, ROWS, vec![held.dual.len() as u32, held.needs])?;
            worker.put_column(self.input, held.at, DUAL, held.dual)?;
            if !held.norms.is_empty() {
                worker.put_column(self.input, held.at, NORMS, held.norms)?;
            }
            if !held.targets.is_empty() {
                worker.put_column(self.input, held.at, TARGETS, held.targets)?;
            }
            if let Some(rests) = held.rests.column() {
                worker.put_column(self.input, held.at, RESTS, rests)?;
            }
            if !held.way.is_empty() {
                worker.put_column(self.input, held.at, WAY, held.way)?;
            }
        }
        Ok(())
    }

    /// Whether some rows are held out.
    pub fn holds_out(&self) -> bool {
        self.task.as_ref().is_some_and(Task::holds_out)
    }

    /// Number of rows, with those that are held out.
    pub fn rows(&self) -> usize {
        self.blocks.iter().map(|held| held.dual.len()).sum()
    }

    /// The rows of the worker's block `i`, which is in `part`.
    pub fn block(&mut self, worker: &mut Worker<'_>, part: &Part, i: usize) -> Result<Arc<Block>> {
        let held = &mut self.blocks[i];
        let block = part.block(worker, i - part.start)?;
        if block.rows() != held.dual.len() || !(held.norms.is_empty() || held.norms.len() == held.dual.len()) {
            return Err(Error::bug(format!("block {} has {} rows and other columns", held.at, block.rows())));
        }
        // Parts number their features themselves, and there may be others next time.
        let own_numbers = self.features == 0;
        if own_numbers || held.needs as usize > part.map.len() {
            let needs = needed_len(&block);
            if needs > part.map.len() {
                return Err(Error::bug(format!("block {} has a feature that is not in its key map", held.at)));
            }
            if !own_numbers {
                held.needs = needs as u32;
            }
        }
        if let Some(task) = self.task.as_ref().filter(|_| held.targets.is_empty()) {
            self.pairs.clear();
            task.targets(worker, (self.input, held.at), &block, &mut self.pairs)?;
            held.targets = self.pairs.iter().map(|(target, weight)| (target * weight) as f32).collect();
        }
        Ok(block)
    }

    /// Sums of the dual variables, each times what its row counts, of negative and of positive rows; for problems with an
    /// intercept, which hold targets.
    pub fn sums(&self) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for held in &self.blocks {
            for (a, target) in held.dual.iter().zip(&held.targets) {
                sums[usize::from(*target > 0.0)] += f64::from(target.abs()) * f64::from(*a);
            }
        }
        sums
    }
}
