//! The stage over features: what the penalty adds to the objective and to the certificate, and which features the
//! descent is to work on.
//!
//! A feature is worked on if its weight is not zero, or if its gradient exceeds what the L1 penalty holds back; of the
//! latter only those that exceed it most, so that the first rounds, far from the optimum, do not work on features that
//! the end leaves at zero; where features are few, all are. Features that no row has are not looked at where one slave
//! knows them: hashed features are mostly such. Behind the features that are worked on the list holds, along a path, those that are watched for its next steps.
//! Invariant: all workers agree on the threshold and on the steps, and the list holds each such feature once.

use super::certificate::{FeatureSums, Penalty};
use super::occurring::occurring;
use super::reach::Ahead;
use super::reduce::Reduce;
use crate::parts::Rows;
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use std::ops::Range;

/// Features that a worker reads at a time.
const RANGE: u64 = 1 << 16;
/// Classes of excess: 16 to an octave.
const BINS: usize = 256;
const OCTAVE: f64 = 16.0;
/// Features that are worked on at least, if so many ask for it.
const LEAST: f64 = 1000.0;
/// Of those that ask for it, this part is worked on at least.
const PART: f64 = 0.25;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// The weights.
    pub point: Table<f64>,
    /// Their losses' gradient; where a list is made, as [`super::occurring`] says.
    pub gradient: Table<f64>,
    /// Where the list of features goes; zero at the start. None where nobody asks.
    pub active: Option<Table<u32>>,
    /// For sums over the workers.
    pub sums: Table<f64>,
    /// Norms and non-zeros by feature, as [`super::occurring`] says, where the penalty is going to fall.
    pub norms: Option<Table<f64>>,
    /// The rows, of whose features alone some have a weight.
    pub rows: Rows,
}

/// Calls `each` with this worker's ranges of all features.
pub fn ranges(worker: &mut Worker<'_>, mut each: impl FnMut(&mut Worker<'_>, Range<Key>) -> Result<()>) -> Result<()> {
    let features = (worker.scalar("features", 0.0) as u64).min(u64::from(u32::MAX));
    let (first, step) = (worker.place.index as u64 * RANGE, worker.place.threads * RANGE as usize);
    (first..features).step_by(step).try_for_each(|from| each(worker, from as Key..features.min(from + RANGE) as Key))
}

/// Whether all features are worked on: where they are few no rounds need to find out which matter, but along a path, where hardly
/// any do at first.
pub fn takes_all(worker: &Worker<'_>, norms: Option<Table<f64>>) -> bool {
    worker.scalar("few", 0.0) == 1.0 && norms.is_none()
}

/// Whether a weight is none of 0 in the model, whose numbers are shorter: where a feature has no part in any row's loss, steps
/// leave ever less of its weight, and nothing at last.
pub fn is_kept(weight: f64) -> bool {
    weight as f32 != 0.0
}

fn bin(excess: f64) -> usize {
    ((excess.log2() * OCTAVE) as usize).min(BINS - 1)
}

