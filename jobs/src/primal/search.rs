//! How far to go a Newton step: to where the objective is least along it.
//!
//! Along a step d from the weights w the objective is convex, and its slope is
//! ```text
//! phi'(t) = (1/n) sum c f'(z + t x.d) x.d  +  l2 (w.d + t d.d)
//! ```
//! Where a loss is quadratic in pieces its second derivative at one point tells nothing of rows that are flat there: whole steps
//! go forth and back, those to the least along them to the optimum (Keerthi and DeCoste, JMLR 2005). Invariant: the objective
//! of the loss that is searched, of the hinge a smooth one, is no higher at the length that is found, but for rounding.

use super::bends::bend;
use super::loss::Smooth;
use super::reduce::Reduce;
use flexps_common::Result;
use flexps_common::worker::Worker;

/// Looks at most.
const LOOKS: usize = 60;
/// The search ends where the slope is this part of the first.
const ENOUGH: f64 = 0.01;
/// What lies lower or higher by no more than this part of the objective may be rounding: there the length is better where the slope
/// is this part of the best one's at most, lest an intercept that brings little is never settled.
const NOISE: f64 = 1e-14;
const LEVEL: f64 = 0.5;

/// A worker's rows along a step.
pub struct Line {
    /// Targets and weights; weight 0 is held out.
    pub targets: Vec<(f64, f64)>,
    /// Scores at the start, and by how much the whole step moves them.
    pub scores: Vec<f64>,
    pub moves: Vec<f64>,
    /// All rows' number.
    pub rows: f64,
    /// l2 w.d and l2 d.d, of all features.
    pub penalty: [f64; 2],
}

/// What there is at one length.
#[derive(Debug, Clone, Copy)]
struct At {
    value: f64,
    slope: f64,
    curvature: f64,
}

/// Lengths between which the least is.
#[derive(Debug)]
struct Bracket {
    low: f64,
    high: f64,
}

impl Bracket {
    /// Narrows it by what the slope at `length` is, and gives the length to look at next.
    fn next(&mut self, length: f64, At { slope, curvature, .. }: At) -> f64 {
        // What is no number lies too far out.
        if slope < 0.0 {
            self.low = length;
        } else {
            self.high = length;
        }
        let next = length - slope / curvature;
        match self.high {
            high if next > self.low && next < high => next,
            f64::INFINITY => 2.0 * length,
            high => 0.5 * (self.low + high),
        }
    }
}

