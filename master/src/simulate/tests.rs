//! Promises of the simulator, by property and by example.

mod estimates;
mod extremes;

use super::*;
use crate::scheduler::{POLICIES, policy};
use flexps_common::curve::Curve;
use proptest::prelude::*;
use std::time::Duration;

fn seconds(x: u64) -> Duration {
    Duration::from_secs(x)
}

fn stage(name: &str, threads: Threads, work: f64, after: &[usize]) -> StageSpec {
    let timing = Timing::Model(Curve { work, cost: 0.0, fixed: 0.0 });
    StageSpec { name: name.into(), threads, timing, after: after.to_vec(), memory: 0, slaves: Vec::new() }
}

fn job(name: &str, arrival: u64, rounds: u32, stages: Vec<StageSpec>) -> JobSpec {
    let (name, kind, owner) = (name.to_owned(), name.to_owned(), name.to_owned());
    JobSpec { name, kind, owner, arrival: seconds(arrival), rounds, stages, ..JobSpec::default() }
}

fn cluster(slaves: u32, slots: u32) -> Cluster {
    Cluster::equal(slaves, slots)
}

fn threads() -> impl Strategy<Value = Threads> {
    prop_oneof![
        (1u32..9).prop_map(Threads::Count),
        (1u32..4, 0u32..6).prop_map(|(least, more)| Threads::Range(least, least + more)),
        (1u32..4).prop_map(Threads::OneSlave),
        (1u32..4).prop_map(Threads::PerSlave),
        Just(Threads::All),
    ]
}

fn breakdowns() -> impl Strategy<Value = Option<Breakdowns>> {
    let some = (20.0f64..500.0, 0.5f64..3.0, 1u64..30);
    prop::option::of(some.prop_map(|(scale, shape, repair)| Breakdowns { scale, shape, repair: seconds(repair) }))
}

/// Workloads that fit on 3 slaves of 3 slots.
fn workloads() -> impl Strategy<Value = Workload> {
    let stage = (threads(), 0.1f64..20.0, 0.0f64..0.5, 0.0f64..2.0, any::<u8>());
    let one = (0u64..40, -1i32..2, 1u32..4, prop::collection::vec(stage, 1..4), any::<u8>(), 0usize..3);
    let luck = prop_oneof![
        Just(Luck::default()),
        (0.0f64..0.5, 0.0f64..0.3, 0.0f64..0.3, breakdowns()).prop_map(
            |(jitter, straggler_probability, failure_probability, breakdowns)| {
                Luck { jitter, straggler_probability, straggler_slowdown: 4.0, failure_probability, breakdowns }
            }
        ),
    ];
    (prop::collection::vec(one, 1..12), luck).prop_map(|(jobs, luck)| {
        let jobs = jobs.into_iter().enumerate().map(|(i, (arrival, priority, rounds, stages, bits, owner))| {
            let stages = stages.into_iter().enumerate().map(|(place, (threads, work, cost, fixed, bits))| StageSpec {
                name: format!("stage{place}"),
                threads,
                timing: Timing::Model(Curve { work, cost, fixed }),
                after: (0..place).filter(|first| bits >> first & 1 == 1).collect(),
                memory: u64::from(bits >> 6),
                slaves: Vec::new(),
            });
            JobSpec {
                name: format!("job{i}"),
                kind: format!("kind{owner}"),
                owner: format!("user{owner}"),
                arrival: seconds(arrival),
                priority,
                rounds,
                deadline: None,
                after: (0..i.min(8)).filter(|first| bits >> first & 1 == 1 && bits & 0x80 != 0).collect(),
                stages: stages.collect(),
                opening: Duration::from_millis(250 * u64::from(bits & 3)),
                closing: Duration::from_millis(250 * u64::from(bits >> 2 & 3)),
                slaves: Vec::new(),
            }
        });
        Workload { name: "random".into(), jobs: jobs.collect(), luck, ..Workload::default() }
    })
}

