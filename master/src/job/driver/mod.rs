//! Drives a job through its plan: a pure state machine, event and time in, commands out.
//!
//! Invariants: at most one thing is under way (a stage, operations, a load, a save); metrics merge in shard order and norms
//! sum in chunk order, so the order of arrival decides nothing; after the first error no new work begins, and
//! [`Command::End`] comes once, when the workers of all slaves have ended or had their time.

mod ending;
mod flow;
mod moving;
mod visits;

use super::homes::Homes;
use super::program::Program;
use crate::scheduler::Why;
use crate::tune::Tuners;
use flexps_common::data::Facts;
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::metrics::Metrics;
use flexps_common::plan::{Flow, LoadSpec, Plan, Progress, TableOp};
use flexps_common::report::{Access, EpochReport, FailedLog, StageReport, TransferReport};
use flexps_common::wire::control::{Launch, Outcome, Partials};
use flexps_common::wire::moved::{Copies, Sent};
use flexps_common::{Error, Result};
use moving::Moving;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// How long workers may take to stop after a stage was cancelled.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Decisions in a row without any work between them: a plan that goes on like this never ends.
const IDLE_DECISIONS: u32 = 10_000;
/// Stage runs, and rounds, that a report lists at most, so that it fits into one message.
const LISTED_STAGES: usize = 10_000;
const LISTED_EPOCHS: usize = 20_000;

/// What happened.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "events are taken one by one, not kept")]
pub enum Event {
    /// All slaves of the job are open.
    Opened,
    /// The stage that waited got its slots.
    Placed(Vec<(SlaveId, u32)>, Why),
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
    /// A slave is gone.
    Gone(SlaveId, Error),
    /// The job must end: somebody cancelled it, or something it needs failed.
    Fail(Error),
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Find slots for the stage with this place in the plan, answer with [`Event::Placed`].
    Place(u32),
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
    /// Save the model as the plan says.
    Save,
    /// Tell these slaves to end their workers.
    CancelStage(StageRun, Vec<SlaveId>, String),
    /// Stop loading and saving.
    StopTransfer,
    /// The job has ended.
    End(Result<()>),
}

