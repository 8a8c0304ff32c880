//! Updates between slaves, counted: how many were sent by the end of a clock, and how many have arrived.
//!
//! A slave tells another of a clock while updates of it may still be under way, and says how many there were. Invariant:
//! the other takes the clock for ended when so many have arrived, and no sooner, in whatever order messages come.

use super::News;
use flexps_common::ids::SlaveId;
use flexps_common::plan::Consistency;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// A worker's reads are under way for no more clocks than this.
const UNDER_WAY: u64 = 64;

/// Counts of one stage run on one slave.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// For how many clocks a worker's updates are counted one by one.
    remembered: u64,
    /// Whether the other slaves tell this one of their clocks.
    is_told: bool,
    /// Updates that the workers here sent, by slave,
    sent: FxHashMap<SlaveId, Ledger>,
    /// and those of ended clocks by worker here and slave.
    sent_by: FxHashMap<(usize, SlaveId), u64>,
    /// Updates that arrived, by the slave that sent them, where it tells of its clocks,
    from: FxHashMap<SlaveId, Ledger>,
    /// and by worker.
    of: FxHashMap<u32, Ledger>,
    /// News of which some updates are under way: whose, and how many there are below its clock.
    held: Vec<(SlaveId, News, u64)>,
}

impl Arrivals {
    /// None yet, on a slave with `own` workers. Nobody asks about clocks of a worker that are further behind its last one
    /// than it announces ahead, but for reads under way.
    pub fn new(consistency: Consistency, own: usize) -> Self {
        Self {
            remembered: UNDER_WAY + u64::from(consistency.ahead().unwrap_or(0)),
            is_told: is_told(consistency, own > 0),
            sent: FxHashMap::default(),
            sent_by: FxHashMap::default(),
            from: FxHashMap::default(),
            of: FxHashMap::default(),
            held: Vec::new(),
        }
    }

    /// A worker here sent another slave so many updates at this clock, which has ended.
    pub fn sent(&mut self, worker: usize, to: SlaveId, clock: u64, count: u64) {
        self.sent.entry(to).or_default().add(clock, count);
        *self.sent_by.entry((worker, to)).or_default() += count;
    }

    /// How many updates of its ended clocks a worker here sent another slave.
    pub fn sent_by(&self, worker: usize, to: SlaveId) -> u64 {
        self.sent_by.get(&(worker, to)).copied().unwrap_or(0)
    }

    /// How many updates each slave was sent below this clock, which is the least of the workers here.
    pub fn sent_below(&mut self, clock: u64) -> Vec<(SlaveId, u64)> {
        let below = |(slave, sent): (&SlaveId, &mut Ledger)| {
            sent.settle(clock);
            (*slave, sent.below(clock))
        };
        self.sent.iter_mut().map(below).collect()
    }

    /// An update of a worker of another slave arrived, made at this clock.
    pub fn arrived(&mut self, from: SlaveId, worker: u32, clock: u64) {
        // Only what is told of a clock settles those below it: else there would be an entry for each to the end.
        if self.is_told {
            self.from.entry(from).or_default().add(clock, 1);
        }
        let of = self.of.entry(worker).or_default();
        of.add(clock, 1);
        of.settle(clock.saturating_sub(self.remembered));
    }

    /// How many updates of a worker have arrived that it made below this clock.
    pub fn of(&self, worker: u32, clock: u64) -> u64 {
        self.of.get(&worker).map_or(0, |of| of.below(clock))
    }

    /// News that came with the number of updates below its clock: given back when these are here, else held.
    pub fn heard(&mut self, slave: SlaveId, news: News, updates: u64) -> Option<News> {
        let from = self.from.entry(slave).or_default();
        if from.below(news.clock) >= updates {
            // Older news, should any come, tell nothing new.
            from.settle(news.clock);
            return Some(news);
        }
        self.held.push((slave, news, updates));
        None
    }

    /// The news that need be held no longer.
    pub fn complete(&mut self) -> Vec<(SlaveId, News)> {
        let Self { held, from, .. } = self;
        let complete = |(slave, news, updates): &mut (SlaveId, News, u64)| {
            from.get(slave).is_some_and(|from| from.below(news.clock) >= *updates)
        };
        let complete: Vec<_> = held.extract_if(.., complete).map(|(slave, news, _)| (slave, news)).collect();
        for (slave, news) in &complete {
            from.entry(*slave).or_default().settle(news.clock);
        }
        complete
    }
}

