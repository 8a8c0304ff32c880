//! How an automatic step size moves from epoch to epoch.
//!
//! Theory knows a step that is safe for the worst row; most data bear far longer ones. So `auto` starts in the middle
//! and grows with every epoch that is kept, up to just below the last step that an epoch was taken back for (which
//! [`crate::rules`] halves). One row that is very large makes the first step so short that it brings next to nothing: until a step
//! has shown its worth or failed, it grows by leaps instead.
//! Invariant: the step never grows to or beyond a length that failed of late; a step that the user gave never grows.

use crate::flags::Step;
use crate::rules::Verdict;
use flexps_common::plan::Progress;
use flexps_common::{Error, Result};

/// A step that failed is approached up to this fraction.
const SHY: f64 = 0.7;
/// What failed far from the optimum may do near it: with each kept epoch the length that failed counts as so much longer.
const FORGET: f64 = 1.05;
/// An epoch that lowers the objective by this part shows that its step suits most rows.
const WORTH: f64 = 0.1;
/// By how much a step leaps.
const LEAP: f64 = 10.0;
/// Leaps after which the objective is taken for flat.
const MOST_LEAPS: f64 = 20.0;

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
    pub const fn new(step: Step, by: f64) -> Self {
        Self { by: if matches!(step, Step::Auto) { by } else { 1.0 } }
    }

    /// Notes that an epoch lowered the objective by the part `by`.
    pub fn see(self, progress: &mut Progress, by: f64) {
        if by >= WORTH {
            progress.set("worthy_step", progress.scalar("step", 0.0));
        }
    }

    /// Whether the step may be far too short, for all that is known.
    pub fn may_leap(self, progress: &Progress) -> bool {
        let unknown = |name| !progress.scalars.contains_key(name);
        let leaps = progress.scalar("leaps", 0.0);
        self.by > 1.0 && unknown("failed_step") && unknown("worthy_step") && leaps < MOST_LEAPS
    }

    /// Makes the scalar `step` much longer.
    pub fn leap(self, progress: &mut Progress) {
        progress.set("leaps", progress.scalar("leaps", 0.0) + 1.0);
        progress.set("step", LEAP * progress.scalar("step", 0.0));
    }

    /// Moves the scalar `step` after an epoch that was made with the step `used`, unless the verdict has.
    pub fn after(self, progress: &mut Progress, used: f64, verdict: &Verdict) {
        if *verdict == Verdict::Lengthen {
            return;
        }
        if !verdict.keeps() {
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
