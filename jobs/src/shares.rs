//! Whose rows use which features: what several workers need to merge their private replicas safely.
//!
//! A worker's delta of feature j counts with the weight c_kj / c_j, where c_kj of its rows and c_j of all rows contain
//! j. The weights of a feature sum to 1, so a common fixed point stays one. They also undo what a worker's view of the
//! curvature is off by: along j it sees c_kj / n_k where the whole has c_j / n, so its step is long by
//! (c_j / n) (n_k / c_kj); weighted and summed over the workers that is sum n_k / n <= 1, never an overshoot.
//! Workers whose rows come in several parts count those rows alone that all work on together.
//! Invariant: a worker whose rows lack a feature has weight 0 for it.

use crate::parts::{Part, Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::plan::{Steps, Table, Threads};
use flexps_common::worker::Worker;

/// The column, on a worker's first block, that keeps its counts from stage to stage.
const COLUMN: &str = "share";

/// A worker's share of the rows, in one part.
#[derive(Debug, Default)]
pub struct Share {
    /// Its rows.
    pub rows: u64,
    /// By feature of the part: how many of them contain it; whole numbers, as sums of ones in f32 end at 16.8 million.
    counts: Vec<u32>,
}

/// What a worker's part of the rows counts for, by feature of the part.
#[derive(Debug)]
pub struct Weights {
    /// How much a worker's delta counts.
    pub weights: Vec<f32>,
    /// Where rows come in parts: how much more frequent a feature is in this one than in all rows of the worker, if the
    /// workers' rows are alike; at least 1.
    pub densities: Option<Vec<f32>>,
}

/// The stage function: counts this worker's rows by feature, keeps the counts and adds them to `totals`.
pub fn count(worker: &mut Worker<'_>, rows: Rows, totals: Table<f32>) -> Result<()> {
    let mut parts = Parts::new(worker, rows)?;
    while let Some(part) = parts.next(worker)? {
        let Share { rows: count, mut counts } = Share::count(worker, &part)?;
        worker.add_mapped(totals, &part.map, &as_floats(&counts))?;
        match part.first() {
            Some(first) => {
                counts.extend([count as u32, worker.place.local_threads as u32]);
                worker.put_column(rows.input, first, COLUMN, counts)?;
            }
            // So that the shards need not keep the counts of all parts.
            None => worker.clock()?,
        }
    }
    Ok(())
}

/// Plans that `weights` becomes `start` in the features that the rows contain. The optimum of the others is zero, and no
/// row would ever move them there. [`count`] must have run; the scalar `features` must be set.
pub fn adopt(steps: &mut Steps, start: Vector, weights: Vector, totals: Table<f32>, threads: Threads) {
    let run = move |worker: &mut Worker<'_>| {
        const PART: u64 = 1 << 16;
        let features = (worker.scalar("features", 0.0) as u64).min(u64::from(u32::MAX));
        let (mut values, mut counts) = (Vec::new(), Vec::new());
        let first = worker.place.index as u64 * PART;
        for from in (first..features).step_by(worker.place.threads * PART as usize) {
            let keys = from as u32..features.min(from + PART) as u32;
            worker.get_range(start.features, keys.clone(), &mut values)?;
            worker.get_range(totals, keys.clone(), &mut counts)?;
            values.iter_mut().zip(&counts).filter(|(_, count)| **count == 0.0).for_each(|(value, _)| *value = 0.0);
            worker.add_range(weights.features, keys, &values)?;
        }
        if worker.place.index > 0 {
            return Ok(());
        }
        let bias = start.get_bias(worker)?;
        weights.add_bias(worker, bias)
    };
    steps.stage("adopt", run).threads(threads);
}

impl Share {
    /// Counts the rows of a part.
    fn count(worker: &mut Worker<'_>, part: &Part) -> Result<Self> {
        let mut share = Self { rows: 0, counts: vec![0; part.map.len()] };
        for at in 0..part.blocks() {
            let block = part.in_order(worker, at)?;
            share.rows += block.rows() as u64;
            for index in &block.indices {
                share.counts[*index as usize] += 1;
            }
        }
        Ok(share)
    }

    /// The share of a part's rows; when they are all of the worker's, what was kept of them in an earlier stage. With
    /// other threads beside it than then, a worker has other rows: they are counted anew, and kept.
    pub fn recall(worker: &mut Worker<'_>, rows: Rows, part: &Part) -> Result<Self> {
        let Some(first) = part.first() else { return Self::count(worker, part) };
        let threads = worker.place.local_threads as u32;
        let kept: Option<Vec<u32>> = worker.find_column(rows.input, first, COLUMN)?;
        let mut kept = match kept {
            Some(kept) if kept.last() == Some(&threads) => kept,
            _ => {
                let Self { rows, mut counts } = Self::count(worker, part)?;
                counts.extend([rows as u32, threads]);
                counts
            }
        };
        worker.put_column(rows.input, first, COLUMN, kept.clone())?;
        kept.pop();
        let rows = kept.pop().map_or(0, u64::from);
        Ok(Self { rows, counts: kept })
    }

    /// The share of rows that were drawn, and the counts and rows of all of the stage's workers, which are on one slave.
    pub fn drawn(worker: &mut Worker<'_>, part: &Part) -> Result<(Self, Vec<f32>, f64)> {
        let share = Self::count(worker, part)?;
        let (mut totals, mut rows) = (as_floats(&share.counts), [share.rows as f64]);
        worker.sum_local(&mut totals)?;
        worker.sum_local(&mut rows)?;
        Ok((share, totals, rows[0]))
    }

    /// Turns the counts into weights, `workers` workers together having `rows` rows, in `parts` parts each, and `totals` of
    /// them each feature.
    pub fn weights(self, totals: Vec<f32>, workers: usize, rows: f64, parts: usize) -> Weights {
        let mut densities = totals;
        let times = (rows / (self.rows * workers as u64) as f64) as f32;
        let mut weights = as_floats(&self.counts);
        for (own, all) in weights.iter_mut().zip(&mut densities) {
            let density = if *own > 0.0 { *own / *all * times } else { 1.0 };
            *own = weight(*own, *all, workers, parts);
            *all = density.max(1.0);
        }
        Weights { weights, densities: (parts > 1).then_some(densities) }
    }
}

fn as_floats(counts: &[u32]) -> Vec<f32> {
    counts.iter().map(|count| *count as f32).collect()
}

/// The weight of a worker that has `own` of `all` rows in its present part, all workers having so many parts: its share
/// of the rows in all workers' present parts, when the others' rows are spread evenly over theirs.
pub fn weight(own: f32, all: f32, workers: usize, parts: usize) -> f32 {
    if own == 0.0 {
        return 0.0;
    }
    let present = (workers - 1) as f32 / (workers * parts - 1).max(1) as f32;
    own / (own + (all - own) * present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares_of_the_rows_that_are_worked_on_together() {
        // One part each: the share of all rows.
        assert_eq!(weight(2.0, 8.0, 3, 1), 0.25);
        assert_eq!(weight(0.0, 8.0, 3, 1), 0.0);
        // Nobody beside it.
        assert_eq!(weight(2.0, 8.0, 1, 4), 1.0);
        // A feature as frequent everywhere: one of three.
        assert!((weight(1.0, 18.0, 3, 6) - 1.0 / 3.0).abs() < 1e-6);
        // A feature of these rows alone.
        assert_eq!(weight(2.0, 2.0, 3, 6), 1.0);
    }
}
