//! What the lock of a stage run guards: its clocks, what its shard keeps, who waits.
//!
//! Invariant: whoever may go on, to a clock or with a read, sees all that its consistency model says.

use crate::consistency::{Arrivals, Clocks, ENDED, News, Party, Pending};
use crate::stage::exchange::{Need, Told, Update};
use crate::stage::mark::Mark;
use flexps_common::error::Error;
use flexps_common::pace::Pace;
use flexps_common::siblings::AS_OFTEN;
use tokio::sync::oneshot;

/// See the module.
pub(super) struct State {
    pub(super) clocks: Clocks,
    pub(super) pending: Pending<Vec<Update>>,
    /// Updates of clocks below this one are in the shard.
    pub(super) applied: u64,
    /// Somebody applies updates right now, without holding the lock.
    pub(super) applying: bool,
    /// The snapshot that is to be taken.
    pub(super) mark: Mark,
    /// The first error, or why the run was cancelled.
    pub(super) error: Option<Error>,
    /// Why an update that was kept is not in the shard.
    pub(super) lost: Option<Error>,
    /// By worker here: whether it waits to go on.
    pub(super) waits: Vec<bool>,
    /// What waiting workers were last looked at for: the least clock, and how far updates are applied.
    pub(super) looked: (u64, u64),
    pub(super) arrivals: Arrivals,
    /// Reads from other slaves that wait.
    pub(super) readers: Vec<(Need, oneshot::Sender<u64>)>,
    /// How the workers here kept in step so far.
    pub(super) pace: Pace,
}

impl State {
    /// News with the number of updates that each slave was sent until then.
    pub(super) fn told_with(&mut self, news: News) -> Told {
        Told { updates: self.arrivals.sent_below(news.clock), news }
    }

    /// What others are told once the run is cancelled: what was lost, which their slaves may not know of.
    pub(super) fn broken(&self) -> Error {
        self.lost.clone().unwrap_or_else(Error::cancelled)
    }

    pub(super) fn meets(&self, need: &Need) -> bool {
        self.applied >= self.clocks.due().min(need.clock)
            && self.clocks.shows(need.clock)
            && need.seen.workers.iter().all(|(worker, clock, sent)| self.arrivals.of(*worker, *clock) >= *sent)
            && need.seen.slaves.iter().all(|(slave, clock)| self.clocks.has_told(*slave, *clock))
    }

    /// Lets the reads go on that now see what they must.
    pub(super) fn answer_readers(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let mut readers = std::mem::take(&mut self.readers);
        for (_, reader) in readers.extract_if(.., |(need, _)| self.meets(need)) {
            // A reader that has gone needs no answer.
            let _ = reader.send(self.clocks.least());
        }
        self.readers = readers;
    }

    /// The error of a worker that waits in a sum for a sibling that can't come to it: one that may not begin its clock before
    /// the other has ended its own.
    pub(super) fn tangled(&mut self, summing: &[usize]) -> Option<Error> {
        let siblings = 0..self.waits.len();
        let mut held_back = |worker| siblings.clone().find(|sibling| self.is_held_back(*sibling, worker));
        let (worker, sibling) = summing.iter().find_map(|worker| Some((*worker, held_back(*worker)?)))?;
        Some(Error::bug(format!(
            "no worker can go on: one at clock {} waits in sum_local for a sibling at clock {}, which may not go on before that \
             has ended its own; {AS_OFTEN}",
            self.clocks.of(worker),
            self.clocks.of(sibling)
        )))
    }

    /// Whether a worker here can't begin its clock before `other` has ended its own: whatever the keys, or since it waits
    /// already and they meet.
    fn is_held_back(&mut self, worker: usize, other: usize) -> bool {
        let waits_for = |(party, _): &(Party, u64)| *party == Party::Worker(other);
        self.clocks.of(worker) < ENDED
            && (self.clocks.must_wait_for(worker, other)
                || (self.waits[worker] && self.clocks.waits_for(worker).iter().any(waits_for)))
    }

    /// Whether a worker here may begin its present clock; counts that it does.
    pub(super) fn grant(&mut self, worker: usize) -> bool {
        let clock = self.clocks.of(worker);
        if self.applied < clock || !self.clocks.may_go_on(worker) {
            return false;
        }
        self.pace.began(clock - self.clocks.least());
        true
    }
}
