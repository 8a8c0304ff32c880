//! What no policy can beat.
//!
//! Three bounds on the makespan: the longest chain of arrivals and stages that wait for one another, each at its best number
//! of threads; the slot-seconds of all jobs that arrive from some moment on, over all slots, after that moment; and a job's
//! own stages, one after the other, and those of later jobs that are too wide to run beside any of them.

use super::{Cluster, JobSpec, StageSpec, Threads, Workload, in_turn};
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// Least makespan, from the first arrival.
    pub makespan: Duration,
    /// Time of each job when it has the cluster for itself.
    pub alone: Vec<Duration>,
}

/// The bounds of a workload on a cluster, with the luck of a seed.
pub fn bounds(workload: &Workload, cluster: &Cluster, seed: u64) -> Bounds {
    let first = workload.jobs.iter().map(|j| j.arrival).min().unwrap_or_default();
    let alone: Vec<Duration> =
        workload.jobs.iter().enumerate().map(|(i, j)| alone(workload, cluster, seed, i, j)).collect();
    let mut ends = vec![Duration::ZERO; workload.jobs.len()];
    for job in in_turn(&workload.jobs) {
        let spec = &workload.jobs[job];
        let after = spec.after.iter().map(|first| ends[*first]).max().unwrap_or_default();
        ends[job] = spec.arrival.max(after).saturating_add(alone[job]);
    }
    let chain = ends.into_iter().max().unwrap_or_default();
    let areas = workload.jobs.iter().enumerate().map(|(i, j)| (j.arrival, area(workload, cluster, seed, i, j)));
    let mut areas: Vec<(Duration, f64)> = areas.collect();
    areas.sort_by_key(|(arrival, _)| std::cmp::Reverse(*arrival));
    let slots = f64::from(cluster.total());
    let (mut sum, mut latest) = (0.0, 0.0f64);
    for (arrival, area) in areas {
        sum += area;
        latest = latest.max(arrival.as_secs_f64() + sum / slots);
    }
    let end =
        chain.max(Duration::try_from_secs_f64(latest.max(exclusive(workload, cluster, seed))).unwrap_or_default());
    Bounds { makespan: end.saturating_sub(first), alone }
}

/// Jobs for which the third bound is looked at: it compares each with each.
const COMPARED: usize = 2_000;

/// The third bound, in seconds.
fn exclusive(workload: &Workload, cluster: &Cluster, seed: u64) -> f64 {
    if workload.jobs.len() > COMPARED {
        return 0.0;
    }
    let slots = u64::from(cluster.total());
    let least = |job: &JobSpec, stage: &StageSpec| u64::from(limits(job, stage, workload, cluster).0);
    let stages: Vec<(usize, u64, f64)> = workload
        .jobs
        .iter()
        .enumerate()
        .flat_map(|(i, job)| (0..job.stages.len()).map(move |place| (i, job, place)))
        .map(|(i, job, place)| (i, least(job, &job.stages[place]), shortest(workload, cluster, seed, i, job, place)))
        .collect();
    let bound = |(i, job): (usize, &JobSpec)| {
        let narrowest = job.stages.iter().map(|stage| least(job, stage)).min().unwrap_or(0);
        // Stages of one job may run side by side, unless each waits for the one before it.
        let chain = job.stages.iter().enumerate().all(|(place, s)| place == 0 || s.after.contains(&(place - 1)));
        let own: f64 = stages.iter().filter(|(of, ..)| *of == i && chain).map(|(.., time)| time).sum();
        let others = stages.iter().filter(|(of, threads, _)| {
            let other = &workload.jobs[*of];
            *of != i && *threads > slots - narrowest.min(slots) && other.arrival >= job.arrival
        });
        // Two of the others can run side by side only when they are narrow enough for that.
        let wide = others.filter(|(_, threads, _)| 2 * threads > slots);
        job.arrival.as_secs_f64() + own + wide.map(|(.., time)| time).sum::<f64>()
    };
    workload.jobs.iter().enumerate().map(bound).fold(0.0, f64::max)
}

