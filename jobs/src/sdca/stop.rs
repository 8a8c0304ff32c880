//! When the certificate is worth its pass, and when training stops.
//!
//! The ascent sums, for free, what each row added to the gap when it was visited; what is left at the epoch's end is less
//! by about the factor by which that sum falls from sweep to sweep. Invariant: training never ends on an estimate, and
//! always with a certificate.

use super::least::Least;
use super::{bias, enough, pace, renew, subspace};
use crate::flags::Common;
use crate::objective;
use crate::rules::Rules;
use crate::told;
use flexps_common::plan::{Flow, Progress};
use flexps_common::{Error, Result};

/// The stopping rules.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    rules: Rules,
    /// None where validation rows say which model is kept.
    least: Option<Least>,
}

/// Where the way is long the estimate may be far off: a certificate after so many epochs, and again after so many times
/// as many, costs little and sets it right.
const FIRST: f64 = 10.0;
const LATER: f64 = 1.25;

/// A certificate is paid for when the estimate is below so many tolerances.
const HOPE: f64 = 1.0;

impl Stop {
    /// The rules that the flags ask for.
    pub fn new(flags: &Common, least: Least) -> Self {
        let rules = Rules::new(flags);
        Self { rules, least: Some(least).filter(|_| rules.patience.is_none()) }
    }

    /// Before the first epoch of a problem.
    pub fn begin(&self, progress: &mut Progress) {
        progress.set("visited_gap", f64::INFINITY);
        progress.set("gap_correction", 1.0);
        progress.set("judge_by", FIRST);
        subspace::begin(progress);
        pace::begin(progress);
        enough::begin(progress);
        renew::begin(progress);
        Least::begin(progress);
    }

    /// Epochs of the problem, with the one that is ending.
    fn ended(progress: &Progress) -> u64 {
        progress.epoch + 1 - progress.scalar("first_epoch", 0.0) as u64
    }

    /// Behind the ascent: sets the scalar `judge`.
    pub fn before(&self, progress: &mut Progress) -> Result<()> {
        progress.set("fresh", 0.0);
        bias::before(progress)?;
        let rows = progress.scalar("rows", 1.0);
        let met = progress.metric("ascent", "visited_gap")? / rows;
        if !met.is_finite() {
            return Err(Error::data(
                "the weights left the range of numbers; values of very different size in the rows? scale the features",
            ));
        }
        let before = progress.scalar("visited_gap", f64::INFINITY);
        if met > 2.0 * before {
            // The sample of rows promised too much: from here on one step after the other.
            progress.set("at_once", 0.0);
        }
        if progress.metric("ascent", "short").is_ok_and(|short| short > 0.0) {
            // Joins of some features lead too far: from here on all are joined each time.
            progress.set("whole", 1.0);
        }
        progress.set("visited_gap", met);
        // From the first epoch, which starts at zero, nothing can be told yet.
        let swept = progress.metric("ascent", "swept").unwrap_or(1.0);
        // From the middle of the sweep before to that of the last one.
        let sweeps = progress.metric("ascent", "sweeps")? - (1.0 - swept) / 2.0;
        let falls = if before.is_finite() { (met / before).min(1.0).powf(1.0 / sweeps) } else { 0.3 };
        let kept = falls * progress.scalar("gap_correction", 1.0);
        let left = met * enough::left(swept, kept);
        progress.set("estimated_gap", left);
        let loss = progress.metric("ascent", "visited_loss")? / progress.metric("ascent", "sampled")?.max(1.0);
        let objective = loss + progress.scalar("lambda", 0.0) / 2.0 * progress.scalar("norm2", 0.0);
        let aim = self.rules.tolerance * objective;
        subspace::decide(progress, falls, left / aim);
        enough::decide(progress, kept, aim, before.is_finite());
        let hopeful = swept < 1.0 || left <= HOPE * aim;
        let ended = Self::ended(progress);
        let due = ended as f64 >= progress.scalar("judge_by", FIRST);
        let last = ended >= self.rules.epochs || self.rules.late(progress).is_some();
        progress.set("judge", f64::from(u8::from(hopeful || due || last || self.rules.patience.is_some())));
        Ok(())
    }

    /// Behind the certificate.
    pub fn after(&self, progress: &mut Progress, validation: Option<f64>) -> Result<Flow> {
        if progress.scalar("judge", 0.0) == 0.0 {
            return Ok(Flow::Next);
        }
        progress.set("judge_by", (Self::ended(progress) as f64 * LATER).max(FIRST));
        let objective = objective::after(progress, "certificate")?;
        let gap = progress.metric("certificate", "gap")?.max(0.0) / progress.scalar("rows", 1.0);
        let estimated = progress.scalar("estimated_gap", 0.0);
        if estimated > 0.0 {
            let correction = progress.scalar("gap_correction", 1.0);
            progress.set("gap_correction", (correction * gap / estimated).clamp(0.05, 20.0));
        }
        let gap = gap + bias::gap(progress)? + renew::missing(progress, (self.rules.tolerance, objective))?;
        if !objective.is_finite() || !gap.is_finite() {
            return Err(Error::data("the objective is no number; scale the features"));
        }
        let relative = gap / objective.abs().max(f64::MIN_POSITIVE);
        progress.objective = Some(objective);
        progress.set("objective", objective);
        progress.set("gap", relative);
        progress.epoch_metrics.insert("gap".to_owned(), relative);
        let right = progress.metric("certificate", "right")? / progress.metric("certificate", "rows")?;
        progress.set("training_accuracy", right);
        if relative <= self.rules.tolerance {
            return Ok(Flow::Stop(format!("duality gap {relative:.2e}, at most {} was asked", self.rules.tolerance)));
        }
        enough::in_vain(progress);
        if let Some(why) = self.rules.out_of_patience(progress, validation) {
            return Ok(Flow::Stop(why));
        }
        let late = self.rules.late(progress);
        if late.is_none() {
            let made = [Self::ended(progress), self.rules.epochs].map(|epochs| epochs as f64);
            if let Some(why) = pace::judge(progress, made.into(), (relative, objective), self.rules.tolerance) {
                self.least.inspect(|least| least.end(progress));
                return Ok(Flow::Stop(why));
            }
        }
        let made = (Self::ended(progress) >= self.rules.epochs).then(|| told::all_made(self.rules.epochs, "epoch"));
        if let Some(why) = made.or(late) {
            self.least.inspect(|least| least.end(progress));
            return Ok(Flow::Stop(format!(
                "{why}; duality gap {:.2e}, at most {} was asked",
                progress.scalar("gap", relative),
                self.rules.tolerance
            )));
        }
        self.least.inspect(|least| least.note(progress));
        bias::after(progress);
        Ok(Flow::Next)
    }
}
