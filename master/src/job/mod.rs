//! A job in the master: what was submitted, how far it is, and its report.

pub mod admission;
pub mod driver;
pub mod experiment;
mod fit;
pub mod homes;
pub mod lost;
pub mod order;
pub mod program;
pub mod reading;
pub mod readings;
mod trying;
pub mod width;

#[cfg(test)]
mod tests;

use crate::checkpoint::Folder;
use crate::prepare::Prepared;
use driver::{Driver, Keeping, LISTED_STAGES, Place};
use flexps_common::Error;
use flexps_common::caught::caught;
use flexps_common::checkpoint::Kept;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::notes::note;
use flexps_common::plan::Plan;
use flexps_common::report::{ReadReport, Report, State};
use flexps_common::scheduling::Scheduling;
use flexps_common::wire::api::{JobLine, JobNews};
use lost::Lost;
use reading::Reading;
use readings::Readings;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;
use trying::Trying;

/// Stage runs that the report of a job under way lists: the last ones, so that news of a long job stay short.
const NEWS_STAGES: usize = 200;

/// How far a job is.
pub enum Phase {
    /// Its inputs are being listed.
    Preparing,
    /// It waits for slots.
    Queued(Prepared),
    /// It runs.
    Started(Box<Started>),
    /// It ended; what it used is dropped.
    Ended,
}

/// What a running job has.
pub struct Started {
    /// Its slaves, in shard order.
    pub slaves: Vec<SlaveId>,
    /// Walks the plan.
    pub driver: Driver,
    /// Its inputs.
    pub readings: Readings,
    /// Which reading of them this is: what its slaves were asked when they were told to read.
    pub time: u32,
    /// Those that have not answered the last [`flexps_common::wire::control::ToSlave::Open`] yet.
    pub opening: BTreeSet<SlaveId>,
    /// Whether they were told to read.
    pub told_to_read: bool,
    /// The stages that wait for slots, by their places in the plan.
    pub ready: BTreeMap<u32, Turn>,
    /// Where what its searches for threads find is kept.
    pub searches: Option<PathBuf>,
    /// Where it keeps its checkpoint, if it does.
    pub checkpoint: Option<Folder>,
    /// Stops what moves tables to or from the disk.
    pub stop: Arc<AtomicBool>,
    /// Ends the snapshot that is taken of it: told when it begins anew, dropped with the job.
    pub snapshot: Option<oneshot::Sender<()>>,
    /// The slaves that it lost, while it stops to begin anew.
    pub lost: Vec<Lost>,
}

/// A stage that waits for slots.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// When it became ready, and how often it was passed over.
    pub queued: (Duration, u32),
    /// How long opening the job took, for its first stages.
    pub lead: Duration,
    /// The runs that had to end before.
    pub after: Vec<StageRun>,
    /// Why it waits.
    pub why: Option<String>,
}

/// A job.
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// Its name in the registry.
    pub name: String,
    /// Its parameters as JSON.
    pub params: String,
    /// What every node's plan must hash to.
    pub plan_hash: u64,
    /// That of its plan with what its submission says of threads and memory: jobs of one want the same of their slaves.
    pub own_hash: u64,
    /// Whether splits are assigned in a fixed order.
    pub reproducible: bool,
    /// Made up by the client; not known of one that an older build recorded.
    pub token: Option<u64>,
    /// How it is to run, to see what comes of it.
    pub experiment: Experiment,
    /// Whether its client left it to the master.
    pub detached: bool,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Whether an earlier master had it.
    pub queued_again: bool,
    /// That it is prepared again, since that failed.
    pub trying: Option<Trying>,
    /// How far it is.
    pub phase: Phase,
    /// Counts changes.
    pub version: u64,
    /// Why it waits.
    pub waiting: Option<String>,
    /// Since when it waits for its first slots, and how often it was passed over.
    pub queued: (Duration, u32),
    /// When its slaves were asked to open it.
    pub opened: Duration,
    /// How often they were.
    pub openings: u32,
    /// How often it started over since a slave went after its rows were read.
    pub restarted: u32,
    /// Stage runs and phases of its plan that were counted before it started over.
    pub counted: (u64, u64),
    /// When its slaves were open for the first time, if it started over since.
    pub began: Option<Duration>,
    /// How long what an earlier start left had taken, if it goes on from that.
    pub spent: Duration,
    /// The slaves that the job would use or uses, as one list that all of its stages share.
    pub slaves: Arc<[SlaveId]>,
    /// When it was submitted.
    pub submitted: Duration,
    /// Bytes that its workers sent to other slaves, whether or not their runs are listed.
    pub sent: u64,
    /// All stage runs, transfers and epochs that it had when it ended; none where nobody counted them.
    all: [u64; 3],
    /// The report; what a running job's driver and readings know is filled in by [`Job::report`].
    pub report: Report,
}

