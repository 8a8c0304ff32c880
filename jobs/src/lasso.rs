//! `lasso`: least squares on numbers, under an L1 penalty or some of L1 and L2.
//!
//! minimise P(w, b) = (1/n) sum (y - w.x - b)^2 / 2 + lambda (ratio |w|_1 + (1 - ratio)/2 |w|^2). Invariant: as
//! [`crate::primal`]'s.

use crate::flags::Common;
use crate::primal::{self, Primal};
use crate::sdca::loss::Kind;
use crate::told;
use crate::workers;
use clap::{Args, ValueEnum};
use flexps_common::Result;
use flexps_common::job::{Job, Prepare};
use flexps_common::plan::Plan;
use serde::{Deserialize, Serialize};

/// What is added to the mean loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// lambda |w|_1, which leaves most weights at zero
    #[default]
    L1,
    /// Some of both, by --l1-ratio
    ElasticNet,
    /// lambda/2 |w|^2: ridge regression
    L2,
}

/// Least squares with few weights.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Lasso {
    /// What it shares with other jobs.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,

    /// What is added to the mean loss
    #[arg(long, value_enum, default_value_t)]
    pub penalty: Penalty,

    /// Those of the solvers that work on weights.
    #[command(flatten)]
    #[serde(flatten)]
    pub primal: primal::flags::Flags,

    /// Worker threads [default: all slots, but no more than cores]
    #[arg(long, value_name = "N", value_parser = workers::threads)]
    pub threads: Option<u32>,
}

impl Job for Lasso {
    const NAME: &'static str = "lasso";
    const ABOUT: &'static str = "Least squares on numbers under an L1 penalty, by coordinate descent";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let penalty = match (self.penalty, self.primal.l1_ratio) {
            // A ratio says what is meant.
            (Penalty::ElasticNet, _) | (Penalty::L1, Some(_)) => primal::flags::Kind::ElasticNet,
            (Penalty::L1, None) => primal::flags::Kind::L1,
            (Penalty::L2, _) => primal::flags::Kind::L2,
        };
        let Self { common, primal: flags, threads, .. } = self;
        Primal { common, flags, penalty, loss: Kind::Squared, threads: *threads, numbers: true }.plan(plan)
    }

    fn tells(name: &str) -> bool {
        told::of_model(name)
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        crate::sample::prepare(&mut self.common, env)
    }
}
