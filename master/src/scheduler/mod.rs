//! Which stage starts where. A policy is a pure function of a [`View`] to a [`Decision`]: no I/O, no clock of its own, so
//! the same code runs in the live master, in a replay of a recorded history and in a simulation.
//!
//! Invariants, of every policy: a placement gives a stage all its threads or none, and no slave more threads than it has
//! free slots; slots that are held for one stage go to no other; the same view gives the same decision.

mod backfill;
mod board;
mod estimates;
mod fair;
mod fit;
mod free;
mod greedy;
mod order;
mod prioritized;
mod reserve;
mod sequential;
mod view;

pub use backfill::Backfill;
pub use board::{Board, note_overtaken};
pub use estimates::Estimates;
pub use fair::Fair;
pub use free::Free;
pub use greedy::Greedy;
pub use order::Patience;
pub use prioritized::Prioritized;
pub use sequential::Sequential;
pub use view::{Decision, Near, NearList, Placement, Ready, Reservation, Running, Runs, Share, Slots, View, Want, Why};

use flexps_common::{Error, Result};

/// Decides which stages start where.
pub trait Policy: Send + Sync {
    /// Its name, as in `--policy`.
    fn name(&self) -> &'static str;
    /// The stages to start now, and what is held for others.
    fn decide(&self, view: &View<'_>) -> Decision;
}

/// The names of all policies.
pub const POLICIES: [&str; 5] = ["sequential", "greedy", "prioritized", "backfill", "fair"];

/// The policy called `name`.
pub fn policy(name: &str) -> Result<Box<dyn Policy>> {
    match name {
        "sequential" => Ok(Box::new(Sequential)),
        "greedy" => Ok(Box::new(Greedy)),
        "prioritized" => Ok(Box::new(Prioritized::default())),
        "backfill" => Ok(Box::new(Backfill::default())),
        "fair" => Ok(Box::new(Fair::default())),
        _ => Err(Error::user(format!("no policy is called '{name}'; there are {}", POLICIES.join(", ")))),
    }
}

#[cfg(test)]
mod tests;
