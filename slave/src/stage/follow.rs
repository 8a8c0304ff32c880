//! Whether a worker's clocks are followed by reads at once: then what tells of a clock leaves with the read, in one piece.
//!
//! Invariant: a clock behind which no read came is told by itself from the next one on.

use std::time::{Duration, Instant};

/// A read that comes within this follows: who waits for the clock loses no more than that.
const SOON: Duration = Duration::from_micros(100);

/// See the module.
#[derive(Default)]
pub struct Follow {
    clock: Option<Instant>,
    follows: bool,
}

impl Follow {
    /// Whether a read is going to follow a clock that ends, as one did the clock before.
    pub fn follows(&self) -> bool {
        self.follows && self.clock.is_none()
    }

    /// A clock has ended.
    pub fn clock(&mut self, now: Instant) {
        (self.follows, self.clock) = (self.follows(), Some(now));
    }

    /// A read is about to be made.
    pub fn read(&mut self, now: Instant) {
        if let Some(clock) = self.clock.take() {
            self.follows = now.saturating_duration_since(clock) < SOON;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_by_itself_unless_a_read_followed_the_last_one_at_once() {
        let start = Instant::now();
        let at = |micros: u64| start + Duration::from_micros(micros);
        let mut follow = Follow::default();
        let clock = |follow: &mut Follow, micros| {
            let follows = follow.follows();
            follow.clock(at(micros));
            follows
        };
        assert!(!clock(&mut follow, 0));
        follow.read(at(5));
        assert!(clock(&mut follow, 100));
        // A second read says nothing of the clock.
        follow.read(at(110));
        follow.read(at(190));
        assert!(clock(&mut follow, 200));
        // Late, then not at all.
        follow.read(at(360));
        assert!(!clock(&mut follow, 400));
        follow.read(at(401));
        assert!(clock(&mut follow, 500));
        assert!(!clock(&mut follow, 600));
        follow.read(at(601));
        assert!(clock(&mut follow, 700));
    }
}
