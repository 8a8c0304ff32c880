//! What a user says about when a job is to run, and what it keeps to go on from.
//!
//! Invariant: nothing here changes what a job computes.

use crate::checkpoint::Checkpoint;
use crate::ids::JobId;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Higher goes first, under policies that look at it.
    pub priority: i32,
    /// Who submitted it.
    pub user: String,
    /// Whose share it counts against; the user's own when none is given.
    pub queue: Option<String>,
    /// It starts when these are done, and fails when one of them fails.
    pub after: Vec<JobId>,
    /// Seconds after its submission by which it should be done. Reported, not enforced.
    pub deadline: Option<f64>,
    /// Bytes of memory that each of its stages needs on each slave where it has threads, whatever its plan says.
    pub memory: Option<u64>,
    /// How often it starts over when a slave goes after its rows are read; histories of older builds don't say.
    #[serde(default)]
    pub restarts: u32,
    /// The most slaves that it may use, however many its stages could.
    #[serde(default)]
    pub slaves: Option<u32>,
    /// Where it keeps what to go on from.
    #[serde(default)]
    pub checkpoint: Option<Checkpoint>,
}

impl Scheduling {
    /// The name of the share that it counts against.
    pub fn share(&self) -> &str {
        self.queue.as_deref().unwrap_or(&self.user)
    }
}
