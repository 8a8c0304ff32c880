//! A worker's copy of what the tables know of all features, read and changed in place.
//!
//! It is held as soon as the worker has seen a part of as many non-zeros as there are features: to look each batch's
//! features up would then cost more than to read all; but not where it would take more memory than a worker may keep by feature,
//! or than a part of the rows. An exchange brings together what the worker and others have learnt (see
//! [`Joining`]) and leaves that here and in the tables. Invariant: what was learnt in the copy is in the tables once
//! [`Own::give_back`] returned.

use super::join::Joining;
use super::rule::{Rule, State};
use crate::pages;
use crate::parts::BESIDE_ROWS;
use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::plan::Table;
use flexps_common::widest::widest;
use flexps_common::worker::Worker;
use std::ops::Range;

/// Bytes of a feature: what is known now, and what was.
const FEATURE: u64 = 16;
/// Features that are exchanged at a time.
const RANGE: usize = 1 << 16;
/// So many features are read in the time in which one is looked up.
const READ: usize = 16;
/// An exchange is due after this part of the features in non-zeros: sooner, and it costs more than learning does.
const OFTEN: usize = 2;
/// Nor before this part of all that the worker has seen: the more it knows, the less others' rows change it.
const PART: usize = 16;

/// The tables of what is known.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    /// z and n, by feature.
    pub features: Table<f32>,
    /// Those of the intercept, at key 0.
    pub bias: Option<Table<f32>>,
}

/// The copy; see the module.
pub struct Own {
    sums: Sums,
    /// By which it is changed, while it is held.
    rule: Option<Rule>,
    now: Vec<State>,
    /// What it was at the last exchange; empty if that was nothing.
    before: Vec<State>,
    /// Whether this worker has added nothing to the tables yet: as long as it is alone, they hold nothing.
    first: bool,
    bias_now: State,
    bias_before: State,
    /// Non-zeros since the last exchange.
    since: usize,
    /// All non-zeros so far.
    seen: usize,
    /// Bytes that the copy may take.
    memory: u64,
    /// How many features were too many for that.
    too_many: usize,
}

impl Own {
    /// None is held yet.
    pub fn new(sums: Sums, memory: u64) -> Self {
        let (now, before) = Default::default();
        let (bias_now, bias_before) = Default::default();
        let (since, seen, too_many) = (0, 0, 0);
        Self { sums, rule: None, now, before, first: true, bias_now, bias_before, since, seen, memory, too_many }
    }

    /// Gives the copy back and goes on with other tables.
    pub fn turn(&mut self, worker: &mut Worker<'_>, sums: Sums) -> Result<()> {
        self.give_back(worker)?;
        self.sums = sums;
        Ok(())
    }

    /// Whether rows of so many non-zeros, whose features are below `features`, can be learnt from in the copy by a rule.
    /// `alone` says that no other worker has had rows so far.
    pub fn covers(
        &mut self,
        worker: &mut Worker<'_>,
        rule: Rule,
        (features, nonzeros): (usize, usize),
        alone: bool,
    ) -> Result<bool> {
        let features = features.max(self.now.len());
        let rows = 4 * (self.seen + nonzeros) as u64;
        let bound = self.memory.max(rows / BESIDE_ROWS);
        // Once they are too many, a block without the last ones is no reason to read all others.
        if FEATURE * features.max(self.too_many) as u64 > bound {
            self.too_many = self.too_many.max(features);
            self.give_back(worker)?;
            return Ok(false);
        }
        if features > READ * (self.seen + nonzeros) {
            self.give_back(worker)?;
            return Ok(false);
        }
        let known = self.now.len();
        lengthen(&mut self.now, features);
        if self.rule.replace(rule).is_none() {
            self.read_bias(worker)?;
        }
        if !(self.first && alone) {
            lengthen(&mut self.before, features);
            self.read(worker, known..features)?;
        }
        Ok(true)
    }

    /// What is known of the features, and of the intercept if there is one.
    pub fn parts(&mut self) -> (&mut [State], Option<&mut State>) {
        (&mut self.now, self.sums.bias.map(|_| &mut self.bias_now))
    }

    /// Counts what was learnt from by way of the tables.
    pub fn count(&mut self, nonzeros: usize) {
        self.seen += nonzeros;
        self.first = false;
    }

