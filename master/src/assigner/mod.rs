//! The file assigner: cuts an input into splits and hands them to the slaves that ask. Pure: listing in, splits out, and time
//! is an argument.
//!
//! A reader gets what was planned for it, else what others have not begun, else, at the end, a part of what a slow one is
//! reading. What lies on its own host it gets at once; before anything else it waits a moment, measured in splits, since
//! its holder may come to it by then (`steal`, `pace`). Invariant: each byte is with exactly one slave or still to be
//! handed out; none is lost, none is given twice.

mod cut;
mod pace;
mod plan;
mod steal;

pub use cut::{Source, cut};

use flexps_common::experiment::Splits;
use flexps_common::ids::SlaveId;
use flexps_common::wire::control::Split;
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

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

/// How splits find their readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// By where they lie, or by lot.
    pub splits: Splits,
    /// Every slave keeps to what was planned for it, so that a second run reads the same rows in the same places.
    pub reproducible: bool,
}

/// What a reader that asks is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// To read this.
    Split(Split),
    /// To ask again after so long.
    Wait(Duration),
    /// To ask again soon: another one is to be asked for a part of what it reads, see [`Assigner::kept`].
    Cut(Cut),
    /// That nothing is left for it.
    End,
}

/// A split that a slow slave is to give a part of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The slave that has it.
    pub slave: SlaveId,
    /// Its place among the splits.
    pub index: u32,
    /// The share of what it has not read yet that it is to keep.
    pub keep: f64,
}

/// Hands out the splits of one input.
#[derive(Debug)]
pub struct Assigner {
    readers: Vec<Reader>,
    racks: Racks,
    splits: Vec<Split>,
    /// Of which each is or was a part: those that were cut first, in order of file and offset.
    roots: Vec<u32>,
    /// How far each is from the nearest reader.
    nearest: Vec<plan::Distance>,
    rules: Rules,
    /// What each slave is to read, in this order, and has not taken yet.
    queues: BTreeMap<SlaveId, VecDeque<usize>>,
    /// In the order in which they were taken and are read.
    taken: BTreeMap<SlaveId, Vec<usize>>,
    paces: BTreeMap<SlaveId, Pace>,
    /// Splits of which a part was asked for and no answer is here, and for whom.
    asked: BTreeMap<usize, SlaveId>,
    /// Splits that will not be cut any more.
    kept: BTreeSet<usize>,
    stolen: u64,
    gone: BTreeSet<SlaveId>,
}

/// What a slave that is gone had taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Back {
    /// Splits.
    pub splits: u64,
    /// Their bytes.
    pub bytes: u64,
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
    /// Splits, or parts of some, that went to another slave than was planned.
    pub stolen: u64,
}

impl Assigner {
    /// Plans the queues: each split goes to the slave with the fewest planned bytes among those that hold it, or share a
    /// rack with a holder, or all; those who hold it pass it on until none can be relieved. Read in order of the splits. By
    /// lot if the rules say so.
    pub fn new(splits: Vec<Split>, readers: Vec<Reader>, racks: Racks, rules: Rules) -> Self {
        let nearest = plan::nearest(&splits, &readers, &racks);
        let queues = match rules.splits {
            Splits::Near => plan::queues(&splits, &readers, &racks),
            Splits::Random => plan::by_lot(splits.len(), &readers),
        };
        Self {
            paces: readers.iter().map(|r| (r.slave, Pace::default())).collect(),
            readers,
            racks,
            roots: (0..splits.len() as u32).collect(),
            splits,
            nearest,
            rules,
            queues,
            taken: BTreeMap::new(),
            asked: BTreeMap::new(),
            kept: BTreeSet::new(),
            stolen: 0,
            gone: BTreeSet::new(),
        }
    }

    /// What is next for `slave`, which has read `read` of its splits to the end and asks at `now`.
    pub fn next(&mut self, slave: SlaveId, read: u64, now: Duration) -> Next {
        if self.gone.contains(&slave) {
            return Next::End;
        }
        self.heard(slave, read, now);
        let Some(queue) = self.queues.get_mut(&slave) else { return Next::End };
        if let Some(index) = queue.pop_front() {
            return self.hand(slave, index, now);
        }
        if self.rules.reproducible {
            return Next::End;
        }
        match self.steal(slave, now) {
            steal::Found::Split(victim, index) => {
                if let Some(queue) = self.queues.get_mut(&victim) {
                    queue.retain(|i| *i != index);
                }
                self.stolen += 1;
                self.hand(slave, index, now)
            }
            steal::Found::Cut(cut) => {
                self.asked.insert(cut.index as usize, slave);
                Next::Cut(cut)
            }
            steal::Found::Later(wait) => Next::Wait(wait),
            steal::Found::Nothing => Next::End,
        }
    }

