//! What stage runs of different slaves exchange: updates, needs of reads, news of clocks.

use crate::consistency::News;
use crate::kv::Keys;
use flexps_common::ids::{SlaveId, TableId};
use flexps_common::wire::body::ReceivedValues;
use flexps_common::wire::kv::Seen;
use flexps_common::wire::lists;
use std::sync::Arc;
use tokio::sync::oneshot;

/// One table's part of a kept update.
pub struct Update {
    /// The table.
    pub table: TableId,
    /// Its keys.
    pub keys: lists::Keys,
    /// Its values.
    pub values: ReceivedValues,
}

/// Where an update comes from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The worker's clock.
    pub clock: u64,
    /// The worker's place in the stage.
    pub worker: u32,
    /// The update's place among the worker's.
    pub sequence: u64,
}

/// What a read from another slave must see.
#[derive(Debug, Clone)]
pub struct Need {
    /// All updates of the clocks below this one, as far as the model asks for it.
    pub clock: u64,
    /// What the reader's slave knows of.
    pub seen: Seen,
}

/// When a read sees what it must. It then sees all updates of the clocks below a number, the least that is not complete.
#[derive(Debug)]
pub enum Readable {
    /// It does, with that number.
    Now(u64),
    /// When this comes, with the number; dropped when the run is cancelled.
    Later(oneshot::Receiver<u64>),
}

/// What other slaves must hear.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The news.
    pub news: News,
    /// How many updates each of them was sent below the clock in it; none to those who are missing.
    pub updates: Vec<(SlaveId, u64)>,
}

/// What is to be applied at a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// So little that whoever heard of it may apply it.
    Little,
    /// More, or somebody is at it.
    Much,
}

/// Keys as they may be kept.
pub fn owned(keys: Keys<'_>) -> lists::Keys {
    match keys {
        Keys::List(keys) => lists::Keys::List(Arc::new(keys.to_vec())),
        Keys::Range { start, count } => lists::Keys::Range(u64::from(start)..u64::from(start) + u64::from(count)),
    }
}

/// Received keys as the store takes them.
pub fn view(keys: &lists::Keys) -> Keys<'_> {
    match keys {
        lists::Keys::List(keys) => Keys::List(keys),
        lists::Keys::Range(range) => Keys::Range { start: range.start as u32, count: (range.end - range.start) as u32 },
    }
}
