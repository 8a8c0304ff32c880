//! The clock table of one stage run on one slave.
//!
//! Invariant: a clock never falls, however often and in whatever order messages about it arrive.

use flexps_common::ids::SlaveId;
use flexps_common::plan::Consistency;

/// The clock of a worker, or of a slave, that has ended.
pub const ENDED: u64 = u64::MAX;

/// Clocks of this slave's workers and the least clocks of the other slaves that have workers.
#[derive(Debug, Clone)]
pub struct Clocks {
    model: Consistency,
    own: Vec<u64>,
    others: Vec<(SlaveId, u64)>,
}

impl Clocks {
    /// All clocks at 0: `own` workers here, and workers on each of `others`.
    pub fn new(model: Consistency, own: usize, others: impl IntoIterator<Item = SlaveId>) -> Self {
        Self { model, own: vec![0; own], others: others.into_iter().map(|slave| (slave, 0)).collect() }
    }

    /// One of this slave's workers ended an iteration. The slave's least clock, when it rose: the others must hear it.
    pub fn tick(&mut self, worker: usize) -> Option<u64> {
        self.set(worker, |clock| clock + 1)
    }

    /// One of this slave's workers ended its function.
    pub fn end(&mut self, worker: usize) -> Option<u64> {
        self.set(worker, |_| ENDED)
    }

    fn set(&mut self, worker: usize, change: impl FnOnce(u64) -> u64) -> Option<u64> {
        let before = self.own_least();
        self.own[worker] = change(self.own[worker]);
        let least = self.own_least();
        (least > before).then_some(least)
    }

    /// Another slave told its least clock.
    pub fn heard(&mut self, slave: SlaveId, clock: u64) {
        if let Some((_, known)) = self.others.iter_mut().find(|(other, _)| *other == slave) {
            *known = clock.max(*known);
        }
    }

    /// The clock of one of this slave's workers.
    pub fn of(&self, worker: usize) -> u64 {
        self.own[worker]
    }

    /// The least clock of the stage, as far as it is known here.
    pub fn least(&self) -> u64 {
        self.others.iter().map(|(_, clock)| *clock).fold(self.own_least(), u64::min)
    }

    /// Whether one of this slave's workers may start its next iteration.
    pub fn may_go_on(&self, worker: usize) -> bool {
        let clock = self.own[worker];
        match self.model {
            Consistency::Bsp => self.least() >= clock,
            Consistency::Ssp { staleness } => self.least() >= clock.saturating_sub(u64::from(staleness)),
            Consistency::Asp => true,
        }
    }

    /// Updates of clocks below this one are due at this slave's shard; those of later ones must be kept.
    pub fn due(&self) -> u64 {
        match self.model {
            Consistency::Bsp => self.least(),
            _ => ENDED,
        }
    }

    fn own_least(&self) -> u64 {
        self.own.iter().copied().min().unwrap_or(ENDED)
    }
}