impl Job {
    /// A job that was just submitted.
    pub fn new(id: JobId, submission: Submission, plan: Plan, now: Duration) -> Self {
        let Submission { name, params, plan_hash, reproducible, token, scheduling, experiment, detached } = submission;
        let report = Report {
            job: name.clone(),
            id,
            state: State::Queued,
            error: None,
            failed_log: None,
            params: serde_json::from_str(&params).unwrap_or_default(),
            objective: None,
            metrics: BTreeMap::new(),
            stopped: None,
            epochs: Vec::new(),
            stages: Vec::new(),
            transfers: Vec::new(),
            progress: Vec::new(),
            threads: Vec::new(),
            read: ReadReport::default(),
            repeats: Vec::new(),
            checkpoint: None,
            model: None,
            peak_memory_bytes: 0,
            seconds: 0.0,
            scheduling,
            notes: Vec::new(),
        };
        Self {
            id,
            name,
            params,
            plan_hash,
            own_hash: plan.hash(),
            reproducible,
            token,
            experiment,
            detached,
            plan: Arc::new(plan),
            queued_again: false,
            trying: None,
            phase: Phase::Preparing,
            version: 1,
            waiting: Some("its inputs are being listed".to_owned()),
            queued: (now, 0),
            opened: now,
            openings: 0,
            restarted: 0,
            counted: (0, 0),
            began: None,
            spent: Duration::ZERO,
            slaves: Arc::new([]),
            submitted: now,
            sent: 0,
            all: [0; 3],
            report,
        }
    }

    /// What was submitted.
    pub fn submission(&self) -> Submission {
        Submission {
            scheduling: self.report.scheduling.clone(),
            name: self.name.clone(),
            params: self.params.clone(),
            plan_hash: self.plan_hash,
            reproducible: self.reproducible,
            token: self.token,
            experiment: self.experiment.clone(),
            detached: self.detached,
        }
    }

    /// Whether it may start over once more when a slave goes.
    pub fn may_restart(&self) -> bool {
        self.restarted < self.report.scheduling.restarts
    }

    /// Whether it waits for slaves since it started over, as it was asked to.
    pub fn waits_to_restart(&self) -> bool {
        self.openings > 0 && self.report.scheduling.restarts > 0
    }

    /// How it keeps checkpoints in `folder`, and that it goes on from `place`, if it does.
    pub fn keeping(&mut self, folder: &Folder, place: Option<Place>) -> Keeping {
        let mut kept =
            self.report.checkpoint.take().unwrap_or_else(|| Kept { folder: folder.name(), ..Kept::default() });
        if place.is_none() {
            kept.resumed = None;
        }
        if let Some(place) = place.as_ref().filter(|_| self.began.is_none()) {
            self.spent = place.elapsed();
        }
        let every = self.report.scheduling.checkpoint.as_ref().map_or(0.0, |wanted| wanted.every);
        // What is longer than a clock can show never comes.
        Keeping::new(Duration::try_from_secs_f64(every).unwrap_or(Duration::MAX), place, kept)
    }

    /// It is back where it was when it was submitted.
    pub fn start_over(&mut self) {
        if let Phase::Started(started) = &self.phase {
            self.restarted += u32::from(started.told_to_read);
            self.counted = started.driver.counted();
            self.began = started.driver.began;
            self.report.checkpoint = started.driver.kept();
        }
        self.phase = Phase::Preparing;
        self.report.state = State::Queued;
        self.slaves = Arc::new([]);
        self.waits(Some("its inputs are being listed".to_owned()));
        self.version += 1;
    }

    /// Remarks for the user; one that began before has made some of them then.
    pub fn note(&mut self, notes: impl IntoIterator<Item = String>) {
        note(&mut self.report.notes, notes);
    }

    /// What it has while it runs.
    pub fn started(&mut self) -> Option<&mut Started> {
        if let Phase::Started(started) = &mut self.phase { Some(started) } else { None }
    }

