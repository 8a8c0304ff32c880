//! A worker's part of a Newton step under an L1 penalty, by coordinate descent (newGLMNET: Yuan, Ho and Lin, JMLR 2012).
//!
//! The step d minimises g.d + 1/2 d^T H d + penalty(w + d), H = sum over workers k of H_k, H_k = X_k^T D_k X_k / n. Worker
//! k finds a step of its own,
//! ```text
//! d_k = argmin  sum over j of s_kj (g_j d_j + penalty(w_j + d_j)) + 1/2 d^T H_k d,   s_kj = H_k,jj / H_jj
//! ```
//! and the common one is d_j = sum over k of s_kj d_kj. As the shares of a feature sum to 1 and the penalty is convex,
//! that is a direction of descent, exact for one worker, and for features that one worker alone has.
//! Invariant: a coordinate's step is the best one for the others as they stand; none is made where H_jj is 0.

use super::certificate::Penalty;
use super::columns::Columns;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Sweeps over the coordinates at most.
const SWEEPS: usize = 60;
/// Sweeps until the sum of violations has fallen to this part.
const ENOUGH: f64 = 0.05;

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
    /// Curvature of each of its rows, over n.
    pub curvature: &'a [f64],
    /// The penalty.
    pub penalty: Penalty,
    /// Of the intercept, if there is one: gradient, this worker's part of the curvature, the curvature.
    pub bias: Option<[f64; 3]>,
    /// How far the violations must fall; 0 for the usual part.
    pub enough: f64,
}

/// A worker's step.
#[derive(Debug, Default)]
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
    /// This worker's step.
    pub fn solve(&self, rng: &mut ChaCha8Rng) -> Way {
        let mut way = Way { step: vec![0.0; self.weights.len()], bias: 0.0 };
        // D_k X_k d, by row.
        let mut moved = vec![0.0; self.curvature.len()];
        let mut order: Vec<u32> = (0..self.weights.len() as u32).filter(|j| self.own[*j as usize] > 0.0).collect();
        let (mut first, mut last) = (0.0, f64::INFINITY);
        for sweep in 0..SWEEPS {
            order.shuffle(rng);
            let (mut sum, mut most) = (0.0, 0.0f64);
            order.retain(|j| {
                let (violation, stays) = self.coordinate(*j as usize, last, &mut way, &mut moved);
                sum += violation;
                most = most.max(violation);
                stays
            });
            self.intercept(&mut way, &mut moved);
            if sweep == 0 {
                first = sum;
            }
            if sum <= first * if self.enough > 0.0 { self.enough } else { ENOUGH } {
                break;
            }
            last = most;
        }
        way
    }

    /// A step in coordinate `j`: by how much its optimality was violated, and whether it is to be looked at again.
    #[inline(always)]
    fn coordinate(&self, j: usize, last: f64, way: &mut Way, moved: &mut [f64]) -> (f64, bool) {
        let (column, share) = (self.columns.column(j), self.own[j] / self.all[j]);
        let at = self.weights[j] + way.step[j];
        let slope = share * (self.gradient[j] + self.penalty.l2 * at) + column.dot(moved);
        let curvature = self.own[j] + share * self.penalty.l2;
        let l1 = share * self.penalty.l1;
        let (next, violation) = best(at, slope, curvature, l1);
        if violation < 0.0 {
            // So far from asking for a weight that it is not looked at again in this step.
            return (0.0, -violation < share * last);
        }
        let change = next - at;
        if change != 0.0 && change.is_finite() {
            way.step[j] += change;
            let curvature = self.curvature;
            // SAFETY: a column's rows are below the number of rows, which both vectors have.
            column.each(|row, x| unsafe {
                *moved.get_unchecked_mut(row) += change * x * *curvature.get_unchecked(row);
            });
        }
        // By feature, not by the worker's share of it.
        (violation / share, true)
    }

    /// A step in the intercept.
    fn intercept(&self, way: &mut Way, moved: &mut [f64]) {
        let Some([gradient, own, all]) = self.bias else { return };
        if own <= 0.0 || all <= 0.0 {
            return;
        }
        let slope = own / all * gradient + moved.iter().sum::<f64>();
        let change = -slope / own;
        way.bias += change;
        moved.iter_mut().zip(self.curvature).for_each(|(moved, curvature)| *moved += change * curvature);
    }
}
