//! Who may go on, and who may see what: the rules of BSP, SSP, ASP and SparseSSP.
//!
//! Control is local: a slave decides for its own workers from its own table of clocks, and slaves tell one another only
//! their least clock, with the number of updates until then, and under SparseSSP the keys of the clocks behind it.
//! Everything here is pure and synchronous; the stage runner adds locks and messages.
//!
//! Invariants: under BSP a worker at clock c sees all updates of clocks below c and no other; under SSP(s) no worker is
//! more than s clocks ahead of the slowest and each sees all updates of clocks below its own less s; under ASP none ever
//! waits; each update is applied once. Under SparseSSP(s, speculation) no worker is more than s + speculation ahead, so
//! each sees all updates of clocks below its own less both; and of the keys that it announced it sees, as under SSP(s),
//! all updates of clocks below its own less s: the unfinished ones among these touch none of its keys, or it waits for
//! them, and a shard answers the worker's reads when it has all updates of the finished ones. What one worker of a slave has
//! read may serve others, as long as they see what they must.

mod announced;
mod arrivals;
mod clocks;
mod pending;
mod reuse;

pub use announced::Party;
pub use arrivals::{Arrivals, is_told};
pub use clocks::{Clocks, ENDED, News};
pub use pending::Pending;
pub use reuse::Reuse;

#[cfg(test)]
mod sparse;
#[cfg(test)]
mod tests;
