//! The driver with stages that stand together: events in, commands out.

use crate::job::driver::{Command, Driver, Event};
use crate::scheduler::Why;
use flexps_common::Error;
use flexps_common::experiment::Experiment;
use flexps_common::home::Home;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::metrics::{Metric, Metrics};
use flexps_common::plan::{Flow, Plan, TableOp};
use flexps_common::wire::api::RunningStage;
use flexps_common::wire::control::{Launch, Outcome, TableUse};
use std::time::Duration;

const S1: SlaveId = SlaveId(1);
const S2: SlaveId = SlaveId(2);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two rounds of `left` and `right` side by side, then `sum` behind both, while `loose` waits for none; at the end `last`.
fn driver() -> Driver {
    let mut plan = Plan::default();
    let table = plan.table::<f32>("w", 1);
    plan.body.repeat(2, |round| {
        round.zero(table).together(|group| {
            group.stage("left", |_| Ok(())).updates(table);
            group.stage("right", |_| Ok(()));
            group.stage("sum", |_| Ok(())).after(&["left", "right"]);
            group.stage("loose", |_| Ok(()));
        });
        round.decide(|p| {
            p.objective = Some(p.metric("left", "loss")? + p.metric("loose", "loss")?);
            Ok(Flow::Next)
        });
    });
    plan.body.stage("last", |_| Ok(()));
    plan.check().unwrap();
    let slaves = [(S1, "h1".to_owned()), (S2, "h2".to_owned())];
    Driver::new(JobId(7), &plan, &slaves, &Experiment::default())
}

fn place(stage: u32, after: &[u64]) -> Command {
    Command::Place { stage, after: after.iter().copied().map(StageRun).collect() }
}

fn outcome(loss: f64) -> Outcome {
    let mut metrics = Metrics::default();
    metrics.add("loss", Metric::Sum(loss));
    let tables = vec![TableUse { read_bytes: 6 << 20, written_bytes: 6 << 20, held_bytes: 6 << 20 }];
    Outcome { metrics, tables, ..Outcome::default() }
}

/// Answers the zero of a round; the stages that wait for slots then.
fn zeroed(driver: &mut Driver, commands: &[Command]) -> Vec<Command> {
    let [Command::Ops { phase, ops }] = commands else { panic!("{commands:?}") };
    assert!(matches!(ops[..], [TableOp::Zero { .. }]));
    driver.step(at(0), Event::Numbers(S1, *phase, vec![vec![]]));
    driver.step(at(0), Event::Numbers(S2, *phase, vec![vec![]]))
}

fn launch(driver: &mut Driver, seconds: u64, stage: u32, slave: SlaveId) -> Launch {
    let mut commands = driver.step(at(seconds), Event::Placed(stage, vec![(slave, 1)], Why::Balance));
    match (commands.pop(), commands.len()) {
        (Some(Command::Launch(launch)), 0) => launch,
        other => panic!("{other:?}"),
    }
}

fn done(driver: &mut Driver, seconds: u64, launch: &Launch, loss: f64) -> Vec<Command> {
    driver.step(at(seconds), Event::StageDone(launch.workers[0].0, launch.run, outcome(loss)))
}

