//! Drives a job through its plan: a pure state machine, event and time in, commands out.
//!
//! Invariants: at most one thing is under way (a stage or a group of stages, operations, a load, a save); metrics merge in
//! shard order and norms sum in chunk order, so the order of arrival decides nothing; after the first error no new work
//! begins, and [`Command::End`] comes once, when the workers of all runs have ended or had their time; unless the plan
//! begins anew.

mod again;
mod ending;
mod flow;
mod group;
mod moving;
mod resume;
mod running;
mod visits;

use super::homes::Homes;
use super::program::Program;
use crate::scheduler::Why;
use crate::tune::Tuners;
pub use again::Anew;
use again::{TOLD_WITHIN, Then, after_gone, may_pass};
use flexps_common::data::Facts;
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::plan::{Flow, LoadSpec, Plan, Progress, TableOp};
use flexps_common::report::{Access, EpochReport, FailedLog, StageReport, TransferReport};
use flexps_common::wire::api::RunningStage;
use flexps_common::wire::control::{Launch, Outcome, Partials};
use flexps_common::wire::moved::{Copies, Sent};
use flexps_common::{Error, Result};
use group::Group;
use moving::Moving;
pub use resume::{Keeping, Place};
use running::Running;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long workers may take to stop after a stage was cancelled.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// ... and a checkpoint that is being written, where the job goes on from it: to ask HDFS once may take a minute.
pub const WRITTEN_WITHIN: Duration = Duration::from_secs(100);
/// Decisions and rounds in a row without any work between them: a plan that goes on like this never ends.
const IDLE: u32 = 10_000;
/// Stage runs, and rounds, that a report lists at most, the last ones, so that it fits into one message.
pub const LISTED_STAGES: usize = 10_000;
const LISTED_EPOCHS: usize = 20_000;

/// What happened.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "events are taken one by one, not kept")]
pub enum Event {
    /// All slaves of the job are open.
    Opened,
    /// A stage that waited got its slots.
    Placed(u32, Vec<(SlaveId, u32)>, Why),
    /// The workers of a run on one slave ended.
    StageDone(SlaveId, StageRun, Outcome),
    /// A slave answered the operations of a phase.
    Numbers(SlaveId, u64, Vec<Partials>),
    /// A slave sent what a phase's stage wants elsewhere, or could not.
    Sent(SlaveId, u64, Result<Vec<Sent>>),
    /// An input was read by all slaves.
    Facts(InputId, Facts),
    /// The load ended.
    Loaded(Result<()>),
    /// The model is saved, or is not.
    Saved(Result<()>),
    /// A checkpoint of so many bytes is written, or is not.
    Kept(Result<u64>),
    /// All is as a checkpoint of this place says, or is not.
    Restored(Result<Arc<Place>>),
    /// A slave is gone; how the job is to begin anew, if at all, see [`Driver::may_begin_anew`].
    Gone(SlaveId, Error, Option<Anew>),
    /// The job must end: somebody cancelled it, or something it needs failed.
    Fail(Error),
    /// A slave could not read its part of an input.
    Unread(SlaveId, Error),
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Find slots for a stage, answer with [`Event::Placed`].
    Place {
        /// Its place in the plan.
        stage: u32,
        /// The runs that had to end before.
        after: Vec<StageRun>,
    },
    /// Send to all slaves of the job.
    Launch(Launch),
    /// Send to all slaves of the job.
    Ops {
        /// Goes back with the answer.
        phase: u64,
        /// In this order.
        ops: Vec<TableOp>,
    },
    /// The move of a launch without homes: send to all slaves of the job, which have so long for it.
    Move {
        /// Goes back with the answer.
        phase: u64,
        /// Where the tables are to live.
        homes: Vec<Home>,
        /// What is to be read elsewhere too.
        copies: Copies,
        /// When it has failed.
        within: Duration,
    },
    /// The move is over: send to all slaves of the job.
    Settle {
        /// The move's.
        phase: u64,
        /// Which was launched without homes.
        run: StageRun,
        /// Where the tables live from now on.
        homes: Vec<Home>,
        /// What is read elsewhere too.
        copies: Copies,
    },
    /// Fill a table.
    Load(LoadSpec),
    /// Save the model as the plan says, and drop the checkpoint.
    Save,
    /// Write a checkpoint of this place.
    Keep(Arc<Place>),
    /// Make the tables, and what rows keep, those of the checkpoint.
    Restore,
    /// Tell these slaves to end their workers.
    CancelStage(StageRun, Vec<SlaveId>, String),
    /// Stop loading and saving.
    StopTransfer,
    /// All has stopped: begin anew; on the slaves that are left by [`Driver::begin_anew`].
    Again(Anew),
    /// The job has ended.
    End(Result<()>),
}

