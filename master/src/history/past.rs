//! What a master that starts takes from the history of those before it.
//!
//! Invariants: identities and times go on where they stopped, so that one file tells of many masters without two things of
//! one name; whatever lived when the last one ended, without saying so, is told to be gone.

use super::Record;
use crate::job::{Job, Phase, Submission};
use flexps_common::Error;
use flexps_common::error::Fault;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::plan::Plan;
use flexps_common::report::{StageReport, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why a job ended that ran when its master did.
const ORPHANED: &str = "its master ended before it did";

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
    /// Records that were missing.
    pub missing: Vec<Record>,
    /// Ended runs: the job's name, the stage's, threads and how long it took, for estimates.
    pub runs: Vec<(String, String, u32, Duration)>,
}

impl Past {
    /// What these records tell, at `unix_ms` milliseconds since 1970; of the newest `keep` jobs.
    pub fn of(records: &[Record], unix_ms: u64, keep: usize) -> Self {
        let mut past = Self::default();
        let mut began = None;
        let mut latest: f64 = 0.0;
        let mut live: BTreeSet<SlaveId> = BTreeSet::new();
        let mut names: BTreeMap<SlaveId, String> = BTreeMap::new();
        let mut jobs: BTreeMap<JobId, Job> = BTreeMap::new();
        let mut runs = Vec::new();
        for record in records {
            match record {
                Record::Begin { unix_ms, .. } => began = began.or(Some(*unix_ms)),
                Record::Policy { at, .. } => latest = latest.max(*at),
                Record::Open { at, job, .. } => {
                    latest = latest.max(*at);
                    // It was opened before, and its plan began anew.
                    if let Some(again) = jobs.get_mut(job).filter(|job| !job.report.stages.is_empty()) {
                        again.report.stages.clear();
                        runs.retain(|(of, _)| of != job);
                    }
                }
                Record::Slave { at, slave, name, .. } => {
                    latest = latest.max(*at);
                    past.slaves = past.slaves.max(slave.0);
                    live.insert(*slave);
                    names.insert(*slave, name.clone());
                }
                Record::Gone { at, slave } => {
                    latest = latest.max(*at);
                    live.remove(slave);
                }
                Record::Job { at, job, name, scheduling } => {
                    latest = latest.max(*at);
                    past.jobs = past.jobs.max(job.0);
                    let submission = Submission {
                        scheduling: scheduling.clone(),
                        name: name.clone(),
                        params: "null".to_owned(),
                        plan_hash: 0,
                        reproducible: false,
                        // No client can repeat what another master was told.
                        token: rand::random(),
                        experiment: Default::default(),
                    };
                    jobs.insert(*job, Job::new(*job, submission, Plan::default(), seconds(*at)));
                    if jobs.len() > keep {
                        jobs.pop_first();
                    }
                }
                Record::Run { job: id, stage, epoch, start, end, workers, .. } => {
                    latest = latest.max(*end);
                    let Some(job) = jobs.get_mut(id) else { continue };
                    let threads = workers.iter().map(|(_, n)| n).sum();
                    runs.push((*id, (job.name.clone(), stage.clone(), threads, seconds(end - start))));
                    job.report.stages.push(StageReport {
                        name: stage.clone(),
                        epoch: *epoch,
                        threads,
                        slaves: workers.iter().map(|(id, _)| names.get(id).cloned().unwrap_or_default()).collect(),
                        start: start - job.submitted.as_secs_f64(),
                        seconds: end - start,
                        ..StageReport::default()
                    });
                }
                Record::End { at, job, state, error } => {
                    latest = latest.max(*at);
                    if let Some(job) = jobs.get_mut(job) {
                        end(job, *at, *state, error.as_deref());
                    }
                }
            }
        }
        let since = began.map_or(0.0, |began| unix_ms.saturating_sub(began) as f64 / 1e3);
        // A clock that was set back must not make time fall.
        past.now = seconds(since.max(latest));
        let at = past.now.as_secs_f64();
        // They ran for as long as something was recorded, not until the next master began.
        for job in jobs.values_mut().filter(|job| !job.report.state.ended()) {
            end(job, latest, State::Failed, Some(ORPHANED));
            let error = Some(ORPHANED.to_owned());
            past.missing.push(Record::End { at: latest, job: job.id, state: State::Failed, error });
        }
        past.missing.extend(live.into_iter().map(|slave| Record::Gone { at, slave }));
        past.ended = jobs.into_values().collect();
        past.runs = runs.into_iter().map(|(_, run)| run).collect();
        past
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
}

fn seconds(x: f64) -> Duration {
    Duration::try_from_secs_f64(x).unwrap_or_default()
}
