//! How long stages will run, as the simulator tells policies.

use super::*;
use crate::scheduler::Estimates;

fn one(name: &str, arrival: Duration, priority: i32, threads: u32, work: f64) -> JobSpec {
    let stages = vec![stage("work", Threads::Count(threads), work, &[])];
    JobSpec { arrival, priority, ..job(name, 0, 1, stages) }
}

#[test]
fn what_waited_before_the_first_of_its_kind_ended_has_an_estimate_from_then_on() {
    let after = |millis: u64| Duration::from_millis(millis);
    let mut jobs: Vec<JobSpec> = (0..3).map(|i| one("long", after(300 * i), 2, 1, 6.0)).collect();
    jobs.push(one("giant", after(700), 1, 2, 2.0));
    jobs.extend((0..12).map(|i| one("small", after(40 * i), 0, 1, 0.5)));
    jobs.sort_by_key(|job| job.arrival);
    let workload = Workload { jobs, ..Workload::default() };
    let trace = simulate(&workload, &cluster(1, 2), &*policy("backfill").unwrap(), 1).unwrap();
    // Beside the third long one all small ones pass, before the giant begins.
    let ends = trace.jobs.iter().filter_map(|job| job.end);
    assert_eq!(ends.max(), Some(seconds(13)), "{:?}", trace.runs);
}

#[test]
fn what_was_known_before_counts_from_the_begin() {
    let jobs = vec![
        one("long", seconds(0), 0, 1, 6.0),
        one("giant", seconds(1), 1, 2, 2.0),
        one("small", seconds(2), 0, 1, 1.0),
    ];
    let small = |known| {
        let workload = Workload { jobs: jobs.clone(), known, ..Workload::default() };
        let trace = simulate(&workload, &cluster(1, 2), &*policy("backfill").unwrap(), 1).unwrap();
        trace.runs.iter().find(|run| run.job == 2).map(|run| run.start)
    };
    assert_eq!(small(Estimates::default()), Some(seconds(7)));
    let mut known = Estimates::default();
    known.note("long", "work", 1, seconds(6));
    known.note("small", "work", 1, seconds(1));
    assert_eq!(small(known), Some(seconds(2)));
}
