//! The slave of flexps: a process that lends worker threads, serves its share of the tables and keeps its share of the rows.
//!
//! Invariant: everything here belongs to one [`node`]; two nodes of one process share nothing but the network.

pub mod bulk;
mod checkpoint;
pub mod consistency;
mod draw;
pub mod job;
mod jobs;
pub mod kv;
mod memory;
mod moves;
pub mod node;
mod options;
mod orders;
mod process_memory;
pub mod reader;
mod reports;
mod runs;
mod scratch;
mod snapshots;
mod splits;
pub mod stage;
mod unnamed;

pub use node::{Handle, start};
pub use options::Options;

#[cfg(test)]
mod tests;
