//! Chunks of tables that move from slave to slave between stages.
//!
//! The sender first offers what it has, with versions; the receiver wants what it does not have in that version; these
//! chunks follow in messages of bounded size, each with a checksum over its body. A chunk that several want goes to one of
//! them, who passes it on while more come, so that a sender sends each of its chunks once. A chunk's part of the body is
//! `[keys: u32, sparse chunks only][padding to 8][values][padding to 8]`. Dense chunks that lie in memory go without a body to
//! a receiver that can read the sender's memory: the message says where, with a checksum of each chunk's values.

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

/// By what a slave's memory is known to processes that can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The number of its process, as it sees itself.
    pub process: u32,
    /// Where the block with the secret stands in its memory.
    pub address: u64,
    /// The secret: others do not know it.
    pub secret: [u64; 2],
}

/// A dense chunk in its sender's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lying {
    /// Which.
    pub id: ChunkId,
    /// As offered.
    pub version: u64,
    /// Its element type.
    pub element: Type,
    /// Where its values start; they take as many bytes as at the receiver.
    pub address: u64,
    /// XXH3 of them.
    pub checksum: u64,
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
        /// By what the receiver may find out whether it can read them in the sender's memory; none where it is not to.
        proof: Option<Proof>,
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
    /// Some that the receiver reads in the sender's memory, since it can; answered by [`FromReceiver::Staged`]. They stay
    /// there unchanged until then.
    InMemory {
        /// Of which move.
        of: MoveId,
        /// The chunks.
        chunks: Vec<Lying>,
        /// Whose memory it is.
        proof: Proof,
    },
}

impl ToReceiver {
    /// The move that it belongs to.
    pub fn of(&self) -> MoveId {
        match self {
            ToReceiver::Offer { of, .. } | ToReceiver::Chunks { of, .. } | ToReceiver::InMemory { of, .. } => *of,
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReceiver {
    /// What it wants of the offered chunks.
    Wanted {
        /// The places of those that it does not have in that version.
        places: Vec<u32>,
        /// Whether it can read the sender's memory.
        reads: bool,
    },
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
    /// Of `raw`, what the receiver read in the sender's memory.
    pub memory: u64,
    /// Seconds that messages to the receiver take for a byte, where that was asked for and is known.
    pub pace: Option<f64>,
    /// Whether these are copies, the sender still serving the chunks.
    pub copies: bool,
}
