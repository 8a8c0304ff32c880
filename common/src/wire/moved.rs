//! Chunks of tables that move from slave to slave between stages.
//!
//! The sender first offers what it has, with versions; the receiver wants what it does not have in that version; these
//! chunks follow in messages of bounded size, each with a checksum over its body. A chunk that several want goes to one of
//! them, who passes it on while more come, so that a sender sends each of its chunks once. A chunk's part of the body is
//! `[keys: u32, sparse chunks only][padding to 8][values][padding to 8]`.

use crate::ids::{JobId, SlaveId, TableId};
use crate::value::Type;
use crate::wire::packing::Packing;
use serde::{Deserialize, Serialize};

/// A chunk of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId {
    /// The table.
    pub table: TableId,
    /// The chunk's number in it.
    pub chunk: u32,
}

/// A chunk that a slave has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Which.
    pub id: ChunkId,
    /// The phase in which it was last changed.
    pub version: u64,
}

/// A chunk in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// Which.
    pub id: ChunkId,
    /// As offered.
    pub version: u64,
    /// Its element type.
    pub element: Type,
    /// Number of keys of a sparse chunk; none for a dense one, which holds all.
    pub keys: Option<u32>,
}

/// What a move belongs to: a late or repeated message of another one is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MoveId {
    /// The job.
    pub job: JobId,
    /// The phase of the job that begins when the move is done: it counts stage runs and operations, so it names the epoch
    /// and the stage too.
    pub phase: u64,
}

/// Tables that live where they live, and of which some slaves get copies to read during a stage that does not update them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Copies {
    /// The tables.
    pub tables: Vec<TableId>,
    /// The shards that get them, rising.
    pub to: Vec<u32>,
}

impl Copies {
    /// Those of them that `shard` gets.
    pub fn at(&self, shard: u32) -> &[TableId] {
        if self.to.binary_search(&shard).is_ok() { &self.tables } else { &[] }
    }
}

/// What a slave says to one that is to serve its chunks, or to have copies of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToReceiver {
    /// The sender has these; answered by [`FromReceiver::Wanted`].
    Offer {
        /// Of which move.
        of: MoveId,
        /// The chunks.
        chunks: Vec<Offered>,
    },
    /// Some of those that were wanted; answered by [`FromReceiver::Staged`].
    Chunks {
        /// Of which move.
        of: MoveId,
        /// The chunks, in the body's order.
        chunks: Vec<ChunkHead>,
        /// How the body goes, as values of the first chunk's type: without loss.
        packing: Packing,
        /// Its bytes when it is raw.
        bytes: u32,
        /// XXH3 of the body as it goes.
        checksum: u64,
        /// Shards that the receiver sends them on to; its answer then says that they have them too.
        forward: Vec<u32>,
    },
}

impl ToReceiver {
    /// The move that it belongs to.
    pub fn of(&self) -> MoveId {
        match self {
            ToReceiver::Offer { of, .. } | ToReceiver::Chunks { of, .. } => *of,
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReceiver {
    /// The places of the offered chunks that it does not have in that version.
    Wanted(Vec<u32>),
    /// The chunks are there, to be taken over when the phase begins.
    Staged,
}

/// What one slave sent to another in a move.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// The receiver.
    pub to: SlaveId,
    /// Chunks that went.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that it had already.
    pub kept: u64,
    /// Bytes that the receiver sent on.
    pub forwarded: u64,
    /// What both would have been raw.
    pub raw: u64,
    /// Whether these are copies, the sender still serving the chunks.
    pub copies: bool,
}
