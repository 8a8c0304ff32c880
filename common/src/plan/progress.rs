//! What the master decides between stages, and what it may look at.

use super::{Table, TableOp};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::report::ProgressReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The function that decides, in the master, how a repeat goes on. Pure, of what is in [`Progress`], and quick: the master
/// serves nobody else while it decides.
pub type DecideFn = Arc<dyn Fn(&mut Progress) -> Result<Flow> + Send + Sync>;

/// How a repeat goes on after a decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Flow {
    /// With the next step.
    Next,
    /// With the round's first step; the round is not counted. An error outside of any repeat.
    Again,
    /// Behind the repeat, outside of any at the plan's end; the text says why, for the report.
    Stop(String),
}

impl Flow {
    /// An error unless it is the next step: what decisions among steps that are rebuilt must want.
    pub fn must_be_next(&self) -> Result<()> {
        match self {
            Flow::Next => Ok(()),
            other => Err(Error::bug(format!("a decision among steps that are rebuilt asked for {other:?}"))),
        }
    }
}

/// The name of a scalar that a job may have: while it is above zero, the tables that are saved hold no model of the job, so that
/// none can be read before its end.
pub const NO_MODEL: &str = "no_model";

/// The scalar that says that the job as a whole has no number of this name.
fn left_out(name: &str) -> String {
    format!("no_{name}")
}

/// What a decision sees and may change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The round of the innermost repeat, from 0.
    pub epoch: u64,
    /// Since the job started its first step.
    pub elapsed: Duration,
    /// Named numbers of the job: decisions and norms set them, workers read them.
    pub scalars: BTreeMap<String, f64>,
    /// The last run of each stage, by name.
    pub metrics: BTreeMap<String, Metrics>,
    /// Facts of each input that was read whole, by input.
    pub facts: Vec<Option<crate::data::Facts>>,
    /// Operations that the decision orders; they run before the flow goes on.
    pub ops: Vec<TableOp>,
    /// Objective of the round that just ended, for the report and the progress line.
    pub objective: Option<f64>,
    /// Further numbers of the round for the report, e.g. validation loss.
    pub epoch_metrics: BTreeMap<String, f64>,
    /// The loss of a streaming pass as rows came, for the report.
    pub progressive: Vec<ProgressReport>,
    /// Remarks for the report, e.g. what was chosen and why.
    pub notes: Vec<String>,
}

impl Progress {
    /// A scalar, or `default` when nobody set it.
    pub fn scalar(&self, name: &str, default: f64) -> f64 {
        self.scalars.get(name).copied().unwrap_or(default)
    }

    /// Sets a scalar.
    pub fn set(&mut self, name: &str, value: f64) {
        self.scalars.insert(name.to_owned(), value);
    }

    /// Says that the job as a whole has no number of this name, though its rounds had one each: the report tells it of them alone.
    pub fn leave_out(&mut self, name: &str) {
        self.scalars.remove(name);
        self.set(&left_out(name), 1.0);
    }

    /// Whether it was said so.
    pub fn leaves_out(&self, name: &str) -> bool {
        self.scalars.contains_key(&left_out(name))
    }

    /// A metric of the last run of `stage`; an error of ours when the stage did not report it.
    pub fn metric(&self, stage: &str, name: &str) -> Result<f64> {
        let found = self.metrics.get(stage).and_then(|m| m.value(name));
        found.ok_or_else(|| Error::bug(format!("stage {stage} reported no {name}")))
    }

    /// Orders a copy inside the servers.
    pub fn copy<T>(&mut self, from: Table<T>, to: Table<T>) {
        self.ops.push(TableOp::Copy { from: from.id, to: to.id });
    }
}
