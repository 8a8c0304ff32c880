//! What a job keeps to go on from, at another time or on other slaves: that a user asks for it, and what came of it.

use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most seconds between two checkpoints: a hundred years. Clocks can be told so much later.
const MOST: f64 = 3_153_600_000.0;

/// Where a job keeps it, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// A folder on a disk of the master's machine, or in HDFS, which is there while the job is under way.
    pub folder: DataPath,
    /// Seconds between two of them; they are written at the ends of a resumable repeat's rounds.
    #[serde(default = "Checkpoint::usually")]
    pub every: f64,
}

impl Checkpoint {
    /// Seconds between two unless the user says otherwise.
    pub fn usually() -> f64 {
        60.0
    }

    /// These seconds between two, if that can be.
    pub fn spaced(every: f64) -> Result<f64> {
        if (0.0..=MOST).contains(&every) {
            return Ok(every);
        }
        Err(Error::user(format!("a checkpoint every {every:?} s; give seconds of 0 to {MOST}")))
    }
}

/// What a job kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The folder.
    pub folder: String,
    /// Behind what it went on from what an earlier start had left, if it did: `epoch 3`, or `round 2 of epoch 4`.
    pub resumed: Option<String>,
    /// How many checkpoints it has written.
    pub written: u64,
    /// Behind what the last one was written.
    pub behind: String,
    /// Its size.
    pub bytes: u64,
    /// Seconds in which it wrote them all, while no stage ran.
    pub seconds: f64,
    /// How many could not be written.
    pub failed: u64,
    /// Why the last one of these was not.
    pub error: Option<String>,
}
