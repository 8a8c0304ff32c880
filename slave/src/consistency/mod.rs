//! Who may go on, and who may see what: the rules of BSP, SSP and ASP.
//!
//! Control is local: a slave decides for its own workers from its own table of clocks, and slaves tell one another only
//! their least clock. Everything here is pure and synchronous; the stage runner adds locks and messages.
//!
//! Invariants: under BSP a worker at clock c sees all updates of clocks below c and no other; under SSP(s) no worker is
//! more than s clocks ahead of the slowest and each sees all updates of clocks below its own less s; under ASP none ever
//! waits; each update is applied once.

mod clocks;
mod pending;

pub use clocks::{Clocks, ENDED};
pub use pending::Pending;

#[cfg(test)]
mod tests;
