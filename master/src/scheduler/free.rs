//! Free slots while a decision is being made, kept so that "does it fit" costs next to nothing when the answer is no.
//!
//! Invariants: free slots only become fewer, so what did not fit once does not fit later in the same decision, nor does
//! more of it (only threads that are too few for the slaves that must each get some say nothing of more of them);
//! `levels` holds each slave exactly at its number of free slots.

use super::view::place_of;
use super::{Ready, Slots, View, Want};
use flexps_common::ids::SlaveId;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// The places of a list of slaves in the view.
pub(super) struct Pool {
    pub places: Vec<u32>,
    /// Whether it is all slaves in the view's order.
    pub whole: bool,
}

/// What a stage asked for, without the number of threads.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Spread(u32),
    OneSlave,
    PerSlave,
    All,
    Cores,
}

/// The free slots of all slaves.
pub struct Free<'a> {
    pub(super) slaves: &'a [Slots],
    pub(super) free: Vec<u32>,
    memory: Vec<u64>,
    total: u64,
    idle: usize,
    pub(super) levels: Levels,
    pools: FxHashMap<*const SlaveId, Option<Rc<Pool>>>,
    /// By list of slaves, kind and memory: the fewest threads that did not fit.
    failed: FxHashMap<(*const SlaveId, Kind, u64), u32>,
}

impl<'a> Free<'a> {
    /// The free slots of a view.
    pub fn of(view: &View<'a>) -> Self {
        Self::with(view.slaves, view.slaves.iter().map(|s| s.free.min(s.slots)).collect())
    }

    /// So many free slots on each slave, by place.
    pub(super) fn with(slaves: &'a [Slots], free: Vec<u32>) -> Self {
        Self {
            total: free.iter().map(|n| u64::from(*n)).sum(),
            idle: free.iter().zip(slaves).filter(|(n, s)| **n == s.slots).count(),
            levels: Levels::of(&free),
            memory: slaves.iter().map(|s| s.memory).collect(),
            slaves,
            free,
            pools: FxHashMap::default(),
            failed: FxHashMap::default(),
        }
    }

