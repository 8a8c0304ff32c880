//! Stages that only sleep: for trying out scheduling, where what matters is who gets how many slots for how long.
//!
//! Invariant: a stage on p threads takes `work/p + cost p + fixed` seconds on each of them, or so many times that as it is told
//! for a round, and ends early only when it is cancelled.

use flexps_common::curve::Curve;
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
    /// range as 4..16, `all`, `N/slave`, `N/visit`, on one slave after the other, `N@SLAVE`, on the slave of that name, `auto`
    /// or `offline`. On p threads it takes WORK/p + COST p + FIXED seconds. May be given again
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
    /// The name of the one slave that it may run on.
    #[serde(default)]
    pub on: Option<String>,
    /// How long it takes.
    #[serde(flatten)]
    pub curve: Curve,
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
        let (threads, on) = threads.split_once('@').map_or((threads, None), |(n, slave)| (n, Some(slave.to_owned())));
        let threads = match threads.split_once('/') {
            Some((n, "slave")) => Threads::PerSlave(count(n)?),
            Some((n, "visit")) => Threads::Visit(count(n)?),
            Some(_) => return Err(mistake()),
            None if threads == "all" => Threads::All,
            None if threads.contains("..") => {
                let (least, most) = threads.split_once("..").ok_or_else(mistake)?;
                let (least, most) = (count(least)?, count(most)?);
                if least > most {
                    return Err(mistake());
                }
                Threads::Range(least, most)
            }
            None if threads == "auto" => Threads::Auto,
            None if threads == "offline" => Threads::Offline,
            None => Threads::Count(count(threads)?),
        };
        if name.is_empty() || rest.len() > 2 || on.as_deref() == Some("") {
            return Err(mistake());
        }
        let further = |i: usize| rest.get(i).map_or(Ok(0.0), |text| number(text));
        let curve = Curve { work: number(work)?, cost: further(0)?, fixed: further(1)? };
        Ok(Self { name: name.to_owned(), threads, on, curve, factors: Vec::new() })
    }
}

impl Job for Sleep {
    const NAME: &'static str = "sleep";
    const ABOUT: &'static str = "Stages that only sleep, for trying out scheduling";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        plan.body.repeat(self.rounds, |round| {
            for nap in &self.stages {
                let own = nap.clone();
                let stage = round.stage(&nap.name, move |worker| own.sleep(worker)).threads(nap.threads);
                if let Some(slave) = &nap.on {
                    stage.on(slave);
                }
            }
        });
        Ok(())
    }
}

impl Nap {
    fn sleep(&self, worker: &mut Worker<'_>) -> Result<()> {
        let factor = self.factors.get(worker.place.epoch as usize).copied().unwrap_or(1.0);
        let seconds = factor * self.curve.seconds(worker.place.threads as u32);
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
        let curve = Curve { work: 8.0, cost: 0.0, fixed: 0.0 };
        let wide = Nap { name: "wide".into(), threads: Threads::All, on: None, curve, factors: Vec::new() };
        assert_eq!(nap("wide:all:8"), wide);
        let curve = Curve { work: 0.5, cost: 0.01, fixed: 1.0 };
        let narrow = Nap { name: "n".into(), threads: Threads::PerSlave(2), on: None, curve, factors: Vec::new() };
        assert_eq!(nap("n:2/slave:.5:0.01:1"), narrow);
        assert_eq!(nap("n:2/visit:8").threads, Threads::Visit(2));
        let on = nap("n:2@h1:8");
        assert_eq!((on.threads, on.on.as_deref()), (Threads::Count(2), Some("h1")));
        assert_eq!(nap("n:auto:8").threads, Threads::Auto);
        assert_eq!(nap("n:offline:8").threads, Threads::Offline);
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
            "a:1/x:1",
            "a:1@:1",
        ] {
            assert!(bad.parse::<Nap>().is_err_and(|e| e.message.contains("NAME:THREADS:WORK")), "{bad}");
        }
    }
}
