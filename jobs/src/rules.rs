//! When training stops, and what an epoch is worth: pure decisions on the numbers of an epoch.
//!
//! Invariant: a model that an epoch made worse, or not finite, is never kept: the epoch is taken back and the step
//! halved; and what a step brings that may be far too short is no sign of an optimum. What is remembered between epochs lies in
//! the job's scalars, so it shows in reports and survives the master.

use crate::flags::Common;
use crate::objective;
use crate::primal::time::Time;
use crate::step::Growth;
use crate::told;
use flexps_common::plan::{Flow, Progress};
use flexps_common::{Error, Result};

/// The stopping rules of a job.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Least relative decrease of the objective that an epoch must bring; 0 for any.
    pub tolerance: f64,
    /// Seconds.
    pub time_limit: Option<f64>,
    /// Epochs without a better validation loss.
    pub patience: Option<u64>,
    /// Epochs at most.
    pub epochs: u64,
}

/// What becomes of the epoch that just ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Its model is kept and training goes on.
    Keep,
    /// Its model is kept and training ends.
    KeepAndStop(String),
    /// Its model is dropped; training goes on from the one before, with a smaller step.
    Retry,
    /// The same, with a much longer step.
    Lengthen,
    /// Its model is dropped and training ends.
    DropAndStop(String),
    /// Its model is no numbers, and was none with any shorter step.
    Diverged,
}

impl Verdict {
    /// Whether the epoch's model is kept.
    pub fn keeps(&self) -> bool {
        matches!(self, Verdict::Keep | Verdict::KeepAndStop(_))
    }

    /// How the repeat goes on.
    pub fn flow(self) -> Result<Flow> {
        match self {
            Verdict::Keep => Ok(Flow::Next),
            Verdict::Retry | Verdict::Lengthen => Ok(Flow::Again),
            Verdict::KeepAndStop(why) | Verdict::DropAndStop(why) => Ok(Flow::Stop(why)),
            Verdict::Diverged => Err(Error::data(
                "training diverges, however short the step: values of very different size in the rows? scale the features, \
                 or give more --lambda",
            )),
        }
    }
}

/// The scalar that counts the epochs since the least validation loss.
pub const WAITED: &str = "epochs_without_better_validation";

/// Relative rise that weights of 24 bits may cause at the optimum: it is no sign of a step that is too long.
const NOISE: f64 = 1e-7;

/// Halvings in a row after which the objective is taken for flat: a step so much shorter would have lowered it otherwise.
const MOST_HALVINGS: f64 = 20.0;

impl Rules {
    /// The rules that the user's flags ask for.
    pub fn new(flags: &Common) -> Self {
        let &Common { tolerance, time_limit, patience, epochs, .. } = flags;
        Self { tolerance, time_limit, patience, epochs }
    }

    /// Why training ends, if its time is up.
    pub fn late(&self, progress: &Progress) -> Option<String> {
        Time { limit: self.time_limit, path: false }.up(progress)
    }

    /// Judges an epoch that led from `before` to `after`; remembers the better one as the scalar `objective`. A retry
    /// moves the scalar `step`, which otherwise moves as `growth` says. `validation` is the epoch's validation loss.
    pub fn judge(
        &self,
        progress: &mut Progress,
        (before, after): (f64, f64),
        validation: Option<f64>,
        growth: Growth,
    ) -> Verdict {
        let late = self.late(progress);
        let (noise, last) = (NOISE.min(self.tolerance) * before.abs(), progress.epoch + 1 >= self.epochs);
        let (rise, little) = (after - before, before - after < self.tolerance * before.abs());
        growth.see(progress, -rise / before.abs());
        // What rounding does is next to nothing whatever the tolerance.
        let rounding = NOISE * before.abs();
        let unsure = rise <= rounding && (little || -rise <= rounding) && growth.may_leap(progress);
        if unsure && late.is_none() && !last {
            progress.objective = Some(before);
            growth.leap(progress);
            return Verdict::Lengthen;
        }
        if after > before || after.is_nan() {
            let halvings = progress.scalar("halvings", 0.0) + 1.0;
            progress.set("halvings", halvings);
            progress.set("step", progress.scalar("step", 0.0) / 2.0);
            progress.objective = Some(before);
            if rise <= noise || unsure {
                // What would be made again with a longer step, but for time or epochs.
                let cut = unsure.then(|| late.unwrap_or_else(|| told::all_made(self.epochs, "epoch")));
                return Verdict::DropAndStop(cut.unwrap_or_else(|| format!("tolerance {} reached", self.tolerance)));
            }
            return match late {
                Some(why) => Verdict::DropAndStop(why),
                None if halvings >= MOST_HALVINGS && !after.is_finite() => Verdict::Diverged,
                None if halvings >= MOST_HALVINGS => Verdict::DropAndStop("no step lowers the objective".to_owned()),
                None => Verdict::Retry,
            };
        }
        progress.set("halvings", 0.0);
        progress.set("objective", after);
        progress.objective = Some(after);
        if let Some(why) = self.out_of_patience(progress, validation) {
            return Verdict::KeepAndStop(why);
        }
        if little && !unsure {
            return Verdict::KeepAndStop(format!("tolerance {} reached", self.tolerance));
        }
        // An epoch that was taken back is made again: it is not the last.
        let last = last.then(|| told::all_made(self.epochs, "epoch"));
        late.or(last).map_or(Verdict::Keep, Verdict::KeepAndStop)
    }

