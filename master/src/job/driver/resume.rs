//! Checkpoints: the place in a plan between two rounds, which is kept with the tables, and from which a driver goes on.
//!
//! Invariants: a place is kept while nothing else is under way, so the tables are those of just this place; who goes on from
//! one has made anew what belongs to slaves, and knows the facts of all inputs, before the first step of the round.

use super::{Command, Driver, Loop, Phase};
use crate::job::program::{Code, Program};
use flexps_common::checkpoint::Kept;
use flexps_common::ids::TableId;
use flexps_common::notes::note;
use flexps_common::plan::Progress;
use flexps_common::report::EpochReport;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// For so many times as long as a checkpoint took no other one is written.
const REST: u32 = 9;

/// A place in a plan, and what a driver knows there beside the tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The repeats around it, the outermost first: where each begins, and its round.
    loops: Vec<(u64, u64)>,
    progress: Progress,
    epochs: Vec<EpochReport>,
    /// How many there were before these.
    unlisted: u64,
    /// The names of the slaves that stages have visited: those that are there when it goes on may have other identities.
    visited: BTreeMap<u32, Vec<String>>,
}

impl Place {
    /// Behind what it is, for users: `epoch 3`, or, in a repeat within another, `round 2 of epoch 4`.
    pub fn behind(&self) -> String {
        match self.loops.as_slice() {
            [] => "nothing".to_owned(),
            [(_, epoch)] => format!("epoch {epoch}"),
            [(_, over), .., (_, round)] => format!("round {round} of epoch {}", over + 1),
        }
    }

    /// The objective there.
    pub fn objective(&self) -> Option<f64> {
        self.progress.objective.filter(|x| x.is_finite())
    }

    /// How long the job had taken.
    pub fn elapsed(&self) -> Duration {
        self.progress.elapsed
    }

    /// Where the repeats around it begin.
    fn at(&self) -> usize {
        self.loops.first().map_or(0, |(enter, _)| *enter as usize)
    }

    /// The repeats around it, if the program has them.
    fn loops(&self, program: &Program) -> Option<Vec<Loop>> {
        let enter = |(enter, round): &(u64, u64)| match program.code.get(*enter as usize) {
            Some(Code::Enter { times, close, .. }) if round < times => {
                Some(Loop { enter: *enter as usize, close: *close, times: *times, round: *round })
            }
            _ => None,
        };
        self.loops.iter().map(enter).collect()
    }
}

/// That a job keeps checkpoints.
#[derive(Debug)]
pub struct Keeping {
    every: Duration,
    /// When the next one is due; none before the job's slaves are open.
    due: Option<Duration>,
    /// Where the job would go on if it began anew.
    from: Option<Arc<Place>>,
    /// Whether it goes on from there, as soon as all rows are read.
    awaited: bool,
    /// What came of it so far.
    kept: Kept,
}

impl Keeping {
    /// One each time that so long has passed; the job goes on `from` an earlier start's.
    pub fn new(every: Duration, from: Option<Place>, kept: Kept) -> Self {
        Self { every, due: None, from: from.map(Arc::new), awaited: false, kept }
    }
}

impl Driver {
    /// What the job kept so far, if it keeps anything.
    pub fn kept(&self) -> Option<Kept> {
        self.keeping.as_ref().map(|keeping| keeping.kept.clone())
    }

    /// The tables that are in no checkpoint of this place.
    pub fn remade(&self, place: &Place) -> Vec<TableId> {
        self.program.remade(place.at())
    }

    /// The job's slaves are open: begins with the first step, or from a place.
    pub(super) fn opened(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        self.began.get_or_insert(now);
        let Some(keeping) = &mut self.keeping else { return self.advance(now, out) };
        keeping.due = Some(now.saturating_add(keeping.every));
        keeping.awaited = keeping.from.is_some();
        self.read(now, out)
    }

    /// More of the rows is read, and nothing else is under way: goes on, at first from its place.
    pub(super) fn read(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        let awaits = self.carries && self.reading();
        let Some(keeping) = self.keeping.as_mut().filter(|keeping| keeping.awaited) else {
            return self.advance(now, out);
        };
        if awaits {
            self.phase = Phase::Reading;
            return Ok(());
        }
        keeping.awaited = false;
        self.phase = Phase::Restoring;
        self.transferring = true;
        self.homes.filled(None);
        out.push(Command::Restore);
        Ok(())
    }

