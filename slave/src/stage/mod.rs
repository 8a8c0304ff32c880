//! Stages: worker threads, what they may call, and how a stage run ends.
//!
//! Invariant: a stage run ends exactly once on each slave, when all of its workers there have ended, whatever they did.

mod applying;
pub mod backend;
mod cache;
mod cached;
pub mod cut;
pub mod exchange;
pub mod filter;
mod filtered;
mod follow;
mod gate;
pub mod items;
pub mod launch;
pub mod link;
pub mod mark;
pub mod packed;
pub mod pool;
pub mod run;
#[cfg(test)]
mod schedules;
pub mod settled;
pub mod slices;
mod slow;
pub mod staging;
mod state;
#[cfg(test)]
mod summed;
mod sums;
mod sync;
pub mod telling;
mod traffic;
