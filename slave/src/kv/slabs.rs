//! Memory of jobs that have ended, for those that follow: the system clears fresh memory several times slower than memory
//! that is mapped already can be cleared.
//!
//! Invariant: what is kept is no more than the limit; with [`Slabs::trim`] called now and then, nor for longer than
//! [`KEPT`] of idleness.

use memmap2::MmapMut;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For how long memory is kept for a next job.
const KEPT: Duration = Duration::from_secs(20);

/// Mappings of one slave that nobody uses.
pub(super) struct Slabs {
    /// Bytes that may be kept.
    limit: usize,
    spare: Mutex<Vec<Spare>>,
}

struct Spare {
    map: MmapMut,
    /// Bytes in use when it is; the mapping is longer, for their alignment.
    bytes: usize,
    since: Instant,
}

impl Slabs {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, spare: Mutex::default() })
    }

    /// A mapping of just so many usable bytes, with whatever stands in it.
    pub fn take(&self, bytes: usize) -> Option<MmapMut> {
        let mut spare = self.spare.lock();
        let at = spare.iter().rposition(|spare| spare.bytes == bytes)?;
        Some(spare.swap_remove(at).map)
    }

    /// Takes a mapping that nobody uses any more.
    pub fn give(&self, map: MmapMut, bytes: usize) {
        let mut spare = self.spare.lock();
        let kept: usize = spare.iter().map(|spare| spare.bytes).sum();
        if kept + bytes <= self.limit {
            spare.push(Spare { map, bytes, since: Instant::now() });
        }
    }

    /// Returns to the system what was not used for long.
    pub fn trim(&self) {
        self.spare.lock().retain(|spare| spare.since.elapsed() < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_may_be_and_each_is_given_out_once() {
        let slabs = Slabs::new(3000);
        let map = || MmapMut::map_anon(4096).unwrap();
        [1000, 1500, 1000].into_iter().for_each(|bytes| slabs.give(map(), bytes));
        assert!(slabs.take(2000).is_none(), "another size");
        assert!(slabs.take(1000).is_some() && slabs.take(1500).is_some());
        assert!(slabs.take(1000).is_none(), "beyond the limit");
        slabs.give(map(), 1000);
        slabs.trim();
        assert!(slabs.take(1000).is_some(), "used just now");
    }
}
