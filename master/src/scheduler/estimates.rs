//! How long stages run, from the runs that ended: what backfill asks.
//!
//! Invariant: an estimate is a moving mean and twice the moving deviation on top, so that it is rarely too short.

use rustc_hash::FxHashMap;
use std::time::Duration;

/// The weight of the newest run in the moving mean.
const NEWEST: f64 = 0.25;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    threads: u32,
    mean: f64,
    deviation: f64,
}

/// Durations by job name, then by stage name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimates(FxHashMap<String, FxHashMap<String, Seen>>);

impl Estimates {
    /// A stage of a job of this name ran so long.
    pub fn note(&mut self, job: &str, stage: &str, threads: u32, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let fresh = Seen { threads, mean: seconds, deviation: 0.25 * seconds };
        let Some(seen) = self.0.get_mut(job).and_then(|stages| stages.get_mut(stage)) else {
            self.0.entry(job.to_owned()).or_default().insert(stage.to_owned(), fresh);
            return;
        };
        if seen.threads != threads {
            *seen = fresh;
            return;
        }
        let off = (seconds - seen.mean).abs();
        seen.mean += NEWEST * (seconds - seen.mean);
        seen.deviation += NEWEST * (off - seen.deviation);
    }

    /// How long it will run at most, by what was seen; with other threads than then, as if all of its work were divided.
    pub fn of(&self, job: &str, stage: &str, threads: u32) -> Option<Duration> {
        let seen = self.0.get(job)?.get(stage)?;
        let scale = f64::from(seen.threads) / f64::from(threads.max(1));
        Duration::try_from_secs_f64((seen.mean + 2.0 * seen.deviation) * scale).ok()
    }
}
