//! The losses with their conjugates, and the step of one dual variable.
//!
//! A row's loss at margin m = y w.x is f(m); its dual variable a enters the dual objective as -f*(-a) and the weights as
//! a y x / (lambda n). Invariants: a step stays in the dual's domain and is finite for finite input, and never lowers the
//! dual objective of the worker's subproblem.

use super::fast::{exp, exp32, ln32, soft_hinge, x_ln_x};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A loss by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// log(1 + exp(-m))
    #[default]
    Logistic,
    /// max(0, 1 - m)
    Hinge,
    /// max(0, 1 - m)^2
    SquaredHinge,
    /// (1 - m)^2 / 2
    Squared,
}

impl Kind {
    /// The largest second derivative beside the logistic one's, as far as passes feel it.
    pub fn curvature(self) -> f64 {
        match self {
            Kind::Logistic => 1.0,
            Kind::Squared => 4.0,
            Kind::SquaredHinge | Kind::Hinge => 8.0,
        }
    }
}

/// A loss with its dual.
pub trait Loss: Copy + Send + Sync + 'static {
    /// Least curvature of f*.
    const CONVEXITY: f64;
    /// Whether f* is a quadratic where it is finite.
    const QUADRATIC: bool = true;
    /// Where a dual variable may come to lie for good, since its domain ends there: a row's part of the gap is then 0.
    const ENDS: &'static [f32] = &[];
    /// f(m).
    fn loss(m: f64) -> f64;
    /// f*(-a).
    fn conjugate(a: f64) -> f64;
    /// First and second derivative of f*(-a) by a, in the domain or near it.
    fn bends(a: f32) -> (f32, f32);
    /// a, or where it is outside the domain a point of that on the way there from `from`.
    fn inside(a: f32, from: f32) -> f32;
    /// The a' that maximises -f*(-a') - (a' - a) m - q/2 (a' - a)^2, or one on the way there.
    fn step(a: f32, m: f32, q: f32) -> f32;
    /// [`Loss::step`] for q <= 1, where less work may do.
    fn short_step(a: f32, m: f32, q: f32) -> f32 {
        Self::step(a, m, q)
    }
    /// The a that belongs to a margin: -f'(m).
    fn dual(m: f64) -> f64;
    /// About f(m) + f*(-a) + a m, the row's part of the duality gap.
    fn gap(a: f32, m: f32) -> f32;
}

/// log(1 + exp(-m)); a in 0..1.
#[derive(Debug, Clone, Copy)]
pub struct Logistic;

/// max(0, 1 - m); a in 0..=1.
#[derive(Debug, Clone, Copy)]
pub struct Hinge;

/// max(0, 1 - m)^2; a >= 0.
#[derive(Debug, Clone, Copy)]
pub struct SquaredHinge;

/// (1 - m)^2 / 2: least squares on the labels; any a.
#[derive(Debug, Clone, Copy)]
pub struct Squared;

/// The step with the largest slope that the sigmoid has between a and s: it never goes too far.
#[inline(always)]
fn careful(a: f32, s: f32, q: f32) -> f32 {
    let most = (a * (1.0 - a)).max(s * (1.0 - s));
    let most = if (a - 0.5) * (s - 0.5) < 0.0 { 0.25 } else { most };
    a + (s - a) / (1.0 + most * q)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp32(-x))
}

impl Loss for Logistic {
    const CONVEXITY: f64 = 4.0;
    const QUADRATIC: bool = false;

    #[inline(always)]
    fn bends(a: f32) -> (f32, f32) {
        let a = a.clamp(1e-12, 1.0 - f32::EPSILON / 2.0);
        let rest = 1.0 - a;
        (ln32(a / rest), 1.0 / (a * rest))
    }

    /// Its ends have no finite slope, so nine tenths of the way to them.
    #[inline(always)]
    fn inside(a: f32, from: f32) -> f32 {
        let low = if a > 0.0 { a } else { 0.1 * from };
        if a < 1.0 { low } else { 1.0 - 0.1 * (1.0 - from) }
    }

    #[inline(always)]
    fn loss(m: f64) -> f64 {
        soft_hinge(m)
    }

    #[inline(always)]
    fn conjugate(a: f64) -> f64 {
        x_ln_x(a) + x_ln_x(1.0 - a)
    }

    /// The optimum a' solves h(a') = logit(a') + m + q (a' - a) = 0, and lies between a and s(-m): a Newton step on h from the
    /// careful point. Where the way leads to the middle, h is concave before it, so the step is of a' itself; where it leads
    /// away from there, h is concave as a function of logit(a'). So steps stay this side of the optimum, or go a little
    /// beyond: each gains 0.89 and more of what there is to gain. No branch, for the vector units.
    #[inline(always)]
    fn step(a: f32, m: f32, q: f32) -> f32 {
        const TINY: f32 = 1e-30;
        let s = sigmoid(-m);
        let c = careful(a, s, q);
        let (slope, logit) = (c * (1.0 - c), ln32(c.max(TINY) / (1.0 - c).max(TINY)));
        let by = (logit + m + q * (c - a)) / (1.0 + q * slope);
        let outward = sigmoid(logit - by);
        let inward = (c - by * slope).max(c.min(s)).min(c.max(s));
        if (0.5 - c) * by > 0.0 { outward } else { inward }
    }

