//! Backfill (EASY, Lifka 1995): stages go in order of priority and age; the first that does not fit gets a reservation at
//! once, with the time at which its slots will be free by the estimates of what runs. A lesser stage may start beside it if
//! it ends before that time, or if it leaves enough slots for it. A stage without an estimate counts as one without end.
//!
//! Invariant: with estimates that are not too short, a stage that has a reservation starts at its time or before.

use super::order::{Patience, Walk};
use super::{Decision, Free, Policy, Ready, Reservation, View, Why, reserve};
use flexps_common::ids::JobId;
use std::cmp::Reverse;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backfill {
    /// When a stage goes before those of a higher priority.
    pub patience: Patience,
}

impl Policy for Backfill {
    fn name(&self) -> &'static str {
        "backfill"
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let mut walk = Walk::new(view);
        let mut head = Head::of(&mut walk);
        let kept = head.key();
        let could = |r: &Ready, free: &Free<'_>| u64::from(r.want.least()) <= free.total();
        // When nothing else could start, there is nobody to hold slots back from.
        if view.ready.iter().any(|r| Some(r.key()) != kept && could(r, &walk.free)) {
            let mut order: Vec<&Ready> = view.ready.iter().filter(|r| Some(r.key()) != kept).collect();
            let over = |r: &Ready| self.patience.is_over(r, view.now);
            order.sort_unstable_by_key(|r| match over(r) {
                true => (false, Reverse(0), Reverse(0), r.since, r.key()),
                false => (true, Reverse(r.priority), Reverse(r.passed_over), r.since, r.key()),
            });
            for ready in order {
                if walk.had_reservation(ready) {
                    continue;
                }
                if !could(ready, &walk.free) && !matches!(head, Head::Nobody) {
                    continue;
                }
                head = head.resolve(&walk);
                match &mut head {
                    Head::Holes(holes) => holes.fill(&mut walk, ready),
                    _ if walk.place(ready) => {}
                    _ => head = Head::Waits(ready),
                }
            }
        }
        walk.decision.reserved = match head {
            Head::Holes(holes) => vec![holes.reservation],
            Head::Kept(reservation, _) => vec![reservation],
            Head::Waits(_) | Head::Nobody => Vec::new(),
        };
        walk.decision
    }
}

/// The first that does not fit. What is held back for it is worked out only when somebody could take it.
enum Head<'a> {
    /// All fitted so far.
    Nobody,
    /// It has no reservation yet.
    Waits(&'a Ready),
    /// It has one from an earlier decision.
    Kept(Reservation, &'a Ready),
    /// It has one, and others may run beside it.
    Holes(Box<Holes<'a>>),
}

impl<'a> Head<'a> {
    /// Places the stage that has a reservation, or keeps it.
    fn of(walk: &mut Walk<'a>) -> Self {
        let view = walk.view;
        let Some(reservation) = view.reserved.first() else { return Self::Nobody };
        let Some(ready) = view.reserved_for(reservation) else { return Self::Nobody };
        if !reserve::stands(view, reservation, ready) {
            return Self::Nobody;
        }
        if walk.free.has(&reservation.workers, ready.memory) {
            walk.put(ready, reservation.workers.clone(), Why::Wanted);
            walk.know(ready);
            return Self::Nobody;
        }
        if walk.place(ready) {
            walk.know(ready);
            return Self::Nobody;
        }
        Self::Kept(reservation.clone(), ready)
    }

    /// The stage that has a reservation already.
    fn key(&self) -> Option<(JobId, u32)> {
        if let Self::Kept(_, ready) = self { Some(ready.key()) } else { None }
    }

    /// Works out what is held back.
    fn resolve(self, walk: &Walk<'a>) -> Self {
        let (reservation, memory) = match self {
            Self::Kept(reservation, ready) => {
                let at = reserve::when(walk.view, &walk.begun, &reservation.workers);
                (Some(Reservation { at, ..reservation }), ready.memory)
            }
            Self::Waits(ready) => (reserve::choose(walk.view, &[], &walk.begun, ready), ready.memory),
            other => return other,
        };
        // One that would not fit on an idle cluster either holds nobody back.
        reservation.map_or(Self::Nobody, |r| Self::Holes(Box::new(Holes::around(walk, r, memory))))
    }
}

/// What lesser stages may use beside a reservation.
struct Holes<'a> {
    reservation: Reservation,
    /// Slots for those that end later than the reservation begins.
    long: Free<'a>,
    /// Per slave: slots that will be over when the reservation begins.
    spare: Vec<u32>,
}

impl<'a> Holes<'a> {
    fn around(walk: &Walk<'a>, reservation: Reservation, memory: u64) -> Self {
        let view = walk.view;
        let mut spare = vec![u32::MAX; view.slaves.len()];
        for (id, n) in &reservation.workers {
            if let Some(place) = walk.free.place(*id) {
                spare[place] = view.slaves[place].slots.saturating_sub(*n);
            }
        }
        let later = |until: Option<Duration>| match (until, reservation.at) {
            (Some(until), Some(at)) => until.max(view.now) > at,
            _ => true,
        };
        for run in view.running.values().chain(&walk.begun).filter(|run| later(run.until)) {
            for (id, n) in &run.workers {
                if let Some(place) = walk.free.place(*id).filter(|p| spare[*p] < u32::MAX) {
                    spare[place] = spare[place].saturating_sub(*n);
                }
            }
        }
        let free = walk.free.free.iter().zip(&spare).map(|(free, spare)| *free.min(spare)).collect();
        let mut long = Free::with(view.slaves, free);
        for run in &walk.begun {
            long.take_memory(&run.workers, run.memory);
        }
        long.take_memory(&reservation.workers, memory);
        Self { reservation, long, spare }
    }

    fn fill(&mut self, walk: &mut Walk<'_>, ready: &Ready) {
        let ends = ready.estimate.map(|e| walk.view.now.saturating_add(e));
        let in_time = ends.zip(self.reservation.at).is_some_and(|(ends, at)| ends <= at);
        let fit = if in_time { walk.free.fit(ready) } else { self.long.fit(ready) };
        let Some((workers, why)) = fit else { return };
        for (id, n) in &workers {
            let Some(place) = walk.free.place(*id) else { continue };
            let free = walk.free.free[place].saturating_sub(*n);
            if !in_time {
                self.spare[place] = self.spare[place].saturating_sub(*n);
            }
            self.long.lower(place, free.min(self.spare[place]));
        }
        self.long.take_memory(&workers, ready.memory);
        walk.put(ready, workers, why);
    }
}
