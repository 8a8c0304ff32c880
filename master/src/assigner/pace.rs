//! How fast a reader reads, from what it says when it asks.
//!
//! Invariant: depends on what was said and when alone. A reader asks for its next split as soon as it begins one, and says
//! how many it has read by then; so the time of each is known without a message of its own.

use super::Assigner;
use flexps_common::ids::SlaveId;
use std::time::Duration;

/// The longest moment that a reader waits for what lies nearer.
const LONGEST: Duration = Duration::from_secs(3);
/// It is one split's time, and more, up to [`SPLITS`], where that is at most this part of the splits that it has read: readers
/// that share cores with one another and with the storage end some splits apart, though none is slower.
const WORTH: f64 = 1.0 / 8.0;
const SPLITS: f64 = 3.0;
/// How long a reader that has nothing to do waits for the others' end before it asks again: this part of the time since it
/// has, but no less and no more than that.
const PART: u32 = 16;
const LEAST: Duration = Duration::from_millis(1);
const MOST: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Splits that it has read to the end.
    pub read: usize,
    /// When it began the one that it reads.
    pub began: Duration,
    /// What those that it has read took.
    spent: Duration,
    /// Their bytes, as they were when they were read.
    bytes: u64,
    /// Since when it has nothing to do.
    pub idle: Option<Duration>,
    /// Whether it has waited its moment, and found nothing near since.
    pub waited: bool,
}

impl Pace {
    /// It takes one more split, besides `taken`; `near` if nobody is nearer to it.
    pub fn took(&mut self, taken: usize, near: bool, now: Duration) {
        if taken == self.read {
            self.began = now;
        }
        (self.idle, self.waited) = (None, !near);
    }

    /// Seconds that a split takes it, if it has read one.
    fn split(&self) -> Option<f64> {
        (self.read > 0).then(|| self.spent.as_secs_f64() / self.read as f64)
    }
}

impl Assigner {
    /// A slave says how many of its splits it has read.
    pub(super) fn heard(&mut self, slave: SlaveId, read: u64, now: Duration) {
        let taken = self.taken.get(&slave).map_or(&[][..], Vec::as_slice);
        let read = usize::try_from(read).unwrap_or(usize::MAX).min(taken.len());
        let before = self.paces.get(&slave).map_or(0, |pace| pace.read);
        let bytes = if read > before { self.bytes(&taken[before..read]) } else { 0 };
        let ended = read == taken.len();
        let pace = self.paces.entry(slave).or_default();
        if read > pace.read {
            pace.spent += now.saturating_sub(pace.began);
            pace.bytes += bytes;
            (pace.read, pace.began) = (read, now);
        }
        if ended {
            pace.idle.get_or_insert(now);
        }
    }

    /// What `slave` has taken and not read, the one that it reads now first.
    pub(super) fn unread(&self, slave: SlaveId) -> &[usize] {
        let read = self.paces.get(&slave).map_or(0, |pace| pace.read);
        self.taken.get(&slave).and_then(|taken| taken.get(read..)).unwrap_or(&[])
    }

    /// Bytes a second of a slave at `now`. The split that it reads counts as half read; so one that takes ever longer for
    /// its first is taken for ever slower.
    pub(super) fn rate(&self, slave: SlaveId, now: Duration) -> Option<f64> {
        let pace = self.paces.get(&slave)?;
        let current = self.unread(slave).first();
        let (half, since) = match current {
            Some(index) => (self.bytes(&[*index]) as f64 / 2.0, now.saturating_sub(pace.began)),
            None => (0.0, Duration::ZERO),
        };
        let seconds = (pace.spent + since).as_secs_f64();
        (seconds > 0.0).then(|| (pace.bytes as f64 + half) / seconds)
    }

    /// How long `slave` waits for what lies nearer: as long as a split takes it, or those who have read one; longer if it has
    /// read many; and at most [`LONGEST`].
    pub(super) fn moment(&self, slave: SlaveId) -> Duration {
        let pace = self.paces.get(&slave).copied().unwrap_or_default();
        let all = || {
            let known: Vec<f64> = self.paces.values().filter_map(Pace::split).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        let splits = (WORTH * pace.read as f64).clamp(1.0, SPLITS);
        pace.split().or_else(all).map_or(LONGEST, |seconds| Duration::from_secs_f64(splits * seconds).min(LONGEST))
    }

    /// How long `slave`, for which nothing is left, waits before it asks whether the others have read what they have. One
    /// that reads will have more to say when it has.
    pub fn pause(&self, slave: SlaveId, now: Duration) -> Duration {
        let idle = self.paces.get(&slave).and_then(|pace| pace.idle);
        idle.map_or(MOST, |since| (now.saturating_sub(since) / PART).clamp(LEAST, MOST))
    }
}
