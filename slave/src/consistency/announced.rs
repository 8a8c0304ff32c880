//! The keys of unfinished clocks, as far as they are known on this slave, and which of them meet.
//!
//! A party is a worker here, or another slave as a whole, whose workers are not told apart. Invariants: a clock that was
//! not announced meets every other one; two clocks are compared once, and only when somebody would have to wait for one.

use super::clocks::ENDED;
use flexps_common::announced::Touches;
use flexps_common::ids::SlaveId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most keys in a message to other slaves: they take about 4 MiB, a quarter of what a control message may.
const MESSAGE_KEYS: usize = 1 << 20;

/// Somebody whose clock is known on this slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A worker here.
    Worker(usize),
    /// Another slave: its clock is the least of its workers'.
    Slave(SlaveId),
}

/// What a party announced, by clock.
type Ahead = BTreeMap<u64, Arc<Touches>>;

/// What all parties announced.
#[derive(Debug, Clone)]
pub struct Announced {
    own: Vec<Ahead>,
    others: BTreeMap<SlaveId, Ahead>,
    /// By worker here: clocks of others that its present one was compared with, and whether they meet.
    compared: Vec<BTreeMap<(Party, u64), bool>>,
    /// Clocks below this one were told to the other slaves, or can't be told.
    told: u64,
    conflicts: u64,
    /// All workers here have finished the clocks below this one.
    pruned: u64,
}

impl Announced {
    /// Nothing yet, of `own` workers here and of `others`.
    pub fn new(own: usize, others: impl IntoIterator<Item = SlaveId>) -> Self {
        Self {
            own: vec![Ahead::new(); own],
            others: others.into_iter().map(|slave| (slave, Ahead::new())).collect(),
            compared: vec![BTreeMap::new(); own],
            told: 0,
            conflicts: 0,
            pruned: 0,
        }
    }

    /// A party will touch these keys at `clock`.
    pub fn add(&mut self, party: Party, clock: u64, touches: Arc<Touches>) {
        if let Some(ahead) = self.ahead_of(party) {
            ahead.insert(clock, touches);
        }
    }

    /// Another slave's clocks below `clock` are finished.
    pub fn finished(&mut self, slave: SlaveId, clock: u64) {
        if let Some(ahead) = self.others.get_mut(&slave) {
            *ahead = ahead.split_off(&clock);
        }
    }

    /// A worker here finished a clock; those below `least` are finished by all workers here. The keys of later ones are
    /// still needed: other slaves take a clock for finished when it is for all.
    pub fn finished_own(&mut self, worker: usize, least: u64) {
        self.compared[worker].clear();
        if least > self.pruned {
            self.pruned = least;
            self.own.iter_mut().for_each(|ahead| *ahead = ahead.split_off(&least));
        }
    }

    /// Whether clock `clock` of a worker here touches a key of a party's unfinished clock `other`, or may.
    pub fn meet(&mut self, worker: usize, clock: u64, party: Party, other: u64) -> bool {
        if let Some(known) = self.compared[worker].get(&(party, other)) {
            return *known;
        }
        let theirs = match party {
            Party::Worker(sibling) => self.own[sibling].get(&other),
            Party::Slave(slave) => self.others.get(&slave).and_then(|ahead| ahead.get(&other)),
        };
        let (Some(mine), Some(theirs)) = (self.own[worker].get(&clock), theirs) else { return true };
        let meet = mine.meets(theirs);
        self.conflicts += u64::from(meet);
        self.compared[worker].insert((party, other), meet);
        meet
    }

    /// How many pairs of clocks were found to meet.
    pub fn conflicts(&self) -> u64 {
        self.conflicts
    }

    /// What the other slaves were not told of the unfinished clocks up to `ahead` behind the least of `clocks`, which are
    /// those of the workers here. A clock that some worker has yet to announce, and all behind it, are left for later; one
    /// with too many keys for a message is never told.
    pub fn news(&mut self, clocks: &[u64], ahead: u32) -> Vec<(u64, Arc<Touches>)> {
        let least = clocks.iter().copied().min().unwrap_or(ENDED);
        let (mut news, mut room) = (Vec::new(), MESSAGE_KEYS);
        self.told = self.told.max(least);
        while self.told < least.saturating_add(ahead.into()) {
            let workers = || clocks.iter().zip(&self.own).map(|(clock, ahead)| (*clock, ahead.get(&self.told)));
            if workers().any(|(clock, touches)| clock <= self.told && touches.is_none()) {
                break;
            }
            let parts: Vec<_> = workers().filter_map(|(_, touches)| touches).collect();
            let touches = match parts.as_slice() {
                [one] => Arc::clone(one),
                parts => Arc::new(Touches::merged(parts.iter().map(|part| &***part))),
            };
            if touches.keys() <= room {
                room -= touches.keys();
                news.push((self.told, touches));
            } else if touches.keys() <= MESSAGE_KEYS {
                break;
            }
            self.told += 1;
        }
        news
    }

    fn ahead_of(&mut self, party: Party) -> Option<&mut Ahead> {
        match party {
            Party::Worker(worker) => self.own.get_mut(worker),
            Party::Slave(slave) => self.others.get_mut(&slave),
        }
    }
}
