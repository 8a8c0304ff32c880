//! A block of a store: where it is, and what remains known of it once it is gone.

use super::spill::Extent;
use flexps_common::data::{Block, Facts};
use flexps_common::error::Error;
use std::sync::Arc;

/// A block, and what was found in its text.
pub struct Slot {
    /// Where the block is.
    pub place: Place,
    /// What its rows add up to.
    pub facts: Facts,
    /// The first bad rows of its text.
    pub bad: Vec<Error>,
}

/// Where a block is.
#[derive(Clone)]
pub enum Place {
    /// In memory.
    Memory(Arc<Block>),
    /// On disk.
    Disk(Extent),
    /// It was consumed.
    Gone,
}

impl Place {
    /// Bytes that the block takes there.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Memory(block) => block.bytes() as u64,
            Self::Disk(extent) => extent.bytes(),
            Self::Gone => 0,
        }
    }
}