#[derive(Debug)]
enum Phase {
    Opening,
    Stages(Group),
    Ops {
        phase: u64,
        ops: Vec<TableOp>,
        answers: BTreeMap<SlaveId, Vec<Partials>>,
        flow: Flow,
    },
    Loading,
    Reading,
    Saving,
    Keeping {
        since: Duration,
        place: Arc<Place>,
    },
    Restoring,
    /// `transfer` says that a load or a save has not stopped yet.
    Ending {
        error: Error,
        /// Whether it names a slave that went.
        named: bool,
        /// The workers that have not stopped yet.
        waiting: BTreeSet<(StageRun, SlaveId)>,
        transfer: bool,
        until: Duration,
        then: Then,
    },
    Ended,
}

#[derive(Debug)]
struct Loop {
    enter: usize,
    close: usize,
    times: u64,
    round: u64,
}

/// How many entries of a driver's lists are no longer there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// Stage runs.
    pub stages: u64,
    /// Transfers of the model.
    pub transfers: u64,
    /// Rounds of the outermost repeats.
    pub epochs: u64,
}

/// Drops the first `drop` entries of a list that is twice as long, and counts them.
fn drop_first<T>(list: &mut Vec<T>, drop: usize, dropped: &mut u64) {
    if list.len() >= 2 * drop {
        list.drain(..drop);
        *dropped += drop as u64;
    }
}

/// See the module.
pub struct Driver {
    job: JobId,
    program: Program,
    saves: bool,
    slaves: Vec<SlaveId>,
    names: BTreeMap<SlaveId, String>,
    /// The tables' names.
    tables: Vec<String>,
    at: usize,
    loops: Vec<Loop>,
    phase: Phase,
    /// When the job's slaves were open for the first time: it counts its time from then, also when it starts over.
    pub began: Option<Duration>,
    /// How long it had taken before, when it goes on from what an earlier start left.
    pub spent: Duration,
    runs: u64,
    /// Runs of before the job started over.
    before: u64,
    /// Whether the job may start over if a slave goes after its rows are read.
    pub restarts: bool,
    /// Whether it keeps checkpoints, and goes on from one.
    pub keeping: Option<Keeping>,
    /// Whether it makes anew what belongs to slaves, to go on.
    rebuilding: bool,
    /// Whether rows keep something that goes with checkpoints, so that these wait for all rows, and the way back too.
    carries: bool,
    /// Those that the next stage had to wait for.
    behind: Vec<StageRun>,
    visited: BTreeMap<u32, Vec<SlaveId>>,
    /// Those that could not read their part, and are not known to be gone.
    unread: BTreeSet<SlaveId>,
    /// Phases begun or ordered: each launch and each message of operations has one.
    phases: u64,
    homes: Homes,
    transfer: Transfer,
    /// How workers are to reach the model, if a user says so.
    access: Option<Access>,
    /// Decisions and rounds since there was work.
    idle: u32,
    /// Whether a load or a save was ordered and has not ended.
    transferring: bool,
    /// The stages whose threads are found by trying.
    pub tuners: Tuners,
    /// What decisions see.
    pub progress: Progress,
    /// The rounds of the outermost repeats, or the last ones of many.
    pub epochs: Vec<EpochReport>,
    /// The stage runs, or the last ones of many.
    pub stages: Vec<StageReport>,
    /// How many of each there were before those that are listed.
    pub unlisted: Unlisted,
    /// How the model went from stage to stage, at last.
    pub transfers: Vec<TransferReport>,
    /// What the slave logged whose worker failed first.
    pub failed_log: Option<FailedLog>,
    /// Why a decision stopped a repeat.
    pub stopped: Option<String>,
}

