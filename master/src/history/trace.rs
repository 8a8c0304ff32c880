//! Records as a trace, and as a workload that plays again what was recorded.
//!
//! Invariants: the trace holds exactly the jobs that were asked for, in order of submission; in the workload a job's runs
//! follow one another as they did, each with its recorded duration and the recorded time between its predecessor's end and
//! its own readiness, so that only waiting for slots can change.

use super::Record;
use crate::simulate::{Cluster, JobSpec, JobTrace, Luck, Run, SlaveTrace, StageSpec, Threads, Timing, Trace, Workload};
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::report::State;
use std::collections::BTreeMap;
use std::time::Duration;

/// The jobs' names; those of a registry, with the identity, where it has none.
pub type Names = BTreeMap<JobId, String>;

/// What the records tell of the jobs for which `wanted` says yes.
pub fn trace(records: &[Record], names: &Names, wanted: impl Fn(JobId) -> bool) -> Trace {
    let mut trace = Trace::default();
    let mut places: BTreeMap<JobId, usize> = BTreeMap::new();
    let mut slaves: BTreeMap<SlaveId, u32> = BTreeMap::new();
    for record in records {
        match record {
            Record::Slave { slave, name, slots, .. } => {
                slaves.insert(*slave, trace.slaves.len() as u32);
                trace.slaves.push(SlaveTrace { name: name.clone(), slots: *slots });
            }
            Record::Job { at, job, name, scheduling } if wanted(*job) => {
                places.insert(*job, trace.jobs.len());
                trace.jobs.push(JobTrace {
                    name: names.get(job).cloned().unwrap_or_else(|| format!("{name} {job}")),
                    owner: scheduling.share().to_owned(),
                    priority: scheduling.priority,
                    arrival: seconds(*at),
                    end: None,
                    deadline: scheduling.deadline.map(seconds),
                    failed: false,
                });
            }
            Record::Run { job, stage, epoch, ready, start, end, workers, .. } => {
                let Some(place) = places.get(job) else { continue };
                let workers = workers.iter().filter_map(|(id, n)| Some((*slaves.get(id)?, *n)));
                trace.runs.push(Run {
                    job: *place,
                    stage: stage.clone(),
                    round: u32::try_from(*epoch).unwrap_or(u32::MAX),
                    ready: seconds(*ready),
                    start: seconds(*start),
                    end: seconds(*end),
                    workers: workers.collect(),
                    why: None,
                    failed: false,
                });
            }
            Record::End { at, job, state, .. } => {
                let Some(job) = places.get(job).and_then(|place| trace.jobs.get_mut(*place)) else { continue };
                (job.end, job.failed) = (Some(seconds(*at)), *state != State::Done);
            }
            _ => {}
        }
    }
    trace.runs.sort_by_key(|r| r.start);
    trace
}

/// The recorded jobs and the slaves that they had. Jobs that had not ended are left out.
pub fn workload(name: &str, records: &[Record], names: &Names, wanted: impl Fn(JobId) -> bool) -> (Workload, Cluster) {
    let mut jobs: Vec<(JobId, JobSpec, Vec<JobId>, Duration)> = Vec::new();
    let mut slots: BTreeMap<SlaveId, u32> = BTreeMap::new();
    let mut ended: BTreeMap<JobId, Duration> = BTreeMap::new();
    for record in records {
        match record {
            Record::Slave { slave, slots: n, .. } => {
                slots.insert(*slave, *n);
            }
            Record::Gone { slave, .. } => {
                slots.remove(slave);
            }
            Record::Job { at, job, name, scheduling } if wanted(*job) => {
                let spec = JobSpec {
                    name: names.get(job).cloned().unwrap_or_else(|| format!("{name} {job}")),
                    kind: name.clone(),
                    arrival: seconds(*at),
                    priority: scheduling.priority,
                    owner: scheduling.share().to_owned(),
                    deadline: scheduling.deadline.map(seconds),
                    after: Vec::new(),
                    stages: Vec::new(),
                    rounds: 1,
                };
                jobs.push((*job, spec, scheduling.after.clone(), seconds(*at)));
            }
            Record::Run { job, stage, epoch, ready, start, end, workers, lead } => {
                let Some((_, spec, after, last)) = jobs.iter_mut().find(|(id, ..)| id == job) else { continue };
                // What it waited for other jobs is no time of its own.
                let before = after.iter().filter_map(|id| ended.get(id)).max().copied().unwrap_or_default();
                let gap = seconds(*ready).saturating_sub((*last).max(before)) + seconds(*lead);
                let lasts = seconds(*end).saturating_sub(seconds(*start));
                *last = seconds(*end);
                spec.stages.push(StageSpec {
                    name: format!("{stage} {epoch}"),
                    threads: Threads::Count(workers.iter().map(|(_, n)| n).sum()),
                    timing: Timing::Recorded(vec![(gap, lasts)]),
                    after: spec.stages.len().checked_sub(1).into_iter().collect(),
                    memory: 0,
                });
            }
            Record::End { at, job, .. } => {
                ended.insert(*job, seconds(*at));
            }
            _ => {}
        }
    }
    jobs.retain(|(id, ..)| ended.contains_key(id));
    jobs.sort_by_key(|(_, spec, ..)| spec.arrival);
    let places: BTreeMap<JobId, usize> = jobs.iter().enumerate().map(|(place, (id, ..))| (*id, place)).collect();
    let jobs = jobs.into_iter().map(|(_, spec, after, _)| {
        let after = after.iter().filter_map(|id| places.get(id).copied()).collect();
        JobSpec { after, ..spec }
    });
    let workload = Workload { name: name.to_owned(), jobs: jobs.collect(), luck: Luck::default() };
    (workload, Cluster { slots: slots.into_values().collect(), ..Cluster::default() })
}

fn seconds(x: f64) -> Duration {
    Duration::try_from_secs_f64(x).unwrap_or_default()
}
