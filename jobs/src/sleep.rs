//! Stages that only sleep: for trying out scheduling, where what matters is who gets how many slots for how long.
//!
//! Invariant: a stage on p threads takes `work/p + cost p + fixed` seconds on each of them, or so many times that as it is told
//! for a round, and ends early only when it is cancelled.

use flexps_common::job::Job;
use flexps_common::plan::{Plan, Threads};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often a sleeper looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
pub struct Sleep {
    /// A stage of a round, NAME:THREADS:WORK, then :COST and :FIXED, e.g. wide:all:8 or narrow:2:1. THREADS is a number, a
    /// range as 4..16, `all` or `N/slave`. On p threads it takes WORK/p + COST p + FIXED seconds. May be given again
    #[arg(long = "stage", required = true, value_name = "STAGE")]
    pub stages: Vec<Nap>,
    /// Rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nap {
    /// Its name.
    pub name: String,
    /// Its threads.
    pub threads: Threads,
    /// Thread-seconds.
    pub work: f64,
    /// Seconds per thread.
    pub cost: f64,
    /// Seconds.
    pub fixed: f64,
    /// By round, how many times as long it takes; those that are not named take once as long.
    #[serde(default)]
    pub factors: Vec<f64>,
}

impl FromStr for Nap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mistake = || {
            Error::user(format!(
                "'{text}' is no stage; give NAME:THREADS:WORK[:COST[:FIXED]], e.g. wide:all:8 or narrow:2:1"
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (&[name, threads, work], rest) = parts.split_first_chunk::<3>().ok_or_else(mistake)?;
        let number = |text: &str| match text.parse::<f64>() {
            Ok(x) if (0.0..1e9).contains(&x) => Ok(x),
            _ => Err(mistake()),
        };
        let count = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(mistake);
        let threads = match threads.strip_suffix("/slave") {
            Some(n) => Threads::PerSlave(count(n)?),
            None if threads == "all" => Threads::All,
            None if threads.contains("..") => {
                let (least, most) = threads.split_once("..").ok_or_else(mistake)?;
                let (least, most) = (count(least)?, count(most)?);
                if least > most {
                    return Err(mistake());
                }
                Threads::Range(least, most)
            }
            None => Threads::Count(count(threads)?),
        };
        if name.is_empty() || rest.len() > 2 {
            return Err(mistake());
        }
        let further = |i: usize| rest.get(i).map_or(Ok(0.0), |text| number(text));
        let (name, factors) = (name.to_owned(), Vec::new());
        Ok(Self { name, threads, work: number(work)?, cost: further(0)?, fixed: further(1)?, factors })
    }
}

impl Job for Sleep {
    const NAME: &'static str = "sleep";
    const ABOUT: &'static str = "Stages that only sleep, for trying out scheduling";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        plan.body.repeat(self.rounds, |round| {
            for nap in &self.stages {
                let own = nap.clone();
                round.stage(&nap.name, move |worker| own.sleep(worker)).threads(nap.threads);
            }
        });
        Ok(())
    }
}

impl Nap {
    fn sleep(&self, worker: &mut Worker<'_>) -> Result<()> {
        let p = worker.place.threads as f64;
        let factor = self.factors.get(worker.place.epoch as usize).copied().unwrap_or(1.0);
        let seconds = factor * (self.work / p + self.cost * p + self.fixed);
        let until = Instant::now() + Duration::try_from_secs_f64(seconds).map_err(Error::user)?;
        loop {
            worker.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_given_by_name_threads_and_seconds() {
        let nap = |text: &str| text.parse::<Nap>().unwrap();
        let (name, factors) = ("wide".to_owned(), Vec::new());
        let wide = Nap { name, threads: Threads::All, work: 8.0, cost: 0.0, fixed: 0.0, factors };
        assert_eq!(nap("wide:all:8"), wide);
        let narrow = Nap { threads: Threads::PerSlave(2), work: 0.5, cost: 0.01, fixed: 1.0, ..wide };
        assert_eq!(nap("wide:2/slave:.5:0.01:1"), narrow);
        assert_eq!(nap("n:4..16:1").threads, Threads::Range(4, 16));
        for bad in [
            "",
            "a",
            "a:1",
            ":1:1",
            "a:0:1",
            "a:x:1",
            "a:1:-1",
            "a:1:nan",
            "a:1:1:1:1:1",
            "a:4..:1",
            "a:4..2:1",
            "a:0/slave:1",
        ] {
            assert!(bad.parse::<Nap>().is_err_and(|e| e.message.contains("NAME:THREADS:WORK")), "{bad}");
        }
    }
}