#[derive(Debug)]
enum Phase {
    Opening,
    Placing {
        stage: u32,
    },
    Running {
        run: StageRun,
        stage: u32,
        phase: u64,
        since: Duration,
        workers: Vec<(SlaveId, u32)>,
        done: BTreeMap<SlaveId, Outcome>,
        /// The model is on its way to it: it goes on to its end when that is over.
        moving: Option<Box<Moving>>,
        /// The transfers to it, among those reported.
        transfers: Range<usize>,
        /// Of which tables its slaves have copies.
        copied: Vec<usize>,
    },
    Ops {
        phase: u64,
        ops: Vec<TableOp>,
        answers: BTreeMap<SlaveId, Vec<Partials>>,
        flow: Flow,
    },
    Loading,
    Reading,
    Saving,
    /// `transfer` says that a load or a save has not stopped yet.
    Ending {
        error: Error,
        waiting: BTreeSet<SlaveId>,
        run: StageRun,
        transfer: bool,
        until: Duration,
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
    started: Duration,
    runs: u64,
    visited: BTreeMap<u32, Vec<SlaveId>>,
    /// Phases begun or ordered: each launch and each message of operations has one.
    phases: u64,
    homes: Homes,
    transfer: Transfer,
    /// How workers are to reach the model, if a user says so.
    access: Option<Access>,
    idle_decisions: u32,
    /// Whether a load or a save was ordered and has not ended.
    transferring: bool,
    /// The stages whose threads are found by trying.
    pub tuners: Tuners,
    /// What decisions see.
    pub progress: Progress,
    /// The rounds of the outermost repeats.
    pub epochs: Vec<EpochReport>,
    /// The stage runs.
    pub stages: Vec<StageReport>,
    /// How the model went from stage to stage.
    pub transfers: Vec<TransferReport>,
    /// What the slave logged whose worker failed first.
    pub failed_log: Option<FailedLog>,
    /// What decided where the stage runs that was placed last.
    placed: Why,
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
            started: Duration::ZERO,
            runs: 0,
            visited: BTreeMap::new(),
            phases: 0,
            homes: Homes::new(plan.tables.len(), slaves.len()),
            transfer: experiment.transfer,
            access: experiment.access,
            idle_decisions: 0,
            transferring: false,
            tuners: Tuners::default(),
            progress: Progress {
                epoch: 0,
                elapsed: Duration::ZERO,
                scalars: plan.scalars.clone(),
                metrics: BTreeMap::new(),
                facts: vec![None; plan.inputs.len()],
                ops: Vec::new(),
                objective: None,
                epoch_metrics: BTreeMap::new(),
            },
            epochs: Vec::new(),
            stages: Vec::new(),
            transfers: Vec::new(),
            failed_log: None,
            placed: Why::Wanted,
            stopped: None,
        }
    }

    /// Where the tables live, for who loads or saves them.
    pub fn homes(&self) -> &[Home] {
        self.homes.now()
    }

    /// The stage that runs now: name, workers, round from 1.
    pub fn running(&self) -> Option<(String, u32, u64)> {
        let Phase::Running { stage, workers, .. } = &self.phase else { return None };
        let threads = workers.iter().map(|(_, n)| n).sum();
        Some((self.program.stages[*stage as usize].name.clone(), threads, self.progress.epoch + 1))
    }

    /// Where it stands, for errors and for those who wait: e.g. `in stage full-gradient, epoch 3`.
    pub fn whereabouts(&self) -> String {
        let epoch = self.progress.epoch + 1;
        match &self.phase {
            Phase::Opening => "while the job was opened".to_owned(),
            Phase::Running { stage, moving: Some(_), .. } => {
                format!("while the model moved to stage {}, epoch {epoch}", self.stage_name(*stage))
            }
            Phase::Placing { stage } | Phase::Running { stage, .. } => {
                format!("in stage {}, epoch {epoch}", self.stage_name(*stage))
            }
            Phase::Ops { .. } => format!("while tables were changed, epoch {epoch}"),
            Phase::Loading => "while a model was loaded".to_owned(),
            Phase::Reading => "while the input was read".to_owned(),
            Phase::Saving => "while the model was saved".to_owned(),
            Phase::Ending { .. } | Phase::Ended => "at the job's end".to_owned(),
        }
    }

    /// Whether it waits for its workers to stop, or is over.
    pub fn ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. } | Phase::Ended)
    }

    /// One step. `now` only ever grows.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        if let Err(error) = self.take(now, event, &mut out) {
            self.fail(now, error, None, &mut out);
        }
        out
    }

    fn take(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) -> Result<()> {
        match (&mut self.phase, event) {
            (Phase::Ended, _) => {}
            (Phase::Opening, Event::Opened) => {
                self.started = now;
                self.advance(now, out)?;
            }
            (Phase::Placing { stage }, Event::Placed(workers, why)) => {
                let stage = *stage;
                self.placed = why;
                self.place(now, stage, workers, out);
            }
            (Phase::Running { phase, moving: Some(moving), .. }, Event::Sent(slave, of, result)) if *phase == of => {
                moving.answers.insert(slave, result);
                if moving.answers.len() == self.slaves.len() {
                    self.moved(now, out)?;
                }
            }
            (Phase::Running { run, workers, done, .. }, Event::StageDone(slave, of, mut outcome)) if *run == of => {
                if let Some(error) = outcome.error.clone() {
                    let lines = std::mem::take(&mut outcome.log);
                    done.insert(slave, outcome);
                    self.keep_log(slave, lines);
                    return Err(error);
                }
                if workers.iter().any(|(id, _)| *id == slave) {
                    done.insert(slave, outcome);
                }
                self.end_stage(now, out)?;
            }
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
                    self.advance(now, out)?;
                }
            }
            (Phase::Loading, Event::Loaded(result)) => {
                self.transferring = false;
                result?;
                self.advance(now, out)?;
            }
            (Phase::Saving, Event::Saved(result)) => {
                self.transferring = false;
                result?;
                self.phase = Phase::Ended;
                out.push(Command::End(Ok(())));
            }
            (Phase::Ending { waiting, run, .. }, Event::StageDone(slave, of, outcome)) if *run == of => {
                waiting.remove(&slave);
                self.keep_log(slave, outcome.log);
                self.end_if_stopped(now, out);
            }
            (Phase::Ending { waiting, error, .. }, Event::Gone(slave, cause)) => {
                waiting.remove(&slave);
                // That a connection broke was the consequence; who went is the cause.
                if error.fault == Fault::Cluster {
                    *error = cause;
                }
                self.end_if_stopped(now, out);
            }
            (Phase::Ending { .. }, Event::Saved(Ok(()))) => {
                // It was too late to stop: the model is there.
                self.phase = Phase::Ended;
                out.push(Command::End(Ok(())));
            }
            (Phase::Ending { transfer, .. }, Event::Saved(_) | Event::Loaded(_)) => {
                *transfer = false;
                self.end_if_stopped(now, out);
            }
            (Phase::Running { moving: Some(moving), .. }, Event::Tick) if now >= moving.until => {
                self.moved(now, out)?
            }
            (Phase::Ending { .. }, _) => self.end_if_stopped(now, out),
            (_, Event::Gone(slave, error)) => self.fail(now, error, Some(slave), out),
            (_, Event::Fail(error)) => return Err(error),
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

    /// Launches a stage, with its tables where they are unless a model is on its way to it.
    fn launch(
        &mut self,
        now: Duration,
        stage: u32,
        workers: Vec<(SlaveId, u32)>,
        moving: Option<Box<Moving>>,
        out: &mut Vec<Command>,
    ) {
        self.runs += 1;
        self.visit(stage, &workers);
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
        }));
        let (phase, done) = (self.phases, BTreeMap::new());
        self.phase = Phase::Running {
            run,
            stage,
            phase,
            since: now,
            workers,
            done,
            moving,
            transfers: 0..0,
            copied: Vec::new(),
        };
    }

    /// Goes on when all workers have ended, and no model is on its way to them.
    fn end_stage(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        match &self.phase {
            Phase::Running { workers, done, moving: None, .. } if done.len() == workers.len() => {
                self.stage_ended(now);
                self.advance(now, out)
            }
            _ => Ok(()),
        }
    }

    fn stage_ended(&mut self, now: Duration) {
        let Phase::Running { stage, phase, since, workers, done, transfers, copied, .. } =
            std::mem::replace(&mut self.phase, Phase::Opening)
        else {
            return;
        };
        let name = self.program.stages[stage as usize].name.clone();
        let mut metrics = Metrics::default();
        let mut report = StageReport {
            name: name.clone(),
            epoch: self.progress.epoch + 1,
            threads: workers.iter().map(|(_, n)| n).sum(),
            slaves: workers.iter().map(|(id, _)| self.name(*id).to_owned()).collect(),
            placed: self.placed.to_string(),
            start: since.as_secs_f64(),
            seconds: now.saturating_sub(since).as_secs_f64(),
            ..StageReport::default()
        };
        workers.iter().filter_map(|(id, _)| done.get(id)).for_each(|outcome| report.pace.merge(&outcome.pace));
        for outcome in self.slaves.iter().filter_map(|id| done.get(id)) {
            metrics.merge(&outcome.metrics);
            report.worker_seconds += outcome.worker_seconds;
            report.wait_seconds += outcome.wait_seconds;
            report.bytes_sent += outcome.bytes_sent;
            report.bytes_received += outcome.bytes_received;
            report.rows += outcome.rows;
            report.model_disk.merge(&outcome.model_disk);
            report.cache.merge(&outcome.cache);
            report.sums.merge(&outcome.sums);
        }
        let waited = done.values().map(|outcome| outcome.model_wait_seconds).fold(0.0, f64::max);
        self.transfers[transfers].iter_mut().for_each(|transfer| transfer.waited_milliseconds = waited * 1e3);
        let by_shard = (0..).zip(&self.slaves).filter_map(|(shard, id)| Some((shard, done.get(id)?)));
        self.homes.ended(stage, phase, by_shard);
        report.model = self.homes.access(stage, report.threads);
        if !copied.is_empty() {
            let names: Vec<&str> = copied.iter().map(|table| self.tables[*table].as_str()).collect();
            report.model.why.push_str(&format!("; a copy of {} beside each", names.join(", ")));
        }
        if done.values().any(|outcome| outcome.raced) {
            report.model.access = Access::Racing;
        }
        if self.access == Some(report.model.access) {
            report.model.why += "; --model-access asks for it";
        }
        // While rows are being read a run takes as long as they do.
        self.tuners.ran(stage, report.threads, report.seconds, !self.reading());
        self.progress.metrics.insert(name, metrics);
        if self.stages.len() < LISTED_STAGES {
            self.stages.push(report);
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
