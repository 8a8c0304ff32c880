//! A job's tables on their way to a checkpoint and back, chunk by chunk, while no stage runs.
//!
//! A chunk's body is that of a move, see [`crate::wire::moved`].

use crate::ids::{JobId, TableId};
use crate::wire::moved::{ChunkHead, Offered};
use serde::{Deserialize, Serialize};

/// Chunks that an answer lists at most.
pub const LISTED: usize = 1 << 16;

/// What the master says to a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKept {
    /// Which chunks of a table does it serve? Answered by [`FromKept::Served`].
    Serves {
        /// The job.
        job: JobId,
        /// The table.
        table: TableId,
        /// From this number on.
        from: u32,
    },
    /// One of them is wanted; answered by [`FromKept::Chunk`] with a body.
    Give {
        /// The job.
        job: JobId,
        /// Which.
        chunk: Offered,
    },
    /// The body holds the values of a chunk that it serves; answered by [`FromKept::Taken`].
    Take {
        /// The job.
        job: JobId,
        /// Which, and how it lies in the body; its version is that of the phase that begins.
        chunk: ChunkHead,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKept {
    /// Those that were written, rising: at most [`LISTED`].
    Served(Vec<Offered>),
    /// The body holds it.
    Chunk(ChunkHead),
    /// It is there.
    Taken,
}
