//! Records as a trace, and as a workload that plays again what was recorded.
//!
//! Invariants: the trace holds exactly the jobs that were asked for, in order of submission; in the workload a run comes after
//! those of its job that it had to wait for, by the recorded time, and lasts on each slave as long as it did; a job
//! has the slaves that it had, and takes as long to be opened, and to end after its last run. So only waiting for slots can
//! change, and under the policy that was recorded not even that. Of a job whose plan began anew both have what ran since.

use super::Record;
use super::seen::Seen;
use crate::scheduler::Want;
use crate::simulate::{
    Cluster, JobSpec, JobTrace, Luck, Recorded, Run, SlaveTrace, StageSpec, Threads, Timing, Trace, Workload,
};
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::report::State;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The jobs' names; those of a registry, with the identity, where it has none.
pub type Names = BTreeMap<JobId, String>;

/// What the records tell of the jobs for which `wanted` says yes.
pub fn trace(records: &[Record], names: &Names, wanted: impl Fn(JobId) -> bool) -> Trace {
    let mut trace = Trace::default();
    let mut places: BTreeMap<JobId, usize> = BTreeMap::new();
    let mut slaves: BTreeMap<SlaveId, u32> = BTreeMap::new();
    let mut opened: BTreeSet<usize> = BTreeSet::new();
    for record in records {
        match record {
            Record::Slave { slave, name, slots, .. } => {
                slaves.insert(*slave, trace.slaves.len() as u32);
                trace.slaves.push(SlaveTrace { name: name.clone(), slots: *slots });
            }
            Record::Job { at, job, name, scheduling, .. } if wanted(*job) => {
                let told = JobTrace {
                    name: names.get(job).cloned().unwrap_or_else(|| format!("{name} {job}")),
                    owner: scheduling.share().to_owned(),
                    priority: scheduling.priority,
                    arrival: seconds(*at),
                    end: None,
                    deadline: scheduling.deadline.map(seconds),
                    failed: false,
                };
                match places.get(job) {
                    // Another master queued it again.
                    Some(place) => {
                        trace.jobs[*place] = told;
                        trace.runs.retain(|run| run.job != *place);
                        opened.remove(place);
                    }
                    None => {
                        places.insert(*job, trace.jobs.len());
                        trace.jobs.push(told);
                    }
                }
            }
            Record::Open { job, .. } => {
                if let Some(place) = places.get(job)
                    && !opened.insert(*place)
                {
                    trace.runs.retain(|run| run.job != *place);
                }
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

/// A job on its way into a workload.
struct Played {
    spec: JobSpec,
    after: Vec<JobId>,
    /// The slaves on which it was opened, in shard order; none where an older build wrote the records.
    slaves: Option<Vec<SlaveId>>,
    /// Which runs it had, and when each ended; in order of their ends.
    runs: Vec<Ran>,
}

/// A run of such a job.
struct Ran {
    run: StageRun,
    end: Duration,
    /// Where it ran.
    on: Vec<SlaveId>,
    /// Whether it had to run there.
    bound: bool,
}

/// The recorded jobs and the slaves that they had. Jobs that had not ended are left out.
pub fn workload(name: &str, records: &[Record], names: &Names, wanted: impl Fn(JobId) -> bool) -> (Workload, Cluster) {
    let mut jobs: BTreeMap<JobId, Played> = BTreeMap::new();
    let mut seen = Seen::default();
    let mut ended: BTreeMap<JobId, Duration> = BTreeMap::new();
    for record in records {
        match record {
            Record::Slave { slave, name, slots, memory, .. } => seen.joined(*slave, name, *slots, *memory),
            Record::Gone { slave, .. } => seen.gone(*slave),
            Record::Job { at, job, name, scheduling, .. } if wanted(*job) => {
                let spec = JobSpec {
                    name: names.get(job).cloned().unwrap_or_else(|| format!("{name} {job}")),
                    kind: name.clone(),
                    arrival: seconds(*at),
                    priority: scheduling.priority,
                    owner: scheduling.share().to_owned(),
                    deadline: scheduling.deadline.map(seconds),
                    rounds: 1,
                    ..JobSpec::default()
                };
                let after = scheduling.after.clone();
                jobs.insert(*job, Played { spec, after, slaves: None, runs: Vec::new() });
            }
            Record::Open { job, slaves, .. } => {
                if let Some(played) = jobs.get_mut(job) {
                    played.slaves = Some(slaves.clone());
                    played.runs.clear();
                    played.spec.stages.clear();
                    played.spec.opening = Duration::ZERO;
                }
            }
            Record::Run {
                job,
                run,
                after: first,
                stage,
                epoch,
                ready,
                start,
                end,
                workers,
                lead,
                ends,
                want,
                memory,
                bound,
            } => {
                let Some(Played { spec, after, runs, slaves }) = jobs.get_mut(job) else { continue };
                let [ready, start, end] = [ready, start, end].map(|at| seconds(*at));
                let before = before(runs, first.as_deref());
                // What it waited for other jobs is no time of its own.
                let others = after.iter().filter_map(|id| ended.get(id)).max().copied().unwrap_or_default();
                let from = before.iter().map(|place| runs[*place].end).max().unwrap_or(spec.arrival.max(others));
                let recorded = Recorded {
                    round: u32::try_from(*epoch).unwrap_or(u32::MAX),
                    gap: ready.saturating_sub(from),
                    lasts: end.saturating_sub(start),
                    each: ends.iter().map(|at| seconds(*at).saturating_sub(start)).collect(),
                };
                spec.opening = spec.opening.max(seconds(*lead));
                spec.stages.push(StageSpec {
                    name: stage.clone(),
                    threads: threads(*want, workers, slaves.as_ref().map_or_else(|| seen.live(), Vec::len)),
                    timing: Timing::Recorded(recorded),
                    after: before,
                    memory: *memory,
                    slaves: Vec::new(),
                });
                let on = workers.iter().map(|(id, _)| *id).collect();
                runs.push(Ran { run: *run, end, on, bound: *bound });
            }
            Record::End { at, job, .. } => {
                ended.insert(*job, seconds(*at));
                if let Some(Played { spec, runs, .. }) = jobs.get_mut(job)
                    && let Some(last) = runs.last()
                {
                    spec.closing = seconds(*at).saturating_sub(last.end);
                }
            }
            _ => {}
        }
    }
    jobs.retain(|id, _| ended.contains_key(id));
    let used = jobs.values().flat_map(|job| job.slaves.iter().flatten().chain(job.runs.iter().flat_map(|r| &r.on)));
    let cluster = seen.cluster(used.copied());
    let places: BTreeMap<JobId, usize> = jobs.keys().enumerate().map(|(place, id)| (*id, place)).collect();
    let jobs = jobs.into_values().map(|Played { mut spec, after, slaves, runs }| {
        for (stage, ran) in spec.stages.iter_mut().zip(runs).filter(|(_, ran)| ran.bound) {
            stage.slaves = seen.places(&cluster, &ran.on);
        }
        let slaves = slaves.map(|slaves| seen.places(&cluster, &slaves)).unwrap_or_default();
        let all = slaves.iter().copied().eq(0..cluster.slots.len());
        let after = after.iter().filter_map(|id| places.get(id).copied()).collect();
        JobSpec { after, slaves: if all { Vec::new() } else { slaves }, ..spec }
    });
    let workload = Workload { name: name.to_owned(), jobs: jobs.collect(), luck: Luck::default(), ..Workload::default() };
    (workload, cluster)
}

/// The places of the runs that one had to wait for; of one of an older build the one that ended before it.
fn before(runs: &[Ran], first: Option<&[StageRun]>) -> Vec<usize> {
    match first {
        None => runs.len().checked_sub(1).into_iter().collect(),
        Some(first) => first.iter().filter_map(|run| runs.iter().rposition(|other| other.run == *run)).collect(),
    }
}

/// The threads of a run of a job with so many slaves that wanted this: how long it takes is known of so many and no others.
fn threads(want: Option<Want>, workers: &[(SlaveId, u32)], slaves: usize) -> Threads {
    let count = workers.iter().map(|(_, n)| n).sum();
    // One on some of the slaves says nothing about the others.
    let everywhere = workers.len() == slaves;
    match want {
        Some(Want::OneSlave(n)) => Threads::OneSlave(n),
        Some(Want::PerSlave(n)) if everywhere => Threads::PerSlave(n),
        // Of cores a workload knows nothing: it has a thread on each and no other number.
        Some(Want::All) if everywhere => Threads::All,
        Some(Want::Cores) if everywhere => Threads::Spread(count, 1),
        Some(Want::Spread { each: each @ 1.., .. } | Want::Range { each: each @ 1.., .. }) if everywhere => {
            Threads::Spread(count, each)
        }
        _ => Threads::Count(count),
    }
}

fn seconds(x: f64) -> Duration {
    Duration::try_from_secs_f64(x).unwrap_or_default()
}
