//! Losses of a row's score z = w.x + b at its target y, with what Newton's method and the certificate need.
//!
//! With u = f'(z) Fenchel's equality f*(u) = u z - f(z) gives the conjugate without its formula. Of a loss with a kink it is a
//! smooth one near it that has slopes everywhere (`kinked`). Invariant: all values are finite for finite scores.

use crate::sdca::fast::{exp, ln, soft_hinge};
use crate::sdca::loss::Kind;

/// A loss at one point.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct At {
    /// f(z).
    pub loss: f64,
    /// f'(z).
    pub slope: f64,
    /// f''(z), or what stands for it where f is quadratic in parts.
    pub curvature: f64,
    /// u^2 times the largest second derivative of f* between u and s u, times s, for any s in 0..1.
    pub bend: f64,
}

/// A loss that has a derivative everywhere, or one near it that has.
pub trait Smooth: Copy + Send + Sync + 'static {
    /// By how much one feature may move a score in a first step.
    const REACH: f64;
    /// Least curvature, of the usual one: where a loss is flat a little keeps steps finite.
    const FLAT: f64 = 1e-12;
    /// Whether the loss has a kink, so that [`Smooth::at`] is of another one.
    const KINKED: bool = false;
    /// Whether its curvature is the same all over in pieces, so that of few rows it changes from one step to the next.
    const PIECEWISE: bool = true;
    /// f(z) alone.
    fn loss(self, y: f64, z: f64) -> f64;
    /// All of it; where there is a kink, of the smooth loss near it.
    fn at(self, y: f64, z: f64) -> At;
    /// The score at which the slope is `slope`, or as near to it as slopes come.
    fn score(self, y: f64, slope: f64) -> f64;
    /// u v - f*(u) of the slope u at the score v, `at` being what [`Smooth::at`] is there; but for a kink that is f(v).
    #[inline(always)]
    fn dual(self, y: f64, v: f64, at: &At) -> f64 {
        let _ = (y, v);
        at.loss
    }
    /// The same loss, so wide around its kink, if it has one, being smooth.
    #[must_use]
    fn smoothed(self, width: f64) -> Self {
        let _ = width;
        self
    }
}

/// log(1 + exp(-y z)), y = -1 or +1.
#[derive(Debug, Clone, Copy)]
pub struct Logistic;

/// max(0, 1 - y z)^2, y = -1 or +1.
#[derive(Debug, Clone, Copy)]
pub struct SquaredHinge;

/// (y - z)^2 / 2, any y.
#[derive(Debug, Clone, Copy)]
pub struct Squared;

/// max(0, 1 - y z), y = -1 or +1; the smooth loss near it is the largest a (1 - y z) - width a^2 / 2 of a in 0..=1.
#[derive(Debug, Clone, Copy)]
pub struct Hinge {
    /// From which margin below 1 on the slope is that of the hinge.
    width: f64,
}

impl Hinge {
    /// The whole way from the margin 0 to 1 is rounded.
    pub const WIDE: Self = Self { width: 1.0 };
}

impl Smooth for Logistic {
    const REACH: f64 = 4.0;
    const PIECEWISE: bool = false;

    #[inline(always)]
    fn loss(self, y: f64, z: f64) -> f64 {
        soft_hinge(y * z)
    }

    #[inline(always)]
    fn at(self, y: f64, z: f64) -> At {
        let m = y * z;
        let small = exp(-m.abs());
        let (near, far) = (1.0 / (1.0 + small), small / (1.0 + small));
        let (wrong, right) = if m >= 0.0 { (far, near) } else { (near, far) };
        At { loss: soft_hinge(m), slope: -y * wrong, curvature: near * far, bend: wrong / right }
    }

    #[inline(always)]
    fn score(self, y: f64, slope: f64) -> f64 {
        let wrong = (-y * slope).clamp(1e-13, 1.0 - 1e-13);
        y * (ln(1.0 - wrong) - ln(wrong))
    }
}

impl Smooth for SquaredHinge {
    const REACH: f64 = f64::INFINITY;

    #[inline(always)]
    fn loss(self, y: f64, z: f64) -> f64 {
        let short = (1.0 - y * z).max(0.0);
        short * short
    }

    #[inline(always)]
    fn at(self, y: f64, z: f64) -> At {
        let short = (1.0 - y * z).max(0.0);
        let curvature = if short > 0.0 { 2.0 } else { 0.0 };
        At { loss: short * short, slope: -2.0 * y * short, curvature, bend: 2.0 * short * short }
    }

    #[inline(always)]
    fn score(self, y: f64, slope: f64) -> f64 {
        y * (1.0 - (-0.5 * y * slope).max(0.0))
    }
}

impl Smooth for Squared {
    const REACH: f64 = f64::INFINITY;

    #[inline(always)]
    fn loss(self, y: f64, z: f64) -> f64 {
        0.5 * (y - z) * (y - z)
    }

    #[inline(always)]
    fn at(self, y: f64, z: f64) -> At {
        let off = z - y;
        At { loss: 0.5 * off * off, slope: off, curvature: 1.0, bend: off * off }
    }

    #[inline(always)]
    fn score(self, y: f64, slope: f64) -> f64 {
        y + slope
    }
}

impl Smooth for Hinge {
    const REACH: f64 = f64::INFINITY;
    /// Rows that are flat, which are nearly all, have no part in matrices.
    const FLAT: f64 = 0.0;
    const KINKED: bool = true;

    #[inline(always)]
    fn loss(self, y: f64, z: f64) -> f64 {
        (1.0 - y * z).max(0.0)
    }

