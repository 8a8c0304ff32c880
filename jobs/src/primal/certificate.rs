//! How far from the optimum a point is at most, from sums over rows and features.
//!
//! With u = f'(v) for some scores v and g = (1/n) X^T u, the point s u is feasible for the dual of
//! P(w) = (1/n) sum f(z) + l1 |w|_1 + l2/2 |w|^2 for every s in 0..=1 if l2 > 0, else for those with s |g| <= l1; so
//! ```text
//! P(w) - P(optimum) <= P(w) + (1/n) sum f*(s u) + sum over features of max(0, s |g| - l1)^2 / (2 l2)
//! f*(s u) <= u v - f(v) - (1 - s) u v + (1 - s)^2 bend / (2 s)
//! ```
//! and also f*(s u) <= s f*(u) where f*(0) = 0, as it is for all losses here. The scores v are z, those of the weights, or others
//! that make g fit the penalty better ([`super::foresight`]).
//!
//! With an intercept the dual asks that sum u = 0. What is positive of u, or what is negative, whichever is more, is taken 1 - r
//! times, so that it is; then, with d = |sum u|/n and X the norm of the longest row,
//! ```text
//! r = 2 d / (d + (1/n) sum |u|),   |g' - g| <= d X,   and per row with these signs
//! f*(s (1 - r) u) <= (1 - r) f*(s u) <= f*(s u) + r max(0, f(v) - s u v)
//! ```
//! Invariant: the gap is never below the true distance, but for the rounding of sums in f64.

use super::loss::At;
use flexps_common::plan::Progress;
use flexps_common::{Error, Result};

/// Strengths of the penalties.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Penalty {
    /// Of the sum of absolute values.
    pub l1: f64,
    /// Of half the sum of squares.
    pub l2: f64,
}

impl Penalty {
    /// Of one weight.
    #[inline(always)]
    pub fn of(self, w: f64) -> f64 {
        self.l1 * w.abs() + 0.5 * self.l2 * w * w
    }
}

/// Sums over rows, weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowSums {
    /// Of f(z).
    pub loss: f64,
    /// Of f(v).
    pub dual: f64,
    /// Of u v.
    pub inner: f64,
    /// Of the bends.
    pub bend: f64,
    /// Of u.
    pub slope: f64,
    /// Of |u|.
    pub mass: f64,
    /// Of max(0, f(v) - u v).
    pub lift: f64,
    /// Of |u v|.
    pub spread: f64,
}

impl RowSums {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// What they are reported as.
    pub const NAMES: [&str; Self::COUNT] = ["loss", "dual", "inner", "bend", "slope", "mass", "lift", "spread"];

    /// Adds a row that counts `weight`: of losses `loss` at the point and `dual` for the conjugate, with `at` being what the loss
    /// is at the score v.
    #[inline(always)]
    pub fn add(&mut self, weight: f64, (loss, dual): (f64, f64), at: &At, v: f64) {
        let inner = at.slope * v;
        self.loss += weight * loss;
        self.dual += weight * dual;
        self.inner += weight * inner;
        self.bend += weight * at.bend;
        self.slope += weight * at.slope;
        self.mass += weight * at.slope.abs();
        self.lift += weight * (dual - inner).max(0.0);
        self.spread += weight * inner.abs();
    }

    /// By number.
    pub fn array(self) -> [f64; Self::COUNT] {
        let Self { loss, dual, inner, bend, slope, mass, lift, spread } = self;
        [loss, dual, inner, bend, slope, mass, lift, spread]
    }

    /// Those by number.
    pub fn of([loss, dual, inner, bend, slope, mass, lift, spread]: [f64; Self::COUNT]) -> Self {
        Self { loss, dual, inner, bend, slope, mass, lift, spread }
    }
}

/// Sums over features.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FeatureSums {
    /// Of the penalty.
    pub penalty: f64,
    /// Of max(0, |g| - l1)^2.
    pub excess: f64,
    /// Largest |g|.
    pub most: f64,
}

impl FeatureSums {
    /// Adds a feature of weight `w`, whose losses' gradient is `g`.
    #[inline(always)]
    pub fn add(&mut self, w: f64, g: f64, penalty: Penalty) {
        let over = (g.abs() - penalty.l1).max(0.0);
        self.penalty += penalty.of(w);
        self.excess += over * over;
        self.most = self.most.max(g.abs());
    }
}

/// P, and the largest distance from the optimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certificate {
    /// P.
    pub objective: f64,
    /// P - P(optimum) is at most this; infinite where nothing is penalised.
    pub gap: f64,
}

