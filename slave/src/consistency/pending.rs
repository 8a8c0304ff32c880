//! Updates that a shard keeps until their clock is complete.
//!
//! Invariant: whatever the order of arrival, updates leave in order of clock, worker and sequence, each once: the same
//! updates give the same bits.

use std::collections::BTreeMap;

/// Kept updates.
#[derive(Debug)]
pub struct Pending<A>(BTreeMap<(u64, u32, u64), A>);

impl<A> Default for Pending<A> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<A> Pending<A> {
    /// Keeps the `sequence`th update of `worker`, made at `clock`. One that is already here stays as it is.
    pub fn keep(&mut self, clock: u64, worker: u32, sequence: u64, update: A) {
        self.0.entry((clock, worker, sequence)).or_insert(update);
    }

    /// Takes out the updates of clocks below `clock`, in the order in which they are to be applied.
    pub fn take_below(&mut self, clock: u64) -> impl Iterator<Item = A> + use<A> {
        let later = self.0.split_off(&(clock, 0, 0));
        std::mem::replace(&mut self.0, later).into_values()
    }

    /// Takes out all updates.
    pub fn take_all(&mut self) -> impl Iterator<Item = A> + use<A> {
        std::mem::take(&mut self.0).into_values()
    }

    /// The updates, in the order in which they are to be applied.
    pub fn iter(&self) -> impl Iterator<Item = &A> {
        self.0.values()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