    fn hand(&mut self, slave: SlaveId, index: usize, now: Duration) -> Next {
        let near = self.reader(slave).is_some_and(|reader| self.far(reader, index) == plan::Distance::Local);
        let taken = self.taken.entry(slave).or_default();
        self.paces.entry(slave).or_default().took(taken.len(), near, now);
        taken.push(index);
        Next::Split(self.splits[index].clone())
    }

    /// A slave that was asked for a part of a split keeps the bytes below `end`, or all of them; the others go to who they
    /// were wanted for.
    pub fn kept(&mut self, index: u32, end: Option<u64>) {
        let at = index as usize;
        let Some(thief) = self.asked.remove(&at) else { return };
        let split = &mut self.splits[at];
        let Some(end) = end.filter(|end| (split.start..split.end).contains(end)) else {
            self.kept.insert(at);
            return;
        };
        let mut rest = split.clone();
        (split.end, rest.start) = (end, end);
        rest.index = self.splits.len() as u32;
        self.splits.push(rest);
        self.roots.push(self.roots[at]);
        self.nearest.push(self.nearest[at]);
        self.stolen += 1;
        let queue =
            if self.gone.contains(&thief) { self.queues.values_mut().next() } else { self.queues.get_mut(&thief) };
        if let Some(queue) = queue {
            queue.push_front(self.splits.len() - 1);
        }
    }

    /// What `slave` took and what was planned for it goes to the others, of which none must have been told of the end.
    pub fn give_back(&mut self, slave: SlaveId) -> Back {
        self.gone.insert(slave);
        let mut back = self.taken.remove(&slave).unwrap_or_default();
        back.retain(|i| self.splits[*i].end > self.splits[*i].start);
        let taken = Back { splits: back.len() as u64, bytes: self.bytes(&back) };
        back.extend(self.queues.remove(&slave).unwrap_or_default());
        back.sort_unstable();
        // An answer that is still under way counts for nothing: the whole split comes back.
        self.asked.retain(|index, _| !back.contains(index));
        let left: Vec<Reader> = self.readers.iter().filter(|r| !self.gone.contains(&r.slave)).cloned().collect();
        self.nearest = plan::nearest(&self.splits, &left, &self.racks);
        let planned: BTreeMap<SlaveId, u64> = left.iter().map(|r| (r.slave, self.planned_bytes(r.slave))).collect();
        for (slave, more) in plan::assign(&back, &self.splits, &left, &self.racks, planned) {
            self.queues.entry(slave).or_default().extend(more);
        }
        taken
    }

    /// Whether all splits are read to their ends, by the slaves that are there.
    pub fn is_read(&self) -> bool {
        let left = self.readers.iter().any(|reader| !self.unread(reader.slave).is_empty());
        !left && self.asked.is_empty() && self.queues.values().all(VecDeque::is_empty)
    }

    /// All splits, by index; those that were given away whole are empty.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// The split that this one was cut from, however often, or itself. Those that were cut from none stand in order of file and
    /// offset.
    pub fn root(&self, index: u32) -> Option<u32> {
        self.roots.get(index as usize).copied()
    }

    /// What was handed out so far.
    pub fn handed(&self) -> Handed {
        let mut sum = Handed { stolen: self.stolen, ..Handed::default() };
        for (slave, taken) in &self.taken {
            for split in taken.iter().map(|i| &self.splits[*i]).filter(|s| s.end > s.start) {
                let bytes = split.end - split.start;
                sum.splits += 1;
                sum.bytes += bytes;
                let local = self.local(*slave, split);
                sum.local_bytes += if local { bytes } else { 0 };
                sum.located_bytes += if local || !split.hosts.is_empty() { bytes } else { 0 };
            }
        }
        sum
    }

    /// Bytes of all splits that lie on a slave's host.
    pub fn local_bytes(&self, slave: SlaveId) -> u64 {
        self.splits.iter().filter(|split| self.local(slave, split)).map(|split| split.end - split.start).sum()
    }

    fn bytes(&self, which: &[usize]) -> u64 {
        which.iter().map(|i| self.splits[*i].end - self.splits[*i].start).sum()
    }

    fn planned_bytes(&self, slave: SlaveId) -> u64 {
        let queued: Vec<usize> = self.queues.get(&slave).into_iter().flatten().copied().collect();
        self.bytes(&queued) + self.bytes(self.taken.get(&slave).map_or(&[], Vec::as_slice))
    }

    fn reader(&self, slave: SlaveId) -> Option<&Reader> {
        self.readers.iter().find(|r| r.slave == slave)
    }

    fn local(&self, slave: SlaveId, split: &Split) -> bool {
        self.reader(slave).is_some_and(|r| plan::distance(r, split, &self.racks) == plan::Distance::Local)
    }
}

#[cfg(test)]
mod tests;
