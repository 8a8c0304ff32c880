//! A job's tables and columns on their way to a checkpoint and back, chunk by chunk, block by block, while no stage runs.
//!
//! A chunk's body is that of a move, see [`crate::wire::moved`]; a column's is its values, padded to 8 bytes.

use crate::ids::{InputId, JobId, TableId};
use crate::value::Type;
use crate::wire::moved::{ChunkHead, Offered};
use serde::{Deserialize, Serialize};

/// Chunks that an answer lists at most.
pub const LISTED: usize = 1 << 16;

/// Rows of a block that a slave has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRows {
    /// The input.
    pub input: InputId,
    /// The block's number on the slave.
    pub block: u32,
    /// The first of them.
    pub from: u32,
    /// How many.
    pub count: u32,
    /// How many the block has.
    pub of: u32,
}

/// How a column's values lie in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnValues {
    /// Their type.
    pub element: Type,
    /// How many of each row.
    pub width: u32,
}

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
    /// What rows have in a column is wanted; answered by [`FromKept::Column`].
    GiveColumn {
        /// The job.
        job: JobId,
        /// The column's name.
        column: String,
        /// Which rows.
        rows: BlockRows,
    },
    /// The body holds what rows have in a column; answered by [`FromKept::Taken`]. What the block's other rows have is zero
    /// until it comes.
    TakeColumn {
        /// The job.
        job: JobId,
        /// The column's name.
        column: String,
        /// Which rows.
        rows: BlockRows,
        /// How it lies in the body.
        values: ColumnValues,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKept {
    /// Those that were written, rising: at most [`LISTED`].
    Served(Vec<Offered>),
    /// The body holds it.
    Chunk(ChunkHead),
    /// The body holds the values; none where the block has no such column.
    Column(Option<ColumnValues>),
    /// It is there.
    Taken,
}
