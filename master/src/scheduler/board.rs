//! The books around a policy: slots, ready stages, what runs, reservations and shares, kept from decision to decision. The
//! simulator and replay hold one; the live master keeps the same books over its slaves and jobs.
//!
//! Invariants: `ready` is in order of submission; a slave's free slots are its slots less those of what runs on it.

use super::{Placement, Policy, Ready, Reservation, Running, Runs, Share, Slots, View};
use flexps_common::ids::{JobId, SlaveId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    slaves: Vec<Slots>,
    ready: Vec<Ready>,
    started: Vec<JobId>,
    /// Jobs whose first placement only opens them.
    closed: BTreeSet<JobId>,
    /// Jobs that are being opened. The stage that was placed stands in `ready` until then, so that no policy gives its slots to
    /// one that comes after it.
    opening: BTreeSet<JobId>,
    running: Runs,
    reserved: Vec<Reservation>,
    shares: Vec<Share>,
}

impl Board {
    /// A board without slaves and stages.
    pub fn new(shares: Vec<Share>) -> Self {
        Self { shares, ..Self::default() }
    }

    /// A slave joins.
    pub fn join(&mut self, id: SlaveId, slots: u32, memory: u64) {
        let at = self.slaves.partition_point(|s| s.id < id);
        self.slaves.insert(at, Slots { id, slots, free: slots, cores: slots, memory });
    }

    /// A slave is gone; what ran there is ended by whoever knows of it. The stages that wait for slaves of the list `before`
    /// may use `left`.
    pub fn leave(&mut self, id: SlaveId, before: &Arc<[SlaveId]>, left: &Arc<[SlaveId]>) {
        self.slaves.retain(|s| s.id != id);
        self.replace(before, left);
    }

    /// The stages that wait for slaves of the list `before` may use `now`.
    pub fn replace(&mut self, before: &Arc<[SlaveId]>, now: &Arc<[SlaveId]>) {
        for ready in self.ready.iter_mut().filter(|ready| Arc::ptr_eq(&ready.slaves, before)) {
            ready.slaves = now.clone();
        }
    }

    /// A stage waits for its slots; its job is open.
    pub fn add(&mut self, ready: Ready) {
        if self.opening.remove(&ready.job) {
            self.ready.retain(|r| r.job != ready.job);
        }
        let at = self.ready.partition_point(|r| r.key() < ready.key());
        self.ready.insert(at, ready);
    }

    /// A job must be opened on its slaves before a stage of it can run. What is placed of it first takes no slots and
    /// overtakes nobody, but keeps its turn: it is to be added again once the job is open.
    pub fn must_open(&mut self, job: JobId) {
        self.closed.insert(job);
    }

    /// A job has ended.
    pub fn job_ended(&mut self, job: JobId) {
        self.started.retain(|j| *j != job);
    }

    /// A stage has ended: its slots are free.
    pub fn ended(&mut self, job: JobId, stage: u32, now: Duration) -> Option<Running> {
        let run = self.running.remove(&(job, stage))?;
        self.free(&run, &run.workers, now);
        Some(run)
    }

    /// A stage has ended on one of its slaves.
    pub fn ended_on(&mut self, job: JobId, stage: u32, slave: SlaveId, now: Duration) {
        let Some(run) = self.running.get_mut(&(job, stage)) else { return };
        let (there, left) = run.workers.iter().partition(|(id, _)| *id == slave);
        run.workers = left;
        let run = run.clone();
        self.free(&run, &there, now);
    }

    fn free(&mut self, run: &Running, workers: &[(SlaveId, u32)], now: Duration) {
        for (id, n) in workers {
            if let Some(slave) = slave(&mut self.slaves, *id) {
                slave.free += n;
                slave.memory = slave.memory.saturating_add(run.memory);
            }
        }
        if let Some(share) = self.shares.get_mut(run.owner as usize) {
            let slots: u32 = workers.iter().map(|(_, n)| n).sum();
            share.slots -= slots;
            share.used += f64::from(slots) * now.saturating_sub(run.since).as_secs_f64();
        }
    }

    /// The stages that wait, in order of submission.
    pub fn waiting(&self) -> &[Ready] {
        &self.ready
    }

