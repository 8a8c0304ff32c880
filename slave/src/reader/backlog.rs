//! Rows to be consumed that wait until somebody takes them, and whether reading waits for that.
//!
//! Invariant: while blocks are taken, those that wait are at most [`EACH`] for each who takes them or [`MOST`] bytes, whichever is
//! more, and what the parsers have in hand. Where nobody takes any for [`IDLE`] and twice as long as it took so far, reading goes
//! on, at first slowly: whoever should may be waiting for what another slave learns from rows that it can get only from this one,
//! or at another input.

use std::time::{Duration, Instant};

/// Blocks that wait for each who takes them before reading pauses.
const EACH: usize = 4;
/// Bytes of blocks that wait before it pauses for as long as others are taken.
const MOST: u64 = 64 << 20;
/// Longer than a worker has to do with a block, on a busy machine too.
const IDLE: Duration = Duration::from_millis(500);
/// What somebody takes longer for is no sign of how long it takes the next time.
const LONGEST: Duration = Duration::from_secs(5);
/// Each block beyond comes after half the time that the one before it did, to this.
const LEAST: Duration = Duration::from_millis(10);

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
    /// The longest time between two, up to [`LONGEST`].
    slowest: Duration,
    /// When one was taken last, or came beyond what may wait...
    since: Instant,
    /// ... and how long from then on until another may.
    patience: Duration,
}

impl Default for Backlog {
    /// None, from now on.
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Backlog {
    fn new(now: Instant) -> Self {
        let (taken, since, slowest, patience) = (now, now, Duration::ZERO, IDLE);
        Self { filled: 0, gone: 0, asking: 0, bytes: 0, taken, slowest, since, patience }
    }

    /// A block of so many bytes was parsed.
    pub fn put(&mut self, bytes: u64, now: Instant) {
        if self.bytes >= MOST {
            (self.since, self.patience) = (now, (self.patience / 2).max(LEAST));
        }
        self.filled += 1;
        self.bytes += bytes;
    }

    /// One was taken.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        if self.gone > 0 {
            self.slowest = self.slowest.max(now.saturating_duration_since(self.taken).min(LONGEST));
        }
        self.gone += 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        (self.taken, self.since, self.patience) = (now, now, IDLE.max(2 * self.slowest));
    }

    /// Whether reading goes on at once, where so many take blocks.
    pub fn has_room(&self, takers: usize) -> bool {
        self.filled < self.gone + EACH * takers || (self.asking > 0 && self.bytes < MOST)
    }

    /// Whether it does once it has paused for a while.
    pub fn may_grow(&self, now: Instant) -> bool {
        self.bytes < MOST || now.saturating_duration_since(self.since) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 1 << 20;

    /// So many blocks, of which none was taken.
    fn waiting(blocks: u64, now: Instant) -> Backlog {
        let mut backlog = Backlog::new(now);
        (0..blocks).for_each(|_| backlog.put(BLOCK, now));
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
    fn reading_waits_for_who_is_slow() {
        for (each, beyond) in [(IDLE / 2, 0), (3 * IDLE, 24 * BLOCK)] {
            let mut now = Instant::now();
            let mut backlog = waiting(0, now);
            for _ in 0..1000 {
                // However often reading pauses meanwhile.
                for _ in 0..50 {
                    now += each / 50;
                    if backlog.has_room(1) || backlog.may_grow(now) {
                        backlog.put(BLOCK, now);
                    }
                }
                backlog.asking = 1;
                backlog.take(BLOCK, now);
                assert!(backlog.bytes <= MOST + beyond, "{} bytes wait", backlog.bytes);
            }
            assert!(backlog.bytes >= MOST - BLOCK, "{} bytes wait", backlog.bytes);
        }
    }

    #[test]
    fn reading_goes_on_where_nobody_takes_any_slowly_and_then_as_fast_as_it_can() {
        let now = Instant::now();
        let mut backlog = waiting(MOST / BLOCK, now);
        let mut times = Vec::new();
        for at in (0..2000).map(|ms| now + Duration::from_millis(ms)) {
            if backlog.may_grow(at) {
                backlog.put(BLOCK, at);
                times.push(at - now);
            }
        }
        assert_eq!((times[0], times[1], times[2]), (IDLE, IDLE * 3 / 2, IDLE * 7 / 4));
        assert!(times.len() > 80, "{times:?}");
        backlog.take(BLOCK, now + 4 * IDLE);
        assert!(!backlog.may_grow(now + 4 * IDLE));
    }
}
