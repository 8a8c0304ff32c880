//! The file assigner: cuts an input into splits and hands them to the slaves that ask. Pure: listing in, splits out.
//!
//! Invariant: each split is with exactly one slave or still to be handed out; none is lost, none is given twice.

mod cut;
mod plan;

pub use cut::{Source, cut};

use flexps_common::ids::SlaveId;
use flexps_common::wire::control::Split;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A slave that reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its identity.
    pub slave: SlaveId,
    /// The host whose blocks are local to it.
    pub host: String,
}

/// The rack of each host, where the storage knows it.
pub type Racks = BTreeMap<String, String>;

/// Hands out the splits of one input.
#[derive(Debug)]
pub struct Assigner {
    readers: Vec<Reader>,
    racks: Racks,
    splits: Vec<Split>,
    /// What each slave is to read, in this order, and has not taken yet.
    queues: BTreeMap<SlaveId, VecDeque<usize>>,
    taken: BTreeMap<SlaveId, Vec<usize>>,
    gone: BTreeSet<SlaveId>,
    reproducible: bool,
}

/// What was handed out so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handed {
    /// Splits.
    pub splits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of which on the reading slave's host.
    pub local_bytes: u64,
    /// Of which it is known where they lie.
    pub located_bytes: u64,
}

impl Assigner {
    /// Plans the queues: each split goes to the slave with the fewest planned bytes among those that hold it, or share a
    /// rack with a holder, or all; in order of the splits. `reproducible` keeps every slave to its own queue, so that a
    /// second run reads the same rows in the same places.
    pub fn new(splits: Vec<Split>, readers: Vec<Reader>, racks: Racks, reproducible: bool) -> Self {
        let queues = plan::queues(&splits, &readers, &racks);
        Self { readers, racks, splits, queues, taken: BTreeMap::new(), gone: BTreeSet::new(), reproducible }
    }

    /// The next split for `slave`: its own queue first; when that is empty, one from the queue with the most bytes left,
    /// local before rack-local before any.
    pub fn next(&mut self, slave: SlaveId) -> Option<Split> {
        if self.gone.contains(&slave) {
            return None;
        }
        let own = self.queues.get_mut(&slave)?.pop_front();
        let index = own.or_else(|| self.steal(slave))?;
        self.taken.entry(slave).or_default().push(index);
        Some(self.splits[index].clone())
    }

    /// What `slave` took and what was planned for it goes to the others.
    pub fn give_back(&mut self, slave: SlaveId) {
        self.gone.insert(slave);
        let mut back = self.taken.remove(&slave).unwrap_or_default();
        back.extend(self.queues.remove(&slave).unwrap_or_default());
        back.sort_unstable();
        let left: Vec<Reader> = self.readers.iter().filter(|r| !self.gone.contains(&r.slave)).cloned().collect();
        let planned: BTreeMap<SlaveId, u64> = left.iter().map(|r| (r.slave, self.planned_bytes(r.slave))).collect();
        for (slave, more) in plan::assign(&back, &self.splits, &left, &self.racks, planned) {
            self.queues.entry(slave).or_default().extend(more);
        }
    }

    /// All splits, by index.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Whether all splits are handed out.
    pub fn exhausted(&self) -> bool {
        self.queues.values().all(VecDeque::is_empty)
    }

    /// What was handed out so far.
    pub fn handed(&self) -> Handed {
        let mut sum = Handed::default();
        for (slave, taken) in &self.taken {
            for split in taken.iter().map(|i| &self.splits[*i]) {
                sum.splits += 1;
                sum.bytes += split.end - split.start;
                let local = self.local(*slave, split);
                sum.local_bytes += if local { split.end - split.start } else { 0 };
                sum.located_bytes += if local || !split.hosts.is_empty() { split.end - split.start } else { 0 };
            }
        }
        sum
    }

    /// Bytes of all splits that lie on a slave's host.
    pub fn local_bytes(&self, slave: SlaveId) -> u64 {
        self.splits.iter().filter(|split| self.local(slave, split)).map(|split| split.end - split.start).sum()
    }

    fn planned_bytes(&self, slave: SlaveId) -> u64 {
        let queued = self.queues.get(&slave).into_iter().flatten();
        let taken = self.taken.get(&slave).into_iter().flatten();
        queued.chain(taken).map(|i| self.splits[*i].end - self.splits[*i].start).sum()
    }

    fn local(&self, slave: SlaveId, split: &Split) -> bool {
        let reader = self.readers.iter().find(|r| r.slave == slave);
        reader.is_some_and(|r| plan::distance(r, split, &self.racks) == plan::Distance::Local)
    }

    fn steal(&mut self, thief: SlaveId) -> Option<usize> {
        if self.reproducible {
            return None;
        }
        let reader = self.readers.iter().find(|r| r.slave == thief)?;
        let mut best = None;
        for (victim, queue) in &self.queues {
            // A slave that works has its last split coming up: taking that one away gains little and makes runs differ.
            let keep = usize::from(self.taken.contains_key(victim));
            let rest: u64 = queue.iter().map(|i| self.splits[*i].end - self.splits[*i].start).sum();
            for index in queue.iter().skip(keep) {
                let split = &self.splits[*index];
                let rank = (plan::distance(reader, split, &self.racks), std::cmp::Reverse((rest, *index)));
                if best.as_ref().is_none_or(|(least, _, _)| rank < *least) {
                    best = Some((rank, *victim, *index));
                }
            }
        }
        let (_, victim, index) = best?;
        self.queues.get_mut(&victim)?.retain(|i| *i != index);
        Some(index)
    }
}

#[cfg(test)]
mod tests;
