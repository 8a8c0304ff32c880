//! Smooth losses of a row's score z = w.x + b at its target y, with what Newton's method and the certificate need.
//!
//! With u = f'(z) Fenchel's equality f*(u) = u z - f(z) gives the conjugate without its formula. Invariant: all values
//! are finite for finite scores.

use crate::sdca::fast::{exp, ln, soft_hinge};
use crate::sdca::loss::Kind;
use flexps_common::{Error, Result};

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

/// A loss that has a derivative everywhere.
pub trait Smooth: Copy + Send + Sync + 'static {
    /// By how much one feature may move a score in a first step.
    const REACH: f64;
    /// f(z) alone.
    fn loss(y: f64, z: f64) -> f64;
    /// All of it.
    fn at(y: f64, z: f64) -> At;
    /// The score at which the slope is `slope`, or as near to it as slopes come.
    fn score(y: f64, slope: f64) -> f64;
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

impl Smooth for Logistic {
    const REACH: f64 = 4.0;

    #[inline(always)]
    fn loss(y: f64, z: f64) -> f64 {
        soft_hinge(y * z)
    }

    #[inline(always)]
    fn at(y: f64, z: f64) -> At {
        let m = y * z;
        let small = exp(-m.abs());
        let (near, far) = (1.0 / (1.0 + small), small / (1.0 + small));
        let (wrong, right) = if m >= 0.0 { (far, near) } else { (near, far) };
        At { loss: soft_hinge(m), slope: -y * wrong, curvature: near * far, bend: wrong / right }
    }

    #[inline(always)]
    fn score(y: f64, slope: f64) -> f64 {
        let wrong = (-y * slope).clamp(1e-13, 1.0 - 1e-13);
        y * (ln(1.0 - wrong) - ln(wrong))
    }
}

impl Smooth for SquaredHinge {
    const REACH: f64 = f64::INFINITY;

    #[inline(always)]
    fn loss(y: f64, z: f64) -> f64 {
        let short = (1.0 - y * z).max(0.0);
        short * short
    }

    #[inline(always)]
    fn at(y: f64, z: f64) -> At {
        let short = (1.0 - y * z).max(0.0);
        let curvature = if short > 0.0 { 2.0 } else { 0.0 };
        At { loss: short * short, slope: -2.0 * y * short, curvature, bend: 2.0 * short * short }
    }

    #[inline(always)]
    fn score(y: f64, slope: f64) -> f64 {
        y * (1.0 - (-0.5 * y * slope).max(0.0))
    }
}

impl Smooth for Squared {
    const REACH: f64 = f64::INFINITY;

    #[inline(always)]
    fn loss(y: f64, z: f64) -> f64 {
        0.5 * (y - z) * (y - z)
    }

    #[inline(always)]
    fn at(y: f64, z: f64) -> At {
        let off = z - y;
        At { loss: 0.5 * off * off, slope: off, curvature: 1.0, bend: off * off }
    }

    #[inline(always)]
    fn score(y: f64, slope: f64) -> f64 {
        y + slope
    }
}

/// Refuses a loss that is not smooth.
pub fn check(kind: Kind) -> Result<()> {
    if kind == Kind::Hinge {
        return Err(Error::user(
            "the hinge has a kink, so only --solver sdca with the L2 penalty learns it; --loss squared-hinge is smooth",
        ));
    }
    Ok(())
}

/// The intercept that is best without any weight, `targets` being the sum of the rows' targets and `rows` their number,
/// both weighted.
pub fn constant(kind: Kind, targets: f64, rows: f64) -> f64 {
    let mean = if rows > 0.0 { targets / rows } else { 0.0 };
    match kind {
        // p = (1 + mean) / 2 of the rows are positive.
        Kind::Logistic => ((1.0 + mean) / (1.0 - mean)).ln(),
        Kind::Hinge | Kind::SquaredHinge | Kind::Squared => mean,
    }
}

/// Runs `$body` with `$loss` as the type of the smooth loss that `$kind` names.
macro_rules! with_smooth {
    ($kind:expr, $loss:ident => $body:expr) => {
        match $kind {
            $crate::sdca::loss::Kind::Logistic => {
                type $loss = $crate::primal::loss::Logistic;
                $body
            }
            $crate::sdca::loss::Kind::SquaredHinge | $crate::sdca::loss::Kind::Hinge => {
                type $loss = $crate::primal::loss::SquaredHinge;
                $body
            }
            $crate::sdca::loss::Kind::Squared => {
                type $loss = $crate::primal::loss::Squared;
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

    fn check<L: Smooth>(y: f64, z: f64) -> Result<(), TestCaseError> {
        let (at, h) = (L::at(y, z), 1e-5);
        prop_assert!((at.loss - L::loss(y, z)).abs() <= 1e-14 * (1.0 + at.loss));
        let slope = (L::loss(y, z + h) - L::loss(y, z - h)) / (2.0 * h);
        prop_assert!((slope - at.slope).abs() < 1e-4 * (1.0 + at.slope.abs()), "slope {} is {slope}", at.slope);
        let curvature = (L::at(y, z + h).slope - L::at(y, z - h).slope) / (2.0 * h);
        let kink = (1.0 - y * z).abs() < 2.0 * h;
        prop_assert!(kink || (curvature - at.curvature).abs() < 1e-4, "curvature {} is {curvature}", at.curvature);
        let score = L::score(y, at.slope);
        prop_assert!(
            (L::at(y, score).slope - at.slope).abs() <= 1e-12,
            "of the slope {} is the score {score}",
            at.slope
        );
        // The conjugate at s u is no more than its bound. f*(v) is the largest v t - f(t): no t may exceed the bound.
        for s in [1.0, 0.99, 0.9, 0.5] {
            let conjugate = at.slope * z - at.loss;
            let off = 1.0 - s;
            let bound = conjugate - off * at.slope * z + 0.5 * off * off * at.bend / s;
            for step in -400..400 {
                let t = z + f64::from(step) * 0.05;
                prop_assert!(s * at.slope * t - L::loss(y, t) <= bound + 1e-9 * (1.0 + bound.abs()), "s {s} t {t}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn slopes_curvatures_and_conjugates_belong_to_the_loss(z in -20.0..20.0f64, y in prop_oneof![Just(-1.0), Just(1.0)], free in -5.0..5.0f64) {
            check::<Logistic>(y, z)?;
            check::<SquaredHinge>(y, z)?;
            check::<Squared>(free, z)?;
        }
    }

    #[test]
    fn the_constant_is_where_the_slopes_of_all_rows_cancel() {
        for kind in [Kind::Logistic, Kind::SquaredHinge, Kind::Squared] {
            // 3 positive rows, one negative of weight 2.
            let b = constant(kind, 1.0, 5.0);
            let sum = with_smooth!(kind, L => 3.0 * L::at(1.0, b).slope + 2.0 * L::at(-1.0, b).slope);
            assert!(sum.abs() < 1e-12, "{kind:?}: {sum}");
        }
    }
}