impl Screen {
    /// The stage function. Reports `penalty` and `excess`, summed, `most`, `nonzeros`, `gradient2` (the squared norm of the
    /// whole objective's gradient without the L1 penalty) and, of the list, `active` and behind them `near`; along a path what
    /// [`Ahead`] says.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let penalty = Penalty { l1: worker.scalar("l1", 0.0), l2: worker.scalar("l2", 0.0) };
        let (mut sums, mut nonzeros, mut gradient2) = (FeatureSums::default(), 0u64, 0.0);
        let (mut weights, mut gradient) = (Vec::new(), Vec::new());
        // Features with a weight, and those that ask for one with what they exceed the penalty by, as a bin.
        let (mut held, mut asking): (Vec<Key>, Vec<(Key, u8)>) = Default::default();
        let ahead = Ahead::of(worker);
        // Features that may be watched, with when they come in the way first and the size of their gradient.
        let (mut counts, mut near) = (vec![0.0; BINS], Vec::<(Key, usize, f64)>::new());
        let (mut radii, mut first_nonzeros) = (ahead.radii(), vec![0.0; ahead.classes()]);
        let whole = takes_all(worker, self.norms);
        let mut look = |keys: &mut dyn Iterator<Item = Key>, weights: &[f64], gradient: &[f64], norms: &[f64]| {
            let mut norms = norms.chunks_exact(2);
            for (key, (w, g)) in keys.zip(weights.iter().zip(gradient)) {
                sums.add(*w, *g, penalty);
                let (size, all) = (g.abs(), g + penalty.l2 * w);
                gradient2 += all * all;
                // What no row has comes in the way of nothing.
                let mut first = ahead.classes() - 1;
                if let Some([norm2, count]) = norms.next().and_then(|norm| norm.first_chunk().copied())
                    && count > 0.0
                {
                    let norm = norm2.sqrt();
                    first = if *w == 0.0 { ahead.first(size, norm) } else { 0 };
                    if *w == 0.0 {
                        radii.add(&ahead, first, size, norm);
                    }
                    first_nonzeros[first] += count;
                }
                nonzeros += u64::from(is_kept(*w));
                if *w != 0.0 {
                    held.push(key);
                } else if (whole || size > penalty.l1) && self.active.is_some() {
                    let bin = if penalty.l1 > 0.0 { bin(size / penalty.l1) } else { 0 };
                    counts[bin] += 1.0;
                    asking.push((key, bin as u8));
                } else if self.norms.is_some() && (first + 1 < ahead.classes() || ahead.is_near(size)) {
                    near.push((key, first, size));
                }
            }
        };
        let mut norms = Vec::new();
        match occurring(worker, self.rows)?.as_deref() {
            Some(KeyMap::Sorted(keys)) => {
                let share = worker.place.share(keys.len());
                let (own, places) = (&keys[share.clone()], share.start as Key..share.end as Key);
                worker.get(self.point, own, &mut weights)?;
                match self.active {
                    Some(_) => worker.get_range(self.gradient, places.clone(), &mut gradient)?,
                    None => worker.get(self.gradient, own, &mut gradient)?,
                }
                self.norms.map_or(Ok(()), |table| worker.get_range(table, places, &mut norms))?;
                look(&mut own.iter().copied(), &weights, &gradient, &norms);
            }
            _ => ranges(worker, |worker, mut keys| {
                worker.get_range(self.point, keys.clone(), &mut weights)?;
                worker.get_range(self.gradient, keys.clone(), &mut gradient)?;
                self.norms.map_or(Ok(()), |table| worker.get_range(table, keys.clone(), &mut norms))?;
                look(&mut keys, &weights, &gradient, &norms);
                Ok(())
            })?,
        }
        for (name, value) in [("penalty", sums.penalty), ("excess", sums.excess), ("gradient2", gradient2)] {
            worker.report(name, Metric::Sum(value));
        }
        worker.report("most", Metric::Max(sums.most));
        worker.report("nonzeros", Metric::Count(nonzeros));
        let Some(active) = self.active else { return Ok(()) };
        let room = BINS + 1 + first_nonzeros.len();
        let mut reduce = Reduce::new(self.sums, room.max(2 * worker.place.threads));
        counts.push(held.len() as f64);
        counts.extend(first_nonzeros);
        reduce.sum(worker, &mut counts)?;
        let least = threshold(&counts[..BINS], counts[BINS]);
        let memory = self.rows.memory as f64 * worker.place.threads as f64;
        let steps = ahead.choose(&counts[BINS + 1..], memory);
        near.retain(|(_, first, size)| ahead.is_watched(steps, *first, *size));
        let (mut list, mut near): (_, Vec<Key>) = (held, near.into_iter().map(|(key, ..)| key).collect());
        for (key, bin) in asking {
            if usize::from(bin) >= least {
                list.push(key);
            } else if self.norms.is_some() {
                near.push(key);
            }
        }
        if self.norms.is_some() {
            radii.report(worker, &ahead, steps);
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
    use super::super::norms::Norms;
    use super::*;
    use crate::fixtures;
    use flexps_common::data::InputSpec;
    use flexps_common::data::schema::DataPath;
    use flexps_common::host::Host;
    use flexps_common::plan::{Flow, Plan};

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

    #[test]
    fn a_weight_that_the_model_cannot_hold_is_none() {
        assert_eq!([0.0, 1e-60, -1e-46, 1e-45, -1e-40, 0.5].map(is_kept), [false, false, false, true, true, true]);
    }

    #[test]
    fn a_feature_that_no_row_has_is_not_watched_on_any_slaves() {
        let mut blocks = fixtures::Rows { features: 20, ..fixtures::Rows::sparse(5) }.blocks(4);
        blocks.iter_mut().flat_map(|block| &mut block.indices).for_each(|key| *key *= 50);
        for (slaves, slots) in [(1, 1), (2, 1), (2, 2)] {
            let mut plan = Plan::default();
            let spec = InputSpec::new("input", vec![DataPath("rows".to_owned())]);
            let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20, drawn: false };
            let [point, gradient, sums] = ["point", "gradient", "sums"].map(|name| plan.table::<f64>(name, 1));
            let (norms, active) = (plan.table::<f64>("norms", 2), plan.table::<u32>("active", 1));
            // A path that has been on its way for a while, so that it is known for how many steps watching pays.
            let scalars = [("features", 951.0), ("l1", 0.1), ("path_ratio", 0.9), ("path_left", 10.0), ("pace", 1e-3)];
            plan.scalars.extend(scalars.map(|(name, value)| (name.to_owned(), value)));
            let measured = Norms { rows, norms };
            let screen = Screen { point, gradient, active: Some(active), sums, norms: Some(norms), rows };
            plan.body.stage("norms", move |worker| measured.run(worker)).input(rows.input);
            plan.body.stage("screen", move |worker| screen.run(worker)).input(rows.input);
            plan.body.decide(|progress| {
                let near = progress.metric("screen", "near")?;
                progress.set("near", near);
                Ok(Flow::Next)
            });
            let outcome = Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
            assert!(outcome.progress.scalars["near"] <= 20.0, "on {slaves}: {}", outcome.progress.scalars["near"]);
        }
    }
}
