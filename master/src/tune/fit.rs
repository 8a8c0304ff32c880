//! T(p) = work/p + cost p + fixed through measured runs, by non-negative least squares of relative errors.
//!
//! Of the three terms each subset is fitted on its own, and among those fits that are nowhere negative the one with the least
//! squares is taken: with three unknowns that is the optimum under the bounds, without iterations. All that the runs of a count
//! say is in three sums, so a fit takes a few microseconds however many runs there were: one is made after each.
//! Invariant: work, cost and fixed are finite and at least 0.

use flexps_common::curve::Curve;

/// The relative error of a run as long as there are too few runs to tell.
const UNKNOWN: f64 = 0.1;
/// The least relative error: no two runs are the same.
const LEAST: f64 = 1e-3;

/// A value for each term that is in use, 0 for the others.
type Terms = [f64; 3];
type Matrix = [Terms; 3];

/// A fit, and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The curve.
    pub curve: Curve,
    /// By what part of its time a run is off the curve: one standard deviation.
    pub error: f64,
    /// Whether there were runs enough to know that.
    pub told: bool,
    /// The inverse of the normal matrix of the terms in use.
    inverse: Matrix,
}

/// What the runs of a count say.
#[derive(Debug, Clone, Copy)]
struct Runs {
    threads: u32,
    /// How many they are.
    count: f64,
    /// The sum of 1/seconds, and that of their squares.
    inverse: f64,
    squares: f64,
}

impl Fit {
    /// The fit through runs (threads, seconds) of more than 0 seconds; none without any.
    pub fn of(runs: &[(u32, f64)]) -> Option<Self> {
        let runs = grouped(runs);
        let count: f64 = runs.iter().map(|r| r.count).sum();
        let mut best: Option<(f64, usize, Terms, Matrix)> = None;
        for chosen in 1..8usize {
            let uses = [0, 1, 2].map(|term| chosen >> term & 1 == 1);
            let terms = uses.iter().filter(|used| **used).count();
            if terms > runs.len() {
                continue;
            }
            let Some((values, inverse)) = solve(&runs, uses) else { continue };
            if values.iter().any(|value| !value.is_finite() || *value < 0.0) {
                continue;
            }
            let squares: f64 = runs.iter().map(|r| off(r, &values)).sum();
            // More terms must earn their place, or rounding would choose.
            if best.as_ref().is_none_or(|(least, ..)| squares < least - 1e-12 * count.max(1.0)) {
                best = Some((squares, terms, values, inverse));
            }
        }
        let (squares, terms, [work, cost, fixed], inverse) = best?;
        let spare = count - terms as f64;
        let error = if spare > 0.0 { (squares.max(0.0) / spare).sqrt().max(LEAST) } else { UNKNOWN };
        Some(Self { curve: Curve { work, cost, fixed }, error, told: spare > 0.0, inverse })
    }

    /// How far, in seconds, the curve may be off at `threads`: one standard deviation of its mean there.
    pub fn deviation(&self, threads: u32) -> f64 {
        let at = parts(threads);
        let spread: f64 = self.inverse.iter().zip(&at).map(|(line, x)| x * dot(line, &at)).sum();
        self.error * spread.max(0.0).sqrt()
    }
}

/// The sums of the runs of each count.
fn grouped(runs: &[(u32, f64)]) -> Vec<Runs> {
    let mut all: Vec<Runs> = Vec::new();
    for (threads, seconds) in runs {
        let at = all.partition_point(|r| r.threads < *threads);
        if all.get(at).is_none_or(|r| r.threads != *threads) {
            all.insert(at, Runs { threads: *threads, count: 0.0, inverse: 0.0, squares: 0.0 });
        }
        let inverse = 1.0 / seconds;
        let r = &mut all[at];
        (r.count, r.inverse, r.squares) = (r.count + 1.0, r.inverse + inverse, r.squares + inverse * inverse);
    }
    all
}

/// The squares of the relative errors of a count's runs.
fn off(runs: &Runs, values: &Terms) -> f64 {
    let seconds = dot(&parts(runs.threads), values);
    // The mean is apart from what the runs are off it, so that runs which the curve meets leave nothing but rounding.
    let mean = runs.inverse / runs.count;
    let spread = (runs.squares - runs.inverse * mean).max(0.0);
    runs.count * (seconds * mean - 1.0).powi(2) + seconds * seconds * spread
}

/// What a unit of each term takes on so many threads.
fn parts(threads: u32) -> Terms {
    let p = f64::from(threads.max(1));
    [1.0 / p, p, 1.0]
}

fn dot(a: &Terms, b: &Terms) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The least squares of all runs by the terms in use alone, and the inverse of their normal matrix; none where they can't be
/// told apart.
fn solve(runs: &[Runs], uses: [bool; 3]) -> Option<(Terms, Matrix)> {
    let (mut normal, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
    for r in runs {
        let x = parts(r.threads);
        for i in (0..3).filter(|i| uses[*i]) {
            right[i] += x[i] * r.inverse;
            (0..3).filter(|j| uses[*j]).for_each(|j| normal[i][j] += x[i] * x[j] * r.squares);
        }
    }
    // Terms of sizes that are far apart, as 1/p and p are, would drown one another. One that is not in use stands apart.
    let mut scale = [1.0; 3];
    for i in 0..3 {
        if uses[i] { scale[i] = f64::sqrt(normal[i][i]) } else { normal[i][i] = 1.0 }
    }
    for i in 0..3 {
        (0..3).for_each(|j| normal[i][j] /= scale[i] * scale[j]);
    }
    let mut inverse = invert(normal)?;
    for i in 0..3 {
        (0..3).for_each(|j| inverse[i][j] /= scale[i] * scale[j]);
        if !uses[i] {
            inverse[i][i] = 0.0;
        }
    }
    Some((inverse.map(|line| dot(&line, &right)), inverse))
}

/// By Gauss and Jordan, with pivots.
fn invert(mut a: Matrix) -> Option<Matrix> {
    let mut b = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for at in 0..3 {
        let pivot = (at..3).max_by(|i, j| a[*i][at].abs().total_cmp(&a[*j][at].abs()))?;
        a.swap(at, pivot);
        b.swap(at, pivot);
        let by = a[at][at];
        if by.is_nan() || by.abs() <= 1e-12 {
            return None;
        }
        for matrix in [&mut a, &mut b] {
            matrix[at].iter_mut().for_each(|x| *x /= by);
        }
        for i in (0..3).filter(|i| *i != at) {
            let factor = a[i][at];
            for matrix in [&mut a, &mut b] {
                let line = matrix[at];
                matrix[i].iter_mut().zip(line).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    Some(b)
}
