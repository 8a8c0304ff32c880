//! What a user asks of a run beyond its job, to see how the engine takes it: slowness put in on purpose, a way of the model
//! that the engine would not have chosen, one number of workers for all stages, splits by lot.
//!
//! Invariant: an experiment changes when things happen, on how many workers and which way they go, never what each worker
//! runs; but workers that race may lose updates, and values that go as `f16` are rounded.

use crate::curve::Optimize;
use crate::home::Transfer;
use crate::plan::{Compression, Consistency};
use crate::report::Access;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The flags of `flexps run` that ask for experiments.
pub const FLAGS: [&str; 9] = [
    "inject",
    "transfer",
    "model-access",
    "fixed-threads",
    "splits",
    "slave-cache",
    "sum-updates",
    "compress",
    "optimize",
];

/// Largest factor of a slow worker.
const MOST_FACTOR: f64 = 1000.0;
/// Longest delay of a message, in milliseconds: well below what a node waits for an answer.
const MOST_MS: u64 = 10_000;

/// See the module. Goes with a job from the client to the master and on to the job's slaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Slowness that is put in, in the order in which it was asked for.
    pub inject: Vec<Injection>,
    /// How the model goes from stage to stage.
    pub transfer: Transfer,
    /// How workers are to reach the model, where it can be: `own`, `shared` and `racing` bring it beside those of a stage on
    /// one slave, whatever that costs; `shards` leaves it on all slaves. The engine chooses when none is given.
    pub access: Option<Access>,
    /// The workers of every stage, whatever the plan says.
    pub fixed_threads: Option<u32>,
    /// How splits of the input find their readers.
    pub splits: Splits,
    /// Whether the workers of a slave share what they read of other slaves' shards.
    pub slave_cache: Switch,
    /// Whether what they add to other slaves' shards at a BSP clock is summed before it is sent.
    pub sum_updates: bool,
    /// How values go from slave to slave, whatever the plan says.
    pub compress: Option<Compression>,
    /// What the threads that the engine chooses are to make least.
    pub optimize: Optimize,
}

/// How splits of an input find the slaves that read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Splits {
    /// To where they lie, as far as that keeps everybody busy.
    #[default]
    Near,
    /// By lot, to see what nearness gains.
    Random,
}

impl FromStr for Splits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "near" => Ok(Self::Near),
            "random" => Ok(Self::Random),
            _ => Err(format!("'{text}' is no way of splits; give near or random")),
        }
    }
}

impl fmt::Display for Splits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Random => "random",
        })
    }
}

/// What the engine does by itself where it pays, always, or never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// Where it pays.
    #[default]
    Auto,
    /// Wherever it can be.
    On,
    /// Never.
    Off,
}

/// Slowness that is put in on purpose. As text `slow:worker=3,factor=4` or `delay:slave=s2,ms=5`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Injection {
    /// What a worker computes between two clocks takes `factor` times as long, in each stage that has this worker.
    Slow {
        /// The worker's place in the stage.
        worker: u32,
        /// From 1 to 1000.
        factor: f64,
    },
    /// What a slave sends to another slave of the job (requests to shards, answers of its own, clocks) arrives so much
    /// later.
    Delay {
        /// The slave's name.
        slave: String,
        /// From 1 to 10000 milliseconds.
        ms: u64,
    },
}

impl Experiment {
    /// How many times as long a worker is to compute; none when it is not slowed. The last word about a worker counts.
    pub fn slows(&self, worker: usize) -> Option<f64> {
        let factor = |injection: &Injection| match injection {
            Injection::Slow { worker: slow, factor } if *slow as usize == worker => Some(*factor),
            _ => None,
        };
        self.inject.iter().rev().find_map(factor)
    }

    /// By how much the messages of a slave to other slaves are held back. The last word about a slave counts.
    pub fn delays(&self, name: &str) -> Option<Duration> {
        let delay = |injection: &Injection| match injection {
            Injection::Delay { slave, ms } if slave == name => Some(Duration::from_millis(*ms)),
            _ => None,
        };
        self.inject.iter().rev().find_map(delay)
    }

    /// Whether workers of one slave are to race in a stage of this model: under BSP nobody updates a value while others
    /// read it, so there is nothing to race for.
    pub fn races(&self, consistency: Consistency) -> bool {
        self.access == Some(Access::Racing) && consistency != Consistency::Bsp
    }

    /// The slaves that are to be delayed.
    pub fn delayed(&self) -> impl Iterator<Item = &str> {
        self.inject.iter().filter_map(|injection| match injection {
            Injection::Delay { slave, .. } => Some(slave.as_str()),
            Injection::Slow { .. } => None,
        })
    }

