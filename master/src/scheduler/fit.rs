//! Whether a stage fits into free slots, and where its threads go.
//!
//! Invariant: the answer is a whole gang or nothing, spread as evenly as the free slots allow; among slaves that would get
//! the same number, one that has something of the stage comes first, then the one with the most free slots, then the order
//! of the stage's slaves.

use super::free::Pool;
use super::{Free, Ready, Slots, Want, Why};
use flexps_common::ids::SlaveId;
use std::cmp::Reverse;

/// (slave, threads) and what decided.
pub type Fit = (Vec<(SlaveId, u32)>, Why);

impl Free<'_> {
    /// Where the stage's threads go, in shard order; None when not all of them fit now.
    pub fn fit(&mut self, ready: &Ready) -> Option<Fit> {
        if self.hopeless(ready) {
            return None;
        }
        let pool = self.pool(ready)?;
        if too_few(ready.want, pool.places.len()) {
            // Not remembered: more threads may fit where these can not.
            return None;
        }
        let fast = pool.whole && ready.memory == 0;
        let found = if fast && self.whole_refuses(ready.want) {
            None
        } else {
            match ready.want {
                Want::Spread { threads, each } => self.spread(ready, &pool, threads, each, fast),
                Want::Range { least, most, each } => {
                    let sum = if fast { self.total() } else { self.sum(&pool, ready.memory) };
                    let threads = u64::from(most).min(sum) as u32;
                    if threads < least { None } else { self.spread(ready, &pool, threads, each, fast) }
                }
                Want::OneSlave(threads) => self.one(ready, &pool, threads, fast),
                Want::PerSlave(n) => self.exactly(ready, &pool, |_| n),
                Want::All => self.exactly(ready, &pool, |slave| slave.slots),
                Want::Cores => self.exactly(ready, &pool, Slots::with_cores),
            }
        };
        if found.is_none() {
            self.remember_failure(ready);
        }
        found
    }

    fn sum(&self, pool: &Pool, memory: u64) -> u64 {
        pool.places.iter().map(|p| u64::from(self.usable(*p as usize, memory))).sum()
    }

    /// Threads that each slave of the stage must give.
    fn exactly(&self, ready: &Ready, pool: &Pool, threads: impl Fn(&Slots) -> u32) -> Option<Fit> {
        let mut workers = Vec::with_capacity(pool.places.len());
        for place in pool.places.iter().map(|p| *p as usize) {
            let wanted = threads(&self.slaves[place]);
            if self.usable(place, ready.memory) < wanted {
                return None;
            }
            workers.push((self.slaves[place].id, wanted));
        }
        Some((workers, Why::Wanted))
    }

    fn one(&self, ready: &Ready, pool: &Pool, threads: u32, fast: bool) -> Option<Fit> {
        for (id, near) in ready.near.iter().flat_map(|n| n.iter()) {
            let usable = self.place(*id).filter(|_| ready.slaves.contains(id));
            if usable.is_some_and(|place| self.usable(place, ready.memory) >= threads) {
                return Some((vec![(*id, threads)], Why::Near(*near)));
            }
        }
        let best = if fast {
            self.levels.descending(threads).next()
        } else {
            let places = pool.places.iter().map(|p| *p as usize).enumerate();
            let fitting = places.filter(|(_, place)| self.usable(*place, ready.memory) >= threads);
            fitting.min_by_key(|(i, place)| (Reverse(self.free[*place]), *i)).map(|(_, place)| place)
        };
        best.map(|place| (vec![(self.slaves[place].id, threads)], Why::Balance))
    }

    fn spread(&self, ready: &Ready, pool: &Pool, threads: u32, each: u32, fast: bool) -> Option<Fit> {
        if threads == 0 {
            return Some((Vec::new(), Why::Wanted));
        }
        if fast {
            return self.spread_over_all(ready, threads);
        }
        let free: Vec<u32> = pool.places.iter().map(|p| self.usable(*p as usize, ready.memory)).collect();
        // With at least `each` free everywhere, and as many threads, spreading evenly gives each slave `each`.
        if free.iter().any(|n| *n < each) {
            return None;
        }
        let mut counts = vec![0u32; free.iter().max().map_or(1, |n| *n as usize + 1)];
        free.iter().for_each(|n| counts[*n as usize] += 1);
        let (level, rest) = water(&counts, threads)?;
        let mut chosen: Vec<u32> = free.iter().map(|n| (*n).min(level - 1)).collect();
        let near = |place: u32| {
            let id = self.slaves[place as usize].id;
            ready.near.iter().flat_map(|n| n.iter()).find(|(of, _)| *of == id).map(|(_, near)| *near)
        };
        let mut candidates: Vec<(bool, Option<super::Near>, Reverse<u32>, usize)> = Vec::new();
        for (i, n) in free.iter().enumerate().filter(|(_, n)| **n >= level) {
            let near = near(pool.places[i]);
            candidates.push((near.is_none(), near, Reverse(*n), i));
        }
        candidates.sort_unstable();
        let choice = (rest as usize) < candidates.len();
        let mut why = Why::Wanted;
        for (_, near, _, i) in candidates.into_iter().take(rest as usize) {
            chosen[i] += 1;
            why = reason(why, choice, near);
        }
        let workers = pool.places.iter().zip(chosen).map(|(p, n)| (self.slaves[*p as usize].id, n));
        Some((workers.filter(|(_, n)| *n > 0).collect(), why))
    }

    /// The same over all slaves, at a cost that grows with the slaves that get threads.
    fn spread_over_all(&self, ready: &Ready, threads: u32) -> Option<Fit> {
        let (level, rest) = water(self.levels.counts(), threads)?;
        let mut rest = rest as usize;
        let at_level: usize = self.levels.counts()[level as usize..].iter().map(|n| *n as usize).sum();
        let choice = rest < at_level;
        let (mut more, mut why): (Vec<usize>, Why) = (Vec::with_capacity(rest), Why::Wanted);
        if choice {
            for (id, near) in ready.near.iter().flat_map(|n| n.iter()) {
                if let Some(place) = self.place(*id).filter(|p| rest > 0 && self.free[*p] >= level) {
                    more.push(place);
                    rest -= 1;
                    why = reason(why, choice, Some(*near));
                }
            }
        }
        let taken = more.len();
        for place in self.levels.descending(level) {
            if rest == 0 {
                break;
            }
            if !more[..taken].contains(&place) {
                more.push(place);
                rest -= 1;
                why = reason(why, choice, None);
            }
        }
        more.sort_unstable();
        if level == 1 {
            return Some((more.into_iter().map(|place| (self.slaves[place].id, 1)).collect(), why));
        }
        let mut more = more.into_iter().peekable();
        let mut workers = Vec::new();
        for (place, free) in self.free.iter().enumerate() {
            let n = (*free).min(level - 1) + u32::from(more.next_if_eq(&place).is_some());
            if n > 0 {
                workers.push((self.slaves[place].id, n));
            }
        }
        Some((workers, why))
    }
}