    /// Asks anew how long each stage that waits will run.
    pub fn estimate(&mut self, mut of: impl FnMut(&Ready) -> Option<Duration>) {
        for ready in &mut self.ready {
            ready.estimate = of(ready);
        }
    }

    /// A stage that runs is known to end then.
    pub fn expect(&mut self, key: (JobId, u32), until: Option<Duration>) {
        if let Some(run) = self.running.get_mut(&key) {
            run.until = until;
        }
    }

    /// What is held back.
    pub fn reserved(&self) -> &[Reservation] {
        &self.reserved
    }

    /// The slaves, by identity.
    pub fn slaves(&self) -> &[Slots] {
        &self.slaves
    }

    /// Asks the policy, and books what it places. The second of each pair is the stage as it waited.
    pub fn decide(&mut self, policy: &dyn Policy, now: Duration) -> Vec<(Placement, Ready)> {
        if self.ready.is_empty() {
            return Vec::new();
        }
        let decision = policy.decide(&View {
            now,
            slaves: &self.slaves,
            ready: &self.ready,
            started: &self.started,
            running: &self.running,
            reserved: &self.reserved,
            shares: &self.shares,
        });
        self.reserved = decision.reserved;
        let mut placed = Vec::with_capacity(decision.placed.len());
        let mut opens = BTreeSet::new();
        for placement in decision.placed {
            let key = (placement.job, placement.stage);
            if self.opening.contains(&placement.job) {
                continue;
            }
            let Ok(at) = self.ready.binary_search_by_key(&key, Ready::key) else { continue };
            let ready = self.ready[at].clone();
            if self.closed.remove(&placement.job) {
                self.start(placement.job);
                self.opening.insert(placement.job);
                opens.insert(key);
            } else {
                self.book(&placement, &ready, now);
            }
            placed.push((placement, ready));
        }
        if !placed.is_empty() {
            let mut gone: Vec<_> = placed.iter().map(|(_, r)| r.key()).filter(|key| !opens.contains(key)).collect();
            gone.sort_unstable();
            match gone.as_slice() {
                // Mostly one: the others move once, as one piece.
                [one] => {
                    if let Ok(at) = self.ready.binary_search_by_key(one, Ready::key) {
                        self.ready.remove(at);
                    }
                }
                gone => self.ready.retain(|r| gone.binary_search(&r.key()).is_err()),
            }
            let begun = placed.iter().map(|(_, r)| r).filter(|r| !opens.contains(&r.key()));
            note_overtaken(&mut self.ready, begun);
        }
        placed
    }

    fn book(&mut self, placement: &Placement, ready: &Ready, now: Duration) {
        for (id, n) in &placement.workers {
            if let Some(slave) = slave(&mut self.slaves, *id) {
                slave.free = slave.free.saturating_sub(*n);
                slave.memory = slave.memory.saturating_sub(ready.memory);
            }
        }
        let until = ready.estimate.map(|e| now.saturating_add(e));
        let workers = placement.workers.clone();
        let run = Running { owner: ready.owner, workers, memory: ready.memory, since: now, until };
        if let Some(share) = self.shares.get_mut(ready.owner as usize) {
            share.slots += run.slots();
        }
        self.running.insert(ready.key(), run);
        self.start(ready.job);
    }

    fn start(&mut self, job: JobId) {
        if let Err(at) = self.started.binary_search(&job) {
            self.started.insert(at, job);
        }
    }
}

fn slave(slaves: &mut [Slots], id: SlaveId) -> Option<&mut Slots> {
    let at = slaves.binary_search_by_key(&id, |s| s.id).ok()?;
    slaves.get_mut(at)
}

/// Counts, for each stage that waits, the placed ones that became ready after it.
pub fn note_overtaken<'a>(waiting: &mut [Ready], placed: impl Iterator<Item = &'a Ready>) {
    let mut ages: Vec<_> = placed.map(|r| (r.since, r.key())).collect();
    ages.sort_unstable();
    for ready in waiting {
        let older = ages.partition_point(|age| *age < (ready.since, ready.key()));
        ready.passed_over = ready.passed_over.saturating_add((ages.len() - older) as u32);
    }
}