    /// Tables and columns are as they were at a place: makes anew what belongs to slaves, then goes on from there. It is that of
    /// the file: of a checkpoint that was put there while the plan stopped nobody told.
    pub(super) fn restored(&mut self, now: Duration, place: Arc<Place>, out: &mut Vec<Command>) -> Result<()> {
        let Some(Keeping { from, kept, .. }) = &mut self.keeping else {
            return Err(Error::bug("a job that keeps no checkpoint has restored one"));
        };
        *from = Some(place.clone());
        let behind = place.behind();
        let resumed = format!("resumed behind {behind}, from the checkpoint in {}", kept.folder);
        kept.resumed = Some(behind);
        // Rows may have been read meanwhile.
        let facts = std::mem::take(&mut self.progress.facts);
        self.progress = Progress { facts, epoch: 0, ..place.progress.clone() };
        note(&mut self.progress.notes, [resumed]);
        self.epochs.clone_from(&place.epochs);
        self.unlisted.epochs = place.unlisted;
        self.rebuilding = true;
        self.advance(now, out)
    }

    /// While what belongs to slaves is made anew: walks past what is not. Whether it has to wait for rows.
    pub(super) fn skip(&mut self) -> Result<bool> {
        if !self.rebuilding {
            return Ok(false);
        }
        let lacks = || Error::bug("a checkpoint is of a place that the plan lacks");
        let from = self.keeping.as_ref().and_then(|keeping| keeping.from.as_ref()).ok_or_else(lacks)?;
        if let Some(range) = self.program.rebuilt(from.at()).find(|range| self.at < range.end) {
            self.at = self.at.max(range.start);
            return Ok(false);
        }
        let loops = from.loops(&self.program).ok_or_else(lacks)?;
        if self.reading() {
            self.phase = Phase::Reading;
            return Ok(true);
        }
        let innermost = loops.last().ok_or_else(lacks)?;
        // Now: what was made anew has visited slaves too.
        let visited = from.visited.clone();
        (self.at, self.progress.epoch) = (innermost.enter + 1, innermost.round);
        (self.loops, self.rebuilding) = (loops, false);
        self.have_visited(&visited);
        Ok(false)
    }

    /// Behind the last instruction that is done now: of several operations at once, those that are to be done anew alone.
    pub(super) fn until(&self) -> usize {
        let all = self.program.code.len();
        if !self.rebuilding {
            return all;
        }
        self.program.rebuilt(all).find(|range| range.contains(&self.at)).map_or(all, |range| range.end)
    }

    /// A round of the repeat that begins at `enter` is over, and another one follows: orders a checkpoint if one is due.
    pub(super) fn keep(&mut self, now: Duration, enter: usize, out: &mut Vec<Command>) -> bool {
        let resumable = matches!(self.program.code.get(enter), Some(Code::Enter { resumable: true, .. }));
        let due = self.keeping.as_ref().and_then(|keeping| keeping.due).is_some_and(|due| now >= due);
        if !(resumable && due) || self.carries && self.reading() {
            return false;
        }
        self.progress.elapsed = self.elapsed(now);
        let place = Arc::new(Place {
            loops: self.loops.iter().map(|l| (l.enter as u64, l.round)).collect(),
            progress: Progress { facts: Vec::new(), ..self.progress.clone() },
            epochs: self.epochs.clone(),
            unlisted: self.unlisted.epochs,
            visited: self.visits(),
        });
        self.phase = Phase::Keeping { since: now, place: place.clone() };
        self.transferring = true;
        out.push(Command::Keep(place));
        true
    }

    /// The plan is at its end: says so if a checkpoint was due and no round ended behind which one could be written.
    pub(super) fn note_unkept(&mut self, now: Duration) {
        let Some(Keeping { due: Some(due), kept: Kept { written: 0, failed: 0, .. }, .. }) = &self.keeping else {
            return;
        };
        if now >= *due {
            let unkept = "no checkpoint was written: no round ended from whose end the job could have gone on";
            note(&mut self.progress.notes, [unkept.to_owned()]);
        }
    }

    /// A checkpoint of so many bytes is written, or is not: the job goes on either way.
    pub(super) fn written(&mut self, now: Duration, written: Result<u64>, out: &mut Vec<Command>) -> Result<()> {
        let Phase::Keeping { since, place } = std::mem::replace(&mut self.phase, Phase::Opening) else { return Ok(()) };
        let Some(keeping) = &mut self.keeping else { return Ok(()) };
        let took = now.saturating_sub(since);
        keeping.due = Some(now.saturating_add(keeping.every.max(took.saturating_mul(REST))));
        keeping.kept.seconds += took.as_secs_f64();
        match written {
            Ok(bytes) => {
                let written = keeping.kept.written + 1;
                keeping.kept = Kept { written, behind: place.behind(), bytes, ..keeping.kept.clone() };
                keeping.from = Some(place);
            }
            // If a slave is gone, that is noticed otherwise.
            Err(e) if e.retry => {}
            Err(e) => {
                keeping.kept.failed += 1;
                keeping.kept.error = Some(e.to_string());
            }
        }
        self.advance(now, out)
    }
}
