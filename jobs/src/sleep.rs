//! Stages that only sleep: for trying out scheduling, where what matters is who gets how many slots for how long.
//!
//! Invariant: a stage on p threads takes `work/p + cost p + fixed` seconds on each of them, or so many times that as it is told
//! for a round, and ends early only when it is cancelled.

use crate::workers::Workers;
use flexps_common::curve::Curve;
use flexps_common::job::Job;
use flexps_common::plan::{Plan, StageBuilder, Threads};
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
    /// or `offline`. On p threads it takes WORK/p + COST p + FIXED seconds. It begins when the stage above it has ended, or,
    /// with `,after=A+B`, when A and B have, which stand above it, as in left:2:1 right:2:1,after= sum:4:1,after=left+right:
    /// those that don't wait for one another run side by side. May be given again
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
    /// Bytes of memory that it needs on each slave where it has threads.
    #[serde(default)]
    pub memory: u64,
    /// The stages above it that must have ended before it begins; the one above when none are given.
    #[serde(default)]
    pub after: Option<Vec<String>>,
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
                "'{text}' is no stage; give NAME:THREADS:WORK[:COST[:FIXED]][,after=STAGE+STAGE], e.g. wide:all:8 or \
                 narrow:2:1"
            ))
        };
        let (stage, after) = text.split_once(",after=").map_or((text, None), |(stage, after)| (stage, Some(after)));
        let after = after.map(|names| names.split('+').filter(|name| !name.is_empty()).map(str::to_owned).collect());
        let parts: Vec<&str> = stage.split(':').collect();
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
            None => threads.parse::<Workers>().map_err(|_| mistake())?.threads(),
        };
        if name.is_empty() || rest.len() > 2 || on.as_deref() == Some("") {
            return Err(mistake());
        }
        let further = |i: usize| rest.get(i).map_or(Ok(0.0), |text| number(text));
        let curve = Curve { work: number(work)?, cost: further(0)?, fixed: further(1)? };
        Ok(Self { name: name.to_owned(), threads, on, memory: 0, after, curve, factors: Vec::new() })
    }
}

impl Job for Sleep {
    const NAME: &'static str = "sleep";
    const ABOUT: &'static str = "Stages that only sleep, for trying out scheduling";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        plan.body.resumable(self.rounds, |round| {
            if self.stages.iter().all(|nap| nap.after.is_none()) {
                return self.stages.iter().for_each(|nap| nap.refine(round.stage(&nap.name, nap.sleeper())));
            }
            round.together(|group| {
                for (place, nap) in self.stages.iter().enumerate() {
                    let above = place.checked_sub(1).map(|above| self.stages[above].name.as_str());
                    let after: Vec<&str> = match &nap.after {
                        Some(names) => names.iter().map(String::as_str).collect(),
                        None => above.into_iter().collect(),
                    };
                    nap.refine(group.stage(&nap.name, nap.sleeper()).after(&after));
                }
            });
        });
        Ok(())
    }
}

impl Nap {
    fn sleeper(&self) -> impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static {
        let own = self.clone();
        move |worker| own.sleep(worker)
    }

    fn refine(&self, stage: StageBuilder<'_>) {
        let stage = stage.threads(self.threads).memory(self.memory);
        if let Some(slave) = &self.on {
            stage.on(slave);
        }
    }

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
    use flexps_common::job::DynJob;

    #[test]
    fn stages_stand_together_where_one_says_after_which_it_comes_and_else_one_after_the_other() {
        let plan = |stages: &[&str]| {
            let stages = stages.iter().map(|text| text.parse().unwrap()).collect();
            DynJob::plan(&Sleep { stages, rounds: 2 })
        };
        let names = |plan: &Plan| plan.stages().iter().map(|s| s.after.join("+")).collect::<Vec<_>>();
        let diamond =
            plan(&["load:1:1", "left:1:1", "right:1:1,after=load", "sum:1:1,after=left+right", "loose:1:1,after="]);
        assert_eq!(names(&diamond.unwrap()), ["", "load", "load", "left+right", ""]);
        let alone = plan(&["load:1:1", "left:1:1"]).unwrap();
        assert!(alone.stages().iter().all(|stage| !stage.together));
        let error = plan(&["load:1:1", "left:1:1,after=laod"]).err().unwrap();
        assert!(
            error.message.contains("stage left: a stage comes after stages above it in its group (load), not laod")
        );
    }

    #[test]
    fn a_stage_is_given_by_name_threads_and_seconds() {
        let nap = |text: &str| text.parse::<Nap>().unwrap();
        let curve = Curve { work: 8.0, cost: 0.0, fixed: 0.0 };
        let wide = Nap {
            name: "wide".into(),
            threads: Threads::All,
            on: None,
            memory: 0,
            after: None,
            curve,
            factors: Vec::new(),
        };
        assert_eq!(nap("wide:all:8"), wide);
        assert_eq!(nap("wide:all:8,after="), Nap { after: Some(Vec::new()), ..wide.clone() });
        let both = Some(vec!["left".to_owned(), "right".to_owned()]);
        assert_eq!(nap("wide:all:8,after=left+right"), Nap { after: both, ..wide.clone() });
        let curve = Curve { work: 0.5, cost: 0.01, fixed: 1.0 };
        let narrow = Nap { name: "n".into(), threads: Threads::PerSlave(2), ..wide.clone() };
        let narrow = Nap { curve, ..narrow };
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