impl Line {
    /// The length, the same for all workers, and by how much the objective is lower there. `reduce` must have room for three
    /// numbers.
    pub fn least(&self, loss: impl Smooth, worker: &mut Worker<'_>, reduce: &mut Reduce) -> Result<(f64, f64)> {
        let (mut scores, mut bends) = (self.scores.clone(), vec![[0.0; 2]; self.scores.len()]);
        let mut look = |length: f64, worker: &mut Worker<'_>| -> Result<At> {
            scores.iter_mut().zip(self.scores.iter().zip(&self.moves)).for_each(|(to, (z, d))| *to = z + length * d);
            let (sums, _) = bend(loss, &self.targets, &scores, &mut bends, 1.0 / self.rows);
            let (mut slope, mut curvature) = (0.0, 0.0);
            for ([first, second], d) in bends.iter().zip(&self.moves) {
                slope += first * d;
                curvature += second * d * d;
            }
            let mut sums = vec![sums.loss / self.rows, slope, curvature];
            reduce.sum(worker, &mut sums)?;
            let [along, square] = self.penalty;
            Ok(At {
                value: sums[0] + length * (along + 0.5 * length * square),
                slope: sums[1] + along + length * square,
                curvature: sums[2] + square,
            })
        };
        let start = look(0.0, worker)?;
        if start.slope.is_nan() || start.slope >= 0.0 {
            return Ok((0.0, 0.0));
        }
        let (mut length, mut best, mut level) = (1.0, (0.0, 0.0), start.slope.abs());
        let mut bracket = Bracket { low: 0.0, high: f64::INFINITY };
        for _ in 0..LOOKS {
            worker.check()?;
            let at = look(length, worker)?;
            let lower = start.value - at.value;
            let drowns = (lower - best.1).abs() <= NOISE * start.value.abs();
            let better = if drowns { at.slope.abs() <= LEVEL * level } else { lower > best.1 };
            if better {
                (best, level) = ((length, lower), at.slope.abs());
                if at.slope.abs() <= ENOUGH * start.slope.abs() {
                    break;
                }
            }
            let next = bracket.next(length, at);
            if next == length || !next.is_finite() {
                break;
            }
            length = next;
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::{Logistic, Squared, SquaredHinge};
    use super::*;
    use flexps_common::host::Host;
    use flexps_common::metrics::Metric;
    use flexps_common::plan::Plan;

    /// The objective at a length, by all rows.
    fn value(loss: impl Smooth, length: f64, penalty: [f64; 2]) -> f64 {
        let rows = (0..60).map(|i| loss.at(target(i), score(i) + length * moves(i)).loss);
        rows.sum::<f64>() / 60.0 + length * (penalty[0] + 0.5 * length * penalty[1])
    }

    fn target(i: usize) -> f64 {
        if i.is_multiple_of(3) { -1.0 } else { 1.0 }
    }

    fn score(i: usize) -> f64 {
        (i as f64).sin()
    }

    /// Most of it in the way of the targets.
    fn moves(i: usize) -> f64 {
        8.0 * (target(i) + 1.5 * (7.0 * i as f64).cos())
    }

    fn check(loss: impl Smooth, penalty: [f64; 2]) {
        for (slaves, slots) in [(1, 1), (1, 3), (2, 2)] {
            let mut plan = Plan::default();
            let sums = plan.table("sums", 1);
            plan.body.stage("search", move |worker| {
                let own: Vec<usize> = worker.place.share(60).collect();
                let line = Line {
                    targets: own.iter().map(|i| (target(*i), 1.0)).collect(),
                    scores: own.iter().map(|i| score(*i)).collect(),
                    moves: own.iter().map(|i| moves(*i)).collect(),
                    rows: 60.0,
                    penalty,
                };
                let (length, lower) = line.least(loss, worker, &mut Reduce::new(sums, 3))?;
                worker.report("length", Metric::Max(length));
                worker.report("lower", Metric::Min(lower));
                Ok(())
            });
            let outcome = Host::cluster(slaves, slots).run(&plan).unwrap();
            let metric = |name| outcome.progress.metric("search", name).unwrap();
            let (length, lower) = (metric("length"), metric("lower"));
            let least = (0..4000).map(|at| value(loss, f64::from(at) * 1e-3, penalty)).fold(f64::INFINITY, f64::min);
            let (start, end) = (value(loss, 0.0, penalty), value(loss, length, penalty));
            assert!((start - end - lower).abs() < 1e-12, "{lower}, not {}", start - end);
            assert!(end - least <= 0.02 * (start - least), "{end} at {length}, least is {least}");
        }
    }

    #[test]
    fn a_step_ends_near_the_least_along_it() {
        check(Logistic, [-0.01, 0.02]);
        check(SquaredHinge, [0.0, 1e-3]);
        check(SquaredHinge, [0.01, 0.0]);
        check(Squared, [0.0, 0.1]);
    }

    #[test]
    fn where_what_a_step_brings_drowns_in_rounding_its_slope_tells_how_far_to_go() {
        let mut plan = Plan::default();
        let sums = plan.table("sums", 1);
        plan.body.stage("search", move |worker| {
            // The best scores are 0, with an objective of 1/2 that scores this small change by less than its last digit.
            let line = Line {
                targets: vec![(1.0, 1.0), (-1.0, 1.0)],
                scores: vec![1e-9; 2],
                moves: vec![-2.6e-9; 2],
                rows: 2.0,
                penalty: [0.0; 2],
            };
            let (length, lower) = line.least(Squared, worker, &mut Reduce::new(sums, 3))?;
            assert!((2.6 * length - 1.0).abs() < 1e-6 && lower.abs() < 1e-14, "{length}, lower by {lower:e}");
            Ok(())
        });
        Host::new().run(&plan).unwrap();
    }

    #[test]
    fn a_step_that_leads_up_is_not_gone() {
        let mut plan = Plan::default();
        let sums = plan.table("sums", 1);
        plan.body.stage("search", move |worker| {
            let line = Line {
                targets: vec![(1.0, 1.0)],
                scores: vec![0.5],
                moves: vec![-1.0],
                rows: worker.place.threads as f64,
                penalty: [0.0; 2],
            };
            assert_eq!(line.least(Logistic, worker, &mut Reduce::new(sums, 3))?, (0.0, 0.0));
            Ok(())
        });
        Host::cluster(1, 2).run(&plan).unwrap();
    }
}