    /// Without a penalty, refuses rows that the last run of `stage` found told apart: there is no optimum to come near. Where
    /// validation rows end the training, it needs none.
    pub fn refuse_separable(&self, progress: &Progress, stage: &str) -> Result<()> {
        if self.patience.is_some() || progress.scalar("lambda", 0.0) != 0.0 {
            return Ok(());
        }
        objective::refuse_separable(progress.metric(stage, "right")?, progress.metric(stage, "rows")?)
    }

    /// Why patience is at its end, if it is, after an epoch with this validation loss.
    pub fn out_of_patience(&self, progress: &mut Progress, validation: Option<f64>) -> Option<String> {
        let (loss, patience) = (validation?, self.patience?);
        if loss < progress.scalar("best_validation_loss", f64::INFINITY) {
            progress.set("best_validation_loss", loss);
            progress.set(WAITED, 0.0);
            return None;
        }
        let waited = progress.scalar(WAITED, 0.0) + 1.0;
        progress.set(WAITED, waited);
        let why = || format!("validation loss has not improved for {}", told::count(waited as u64, "epoch"));
        (waited >= patience as f64).then(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Step;
    use std::time::Duration;

    fn progress(seconds: u64) -> Progress {
        Progress {
            elapsed: Duration::from_secs(seconds),
            scalars: [("step".to_owned(), 1.0)].into(),
            ..Progress::default()
        }
    }

    const FIXED: Growth = Growth::new(Step::Fixed(1.0), 1.4);
    const RULES: Rules = Rules { tolerance: 1e-3, time_limit: Some(10.0), patience: Some(2), epochs: 7 };

    #[test]
    fn a_worse_or_infinite_epoch_is_taken_back_with_half_the_step() {
        for after in [0.6, f64::INFINITY, f64::NAN] {
            let mut p = progress(0);
            assert_eq!(RULES.judge(&mut p, (0.5, after), None, FIXED), Verdict::Retry);
            assert_eq!((p.scalars["step"], p.objective), (0.5, Some(0.5)));
        }
    }

    #[test]
    fn an_objective_that_no_step_lowers_ends_the_job() {
        let mut p = progress(0);
        let tight = Rules { tolerance: 0.0, ..RULES };
        let verdicts: Vec<_> = (0..20).map(|_| tight.judge(&mut p, (0.5, 0.5 + 1e-9), None, FIXED)).collect();
        assert!(verdicts[..19].iter().all(|v| *v == Verdict::Retry));
        assert_eq!(verdicts[19], Verdict::DropAndStop("no step lowers the objective".to_owned()));
        let verdicts: Vec<_> = (0..20).map(|_| tight.judge(&mut progress(0), (0.5, f64::NAN), None, FIXED)).collect();
        assert!(verdicts.iter().all(|v| *v == Verdict::Retry), "a first bad step is only halved");
        let mut p = progress(0);
        let last = (0..20).map(|_| tight.judge(&mut p, (0.5, f64::NAN), None, FIXED)).last();
        assert!(last.is_some_and(|v| v.flow().is_err_and(|e| e.message.contains("scale the features"))));
    }

    #[test]
    fn training_stops_at_the_tolerance_and_not_before() {
        assert_eq!(RULES.judge(&mut progress(0), (0.5, 0.499), None, FIXED), Verdict::Keep);
        let near = RULES.judge(&mut progress(0), (0.5, 0.4996), None, FIXED);
        assert_eq!(near, Verdict::KeepAndStop("tolerance 0.001 reached".to_owned()));
        // A rise, however small, comes from a step that is too long, unless it is as small as rounding errors.
        assert_eq!(RULES.judge(&mut progress(0), (0.5, 0.50001), None, FIXED), Verdict::Retry);
        assert!(matches!(RULES.judge(&mut progress(0), (0.5, 0.5 + 1e-8), None, FIXED), Verdict::DropAndStop(_)));
    }

    #[test]
    fn little_is_no_sign_of_an_optimum_while_the_step_may_be_far_too_short() {
        let auto = Growth::new(Step::Auto, 1.4);
        let judge = |p: &mut Progress, before, after| RULES.judge(p, (before, after), None, auto);
        let stop = Verdict::KeepAndStop("tolerance 0.001 reached".to_owned());
        let mut p = progress(0);
        // Also what rounding adds.
        for (after, step) in [(0.4996, 10.0), (0.5, 100.0), (0.5 + 1e-9, 1000.0)] {
            let verdict = judge(&mut p, 0.5, after);
            assert_eq!((&verdict, p.scalars["step"], p.objective), (&Verdict::Lengthen, step, Some(0.5)));
            auto.after(&mut p, step / 10.0, &verdict);
            assert_eq!(p.scalars["step"], step);
        }
        let verdict = judge(&mut p, 0.5, 0.6);
        auto.after(&mut p, 1000.0, &verdict);
        assert_eq!((verdict, p.scalars["step"]), (Verdict::Retry, 500.0));
        assert_eq!(judge(&mut p, 0.5, 0.4999), stop, "nothing much longer is to be had");
        let mut p = progress(0);
        assert_eq!(judge(&mut p, 0.5, 0.4), Verdict::Keep);
        assert_eq!(judge(&mut p, 0.4, 0.3999), stop, "it was long enough");
        let mut p = progress(0);
        let flat = (0..).find(|_| judge(&mut p, 0.5, 0.5) == stop);
        assert_eq!(flat, Some(20));
        let at_last = judge(&mut Progress { epoch: 6, ..progress(0) }, 0.5, 0.4999);
        assert_eq!(at_last, Verdict::KeepAndStop("7 epochs were made".to_owned()));
        let at_last = judge(&mut Progress { epoch: 6, ..progress(0) }, 0.5, 0.5 + 1e-9);
        assert_eq!(at_last, Verdict::DropAndStop("7 epochs were made".to_owned()));
        assert!(
            matches!(judge(&mut progress(10), 0.5, 0.4999), Verdict::KeepAndStop(why) if why.contains("time limit"))
        );
    }

    #[test]
    fn what_rounding_does_is_no_reason_for_a_shorter_step_whatever_the_tolerance() {
        let auto = Growth::new(Step::Auto, 1.4);
        for tolerance in [0.0, 1e-12, 1e-3] {
            let rules = Rules { tolerance, ..RULES };
            let mut p = progress(0);
            for (after, step) in [(0.5 + 1e-16, 10.0), (0.5, 100.0), (0.5 - 1e-9, 1000.0), (0.5 + 1e-9, 1e4)] {
                let verdict = rules.judge(&mut p, (0.5, after), None, auto);
                auto.after(&mut p, step / 10.0, &verdict);
                assert_eq!((verdict, p.scalars["step"]), (Verdict::Lengthen, step), "tolerance {tolerance}: {after}");
            }
            assert!(auto.may_leap(&p), "no step has failed");
            assert_eq!(rules.judge(&mut p, (0.5, 0.5001), None, auto), Verdict::Retry, "a rise is one all the same");
            let last = rules.judge(&mut Progress { epoch: 6, ..progress(0) }, (0.5, 0.5 + 1e-9), None, auto);
            assert_eq!(last, Verdict::DropAndStop("7 epochs were made".to_owned()));
        }
        // What ends training is still the tolerance.
        let tight = Rules { tolerance: 0.0, ..RULES };
        assert_eq!(tight.judge(&mut progress(0), (0.5, 0.5 - 1e-9), None, FIXED), Verdict::Keep);
        assert_eq!(tight.judge(&mut progress(0), (0.5, 0.5 + 1e-9), None, FIXED), Verdict::Retry);
    }

    #[test]
    fn training_stops_when_the_time_is_up() {
        let verdict = RULES.judge(&mut progress(10), (0.5, 0.3), None, FIXED);
        assert_eq!(verdict, Verdict::KeepAndStop("time limit 10 s reached".to_owned()));
        assert!(matches!(RULES.judge(&mut progress(10), (0.5, 0.7), None, FIXED), Verdict::DropAndStop(_)));
    }

    #[test]
    fn training_that_has_made_its_epochs_says_so() {
        let at = |epoch, after| RULES.judge(&mut Progress { epoch, ..progress(0) }, (0.5, after), None, FIXED);
        assert_eq!(at(5, 0.3), Verdict::Keep);
        assert_eq!(at(6, 0.3), Verdict::KeepAndStop("7 epochs were made".to_owned()));
        assert_eq!(at(6, 0.7), Verdict::Retry);
    }

    #[test]
    fn patience_counts_epochs_since_the_best_validation_loss() {
        let mut p = progress(0);
        let mut verdicts = [0.4, 0.5, 0.39, 0.41, 0.40].into_iter().enumerate().map(|(i, loss)| {
            let before = 0.5 - 0.1 * i as f64;
            RULES.judge(&mut p, (before, before - 0.1), Some(loss), FIXED)
        });
        assert!(verdicts.by_ref().take(4).all(|v| v == Verdict::Keep));
        assert!(matches!(verdicts.next(), Some(Verdict::KeepAndStop(_))));
    }
}
