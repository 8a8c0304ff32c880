//! The reading of one input: who has read what, and what the input turned out to hold.
//!
//! Invariant: facts come once, when every slave has reported, merged in shard order.

use super::order::{self, Piece};
use crate::assigner::{Assigner, Back, Next, Racks, Reader, Rules};
use crate::scheduler::Near;
use flexps_common::data::{Facts, InputSpec, Occurring, Schema};
use flexps_common::ids::SlaveId;
use flexps_common::report::ReadReport;
use flexps_common::wire::control::{ReadDone, Split};
use flexps_common::{Error, Result};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// An input that was listed and looked at.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its files, cut for as many slaves as the job has, see [`crate::assigner::cut`].
    pub sources: Vec<crate::assigner::Source>,
    /// How its rows are to be taken.
    pub schema: Schema,
}

/// The reading of one input by a job's slaves.
#[derive(Debug)]
pub struct Reading {
    name: String,
    checks_classes: bool,
    schema: Schema,
    files: u64,
    assigner: Assigner,
    /// In shard order.
    slaves: Vec<SlaveId>,
    done: BTreeMap<SlaveId, ReadDone>,
    since: Duration,
    until: Option<Duration>,
    facts: Option<Facts>,
    /// The order of its rows, if somebody asked for it.
    pieces: OnceLock<Arc<[Piece]>>,
}

impl Reading {
    /// Begins at `now`.
    pub fn new(
        spec: &InputSpec,
        listed: &Listed,
        (splits, racks): (Vec<Split>, Racks),
        readers: Vec<Reader>,
        rules: Rules,
        now: Duration,
    ) -> Self {
        Self {
            name: spec.name.clone(),
            checks_classes: spec.like.is_none(),
            schema: listed.schema.clone(),
            files: listed.sources.len() as u64,
            slaves: readers.iter().map(|r| r.slave).collect(),
            assigner: Assigner::new(splits, readers, racks, rules),
            done: BTreeMap::new(),
            since: now,
            until: None,
            facts: None,
            pieces: OnceLock::new(),
        }
    }

    /// How rows are to be taken.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What is next for a slave that has read so many of its splits, see [`Assigner::next`].
    pub fn next(&mut self, slave: SlaveId, read: u64, now: Duration) -> Next {
        self.assigner.next(slave, read, now)
    }

    /// Whether all splits are read to their ends.
    pub fn is_read(&self) -> bool {
        self.assigner.is_read()
    }

    /// See [`Assigner::pause`].
    pub fn pause(&self, slave: SlaveId, now: Duration) -> Duration {
        self.assigner.pause(slave, now)
    }

    /// Whether a slave has told what its part holds.
    pub fn begins_to_end(&self) -> bool {
        !self.done.is_empty()
    }

    /// A slave is gone: the others read what it had, see [`Assigner::give_back`].
    pub fn give_back(&mut self, slave: SlaveId) -> Back {
        self.slaves.retain(|id| *id != slave);
        self.assigner.give_back(slave)
    }

    /// A slave keeps what lies below `end` of a split that it was to give a part of, see [`Assigner::kept`].
    pub fn kept(&mut self, index: u32, end: Option<u64>) {
        self.assigner.kept(index, end);
    }

    /// A slave has read its part. Gives the facts of the whole input when it was the last.
    pub fn done(&mut self, slave: SlaveId, part: ReadDone, now: Duration) -> Result<Option<Facts>> {
        if !self.slaves.contains(&slave) || self.facts.is_some() {
            return Ok(None);
        }
        self.done.insert(slave, part);
        if self.done.len() < self.slaves.len() {
            return Ok(None);
        }
        self.until = Some(now);
        let (mut facts, mut occurring) = (Facts::default(), Occurring::default());
        for part in self.slaves.iter().filter_map(|id| self.done.get(id)) {
            facts.merge(&part.facts);
            occurring.merge(&part.occurring);
        }
        facts.occurring = occurring.at_most().unwrap_or(0);
        facts.features = facts.features.max(self.schema.features.unwrap_or(0));
        self.check(&facts)?;
        self.facts = Some(facts.clone());
        Ok(Some(facts))
    }