    #[inline(always)]
    fn at(self, y: f64, z: f64) -> At {
        let short = 1.0 - y * z;
        let a = (short / self.width).clamp(0.0, 1.0);
        let curvature = if short > 0.0 && short <= self.width { 1.0 / self.width } else { 0.0 };
        // What is shrunk for an L1 penalty has no part in a certificate without one.
        At { loss: a * short - 0.5 * self.width * a * a, slope: -y * a, curvature, bend: 0.0 }
    }

    #[inline(always)]
    fn score(self, y: f64, slope: f64) -> f64 {
        y * (1.0 - self.width * (-y * slope).clamp(0.0, 1.0))
    }

    /// f*(u) = y u.
    #[inline(always)]
    fn dual(self, y: f64, v: f64, at: &At) -> f64 {
        at.slope * (v - y)
    }

    fn smoothed(self, width: f64) -> Self {
        Self { width }
    }
}

/// Nearer to 1 than by this score no probability in f64 is.
const SURE: f64 = 37.0;

/// The intercept that is best without any weight, `targets` being the sum of the rows' targets and `rows` their number,
/// both weighted.
pub fn constant(kind: Kind, targets: f64, rows: f64) -> f64 {
    let mean = if rows > 0.0 { targets / rows } else { 0.0 };
    match kind {
        // p = (1 + mean) / 2 of the rows are positive.
        Kind::Logistic => ((1.0 + mean) / (1.0 - mean)).ln().clamp(-SURE, SURE),
        Kind::Hinge | Kind::SquaredHinge | Kind::Squared => mean,
    }
}

/// Runs `$body` with `$loss` being the loss that `$kind` names.
macro_rules! with_smooth {
    ($kind:expr, $loss:ident => $body:expr) => {
        match $kind {
            $crate::sdca::loss::Kind::Logistic => {
                let $loss = $crate::primal::loss::Logistic;
                $body
            }
            $crate::sdca::loss::Kind::SquaredHinge => {
                let $loss = $crate::primal::loss::SquaredHinge;
                $body
            }
            $crate::sdca::loss::Kind::Hinge => {
                let $loss = $crate::primal::loss::Hinge::WIDE;
                $body
            }
            $crate::sdca::loss::Kind::Squared => {
                let $loss = $crate::primal::loss::Squared;
                $body
            }
        }
    };
}
pub(crate) use with_smooth;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<L: Smooth>(loss: L, y: f64, z: f64) -> Result<(), TestCaseError> {
        let (at, h) = (loss.at(y, z), 1e-5);
        let value = |z: f64| loss.at(y, z).loss;
        let slope = (value(z + h) - value(z - h)) / (2.0 * h);
        prop_assert!((slope - at.slope).abs() < 1e-4 * (1.0 + at.slope.abs()), "slope {} is {slope}", at.slope);
        let curvature = (loss.at(y, z + h).slope - loss.at(y, z - h).slope) / (2.0 * h);
        let kink = [0.0, 1.0, 0.25].into_iter().any(|short| (1.0 - y * z - short).abs() < 2.0 * h);
        prop_assert!(kink || (curvature - at.curvature).abs() < 1e-4, "curvature {} is {curvature}", at.curvature);
        let score = loss.score(y, at.slope);
        prop_assert!(
            (loss.at(y, score).slope - at.slope).abs() <= 1e-12,
            "of the slope {} is the score {score}",
            at.slope
        );
        // The conjugate at s u is no more than its bound. f*(v) is the largest v t - f(t): no t may exceed the bound.
        for s in [1.0, 0.99, 0.9, 0.5].into_iter().filter(|s| *s == 1.0 || !L::KINKED) {
            let conjugate = at.slope * z - at.loss;
            let off = 1.0 - s;
            let bound = conjugate - off * at.slope * z + 0.5 * off * off * at.bend / s;
            for step in -400..400 {
                let t = z + f64::from(step) * 0.05;
                prop_assert!(s * at.slope * t - value(t) <= bound + 1e-9 * (1.0 + bound.abs()), "s {s} t {t}");
            }
        }
        // That of the loss itself, which is no less than the smooth one, and no more where this has no part of it.
        let conjugate = at.slope * z - loss.dual(y, z, &at);
        let missed = |t: f64| conjugate - (at.slope * t - loss.loss(y, t));
        for t in (-400..400).map(|step| z + f64::from(step) * 0.05).chain([z, y]) {
            prop_assert!(missed(t) >= -1e-9 * (1.0 + conjugate.abs()), "t {t}");
        }
        prop_assert!(missed(z).min(missed(y)) <= 1e-9 * (1.0 + conjugate.abs()), "the conjugate is {conjugate}");
        Ok(())
    }

    proptest! {
        #[test]
        fn slopes_curvatures_and_conjugates_belong_to_the_loss(z in -20.0..20.0f64, y in prop_oneof![Just(-1.0), Just(1.0)], free in -5.0..5.0f64) {
            check(Logistic, y, z)?;
            check(SquaredHinge, y, z)?;
            check(Squared, free, z)?;
            check(Hinge::WIDE, y, z)?;
            check(Hinge::WIDE.smoothed(0.25), y, z)?;
        }
    }

    #[test]
    fn the_constant_is_where_the_slopes_of_all_rows_cancel() {
        for kind in [Kind::Logistic, Kind::SquaredHinge, Kind::Squared] {
            // 3 positive rows, one negative of weight 2.
            let b = constant(kind, 1.0, 5.0);
            let sum = with_smooth!(kind, loss => 3.0 * loss.at(1.0, b).slope + 2.0 * loss.at(-1.0, b).slope);
            assert!(sum.abs() < 1e-12, "{kind:?}: {sum}");
        }
    }
}
