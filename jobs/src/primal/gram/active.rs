//! The best step under an L1 penalty by the matrix: sweeps of coordinate descent, which find out the features that have a weight,
//! and leaps of all of these to their common optimum.
//!
//! A leap ends where the first of them is 0, or as far as it may go; the next one goes on without that one (active sets:
//! Nocedal and Wright, Numerical Optimization, 2006, section 16.5). So features of groups that always add up to the same,
//! along which the matrix is flat, come to rest where one of them is 0. Invariant: H step is up to date with the step.

use super::super::bounds::Bounds;
use super::super::certificate::Penalty;
use super::super::quadratic::best;
use super::Gram;
use flexps_common::widest::{Work, widest};

/// Sweeps of coordinate descent at most.
const SWEEPS: usize = 200;
/// Sweeps behind which it is time for leaps, or more of them if these cost more.
const APART: usize = 10;
/// Leaps at most.
const LEAPS: usize = 50;
/// What is added to a diagonal in a leap, as a part of it: where the matrix is flat, weights are to go on until one of them is 0.
const FLAT: f64 = 1e-9;
/// Sweeps until the sum of violations has fallen to this part: where a feature asks for more than the penalty by little, the
/// certificate misses much.
const ENOUGH: f64 = 1e-6;

/// A step in the making.
pub struct Active<'a> {
    gram: &'a Gram,
    weights: &'a [f64],
    bounds: &'a Bounds,
    gradient: &'a [f64],
    penalty: Penalty,
    step: Vec<f64>,
    /// H step.
    moved: Vec<f64>,
    /// Features that a leap took as far as they may go; others go without them.
    stuck: Vec<bool>,
}

impl<'a> Active<'a> {
    /// No step yet from `weights`, where the losses' gradient is `gradient`; the intercept, if there is one, is the last.
    pub fn new(
        gram: &'a Gram,
        (weights, bounds): (&'a [f64], &'a Bounds),
        gradient: &'a [f64],
        penalty: Penalty,
    ) -> Self {
        let size = gram.size();
        let (step, moved, stuck) = (vec![0.0; size], vec![0.0; size], vec![false; size]);
        Self { gram, weights, bounds, gradient, penalty, step, moved, stuck }
    }

    /// The step.
    pub fn solve(mut self) -> Vec<f64> {
        let (mut first, mut since, mut leaps) = (0.0, 0, 0);
        for sweep in 0..SWEEPS {
            let sum = widest(Sweep(&mut self));
            if sweep == 0 {
                first = sum;
            }
            if sum <= ENOUGH * first {
                break;
            }
            since += 1;
            if since >= APART.max(self.held().len() / 6) {
                since = 0;
                while leaps < LEAPS {
                    leaps += 1;
                    if !self.leap() {
                        break;
                    }
                }
            }
        }
        self.step
    }

    /// Features that leaps move.
    fn held(&self) -> Vec<usize> {
        (0..self.gram.size()).filter(|j| self.at(*j) != 0.0 && !self.stuck[*j]).collect()
    }

    /// The weight that a feature has by now.
    fn at(&self, j: usize) -> f64 {
        self.weights[j] + self.step[j]
    }

    /// Moves a feature's step to `next`.
    #[inline(always)]
    fn go(&mut self, j: usize, next: f64) {
        let (change, size) = (next - self.step[j], self.gram.size());
        self.step[j] = next;
        let own = &self.gram.matrix[j * size..][..size];
        self.moved.iter_mut().zip(own).for_each(|(moved, h)| *moved += change * h);
    }

    /// A leap: whether one of the features stopped the others.
    fn leap(&mut self) -> bool {
        let (held, features) = (self.held(), self.gram.lines.features());
        let l2 = |j: usize| self.gram.ridge(j, self.penalty.l2);
        let aim = |j: &usize| {
            let l1 = if *j < features { self.penalty.l1 * self.at(*j).signum() } else { 0.0 };
            -(self.gradient[*j] + self.moved[*j] + l2(*j) * self.at(*j) + l1)
        };
        let ridge = |j: usize| l2(j) + FLAT * self.gram.matrix[j * self.gram.size() + j];
        let Some(way) = self.gram.solve_for(&held, held.iter().map(aim).collect(), ridge) else { return false };
        let (mut length, mut zero, mut end) = (1.0, None, None);
        for (j, d) in held.iter().zip(&way).filter(|(j, _)| **j < features) {
            let here = self.at(*j);
            if here * (here + length * d) < 0.0 {
                (length, zero) = (-here / d, Some(*j));
            }
        }
        for (j, d) in held.iter().zip(&way).filter(|(j, _)| **j < features) {
            let room = self.bounds.room(*j, self.step[*j], *d);
            if room < length {
                (length, zero, end) = (room, None, Some(*j));
            }
        }
        for (j, d) in held.iter().zip(&way) {
            let next = if zero == Some(*j) { -self.weights[*j] } else { self.step[*j] + length * d };
            self.go(*j, next);
        }
        if let Some(j) = end {
            self.stuck[j] = true;
        }
        zero.is_some() || end.is_some()
    }
}

/// A step in each coordinate: the sum of what they violated optimality by, where they were not as far as they may go.
struct Sweep<'a, 'b>(&'a mut Active<'b>);

impl Work for Sweep<'_, '_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let (active, mut sum) = (self.0, 0.0);
        let Active { gram, weights, bounds, gradient, penalty, .. } = *active;
        for j in 0..gram.size() {
            let (own, l2) = (gram.matrix[j * gram.size() + j], gram.ridge(j, penalty.l2));
            if own <= 0.0 {
                continue;
            }
            let (at, step) = (active.at(j), active.step[j]);
            let l1 = if j < gram.lines.features() { penalty.l1 } else { 0.0 };
            let (next, violation) = best(at, gradient[j] + l2 * at + active.moved[j], own + l2, l1);
            let wanted = next - at;
            let change = if j < gram.lines.features() { bounds.cut(j, step, wanted) } else { wanted };
            if change != 0.0 || wanted == 0.0 {
                sum += violation.max(0.0);
            }
            if change != 0.0 && change.is_finite() {
                // Exactly what leaves no weight, where none is to be left.
                active.go(j, if next == 0.0 && change == wanted { -weights[j] } else { step + change });
            }
        }
        sum
    }
}
