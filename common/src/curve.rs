//! How long a stage takes by its number of threads, and what is wanted of that.
//!
//! Invariant: a curve's times are finite and not negative wherever its three numbers are.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `T(p) = work/p + cost p + fixed`, in seconds on p threads: work that is divided, what each further thread costs
/// (communication, locks), and what no thread makes shorter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Thread-seconds.
    pub work: f64,
    /// Seconds per thread.
    pub cost: f64,
    /// Seconds.
    pub fixed: f64,
}

impl Curve {
    /// Seconds on `threads`, at least one.
    pub fn seconds(&self, threads: u32) -> f64 {
        let p = f64::from(threads.max(1));
        self.work / p + self.cost * p + self.fixed
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, cost, fixed } = self;
        write!(f, "{work:.4}/p + {cost:.4} p + {fixed:.4} s")
    }
}

/// What the number of a stage's threads is to make least. As text `elapsed`, `worker-time` or the weight of worker time
/// beside elapsed time, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub enum Optimize {
    /// T(p).
    #[default]
    Elapsed,
    /// p T(p): what the stage takes of the cluster.
    WorkerTime,
    /// (1 - w) T(p) + w p T(p).
    Weight(f64),
}

impl Optimize {
    /// What `seconds` on `threads` come to: the less the better.
    pub fn price(self, threads: u32, seconds: f64) -> f64 {
        let weight = match self {
            Self::Elapsed => 0.0,
            Self::WorkerTime => 1.0,
            Self::Weight(weight) => weight,
        };
        seconds * (1.0 - weight + weight * f64::from(threads))
    }
}

impl FromStr for Optimize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "elapsed" => Ok(Self::Elapsed),
            "worker-time" => Ok(Self::WorkerTime),
            _ => text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).map(Self::Weight).ok_or_else(|| {
                format!(
                    "'{text}' is nothing to optimize; give elapsed, worker-time or a weight of the latter from 0 to 1"
                )
            }),
        }
    }
}

impl fmt::Display for Optimize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed => f.write_str("elapsed"),
            Self::WorkerTime => f.write_str("worker-time"),
            Self::Weight(weight) => write!(f, "{weight}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_lies_between_elapsed_and_worker_time() {
        for text in ["elapsed", "worker-time", "0.25"] {
            assert_eq!(text.parse::<Optimize>().unwrap().to_string(), text);
        }
        let price = |text: &str| text.parse::<Optimize>().unwrap().price(4, 3.0);
        assert_eq!([price("elapsed"), price("0.5"), price("worker-time")], [3.0, 7.5, 12.0]);
        for text in ["", "time", "-0.1", "1.1", "NaN"] {
            assert!(text.parse::<Optimize>().unwrap_err().contains("from 0 to 1"), "{text}");
        }
    }

    #[test]
    fn a_curve_divides_its_work_and_pays_for_each_thread() {
        let curve = Curve { work: 12.0, cost: 0.5, fixed: 1.0 };
        assert_eq!([curve.seconds(0), curve.seconds(1), curve.seconds(4)], [13.5, 13.5, 6.0]);
    }
}