impl Driver {
    /// A driver at the plan's begin; `slaves` are the job's, with their names, in shard order.
    pub fn new(job: JobId, plan: &Plan, slaves: &[(SlaveId, String)], experiment: &Experiment) -> Self {
        Self {
            job,
            program: Program::of(plan),
            saves: plan.save.is_some(),
            slaves: slaves.iter().map(|(id, _)| *id).collect(),
            names: slaves.iter().cloned().collect(),
            tables: plan.tables.iter().map(|table| table.name.clone()).collect(),
            at: 0,
            loops: Vec::new(),
            phase: Phase::Opening,
            began: None,
            spent: Duration::ZERO,
            runs: 0,
            before: 0,
            restarts: false,
            keeping: None,
            rebuilding: false,
            carries: !plan.columns.is_empty(),
            behind: Vec::new(),
            visited: BTreeMap::new(),
            unread: BTreeSet::new(),
            // A shard takes the first one for that of all that was there before: what a checkpoint brought back is no stage's.
            phases: 1,
            homes: Homes::new(plan.tables.len(), slaves.len()),
            transfer: experiment.transfer,
            access: experiment.access,
            idle: 0,
            transferring: false,
            tuners: Tuners::default(),
            progress: Progress {
                scalars: plan.scalars.clone(),
                facts: vec![None; plan.inputs.len()],
                ..Progress::default()
            },
            epochs: Vec::new(),
            stages: Vec::new(),
            unlisted: Unlisted::default(),
            transfers: Vec::new(),
            failed_log: None,
            stopped: None,
        }
    }

    /// Where the tables live, for who loads or saves them.
    pub fn homes(&self) -> &[Home] {
        self.homes.now()
    }

    /// Bytes of all tables, as far as they are known.
    pub fn bytes(&self) -> u64 {
        self.homes.bytes()
    }

    /// The stages that run now.
    pub fn running(&self) -> Option<RunningStage> {
        let Phase::Stages(group) = &self.phase else { return None };
        let names: Vec<&str> = group.running().map(|running| self.stage_name(running.stage)).collect();
        let threads = group.running().map(Running::threads).sum();
        let (name, epoch) = (names.join(", "), self.progress.epoch + 1);
        (!names.is_empty()).then_some(RunningStage { name, threads, epoch })
    }

    /// Where it stands, for errors and for those who wait: e.g. `in stage full-gradient, epoch 3`.
    pub fn whereabouts(&self) -> String {
        let epoch = self.progress.epoch + 1;
        match &self.phase {
            Phase::Opening => "while the job was opened".to_owned(),
            Phase::Stages(group) => {
                let names: Vec<&str> = group.under_way().map(|stage| self.stage_name(stage)).collect();
                match &names[..] {
                    [name] if group.running().any(|running| running.moving.is_some()) => {
                        format!("while the model moved to stage {name}, epoch {epoch}")
                    }
                    [name] => format!("in stage {name}, epoch {epoch}"),
                    names => format!("in stages {}, epoch {epoch}", names.join(", ")),
                }
            }
            Phase::Ops { .. } => format!("while tables were changed, epoch {epoch}"),
            Phase::Loading => "while a model was loaded".to_owned(),
            Phase::Reading => "while the input was read".to_owned(),
            Phase::Saving => "while the model was saved".to_owned(),
            Phase::Keeping { place, .. } => format!("while a checkpoint was written behind {}", place.behind()),
            Phase::Restoring => "while its checkpoint was restored".to_owned(),
            Phase::Ending { then: Then::Again(_), .. } => "before the plan began anew".to_owned(),
            Phase::Ending { then: Then::EndAt(_), .. } => "while its workers stopped".to_owned(),
            Phase::Ending { .. } | Phase::Ended => "at the job's end".to_owned(),
        }
    }

