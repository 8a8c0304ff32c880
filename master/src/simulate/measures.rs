//! A trace in numbers.

use super::{Bounds, Trace};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a policy made of a workload. Times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measures {
    /// From the first arrival to the last end.
    pub makespan: f64,
    /// The makespan over its lower bound.
    pub over_bound: f64,
    /// Mean time of a job from arrival to end.
    pub mean_job: f64,
    /// 95 % of the jobs took at most so long.
    pub p95_job: f64,
    /// Mean of a job's time over its time with the cluster for itself.
    pub slowdown: f64,
    /// Slot-seconds in which stages ran over all slot-seconds of the makespan.
    pub utilisation: f64,
    /// The longest that a stage waited for its slots.
    pub worst_wait: f64,
    /// Which stage of which job that was.
    pub worst_waiter: String,
    /// Jain's index (Jain, Chiu, Hawe 1984) of the inverse slowdowns, averaged per user or queue when there are several:
    /// 1 when all are slowed down alike, 1/n when one has everything.
    pub fairness: f64,
    /// Jobs that missed their deadline.
    pub late: usize,
    /// Jobs that failed or did not end.
    pub failed: usize,
    /// How often a slave broke down until then.
    pub breakdowns: usize,
    /// Slot-seconds of stage runs that failed, or that a slave took with it.
    pub lost: f64,
}

/// The measures of a trace.
pub fn measure(trace: &Trace, bounds: &Bounds) -> Measures {
    let first = trace.jobs.iter().map(|j| j.arrival).min().unwrap_or_default();
    let last = trace.jobs.iter().filter_map(|j| j.end).max().unwrap_or_default();
    let makespan = last.saturating_sub(first).as_secs_f64();
    let ended = || {
        trace
            .jobs
            .iter()
            .zip(&bounds.alone)
            .filter_map(|(j, alone)| Some((j, j.end?.saturating_sub(j.arrival), *alone)))
    };
    let mut times: Vec<f64> = ended().map(|(_, time, _)| time.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let mean = |sum: f64, n: usize| if n == 0 { 0.0 } else { sum / n as f64 };
    // A job that takes no time even alone is not slowed down.
    let slowdown =
        |time: Duration, alone: Duration| if alone.is_zero() { 1.0 } else { time.as_secs_f64() / alone.as_secs_f64() };
    let slowdowns: f64 = ended().map(|(_, time, alone)| slowdown(time, alone)).sum();
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (job, time, alone) in ended() {
        rates.entry(&job.owner).or_default().push(1.0 / slowdown(time, alone).max(f64::MIN_POSITIVE));
    }
    let rates: Vec<f64> = match rates.len() {
        0 | 1 => rates.into_values().flatten().collect(),
        _ => rates.into_values().map(|r| mean(r.iter().sum(), r.len())).collect(),
    };
    let slots: f64 = trace.slaves.iter().map(|s| f64::from(s.slots)).sum();
    let busy_seconds = |r: &super::Run| f64::from(r.threads()) * r.end.saturating_sub(r.start).as_secs_f64();
    let busy: f64 = trace.runs.iter().map(busy_seconds).sum();
    let worst = trace.runs.iter().max_by_key(|r| r.start.saturating_sub(r.ready));
    Measures {
        makespan,
        over_bound: if bounds.makespan.is_zero() { 1.0 } else { makespan / bounds.makespan.as_secs_f64() },
        mean_job: mean(times.iter().sum(), times.len()),
        p95_job: times.get((times.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default(),
        slowdown: mean(slowdowns, times.len()),
        utilisation: if makespan > 0.0 { busy / (slots * makespan) } else { 0.0 },
        worst_wait: worst.map_or(0.0, |r| r.start.saturating_sub(r.ready).as_secs_f64()),
        worst_waiter: worst.map_or(String::new(), |r| format!("{} of {}", r.stage, trace.jobs[r.job].name)),
        fairness: jain(&rates),
        late: ended().filter(|(j, time, _)| j.deadline.is_some_and(|d| *time > d)).count(),
        breakdowns: trace.breakdowns,
        lost: trace.runs.iter().filter(|r| r.failed).map(busy_seconds).sum(),
        failed: trace.jobs.iter().filter(|j| j.failed || j.end.is_none()).count(),
    }
}

fn jain(rates: &[f64]) -> f64 {
    let (sum, squares) = rates.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (rates.len() as f64 * squares) }
}