    /// Counts what was learnt from in the copy, and makes an exchange when one is due: never while the worker is alone.
    pub fn learnt(&mut self, worker: &mut Worker<'_>, nonzeros: usize, alone: bool) -> Result<()> {
        self.seen += nonzeros;
        self.since += nonzeros;
        if alone || self.since < (self.now.len() / OFTEN).max(self.seen / PART) {
            return Ok(());
        }
        self.exchange(worker)?;
        self.before.clone_from(&self.now);
        Ok(())
    }

    /// Brings the changes to the tables and drops the copy.
    pub fn give_back(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        self.exchange(worker)?;
        self.rule = None;
        self.now.clear();
        self.before.clear();
        Ok(())
    }

    /// What the copy held before is not what it holds behind this: that is for who goes on with it.
    fn exchange(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        let Some(rule) = self.rule else { return Ok(()) };
        (self.since, self.first) = (0, false);
        let (mut theirs, mut nothing) = (Vec::new(), Vec::new());
        for range in ranges(0..self.now.len()) {
            worker.get_range(self.sums.features, keys(&range), &mut theirs)?;
            let ours = &mut self.now[range.clone()];
            let before = match self.before.get_mut(range.clone()) {
                Some(before) => before,
                None => {
                    nothing.clear();
                    nothing.resize(range.len(), State::default());
                    &mut nothing[..]
                }
            };
            let changes = widest(Joining { rule, ours, before, theirs: theirs.as_chunks().0 });
            if changes {
                worker.add_range(self.sums.features, keys(&range), before.as_flattened())?;
            }
        }
        if let Some(table) = self.sums.bias {
            worker.get(table, &[0], &mut theirs)?;
            let joined = rule.free().joined(&[self.bias_before], &[self.bias_now], &[[theirs[0], theirs[1]]]);
            [self.bias_now] = joined;
            worker.add(table, &[0], &[self.bias_now[0] - theirs[0], self.bias_now[1] - theirs[1]])?;
            self.bias_before = self.bias_now;
        }
        worker.clock()
    }

    fn read(&mut self, worker: &mut Worker<'_>, range: Range<usize>) -> Result<()> {
        let mut read = Vec::new();
        for range in ranges(range) {
            worker.get_range(self.sums.features, keys(&range), &mut read)?;
            self.now[range.clone()].as_flattened_mut().copy_from_slice(&read);
            self.before[range].as_flattened_mut().copy_from_slice(&read);
        }
        Ok(())
    }

    fn read_bias(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        let Some(table) = self.sums.bias else { return Ok(()) };
        let mut read = Vec::new();
        worker.get(table, &[0], &mut read)?;
        self.bias_now = [read[0], read[1]];
        self.bias_before = self.bias_now;
        Ok(())
    }
}

/// Written, although fresh memory is zero already: pages that are read before they are written are made twice.
fn lengthen(states: &mut Vec<State>, len: usize) {
    if states.capacity() == 0 {
        *states = pages::room(len);
    }
    states.resize(len, State::default());
}

fn keys(range: &Range<usize>) -> Range<Key> {
    range.start as Key..range.end as Key
}

fn ranges(all: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    all.clone().step_by(RANGE).map(move |from| from..all.end.min(from + RANGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::host::Host;
    use flexps_common::metrics::Metric;
    use flexps_common::plan::{Flow, Plan};

    #[test]
    fn a_copy_takes_no_more_than_the_memory_or_a_part_of_the_rows() {
        let mut plan = Plan::default();
        let table = plan.table::<f32>("sums", 2);
        plan.body.stage("covers", move |worker| {
            let rule = Rule { alpha: 1.0, beta: 1.0, l1: 0.0, l2: 0.0, constant: 1.0 };
            let mut own = Own::new(Sums { features: table, bias: None }, 16_000);
            let mut covers = Vec::new();
            for (features, nonzeros) in [(900, 500), (1100, 500), (900, 500), (900, 40_000)] {
                covers.push(own.covers(worker, rule, (features, nonzeros), true)?);
                own.learnt(worker, nonzeros, true)?;
            }
            for (name, covers) in ["few", "more", "few again", "many rows"].into_iter().zip(covers) {
                worker.report(name, Metric::Count(covers.into()));
            }
            Ok(())
        });
        plan.body.decide(|progress| {
            for (name, wanted) in [("few", 1.0), ("more", 0.0), ("few again", 0.0), ("many rows", 1.0)] {
                assert_eq!(progress.metric("covers", name)?, wanted, "{name}");
            }
            Ok(Flow::Next)
        });
        Host::new().run(&plan).unwrap();
    }
}
