//! Which slots are held back for a stage, and when they will all be free.
//!
//! Invariant: reservations never overlap: on each slave their threads together are at most its slots.

use super::view::place_of;
use super::{Free, Ready, Reservation, Running, View, Want};
use flexps_common::ids::SlaveId;
use std::time::Duration;

/// Whether a reservation can still be honoured where it was made: the slaves that its stage may use may be others since.
pub fn stands(view: &View<'_>, reservation: &Reservation, ready: &Ready) -> bool {
    let workers = &reservation.workers;
    let slots = |id: SlaveId| place_of(view.slaves, id).map_or(0, |place| view.slaves[place].slots);
    let everywhere = match ready.want {
        Want::Spread { each, .. } | Want::Range { each, .. } => each > 0,
        Want::PerSlave(_) | Want::All | Want::Cores => true,
        Want::OneSlave(_) => false,
    };
    // Both are in shard order.
    let mut own = ready.slaves.iter();
    workers.iter().all(|(id, n)| slots(*id) >= *n && own.any(|other| other == id))
        && (!everywhere || workers.len() == ready.slaves.len())
}

/// Whether the stage fits once nothing runs.
pub fn ever_fits(view: &View<'_>, ready: &Ready) -> bool {
    let all = view.slaves.iter().map(|s| s.slots).collect();
    Free::with(view.slaves, all).with_memory(all_memory(view)).fit(ready).is_some()
}

/// Each slave's memory once nothing runs.
fn all_memory(view: &View<'_>) -> Vec<u64> {
    let mut memory: Vec<u64> = view.slaves.iter().map(|s| s.memory).collect();
    for run in view.running.values().filter(|run| run.memory > 0) {
        for (id, _) in &run.workers {
            if let Some(place) = place_of(view.slaves, *id) {
                memory[place] = memory[place].saturating_add(run.memory);
            }
        }
    }
    memory
}

/// The slots with which the stage can start first: those that are free now and those of the stages that end first, except
/// what is held for others. `begun` runs too. None when even all of that is too little.
pub fn choose(view: &View<'_>, held: &[Reservation], begun: &[Running], ready: &Ready) -> Option<Reservation> {
    let mut potential: Vec<u32> = view.slaves.iter().map(|s| s.slots).collect();
    let place = |id: &SlaveId| place_of(view.slaves, *id);
    for (id, n) in held.iter().flat_map(|r| &r.workers) {
        if let Some(place) = place(id) {
            potential[place] = potential[place].saturating_sub(*n);
        }
    }
    // What ends, the earliest first; those of which nobody knows come last.
    let mut ends: Vec<(Duration, usize, u32)> = Vec::new();
    for run in view.running.values().chain(begun) {
        let until = run.until.map_or(Duration::MAX, |until| until.max(view.now));
        ends.extend(run.workers.iter().filter_map(|(id, n)| Some((until, place(id)?, *n))));
    }
    ends.sort_unstable();
    let memory = all_memory(view);
    let with = |ended: usize| {
        let mut free = potential.clone();
        for (_, place, n) in &ends[ended..] {
            free[*place] = free[*place].saturating_sub(*n);
        }
        Free::with(view.slaves, free).with_memory(memory.clone()).fit(ready)
    };
    with(ends.len())?;
    let (mut least, mut most) = (0, ends.len());
    while least < most {
        let middle = (least + most) / 2;
        if with(middle).is_some() { most = middle } else { least = middle + 1 }
    }
    let (workers, _) = with(least)?;
    let at = least.checked_sub(1).map_or(view.now, |last| ends[last].0);
    Some(Reservation { job: ready.job, stage: ready.stage, workers, at: (at < Duration::MAX).then_some(at) })
}

/// When these slots will all be free, if nobody else takes any: the latest of the slaves' times. None when history does not
/// say so.
pub fn when(view: &View<'_>, begun: &[Running], workers: &[(SlaveId, u32)]) -> Option<Duration> {
    let mut latest = view.now;
    let mut ends: Vec<Vec<(Duration, u32)>> = vec![Vec::new(); workers.len()];
    let wanted: rustc_hash::FxHashMap<SlaveId, usize> = workers.iter().enumerate().map(|(i, w)| (w.0, i)).collect();
    for run in view.running.values().chain(begun) {
        for (id, n) in &run.workers {
            if let Some(i) = wanted.get(id) {
                ends[*i].push((run.until.map_or(Duration::MAX, |until| until.max(view.now)), *n));
            }
        }
    }
    for ((id, n), mut ends) in workers.iter().zip(ends) {
        let place = place_of(view.slaves, *id)?;
        let busy: u32 = ends.iter().map(|(_, n)| n).sum();
        let mut free = view.slaves[place].slots.saturating_sub(busy);
        ends.sort_unstable();
        for (until, more) in ends {
            if free >= *n {
                break;
            }
            free += more;
            latest = latest.max(until);
        }
    }
    (latest < Duration::MAX).then_some(latest)
}
