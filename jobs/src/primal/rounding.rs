//! How far the saved model's objective may be above that of the weights that were certified: it has fewer digits.
//!
//! Rounding moves weights by e and the intercept by d, so the mean square of what scores move by is at most
//! 2 (|e|^2 mean |x|^2 + d^2), and the objective a height q of a parabola and a slope away. The point is a gap G above the
//! optimum at most, and nothing is below that, also the other way along e, so the slope is at most 2 sqrt(G q). Invariant: what
//! is told is no less than the true rise.

use crate::sdca::loss::Kind;
use flexps_common::Result;
use flexps_common::plan::Progress;

/// What is kept of the problem at hand.
#[derive(Debug, Clone, Copy)]
pub struct Rounded {
    /// f.
    pub loss: Kind,
    /// Mean squared norm of a row.
    pub norm2: f64,
    /// The most that a row counts.
    pub weight: f64,
    /// What was asked for.
    pub tolerance: f64,
}

impl Rounded {
    /// By how much the objective may be more, if that is more than was certified, from what the stage `keep` reported.
    pub fn rise(self, progress: &Progress) -> Result<Option<f64>> {
        let (weights, bias) = (progress.metric("keep", "weights_off2")?, progress.metric("keep", "bias_off2")?);
        let objective = progress.scalar("objective", 0.0);
        let gap = progress.scalar("gap", f64::INFINITY) * objective;
        let scores = 2.0 * (weights * self.norm2 + bias);
        let rise = self.weight
            * match self.loss {
                // No parabola, but no steeper than 1.
                Kind::Hinge => scores.sqrt(),
                smooth => {
                    let high = scores * 0.5 * curvature(smooth);
                    high + 2.0 * (gap / self.weight * high).sqrt()
                }
            };
        Ok((gap.is_finite() && rise > gap.max(self.tolerance * objective)).then_some(rise))
    }
}

/// The most that a loss has.
fn curvature(kind: Kind) -> f64 {
    match kind {
        Kind::Logistic => 0.25,
        Kind::Squared => 1.0,
        Kind::SquaredHinge => 2.0,
        Kind::Hinge => f64::INFINITY,
    }
}

/// What the report says of it.
pub fn told(rise: f64) -> String {
    format!(
        "the saved model's numbers are rounded to 32 bits: its objective is up to {rise:.1e} above the one that is reported; shift \
         or scale features whose values are far from 0"
    )
}
