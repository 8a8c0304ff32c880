//! The walk: how a driver goes from one step of the plan to the next, through decisions and rounds.
//!
//! Invariant: `at` always names the next instruction, and the loops on the stack are those that enclose it.

use super::{Command, Driver, Group, IDLE, LISTED_EPOCHS, Loop, Phase, drop_first};
use crate::job::program::Code;
use flexps_common::caught::caught;
use flexps_common::plan::{DecideFn, Flow, TableOp};
use flexps_common::report::EpochReport;
use flexps_common::{Error, Result};
use std::collections::BTreeMap;
use std::time::Duration;

impl Driver {
    /// Walks on until something is under way or the plan is at its end.
    pub(super) fn advance(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        loop {
            if self.skip()? {
                return Ok(());
            }
            let Some(code) = self.program.code.get(self.at) else {
                return self.at_end(now, out);
            };
            match code {
                Code::Stages(stages) => {
                    let group = Group::new(stages);
                    self.at += 1;
                    self.idle = 0;
                    self.begin(group, out);
                    return Ok(());
                }
                Code::Op(_) => {
                    let rest = &self.program.code[self.at..self.until()];
                    let ops: Vec<TableOp> =
                        rest.iter().map_while(|c| if let Code::Op(op) = c { Some(op.clone()) } else { None }).collect();
                    self.at += ops.len();
                    self.idle = 0;
                    self.order(ops, Flow::Next, out);
                    return Ok(());
                }
                Code::Load(load) => {
                    self.phase = Phase::Loading;
                    self.transferring = true;
                    self.homes.filled(Some(load.table));
                    out.push(Command::Load(load.clone()));
                    self.at += 1;
                    self.idle = 0;
                    return Ok(());
                }
                Code::Decide(decide) => {
                    // Facts are there before any decision, so what it decides does not depend on how fast rows came.
                    if self.reading() {
                        self.phase = Phase::Reading;
                        return Ok(());
                    }
                    let decide = decide.clone();
                    let flow = self.decide(now, &decide)?;
                    if self.rebuilding {
                        flow.must_be_next()?;
                    }
                    let ops = std::mem::take(&mut self.progress.ops);
                    if !ops.is_empty() {
                        self.order(ops, flow, out);
                        return Ok(());
                    }
                    self.follow(now, flow)?;
                }
                Code::Enter { times, close, .. } => {
                    if *times == 0 {
                        self.at = close + 1;
                        continue;
                    }
                    self.loops.push(Loop { enter: self.at, close: *close, times: *times, round: 0 });
                    self.progress.epoch = 0;
                    self.at += 1;
                }
                Code::Unless { scalar, value, behind } => {
                    let holds = self.progress.scalars.get(scalar) == Some(value);
                    self.at = if holds { self.at + 1 } else { *behind };
                }
                Code::Close { enter } => {
                    let enter = *enter;
                    self.goes_idle()?;
                    self.round_ended(now, false);
                    if self.at == enter + 1 && self.keep(now, enter, out) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn at_end(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        self.note_unkept(now);
        if self.reading() {
            self.phase = Phase::Reading;
        } else if self.saves || self.keeping.is_some() {
            self.phase = Phase::Saving;
            self.transferring = true;
            out.push(Command::Save);
        } else {
            self.phase = Phase::Ended;
            out.push(Command::End(Ok(())));
        }
        Ok(())
    }

    pub(super) fn elapsed(&self, now: Duration) -> Duration {
        self.spent + now.saturating_sub(self.began.unwrap_or(now))
    }

    pub(super) fn reading(&self) -> bool {
        self.progress.facts.iter().any(Option::is_none)
    }

    fn order(&mut self, ops: Vec<TableOp>, flow: Flow, out: &mut Vec<Command>) {
        self.phases += 1;
        self.homes.operated(self.phases, &ops);
        out.push(Command::Ops { phase: self.phases, ops: ops.clone() });
        self.phase = Phase::Ops { phase: self.phases, ops, answers: BTreeMap::new(), flow };
    }

    pub(super) fn ops_ended(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        let Phase::Ops { ops, answers, flow, .. } = std::mem::replace(&mut self.phase, Phase::Opening) else {
            return Ok(());
        };
        for (i, op) in ops.iter().enumerate() {
            if let TableOp::Norm2 { into, .. } = op {
                let mut parts: Vec<(u32, f64)> =
                    answers.values().flat_map(|numbers| numbers[i].iter().copied()).collect();
                parts.sort_unstable_by_key(|(chunk, _)| *chunk);
                self.progress.set(into, parts.into_iter().map(|(_, part)| part).sum());
            }
        }
        self.follow(now, flow)?;
        self.advance(now, out)
    }

    fn decide(&mut self, now: Duration, decide: &DecideFn) -> Result<Flow> {
        self.goes_idle()?;
        self.progress.elapsed = self.elapsed(now);
        let flow = caught(|| "a decision of the plan".to_owned(), || decide(&mut self.progress))?;
        // The place of the decision is behind us, except that `Again` and `Stop` set their own.
        self.at += 1;
        Ok(flow)
    }

    /// A decision or a round's end; an error when there were too many without work.
    fn goes_idle(&mut self) -> Result<()> {
        self.idle += 1;
        if self.idle <= IDLE {
            return Ok(());
        }
        Err(Error::user(format!(
            "the plan went through {IDLE} decisions and rounds without a stage or a change of a table between them; end its \
             repeats by Flow::Stop when there is nothing to do"
        )))
    }

    fn follow(&mut self, now: Duration, flow: Flow) -> Result<()> {
        match flow {
            Flow::Next => {}
            Flow::Again => match self.loops.last() {
                Some(innermost) => self.at = innermost.enter + 1,
                None => return Err(Error::bug("a decision outside of any repeat asked for the round again")),
            },
            Flow::Stop(why) => {
                if self.loops.len() <= 1 {
                    self.stopped = Some(why);
                }
                match self.loops.last() {
                    Some(innermost) => {
                        self.at = innermost.close;
                        self.round_ended(now, true);
                    }
                    None => self.at = self.program.code.len(),
                }
            }
        }
        Ok(())
    }

    /// A round of the innermost loop is over; with `stop`, so is the loop. Leaves `at` where the plan goes on.
    fn round_ended(&mut self, now: Duration, stop: bool) {
        let (outermost, elapsed) = (self.loops.len() == 1, self.elapsed(now));
        let Some(innermost) = self.loops.last_mut() else { return };
        innermost.round += 1;
        let (round, last) = (innermost.round, stop || innermost.round >= innermost.times);
        let (enter, close) = (innermost.enter, innermost.close);
        if outermost {
            drop_first(&mut self.epochs, LISTED_EPOCHS / 2, &mut self.unlisted.epochs);
            self.epochs.push(EpochReport {
                epoch: round,
                seconds: elapsed.as_secs_f64(),
                objective: self.progress.objective,
                metrics: std::mem::take(&mut self.progress.epoch_metrics),
            });
        }
        if last {
            self.loops.pop();
            self.at = close + 1;
            self.progress.epoch = self.loops.last().map_or(0, |l| l.round);
        } else {
            self.at = enter + 1;
            self.progress.epoch = round;
        }
    }
}
