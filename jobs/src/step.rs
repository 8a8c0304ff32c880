//! How an automatic step size moves from epoch to epoch.
//!
//! Theory knows a step that is safe for the worst row; most data bear far longer ones. So `auto` starts in the middle
//! and grows with every epoch that is kept, up to just below the last step that an epoch was taken back for (which
//! [`crate::rules`] halves).
//! Invariant: the step never grows to or beyond a length that failed of late; a step that the user gave never grows.

use crate::flags::Step;
use flexps_common::plan::Progress;
use flexps_common::{Error, Result};

/// A step that failed is approached up to this fraction.
const SHY: f64 = 0.7;
/// What failed far from the optimum may do near it: with each kept epoch the length that failed counts as so much longer.
const FORGET: f64 = 1.05;

/// The first step, unless single precision takes it for nothing: every epoch would end where it began then.
pub fn first(step: f64) -> Result<f64> {
    if (step as f32) < f32::MIN_POSITIVE {
        return Err(Error::data(format!(
            "a step of {step:e} moves nothing in single precision: are the rows' values so large? scale the features"
        )));
    }
    Ok(step)
}

/// How the step grows.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    by: f64,
}

impl Growth {
    /// Growth by the factor `by` per kept epoch if the step is `auto`.
    pub fn new(step: Step, by: f64) -> Self {
        Self { by: if step == Step::Auto { by } else { 1.0 } }
    }

    /// Moves the scalar `step` after an epoch that was made with the step `used`.
    pub fn after(self, progress: &mut Progress, used: f64, kept: bool) {
        if !kept {
            progress.set("failed_step", used);
            return;
        }
        let failed = progress.scalar("failed_step", f64::INFINITY);
        progress.set("step", (used * self.by).min((SHY * failed).max(used)));
        if failed.is_finite() {
            progress.set("failed_step", failed * FORGET);
        }
    }
}