/// The certificate of a point; `rows` is what sums over rows are divided by, and `longest` the norm of the longest one where
/// there is an intercept.
pub fn certify(
    rows: f64,
    over: &RowSums,
    features: &FeatureSums,
    penalty: Penalty,
    longest: Option<f64>,
) -> Certificate {
    let [loss, dual, inner, bend, slope, mass, lift, spread] = over.array().map(|sum| sum / rows);
    let objective = loss + features.penalty;
    let off = longest.map_or(0.0, |_| slope.abs());
    let taken = if off > 0.0 { 2.0 * off / (off + mass) } else { 0.0 };
    let shift = longest.filter(|_| off > 0.0).map_or(0.0, |longest| off * longest);
    let conjugate = |s: f64| {
        let off = 1.0 - s;
        let near = inner - dual - off * inner + 0.5 * off * off * bend / s;
        let all = if near.is_finite() { near.min(s * (inner - dual)) } else { s * (inner - dual) };
        all + taken * (lift + off * spread)
    };
    let most = features.most + shift;
    let feasible = if most > 0.0 { (penalty.l1 / most).min(1.0) } else { 1.0 };
    let mut gap = f64::INFINITY;
    if feasible > 0.0 {
        gap = objective + conjugate(feasible);
    }
    if penalty.l2 > 0.0 {
        let excess = features.excess.sqrt() + shift;
        gap = gap.min(objective + conjugate(1.0) + excess * excess / (2.0 * penalty.l2));
    }
    Certificate { objective, gap: gap.max(0.0) }
}

/// What the last runs of the stages `over_rows` and `over_features` reported, and the certificate that it makes.
pub fn read(
    progress: &Progress,
    over_rows: &str,
    over_features: &str,
    bias: bool,
) -> Result<(Certificate, FeatureSums)> {
    let feature = |name| progress.metric(over_features, name);
    let mut sums = [0.0; RowSums::COUNT];
    for (sum, name) in sums.iter_mut().zip(RowSums::NAMES) {
        *sum = progress.metric(over_rows, name)?;
    }
    let sums = RowSums::of(sums);
    let features = FeatureSums { penalty: feature("penalty")?, excess: feature("excess")?, most: feature("most")? };
    let penalty = Penalty { l1: progress.scalar("l1", 0.0), l2: progress.scalar("l2", 0.0) };
    let longest = bias.then(|| progress.scalar("longest", f64::INFINITY));
    let certificate = certify(progress.scalar("trained_rows", 1.0), &sums, &features, penalty, longest);
    if !certificate.objective.is_finite() {
        return Err(Error::data(
            "the objective is no number: values of very different size in the rows? scale the features",
        ));
    }
    Ok((certificate, features))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primal::loss::{Smooth, Squared};
    use proptest::prelude::*;

    /// Sums over rows of one feature, each with its target, at w and b, and the gradient.
    fn sums(rows: &[(f64, f64)], (w, b): (f64, f64)) -> (RowSums, f64) {
        let (mut sums, mut gradient) = (RowSums::default(), 0.0);
        for (x, y) in rows {
            let v = w * x + b;
            let at = Squared.at(*y, v);
            sums.add(1.0, (at.loss, at.loss), &at, v);
            gradient += at.slope * x / rows.len() as f64;
        }
        (sums, gradient)
    }

    /// The least objective: without the means of the feature and of the targets there is no intercept.
    fn least(rows: &[(f64, f64)], penalty: Penalty) -> f64 {
        let n = rows.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| rows.iter().map(of).sum::<f64>() / n;
        let (mx, my) = (mean(&|row| row.0), mean(&|row| row.1));
        let (both, square) = (mean(&|row| (row.0 - mx) * (row.1 - my)), mean(&|row| (row.0 - mx).powi(2)));
        let w = both.signum() * (both.abs() - penalty.l1).max(0.0) / (square + penalty.l2);
        mean(&|row| 0.5 * (w * (row.0 - mx) - (row.1 - my)).powi(2)) + penalty.of(w)
    }

    proptest! {
        #[test]
        fn with_an_intercept_anywhere_the_gap_is_no_less_than_the_distance(
            rows in prop::collection::vec((-1.0..1.0f64, -1.0..1.0f64), 2..12),
            (middle, scale) in (-100.0..100.0f64, 0.1..10.0f64),
            (w, b) in (-2.0..2.0f64, -3.0..3.0f64),
            (l1, l2) in (0.0..0.5f64, 0.01..1.0f64),
            kind in 0..3,
            near: bool,
        ) {
            let rows: Vec<(f64, f64)> = rows.into_iter().map(|(x, y)| (middle + scale * x, y)).collect();
            let penalty = [Penalty { l1: 0.0, l2 }, Penalty { l1, l2: 0.0 }, Penalty { l1, l2 }][kind as usize];
            // Anywhere, or where the intercept is nearly right for this weight.
            let mean = rows.iter().map(|(x, y)| y - w * x).sum::<f64>() / rows.len() as f64;
            let point = (w, if near { mean + 1e-3 * b } else { b });
            let (over, gradient) = sums(&rows, point);
            let mut features = FeatureSums::default();
            features.add(w, gradient, penalty);
            let longest = rows.iter().map(|(x, _)| x.abs()).fold(0.0, f64::max);
            let found = certify(rows.len() as f64, &over, &features, penalty, Some(longest));
            let distance = found.objective - least(&rows, penalty);
            prop_assert!(distance <= found.gap + 1e-9 * (1.0 + found.objective), "{distance} > {}", found.gap);
        }
    }
}