    /// Says why it waits: of stages that wait side by side, of each.
    pub fn tell_waiting(&mut self) {
        let Phase::Started(started) = &self.phase else { return };
        let name = |place: u32| self.plan.stage(place).map_or("?", |stage| &stage.name);
        let whys = started.ready.iter().filter_map(|(place, turn)| Some((*place, turn.why.as_ref()?)));
        let whys: Vec<String> = match started.ready.len() {
            1 => whys.map(|(_, why)| why.clone()).collect(),
            _ => whys.map(|(place, why)| format!("stage {}: {why}", name(place))).collect(),
        };
        self.waits((!whys.is_empty()).then(|| whys.join("; ")));
    }

    /// Says why it waits, or that it doesn't.
    pub fn waits(&mut self, why: Option<String>) {
        if self.waiting != why {
            self.waiting = why;
            self.version += 1;
        }
    }

    /// Whether it may be the job of this token: without a history a new master gives out the identities of the old one again.
    pub fn is_of(&self, token: Option<u64>) -> bool {
        self.token.zip(token).is_none_or(|(own, meant)| own == meant)
    }

    /// Whether it uses a slave.
    pub fn uses(&self, slave: SlaveId) -> bool {
        matches!(&self.phase, Phase::Started(s) if s.slaves.contains(&slave))
    }

    /// All that is known of it at `now`.
    pub fn report(&self, now: Duration) -> Report {
        let mut report = self.report.clone();
        if let Phase::Started(started) = &self.phase {
            self.fill(started, now, NEWS_STAGES, &mut report);
            report.notes.extend(fit::left_out(listable(&started.driver), &report, " while the job runs"));
        }
        report
    }

    /// When it ended, if it did.
    pub fn ended(&self) -> Duration {
        self.submitted + Duration::try_from_secs_f64(self.report.seconds).unwrap_or_default()
    }

    /// Keeps the last `keep` stage runs, transfers and epochs in the report, which says so where there were more.
    pub fn keep_stages(&mut self, keep: usize) {
        let said = fit::left_out(self.all, &self.report, "");
        let Report { stages, transfers, epochs, notes, .. } = &mut self.report;
        if fit::keep_last(stages, keep) | fit::keep_last(transfers, keep) | fit::keep_last(epochs, keep) {
            notes.retain(|note| !said.contains(note));
            note(notes, ["earlier stage runs, transfers and epochs than those listed are no longer kept".to_owned()]);
            self.report.notes.extend(fit::left_out(self.all, &self.report, ""));
        }
    }