    /// Whether it waits for its workers to stop, or is over.
    pub fn ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. } | Phase::Ended)
    }

    /// Whether no stage of it has asked for slots yet: its slaves are being opened, or its tables set.
    pub fn begins(&self) -> bool {
        self.runs == self.before
            && matches!(self.phase, Phase::Opening | Phase::Ops { .. } | Phase::Loading | Phase::Restoring)
    }

    /// One step. `now` only ever grows.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        if let Err(error) = self.take(now, event, &mut out) {
            self.fail(now, error, &mut out);
        }
        out
    }

    fn take(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) -> Result<()> {
        match (&mut self.phase, event) {
            (Phase::Ended, _) => {}
            (Phase::Opening, Event::Opened) => self.opened(now, out)?,
            (Phase::Stages(_), Event::Placed(stage, workers, why)) => self.placed(now, stage, (workers, why), out),
            (Phase::Stages(_), Event::StageDone(slave, run, outcome)) => {
                self.stage_done(now, (slave, run), outcome, out)?;
            }
            (Phase::Stages(_), Event::Sent(slave, phase, result)) => self.sent(now, (slave, phase), result, out)?,
            (Phase::Stages(_), Event::Tick) => self.late(now, out)?,
            (Phase::Ops { phase, ops, answers, .. }, Event::Numbers(slave, of, numbers)) if *phase == of => {
                if numbers.len() != ops.len() {
                    let (got, asked) = (numbers.len(), ops.len());
                    return Err(Error::bug(format!("{} numbers from {slave} for {asked} operations", got)));
                }
                answers.insert(slave, numbers);
                if answers.len() == self.slaves.len() {
                    self.ops_ended(now, out)?;
                }
            }
            (phase, Event::Facts(input, facts)) => {
                let reading = matches!(phase, Phase::Reading);
                if let Some(place) = self.progress.facts.get_mut(input.0 as usize) {
                    *place = Some(facts);
                }
                if reading {
                    self.read(now, out)?;
                }
            }
            (Phase::Loading, Event::Loaded(result)) => {
                self.transferring = false;
                result?;
                self.advance(now, out)?;
            }
            (Phase::Keeping { .. }, Event::Kept(written)) => {
                self.transferring = false;
                self.written(now, written, out)?;
            }
            (Phase::Restoring, Event::Restored(result)) => {
                self.transferring = false;
                self.restored(now, result?, out)?;
            }
            (Phase::Saving, Event::Saved(result)) => {
                self.transferring = false;
                result?;
                self.phase = Phase::Ended;
                out.push(Command::End(Ok(())));
            }
            (Phase::Ending { waiting, .. }, Event::StageDone(slave, run, outcome)) => {
                waiting.remove(&(run, slave));
                self.keep_log(slave, outcome.log);
                self.end_if_stopped(now, out);
            }
            (Phase::Ending { waiting, error, named, then, .. }, Event::Gone(slave, cause, anew)) => {
                waiting.retain(|(_, id)| *id != slave);
                if *named {
                    error.message.push_str(&format!("; {cause}"));
                } else if error.fault == Fault::Cluster {
                    // That a connection broke was the consequence; who went is the cause.
                    (*error, *named) = (cause, true);
                }
                self.unread.remove(&slave);
                *then = after_gone(anew, &self.unread, now);
                self.end_if_stopped(now, out);
            }
            // What else a slave that goes breaks is no reason not to begin anew.
            (Phase::Ending { error, named, then, .. }, Event::Fail(cause))
                if *then != Then::End && cause.fault != Fault::Cluster =>
            {
                (*error, *named, *then) = (cause, false, Then::End);
                self.end_if_stopped(now, out);
            }
            // The slave that could not may turn out to be gone.
            (Phase::Ending { then: Then::EndAt(_), .. }, Event::Unread(slave, cause)) if may_pass(&cause) => {
                self.unread.insert(slave);
                self.end_if_stopped(now, out);
            }
            // Nobody would read it with the rest of the plan, which goes on with the rows that there are.
            (Phase::Ending { error, named, then, .. }, Event::Unread(slave, cause))
                if matches!(then, Then::EndAt(_) | Then::Again(Anew::Plan)) =>
            {
                self.unread.insert(slave);
                *then = if may_pass(&cause) { Then::EndAt(now + TOLD_WITHIN) } else { Then::End };
                (*error, *named) = (cause, false);
                self.end_if_stopped(now, out);
            }
            (Phase::Ending { .. }, Event::Saved(Ok(()))) => {
                // It was too late to stop: the model is there.
                self.phase = Phase::Ended;
                out.push(Command::End(Ok(())));
            }
            (
                Phase::Ending { transfer, .. },
                Event::Saved(_) | Event::Loaded(_) | Event::Kept(_) | Event::Restored(_),
            ) => {
                *transfer = false;
                self.end_if_stopped(now, out);
            }
            (Phase::Ending { .. }, _) => self.end_if_stopped(now, out),
            (_, Event::Gone(slave, error, anew)) => {
                self.stop(now, error, Some(slave), anew.map_or(Then::End, Then::Again), out);
            }
            (_, Event::Fail(error)) => return Err(error),
            (_, Event::Unread(slave, error)) => {
                self.unread.insert(slave);
                return Err(error);
            }
            _ => {}
        }
        Ok(())
    }

    fn name(&self, id: SlaveId) -> &str {
        self.names.get(&id).map_or("?", String::as_str)
    }

    fn stage_name(&self, stage: u32) -> &str {
        &self.program.stages[stage as usize].name
    }
}
