//! The promises of flexps, kept by real processes, real sockets and real files. One binary, so one link.
//!
//! Invariant: every wait is bounded, every process that a test starts ends with it, and what fails prints its logs.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod addresses;
mod bad_input;
mod browser;
mod checkpoint;
mod cli;
mod cluster;
mod dataset;
mod degenerate;
mod embedded;
mod example;
mod hdfs;
mod hdfs_checkpoint;
mod hdfs_jobs;
mod hdfs_written;
mod history;
mod house;
mod http;
mod inject;
mod memory;
mod model;
mod penalties;
mod real_sets;
mod shared;
mod snapshot;
mod spamassassin;
mod stealing;
mod support;
mod threads;
mod together;
mod transfer;
mod workload;
