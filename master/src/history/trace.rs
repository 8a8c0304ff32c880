//! Records as a trace, and as a workload that plays again what was recorded.
//!
//! Invariants: the trace holds exactly the jobs that were asked for, in order of submission; in the workload a run comes after
//! those of its job that it had to wait for, by the recorded time, and lasts on each slave as long as it did; a job
//! has the slaves that it had, and takes as long to be opened, and to end after its last run. So only waiting for slots can
//! change, and under the policy that was recorded not even that. Of a job whose plan began anew both have what ran since.

use super::Record;
use super::seen::Seen;
use crate::scheduler::{Estimates, Want};
use crate::simulate::{
    Cluster, JobSpec, JobTrace, Recorded, Run, SlaveTrace, StageSpec, Threads, Timing, Trace, Workload,
};
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::report::State;
use std::collections::BTreeMap;
use std::time::Duration;

/// The jobs' names; those of a registry, with the identity, where it has none.
pub type Names = BTreeMap<JobId, String>;

/// What the records tell of the jobs for which `wanted` says yes.
pub fn trace(records: &[Record], names: &Names, wanted: impl Fn(JobId) -> bool) -> Trace {
    let mut trace = Trace::default();
    let mut places: BTreeMap<JobId, usize> = BTreeMap::new();
    let mut seen = Seen::default();
    let mut opened: BTreeMap<usize, &[SlaveId]> = BTreeMap::new();
    for record in records {
        match record {
            Record::Slave { slave, name, slots, memory, .. } => seen.joined(*slave, name, *slots, *memory),
            Record::Gone { slave, .. } => seen.gone(*slave),
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
            Record::Open { job, slaves, .. } => {
                if let Some(place) = places.get(job)
                    && opened.insert(*place, slaves).is_some()
                {
                    trace.runs.retain(|run| run.job != *place);
                }
            }
            Record::Run { job, stage, epoch, ready, start, end, workers, .. } => {
                let Some(place) = places.get(job) else { continue };
                trace.runs.push(Run {
                    job: *place,
                    stage: stage.clone(),
                    round: u32::try_from(*epoch).unwrap_or(u32::MAX),
                    ready: seconds(*ready),
                    start: seconds(*start),
                    end: seconds(*end),
                    // By identity, until all slaves are known.
                    workers: workers.iter().map(|(id, n)| (id.0, *n)).collect(),
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
    let ran = trace.runs.iter().flat_map(|run| &run.workers).map(|(id, _)| SlaveId(*id));
    let (cluster, places) = seen.cluster(ran.chain(opened.into_values().flatten().copied()));
    for run in &mut trace.runs {
        let place = |(id, n): &(u32, u32)| Some((*places.get(&SlaveId(*id))? as u32, *n));
        run.workers = run.workers.iter().filter_map(place).collect();
    }
    let slaves = cluster.names.into_iter().zip(cluster.slots);
    trace.slaves = slaves.map(|(name, slots)| SlaveTrace { name, slots }).collect();
    trace.runs.sort_by_key(|r| r.start);
    trace
}

/// A job on its way into a workload.
struct Played {
    spec: JobSpec,
    after: Vec<JobId>,
    /// The slaves on which it was opened, in shard order; none where an older build wrote the records.
    slaves: Option<Vec<SlaveId>>,
    /// In order of their ends.
    runs: Vec<Ran>,
}

/// A run of such a job.
struct Ran {
    run: StageRun,
    /// It comes after places of the list that holds this.
    stage: StageSpec,
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
    let mut weights = BTreeMap::new();
    for record in records {
        match record {
            Record::Begin { shares, .. } => weights = shares.clone(),
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
                cut,
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
                    cut: *cut,
                };
                spec.opening = spec.opening.max(seconds(*lead));
                let stage = StageSpec {
                    name: stage.clone(),
                    threads: threads(*want, workers, slaves.as_ref().map_or_else(|| seen.live(), Vec::len)),
                    timing: Timing::Recorded(recorded),
                    after: before,
                    memory: *memory,
                    slaves: Vec::new(),
                };
                let on = workers.iter().map(|(id, _)| *id).collect();
                runs.push(Ran { run: *run, stage, end, on, bound: *bound });
            }
            Record::End { at, job, .. } => {
                ended.insert(*job, seconds(*at));
                if let Some(Played { spec, runs, .. }) = jobs.get_mut(job)
                    && let Some(last) = runs.iter().map(|ran| ran.end).max()
                {
                    spec.closing = seconds(*at).saturating_sub(last);
                }
            }
            _ => {}
        }
    }
    jobs.retain(|id, _| ended.contains_key(id));
    let used = jobs.values().flat_map(|job| job.slaves.iter().flatten().chain(job.runs.iter().flat_map(|r| &r.on)));
    let (mut cluster, at) = seen.cluster(used.copied());
    cluster.weights = weights;
    let places: BTreeMap<JobId, usize> = jobs.keys().enumerate().map(|(place, id)| (*id, place)).collect();
    let placed = |slaves: &[SlaveId]| slaves.iter().filter_map(|id| at.get(id).copied()).collect::<Vec<_>>();
    let jobs = jobs.into_values().map(|Played { spec, after, slaves, mut runs }| {
        for ran in runs.iter_mut().filter(|ran| ran.bound) {
            ran.stage.slaves = placed(&ran.on);
        }
        let slaves = slaves.map(|slaves| placed(&slaves)).unwrap_or_default();
        let all = slaves.iter().copied().eq(0..cluster.slots.len());
        let after = after.iter().filter_map(|id| places.get(id).copied()).collect();
        JobSpec { after, stages: launched(runs), slaves: if all { Vec::new() } else { slaves }, ..spec }
    });
    let workload = Workload { name: name.to_owned(), jobs: jobs.collect(), ..Workload::default() };
    (workload, cluster)
}

/// The stages of runs in the order in which they were launched: what is ready together is asked for in that order. Older
/// builds did not say; those stay as they ended.
fn launched(runs: Vec<Ran>) -> Vec<StageSpec> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|place| runs[*place].run);
    let mut places = vec![0; runs.len()];
    order.iter().enumerate().for_each(|(to, from)| places[*from] = to);
    // A file may tell of one that came before what it waited for.
    let waits = |(place, ran): (usize, &Ran)| ran.stage.after.iter().all(|first| places[*first] < places[place]);
    if !runs.iter().enumerate().all(waits) {
        return runs.into_iter().map(|ran| ran.stage).collect();
    }
    let mut stages: Vec<(usize, StageSpec)> =
        places.iter().copied().zip(runs.into_iter().map(|ran| ran.stage)).collect();
    stages.sort_unstable_by_key(|(place, _)| *place);
    let moved = |(_, mut stage): (usize, StageSpec)| {
        stage.after.iter_mut().for_each(|first| *first = places[*first]);
        stage
    };
    stages.into_iter().map(moved).collect()
}

/// How long stages ran, as a master that begins learns it from what those before it recorded.
pub fn known(records: &[Record]) -> Estimates {
    let mut known = Estimates::default();
    let mut names: BTreeMap<JobId, &str> = BTreeMap::new();
    for record in records {
        match record {
            Record::Job { job, name, .. } => _ = names.insert(*job, name),
            Record::Run { job, stage, start, end, workers, cut: false, .. } => {
                if let Some(name) = names.get(job) {
                    let threads = workers.iter().map(|(_, n)| n).sum();
                    known.note(name, stage, threads, seconds(end - start));
                }
            }
            _ => {}
        }
    }
    known
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
