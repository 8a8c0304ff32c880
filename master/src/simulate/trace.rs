//! What happened: of a simulation, a replay or a live run. Tables and pictures are made of traces alone.
//!
//! Invariant: times count from the trace's begin; a run lies between its job's arrival and end.

use crate::scheduler::Why;
use serde::Serialize;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// The slaves.
    pub slaves: Vec<SlaveTrace>,
    /// The jobs, in order of submission.
    pub jobs: Vec<JobTrace>,
    /// The stage runs, in order of their start.
    pub runs: Vec<Run>,
    /// How often a slave broke down.
    pub breakdowns: usize,
}

/// A slave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlaveTrace {
    /// Its name.
    pub name: String,
    /// Its slots.
    pub slots: u32,
}

/// A job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobTrace {
    /// Its name.
    pub name: String,
    /// Whose share it counted against.
    pub owner: String,
    /// Its priority.
    pub priority: i32,
    /// When it was submitted.
    pub arrival: Duration,
    /// When it ended; None when it did not.
    pub end: Option<Duration>,
    /// When it should have been done, after its arrival.
    pub deadline: Option<Duration>,
    /// Whether it ended by an error.
    pub failed: bool,
}

/// A stage run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its job's place in [`Trace::jobs`].
    pub job: usize,
    /// The stage's name.
    pub stage: String,
    /// The round, from 1.
    pub round: u32,
    /// When it could have started.
    pub ready: Duration,
    /// When it started.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// (place in [`Trace::slaves`], threads).
    pub workers: Vec<(u32, u32)>,
    /// Why it went there, where that is known.
    pub why: Option<Why>,
    /// Whether it failed and had to run again.
    pub failed: bool,
}

impl Run {
    /// Its threads.
    pub fn threads(&self) -> u32 {
        self.workers.iter().map(|(_, n)| n).sum()
    }
}
