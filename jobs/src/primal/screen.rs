//! The stage over features: what the penalty adds to the objective and to the certificate, and which features the
//! descent is to work on.
//!
//! A feature is worked on if its weight is not zero, or if its gradient exceeds what the L1 penalty holds back; of the
//! latter only those that exceed it most, so that the first rounds, far from the optimum, do not work on features that
//! the end leaves at zero. Features that no row has are not looked at where one slave knows them: hashed features are mostly
//! such. Invariant: all workers agree on the threshold, and the list holds each such feature once.

use super::certificate::{FeatureSums, Penalty};
use super::reduce::Reduce;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use std::ops::Range;
use std::sync::Arc;

/// Features that a worker reads at a time.
const RANGE: u64 = 1 << 16;
/// Classes of excess: 16 to an octave.
const BINS: usize = 256;
const OCTAVE: f64 = 16.0;
/// Features that are worked on at least, if so many ask for it.
const LEAST: f64 = 1000.0;
/// Of those that ask for it, this part is worked on at least.
const PART: f64 = 0.25;

/// Beside them stand, where the penalty is going to fall, features whose gradient comes to this part of it: their columns
/// are made along with the others, lest it take another pass over the rows.
const NEAR: f64 = 0.7;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// The weights.
    pub point: Table<f64>,
    /// Their losses' gradient.
    pub gradient: Table<f64>,
    /// Where the list of features goes; zero at the start. None where nobody asks.
    pub active: Option<Table<u32>>,
    /// For sums over the workers.
    pub sums: Table<f64>,
    /// Whether the penalty is going to fall.
    pub path: bool,
    /// The rows, where only their features can have a weight.
    pub rows: Option<Rows>,
}

/// Calls `each` with this worker's ranges of all features.
pub fn ranges(worker: &mut Worker<'_>, mut each: impl FnMut(&mut Worker<'_>, Range<Key>) -> Result<()>) -> Result<()> {
    let features = (worker.scalar("features", 0.0) as u64).min(u64::from(u32::MAX));
    let (first, step) = (worker.place.index as u64 * RANGE, worker.place.threads * RANGE as usize);
    (first..features).step_by(step).try_for_each(|from| each(worker, from as Key..features.min(from + RANGE) as Key))
}

fn bin(excess: f64) -> usize {
    ((excess.log2() * OCTAVE) as usize).min(BINS - 1)
}

impl Screen {
    /// The features that rows have, where this slave has all rows and keeps values by feature.
    fn occurring(&self, worker: &mut Worker<'_>) -> Result<Option<Arc<KeyMap>>> {
        let Some(rows) = self.rows.filter(|_| worker.place.slaves == 1) else { return Ok(None) };
        Ok(Parts::new(worker, rows)?.whole(worker)?.map(|part| part.map))
    }

