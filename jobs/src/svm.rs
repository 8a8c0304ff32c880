//! `svm`: linear support vector machines by dual coordinate ascent, or on the weights themselves.
//!
//! minimise P(w) = (1/n) sum f(y w.x) + lambda/2 |w|^2 with f the hinge or its square. Invariant: as [`crate::sdca`]'s.

use crate::auto::Auto;
use crate::flags::Common;
use crate::primal::{self, Primal};
use crate::sample;
use crate::sdca::{self, Sdca, loss::Kind};
use crate::told;
use crate::workers;
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

/// The way to the optimum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// sdca or newton, by the rows, unless a flag asks for what only one of them has; the report says which and why
    #[default]
    Auto,
    /// Dual coordinate ascent, to a certified duality gap
    Sdca,
    /// Newton's method; under an L1 penalty by coordinate descent
    Newton,
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

    /// The way to the optimum
    #[arg(long, value_enum, default_value_t)]
    pub solver: Solver,

    /// What is added to the mean loss
    #[arg(long, value_enum, default_value_t)]
    pub penalty: primal::flags::Kind,

    /// Those of the solvers that work on weights.
    #[command(flatten)]
    #[serde(flatten)]
    pub primal: primal::flags::Flags,

    /// Those of the dual solver.
    #[command(flatten)]
    #[serde(flatten)]
    pub sdca: sdca::Flags,

    /// Worker threads [default: all slots, but no more than cores]
    #[arg(long, value_name = "N", value_parser = workers::threads)]
    pub threads: Option<u32>,
}

impl Job for Svm {
    const NAME: &'static str = "svm";
    const ABOUT: &'static str = "Linear support vector machine: dual coordinate ascent, or Newton's method";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let loss = match self.loss {
            Loss::SquaredHinge => Kind::SquaredHinge,
            Loss::Hinge => Kind::Hinge,
            Loss::Squared => Kind::Squared,
        };
        let Self { common, threads, penalty, primal: flags, .. } = self;
        let primal = Primal { common, flags, penalty: *penalty, loss, threads: *threads, numbers: false };
        let class_weight = flags.class_weight.as_ref();
        let sdca = Sdca { common, loss, threads: *threads, class_weight, cv: flags.cv, flags: self.sdca };
        let primal_asked = primal.asked().is_some() || Sdca::refused(common).is_some();
        let dual_flags = self.sdca != sdca::Flags::default();
        let dual_asked = dual_flags || primal::flags::refused(common).is_some();
        let solver = match self.solver {
            Solver::Auto if primal_asked => Solver::Newton,
            Solver::Auto if dual_asked => Solver::Sdca,
            given => given,
        };
        match solver {
            Solver::Newton => {
                self.sdca.refuse()?;
                primal.plan(plan)
            }
            Solver::Auto => Auto { sdca, primal }.plan(plan),
            Solver::Sdca => {
                primal.refuse_for_sdca()?;
                sdca.plan(plan)
            }
        }
    }

    fn tells(name: &str) -> bool {
        told::of_model(name)
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        sample::prepare(&mut self.common, env)
    }
}
