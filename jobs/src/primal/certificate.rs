//! How far from the optimum a point is at most, from sums over rows and features.
//!
//! With u = f'(v) for some scores v and g = (1/n) X^T u, the point s u is feasible for the dual of
//! P(w) = (1/n) sum f(z) + l1 |w|_1 + l2/2 |w|^2 for every s in 0..=1 if l2 > 0, else for those with s |g| <= l1; so
//! ```text
//! P(w) - P(optimum) <= P(w) + (1/n) sum f*(s u) + sum over features of max(0, s |g| - l1)^2 / (2 l2)
//! f*(s u) <= u v - f(v) - (1 - s) u v + (1 - s)^2 bend / (2 s)
//! ```
//! and also f*(s u) <= s f*(u) where f*(0) = 0, as it is for all losses here. The scores v are z, those of the weights, or others
//! that make g fit the penalty better ([`super::foresight`]). An intercept's part is what its slope, zero
//! but for rounding, times a move of its own size brings. Invariant: the gap is never below the true distance, but for
//! the rounding of sums in f64.

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

/// The certificate of a point; `rows` is what sums over rows are divided by.
pub fn certify(rows: f64, over: &RowSums, features: &FeatureSums, penalty: Penalty, bias: Option<f64>) -> Certificate {
    let objective = over.loss / rows + features.penalty;
    let (dual, inner, bend) = (over.dual / rows, over.inner / rows, over.bend / rows);
    let slope = bias.map_or(0.0, |bias| (over.slope / rows).abs() * 2.0 * (1.0 + bias.abs()));
    let conjugate = |s: f64| {
        let off = 1.0 - s;
        let near = inner - dual - off * inner + 0.5 * off * off * bend / s;
        if near.is_finite() { near.min(s * (inner - dual)) } else { s * (inner - dual) }
    };
    let feasible = if features.most > 0.0 { (penalty.l1 / features.most).min(1.0) } else { 1.0 };
    let mut gap = f64::INFINITY;
    if feasible > 0.0 {
        gap = objective + conjugate(feasible);
    }
    if penalty.l2 > 0.0 {
        gap = gap.min(objective + conjugate(1.0) + features.excess / (2.0 * penalty.l2));
    }
    Certificate { objective, gap: gap.max(0.0) + slope }
}

/// What the last runs of the stages `over_rows` and `over_features` reported, and the certificate that it makes.
pub fn read(
    progress: &Progress,
    over_rows: &str,
    over_features: &str,
    bias: bool,
) -> Result<(Certificate, FeatureSums)> {
    let row = |name| progress.metric(over_rows, name);
    let feature = |name| progress.metric(over_features, name);
    let [loss, dual, inner, bend, slope] = [row("loss")?, row("dual")?, row("inner")?, row("bend")?, row("slope")?];
    let sums = RowSums { loss, dual, inner, bend, slope };
    let features = FeatureSums { penalty: feature("penalty")?, excess: feature("excess")?, most: feature("most")? };
    let penalty = Penalty { l1: progress.scalar("l1", 0.0), l2: progress.scalar("l2", 0.0) };
    let bias = bias.then(|| progress.scalar("bias", 0.0));
    let certificate = certify(progress.scalar("trained_rows", 1.0), &sums, &features, penalty, bias);
    if !certificate.objective.is_finite() {
        return Err(Error::data(
            "the objective is no number: values of very different size in the rows? scale the features",
        ));
    }
    Ok((certificate, features))
}