#[test]
fn stages_of_a_group_begin_when_those_that_they_name_have_ended_and_the_next_step_when_all_have() {
    let mut driver = driver();
    let mut first = driver.step(at(0), Event::Opened);
    for (round, behind) in [(0, &[][..]), (1, &[1, 2, 3, 4])] {
        let begin = 10 * round;
        assert_eq!(zeroed(&mut driver, &first), [0, 1, 3].map(|stage| place(stage, behind)));
        let left = launch(&mut driver, begin + 1, 0, S1);
        let right = launch(&mut driver, begin + 2, 1, S2);
        assert_eq!((&left.beside, &right.beside), (&vec![], &vec![left.run]));
        assert_eq!(driver.whereabouts(), format!("in stages left, right, loose, epoch {}", round + 1));
        let both = RunningStage { name: "left, right".to_owned(), threads: 2, epoch: round + 1 };
        assert_eq!(driver.running(), Some(both));
        assert!(driver.step(at(begin + 2), Event::Placed(2, vec![(S1, 1)], Why::Balance)).is_empty(), "not its turn");
        assert!(done(&mut driver, begin + 3, &right, 1.0).is_empty());
        let next = done(&mut driver, begin + 4, &left, 2.0);
        assert_eq!(next, [place(2, &[left.run.0, right.run.0])]);
        let sum = launch(&mut driver, begin + 5, 2, S1);
        assert_eq!(sum.beside, []);
        let loose = launch(&mut driver, begin + 6, 3, S2);
        assert_eq!((&loose.beside, loose.run.0), (&vec![sum.run], 4 * round + 4));
        assert!(done(&mut driver, begin + 7, &loose, 4.0).is_empty());
        first = done(&mut driver, begin + 8, &sum, 8.0);
        assert_eq!(driver.epochs.last().and_then(|epoch| epoch.objective), Some(6.0));
    }
    let [Command::Place { stage: 4, .. }] = first[..] else { panic!("{first:?}") };
    let times: Vec<_> =
        driver.stages[..4].iter().map(|stage| (stage.name.as_str(), stage.start, stage.seconds)).collect();
    assert_eq!(times, [("right", 2.0, 1.0), ("left", 1.0, 3.0), ("loose", 6.0, 1.0), ("sum", 5.0, 3.0)]);
}

#[test]
fn the_tables_of_a_group_stay_where_they_are_and_its_runs_share_a_phase() {
    let mut driver = driver();
    let first = driver.step(at(0), Event::Opened);
    zeroed(&mut driver, &first);
    // Alone on one slave, it would have the table brought there.
    let left = launch(&mut driver, 1, 0, S1);
    let right = launch(&mut driver, 1, 1, S2);
    assert_eq!((left.phase, right.phase), (3, 3));
    assert_eq!((left.homes, right.homes), (Some(vec![Home::All]), Some(vec![Home::All])));
    assert!(driver.transfers.is_empty());
}

#[test]
fn the_failure_of_one_stage_cancels_all_that_run_beside_it_and_no_more_begin() {
    let mut driver = driver();
    let first = driver.step(at(0), Event::Opened);
    zeroed(&mut driver, &first);
    let left = launch(&mut driver, 1, 0, S1);
    let right = launch(&mut driver, 1, 1, S2);
    let bad = Outcome { error: Some(Error::user("bad luck")), ..outcome(0.0) };
    let why = || "bad luck".to_owned();
    assert_eq!(
        driver.step(at(2), Event::StageDone(S1, left.run, bad)),
        [Command::CancelStage(left.run, vec![], why()), Command::CancelStage(right.run, vec![S2], why())]
    );
    assert!(driver.step(at(2), Event::Placed(3, vec![(S1, 1)], Why::Balance)).is_empty(), "it ends");
    let stopped = Outcome { error: Some(Error::cancelled()), ..outcome(0.0) };
    assert!(driver.step(at(3), Event::StageDone(S2, left.run, stopped.clone())).is_empty(), "another run's");
    let ended = driver.step(at(3), Event::StageDone(S2, right.run, stopped));
    assert_eq!(ended, [Command::End(Err(Error::user("bad luck")))]);
}

#[test]
fn a_slave_that_goes_ends_its_own_runs_and_the_others_are_waited_for() {
    let mut driver = driver();
    let first = driver.step(at(0), Event::Opened);
    zeroed(&mut driver, &first);
    let left = launch(&mut driver, 1, 0, S1);
    let right = launch(&mut driver, 1, 1, S2);
    let gone = Error::cluster("h1 is gone");
    assert_eq!(
        driver.step(at(2), Event::Gone(S1, gone.clone(), None)),
        [
            Command::CancelStage(left.run, vec![], gone.message.clone()),
            Command::CancelStage(right.run, vec![S2], gone.message.clone())
        ]
    );
    assert_eq!(
        driver.step(at(3), Event::Gone(S2, Error::cluster("h2 too"), None)),
        [Command::End(Err(Error::cluster("h1 is gone; h2 too")))]
    );
}