    #[inline(always)]
    fn short_step(a: f32, m: f32, q: f32) -> f32 {
        careful(a, sigmoid(-m), q)
    }

    #[inline(always)]
    fn dual(m: f64) -> f64 {
        1.0 / (1.0 + exp(m))
    }

    /// The divergence of a from s(-m), to second order; at a = 0 too small by up to a factor of 2.
    #[inline(always)]
    fn gap(a: f32, m: f32) -> f32 {
        let s = sigmoid(-m);
        (s - a) * (s - a) / (2.0 * (s.max(a) * (1.0 - s.min(a))).max(1e-30))
    }
}

impl Loss for Hinge {
    const CONVEXITY: f64 = 0.0;
    const ENDS: &'static [f32] = &[0.0, 1.0];

    #[inline(always)]
    fn bends(_: f32) -> (f32, f32) {
        (-1.0, 0.0)
    }

    #[inline(always)]
    fn inside(a: f32, _: f32) -> f32 {
        a.clamp(0.0, 1.0)
    }

    #[inline(always)]
    fn loss(m: f64) -> f64 {
        (1.0 - m).max(0.0)
    }

    #[inline(always)]
    fn conjugate(a: f64) -> f64 {
        -a
    }

    #[inline(always)]
    fn step(a: f32, m: f32, q: f32) -> f32 {
        // An empty row has q = 0.
        (a + (1.0 - m) / q.max(1e-30)).clamp(0.0, 1.0)
    }

    #[inline(always)]
    fn dual(m: f64) -> f64 {
        f64::from(u8::from(m < 1.0))
    }

    #[inline(always)]
    fn gap(a: f32, m: f32) -> f32 {
        (1.0 - m).max(0.0) - a * (1.0 - m)
    }
}

impl Loss for SquaredHinge {
    const CONVEXITY: f64 = 0.5;
    const ENDS: &'static [f32] = &[0.0];

    #[inline(always)]
    fn bends(a: f32) -> (f32, f32) {
        (0.5 * a - 1.0, 0.5)
    }

    #[inline(always)]
    fn inside(a: f32, _: f32) -> f32 {
        a.max(0.0)
    }

    #[inline(always)]
    fn loss(m: f64) -> f64 {
        let short = (1.0 - m).max(0.0);
        short * short
    }

    #[inline(always)]
    fn conjugate(a: f64) -> f64 {
        a * (0.25 * a - 1.0)
    }

    #[inline(always)]
    fn step(a: f32, m: f32, q: f32) -> f32 {
        (a + (1.0 - m - 0.5 * a) / (q + 0.5)).max(0.0)
    }

    #[inline(always)]
    fn dual(m: f64) -> f64 {
        2.0 * (1.0 - m).max(0.0)
    }

    #[inline(always)]
    fn gap(a: f32, m: f32) -> f32 {
        let short = 1.0 - m;
        short.max(0.0) * short - a * (short - 0.25 * a)
    }
}

impl Loss for Squared {
    const CONVEXITY: f64 = 1.0;

    #[inline(always)]
    fn bends(a: f32) -> (f32, f32) {
        (a - 1.0, 1.0)
    }

    #[inline(always)]
    fn inside(a: f32, _: f32) -> f32 {
        a
    }

    #[inline(always)]
    fn loss(m: f64) -> f64 {
        0.5 * (1.0 - m) * (1.0 - m)
    }

    #[inline(always)]
    fn conjugate(a: f64) -> f64 {
        a * (0.5 * a - 1.0)
    }

    #[inline(always)]
    fn step(a: f32, m: f32, q: f32) -> f32 {
        a + (1.0 - m - a) / (1.0 + q)
    }

    #[inline(always)]
    fn dual(m: f64) -> f64 {
        1.0 - m
    }

    #[inline(always)]
    fn gap(a: f32, m: f32) -> f32 {
        0.5 * (1.0 - m - a) * (1.0 - m - a)
    }
}

