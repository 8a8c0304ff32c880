//! The consistency models that a stage may run under.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which updates of others a worker must see, and how far it may run ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// Bulk synchronous: at clock c a worker sees exactly the updates of clocks below c.
    Bsp,
    /// Stale synchronous: at clock c it sees at least the updates of clocks below c - staleness.
    Ssp {
        /// Most clocks that a worker may be ahead of the slowest.
        staleness: u32,
    },
    /// Asynchronous: it never waits.
    Asp,
    /// Stale synchronous by key: workers announce the keys of their clocks, and at clock c a worker sees, of each of its
    /// own, at least the updates of clocks below c - staleness.
    SparseSsp {
        /// Most clocks that a worker may be ahead of the slowest, whatever the keys.
        staleness: u32,
        /// Most clocks further, as long as its keys don't meet those of the clocks that SSP would wait for.
        speculation: u32,
    },
}

impl Consistency {
    /// How many clocks ahead of its present one a worker is to announce keys; none where nobody asks for them.
    pub fn ahead(self) -> Option<u32> {
        match self {
            Self::SparseSsp { speculation, .. } => Some(speculation),
            _ => None,
        }
    }

    /// What this comes to for workers whose clocks all touch the same keys: no clock may be passed for its keys, so none
    /// need be announced.
    pub fn of_same_keys(self) -> Self {
        match self {
            Self::SparseSsp { staleness, .. } => Self::Ssp { staleness },
            other => other,
        }
    }
}

/// As on the command line.
impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bsp => f.write_str("bsp"),
            Self::Ssp { staleness } => write!(f, "ssp:{staleness}"),
            Self::Asp => f.write_str("asp"),
            Self::SparseSsp { staleness, speculation } => write!(f, "sparse-ssp:{staleness}:{speculation}"),
        }
    }
}
