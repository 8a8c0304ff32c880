//! The readings of all inputs of a job, and what becomes of them when a slave goes.
//!
//! Invariant: no slave is told the end of an input before all inputs are read to the end by slaves that live, so that those
//! that are to read what a dead one had still ask, and have not begun to work on their rows as a whole. What is consumed
//! does not come back: where a stage consumes rows, or one slave reads alone, nobody waits for others.

use super::reading::Reading;
use crate::assigner::{Back, Next};
use flexps_common::ids::{InputId, SlaveId};
use flexps_common::plan::Plan;
use std::collections::BTreeSet;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Readings {
    all: Vec<Reading>,
    /// Slaves that read.
    slaves: usize,
    /// Whether what a slave had read can be read once more.
    keeps: bool,
    /// Slaves that have asked since all inputs are read.
    here: BTreeSet<SlaveId>,
    /// Whether some slave was told the end of an input.
    ending: bool,
}

impl Readings {
    /// Of a job with so many slaves, by input.
    pub fn new(all: Vec<Reading>, plan: &Plan, slaves: usize) -> Self {
        let keeps = !plan.stages().iter().any(|stage| stage.consumes);
        Self { all, slaves, keeps, here: BTreeSet::new(), ending: false }
    }

    /// One of them.
    pub fn get(&self, input: InputId) -> Option<&Reading> {
        self.all.get(usize::from(input.0))
    }

    /// One of them.
    pub fn get_mut(&mut self, input: InputId) -> Option<&mut Reading> {
        self.all.get_mut(usize::from(input.0))
    }

    /// All of them, by input.
    pub fn iter(&self) -> impl Iterator<Item = &Reading> {
        self.all.iter()
    }

    /// What is next for a slave that has read so many of its splits of an input, see [`crate::assigner::Assigner::next`].
    pub fn next(&mut self, input: InputId, slave: SlaveId, read: u64, now: Duration) -> Option<Next> {
        let next = self.get_mut(input)?.next(slave, read, now);
        if next != Next::End {
            return Some(next);
        }
        if self.keeps && self.slaves > 1 && !self.ending && !self.all_are_here(slave) {
            return self.get(input).map(|reading| Next::Wait(reading.pause(slave, now)));
        }
        self.ending = true;
        Some(Next::End)
    }

    /// Whether all inputs are read, and each slave has asked since: this one does now.
    fn all_are_here(&mut self, slave: SlaveId) -> bool {
        if !self.all.iter().all(Reading::is_read) {
            self.here.clear();
            return false;
        }
        self.here.insert(slave);
        self.here.len() >= self.slaves
    }

    /// A slave is gone: the others read what it had, if they can. None if its rows are lost.
    pub fn give_back(&mut self, slave: SlaveId) -> Option<Back> {
        let over = self.ending || self.all.iter().any(Reading::begins_to_end);
        if over || !self.keeps || self.slaves < 2 || self.all.is_empty() {
            return None;
        }
        self.slaves -= 1;
        self.here.clear();
        let back = self.all.iter_mut().map(|reading| reading.give_back(slave));
        Some(back.fold(Back::default(), |sum, back| Back {
            splits: sum.splits + back.splits,
            bytes: sum.bytes + back.bytes,
        }))
    }
}
