//! Rows to be consumed that wait until somebody takes them, and whether reading waits for that.
//!
//! Invariant: while blocks are taken, those that wait are at most [`EACH`] for each who takes them or [`MOST`] bytes, whichever is
//! more, and what the parsers have in hand. Where nobody takes any for [`IDLE`], reading goes on: whoever should may be waiting
//! for what another slave learns from rows that it can get only from this one, or at another input.

use std::time::{Duration, Instant};

/// Blocks that wait for each who takes them before reading pauses.
const EACH: usize = 4;
/// Bytes of blocks that wait before it pauses for as long as others are taken.
const MOST: u64 = 64 << 20;
/// Longer than a worker has to do with a block, on a busy machine too.
const IDLE: Duration = Duration::from_millis(500);

/// See the module. Blocks of rows that are kept are counted too, but nothing waits for who takes them.
pub struct Backlog {
    /// Blocks that were parsed.
    pub filled: usize,
    /// Of them those that were consumed.
    pub gone: usize,
    /// Who waits for a block, or has just asked for one.
    pub asking: usize,
    /// Bytes of the blocks that wait.
    bytes: u64,
    /// When one was taken last, or reading began.
    taken: Instant,
}

impl Default for Backlog {
    /// None, from now on.
    fn default() -> Self {
        Self { filled: 0, gone: 0, asking: 0, bytes: 0, taken: Instant::now() }
    }
}

impl Backlog {
    /// A block of so many bytes was parsed.
    pub fn put(&mut self, bytes: u64) {
        self.filled += 1;
        self.bytes += bytes;
    }

    /// One was taken.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        self.gone += 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.taken = now;
    }

    /// Whether reading goes on at once, where so many take blocks.
    pub fn has_room(&self, takers: usize) -> bool {
        self.filled < self.gone + EACH * takers || (self.asking > 0 && self.bytes < MOST)
    }

    /// Whether it does once it has paused for a while.
    pub fn may_grow(&self, now: Instant) -> bool {
        self.bytes < MOST || now.saturating_duration_since(self.taken) >= IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 1 << 20;

    /// So many blocks, of which none was taken.
    fn waiting(blocks: u64, now: Instant) -> Backlog {
        let mut backlog = Backlog { taken: now, ..Backlog::default() };
        (0..blocks).for_each(|_| backlog.put(BLOCK));
        backlog
    }

    #[test]
    fn who_keeps_up_is_never_waited_for() {
        let now = Instant::now();
        assert!(waiting(3, now).has_room(1) && !waiting(4, now).has_room(1) && waiting(400, now).has_room(101));
        let mut asked = waiting(4, now);
        asked.asking = 1;
        assert!(asked.has_room(1));
    }

    #[test]
    fn reading_waits_for_who_is_slow_and_not_for_who_takes_none() {
        let mut now = Instant::now();
        let mut backlog = waiting(0, now);
        for _ in 0..10_000 {
            now += IDLE / 2;
            backlog.asking = 1;
            if backlog.filled > backlog.gone {
                backlog.take(BLOCK, now);
            }
            // However often reading pauses meanwhile.
            for _ in 0..10 {
                if backlog.has_room(1) || backlog.may_grow(now) {
                    backlog.put(BLOCK);
                }
            }
            assert!(backlog.bytes <= MOST, "{} bytes wait", backlog.bytes);
        }
        assert!(backlog.bytes == MOST && !backlog.has_room(1) && !backlog.may_grow(now));
        assert!(backlog.may_grow(now + IDLE));
        backlog.take(BLOCK, now + IDLE);
        assert!(backlog.may_grow(now + IDLE));
    }
}