/// Whether a slave hears of the clocks of others, with workers of its own or without: to go on, to apply what its shard
/// keeps, or to answer reads.
pub fn is_told(consistency: Consistency, works: bool) -> bool {
    works || consistency != Consistency::Asp
}

/// Updates by the clock in which they were made.
#[derive(Debug, Clone, Default)]
struct Ledger {
    /// Of clocks that nobody will ask about one by one.
    settled: u64,
    later: BTreeMap<u64, u64>,
}

impl Ledger {
    /// So many more of this clock.
    fn add(&mut self, clock: u64, count: u64) {
        if count > 0 {
            *self.later.entry(clock).or_default() += count;
        }
    }

    /// All of clocks below this one.
    fn below(&self, clock: u64) -> u64 {
        self.settled + self.later.range(..clock).map(|(_, count)| count).sum::<u64>()
    }

    /// Nobody will ask for less than all below this clock.
    fn settle(&mut self, clock: u64) {
        let later = self.later.split_off(&clock);
        self.settled += std::mem::replace(&mut self.later, later).into_values().sum::<u64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_counted_below_a_clock_in_whatever_order_they_come() {
        let mut ledger = Ledger::default();
        [(3, 1), (1, 2), (2, 0), (1, 1), (7, 5)].into_iter().for_each(|(clock, count)| ledger.add(clock, count));
        assert_eq!([0, 1, 2, 3, 4, 8, u64::MAX].map(|clock| ledger.below(clock)), [0, 0, 3, 3, 4, 9, 9]);
        ledger.settle(3);
        assert_eq!([3, 4, u64::MAX].map(|clock| ledger.below(clock)), [3, 4, 9]);
        ledger.add(3, 1);
        assert_eq!(ledger.below(4), 5);
    }

    #[test]
    fn news_are_held_until_their_updates_have_arrived_and_no_later_ones_count_for_them() {
        let (mut arrivals, slave) = (Arrivals::new(Consistency::Bsp, 1), SlaveId(1));
        let news = |clock| News { clock, keys: Vec::new() };
        assert_eq!(arrivals.heard(slave, news(1), 0), Some(news(1)));
        assert_eq!(arrivals.heard(slave, news(3), 2), None);
        arrivals.arrived(slave, 7, 2);
        arrivals.arrived(slave, 8, 3);
        arrivals.arrived(SlaveId(2), 9, 2);
        assert_eq!(arrivals.complete(), []);
        arrivals.arrived(slave, 7, 1);
        assert_eq!(arrivals.complete(), [(slave, news(3))]);
        assert_eq!((arrivals.complete(), arrivals.of(7, 2), arrivals.of(7, 3), arrivals.of(1, 9)), (vec![], 1, 2, 0));
    }

    #[test]
    fn of_clocks_that_nobody_tells_of_little_is_remembered() {
        for (consistency, own, told) in
            [(Consistency::Asp, 0, false), (Consistency::Asp, 1, true), (Consistency::Bsp, 0, true)]
        {
            let mut arrivals = Arrivals::new(consistency, own);
            (0..1000).for_each(|clock| arrivals.arrived(SlaveId(1), 7, clock));
            assert_eq!(arrivals.of(7, 1000), 1000);
            let held: usize = arrivals.from.values().chain(arrivals.of.values()).map(|ledger| ledger.later.len()).sum();
            assert_eq!(held > 100, told, "{consistency:?} {own}: {held}");
        }
    }

    #[test]
    fn what_was_sent_is_told_below_the_least_clock() {
        let mut arrivals = Arrivals::new(Consistency::Bsp, 1);
        [(1, 0, 2), (1, 2, 4), (2, 1, 1)]
            .into_iter()
            .for_each(|(to, clock, count)| arrivals.sent(7, SlaveId(to), clock, count));
        let mut told = arrivals.sent_below(2);
        told.sort();
        assert_eq!(told, [(SlaveId(1), 2), (SlaveId(2), 1)]);
        arrivals.sent(8, SlaveId(1), 2, 1);
        assert_eq!([7, 8, 9].map(|worker| arrivals.sent_by(worker, SlaveId(1))), [6, 1, 0]);
        assert!(arrivals.sent_below(3).contains(&(SlaveId(1), 7)));
    }
}