fn check(workload: &Workload, cluster: &Cluster, trace: &Trace) -> Result<(), TestCaseError> {
    // Slots and memory: what runs at the begin of any run on any slave.
    for run in &trace.runs {
        for (slave, _) in &run.workers {
            let there = || trace.runs.iter().filter(|r| r.start <= run.start && run.start < r.end.max(r.start));
            let used: u32 = there().flat_map(|r| &r.workers).filter(|w| w.0 == *slave).map(|w| w.1).sum();
            let of = |r: &Run| workload.jobs[r.job].stages.iter().find(|s| s.name == r.stage).map_or(0, |s| s.memory);
            let asked: u64 = there().filter(|r| r.workers.iter().any(|w| w.0 == *slave)).map(of).sum();
            let memory = cluster.memory_of(*slave as usize);
            prop_assert!(asked <= memory, "{asked} of {memory} bytes on slave {slave} at {:?}", run.start);
            prop_assert!(used <= cluster.slots[*slave as usize], "{used} threads on slave {slave} at {:?}", run.start);
        }
        prop_assert!(run.ready <= run.start && trace.jobs[run.job].arrival <= run.start);
    }
    for (place, spec) in workload.jobs.iter().enumerate() {
        let end = trace.jobs[place].end.expect("every job ends");
        for run in trace.runs.iter().filter(|r| r.job == place) {
            prop_assert!(run.start >= trace.jobs[place].arrival + spec.opening, "it ran before it was open");
            prop_assert!(run.end + spec.closing <= end, "it ended before it was closed");
        }
        for first in &spec.after {
            let begin = trace.runs.iter().filter(|r| r.job == place).map(|r| r.start).min().unwrap();
            prop_assert!(trace.jobs[*first].end.unwrap() <= begin, "{place} began before {first} was done");
        }
        for round in 1..=spec.rounds {
            for stage in &spec.stages {
                let of = |name: &str| {
                    trace
                        .runs
                        .iter()
                        .filter(|r| r.job == place && r.round == round && r.stage == name)
                        .collect::<Vec<_>>()
                };
                let runs = of(&stage.name);
                prop_assert_eq!(runs.iter().filter(|r| !r.failed).count(), 1, "each stage is done once a round");
                prop_assert!(runs.iter().all(|r| r.end <= end));
                for first in &stage.after {
                    let before = of(&spec.stages[*first].name).iter().map(|r| r.end).max().unwrap();
                    prop_assert!(runs.iter().all(|r| before <= r.start));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_job_ends_in_order_within_its_slots(workload in workloads(), which in 0..POLICIES.len(), seed in any::<u64>()) {
        let cluster = cluster(3, 3).with_memory(Some(4));
        let policy = policy(POLICIES[which]).unwrap();
        let trace = simulate(&workload, &cluster, &*policy, seed).unwrap();
        check(&workload, &cluster, &trace)?;
        prop_assert_eq!(&trace, &simulate(&workload, &cluster, &*policy, seed).unwrap(), "a second run differs");
    }

    #[test]
    fn no_policy_beats_the_bounds(workload in workloads(), which in 0..POLICIES.len(), seed in any::<u64>()) {
        let cluster = cluster(3, 3);
        let trace = simulate(&workload, &cluster, &*policy(POLICIES[which]).unwrap(), seed).unwrap();
        let bounds = bounds(&workload, &cluster, seed);
        let measures = measure(&trace, &bounds);
        prop_assert!(measures.over_bound >= 1.0 - 1e-6, "{measures:?} {bounds:?}");
        prop_assert!(measures.utilisation <= 1.0 + 1e-9 && measures.fairness <= 1.0 + 1e-9);
        for (job, alone) in trace.jobs.iter().zip(&bounds.alone) {
            let took = job.end.unwrap() - job.arrival;
            prop_assert!(took + Duration::from_micros(1) >= *alone, "{took:?} {alone:?}");
        }
    }
}

#[test]
fn a_stage_takes_what_its_model_says() {
    let timing = Timing::Model(Curve { work: 12.0, cost: 0.5, fixed: 1.0 });
    assert_eq!(timing.on(4), Duration::from_secs(6));
    let stages = vec![StageSpec { timing, ..stage("a", Threads::Count(4), 0.0, &[]) }];
    let workload = Workload { jobs: vec![job("one", 3, 2, stages)], ..Workload::default() };
    let trace = simulate(&workload, &cluster(2, 2), &*policy("greedy").unwrap(), 1).unwrap();
    assert_eq!(trace.jobs[0].end, Some(seconds(3 + 2 * 6)));
    let measures = measure(&trace, &bounds(&workload, &cluster(2, 2), 1));
    assert_eq!((measures.makespan, measures.over_bound, measures.slowdown), (12.0, 1.0, 1.0));
    assert_eq!((measures.utilisation, measures.worst_wait), (1.0, 0.0));
}

#[test]
fn independent_stages_of_a_job_run_side_by_side() {
    let stages = vec![
        stage("left", Threads::Count(2), 8.0, &[]),
        stage("right", Threads::Count(2), 8.0, &[]),
        stage("join", Threads::All, 8.0, &[0, 1]),
    ];
    let workload = Workload { jobs: vec![job("one", 0, 1, stages)], ..Workload::default() };
    for name in POLICIES {
        let trace = simulate(&workload, &cluster(2, 2), &*policy(name).unwrap(), 1).unwrap();
        assert_eq!(trace.jobs[0].end, Some(seconds(6)), "{name}");
    }
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let refused = |threads, memory| {
        let stages = vec![StageSpec { memory, ..stage("a", threads, 1.0, &[]) }];
        let workload = Workload { jobs: vec![job("big", 0, 1, stages)], ..Workload::default() };
        simulate(&workload, &cluster(3, 4).with_memory(Some(100)), &*policy("greedy").unwrap(), 1).unwrap_err().message
    };
    assert_eq!(refused(Threads::Count(13), 0), "stage a of job big needs 13 slots, the cluster has 12");
    assert_eq!(refused(Threads::OneSlave(5), 0), "stage a of job big needs 5 slots on one slave, the largest has 4");
    let much = "stage a of job big needs 101 B of memory on";
    assert_eq!(refused(Threads::All, 101), format!("{much} each slave, the smallest has 100 B"));
    assert_eq!(refused(Threads::Count(1), 101), format!("{much} one slave, the largest has 100 B"));
    let few = "stage a of job big needs 13 slots where 100 B of memory are, the cluster has 12";
    assert_eq!(refused(Threads::Count(13), 100), few);
}

#[test]
fn luck_depends_on_the_seed_and_not_on_the_policy() {
    let luck = Luck {
        jitter: 0.3,
        straggler_probability: 0.1,
        straggler_slowdown: 5.0,
        failure_probability: 0.1,
        breakdowns: None,
    };
    let jobs = (0..20).map(|i| job(&format!("j{i}"), 0, 3, vec![stage("a", Threads::Count(1), 4.0, &[])])).collect();
    let workload = Workload { jobs, luck, ..Workload::default() };
    let lengths = |name: &str, seed| {
        let trace = simulate(&workload, &cluster(2, 3), &*policy(name).unwrap(), seed).unwrap();
        let mut runs: Vec<_> = trace.runs.iter().map(|r| (r.job, r.round, r.failed, r.end - r.start)).collect();
        runs.sort();
        runs
    };
    assert_eq!(lengths("greedy", 1), lengths("fair", 1));
    assert_ne!(lengths("greedy", 1), lengths("greedy", 2));
    assert!(lengths("greedy", 1).iter().any(|r| r.2), "nothing failed");
}

#[test]
fn what_ran_on_a_slave_that_breaks_down_runs_again_and_nothing_runs_there_meanwhile() {
    let stages = || vec![stage("a", Threads::Count(3), 60.0, &[]), stage("b", Threads::All, 30.0, &[0])];
    let jobs = (0..6).map(|i| job(&format!("job{i}"), i * 3, 2, stages())).collect();
    let breakdowns = Some(Breakdowns { scale: 60.0, shape: 1.0, repair: seconds(7) });
    let workload = Workload { jobs, luck: Luck { breakdowns, ..Luck::default() }, ..Workload::default() };
    for name in POLICIES {
        let trace = simulate(&workload, &cluster(3, 2), &*policy(name).unwrap(), 5).unwrap();
        assert!(trace.breakdowns > 2, "{name}: {} breakdowns", trace.breakdowns);
        assert!(trace.jobs.iter().all(|j| j.end.is_some()), "{name}");
        assert_eq!(trace.runs.iter().filter(|r| !r.failed).count(), 6 * 2 * 2, "{name}");
        let lost: Vec<_> = trace.runs.iter().filter(|r| r.failed).collect();
        assert!(!lost.is_empty(), "{name}");
        for run in lost {
            let away = |r: &&Run| r.start > run.end && r.start < run.end + seconds(7);
            let elsewhere = |r: &Run| run.workers.iter().any(|(slave, _)| r.workers.iter().all(|w| w.0 != *slave));
            assert!(trace.runs.iter().filter(away).all(elsewhere), "{name}: a slave that is away was used");
        }
        assert_eq!(trace, simulate(&workload, &cluster(3, 2), &*policy(name).unwrap(), 5).unwrap());
    }
}