/// Runs `$body` with `$loss` as the type of the loss that `$kind` names.
macro_rules! with_loss {
    ($kind:expr, $loss:ident => $body:expr) => {
        match $kind {
            $crate::sdca::loss::Kind::Logistic => {
                type $loss = $crate::sdca::loss::Logistic;
                $body
            }
            $crate::sdca::loss::Kind::Hinge => {
                type $loss = $crate::sdca::loss::Hinge;
                $body
            }
            $crate::sdca::loss::Kind::SquaredHinge => {
                type $loss = $crate::sdca::loss::SquaredHinge;
                $body
            }
            $crate::sdca::loss::Kind::Squared => {
                type $loss = $crate::sdca::loss::Squared;
                $body
            }
        }
    };
}
pub(crate) use with_loss;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<L: Loss>(a: f32, m: f32, q: f32) -> Result<(), TestCaseError> {
        let next = if q > 1.0 { L::step(a, m, q) } else { L::short_step(a, m, q) };
        let gap = L::gap(a, m);
        prop_assert!(next.is_finite() && gap.is_finite(), "{next} {gap}");
        let (a, m, q) = (f64::from(a), f64::from(m), f64::from(q));
        let dual = |b: f64| -L::conjugate(b) - (b - a) * m - 0.5 * q * (b - a) * (b - a);
        let next = f64::from(next);
        prop_assert!(dual(next) >= dual(a) - 1e-5 * (1.0 + dual(a).abs()), "from {} to {}", dual(a), dual(next));
        // Fenchel and Young: nothing is below the conjugate's bound, and the step's gap has the right size.
        let exact = L::loss(m) + L::conjugate(a) + a * m;
        prop_assert!(exact > -1e-9);
        prop_assert!(m.abs() > 4.0 || f64::from(gap) >= 0.1 * exact - 1e-4 * (1.0 + m.abs()), "{gap} {exact}");
        // Repeated, it reaches the optimum: no point nearby is better.
        let mut best = a as f32;
        for _ in 0..200 {
            let (b, center) = (best, a as f32);
            // The step from `best` with the margin that stands there.
            best = L::step(b, (m + q * f64::from(b - center)) as f32, q as f32);
        }
        for near in [-1e-2f32, 1e-2].map(|off| f64::from((best + off).clamp(0.0, 1.0))) {
            prop_assert!(dual(near) <= dual(f64::from(best)) + 1e-4 * (1.0 + m.abs() + q), "{near} beats {best}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_step_never_lowers_the_dual_and_leads_to_its_optimum(
            a in prop_oneof![Just(0.0f32), 0.0..1.0f32],
            m in -30.0..30.0f32,
            q in prop_oneof![0.001..1.0f32, 1.0..200.0f32],
        ) {
            check::<Logistic>(a, m, q)?;
            check::<Hinge>(a, m, q)?;
            check::<SquaredHinge>(a, m, q)?;
            check::<Squared>(a, m, q)?;
        }
    }

    proptest! {
        #[test]
        fn a_logistic_step_gains_most_of_what_there_is_to_gain(
            a in prop_oneof![Just(0.0f32), 0.0..1.0f32],
            m in -30.0..30.0f32,
            q in 1.0..200.0f32,
        ) {
            let next = f64::from(Logistic::step(a, m, q));
            let (a, m, q) = (f64::from(a), f64::from(m), f64::from(q));
            let dual = |b: f64| -Logistic::conjugate(b) - (b - a) * m - 0.5 * q * (b - a) * (b - a);
            // By halves, where the derivative changes its sign.
            let (mut low, mut high) = (-80.0, 80.0);
            for _ in 0..80 {
                let middle = 0.5 * (low + high);
                match middle + m + q * (Logistic::dual(-middle) - a) > 0.0 {
                    true => high = middle,
                    false => low = middle,
                }
            }
            let (gain, most) = (dual(next) - dual(a), dual(Logistic::dual(-low)) - dual(a));
            prop_assert!(gain >= 0.85 * most - 1e-4 * (1.0 + m.abs()), "{gain} of {most}");
        }
    }

    proptest! {
        #[test]
        fn slopes_are_those_of_the_conjugate_and_what_is_outside_is_brought_inside(a in 0.02..0.98f64, far in -3.0..3.0f32) {
            fn check<L: Loss>(a: f64, far: f32) -> Result<(), TestCaseError> {
                let by = 1e-4;
                let [below, at, above] = [a - by, a, a + by].map(L::conjugate);
                let (slope, bend) = L::bends(a as f32);
                prop_assert!((f64::from(slope) - (above - below) / (2.0 * by)).abs() < 1e-3, "slope {}", slope);
                let exact = (above - 2.0 * at + below) / (by * by);
                prop_assert!((f64::from(bend) - exact).abs() < 1e-2 * (1.0 + exact), "second derivative {} not {}", bend, exact);
                let inside = L::inside(far, a as f32);
                prop_assert!(L::conjugate(f64::from(inside)).is_finite() && L::inside(inside, 0.5) == inside);
                Ok(())
            }
            check::<Logistic>(a, far)?;
            check::<Hinge>(a, far)?;
            check::<SquaredHinge>(a, far)?;
            check::<Squared>(a, far)?;
        }
    }

    #[test]
    fn extreme_margins_give_finite_steps() {
        for m in [-1e30f32, -1e4, 0.0, 1e4, 1e30] {
            for q in [0.0, 1.0, 1e30] {
                assert!(Logistic::step(0.5, m, q).is_finite());
                assert!(Hinge::step(0.5, m, q).is_finite());
            }
        }
    }
}