    /// Ends it: the report is final after this.
    pub fn end(&mut self, result: Result<(), Error>, now: Duration) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let mut report = self.report.clone();
        if let Phase::Started(started) = &phase {
            self.fill(started, now, LISTED_STAGES, &mut report);
            self.all = listable(&started.driver);
        }
        report.seconds = now.saturating_sub(self.submitted).as_secs_f64();
        report.state = match &result {
            Ok(()) => State::Done,
            Err(e) if e.fault == flexps_common::error::Fault::Cancelled => State::Cancelled,
            Err(_) => State::Failed,
        };
        if result.is_ok() {
            let widest = report.stages.iter().map(|stage| stage.threads).max();
            report.notes.extend(experiment::at_end(&self.experiment, widest.unwrap_or(0)));
            report.model = self.plan.save.as_ref().map(|s| s.path.to_string());
        }
        if let Some(deadline) = report.scheduling.deadline.filter(|deadline| report.seconds > *deadline) {
            let late = report.seconds - deadline;
            report.notes.push(format!("ended {late:.1} s after its deadline of {deadline:.1} s"));
        }
        report.error = result.err().map(Error::brief);
        fit::fit(&mut report);
        report.notes.extend(fit::left_out(self.all, &report, ""));
        self.report = report;
        self.waiting = None;
        self.version += 1;
    }

    /// Whether the report shows a metric or scalar; one whose job can't say so is shown.
    fn tells(&self, name: &str) -> bool {
        let asked = |tells: fn(&str) -> bool| caught(|| format!("tells of {}", self.name), || Ok(tells(name)));
        self.plan.tells.is_none_or(|tells| asked(tells).unwrap_or(true))
    }

    fn fill(&self, started: &Started, now: Duration, stages: usize, report: &mut Report) {
        let Started { driver, readings, .. } = started;
        // JSON has no NaN: what is not finite is left out.
        report.objective = driver.progress.objective.filter(|x| x.is_finite());
        for metrics in driver.progress.metrics.values() {
            report.metrics.extend(metrics.0.iter().map(|(name, metric)| (name.clone(), metric.value())));
        }
        for epoch in &driver.epochs {
            report.metrics.extend(epoch.metrics.iter().map(|(name, value)| (name.clone(), *value)));
        }
        report.metrics.extend(driver.progress.epoch_metrics.iter().map(|(name, value)| (name.clone(), *value)));
        // What the job says of itself holds, whichever round was the last.
        report.metrics.extend(driver.progress.scalars.iter().map(|(name, value)| (name.clone(), *value)));
        report.metrics.retain(|name, _| self.tells(name) && !driver.progress.leaves_out(name));
        let no_numbers: Vec<&str> =
            report.metrics.iter().filter(|(_, x)| !x.is_finite()).map(|(name, _)| &**name).collect();
        if !no_numbers.is_empty() {
            report.notes.push(format!("left out, since not finite: {}", no_numbers.join(", ")));
        }
        report.metrics.retain(|_, value| value.is_finite());
        report.stopped = driver.stopped.clone();
        report.epochs = driver.epochs.clone();
        for epoch in &mut report.epochs {
            epoch.objective = epoch.objective.filter(|x| x.is_finite());
            epoch.metrics.retain(|_, value| value.is_finite());
        }
        report.stages = driver.stages[driver.stages.len().saturating_sub(stages)..].to_vec();
        for stage in &mut report.stages {
            stage.start = (stage.start - self.submitted.as_secs_f64()).max(0.0);
        }
        report.checkpoint = driver.kept();
        if let Some(Kept { folder, failed: failed @ 1.., error: Some(error), .. }) = &report.checkpoint {
            report.notes.push(format!("{failed} checkpoints could not be written to {folder}, the last since {error}"));
        }
        report.failed_log = driver.failed_log.clone();
        report.threads = driver.tuners.report();
        report.progress.clone_from(&driver.progress.progressive);
        report.progress.retain(|point| point.loss.is_finite());
        report.notes.extend(driver.progress.notes.iter().cloned());
        report.transfers = driver.transfers[driver.transfers.len().saturating_sub(stages)..].to_vec();
        report.seconds = now.saturating_sub(self.submitted).as_secs_f64();
        for reading in readings.iter() {
            reading.report(now, &mut report.read);
            note(&mut report.notes, reading.notes());
        }
    }

    /// The news for a client.
    pub fn news(&self, now: Duration) -> JobNews {
        let (mut stage, mut reading) = (None, false);
        if let Phase::Started(started) = &self.phase {
            stage = started.driver.running();
            reading = started.readings.iter().any(Reading::under_way);
        }
        JobNews { version: self.version, waiting: self.waiting.clone(), stage, reading, report: self.report(now) }
    }

    /// Its line in a list.
    pub fn line(&self, now: Duration) -> JobLine {
        let ended = matches!(self.phase, Phase::Ended);
        let objective = match &self.phase {
            Phase::Started(s) => s.driver.progress.objective.filter(|x| x.is_finite()),
            _ => self.report.objective,
        };
        JobLine {
            id: self.id,
            name: self.name.clone(),
            state: self.report.state,
            seconds: if ended { self.report.seconds } else { now.saturating_sub(self.submitted).as_secs_f64() },
            objective,
            note: self.report.error.as_ref().map(|e| e.message.clone()).or_else(|| self.waiting.clone()),
            scheduling: self.report.scheduling.clone(),
        }
    }
}

/// All stage runs, transfers and epochs that there were.
fn listable(driver: &Driver) -> [u64; 3] {
    let Driver { unlisted, stages, transfers, epochs, .. } = driver;
    let kept = [stages.len(), transfers.len(), epochs.len()];
    let before = [unlisted.stages, unlisted.transfers, unlisted.epochs];
    [0, 1, 2].map(|list| before[list] + kept[list] as u64)
}

/// What a client submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// When it is to run.
    pub scheduling: Scheduling,
    /// The job's name in the registry.
    pub name: String,
    /// Its parameters as JSON.
    pub params: String,
    /// The hash of the plan that the client derived.
    pub plan_hash: u64,
    /// Whether splits are assigned in a fixed order.
    pub reproducible: bool,
    /// Made up by the client; not known where an older build recorded it.
    pub token: Option<u64>,
    /// How it is to run, to see what comes of it.
    pub experiment: Experiment,
    /// Whether the client left it to the master and does not follow it.
    pub detached: bool,
}

#[cfg(test)]
impl Submission {
    /// A job of this name, with nothing said of it.
    pub fn bare(name: &str) -> Self {
        Self {
            scheduling: Default::default(),
            name: name.to_owned(),
            params: "{}".to_owned(),
            plan_hash: 0,
            reproducible: false,
            token: None,
            experiment: Default::default(),
            detached: false,
        }
    }
}
