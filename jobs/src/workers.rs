//! A stage's threads as they are written on the command line and in parameters: a number, a range or a word.
//!
//! Invariant: what is written is read back the same, and asks for at least one thread.

use flexps_common::plan::Threads;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const TOO_FEW: &str = "a stage needs at least 1 thread";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Workers {
    /// So many.
    Count(u32),
    /// As the engine finds best.
    Found(Found),
    /// As many as are free, within limits.
    Range(Range),
}

/// How the engine finds a stage's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// By a few tries and a fit.
    Auto,
    /// By an exhaustive search.
    Offline,
}

/// `LEAST..MOST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    least: u32,
    most: u32,
}

impl Workers {
    /// As a plan says it.
    pub fn threads(self) -> Threads {
        match self {
            Workers::Count(n) => Threads::Count(n),
            Workers::Found(Found::Auto) => Threads::Auto,
            Workers::Found(Found::Offline) => Threads::Offline,
            Workers::Range(Range { least, most }) => Threads::Range(least, most),
        }
    }

    /// The number, if one is given.
    pub fn count(self) -> Option<u32> {
        if let Workers::Count(n) = self { Some(n) } else { None }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Workers::Found(Found::Auto)),
            "offline" => Ok(Workers::Found(Found::Offline)),
            _ if text.contains("..") => text.parse().map(Workers::Range),
            _ if text.parse::<u32>().is_ok() => threads(text).map(Workers::Count),
            _ => {
                Err(format!("'{text}' is no number of threads; give 1 or more, a range such as 4..8, auto or offline"))
            }
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mistake = || format!("'{text}' is no range of threads; give one such as 4..8");
        let (least, most) = text.split_once("..").ok_or_else(mistake)?;
        let (least, most) = (least.parse().map_err(|_| mistake())?, most.parse().map_err(|_| mistake())?);
        match (least, most) {
            (0, _) => Err(TOO_FEW.to_owned()),
            _ if least > most => Err(format!("{least} is more than {most}; give the lesser first, as in 4..8")),
            _ => Ok(Self { least, most }),
        }
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.least, self.most)
    }
}

/// A number of threads: at least one.
pub fn threads(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(0) => Err(TOO_FEW.to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err(format!("'{text}' is no number of threads; give 1 or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::flags::{Common, TOLERANCE};
    use crate::lr::{self, Lr};
    use crate::svm::Svm;
    use crate::svrg::Svrg;
    use flexps_common::job::DynJob;

    #[test]
    fn a_job_that_is_given_threads_wants_no_more_for_any_of_its_stages() {
        let (model, rows) = (Some(fixtures::path("model")), vec![fixtures::path("held-out")]);
        let common = Common { init_model: model, validation: rows, tolerance: 1e-3, ..fixtures::flags() };
        let threads = Some(Workers::Count(2));
        let mut jobs: Vec<Box<dyn DynJob>> = Vec::new();
        let solvers = [lr::Solver::Auto, lr::Solver::Sdca, lr::Solver::Sgd, lr::Solver::Newton, lr::Solver::Ftrl];
        for solver in solvers {
            let common = match solver {
                lr::Solver::Ftrl => Common { init_model: None, epochs: 1, tolerance: TOLERANCE, ..common.clone() },
                _ => common.clone(),
            };
            jobs.push(Box::new(Lr { common, threads, solver, ..Lr::default() }));
        }
        jobs.push(Box::new(Svm { common: common.clone(), threads: Some(2), ..Svm::default() }));
        jobs.push(Box::new(Svrg { common, wide: threads, narrow: threads, ..Svrg::default() }));
        for job in jobs {
            let plan = job.plan().unwrap();
            for stage in plan.stages() {
                let fits = matches!(stage.threads, Threads::Count(1 | 2) | Threads::PerSlave(1));
                assert!(fits, "{}: {} wants {:?}", job.name(), stage.name, stage.threads);
            }
        }
    }

    #[test]
    fn threads_are_a_number_a_range_or_left_to_the_engine_also_in_parameters() {
        let range = Threads::Range(4, 8);
        for (text, json, means) in [
            ("3", "3", Threads::Count(3)),
            ("auto", "\"auto\"", Threads::Auto),
            ("offline", "\"offline\"", Threads::Offline),
            ("4..8", "\"4..8\"", range),
        ] {
            let given: Workers = text.parse().unwrap();
            assert_eq!(given.threads(), means);
            assert_eq!(serde_json::to_string(&given).unwrap(), json);
            assert_eq!(serde_json::from_str::<Workers>(json).unwrap(), given);
        }
    }

    #[test]
    fn zero_threads_and_ranges_the_wrong_way_round_are_refused_in_words() {
        assert_eq!(threads("0"), Err("a stage needs at least 1 thread".to_owned()));
        assert_eq!(threads("3"), Ok(3));
        assert!(threads("many").is_err());
        for text in ["0", "0..4"] {
            assert_eq!(text.parse::<Workers>(), Err("a stage needs at least 1 thread".to_owned()));
        }
        for (text, says) in [
            ("many", "4..8, auto or offline"),
            ("8..4", "8 is more than 4"),
            ("4..", "such as 4..8"),
            ("1..x", "'1..x' is no range"),
        ] {
            let error = text.parse::<Workers>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(serde_json::from_str::<Workers>("\"8..4\"").is_err());
    }
}
