//! Time in which this process stood still (suspended, say): nobody else can be blamed for what it did not hear then.

use std::time::{Duration, Instant};

/// Between two looks: longer, and it was this process that stood still. Looks are a second apart at most.
const STOOD_STILL: Duration = Duration::from_secs(3);

/// See the module. To be asked all the time.
#[derive(Debug)]
pub(super) struct Still {
    looked: Instant,
}

impl Still {
    /// Asked at `now` for the first time.
    pub fn new(now: Instant) -> Self {
        Self { looked: now }
    }

    /// How long it stood still before `now`, if it did.
    pub fn before(&mut self, now: Instant) -> Option<Duration> {
        let still = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        (still >= STOOD_STILL).then_some(still)
    }
}

/// A moment of before it stood still so long, as if it had not.
pub(super) fn later(at: &mut Instant, still: Duration, now: Instant) {
    *at = (*at + still).min(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_time_between_two_looks_is_one_of_standing_still() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut still = Still::new(start);
        assert_eq!(
            [1_000, 2_100, 14_000, 15_000].map(|ms| still.before(at(ms))),
            [None, None, Some(Duration::from_millis(11_900)), None]
        );
        let mut heard = at(1_500);
        later(&mut heard, Duration::from_millis(11_900), at(14_000));
        assert_eq!(heard, at(13_400));
        later(&mut heard, Duration::from_millis(11_900), at(14_000));
        assert_eq!(heard, at(14_000), "nothing was heard in the future");
    }
}