    /// The workers that are to be slowed.
    pub fn slowed(&self) -> impl Iterator<Item = u32> {
        self.inject.iter().filter_map(|injection| match injection {
            Injection::Slow { worker, .. } => Some(*worker),
            Injection::Delay { .. } => None,
        })
    }
}

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "'{text}' is no injection; give slow:worker=N,factor=F with F from 1 to {MOST_FACTOR}, \
                 or delay:slave=NAME,ms=N with N from 1 to {MOST_MS}"
            )
        })
    }
}

fn parse(text: &str) -> Option<Injection> {
    let (kind, rest) = text.split_once(':')?;
    let parts: Vec<_> = rest.split(',').map(|part| part.split_once('=')).collect::<Option<_>>()?;
    // Each once, in any order.
    let value = |key| parts.iter().find_map(|(name, value)| (*name == key).then_some(*value));
    if parts.len() != 2 {
        return None;
    }
    match kind {
        "slow" => {
            let factor = value("factor")?.parse().ok().filter(|factor| (1.0..=MOST_FACTOR).contains(factor))?;
            Some(Injection::Slow { worker: value("worker")?.parse().ok()?, factor })
        }
        "delay" => {
            let ms = value("ms")?.parse().ok().filter(|ms| (1..=MOST_MS).contains(ms))?;
            let slave = value("slave").filter(|slave| !slave.is_empty())?.to_owned();
            Some(Injection::Delay { slave, ms })
        }
        _ => None,
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Switch::Auto),
            "on" => Ok(Switch::On),
            "off" => Ok(Switch::Off),
            _ => Err(format!("'{text}' is none of auto, on and off")),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Switch::Auto => "auto",
            Switch::On => "on",
            Switch::Off => "off",
        })
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { worker, factor } => write!(f, "slow:worker={worker},factor={factor}"),
            Self::Delay { slave, ms } => write!(f, "delay:slave={slave},ms={ms}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_reads_as_it_is_written() {
        for text in ["auto", "on", "off"] {
            assert_eq!(text.parse::<Switch>().unwrap().to_string(), text);
        }
        assert_eq!("yes".parse::<Switch>().unwrap_err(), "'yes' is none of auto, on and off");
    }

    fn experiment(texts: &[&str]) -> Experiment {
        Experiment { inject: texts.iter().map(|text| text.parse().unwrap()).collect(), ..Experiment::default() }
    }

    #[test]
    fn an_injection_reads_as_it_is_written() {
        for text in ["slow:worker=3,factor=4", "slow:worker=0,factor=1.5", "delay:slave=node-2.example,ms=5"] {
            assert_eq!(text.parse::<Injection>().unwrap().to_string(), text);
        }
        assert_eq!("slow:factor=2,worker=1".parse(), Ok(Injection::Slow { worker: 1, factor: 2.0 }));
    }

    #[test]
    fn what_is_no_injection_is_refused_with_what_is_allowed() {
        let wrong = [
            "",
            "slow",
            "slow:",
            "slow:worker=3",
            "slow:worker=-1,factor=4",
            "slow:worker=3,factor=0.5",
            "slow:worker=3,factor=1001",
            "slow:worker=3,factor=NaN",
            "slow:worker=3,worker=4",
            "slow:worker=3,factor=4,factor=5",
            "slow:slave=s1,ms=4",
            "delay:slave=,ms=5",
            "delay:slave=s2,ms=0",
            "delay:slave=s2,ms=10001",
            "delay:slave=s2,ms=5ms",
            "stop:worker=3,factor=4",
        ];
        for text in wrong {
            let error = text.parse::<Injection>().unwrap_err();
            assert!(error.starts_with(&format!("'{text}'")), "{error}");
            assert!(error.contains("from 1 to 1000,") && error.contains("from 1 to 10000"), "{error}");
        }
    }

    #[test]
    fn the_last_word_about_a_worker_or_slave_counts() {
        let told = experiment(&["slow:worker=1,factor=2", "slow:worker=1,factor=3", "slow:worker=0,factor=4"]);
        assert_eq!([0, 1, 2].map(|worker| told.slows(worker)), [Some(4.0), Some(3.0), None]);
        let told = experiment(&["delay:slave=h1,ms=5", "delay:slave=h1,ms=6"]);
        assert_eq!(["h1", "h2"].map(|slave| told.delays(slave)), [Some(Duration::from_millis(6)), None]);
    }
}
