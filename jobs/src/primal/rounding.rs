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

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::metrics::{Metric, Metrics};

    /// Half the mean square of `y - w x - b` over rows around `centre`, with the w and b that make it least; what rounding these
    /// adds to it, and what is said of that.
    fn rounded(centre: f64, spread: f64, tolerance: f64) -> (f64, Option<f64>) {
        let rows: Vec<[f64; 2]> =
            (0..50).map(|i| f64::from(i) / 25.0 - 1.0).map(|t| [centre + spread * t, 7.0 * t + t.sin()]).collect();
        let mean = |of: &dyn Fn(&[f64; 2]) -> f64| rows.iter().map(of).sum::<f64>() / 50.0;
        let (x, y) = (mean(&|r| r[0]), mean(&|r| r[1]));
        let w = mean(&|r| (r[0] - x) * (r[1] - y)) / mean(&|r| (r[0] - x).powi(2));
        let b = y - w * x;
        let objective = |w: f64, b: f64| mean(&|r| (r[1] - w * r[0] - b).powi(2) / 2.0);
        let short = [w, b].map(|number| f64::from(number as f32));
        let mut progress = Progress::default();
        let mut lost = Metrics::default();
        lost.add("weights_off2", Metric::Sum((short[0] - w).powi(2)));
        lost.add("bias_off2", Metric::Sum((short[1] - b).powi(2)));
        progress.metrics.insert("keep".to_owned(), lost);
        progress.set("objective", objective(w, b));
        progress.set("gap", 1e-9);
        let norm2 = mean(&|r| r[0].powi(2));
        let said = Rounded { loss: Kind::Squared, norm2, weight: 1.0, tolerance }.rise(&progress).unwrap();
        (objective(short[0], short[1]) - objective(w, b), said)
    }

    #[test]
    fn what_rounding_costs_is_told_where_it_is_more_than_was_certified_and_is_no_less_than_told() {
        for (centre, spread) in [(6100.0, 0.07), (1e5, 1.0), (-3e4, 0.1)] {
            let (rise, said) = rounded(centre, spread, 1e-9);
            assert!(said.is_some_and(|said| said >= rise), "{centre}: {rise} above, {said:?} said");
        }
        assert_eq!(rounded(0.0, 1.0, 1e-6).1, None);
        assert_eq!(rounded(6100.0, 0.07, 1e9).1, None, "nobody asked for that much");
    }
}
