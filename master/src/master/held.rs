//! Queued jobs for which slots are held: which slaves are the best for a job is another answer after each event, and a job that
//! followed it would leave what came free for it to others, again and again.
//!
//! Invariant: such a job leaves its slaves only for as many others on which it starts at once, past all that is held for others,
//! or where the job would use more or fewer of them now.

use super::Master;
use crate::job::admission::Candidate;
use crate::scheduler::{Free, Ready, Reservation, Slots, View};
use flexps_common::ids::{JobId, SlaveId};
use std::sync::Arc;
use std::time::Duration;

impl Master {
    /// The stage of a queued job that would run first, as a policy sees it: on `best`, the slaves that it would use as things
    /// are now, or on those where slots are held for it.
    pub(super) fn queued(&mut self, id: JobId, best: Arc<[SlaveId]>, now: Duration) -> Option<Ready> {
        let job = self.jobs.get_mut(&id)?;
        let queued = job.queued;
        let before = std::mem::replace(&mut job.slaves, best);
        let ready = self.wanted(id, 0, queued, now)?;
        let job = self.jobs.get(&id)?;
        let held = self.books.reserved.iter().position(|r| (r.job, r.stage) == ready.key());
        let live = |id: &SlaveId| self.slaves.get(*id).is_some();
        let others = before.len() == job.slaves.len() && before != job.slaves;
        let Some(held) = held.filter(|_| others && before.iter().all(live)) else { return Some(ready) };
        if let Some(workers) = self.room(&ready) {
            // So that no other one moves there too.
            self.books.reserved[held].workers = workers;
            return Some(ready);
        }
        self.jobs.get_mut(&id)?.slaves = before;
        self.wanted(id, 0, queued, now)
    }

    /// The live slaves, without what is held on them: whoever has a choice goes where nothing is.
    pub(super) fn unheld(&self) -> Vec<Candidate> {
        let mut candidates = self.candidates();
        for reservation in &self.books.reserved {
            let memory = self.memory_of(reservation);
            for (id, n) in &reservation.workers {
                if let Some(candidate) = candidates.iter_mut().find(|c| c.id == *id) {
                    candidate.free = candidate.free.saturating_sub(*n);
                    candidate.memory_left = candidate.memory_left.saturating_sub(memory);
                }
            }
        }
        candidates
    }

    /// Where the stage would start now, past what is held for others.
    fn room(&self, ready: &Ready) -> Option<Vec<(SlaveId, u32)>> {
        let slots: Vec<Slots> = self.slaves.iter().map(|(id, slave)| slave.as_seen(id)).collect();
        let (running, now) = (&self.books.running, self.now);
        let view = View { now, slaves: &slots, ready: &[], started: &[], running, reserved: &[], shares: &[] };
        let mut free = Free::of(&view);
        for other in self.books.reserved.iter().filter(|r| (r.job, r.stage) != ready.key()) {
            free.take(&other.workers);
            free.take_memory(&other.workers, self.memory_of(other));
        }
        free.fit(ready).map(|(workers, _)| workers)
    }

    /// Bytes that the stage of a reservation asks for on each of its slaves.
    fn memory_of(&self, reservation: &Reservation) -> u64 {
        let job = self.jobs.get(&reservation.job);
        job.and_then(|job| job.plan.stage(reservation.stage)).map_or(0, |stage| stage.memory)
    }
}
