//! The weights with the least objective that a certificate told of. Where the ascent does not come to the tolerance, what it has at
//! its end may be far behind those: it is the dual objective that never falls.
//!
//! Invariant: what is kept at the end is no worse than at any certificate of the same problem.

use crate::best;
use crate::vector::Vector;
use flexps_common::plan::Progress;

/// The scalars: the least objective so far, and the largest of the dual.
const LEAST: &str = "least_objective";
const DUAL: &str = "most_dual_objective";

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    /// What is learned.
    pub weights: Vector,
    /// What it was when it was best.
    pub kept: Vector,
}

impl Least {
    /// Before a problem.
    pub fn begin(progress: &mut Progress) {
        progress.set(LEAST, f64::INFINITY);
        progress.set(DUAL, f64::NEG_INFINITY);
    }

    /// Behind a certificate that told of the scalars `objective` and `gap`, after which training goes on.
    pub fn note(self, progress: &mut Progress) {
        let objective = see(progress);
        if objective < progress.scalar(LEAST, f64::INFINITY) {
            progress.set(LEAST, objective);
            self.weights.copy(progress, self.kept);
            best::remember(progress);
        }
    }

    /// Behind the last one: brings back what was better, with its numbers and a gap to the largest dual objective.
    pub fn end(self, progress: &mut Progress) {
        let (objective, least) = (see(progress), progress.scalar(LEAST, f64::INFINITY));
        if objective <= least {
            return;
        }
        self.kept.copy(progress, self.weights);
        best::recall(progress);
        let gap = (least - progress.scalar(DUAL, f64::NEG_INFINITY)).max(0.0) / least.abs().max(f64::MIN_POSITIVE);
        progress.set("gap", gap);
    }
}

/// Remembers the certificate's dual objective, and gives the other one.
fn see(progress: &mut Progress) -> f64 {
    let (objective, gap) = (progress.scalar("objective", f64::INFINITY), progress.scalar("gap", f64::INFINITY));
    let dual = objective - gap * objective.abs();
    progress.set(DUAL, dual.max(progress.scalar(DUAL, f64::NEG_INFINITY)));
    objective
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::plan::{Plan, TableOp};

    #[test]
    fn what_was_best_comes_back_with_its_numbers_and_the_least_gap_that_is_certain() {
        let mut plan = Plan::default();
        let [weights, kept] = ["weights", "kept"].map(|name| Vector::new(&mut plan, name, false));
        let (least, mut progress) = (Least { weights, kept }, Progress::default());
        let copy = |from: Vector, to: Vector| TableOp::Copy { from: from.features.id, to: to.features.id };
        let certified = |progress: &mut Progress, objective, gap, accuracy| {
            for (name, value) in [("objective", objective), ("gap", gap), ("training_accuracy", accuracy)] {
                progress.set(name, value);
            }
            progress.ops.clear();
        };
        Least::begin(&mut progress);
        // Dual objectives of 1, 1.5 and 1.4.
        for (objective, gap, accuracy, better) in
            [(4.0, 0.75, 0.8, true), (2.0, 0.25, 0.9, true), (2.8, 0.5, 0.7, false)]
        {
            certified(&mut progress, objective, gap, accuracy);
            least.note(&mut progress);
            assert_eq!(progress.ops, if better { vec![copy(weights, kept)] } else { Vec::new() });
        }
        // And of 1.8, at weights that are worse.
        certified(&mut progress, 3.6, 0.5, 0.6);
        least.end(&mut progress);
        assert_eq!(progress.ops, [copy(kept, weights)]);
        assert_eq!(["objective", "training_accuracy"].map(|name| progress.scalars[name]), [2.0, 0.9]);
        assert!((progress.scalars["gap"] - 0.1).abs() < 1e-12 && progress.objective == Some(2.0), "{progress:?}");
        // At weights that are better nothing comes back.
        certified(&mut progress, 1.9, 0.1, 0.95);
        least.end(&mut progress);
        assert_eq!((progress.ops.len(), progress.scalars["gap"]), (0, 0.1));
    }
}
