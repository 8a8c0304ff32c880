//! Whether a value that was read from a shard may be read again, by whom, and for how long.
//!
//! Invariants: under BSP it serves the clock that it was read at, whose reads all see the same; under SSP(s) the clocks
//! that are at most s ahead of those which it shows complete; under ASP it is never older than a clock of each worker
//! here, so that values get fresher as they do without. Under SparseSSP it serves nobody: what a read must see there
//! depends on all clocks that the reader's slave knows of. Who waits for a sibling's read waits for none that itself may
//! wait for who is at a clock like the waiter's own.

use flexps_common::plan::Consistency;

/// See the module. Of the workers that one slave has in a stage.
#[derive(Debug, Clone, Copy)]
pub struct Reuse {
    model: Consistency,
    workers: u64,
}

impl Reuse {
    /// The rule for so many workers; none where there is nothing to reuse.
    pub fn new(model: Consistency, workers: usize) -> Option<Self> {
        let reuses = workers > 1 && model.ahead().is_none();
        reuses.then_some(Self { model, workers: workers as u64 })
    }

    /// What is to be remembered of a read that began when the workers here had ended `ticks` clocks together, and was
    /// answered when its shard had all updates of the clocks below `shown`.
    pub fn stamp(self, shown: u64, ticks: u64) -> u64 {
        if self.model == Consistency::Asp { ticks } else { shown }
    }

    /// Whether it may be read at `clock`, when the workers here have ended `ticks` clocks together.
    pub fn serves(self, stamp: u64, clock: u64, ticks: u64) -> bool {
        match self.model {
            Consistency::Bsp => stamp == clock,
            Consistency::Ssp { staleness } => stamp.saturating_add(staleness.into()) >= clock,
            Consistency::Asp => ticks.saturating_sub(stamp) < self.workers,
            Consistency::SparseSsp { .. } => false,
        }
    }

    /// Whether a worker at `clock` may wait for a sibling's read at clock `other`: that one may wait at its shard for all
    /// clocks below its own. Under ASP nobody waits for others.
    pub fn waits(self, clock: u64, other: u64) -> bool {
        match self.model {
            Consistency::Bsp => other == clock,
            Consistency::Ssp { .. } => other <= clock,
            Consistency::Asp | Consistency::SparseSsp { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reused_by_one_worker_or_under_sparse_ssp() {
        assert!(Reuse::new(Consistency::Bsp, 1).is_none());
        assert!(Reuse::new(Consistency::SparseSsp { staleness: 1, speculation: 2 }, 4).is_none());
    }

    #[test]
    fn under_asp_a_value_lasts_no_longer_than_a_clock_of_each_worker() {
        let rule = Reuse::new(Consistency::Asp, 3).unwrap();
        let stamp = rule.stamp(0, 10);
        assert_eq!([10, 12, 13].map(|ticks| rule.serves(stamp, 1000, ticks)), [true, true, false]);
    }
}