    /// The same with other memory, by place.
    pub(super) fn with_memory(self, memory: Vec<u64>) -> Self {
        Self { memory, ..self }
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The place of a slave in the view.
    pub(super) fn place(&self, id: SlaveId) -> Option<usize> {
        place_of(self.slaves, id)
    }

    /// Takes slots away, as many as are there.
    pub fn take(&mut self, workers: &[(SlaveId, u32)]) {
        for (id, n) in workers {
            if let Some(place) = self.place(*id) {
                self.lower(place, self.free[place].saturating_sub(*n));
            }
        }
    }

    /// Takes memory away from the slaves of a placement.
    pub fn take_memory(&mut self, workers: &[(SlaveId, u32)], bytes: u64) {
        for (id, _) in workers.iter().filter(|_| bytes > 0) {
            if let Some(place) = self.place(*id) {
                self.memory[place] = self.memory[place].saturating_sub(bytes);
            }
        }
    }

    /// Leaves a slave at most `free` slots.
    pub(super) fn lower(&mut self, place: usize, free: u32) {
        let old = self.free[place];
        if free >= old {
            return;
        }
        self.free[place] = free;
        self.total -= u64::from(old - free);
        self.idle -= usize::from(old == self.slaves[place].slots);
        self.levels.move_down(place, old, free);
    }

    /// Whether all of these are free.
    pub(super) fn has(&self, workers: &[(SlaveId, u32)], memory: u64) -> bool {
        workers.iter().all(|(id, n)| self.place(*id).is_some_and(|place| self.usable(place, memory) >= *n))
    }

    /// Free slots on a slave that a stage with this memory may use.
    pub(super) fn usable(&self, place: usize, memory: u64) -> u32 {
        if self.memory[place] >= memory { self.free[place] } else { 0 }
    }

    /// The slaves of a stage; None when one of them is not there.
    pub(super) fn pool(&mut self, ready: &Ready) -> Option<Rc<Pool>> {
        let key = ready.slaves.as_ptr();
        if let Some(known) = self.pools.get(&key) {
            return known.clone();
        }
        let whole =
            ready.slaves.len() == self.slaves.len() && ready.slaves.iter().zip(self.slaves).all(|(id, s)| *id == s.id);
        let places: Option<Vec<u32>> = ready.slaves.iter().map(|id| self.place(*id).map(|p| p as u32)).collect();
        let pool = places.filter(|p| !p.is_empty()).map(|places| Rc::new(Pool { places, whole }));
        self.pools.insert(key, pool.clone());
        pool
    }

    /// Whether it is known that the stage does not fit.
    pub(super) fn hopeless(&self, ready: &Ready) -> bool {
        if u64::from(ready.want.least()) > self.total {
            return true;
        }
        self.failed.get(&key(ready)).is_some_and(|n| ready.want.least() >= *n)
    }

    /// Remembers that the stage did not fit.
    pub(super) fn remember_failure(&mut self, ready: &Ready) {
        let least = ready.want.least();
        self.failed.entry(key(ready)).and_modify(|n| *n = least.min(*n)).or_insert(least);
    }

    /// Whether the numbers of all slaves alone say no; exact sums and least levels for the whole cluster.
    pub(super) fn whole_refuses(&self, want: Want) -> bool {
        match want {
            Want::Spread { each, .. } | Want::Range { each, .. } => each > 0 && self.levels.least() < each,
            Want::OneSlave(n) => self.levels.most() < n,
            Want::PerSlave(n) => self.levels.least() < n,
            Want::All => self.idle < self.slaves.len(),
            Want::Cores => self.levels.least() < 1,
        }
    }
}

fn key(ready: &Ready) -> (*const SlaveId, Kind, u64) {
    let kind = match ready.want {
        Want::Spread { each, .. } | Want::Range { each, .. } => Kind::Spread(each),
        Want::OneSlave(_) => Kind::OneSlave,
        Want::PerSlave(_) => Kind::PerSlave,
        Want::All => Kind::All,
        Want::Cores => Kind::Cores,
    };
    (ready.slaves.as_ptr(), kind, ready.memory)
}

/// Slaves by their number of free slots: a set of bits per number.
pub(super) struct Levels {
    words: usize,
    bits: Vec<u64>,
    counts: Vec<u32>,
    most: usize,
}

impl Levels {
    fn of(free: &[u32]) -> Self {
        let levels = free.iter().max().map_or(1, |n| *n as usize + 1);
        let words = free.len().div_ceil(64).max(1);
        let mut all = Self { words, bits: vec![0; words * levels], counts: vec![0; levels], most: levels - 1 };
        for (place, n) in free.iter().enumerate() {
            all.bits[*n as usize * words + place / 64] |= 1 << (place % 64);
            all.counts[*n as usize] += 1;
        }
        all
    }

    fn move_down(&mut self, place: usize, from: u32, to: u32) {
        let (word, bit) = (place / 64, 1u64 << (place % 64));
        self.bits[from as usize * self.words + word] &= !bit;
        self.bits[to as usize * self.words + word] |= bit;
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        while self.most > 0 && self.counts[self.most] == 0 {
            self.most -= 1;
        }
    }

    /// The most free slots of a slave.
    pub fn most(&self) -> u32 {
        self.most as u32
    }

    /// The fewest free slots of a slave.
    fn least(&self) -> u32 {
        self.counts.iter().position(|n| *n > 0).unwrap_or(0) as u32
    }

    /// How many slaves have each number of free slots.
    pub fn counts(&self) -> &[u32] {
        &self.counts[..=self.most]
    }

    /// Places of slaves with at least `least` free slots, those with the most first, then in order.
    pub fn descending(&self, least: u32) -> impl Iterator<Item = usize> + '_ {
        let levels = (least as usize..=self.most).rev().filter(|level| self.counts[*level] > 0);
        levels.flat_map(|level| {
            let bits = &self.bits[level * self.words..(level + 1) * self.words];
            bits.iter().enumerate().flat_map(|(word, bits)| {
                let mut left = *bits;
                std::iter::from_fn(move || {
                    if left == 0 {
                        return None;
                    }
                    let bit = left.trailing_zeros() as usize;
                    left &= left - 1;
                    Some(word * 64 + bit)
                })
            })
        })
    }
}
