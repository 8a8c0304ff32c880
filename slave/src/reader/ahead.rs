//! Blocks that are read back from disk before they are asked for, on a thread of its own, so that reading and computing
//! overlap; and memory of blocks that were given back, to be filled again.
//!
//! Invariant: what is read ahead and what nobody uses but is kept to be filled again take at most [`MOST`] bytes each when a
//! block is given out; what was read ahead and is not fetched for long gives way.

use super::store::Store;
use crossbeam_channel::{Receiver, Sender, unbounded};
use flexps_common::data::Block;
use flexps_common::error::Result;
use std::sync::{Arc, Weak};

/// Bytes that are read ahead, and bytes that are kept to be filled again.
const MOST: u64 = 8 << 20;

/// Expectations after which one that was not met is forgotten.
const PATIENCE: u32 = 64;

/// What is read ahead for one store.
#[derive(Default)]
pub struct Ahead {
    expected: Vec<Expected>,
    /// Blocks that were given out: whose memory may be had again once nobody else holds it.
    given: Vec<Arc<Block>>,
    thread: Option<Sender<usize>>,
}

struct Expected {
    at: usize,
    bytes: u64,
    patience: u32,
    /// None until it is read.
    block: Option<Result<Arc<Block>>>,
}

/// What of a block was read ahead.
pub enum Found {
    /// Nothing.
    No,
    /// It is coming.
    Soon,
    /// The block, or why it can't be read.
    Ready(Result<Arc<Block>>),
}

impl Ahead {
    /// Block `at` of so many bytes will be asked for: has it read for `store`, if there is room.
    pub fn expect(&mut self, store: &Arc<Store>, at: usize, bytes: u64) {
        self.expected.iter_mut().for_each(|one| one.patience = one.patience.saturating_sub(1));
        self.expected.retain(|one| one.patience > 0 || one.block.is_none());
        let taken: u64 = self.expected.iter().map(|one| one.bytes).sum();
        if self.expected.iter().any(|one| one.at == at) || taken + bytes > MOST {
            return;
        }
        if self.thread.is_none() {
            self.thread = start(Arc::downgrade(store));
        }
        // Without a thread the block is read when it is asked for.
        if self.thread.as_ref().is_some_and(|thread| thread.send(at).is_ok()) {
            self.expected.push(Expected { at, bytes, patience: PATIENCE, block: None });
        }
    }

    /// Whether block `at` still is to be read.
    pub fn wants(&self, at: usize) -> bool {
        self.expected.iter().any(|one| one.at == at && one.block.is_none())
    }

    /// Block `at` was read.
    pub fn put(&mut self, at: usize, block: Result<Arc<Block>>) {
        if let Some(one) = self.expected.iter_mut().find(|one| one.at == at) {
            one.block = Some(block);
        }
    }

    /// Takes block `at`.
    pub fn take(&mut self, at: usize) -> Found {
        let Some(place) = self.expected.iter().position(|one| one.at == at) else { return Found::No };
        match self.expected[place].block.is_some() {
            false => Found::Soon,
            true => self.expected.swap_remove(place).block.map_or(Found::Soon, Found::Ready),
        }
    }

    /// Forgets all that was read or is to be read.
    pub fn clear(&mut self) {
        self.expected.clear();
    }

    /// A block is given out whose memory may be had again.
    pub fn give(&mut self, block: &Arc<Block>) {
        let mut idle = 0;
        self.given.retain(|block| {
            idle += if Arc::strong_count(block) == 1 { block.bytes() as u64 } else { 0 };
            idle <= MOST
        });
        self.given.push(block.clone());
    }

    /// The memory of a block that was given out and is no longer used.
    pub fn spare(&mut self) -> Option<Block> {
        let place = self.given.iter().position(|block| Arc::strong_count(block) == 1)?;
        Arc::into_inner(self.given.remove(place))
    }
}

fn start(store: Weak<Store>) -> Option<Sender<usize>> {
    let (asked, asks) = unbounded();
    let thread = std::thread::Builder::new().name("read-ahead".to_owned());
    thread.spawn(move || run(&store, &asks)).ok().map(|_| asked)
}

fn run(store: &Weak<Store>, asks: &Receiver<usize>) {
    for at in asks {
        let Some(store) = store.upgrade() else { return };
        store.read_ahead(at);
    }
}
