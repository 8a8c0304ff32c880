//! Stages whose threads a driver finds by trying.

use crate::job::driver::{Command, Driver, Event};
use crate::scheduler::Why;
use crate::tune::Tuners;
use flexps_common::curve::{Curve, Optimize};
use flexps_common::data::{Facts, InputSpec, schema::DataPath};
use flexps_common::experiment::Experiment;
use flexps_common::ids::{InputId, JobId, SlaveId};
use flexps_common::plan::{Plan, Threads};
use flexps_common::wire::control::Outcome;
use std::collections::BTreeMap;
use std::time::Duration;

const S1: SlaveId = SlaveId(1);

/// A plan of so many rounds of a stage that is tuned, and one that is not.
fn plan(rounds: u64) -> Plan {
    let mut plan = Plan::default();
    plan.body.repeat(rounds, |round| {
        round.stage("tuned", |_| Ok(())).threads(Threads::Auto);
        round.stage("given", |_| Ok(())).threads(Threads::Count(2));
    });
    plan
}

/// Runs a job to its end on one slave of 8 slots, whose tuned stage takes as long as `takes` says of its threads and
/// round; gives these threads.
fn run(driver: &mut Driver, takes: impl Fn(u32, usize) -> f64) -> Vec<u32> {
    let (mut now, mut counts) = (0.0, Vec::new());
    let mut commands = driver.step(Duration::ZERO, Event::Opened);
    loop {
        let at = Duration::from_secs_f64(now);
        match commands.as_slice() {
            [Command::Place { stage, .. }] => {
                let threads = driver.tuners.next(*stage, (1, 8), 8);
                assert_eq!(threads.is_some(), *stage == 0);
                counts.extend(threads);
                let workers = vec![(S1, threads.unwrap_or(2))];
                commands = driver.step(at, Event::Placed(*stage, workers, Why::Wanted));
            }
            [Command::Launch(launch)] => {
                now += if launch.stage == 0 { takes(launch.workers[0].1, counts.len() - 1) } else { 1.0 };
                let ended = Event::StageDone(S1, launch.run, Outcome::default());
                commands = driver.step(Duration::from_secs_f64(now), ended);
            }
            [Command::End(Ok(()))] => return counts,
            other => panic!("{other:?}"),
        }
    }
}

fn driver(plan: &Plan, optimize: Optimize) -> Driver {
    let mut driver = Driver::new(JobId(7), plan, &[(S1, "h1".to_owned())], &Experiment::default());
    driver.tuners = Tuners::of(plan, optimize, BTreeMap::new());
    driver
}

#[test]
fn a_stage_that_repeats_is_tried_on_a_few_counts_and_then_runs_on_the_best() {
    let curve = Curve { work: 4.0, cost: 0.25, fixed: 1.0 };
    let plan = plan(20);
    for (optimize, best) in [(Optimize::Elapsed, 4), (Optimize::WorkerTime, 1)] {
        let mut driver = driver(&plan, optimize);
        let counts = run(&mut driver, |p, _| curve.seconds(p));
        assert_eq!(counts[..4], [8, 8, 1, 3]);
        assert_eq!(counts[4..], [best; 16]);
        let reports = driver.tuners.report();
        let [found] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((found.stage.as_str(), found.threads, found.way.as_str()), ("tuned", best, "auto"));
        assert!((found.expected_seconds.unwrap() - curve.seconds(best)).abs() < 1e-6, "{found:?}");
        assert!(driver.stages.iter().filter(|s| s.name == "given").all(|s| s.threads == 2));
    }
}

#[test]
fn a_stage_is_tried_anew_when_the_world_has_changed() {
    let (before, after) = (Curve { work: 8.0, cost: 0.01, fixed: 0.0 }, Curve { work: 8.0, cost: 2.0, fixed: 0.0 });
    let plan = plan(60);
    let mut driver = driver(&plan, Optimize::Elapsed);
    let counts = run(&mut driver, |p, round| if round < 30 { before.seconds(p) } else { after.seconds(p) });
    assert_eq!(counts[25], 8);
    assert_eq!(counts[50..], [2; 10]);
    assert_eq!(driver.tuners.report()[0].restarts, 1);
}

#[test]
fn runs_beside_the_reading_of_rows_are_not_measured() {
    let mut plan = Plan::default();
    plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    plan.body.repeat(6, |round| {
        round.stage("tuned", |_| Ok(())).threads(Threads::Auto);
    });
    let mut driver = driver(&plan, Optimize::Elapsed);
    let mut commands = driver.step(Duration::ZERO, Event::Opened);
    for round in 0..6u64 {
        let [Command::Place { stage: 0, .. }] = commands.as_slice() else { panic!("{commands:?}") };
        let threads = driver.tuners.next(0, (1, 8), 8).unwrap();
        assert_eq!(threads, [8, 8, 8, 8, 1, 3][round as usize], "round {round}");
        let at = Duration::from_secs(round);
        let launched = driver.step(at, Event::Placed(0, vec![(S1, threads)], Why::Wanted));
        let [Command::Launch(launch)] = launched.as_slice() else { panic!("{launched:?}") };
        if round == 3 {
            assert!(driver.tuners.report().is_empty(), "nothing was measured");
            driver.step(at, Event::Facts(InputId(0), Facts::default()));
        }
        let seconds = Duration::from_secs_f64(8.0 / f64::from(threads));
        commands = driver.step(at + seconds, Event::StageDone(S1, launch.run, Outcome::default()));
    }
    assert_eq!(commands, [Command::End(Ok(()))]);
}