    /// What the whole input holds, once it is read.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// The order of all rows, once they are read.
    pub fn pieces(&self) -> Result<Arc<[Piece]>> {
        if let Some(known) = self.pieces.get() {
            return Ok(known.clone());
        }
        if self.under_way() {
            return Err(Error::bug(format!("the order of rows of --{} that are still being read", self.name)));
        }
        let blocks = self.slaves.iter().map(|id| self.done.get(id).map_or(&[][..], |done| &done.blocks));
        let pieces = order::pieces(blocks, |split| self.assigner.root(split))?;
        Ok(self.pieces.get_or_init(|| pieces.into()).clone())
    }

    /// Whether some slave still reads.
    pub fn under_way(&self) -> bool {
        self.until.is_none()
    }

    fn check(&self, facts: &Facts) -> Result<()> {
        let first = self.assigner.splits().first().map_or("", |s| s.path.as_str());
        if facts.rows == 0 {
            let what =
                if facts.bad_rows > 0 { format!(" ({} bad ones were skipped)", facts.bad_rows) } else { String::new() };
            let files = match first {
                "" => format!("its {} files are empty", self.files),
                first => format!("the first of its {} files is {first}", self.files),
            };
            return Err(Error::data(format!("no rows in --{}{what}; {files}", self.name)));
        }
        if facts.bad_rows > self.schema.bad_rows {
            return Err(Error::data(format!(
                "--{} has {} bad rows, at most {} may be skipped",
                self.name, facts.bad_rows, self.schema.bad_rows
            )));
        }
        let one = match (facts.positives, self.schema.labels.all()) {
            (0, [negative, _]) => negative,
            (n, [_, positive]) if n == facts.rows => positive,
            _ => return Ok(()),
        };
        if !self.checks_classes {
            return Ok(());
        }
        Err(Error::data(format!(
            "all {} rows of --{} have the label {one}; a model of two classes needs rows of both",
            facts.rows, self.name
        )))
    }

    /// Adds what is known so far to a job's report.
    pub fn report(&self, now: Duration, report: &mut ReadReport) {
        report.files += self.files;
        report.splits += self.assigner.splits().iter().filter(|s| s.end > s.start).count() as u64;
        let handed = self.assigner.handed();
        report.stolen += handed.stolen;
        if self.under_way() {
            report.bytes += handed.bytes;
            report.local_bytes += handed.local_bytes;
        }
        report.located_bytes += handed.located_bytes;
        for part in self.done.values() {
            report.rows += part.facts.rows;
            report.cached_bytes += part.cached_bytes;
            report.spilled_bytes += part.spilled_bytes;
            if !self.under_way() {
                report.bytes += part.bytes;
                report.local_bytes += part.local_bytes;
            }
        }
        let seconds = self.until.unwrap_or(now).saturating_sub(self.since).as_secs_f64();
        report.seconds = report.seconds.max(seconds);
        if let Some(facts) = &self.facts {
            report.inputs.insert(self.name.clone(), facts.clone());
        }
    }

    /// Which slaves have something of it, the most first: rows, once they are read; before that, blocks on their hosts.
    pub fn near(&self) -> Vec<(SlaveId, Near)> {
        let (mut bytes, near): (Vec<(SlaveId, u64)>, Near) = match self.under_way() {
            false => {
                (self.done.iter().map(|(id, part)| (*id, part.cached_bytes + part.spilled_bytes)).collect(), Near::Data)
            }
            true => (self.slaves.iter().map(|id| (*id, self.assigner.local_bytes(*id))).collect(), Near::Blocks),
        };
        bytes.retain(|(_, n)| *n > 0);
        bytes.sort_by_key(|(id, n)| (Reverse(*n), *id));
        bytes.into_iter().map(|(id, _)| (id, near)).collect()
    }

    /// What the slaves remarked.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.done.values().flat_map(|done| done.notes.iter().cloned())
    }
}
