//! A worker's part of a Newton step under an L1 penalty, by coordinate descent (newGLMNET: Yuan, Ho and Lin, JMLR 2012).
//!
//! The step d minimises g.d + 1/2 d^T H d + penalty(w + d), H = sum over workers k of H_k, H_k = X_k^T D_k X_k / n. Worker
//! k finds a step of its own,
//! ```text
//! d_k = argmin  sum over j of s_kj (g_j d_j + penalty(w_j + d_j)) + 1/2 d^T H_k d,   s_kj = H_k,jj / H_jj
//! ```
//! and the common one is d_j = sum over k of s_kj d_kj. As the shares of a feature sum to 1 and the penalty is convex,
//! that is a direction of descent, exact for one worker, and for features that one worker alone has. Between sweeps of a worker
//! alone, planes are searched ([`super::plane`]).
//! Invariant: a coordinate's step is the best one for the others as they stand; none is made where H_jj is 0.

use super::bounds::Bounds;
use super::certificate::Penalty;
use super::columns::Columns;
use super::moved::{self, Moved};
use super::plane::Plane;
use crate::pages;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Sweeps over the coordinates at most.
const SWEEPS: usize = 60;
/// The same where one of several workers has few rows of a feature, so that H_k tells little of H: what more sweeps find is lost
/// in the common step, and where H_k is all but flat they go far astray.
const FEW_SWEEPS: usize = 2;
/// Rows of a feature that are many, in the mean.
pub const MANY: usize = 200;
/// Features whose columns lie side by side and come one after the other.
pub const GROUP: usize = 16;
/// Sweeps until the sum of violations has fallen to this part: most of what is left is for the next step.
const ENOUGH: f64 = 0.5;

/// What a worker knows of the problem.
pub struct Quadratic<'a> {
    /// Its rows' columns of the features that are worked on.
    pub columns: &'a Columns,
    /// The features' weights.
    pub weights: &'a [f64],
    /// The gradient of all losses.
    pub gradient: &'a [f64],
    /// This worker's part of the diagonal.
    pub own: &'a [f64],
    /// The diagonal.
    pub all: &'a [f64],
    /// Slope and curvature of each of its rows, over n.
    pub bends: &'a [[f64; 2]],
    /// The penalty.
    pub penalty: Penalty,
    /// Of the intercept, if there is one: gradient, this worker's part of the curvature, the curvature.
    pub bias: Option<[f64; 3]>,
    /// How far it may go in each feature.
    pub bounds: &'a Bounds,
    /// Whether it is the only worker.
    pub alone: bool,
    /// How far the violations must fall; 0 for the usual part.
    pub enough: f64,
}

/// A worker's step.
#[derive(Debug, Default, Clone)]
pub struct Way {
    /// By feature.
    pub step: Vec<f64>,
    /// Of the intercept.
    pub bias: f64,
}

/// The best value of a coordinate that is `at`, by its slope there, its curvature and the L1 penalty; and by how much the slope
/// violates optimality: below 0, by how much it falls short of that, if the best value is the 0 that it has.
#[inline(always)]
pub fn best(at: f64, slope: f64, curvature: f64, l1: f64) -> (f64, f64) {
    let violation = match at {
        at if at > 0.0 => (slope + l1).abs(),
        at if at < 0.0 => (slope - l1).abs(),
        _ => slope.abs() - l1,
    };
    let aim = at - slope / curvature;
    let next = if aim.abs() <= l1 / curvature { 0.0 } else { aim - aim.signum() * l1 / curvature };
    (next, violation)
}

impl Quadratic<'_> {
    /// This worker's step; `moved` is memory for it.
    pub fn solve(&self, rng: &mut ChaCha8Rng, moved: &mut Vec<[f32; 2]>) -> Way {
        let mut way = Way { step: vec![0.0; self.weights.len()], bias: 0.0 };
        pages::clear(moved, self.bends.len());
        moved.extend(self.bends.iter().map(|[_, curvature]| [0.0, *curvature as f32]));
        let mut order: Vec<u32> = (0..self.weights.len() as u32).filter(|j| self.own[*j as usize] > 0.0).collect();
        let (mut first, mut last) = (0.0, f64::INFINITY);
        let mut plane = Plane::new(self, moved.len());
        for sweep in 0..self.sweeps() {
            if let Some(plane) = &mut plane {
                plane.start(&way, moved);
            }
            let mut groups: Vec<&[u32]> = order.chunks(GROUP).collect();
            groups.shuffle(rng);
            let (mut sum, mut most, mut left) = (0.0, 0.0f64, Vec::with_capacity(order.len()));
            for j in groups.into_iter().flatten() {
                let (violation, stays) = self.coordinate(*j as usize, last, &mut way, moved);
                sum += violation;
                most = most.max(violation);
                if stays {
                    left.push(*j);
                }
            }
            order = left;
            self.intercept(&mut way, moved);
            if sweep == 0 {
                first = sum;
            }
            if sum <= first * if self.enough > 0.0 { self.enough } else { ENOUGH } {
                break;
            }
            last = most;
            if let Some(plane) = &mut plane {
                plane.go_on(&mut way, moved);
            }
        }
        way
    }

    /// Sweeps at most.
    fn sweeps(&self) -> usize {
        let features = self.own.iter().filter(|own| **own > 0.0).count();
        if self.alone || self.columns.nonzeros() >= MANY * features { SWEEPS } else { FEW_SWEEPS }
    }

    /// A step in coordinate `j`: by how much its optimality was violated, and whether it is to be looked at again.
    #[inline(always)]
    fn coordinate(&self, j: usize, last: f64, way: &mut Way, moved: &mut Moved) -> (f64, bool) {
        let (column, share) = (self.columns.column(j), self.own[j] / self.all[j]);
        let at = self.weights[j] + way.step[j];
        // SAFETY: a column's rows are below the number of rows, which the vector has.
        let moves = unsafe { moved::slope(moved, column.rows, column.values) };
        let slope = share * (self.gradient[j] + self.penalty.l2 * at) + moves;
        let curvature = self.own[j] + share * self.penalty.l2;
        let l1 = share * self.penalty.l1;
        let (next, violation) = best(at, slope, curvature, l1);
        if violation < 0.0 {
            // So far from asking for a weight that it is not looked at again in this step.
            return (0.0, -violation < share * last);
        }
        let change = self.bounds.cut(j, way.step[j], next - at);
        if change == 0.0 && next != at {
            // As far as it may go.
            return (0.0, true);
        }
        if change != 0.0 && change.is_finite() {
            way.step[j] += change;
            // SAFETY: as above.
            unsafe { moved::go(moved, column.rows, column.values, change) };
        }
        // By feature, not by the worker's share of it.
        (violation / share, true)
    }

    /// A step in the intercept.
    fn intercept(&self, way: &mut Way, moved: &mut Moved) {
        let Some([gradient, own, all]) = self.bias else { return };
        if own <= 0.0 || all <= 0.0 {
            return;
        }
        let change = -(own / all * gradient + moved::slope_of_all(moved)) / own;
        way.bias += change;
        moved.iter_mut().for_each(|[moved, _]| *moved += change as f32);
    }
}
