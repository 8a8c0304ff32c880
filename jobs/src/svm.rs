//! `svm`: linear support vector machines by dual coordinate ascent.
//!
//! minimise P(w) = (1/n) sum f(y w.x) + lambda/2 |w|^2 with f the hinge or its square. Invariant: as [`crate::sdca`]'s.

use crate::flags::{self, Common};
use crate::sample;
use crate::sdca::{self, Sdca, loss::Kind};
use clap::{Args, ValueEnum};
use flexps_common::Result;
use flexps_common::job::{Job, Prepare};
use flexps_common::plan::Plan;
use serde::{Deserialize, Serialize};

/// The losses of a support vector machine, and least squares on the labels beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// max(0, 1 - m)^2 of the margin m
    #[default]
    SquaredHinge,
    /// max(0, 1 - m)
    Hinge,
    /// (1 - m)^2 / 2: a least-squares classifier
    Squared,
}

/// A linear support vector machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Svm {
    /// What it shares with other jobs.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,

    /// The loss of a row
    #[arg(long, value_enum, default_value_t)]
    pub loss: Loss,

    /// Those of the dual solver.
    #[command(flatten)]
    #[serde(flatten)]
    pub sdca: sdca::Flags,

    /// Worker threads [default: all slots]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    pub threads: Option<u32>,
}

impl Job for Svm {
    const NAME: &'static str = "svm";
    const ABOUT: &'static str = "Linear support vector machine by dual coordinate ascent";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let loss = match self.loss {
            Loss::SquaredHinge => Kind::SquaredHinge,
            Loss::Hinge => Kind::Hinge,
            Loss::Squared => Kind::Squared,
        };
        Sdca { common: &self.common, loss, threads: self.threads, flags: self.sdca }.plan(plan)
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        sample::prepare(&mut self.common, env)
    }
}
