//! The clock table of one stage run on one slave.
//!
//! Invariant: a clock never falls, however often and in whatever order messages about it arrive.

use super::announced::{Announced, Party};
use flexps_common::announced::Touches;
use flexps_common::ids::SlaveId;
use flexps_common::plan::Consistency;
use std::ops::Range;
use std::sync::Arc;

/// The clock of a worker, or of a slave, that has ended.
pub const ENDED: u64 = u64::MAX;

/// Clocks of this slave's workers and the least clocks of the other slaves that have workers.
#[derive(Debug, Clone)]
pub struct Clocks {
    model: Consistency,
    own: Vec<u64>,
    others: Vec<(SlaveId, u64)>,
    announced: Announced,
    /// Workers here that others must hear of before they hear of a clock, since they have yet to announce keys.
    unstarted: usize,
    /// The least clock that the others know.
    told: Option<u64>,
    /// The least of all clocks.
    least: u64,
}

/// What the other slaves must hear.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// The least clock of this slave's workers.
    pub clock: u64,
    /// Keys of unfinished clocks that were not told before.
    pub keys: Vec<(u64, Arc<Touches>)>,
}

impl Clocks {
    /// All clocks at 0: `own` workers here, and workers on each of `others`.
    pub fn new(model: Consistency, own: usize, others: impl IntoIterator<Item = SlaveId>) -> Self {
        let others: Vec<_> = others.into_iter().map(|slave| (slave, 0)).collect();
        let announced = Announced::new(own, others.iter().map(|(slave, _)| *slave));
        // Where keys count, those of the first clocks are news too.
        let unstarted = if model.ahead() > Some(0) { own } else { 0 };
        let told = (unstarted == 0).then_some(0);
        let least = if own == 0 && others.is_empty() { ENDED } else { 0 };
        Self { model, own: vec![0; own], others, announced, unstarted, told, least }
    }

    /// One of this slave's workers will touch these keys at `clock`, and no others.
    pub fn announce(&mut self, worker: usize, clock: u64, touches: Arc<Touches>) {
        self.announced.add(Party::Worker(worker), clock, touches);
    }

    /// One of this slave's workers has announced its first keys, if it ever will. To be called once per worker.
    pub fn start(&mut self) -> Option<News> {
        self.unstarted = self.unstarted.saturating_sub(1);
        self.news()
    }

    /// One of this slave's workers ended an iteration. What the others must hear of it, if anything.
    pub fn tick(&mut self, worker: usize) -> Option<News> {
        self.set(worker, self.own[worker] + 1)
    }

    /// One of this slave's workers ended its function.
    pub fn end(&mut self, worker: usize) -> Option<News> {
        self.set(worker, ENDED)
    }

    fn set(&mut self, worker: usize, clock: u64) -> Option<News> {
        self.own[worker] = clock;
        self.find_least();
        self.announced.finished_own(worker, self.own_least());
        self.news()
    }

    /// What the others must hear: a least clock that rose.
    fn news(&mut self) -> Option<News> {
        let clock = self.own_least();
        if self.unstarted > 0 || self.told.is_some_and(|told| told >= clock) {
            return None;
        }
        self.told = Some(clock);
        let keys = match self.model.ahead() {
            Some(ahead) if !self.others.is_empty() => self.announced.news(&self.own, ahead),
            _ => Vec::new(),
        };
        Some(News { clock, keys })
    }

    /// Another slave told its least clock, and keys of its unfinished ones.
    pub fn heard(&mut self, slave: SlaveId, News { clock, keys }: News) {
        let Some((_, known)) = self.others.iter_mut().find(|(other, _)| *other == slave) else { return };
        *known = clock.max(*known);
        let known = *known;
        for (clock, touches) in keys {
            self.announced.add(Party::Slave(slave), clock, touches);
        }
        self.announced.finished(slave, known);
        self.find_least();
    }

    /// The clock of one of this slave's workers.
    pub fn of(&self, worker: usize) -> u64 {
        self.own[worker]
    }

    /// The least clock of the stage, as far as it is known here.
    pub fn least(&self) -> u64 {
        self.least
    }

    fn find_least(&mut self) {
        self.least = self.others.iter().map(|(_, clock)| *clock).fold(self.own_least(), u64::min);
    }

    /// Whether one of this slave's workers may start its next iteration.
    pub fn may_go_on(&mut self, worker: usize) -> bool {
        let (least, Range { start, end }) = (self.least(), self.bounds(self.own[worker]));
        // Nearly always the clocks alone decide.
        least >= end || (least >= start && self.waits_for(worker).is_empty())
    }

    /// Whether one of this slave's workers may not begin its clock before `other` has ended its own, whatever the keys.
    pub fn must_wait_for(&self, worker: usize, other: usize) -> bool {
        self.own[other] < self.bounds(self.own[worker]).start
    }

    /// The unfinished clocks, as far as they are known here, that one of this slave's workers must wait for.
    pub fn waits_for(&mut self, worker: usize) -> Vec<(Party, u64)> {
        let clock = self.own[worker];
        let Range { start, end } = self.bounds(clock);
        let own = self.own.iter().enumerate().map(|(sibling, clock)| (Party::Worker(sibling), *clock));
        let others = self.others.iter().map(|(slave, clock)| (Party::Slave(*slave), *clock));
        let mut found = Vec::new();
        for (party, first) in own.chain(others) {
            let meets = |other: &u64| *other < start || self.announced.meet(worker, clock, party, *other);
            // The worker's own clock is not below the end.
            found.extend((first..end).filter(meets).map(|other| (party, other)));
        }
        found
    }

    /// At a clock a worker waits for each clock below the start that is unfinished, and for those in the range whose keys
    /// meet its own.
    fn bounds(&self, clock: u64) -> Range<u64> {
        let less = |clock: u64, by: u32| clock.saturating_sub(by.into());
        match self.model {
            Consistency::Bsp => clock..clock,
            Consistency::Ssp { staleness } => less(clock, staleness)..less(clock, staleness),
            Consistency::Asp => 0..0,
            Consistency::SparseSsp { staleness, speculation } => {
                less(less(clock, staleness), speculation)..less(clock, staleness)
            }
        }
    }

    /// Whether a shard that has all updates of clocks below the least one may answer a read at `clock`.
    pub fn shows(&self, clock: u64) -> bool {
        match self.model {
            Consistency::Bsp | Consistency::Ssp { .. } => self.least() >= self.bounds(clock).end,
            // A worker waits for the clocks that matter before it reads, and says which clocks it then knew of.
            Consistency::Asp | Consistency::SparseSsp { .. } => true,
        }
    }

    /// The clocks of this slave's workers.
    pub fn own(&self) -> &[u64] {
        &self.own
    }

    /// The least clocks that the other slaves told.
    pub fn others(&self) -> &[(SlaveId, u64)] {
        &self.others
    }

    /// Whether another slave has told this clock; one that has no workers tells none.
    pub fn has_told(&self, slave: SlaveId, clock: u64) -> bool {
        self.others.iter().all(|(other, told)| *other != slave || *told >= clock)
    }

    /// Updates of clocks below this one are due at this slave's shard; those of later ones must be kept.
    pub fn due(&self) -> u64 {
        match self.model {
            Consistency::Bsp => self.least(),
            _ => ENDED,
        }
    }

    /// How many pairs of clocks were found to touch the same keys.
    pub fn conflicts(&self) -> u64 {
        self.announced.conflicts()
    }

    fn own_least(&self) -> u64 {
        self.own.iter().copied().min().unwrap_or(ENDED)
    }
}
