//! A plan's new beginning: what a slave that went while it read left to the others.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// The slave's name.
    pub slave: String,
    /// How one knew that it was gone.
    pub why: String,
    /// When, in seconds since the job's submission.
    pub seconds: f64,
    /// Splits that it had read or was to read next.
    pub splits: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
}
