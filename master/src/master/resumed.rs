//! Jobs of an earlier master of which nobody waits for the end: they are queued again when a master goes on with its history.
//!
//! Invariant: such a job keeps its identity, and has ended with an error or is in the queue, whatever became of it before.

use super::Master;
use crate::history::Record;
use crate::job::{Job, Phase};
use flexps_common::Error;
use flexps_common::plan::Plan;
use flexps_common::report::State;
use std::collections::BTreeSet;
use std::time::Duration;

/// For so long they wait for the slaves that lived: these notice within a heartbeat that there is a master again.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// What a job is told that is queued again.
const AGAIN: &str = "queued again, since its master ended before it did";

/// Slaves that are yet to come back.
pub(super) struct Away {
    names: BTreeSet<String>,
    until: Duration,
}

impl Master {
    /// Queues the jobs that were left. They wait a moment for the slaves that there were.
    pub(super) fn queue_again(&mut self, jobs: Vec<Job>, away: BTreeSet<String>) {
        let now = self.now;
        for before in jobs {
            let (id, submission) = (before.id, before.submission());
            self.log.push(&Record::of(id, &submission, now));
            let planned = self.plan(&submission);
            let (plan, refused) = match planned {
                Ok(plan) => (plan, None),
                Err(e) => {
                    (Plan::default(), Some(e.context("its master ended before it did, and it can't be queued again")))
                }
            };
            let mut job = Job::new(id, submission, plan, now);
            job.submitted = before.submitted;
            job.queued_again = true;
            match refused {
                None => {
                    tracing::info!(job = %id, name = job.name, "job queued again");
                    job.note([AGAIN.to_owned()]);
                    self.list(&job);
                }
                Some(error) => self.refuse_again(&mut job, error, now),
            }
            self.jobs.insert(id, job);
        }
        let waits = self.jobs.values().any(|job| !matches!(job.phase, Phase::Ended));
        self.away = (waits && !away.is_empty()).then(|| Away { names: away, until: now + BACK_WITHIN });
    }

    /// Ends a job that can't be queued again.
    fn refuse_again(&mut self, job: &mut Job, error: Error, now: Duration) {
        tracing::warn!(job = %job.id, name = job.name, "{error}");
        let message = Some(error.message.clone());
        job.end(Err(error), now);
        self.log.push(&Record::End { at: now.as_secs_f64(), job: job.id, state: State::Failed, error: message });
    }

    /// Whether no job is begun yet, since slaves are still to come back.
    pub(super) fn awaits_slaves(&mut self) -> bool {
        let Some(Away { names, .. }) = &self.away else { return false };
        let why = match names.first() {
            Some(first) if names.len() > 1 => {
                format!("waits for {first}, and {} more, to come back to the master", names.len() - 1)
            }
            first => format!("waits for {} to come back to the master", first.map_or("a slave", String::as_str)),
        };
        let queued = self.jobs.values_mut().filter(|job| matches!(job.phase, Phase::Queued(_)));
        queued.for_each(|job| job.waits(Some(why.clone())));
        true
    }

    /// A slave of this name is here.
    pub(super) fn came_back(&mut self, name: &str) {
        let Some(away) = &mut self.away else { return };
        away.names.remove(name);
        if away.names.is_empty() {
            self.away = None;
        }
    }

    /// Waits no longer for slaves than is sensible.
    pub(super) fn look_for_slaves(&mut self, now: Duration) {
        if self.away.as_ref().is_some_and(|away| now >= away.until) {
            self.away = None;
            self.unplaced = true;
        }
    }
}
