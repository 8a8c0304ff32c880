//! Bulk messages between workers and shards.
//!
//! The header is a control message; keys and values are the body, laid out per section as
//! `[keys: delta-coded][padding to 8][values: raw little-endian, or packed][padding to 8]` (see [`crate::wire::body`],
//! [`crate::wire::keys`] and [`crate::wire::packing`]). A receiver remembers key lists by hash (see [`crate::wire::lists`]), so that the same list is
//! sent once.

use crate::ids::{InputId, JobId, SlaveId, StageRun, TableId};
use crate::value::Type;
use crate::wire::announced::Announced;
use crate::wire::checkpoint::{FromKept, ToKept};
use crate::wire::moved::{FromReceiver, ToReceiver};
use crate::wire::packing::{Pack, Packing};
use serde::{Deserialize, Serialize};

/// How a section names its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyList {
    /// Delta-coded in the body, `bytes` long, `count` keys; the receiver may remember it under `hash`.
    Inline {
        /// Digest of the key list.
        hash: u64,
        /// Number of keys.
        count: u32,
        /// Bytes in the body.
        bytes: u32,
    },
    /// Sent before.
    Known {
        /// Its digest.
        hash: u64,
        /// Number of keys.
        count: u32,
    },
    /// `start..start + count`.
    Range {
        /// First key.
        start: u32,
        /// Number of keys.
        count: u32,
    },
    /// Some of the keys of a whole: a bit for each of these in the body, padded to bytes, the least bit first.
    Part {
        /// Of which.
        of: Whole,
        /// Number of keys: of bits that are set.
        count: u32,
    },
}

/// A list of which only some keys are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whole {
    /// Sent before.
    Known {
        /// Its digest.
        hash: u64,
        /// Number of keys.
        count: u32,
    },
    /// `start..start + count`.
    Range {
        /// First key.
        start: u32,
        /// Number of keys.
        count: u32,
    },
}

/// One table's part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The table.
    pub table: TableId,
    /// Its element type; a shard refuses another than its table's.
    pub element: Type,
    /// Which keys.
    pub keys: KeyList,
    /// How the body holds the values, if it does.
    pub packing: Packing,
}

/// Who asks, and how current the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The job.
    pub job: JobId,
    /// The stage run; a request of a later run ends all earlier ones. Run 0 is the master's, which loads and saves models
    /// between stages: its requests first apply everything pending, wait for no clock, and take effect at once.
    pub run: StageRun,
    /// The worker's place in the stage.
    pub worker: u32,
    /// Its clock.
    pub clock: u64,
}

/// What a reader's slave knows of, so that a shard answers it only when it has the updates: what arrived at one slave may
/// still be under way to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Of its own workers: which, their clocks, and how many updates each has sent to this shard below its clock.
    pub workers: Vec<(u32, u64, u64)>,
    /// Of other slaves: the least clocks that they told.
    pub slaves: Vec<(SlaveId, u64)>,
}

/// What a shard is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToShard {
    /// Values of the keys; `peek` skips the clock check.
    Get {
        /// Who.
        origin: Origin,
        /// Tables and keys; no values in the body.
        sections: Vec<Section>,
        /// What must have arrived before.
        seen: Seen,
        /// Whether the clock is not checked.
        peek: bool,
        /// How the values are to come, by section, where that takes fewer bytes; nothing where all are to be raw.
        packs: Vec<Pack>,
    },
    /// Updates.
    Add {
        /// Who.
        origin: Origin,
        /// Counts the worker's messages of this kind in this run: the order in which BSP applies them.
        sequence: u64,
        /// Tables, keys and values.
        sections: Vec<Section>,
    },
    /// Another slave's least clock in a stage run. Sent once per slave and clock; answered by [`FromShard::Heard`].
    Clock {
        /// The job.
        job: JobId,
        /// The stage run.
        run: StageRun,
        /// Whose.
        slave: SlaveId,
        /// The least clock of its workers; `u64::MAX` when all have ended.
        clock: u64,
        /// How many updates its workers sent to this shard below that clock: until they have arrived it does not count.
        updates: u64,
        /// Keys of its next clocks that were not told before, where the consistency model asks for them.
        announced: Vec<Announced>,
    },
    /// Values of consecutive keys as a snapshot keeps them; answered by [`FromShard::Values`].
    Kept {
        /// The job.
        job: JobId,
        /// Which snapshot.
        snapshot: u64,
        /// The table.
        table: TableId,
        /// The first key.
        start: u32,
        /// Number of keys.
        count: u32,
    },
    /// Of a checkpoint; answered by [`FromShard::Checkpoint`].
    Checkpoint(ToKept),
    /// A body that is thrown away, to see how long it takes; answered by [`FromShard::Heard`].
    Probe,
    /// Chunks that are to be served here in the next phase.
    Move(ToReceiver),
    /// How many blocks of rows the slave has, once all are read; answered by [`FromShard::Blocks`].
    Blocks {
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
    },
    /// A block of rows; answered by [`FromShard::Rows`].
    Rows {
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// The block's number.
        at: u32,
    },
}

/// What a shard answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromShard {
    /// The body holds the values, section by section, each padded to 8 bytes.
    Values {
        /// They show all updates of the clocks below this one, the least that was not complete; 0 to the master.
        shown: u64,
        /// How, by section; nothing where all are raw.
        packings: Vec<Packing>,
    },
    /// The updates are applied, or kept until their clock is complete.
    Added,
    /// The clock is known, or the probe has come.
    Heard,
    /// What the read must see has not come yet, or its stage run, or an update's, has not begun here, or rows are not ready:
    /// ask again.
    NotYet,
    /// Some `Known` list was forgotten: send the request again with all lists inline.
    UnknownKeys,
    /// To chunks that move here.
    Moved(FromReceiver),
    /// Of a checkpoint.
    Checkpoint(FromKept),
    /// So many blocks.
    Blocks(u32),
    /// The body holds labels, offsets, features and, where they are not all 1, values, each padded to 8 bytes.
    Rows {
        /// Number of rows.
        rows: u32,
        /// Number of non-zeros.
        nonzeros: u32,
        /// Whether values follow.
        values: bool,
    },
}
