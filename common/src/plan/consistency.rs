//! The consistency models that a stage may run under.

use serde::{Deserialize, Serialize};

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
}
