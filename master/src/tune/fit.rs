//! T(p) = work/p + cost p + fixed through measured runs, by non-negative least squares of relative errors.
//!
//! Of the three terms each subset is fitted on its own, and among those fits that are nowhere negative the one with the least
//! squares is taken: with three unknowns that is the optimum under the bounds, without iterations.
//! Invariant: work, cost and fixed are finite and at least 0.

use flexps_common::curve::Curve;
use std::collections::BTreeSet;

/// The relative error of a run as long as there are too few runs to tell.
const UNKNOWN: f64 = 0.1;
/// The least relative error: no two runs are the same.
const LEAST: f64 = 1e-3;

type Matrix = Vec<Vec<f64>>;

/// A fit, and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The curve.
    pub curve: Curve,
    /// By what part of its time a run is off the curve: one standard deviation.
    pub error: f64,
    /// The terms in use, with the inverse of their normal matrix.
    terms: Vec<usize>,
    inverse: Matrix,
}

impl Fit {
    /// The fit through runs (threads, seconds) of more than 0 seconds; none without any.
    pub fn of(runs: &[(u32, f64)]) -> Option<Self> {
        let counts = runs.iter().map(|(p, _)| *p).collect::<BTreeSet<_>>().len();
        let mut best: Option<(f64, Solved)> = None;
        for chosen in 1..8usize {
            let terms: Vec<usize> = (0..3).filter(|term| chosen >> term & 1 == 1).collect();
            if terms.len() > counts {
                continue;
            }
            let Some(solved) = solve(runs, terms) else { continue };
            let Solved { terms, values, .. } = &solved;
            if values.iter().any(|value| !value.is_finite() || *value < 0.0) {
                continue;
            }
            let off = |(p, seconds): &(u32, f64)| dot(&row(terms, *p, *seconds), values) - 1.0;
            let squares: f64 = runs.iter().map(|run| off(run).powi(2)).sum();
            // More terms must earn their place, or rounding would choose.
            if best.as_ref().is_none_or(|(least, ..)| squares < least - 1e-12) {
                best = Some((squares, solved));
            }
        }
        let (squares, Solved { terms, values, inverse }) = best?;
        let mut all = [0.0; 3];
        terms.iter().zip(&values).for_each(|(term, value)| all[*term] = *value);
        let spare = runs.len() - terms.len();
        let error = if spare > 0 { (squares / spare as f64).sqrt().max(LEAST) } else { UNKNOWN };
        Some(Self { curve: Curve { work: all[0], cost: all[1], fixed: all[2] }, error, terms, inverse })
    }

    /// How far, in seconds, the curve may be off at `threads`: one standard deviation of its mean there.
    pub fn deviation(&self, threads: u32) -> f64 {
        let at = row(&self.terms, threads, 1.0);
        let spread: f64 = self.inverse.iter().zip(&at).map(|(line, x)| x * dot(line, &at)).sum();
        self.error * spread.max(0.0).sqrt()
    }
}

/// The least squares by some terms.
struct Solved {
    terms: Vec<usize>,
    values: Vec<f64>,
    inverse: Matrix,
}

/// The terms' parts of a run's time, each divided by that time.
fn row(terms: &[usize], threads: u32, seconds: f64) -> Vec<f64> {
    let p = f64::from(threads.max(1));
    terms.iter().map(|term| [1.0 / p, p, 1.0][*term] / seconds).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The least squares of all runs by these terms alone, and the inverse of their normal matrix; none where they can't be told
/// apart.
fn solve(runs: &[(u32, f64)], terms: Vec<usize>) -> Option<Solved> {
    let n = terms.len();
    let (mut normal, mut right) = (vec![vec![0.0; n]; n], vec![0.0; n]);
    for (p, seconds) in runs {
        let x = row(&terms, *p, *seconds);
        for i in 0..n {
            right[i] += x[i];
            (0..n).for_each(|j| normal[i][j] += x[i] * x[j]);
        }
    }
    // Terms of sizes that are far apart, as 1/p and p are, would drown one another.
    let scale: Vec<f64> = (0..n).map(|i| normal[i][i].sqrt()).collect();
    for i in 0..n {
        (0..n).for_each(|j| normal[i][j] /= scale[i] * scale[j]);
    }
    let mut inverse = invert(normal)?;
    for i in 0..n {
        (0..n).for_each(|j| inverse[i][j] /= scale[i] * scale[j]);
    }
    let values = inverse.iter().map(|line| dot(line, &right)).collect();
    Some(Solved { terms, values, inverse })
}

/// By Gauss and Jordan, with pivots.
fn invert(mut a: Matrix) -> Option<Matrix> {
    let n = a.len();
    let mut b: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for at in 0..n {
        let pivot = (at..n).max_by(|i, j| a[*i][at].abs().total_cmp(&a[*j][at].abs()))?;
        a.swap(at, pivot);
        b.swap(at, pivot);
        let by = a[at][at];
        if by.is_nan() || by.abs() <= 1e-12 {
            return None;
        }
        for matrix in [&mut a, &mut b] {
            matrix[at].iter_mut().for_each(|x| *x /= by);
        }
        for i in (0..n).filter(|i| *i != at) {
            let factor = a[i][at];
            for matrix in [&mut a, &mut b] {
                let line = matrix[at].clone();
                matrix[i].iter_mut().zip(line).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    Some(b)
}
