//! The plan from its first step once more: a slave went while rows were read, and the others read what it had.
//!
//! Invariant: only while some input's facts are not known, so before any decision. What ran until then runs again on empty tables
//! and all rows; runs and phases count on, so that what comes late of those before belongs to none.

use super::{Driver, Phase};
use flexps_common::Error;
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::ids::SlaveId;
use flexps_common::plan::Plan;
use flexps_common::wire::control::SILENCE_MS;
use std::collections::BTreeSet;
use std::time::Duration;

/// A connection that broke since a slave went is followed within this by word that it is gone.
pub(super) const TOLD_WITHIN: Duration = Duration::from_millis(SILENCE_MS + 1_000);

/// How a job that lost a slave begins anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anew {
    /// Its plan on the slaves that are left, with the rows that they hold.
    Plan,
    /// All of it, on any slaves.
    Job,
}

/// What follows when all has stopped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Then {
    /// The job's end.
    End,
    /// The same, but not before: a slave may turn out to be gone.
    EndAt(Duration),
    /// It begins anew.
    Again(Anew),
}

/// Whether an error may come of a slave that is gone, of which nobody knows yet.
pub(super) fn may_pass(error: &Error) -> bool {
    error.fault == Fault::Cluster && error.retry
}

/// What follows when a slave is gone: the plan does not begin anew on one that reads no more, but that may be gone as well.
pub(super) fn after_gone(anew: Option<Anew>, unread: &BTreeSet<SlaveId>, now: Duration) -> Then {
    match anew {
        None => Then::End,
        Some(Anew::Plan) if !unread.is_empty() => Then::EndAt(now + TOLD_WITHIN),
        Some(anew) => Then::Again(anew),
    }
}

impl Driver {
    /// Whether it can begin anew if a slave is gone now.
    pub fn may_begin_anew(&self) -> bool {
        match &self.phase {
            Phase::Ending { then, .. } => *then != Then::End,
            Phase::Ended => false,
            Phase::Opening => true,
            _ => self.reading() || self.restarts,
        }
    }

    /// Stage runs and phases so far.
    pub fn counted(&self) -> (u64, u64) {
        (self.runs, self.phases)
    }

    /// Counts on from those of before the plan started over.
    pub fn count_on(&mut self, (runs, phases): (u64, u64)) {
        (self.runs, self.phases, self.before) = (runs, phases, runs);
    }

    /// Begins anew on these slaves, in shard order.
    pub fn begin_anew(&mut self, plan: &Plan, slaves: &[(SlaveId, String)], experiment: &Experiment) {
        let fresh = Self::new(self.job, plan, slaves, experiment);
        let Self { runs, phases, restarts, began, spent, tuners, keeping, .. } = std::mem::replace(self, fresh);
        (self.runs, self.phases, self.restarts, self.tuners) = (runs, phases, restarts, tuners);
        (self.began, self.spent, self.keeping) = (began, spent, keeping);
    }

    /// What follows on an error: while the plan may begin anew, one that may pass may come of a slave that went.
    pub(super) fn after_error(&self, now: Duration, error: &Error) -> Then {
        if may_pass(error) && self.may_begin_anew() { Then::EndAt(now + TOLD_WITHIN) } else { Then::End }
    }
}
