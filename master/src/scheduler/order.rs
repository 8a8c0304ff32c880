//! What policies with reservations have in common: whose patience is at its end, and the walk over stages that places them
//! or holds slots back for them.
//!
//! Invariants: a reservation is kept from decision to decision until its stage is placed or gone, so the slots that it
//! names come free one by one and nobody takes them; they are given in order of age, and none is given past a stage that
//! can't have one yet, so the oldest of the impatient waits for stages that run already and for nothing else.

use super::{Decision, Free, Placement, Ready, Reservation, Running, View, reserve};
use flexps_common::ids::JobId;
use rustc_hash::FxHashSet;
use std::time::Duration;

/// Most reservations at once: each needs slots that others could use.
const RESERVATIONS: usize = 8;

/// How long a stage lets others go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often a stage that became ready later may be placed before it.
    pub times: u32,
    /// How long it waits once that happened at all.
    pub time: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { times: 16, time: Duration::from_secs(60) }
    }
}

impl Patience {
    /// Whether a stage was passed over too often, or for too long.
    pub fn is_over(&self, ready: &Ready, now: Duration) -> bool {
        let waited = now.saturating_sub(ready.since);
        ready.passed_over > self.times || (ready.passed_over > 0 && waited >= self.time)
    }
}

/// A decision under construction.
pub(super) struct Walk<'a> {
    pub view: &'a View<'a>,
    pub free: Free<'a>,
    pub decision: Decision,
    /// What was placed in this decision, as it will run.
    pub begun: Vec<Running>,
    /// The stages that had a reservation, placed or not.
    known: FxHashSet<(JobId, u32)>,
}

impl<'a> Walk<'a> {
    pub fn new(view: &'a View<'a>) -> Self {
        let (decision, begun, known) = Default::default();
        Self { view, free: Free::of(view), decision, begun, known }
    }

    /// Whether the stage had a reservation when the walk began.
    pub fn had_reservation(&self, ready: &Ready) -> bool {
        !self.known.is_empty() && self.known.contains(&ready.key())
    }

    /// Remembers that the stage had a reservation.
    pub fn know(&mut self, ready: &Ready) {
        self.known.insert(ready.key());
    }

    /// Places those that have a reservation and fit, and holds the slots of the others.
    pub fn reservations(&mut self) {
        let view = self.view;
        for reservation in view.reserved {
            let found = view.reserved_for(reservation);
            let Some(ready) = found.filter(|ready| reserve::stands(view, reservation, ready)) else {
                continue;
            };
            self.know(ready);
            if self.free.has(&reservation.workers, ready.memory) {
                self.put(ready, reservation.workers.clone(), super::Why::Wanted);
            } else {
                let at = reserve::when(view, &self.begun, &reservation.workers);
                self.hold(Reservation { at, ..reservation.clone() }, ready.memory);
            }
        }
        // Elsewhere, only once all that is held is out of reach: what one gets may not be what another was promised.
        for reservation in std::mem::take(&mut self.decision.reserved) {
            if !view.reserved_for(&reservation).is_some_and(|ready| self.place(ready)) {
                self.decision.reserved.push(reservation);
            }
        }
    }

    /// Places the stage if it fits into what is free and not held.
    pub fn place(&mut self, ready: &Ready) -> bool {
        let Some((workers, why)) = self.free.fit(ready) else { return false };
        self.put(ready, workers, why);
        true
    }

    /// Places the stage there.
    pub fn put(&mut self, ready: &Ready, workers: Vec<(flexps_common::ids::SlaveId, u32)>, why: super::Why) {
        self.free.take(&workers);
        self.free.take_memory(&workers, ready.memory);
        let (now, memory) = (self.view.now, ready.memory);
        let until = ready.estimate.map(|e| now.saturating_add(e));
        self.begun.push(Running { owner: ready.owner, workers: workers.clone(), memory, since: now, until });
        self.decision.placed.push(Placement { job: ready.job, stage: ready.stage, workers, why });
    }

    /// Gives the stage a reservation; false when what is not reserved yet does not suffice.
    pub fn reserve(&mut self, ready: &Ready) -> bool {
        if self.decision.reserved.len() >= RESERVATIONS {
            return false;
        }
        let found = reserve::choose(self.view, &self.decision.reserved, &self.begun, ready);
        found.is_some_and(|reservation| {
            self.hold(reservation, ready.memory);
            true
        })
    }

    /// The impatient go before all others, the oldest first; a priority could hold one of them back for ever.
    pub fn impatient(&mut self, patience: Patience) {
        let now = self.view.now;
        let mut impatient: Vec<&Ready> =
            self.view.ready.iter().filter(|r| patience.is_over(r, now) && !self.had_reservation(r)).collect();
        impatient.sort_unstable_by_key(|r| (r.since, r.key()));
        let mut full = false;
        for ready in impatient {
            if !self.place(ready) && !full {
                full = !self.reserve(ready) && reserve::ever_fits(self.view, ready);
            }
        }
    }

    /// A walk after the reservations and the impatient, and those whose turn it then is: the patient for whom there are
    /// slots, in the view's order.
    pub fn with_patience(view: &'a View<'a>, patience: Patience) -> (Self, Vec<&'a Ready>) {
        let mut walk = Self::new(view);
        walk.reservations();
        walk.impatient(patience);
        let total = walk.free.total();
        let fits = |r: &&Ready| u64::from(r.want.least()) <= total && !patience.is_over(r, view.now);
        let patient = view.ready.iter().filter(fits).filter(|r| !walk.had_reservation(r)).collect();
        (walk, patient)
    }

    fn hold(&mut self, reservation: Reservation, memory: u64) {
        self.free.take(&reservation.workers);
        self.free.take_memory(&reservation.workers, memory);
        self.decision.reserved.push(reservation);
    }
}
