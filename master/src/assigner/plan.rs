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

/// Assigns the splits `which` on top of the bytes that are `planned` already, each to a reader to which it is nearest. Splits
/// with the fewest such readers go first, so that they don't find their only one taken up by what others could have read;
/// then readers pass on splits until none can be relieved.
pub fn assign(
    which: &[usize],
    splits: &[Split],
    readers: &[Reader],
    racks: &Racks,
    mut planned: BTreeMap<SlaveId, u64>,
) -> BTreeMap<SlaveId, Vec<usize>> {
    let mut order: Vec<(Distance, usize, usize)> = Vec::with_capacity(which.len());
    for index in which {
        let distances = readers.iter().map(|r| distance(r, &splits[*index], racks));
        let nearest = distances.clone().min().unwrap_or(Distance::Far);
        order.push((nearest, distances.filter(|d| *d == nearest).count(), *index));
    }
    order.sort_unstable();
    let mut loads = Loads {
        bytes: readers.iter().map(|r| planned.remove(&r.slave).unwrap_or(0)).collect(),
        splits: readers.iter().map(|_| Vec::new()).collect(),
    };
    for (nearest, _, index) in order {
        let near = |at: &usize| distance(&readers[*at], &splits[index], racks) == nearest;
        let candidates = (0..readers.len()).filter(near);
        let Some(reader) = candidates.clone().min_by_key(|at| loads.bytes[*at]) else { continue };
        let bytes = splits[index].end - splits[index].start;
        // Those that are on no reader's host come last, and fill up who has least.
        let local = if nearest == Distance::Local { candidates.collect() } else { Vec::new() };
        loads.bytes[reader] += bytes;
        loads.splits[reader].push(Load { index, bytes, local });
    }
    loads.balance();
    let indices = |splits: Vec<Load>| {
        let mut indices: Vec<usize> = splits.into_iter().map(|split| split.index).collect();
        indices.sort_unstable();
        indices
    };
    let assigned = readers.iter().zip(loads.splits).map(|(reader, splits)| (reader.slave, indices(splits)));
    assigned.filter(|(_, indices)| !indices.is_empty()).collect()
}

/// A split that is planned for a reader, and the readers on whose host it is, by their places.
struct Load {
    index: usize,
    bytes: u64,
    local: Vec<usize>,
}

/// What is planned for each reader, by its place.
struct Loads {
    bytes: Vec<u64>,
    splits: Vec<Vec<Load>>,
}

/// A split that is passed on: who gives, its place among that reader's own, who takes.
type Passed = (usize, usize, usize);

impl Loads {
    /// Relieves the fullest reader by a split that another one then has on its own host, who may pass on one of its own, and
    /// so on, as long as nobody then has as much as the fullest had who had less before.
    fn balance(&mut self) {
        // More than some for each reader are not worth the planning.
        for _ in 0..4 * self.bytes.len() {
            let Some(fullest) = (0..self.bytes.len()).max_by_key(|at| self.bytes[*at]) else { return };
            let Some(way) = self.way_from(fullest) else { return };
            for (giver, place, taker) in way {
                let split = self.splits[giver].swap_remove(place);
                self.bytes[giver] -= split.bytes;
                self.bytes[taker] += split.bytes;
                self.splits[taker].push(split);
            }
        }
    }

    /// The shortest such way, its last step first, so that each reader passes on what it had before.
    fn way_from(&self, fullest: usize) -> Option<Vec<Passed>> {
        let most = self.bytes[fullest];
        let mut got: Vec<Option<Passed>> = vec![None; self.bytes.len()];
        let mut next = VecDeque::from([fullest]);
        while let Some(giver) = next.pop_front() {
            let more = got[giver].map_or(0, |(from, place, _)| self.splits[from][place].bytes);
            for (place, split) in self.splits[giver].iter().enumerate() {
                let then = (self.bytes[giver] + more).saturating_sub(split.bytes);
                if then >= most && then > self.bytes[giver] {
                    continue;
                }
                for taker in split.local.iter().copied() {
                    if taker == fullest || got[taker].is_some() {
                        continue;
                    }
                    got[taker] = Some((giver, place, taker));
                    if self.bytes[taker] + split.bytes < most {
                        let back = |(giver, ..): &Passed| got[*giver];
                        return Some(std::iter::successors(got[taker], back).collect());
                    }
                    next.push_back(taker);
                }
            }
        }
        None
    }
}
