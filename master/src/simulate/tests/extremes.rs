//! Workloads that are longer than times and stacks.

use super::*;

#[test]
fn times_that_are_too_long_for_a_clock_stop_it_at_its_end() {
    let stages = || vec![stage("s", Threads::Count(1), 1e19, &[])];
    let jobs = vec![job("long", 0, 3, stages()), job("long", 0, 3, stages()), job("long", 1, 3, stages())];
    let mut wide = job("wide", 1, 2, vec![stage("w", Threads::Count(2), 1e30, &[])]);
    (wide.opening, wide.closing) = (Duration::MAX, Duration::MAX);
    let workload = Workload { jobs: [jobs, vec![wide]].concat(), ..Workload::default() };
    let least = bounds(&workload, &cluster(1, 2), 1);
    for name in POLICIES {
        let trace = simulate(&workload, &cluster(1, 2), &*policy(name).unwrap(), 1).unwrap();
        assert!(trace.jobs.iter().all(|job| job.end.is_some()), "{name}");
        assert_eq!(measure(&trace, &least).failed, 0, "{name}");
    }
}

#[test]
fn a_chain_of_jobs_may_be_longer_than_a_stack_is_deep() {
    let long = 100_000;
    let chained = |at: usize, stages| {
        let after = if at + 1 < long { vec![at + 1] } else { Vec::new() };
        JobSpec { after, stages, rounds: 1, ..JobSpec::default() }
    };
    let jobs = (0..long).map(|at| chained(at, vec![stage("s", Threads::Count(1), 1.0, &[])])).collect();
    let workload = Workload { jobs, ..Workload::default() };
    assert_eq!(bounds(&workload, &cluster(1, 1), 1).makespan, seconds(long as u64));
    // Those of which nothing was recorded end one by one.
    let jobs = (0..long).map(|at| chained(at, Vec::new())).collect();
    let workload = Workload { jobs, ..Workload::default() };
    let trace = simulate(&workload, &cluster(1, 1), &*policy("greedy").unwrap(), 1).unwrap();
    assert!(trace.jobs.iter().all(|job| job.end == Some(Duration::ZERO)));
}