    /// The stage function. Reports `penalty` and `excess`, summed, `most`, `nonzeros`, `gradient2` (the squared norm of the
    /// whole objective's gradient without the L1 penalty) and, of the list, `active` and behind them `near`.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let penalty = Penalty { l1: worker.scalar("l1", 0.0), l2: worker.scalar("l2", 0.0) };
        let (mut sums, mut nonzeros, mut gradient2) = (FeatureSums::default(), 0u64, 0.0);
        let (mut weights, mut gradient) = (Vec::new(), Vec::new());
        // Features with a weight, and those that ask for one with what they exceed the penalty by, as a bin.
        let (mut held, mut asking): (Vec<Key>, Vec<(Key, u8)>) = Default::default();
        let (mut counts, mut near) = (vec![0.0; BINS], Vec::<Key>::new());
        let mut look = |keys: &mut dyn Iterator<Item = Key>, weights: &[f64], gradient: &[f64]| {
            for (key, (w, g)) in keys.zip(weights.iter().zip(gradient)) {
                sums.penalty += penalty.of(*w);
                let size = g.abs();
                sums.most = sums.most.max(size);
                let over = (size - penalty.l1).max(0.0);
                let all = g + penalty.l2 * w;
                gradient2 += all * all;
                sums.excess += over * over;
                if *w != 0.0 {
                    nonzeros += 1;
                    held.push(key);
                } else if over > 0.0 && self.active.is_some() {
                    let bin = if penalty.l1 > 0.0 { bin(size / penalty.l1) } else { 0 };
                    counts[bin] += 1.0;
                    asking.push((key, bin as u8));
                } else if self.path && size >= NEAR * penalty.l1 && size > 0.0 {
                    near.push(key);
                }
            }
        };
        match self.occurring(worker)?.as_deref() {
            Some(KeyMap::Sorted(keys)) => {
                let (index, threads) = (worker.place.index, worker.place.threads);
                let own = &keys[keys.len() * index / threads..keys.len() * (index + 1) / threads];
                worker.get(self.point, own, &mut weights)?;
                worker.get(self.gradient, own, &mut gradient)?;
                look(&mut own.iter().copied(), &weights, &gradient);
            }
            _ => ranges(worker, |worker, mut keys| {
                worker.get_range(self.point, keys.clone(), &mut weights)?;
                worker.get_range(self.gradient, keys.clone(), &mut gradient)?;
                look(&mut keys, &weights, &gradient);
                Ok(())
            })?,
        }
        for (name, value) in [("penalty", sums.penalty), ("excess", sums.excess), ("gradient2", gradient2)] {
            worker.report(name, Metric::Sum(value));
        }
        worker.report("most", Metric::Max(sums.most));
        worker.report("nonzeros", Metric::Count(nonzeros));
        let Some(active) = self.active else { return Ok(()) };
        let mut reduce = Reduce::new(self.sums, (BINS + 1).max(2 * worker.place.threads));
        counts.push(nonzeros as f64);
        reduce.sum(worker, &mut counts)?;
        let least = threshold(&counts[..BINS], counts[BINS]);
        let mut list = held;
        for (key, bin) in asking {
            if usize::from(bin) >= least { &mut list } else { &mut near }.push(key);
        }
        if !self.path {
            near.clear();
        }
        // Where this worker's parts of the list begin.
        let (index, threads) = (worker.place.index, worker.place.threads);
        let mut lengths = vec![0.0; 2 * threads];
        (lengths[index], lengths[threads + index]) = (list.len() as f64, near.len() as f64);
        reduce.sum(worker, &mut lengths)?;
        for (part, name, at) in [(list, "active", index), (near, "near", threads + index)] {
            let from = lengths[..at].iter().sum::<f64>() as Key;
            worker.report(name, Metric::Count(part.len() as u64));
            worker.add_range(active, from..from + part.len() as Key, &part)?;
        }
        Ok(())
    }
}

/// The least bin whose features are worked on.
fn threshold(counts: &[f64], nonzeros: f64) -> usize {
    let asking: f64 = counts.iter().sum();
    let wanted = (PART * asking).max(LEAST).max(nonzeros);
    let mut taken = 0.0;
    for (bin, count) in counts.iter().enumerate().rev() {
        taken += count;
        if taken >= wanted {
            return bin;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_that_exceed_the_penalty_most_come_first() {
        let mut counts = vec![0.0; BINS];
        (counts[0], counts[10], counts[20]) = (50_000.0, 30_000.0, 500.0);
        assert_eq!(threshold(&counts, 0.0), 10);
        assert_eq!(threshold(&counts, 40_000.0), 0);
        counts[0] = 10.0;
        assert_eq!(threshold(&counts, 0.0), 10);
        assert_eq!(threshold(&vec![0.0; BINS], 3.0), 0);
        assert_eq!((bin(1.0), bin(1.05), bin(2.0), bin(1e30)), (0, 1, 16, BINS - 1));
    }
}
