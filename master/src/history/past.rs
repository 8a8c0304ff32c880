//! What a master that starts takes from the history of those before it.
//!
//! Invariants: identities and times go on where they stopped, so that one file tells of many masters without two things of
//! one name; whatever lived when the last one ended, without saying so, is told to be gone, but for jobs that can be queued again.

use super::{Detached, Record};
use crate::job::{Job, Phase, Submission};
use crate::scheduler::Estimates;
use flexps_common::Error;
use flexps_common::error::Fault;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::plan::Plan;
use flexps_common::report::{StageReport, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why a job ended that ran when its master did.
const ORPHANED: &str = "its master ended before it did";

/// Stage runs that a job of an earlier master keeps.
const RUNS: usize = 1_000;

/// See the module.
#[derive(Default)]
pub struct Past {
    /// The largest identity of a job.
    pub jobs: u64,
    /// The largest identity of a slave.
    pub slaves: u32,
    /// What the clock shows at the start.
    pub now: Duration,
    /// The jobs, as far as records tell of them; all of them have ended.
    pub ended: Vec<Job>,
    /// Those that have not, and of which nobody waits for the end: they are to be queued again.
    pub waiting: Vec<Job>,
    /// The names of the slaves that lived.
    pub away: BTreeSet<String>,
    /// Records that were missing.
    pub missing: Vec<Record>,
    /// How long stages ran.
    pub estimates: Estimates,
}

/// What records have told so far.
pub struct Telling {
    past: Past,
    /// Of the jobs that have ended so many are kept.
    keep: usize,
    /// When the first master began, in milliseconds since 1970.
    began: Option<u64>,
    latest: f64,
    live: BTreeSet<SlaveId>,
    names: BTreeMap<SlaveId, String>,
    jobs: BTreeMap<JobId, Job>,
    /// Those that somebody had end.
    cancelled: BTreeSet<JobId>,
}

impl Telling {
    /// Nothing yet; of the jobs that ended last `keep` are to be kept.
    pub fn new(keep: usize) -> Self {
        Self {
            past: Past::default(),
            keep,
            began: None,
            latest: 0.0,
            live: BTreeSet::new(),
            names: BTreeMap::new(),
            jobs: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        }
    }

    /// Takes the next record in.
    pub fn take(&mut self, record: Record) {
        self.latest = self.latest.max(when(&record));
        match record {
            Record::Begin { unix_ms, .. } => self.began = self.began.or(Some(unix_ms)),
            Record::Policy { .. } => {}
            Record::Open { job, .. } => {
                // If it was opened before, its plan began anew.
                if let Some(again) = self.jobs.get_mut(&job) {
                    again.report.stages.clear();
                }
            }
            Record::Slave { slave, name, .. } => {
                self.past.slaves = self.past.slaves.max(slave.0);
                self.live.insert(slave);
                self.names.insert(slave, name);
            }
            Record::Gone { slave, .. } => _ = self.live.remove(&slave),
            Record::Job { at, job, name, scheduling, token, detached } => {
                self.past.jobs = self.past.jobs.max(job.0);
                let mut submission = Submission {
                    scheduling,
                    name,
                    params: "null".to_owned(),
                    plan_hash: 0,
                    reproducible: false,
                    token,
                    experiment: Default::default(),
                    detached: detached.is_some(),
                };
                if let Some(kept) = detached {
                    let Detached { params, plan_hash, reproducible, token: older, experiment } = *kept;
                    let token = token.or(older);
                    submission = Submission { params, plan_hash, reproducible, token, experiment, ..submission };
                }
                // One that was queued again waits since it was submitted.
                let since = self.jobs.get(&job).map_or(seconds(at), |before| before.submitted);
                self.jobs.insert(job, Job::new(job, submission, Plan::default(), since));
            }
            Record::Run { job: id, stage, epoch, start, end, workers, cut, .. } => {
                let Some(job) = self.jobs.get_mut(&id) else { return };
                let threads = workers.iter().map(|(_, n)| n).sum();
                if !cut {
                    self.past.estimates.note(&job.name, &stage, threads, seconds(end - start));
                }
                let name = |id: &SlaveId| self.names.get(id).cloned().unwrap_or_default();
                if job.report.stages.len() >= 2 * RUNS {
                    job.keep_stages(RUNS);
                }
                job.report.stages.push(StageReport {
                    name: stage,
                    epoch,
                    threads,
                    slaves: workers.iter().map(|(id, _)| name(id)).collect(),
                    start: start - job.submitted.as_secs_f64(),
                    seconds: end - start,
                    ..StageReport::default()
                });
            }
            Record::Cancel { job, .. } => {
                self.cancelled.insert(job);
                if let Some(known) = self.jobs.get_mut(&job) {
                    known.detached = false;
                }
            }
            Record::End { at, job, state, error } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    end(job, at, state, error.as_deref());
                }
                self.forget();
            }
        }
    }

    /// Drops the job that ended first, if they are too many; but none after which another one is to run.
    fn forget(&mut self) {
        let ended = || self.jobs.values().filter(|job| job.report.state.ended());
        if ended().count() <= self.keep {
            return;
        }
        let waiting = self.jobs.values().filter(|job| waits(job));
        let asked: BTreeSet<JobId> = waiting.flat_map(|job| job.report.scheduling.after.iter().copied()).collect();
        let free = ended().filter(|job| !asked.contains(&job.id));
        if let Some(first) = free.map(|job| (job.ended(), job.id)).min() {
            self.jobs.remove(&first.1);
        }
    }

    /// What came of it, at `unix_ms` milliseconds since 1970.
    pub fn end(mut self, unix_ms: u64) -> Past {
        let (latest, past) = (self.latest, &mut self.past);
        let since = self.began.map_or(0.0, |began| unix_ms.saturating_sub(began) as f64 / 1e3);
        // A clock that was set back must not make time fall.
        past.now = seconds(since.max(latest));
        let at = past.now.as_secs_f64();
        past.waiting = self.jobs.extract_if(.., |_, job| waits(job)).map(|(_, job)| job).collect();
        // They ran for as long as something was recorded, not until the next master began.
        for job in self.jobs.values_mut().filter(|job| !job.report.state.ended()) {
            let (state, error) = match self.cancelled.contains(&job.id) {
                true => (State::Cancelled, Error::cancelled().message),
                false => (State::Failed, ORPHANED.to_owned()),
            };
            end(job, latest, state, Some(&error));
            past.missing.push(Record::End { at: latest, job: job.id, state, error: Some(error) });
        }
        past.away = self.live.iter().filter_map(|id| self.names.get(id).cloned()).collect();
        past.missing.extend(self.live.into_iter().map(|slave| Record::Gone { at, slave }));
        past.ended = self.jobs.into_values().collect();
        self.past
    }
}

/// Whether a job is to be queued again.
fn waits(job: &Job) -> bool {
    job.detached && !job.report.state.ended()
}

/// When what it tells had happened.
fn when(record: &Record) -> f64 {
    match record {
        Record::Begin { .. } => 0.0,
        Record::Run { end, .. } => *end,
        Record::Policy { at, .. }
        | Record::Slave { at, .. }
        | Record::Gone { at, .. }
        | Record::Job { at, .. }
        | Record::Open { at, .. }
        | Record::Cancel { at, .. }
        | Record::End { at, .. } => *at,
    }
}

fn end(job: &mut Job, at: f64, state: State, error: Option<&str>) {
    job.phase = Phase::Ended;
    job.waiting = None;
    job.report.state = state;
    job.report.seconds = (at - job.submitted.as_secs_f64()).max(0.0);
    let fault = if state == State::Cancelled { Fault::Cancelled } else { Fault::Cluster };
    job.report.error = error.map(|message| Error::new(fault, message));
    job.report.notes.push("from the history: what an earlier master knew of it beside this is lost".to_owned());
    job.keep_stages(RUNS);
}

fn seconds(x: f64) -> Duration {
    Duration::try_from_secs_f64(x).unwrap_or_default()
}
