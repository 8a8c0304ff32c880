//! The splits that a reader has taken and not read to their end: how far it is in each, and what it may still give away.
//!
//! Invariant: bytes that were given away are not read here; bytes that are being read are not given away. Both sides go
//! through one lock, so a byte is on one side or on the other.

use flexps_common::data::Form;
use flexps_common::wire::control::Split;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// See the module.
pub struct Held {
    parts: Mutex<Vec<Part>>,
    read: AtomicU64,
    /// Rung when a split is read to its end.
    ended: Notify,
    least: u64,
}

struct Part {
    index: u32,
    start: u64,
    /// Behind the last byte that is being read or was; none before the split is begun.
    at: Option<u64>,
    end: u64,
    /// Whether it is read whole or not at all.
    whole: bool,
}

impl Held {
    /// Nothing yet. Parts of fewer than `least` bytes are not given away.
    pub fn new(least: u64) -> Self {
        Self { parts: Mutex::default(), read: AtomicU64::new(0), ended: Notify::new(), least }
    }

    /// Splits that were read to their end.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Waits so long, or until one more split is read to its end.
    pub async fn pause(&self, most: Duration) {
        // An error means that none was.
        let _ = tokio::time::timeout(most, self.ended.notified()).await;
    }

    /// The reader has a split, and has not begun it.
    pub fn take(&self, split: &Split) {
        let Split { index, start, end, form, .. } = *split;
        self.parts.lock().push(Part { index, start, at: None, end, whole: form != Form::Text });
    }

    /// Begins a split, or goes on in it: what lies below `upto` is about to be read. Returns the split's end; of a split that
    /// was given away that is its start. None for a split that it does not have.
    pub fn claim(&self, index: u32, upto: u64) -> Option<u64> {
        let mut parts = self.parts.lock();
        let part = parts.iter_mut().find(|part| part.index == index)?;
        let upto = if part.whole { part.end } else { upto };
        part.at = part.at.max(Some(upto.min(part.end)));
        Some(part.end)
    }

    /// A split is read to its end; how many bytes of it there were in the end.
    pub fn done(&self, index: u32) -> u64 {
        let mut parts = self.parts.lock();
        self.read.fetch_add(1, Ordering::Relaxed);
        self.ended.notify_one();
        let Some(place) = parts.iter().position(|part| part.index == index) else { return 0 };
        let part = parts.remove(place);
        part.end - part.start
    }

    /// Gives away the last part of a split: the reader keeps the share `keep` of what it has not read, and nothing of a split
    /// that it has not begun. Returns the new end, or nothing when too little is left.
    pub fn give(&self, index: u32, keep: f64) -> Option<u64> {
        let mut parts = self.parts.lock();
        let part = parts.iter_mut().find(|part| part.index == index)?;
        let end = match part.at {
            None => part.start,
            Some(at) => {
                let rest = part.end - at;
                let kept = (rest as f64 * keep.clamp(0.0, 1.0)) as u64;
                at + kept.min(rest.checked_sub(self.least)?)
            }
        };
        if end == part.end {
            return None;
        }
        part.end = end;
        Some(end)
    }
}