/// Seconds that a stage runs in all rounds at its best number of threads.
fn shortest(workload: &Workload, cluster: &Cluster, seed: u64, job: usize, spec: &JobSpec, place: usize) -> f64 {
    let threads = best(spec, &spec.stages[place], workload, cluster).0;
    let round = |round| lasts(workload, seed, job, spec, round, place, threads).as_secs_f64();
    (0..spec.rounds).map(round).sum()
}

/// The stage's runs in a round, those that fail too: (threads, time) at a number of threads.
fn lasts(
    workload: &Workload,
    seed: u64,
    job: usize,
    spec: &JobSpec,
    round: u32,
    place: usize,
    threads: u32,
) -> Duration {
    let planned = spec.stages[place].timing.on(threads);
    let stage = round * spec.stages.len() as u32 + place as u32;
    let mut sum = Duration::ZERO;
    for attempt in 0.. {
        let drawn = workload.luck.draw(planned, seed, job, stage, attempt);
        sum = sum.saturating_add(drawn.lasts);
        if !drawn.fails {
            break;
        }
    }
    sum
}

/// The fewest and the most threads that a stage may run on: where slaves break down, each slave can be the last one.
fn limits(job: &JobSpec, stage: &StageSpec, workload: &Workload, cluster: &Cluster) -> (u32, u32) {
    let (least, most) = job.limits(stage, cluster);
    match stage.threads {
        Threads::PerSlave(n) if workload.luck.breakdowns.is_some() => (n, most),
        Threads::All if workload.luck.breakdowns.is_some() => {
            (cluster.slots.iter().copied().min().unwrap_or(least), most)
        }
        _ => (least, most),
    }
}

/// The number of threads with the shortest time, and the one with the fewest slot-seconds.
fn best(job: &JobSpec, stage: &StageSpec, workload: &Workload, cluster: &Cluster) -> (u32, u32) {
    let (least, most) = limits(job, stage, workload, cluster);
    let quickest = (least..=most).min_by_key(|p| stage.timing.on(*p)).unwrap_or(least);
    let cheapest = (least..=most).min_by_key(|p| stage.timing.on(*p).saturating_mul(*p)).unwrap_or(least);
    (quickest, cheapest)
}

fn alone(workload: &Workload, cluster: &Cluster, seed: u64, job: usize, spec: &JobSpec) -> Duration {
    let threads: Vec<u32> = spec.stages.iter().map(|stage| best(spec, stage, workload, cluster).0).collect();
    let mut sum = Duration::ZERO;
    for round in 0..spec.rounds {
        let mut ends: Vec<Duration> = Vec::with_capacity(spec.stages.len());
        for (place, stage) in spec.stages.iter().enumerate() {
            let begin = stage.after.iter().map(|first| ends[*first]).max().unwrap_or_default();
            let runs = lasts(workload, seed, job, spec, round, place, threads[place]);
            ends.push(begin.saturating_add(stage.timing.gap()).saturating_add(runs));
        }
        sum = sum.saturating_add(ends.into_iter().max().unwrap_or_default());
    }
    sum.saturating_add(spec.opening).saturating_add(spec.closing)
}

fn area(workload: &Workload, cluster: &Cluster, seed: u64, job: usize, spec: &JobSpec) -> f64 {
    let threads: Vec<u32> = spec.stages.iter().map(|stage| best(spec, stage, workload, cluster).1).collect();
    let rounds = (0..spec.rounds).flat_map(|round| (0..spec.stages.len()).map(move |place| (round, place)));
    rounds
        .map(|(round, place)| {
            let runs = lasts(workload, seed, job, spec, round, place, threads[place]);
            f64::from(threads[place]) * runs.as_secs_f64()
        })
        .sum()
}
