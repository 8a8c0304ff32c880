//! The flexps master: it takes jobs, hands out files, places stages and drives each job through its plan.

mod api;
pub mod assigner;
mod checkpoint;
mod event;
pub mod history;
pub mod http;
pub mod job;
mod master;
mod misplaced;
pub mod node;
pub mod prepare;
pub mod scheduler;
pub mod simulate;
mod size;
mod slaves;
mod transfer;
pub mod tune;

pub use master::overview::Overview;
pub use node::{Handle, Options, start};

#[cfg(test)]
mod tests;
