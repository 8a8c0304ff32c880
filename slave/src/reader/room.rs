//! What the readers of a slave may keep in memory, together: of all jobs and inputs.
//!
//! Invariant: never more is taken than there is; who took some gives it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes for cached rows.
#[derive(Debug)]
pub struct CacheRoom {
    most: u64,
    taken: AtomicU64,
}

impl CacheRoom {
    /// So many bytes.
    pub fn of(most: u64) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicU64::new(0) })
    }

    /// Takes some of it, if there is as much.
    pub fn take(&self, bytes: u64) -> bool {
        // A count of bytes, which nothing else is told by.
        let fits = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_given_back_is_there_again() {
        let room = CacheRoom::of(10);
        assert!(room.take(6) && !room.take(5) && room.take(4) && !room.take(1) && room.take(0));
        room.give(6);
        assert!(!room.take(7) && !room.take(u64::MAX) && room.take(6));
        assert!(CacheRoom::of(u64::MAX).take(u64::MAX));
    }
}
