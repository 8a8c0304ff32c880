//! The stages that are under way: one that stands alone, or those of a group.
//!
//! Invariants: a stage is asked to be placed when those before it have ended, and once; tables move for one that stands alone
//! only; the walk goes on when all have ended.

use super::running::Running;
use super::{Command, Driver, Moving, Phase};
use crate::scheduler::Why;
use flexps_common::Result;
use flexps_common::ids::{SlaveId, StageRun};
use flexps_common::wire::control::{Launch, Outcome};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Group(Vec<Member>);

#[derive(Debug)]
struct Member {
    stage: u32,
    /// The places of those before it.
    before: Vec<usize>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waits,
    Placing,
    Runs(Box<Running>),
    Over(StageRun),
}

impl Group {
    /// Stages, each with the places of those before it.
    pub fn new(stages: &[(u32, Vec<usize>)]) -> Self {
        let member =
            |(stage, before): &(u32, Vec<usize>)| Member { stage: *stage, before: before.clone(), state: State::Waits };
        Self(stages.iter().map(member).collect())
    }

    /// Whether it is one stage.
    pub fn is_alone(&self) -> bool {
        self.0.len() == 1
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.0
            .iter()
            .filter_map(|member| if let State::Runs(running) = &member.state { Some(&**running) } else { None })
    }

    /// One that runs.
    pub fn run(&mut self, run: StageRun) -> Option<&mut Running> {
        let of = |member| {
            if let &mut Member { state: State::Runs(ref mut running), .. } = member { Some(running) } else { None }
        };
        self.0.iter_mut().filter_map(of).find(|running| running.run == run).map(|running| &mut **running)
    }

    /// The one to which a model is on its way.
    pub fn moving(&mut self) -> Option<&mut Running> {
        let moving = self.running().find(|running| running.moving.is_some())?.run;
        self.run(moving)
    }

    /// The stages that run or wait for slots, in order.
    pub fn under_way(&self) -> impl Iterator<Item = u32> {
        let at_work = |member: &&Member| matches!(member.state, State::Placing | State::Runs(_));
        self.0.iter().filter(at_work).map(|member| member.stage)
    }

    fn waits_for_slots(&self, stage: u32) -> bool {
        self.0.iter().any(|member| member.stage == stage && matches!(member.state, State::Placing))
    }

    /// Those that begin now, each with the runs that had to end before; `behind` those that had before the first.
    fn begin(&mut self, behind: &[StageRun]) -> Vec<(u32, Vec<StageRun>)> {
        let over = |member: &Member| if let State::Over(run) = member.state { Some(run) } else { None };
        let ended: Vec<Option<StageRun>> = self.0.iter().map(over).collect();
        let mut begun = Vec::new();
        for member in self.0.iter_mut().filter(|member| matches!(member.state, State::Waits)) {
            let after: Option<Vec<StageRun>> = member.before.iter().map(|place| ended[*place]).collect();
            let Some(after) = after else { continue };
            member.state = State::Placing;
            begun.push((member.stage, if member.before.is_empty() { behind.to_vec() } else { after }));
        }
        begun
    }

    fn launched(&mut self, running: Running) {
        if let Some(member) = self.0.iter_mut().find(|member| member.stage == running.stage) {
            member.state = State::Runs(Box::new(running));
        }
    }

    /// Takes a run out that is over on all of its slaves.
    fn take_ended(&mut self, run: StageRun) -> Option<Running> {
        let of = |member: &&mut Member| matches!(&member.state, State::Runs(r) if r.run == run && r.has_ended());
        let member = self.0.iter_mut().find(of)?;
        match std::mem::replace(&mut member.state, State::Over(run)) {
            State::Runs(running) => Some(*running),
            _ => None,
        }
    }

    /// The runs of all, once all have ended.
    fn all_over(&self) -> Option<Vec<StageRun>> {
        self.0.iter().map(|member| if let State::Over(run) = member.state { Some(run) } else { None }).collect()
    }
}

impl Driver {
    /// Begins stages.
    pub(super) fn begin(&mut self, mut group: Group, out: &mut Vec<Command>) {
        self.phases += 1;
        place(group.begin(&self.behind), out);
        self.phase = Phase::Stages(group);
    }

    /// A stage has its slots.
    pub(super) fn placed(
        &mut self,
        now: Duration,
        stage: u32,
        (workers, why): (Vec<(SlaveId, u32)>, Why),
        out: &mut Vec<Command>,
    ) {
        if matches!(&self.phase, Phase::Stages(group) if group.waits_for_slots(stage)) {
            self.place(now, stage, workers, why, out);
        }
    }

    /// Launches a stage, with its tables where they are unless a model is on its way to it.
    pub(super) fn launch(
        &mut self,
        now: Duration,
        (stage, workers, placed): (u32, Vec<(SlaveId, u32)>, Why),
        moving: Option<Box<Moving>>,
        out: &mut Vec<Command>,
    ) {
        self.visit(stage, &workers);
        let Phase::Stages(group) = &mut self.phase else { return };
        self.runs += 1;
        let run = StageRun(self.runs);
        out.push(Command::Launch(Launch {
            job: self.job,
            run,
            stage,
            epoch: self.progress.epoch,
            workers: workers.clone(),
            scalars: self.progress.scalars.clone(),
            phase: self.phases,
            homes: moving.is_none().then(|| self.homes.now().to_vec()),
            beside: group.running().map(|running| running.run).collect(),
        }));
        group.launched(Running {
            run,
            stage,
            phase: self.phases,
            since: now,
            placed,
            workers,
            done: BTreeMap::new(),
            moving,
            transfers: 0..0,
            copied: Vec::new(),
        });
    }

    /// The workers of a run on one slave ended.
    pub(super) fn stage_done(
        &mut self,
        now: Duration,
        (slave, run): (SlaveId, StageRun),
        mut outcome: Outcome,
        out: &mut Vec<Command>,
    ) -> Result<()> {
        let Phase::Stages(group) = &mut self.phase else { return Ok(()) };
        let Some(running) = group.run(run) else { return Ok(()) };
        if let Some(error) = outcome.error.clone() {
            let lines = std::mem::take(&mut outcome.log);
            running.done.insert(slave, outcome);
            self.keep_log(slave, lines);
            return Err(error);
        }
        if running.workers.iter().any(|(id, _)| *id == slave) {
            running.done.insert(slave, outcome);
        }
        self.end_stage(now, run, out)
    }

    /// Goes on when all workers of a run have ended, and no model is on its way to them.
    pub(super) fn end_stage(&mut self, now: Duration, run: StageRun, out: &mut Vec<Command>) -> Result<()> {
        let Phase::Stages(group) = &mut self.phase else { return Ok(()) };
        let Some(ended) = group.take_ended(run) else { return Ok(()) };
        place(group.begin(&self.behind), out);
        let over = group.all_over();
        self.stage_ended(now, ended)?;
        let Some(over) = over else { return Ok(()) };
        self.behind = over;
        self.advance(now, out)
    }
}

fn place(begun: Vec<(u32, Vec<StageRun>)>, out: &mut Vec<Command>) {
    out.extend(begun.into_iter().map(|(stage, after)| Command::Place { stage, after }));
}
