//! A cluster in virtual time: discrete events, the policies of [`crate::scheduler`] and nothing else of the master. Pure:
//! a workload, a cluster, a policy and a seed in, a trace out.
//!
//! Invariants: the same four give the same trace; luck (jitter, stragglers, failures) hangs on the seed, the job, the stage
//! and the try alone, so every policy meets the same; memory grows with the number of stage runs.

mod bounds;
mod breakdowns;
mod cluster;
mod engine;
mod luck;
mod measures;
mod trace;
mod workload;

pub use bounds::{Bounds, bounds};
pub use breakdowns::Breakdowns;
pub use cluster::Cluster;
pub use engine::simulate;
pub use luck::Luck;
pub use measures::{Measures, measure};
pub use trace::{JobTrace, Run, SlaveTrace, Trace};
pub use workload::{JobSpec, Recorded, StageSpec, Threads, Timing, Workload, in_turn};

#[cfg(test)]
mod tests;
