//! The flags of the solvers that work on weights: penalties, paths, classes and folds.

use crate::flags::{Common, Model, share};
use clap::Args;
use flexps_common::data::Labels;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What is added to the mean loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// lambda/2 |w|^2
    #[default]
    L2,
    /// lambda |w|_1, which leaves most weights at zero
    L1,
    /// Some of both, by --l1-ratio
    ElasticNet,
}

/// Weights by class as they are written on the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClassWeights {
    /// So that all classes weigh the same together: n / (classes n_c).
    Balanced,
    /// By label; 1 for the others.
    Given(Vec<(f32, f64)>),
}

impl FromStr for ClassWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "balanced" {
            return Ok(Self::Balanced);
        }
        let one = |pair: &str| {
            let (label, weight) = pair.split_once('=')?;
            let (label, weight) = (label.trim().parse::<f32>().ok()?, weight.trim().parse::<f64>().ok()?);
            (label.is_finite() && weight.is_finite() && weight > 0.0).then_some((label, weight))
        };
        let all: Option<Vec<(f32, f64)>> = text.split(',').map(one).collect();
        let all = all.ok_or_else(|| {
            Error::user(format!(
                "'{text}' are no class weights; give balanced, or LABEL=WEIGHT above 0, e.g. -1=1,1=20"
            ))
        })?;
        for (at, (label, _)) in all.iter().enumerate() {
            if all[..at].iter().any(|(other, _)| other == label) {
                return Err(Error::user(format!("'{text}' has two weights for the class {label}; leave one out")));
            }
        }
        Ok(Self::Given(all))
    }
}

impl TryFrom<String> for ClassWeights {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ClassWeights> for String {
    fn from(weights: ClassWeights) -> Self {
        weights.to_string()
    }
}

impl std::fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Given(all) => {
                let all: Vec<_> = all.iter().map(|(label, weight)| format!("{label}={weight}")).collect();
                f.write_str(&all.join(","))
            }
        }
    }
}

impl ClassWeights {
    /// The weight of each class, of which there are `rows` rows each.
    pub fn of(&self, labels: &Labels, rows: &[f64]) -> Result<Vec<f64>> {
        let all = labels.all();
        match self {
            Self::Balanced => {
                let total: f64 = rows.iter().sum();
                Ok(rows.iter().map(|rows| total / (all.len() as f64 * rows.max(1.0))).collect())
            }
            Self::Given(given) => {
                if let Some((other, _)) = given.iter().find(|(label, _)| !all.contains(label)) {
                    return Err(Error::user(format!("--class-weight names the label {other}; the rows have {labels}")));
                }
                let weight = |label| given.iter().find(|(of, _)| of == label).map_or(1.0, |(_, weight)| *weight);
                Ok(all.iter().map(weight).collect())
            }
        }
    }
}

/// The flags that every job with these solvers has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
// A job has both, and the groups that clap makes go by the name of the struct.
#[group(skip)]
pub struct Flags {
    /// Train for so many lambdas, from the largest that leaves a weight down to --lambda, each from the one before; the
    /// last is kept, or the best by --cv or --validation
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub path: Option<u32>,

    /// Part of the penalty that is L1, above 0 to 1 [default: 0.5 for elastic-net]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub l1_ratio: Option<f64>,

    /// Judge by cross-validation: train so many times without one part of the rows and judge by that part, then train
    /// on all
    #[arg(long, value_name = "FOLDS", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub cv: Option<u32>,

    /// What rows of a class count: balanced, or LABEL=WEIGHT,… [default: 1]
    #[arg(long, value_name = "WEIGHTS", allow_hyphen_values = true)]
    pub class_weight: Option<ClassWeights>,
}

impl Flags {
    /// The part of the penalty that is L1.
    pub fn ratio(&self, penalty: Kind) -> Result<f64> {
        match (penalty, self.l1_ratio) {
            (Kind::L2, None) => Ok(0.0),
            (Kind::L1, None) => Ok(1.0),
            (Kind::ElasticNet, ratio) => Ok(ratio.unwrap_or(0.5)),
            (Kind::L2, Some(_)) => Err(Error::user("--l1-ratio goes with --penalty elastic-net")),
            (Kind::L1, Some(_)) => {
                Err(Error::user("--l1-ratio goes with --penalty elastic-net, not with l1, which is 1"))
            }
        }
    }
}

/// What the shared flags ask for that these solvers can't do.
pub fn refused(flags: &Common) -> Option<&'static str> {
    if flags.consistency != Model::Bsp {
        return Some(
            "this solver's workers join in step: --consistency must be bsp; only lr --solver sgd and svrg take others",
        );
    }
    if flags.patience.is_some() {
        return Some("this solver judges by validation rows at the end alone: leave --patience out");
    }
    None
}
