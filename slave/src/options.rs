//! What a slave is started with: what it is called, what it lends, where it talks.
//!
//! Invariant: nothing here changes as long as the slave lives.

use flexps_common::storage::Storage;
use flexps_common::tail::Tail;
use std::path::PathBuf;

/// What a slave is started with.
#[derive(Clone)]
pub struct Options {
    /// Its name; unique among live slaves.
    pub name: String,
    /// The host whose HDFS blocks are local to it.
    pub host: String,
    /// Worker threads that it lends.
    pub slots: u32,
    /// Cores that are its own; where none are given, those that its process may use, with all slaves of the machine.
    pub cores: Option<u32>,
    /// Bytes of memory that stages may ask for; no limit when none is given.
    pub memory: Option<u64>,
    /// Bytes of rows that it keeps in memory, over all jobs; the rest goes to `spill_dir`.
    pub cache_memory: u64,
    /// Bytes of tables that it keeps in memory, over all jobs; the rest goes to `spill_dir`. No limit when none is given.
    pub model_memory: Option<u64>,
    /// Where rows and parts of tables go that memory does not hold.
    pub spill_dir: PathBuf,
    /// Where the master listens.
    pub master: String,
    /// Where to listen for control messages.
    pub control: String,
    /// Where to listen for bulk values.
    pub bulk: String,
    /// The way to the inputs' files.
    pub storage: Storage,
    /// The end of its log, where it has one of its own.
    pub log: Tail,
}
