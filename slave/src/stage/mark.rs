//! The moment at which a stage run's tables are kept for a snapshot.
//!
//! Invariant: where updates are applied clock by clock, it is the boundary of a clock: all updates below it are in the shard,
//! and none of it or behind it.

use crate::consistency::ENDED;
use crate::kv::Shard;
use tokio::sync::oneshot;

/// What became of a wish for a snapshot.
pub enum Marking {
    /// It is taken.
    Now,
    /// It is taken at the boundary below this clock: what is received says when.
    At(u64, oneshot::Receiver<()>),
    /// That clock is over; the first that is not.
    Late(u64),
}

/// What is wanted of a run, and how far it is.
pub struct Mark {
    /// The clock, the snapshot, and who waits for it.
    wanted: Option<(u64, u64, oneshot::Sender<()>)>,
    /// Of clocks that are not below this one nothing is in the shard.
    untouched: u64,
}

impl Mark {
    /// Of a run in whose shard updates below a clock may be.
    pub fn new(untouched: u64) -> Self {
        Self { wanted: None, untouched }
    }

    /// Whether all updates of all clocks are in the shard, or on their way into it.
    pub fn is_over(&self) -> bool {
        self.untouched == ENDED
    }

    /// Whether one is wanted: updates behind its boundary are held back until it is taken or given up.
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Wants a snapshot at the boundary below `at`.
    pub fn want(&mut self, snapshot: u64, at: Option<u64>) -> Marking {
        match at {
            Some(at) if at >= self.untouched => {
                let (send, taken) = oneshot::channel();
                self.wanted = Some((at, snapshot, send));
                Marking::At(at, taken)
            }
            _ => Marking::Late(self.untouched),
        }
    }

    /// Nobody gets what is wanted.
    pub fn give_up(&mut self) {
        self.wanted = None;
    }

    /// The clock below which updates may be applied in one go, of those below `due`.
    pub fn until(&self, due: u64) -> u64 {
        self.wanted.as_ref().map_or(due, |(at, ..)| due.min(*at))
    }

    /// Updates below `due` go into the shard from now on.
    pub fn touch(&mut self, due: u64) {
        self.untouched = due.max(self.untouched);
    }

    /// All updates below `applied` are in the shard: takes the snapshot if that is its clock; whether it did.
    pub fn take(&mut self, applied: u64, shard: &Shard) -> bool {
        let Some((_, snapshot, taken)) = self.wanted.take_if(|(at, ..)| *at <= applied) else { return false };
        shard.take_snapshot(snapshot);
        // Who no longer waits for it will not read it.
        let _ = taken.send(());
        true
    }
}
