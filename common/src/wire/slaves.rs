//! A slave as it registers, as others see it, and as clients do.
//!
//! Invariant: what is told of a slave when it registers holds as long as it lives.

use crate::ids::SlaveId;
use crate::machine;
use serde::{Deserialize, Serialize};

/// What a slave tells of itself when it registers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Unique among live slaves.
    pub name: String,
    /// The host whose HDFS blocks are local to it.
    pub host: String,
    /// Worker threads that it lends.
    pub slots: u32,
    /// Cores that its process may use.
    pub cores: u32,
    /// Whether they are its own; else other slaves of its machine use the same.
    pub own_cores: bool,
    /// Bytes of memory that stages may ask for; no limit when none is given.
    pub memory: Option<u64>,
    /// Where it takes control messages.
    pub control: String,
    /// Where it takes bulk values.
    pub bulk: String,
    /// Its process.
    pub pid: u32,
    /// Distinguishes a restarted process from a repeated message.
    pub incarnation: u64,
}

impl Registration {
    /// What it shares its cores on: slaves that give the same have one lot of cores.
    pub fn machine(&self) -> &str {
        if self.own_cores { &self.name } else { machine::of(&self.control) }
    }

    /// Whether both are of one process: no two that live listen at one address.
    pub fn same_process(&self, other: &Self) -> bool {
        (self.pid, &self.host, &self.control) == (other.pid, &other.host, &other.control)
    }
}

/// What a slave calls itself in what it tells a master: one that was started anew gives out the same identities, to jobs and
/// runs too, so what was meant for the one before must not reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Whose: a number that each master makes up at its start.
    pub master: u64,
    /// Its identity.
    pub id: SlaveId,
}

/// A slave as others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its identity.
    pub id: SlaveId,
    /// Its name (`--host`, unless `--name` is given).
    pub name: String,
    /// Where it takes what other slaves send: keys and values, clocks, chunks, requests for rows.
    pub bulk: String,
}

impl Peer {
    /// What errors call it, e.g. `slave s2 (h2)`.
    pub fn called(&self) -> String {
        called(self.id, &self.name)
    }
}

/// What errors call a slave, e.g. `slave s2 (h2)`.
pub fn called(id: SlaveId, name: &str) -> String {
    format!("slave {id} ({name})")
}

/// A slave in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlaveLine {
    /// Its identity.
    pub id: SlaveId,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Slots that it lends.
    pub slots: u32,
    /// Of which taken.
    pub busy: u32,
    /// Bytes of memory that stages may ask for; no limit when none is given.
    pub memory: Option<u64>,
    /// Bytes that those which run there asked for.
    pub memory_asked: u64,
    /// Seconds since it was last heard.
    pub silent: f64,
    /// Its process.
    pub pid: u32,
}