/// Whether there are too few threads for so many on each slave, whatever is free.
fn too_few(want: Want, slaves: usize) -> bool {
    let (Want::Spread { threads: most, each } | Want::Range { most, each, .. }) = want else { return false };
    u64::from(most) < u64::from(each) * slaves as u64
}

/// The best reason of those that decided.
fn reason(so_far: Why, choice: bool, near: Option<super::Near>) -> Why {
    match (so_far, near) {
        _ if !choice => Why::Wanted,
        (Why::Near(best), Some(near)) => Why::Near(best.min(near)),
        (Why::Near(best), None) => Why::Near(best),
        (_, Some(near)) => Why::Near(near),
        (_, None) => Why::Balance,
    }
}

/// For `threads` over slaves of which `counts[n]` have n free slots: the level, at least 1, below which every slave is
/// filled, and how many threads are left for slaves that reach it. None when there are not enough slots.
fn water(counts: &[u32], threads: u32) -> Option<(u32, u32)> {
    let mut reaching: u64 = counts[1..].iter().map(|n| u64::from(*n)).sum();
    let mut left = u64::from(threads);
    for (level, there) in counts.iter().enumerate().skip(1) {
        if left <= reaching {
            return Some((level as u32, left as u32));
        }
        left -= reaching;
        reaching -= u64::from(*there);
    }
    None
}
