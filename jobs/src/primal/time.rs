//! How much of `--time-limit` each of a job's problems may take.
//!
//! Without a path each has an equal part of it, and what those before it left of theirs. A path ends where the time is up; a part
//! of several paths is no model, so that such a job fails. Invariant: no problem is left at zeros for want of time.

use crate::told;
use flexps_common::plan::{Flow, Progress};
use flexps_common::{Error, Result};

/// The scalars: which part of the limit may be over behind the problem at hand, whether some problem ran out of it, and how many ended
/// since no step led on.
const PART: &str = "time_part";
const LATE: &str = "late";
const NOWHERE: &str = "nowhere";

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Seconds.
    pub limit: Option<f64>,
    /// Whether problems are those of a path.
    pub path: bool,
}

impl Time {
    /// Before the problem `number` of `all`, from 0.
    pub fn start(self, progress: &mut Progress, number: u64, all: u64) {
        let part = if self.path { 1.0 } else { (number + 1) as f64 / all.max(1) as f64 };
        progress.set(PART, part);
    }

    fn over(self, progress: &Progress, part: f64) -> Option<f64> {
        self.limit.filter(|limit| progress.elapsed.as_secs_f64() >= limit * part)
    }

    /// Why the problem at hand ends, if its time is up.
    pub fn up(self, progress: &Progress) -> Option<String> {
        let part = progress.scalar(PART, 1.0);
        self.over(progress, part).map(|limit| match part < 1.0 {
            true => format!("its part of the time limit of {limit} s is over"),
            false => format!("time limit {limit} s reached"),
        })
    }

    /// The same behind the certificate of a round, of which the first shows where the problem starts; remembers it.
    pub fn late(self, progress: &mut Progress) -> Option<String> {
        let why = self.up(progress).filter(|_| progress.epoch > 0)?;
        progress.set(LATE, 1.0);
        Some(why)
    }

    /// Behind the problem `number` of `all`, from 0: whether the job's only path ends with it, since the time is up.
    pub fn ends_path(self, progress: &Progress, number: u64, all: u64, only: bool) -> Result<bool> {
        let Some(limit) = self.over(progress, 1.0).filter(|_| self.path && number + 1 < all) else { return Ok(false) };
        if only {
            return Ok(true);
        }
        Err(Error::user(format!(
            "time limit {limit} s reached behind {} of {all}: of several paths none is chosen from before all are made; give more \
             --time-limit, or fewer lambdas or folds",
            told::count(number + 1, "problem")
        )))
    }

    /// Why so many problems are short of their tolerance: what they ran out of, or that no step led on.
    pub fn why_short(progress: &Progress, unreached: f64) -> String {
        let nowhere = progress.scalar(NOWHERE, 0.0);
        let within = if progress.scalar(LATE, 0.0) == 1.0 { "within --time-limit" } else { "within --epochs" };
        match nowhere {
            0.0 => format!(" {within}"),
            all if all >= unreached => format!(", since {LED_NOWHERE}"),
            _ => format!(" {within} or since {LED_NOWHERE}"),
        }
    }
}

/// What is said where a problem ends short of its tolerance, whatever time there is.
const LED_NOWHERE: &str = "no step lowers the objective";

/// Ends the problem at hand where no step leads on; remembers it.
pub fn nowhere(progress: &mut Progress) -> Flow {
    let others = progress.scalar(NOWHERE, 0.0);
    progress.set(NOWHERE, others + 1.0);
    Flow::Stop(LED_NOWHERE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: f64, round: u64) -> Progress {
        Progress { elapsed: Duration::from_secs_f64(seconds), epoch: round, ..Progress::default() }
    }

    #[test]
    fn each_problem_has_its_part_of_the_limit_and_at_least_one_step() {
        let time = Time { limit: Some(6.0), path: false };
        for (number, seconds, round, late) in [
            (0, 1.0, 1, false),
            (0, 2.5, 0, false),
            (0, 2.5, 1, true),
            (1, 2.5, 1, false),
            (2, 5.9, 3, false),
            (2, 6.0, 1, true),
        ] {
            let mut progress = at(seconds, round);
            time.start(&mut progress, number, 3);
            let why = time.late(&mut progress);
            assert_eq!(why.is_some(), late, "problem {number} at {seconds} s: {why:?}");
            assert_eq!(Time::why_short(&progress, 1.0) == " within --time-limit", late);
        }
        let mut whenever = at(1e9, 9);
        assert_eq!(Time { limit: None, path: false }.late(&mut whenever), None);
    }

    #[test]
    fn what_is_told_of_problems_that_are_short_is_what_held_them() {
        let mut progress = at(1.0, 5);
        assert_eq!(Time::why_short(&progress, 1.0), " within --epochs");
        assert_eq!(nowhere(&mut progress), Flow::Stop(LED_NOWHERE.to_owned()));
        assert_eq!(Time::why_short(&progress, 1.0), ", since no step lowers the objective");
        assert_eq!(Time::why_short(&progress, 2.0), " within --epochs or since no step lowers the objective");
        assert!(Time { limit: Some(1.0), path: false }.late(&mut progress).is_some());
        assert_eq!(Time::why_short(&progress, 3.0), " within --time-limit or since no step lowers the objective");
    }

    #[test]
    fn a_path_ends_where_the_time_is_up_and_several_fail() {
        let time = Time { limit: Some(2.0), path: true };
        let ends = |seconds, number, only| time.ends_path(&at(seconds, 0), number, 30, only).map_err(|e| e.message);
        assert_eq!([ends(1.9, 3, true), ends(2.0, 3, true), ends(2.0, 29, true)], [Ok(false), Ok(true), Ok(false)]);
        assert_eq!(ends(1.9, 3, false), Ok(false));
        assert!(ends(2.0, 3, false).unwrap_err().starts_with("time limit 2 s reached behind 4 problems of 30"));
        assert_eq!(Time { path: false, ..time }.ends_path(&at(9.0, 0), 3, 30, false), Ok(false));
    }
}
