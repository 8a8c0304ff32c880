//! Slaves that a job lost and goes on without.
//!
//! Invariant: the report tells of them when the job has begun anew, not before: it may end instead.

use super::Job;
use super::driver::Anew;
use crate::assigner::Back;
use crate::size::size;
use flexps_common::repeat::Repeat;

/// One of them.
pub struct Lost {
    /// Its name.
    pub slave: String,
    /// What errors call it.
    pub called: String,
    /// How one knows that it is gone.
    pub why: String,
    /// Where the job was.
    pub place: String,
    /// Since its submission.
    pub seconds: f64,
    /// What it had read, or was to read, if others do so.
    pub back: Option<Back>,
}

impl Job {
    /// It begins anew, without those that it lost.
    pub fn tell_lost(&mut self, anew: Anew) {
        let Some(started) = self.started() else { return };
        let (lost, opening) = (std::mem::take(&mut started.lost), !started.told_to_read);
        let bits = if self.reproducible { "; on fewer slaves the last bits may be others" } else { "" };
        for Lost { slave, called, why, place, seconds, back } in lost {
            let back = back.filter(|_| anew == Anew::Plan);
            let what = match &back {
                Some(Back { splits, bytes }) => format!(
                    "while rows were read: the others read the {splits} splits ({}) that it had, and the plan began anew{bits}",
                    size(*bytes)
                ),
                None if opening => "while the job was opened: it queued anew".to_owned(),
                None => format!("{place}: the job started over"),
            };
            self.note([format!("{called} after {seconds:.1} s, {what}")]);
            let Back { splits, bytes } = back.unwrap_or_default();
            self.report.repeats.push(Repeat { slave, why, seconds, splits, bytes });
        }
    }
}
