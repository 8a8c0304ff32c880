//! A worker that an experiment slows: what it computes takes so many times as long, its waits take as long as they take.
//!
//! Invariants: over many calls the time slept is the time computed times the factor less one, however coarse the
//! system's sleeps are; a cancelled worker does not sleep on.

use flexps_common::error::{Error, Result};
use flexps_common::waiting::within;
use std::future::Future;
use std::time::{Duration, Instant};

/// See the module.
pub struct Slow {
    factor: f64,
    /// When the last sleep ended.
    since: Instant,
    /// What the worker had waited then.
    waited: Duration,
    /// Seconds that are still to be slept, or were slept too much.
    owed: f64,
}

impl Slow {
    /// Slows the calling worker, from now on.
    pub fn new(factor: f64) -> Self {
        Self { factor, since: Instant::now(), waited: Duration::ZERO, owed: 0.0 }
    }

    /// Sleeps for what the worker has computed since the last call, being so slow. `waited` is all that it ever waited.
    /// How long it slept; or the error that ended the sleep.
    pub fn lag(&mut self, waited: Duration, ended: impl Future<Output = Error>) -> Result<Duration> {
        let start = Instant::now();
        if let Some(error) = within(ended, self.owes(start, waited)) {
            return Err(error);
        }
        let end = Instant::now();
        self.slept(start, end);
        Ok(end - start)
    }

    /// What is to be slept now.
    fn owes(&mut self, now: Instant, waited: Duration) -> Duration {
        let computed = (now - self.since).saturating_sub(waited - self.waited);
        self.waited = waited;
        self.owed += (self.factor - 1.0) * computed.as_secs_f64();
        // What was slept too much is taken off the next sleeps.
        Duration::try_from_secs_f64(self.owed).unwrap_or_default()
    }

    fn slept(&mut self, from: Instant, to: Instant) {
        self.owed -= (to - from).as_secs_f64();
        self.since = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_computed_takes_the_factor_as_long_and_what_was_waited_does_not() {
        const MS: Duration = Duration::from_millis(1);
        let mut slow = Slow::new(4.0);
        let (start, mut now, mut waited) = (slow.since, slow.since, Duration::ZERO);
        let mut slept = Duration::ZERO;
        for _ in 0..1000 {
            // Computes for 0.1 ms, waits for 2 ms; a sleep takes 1 ms more than it should.
            now += MS / 10 + 2 * MS;
            waited += 2 * MS;
            let sleep = slow.owes(now, waited);
            let woken = if sleep.is_zero() { now } else { now + sleep + MS };
            slow.slept(now, woken);
            slept += woken - now;
            now = woken;
        }
        let (expected, all) = (300 * MS, now - start);
        assert!(slept >= expected && slept <= expected + 2 * MS, "{slept:?} of {expected:?}");
        assert_eq!(all, slept + waited + 100 * MS);
    }

    #[test]
    fn a_cancelled_worker_does_not_sleep_on() {
        let mut slow = Slow::new(1000.0);
        slow.since -= Duration::from_secs(1000);
        let error = slow.lag(Duration::ZERO, std::future::ready(Error::cancelled())).unwrap_err();
        assert_eq!(error, Error::cancelled());
    }
}
