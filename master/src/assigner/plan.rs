//! Planned queues: which slave is to read which split when all go on at the same speed.
//!
//! Invariant: depends on splits, readers and racks alone, so the same cluster plans the same queues.

use super::{Racks, Reader};
use flexps_common::ids::SlaveId;
use flexps_common::wire::control::Split;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, VecDeque};

/// How far a split's bytes are from a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// On its host.
    Local,
    /// On a host of its rack.
    Rack,
    /// Elsewhere, or nobody knows.
    Far,
}

/// How far `split` is from `reader`.
pub fn distance(reader: &Reader, split: &Split, racks: &Racks) -> Distance {
    if split.hosts.contains(&reader.host) {
        return Distance::Local;
    }
    match racks.get(&reader.host) {
        Some(rack) if split.hosts.iter().any(|h| racks.get(h) == Some(rack)) => Distance::Rack,
        _ => Distance::Far,
    }
}

/// How far each split is from the nearest of `readers`.
pub fn nearest(splits: &[Split], readers: &[Reader], racks: &Racks) -> Vec<Distance> {
    let nearest = |split| readers.iter().map(|r| distance(r, split, racks)).min().unwrap_or(Distance::Far);
    splits.iter().map(nearest).collect()
}

/// The queues of all readers for all splits.
pub fn queues(splits: &[Split], readers: &[Reader], racks: &Racks) -> BTreeMap<SlaveId, VecDeque<usize>> {
    let all: Vec<usize> = (0..splits.len()).collect();
    let mut queues: BTreeMap<SlaveId, VecDeque<usize>> = readers.iter().map(|r| (r.slave, VecDeque::new())).collect();
    for (slave, more) in assign(&all, splits, readers, racks, BTreeMap::new()) {
        queues.entry(slave).or_default().extend(more);
    }
    queues
}

/// Queues by lot, of `splits` splits in all, equally many for each reader. The same lots each time.
pub fn by_lot(splits: usize, readers: &[Reader]) -> BTreeMap<SlaveId, VecDeque<usize>> {
    let mut lots: Vec<usize> = (0..splits).collect();
    lots.shuffle(&mut StdRng::seed_from_u64(splits as u64));
    let mut queues: BTreeMap<SlaveId, VecDeque<usize>> = readers.iter().map(|r| (r.slave, VecDeque::new())).collect();
    for (index, reader) in lots.into_iter().zip(readers.iter().cycle()) {
        queues.entry(reader.slave).or_default().push_back(index);
    }
    queues
}

/// Assigns the splits `which` on top of the bytes that are `planned` already. Local splits with the fewest holders go
/// first, so that they don't find their only holder taken up by what others could have read.
pub fn assign(
    which: &[usize],
    splits: &[Split],
    readers: &[Reader],
    racks: &Racks,
    mut planned: BTreeMap<SlaveId, u64>,
) -> BTreeMap<SlaveId, Vec<usize>> {
    let mut assigned: BTreeMap<SlaveId, Vec<usize>> = BTreeMap::new();
    let mut order: Vec<(Distance, usize, usize)> = Vec::with_capacity(which.len());
    for index in which {
        let distances = readers.iter().map(|r| distance(r, &splits[*index], racks));
        let nearest = distances.clone().min().unwrap_or(Distance::Far);
        order.push((nearest, distances.filter(|d| *d == nearest).count(), *index));
    }
    order.sort_unstable();
    for (nearest, _, index) in order {
        let candidates = readers.iter().filter(|r| distance(r, &splits[index], racks) == nearest);
        let least = candidates.min_by_key(|r| planned.get(&r.slave).copied().unwrap_or(0));
        if let Some(reader) = least {
            *planned.entry(reader.slave).or_default() += splits[index].end - splits[index].start;
            assigned.entry(reader.slave).or_default().push(index);
        }
    }
    for queue in assigned.values_mut() {
        queue.sort_unstable();
    }
    assigned
}
