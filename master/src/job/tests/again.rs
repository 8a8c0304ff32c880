//! A slave goes while a job reads: the driver stops what runs and begins anew.

use crate::job::driver::{Anew, Command, Driver, Event, STOP_WITHIN};
use crate::scheduler::Why;
use flexps_common::Error;
use flexps_common::data::{Facts, InputSpec, schema::DataPath};
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::plan::{Flow, LoadSpec, Plan, TableOp};
use flexps_common::wire::control::{Outcome, SILENCE_MS};
use std::time::Duration;

const S1: SlaveId = SlaveId(1);
const S2: SlaveId = SlaveId(2);
const S3: SlaveId = SlaveId(3);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn named(slaves: &[SlaveId]) -> Vec<(SlaveId, String)> {
    slaves.iter().map(|id| (*id, format!("h{}", id.0))).collect()
}

fn driver(plan: &Plan) -> Driver {
    Driver::new(JobId(7), plan, &named(&[S1, S2, S3]), &Experiment::default())
}

/// A round of a stage over rows and one behind it, then a decision that counts its rows.
fn plan() -> Plan {
    let mut plan = Plan::default();
    let rows = plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    let t = plan.table::<f32>("t", 1);
    plan.scalars.insert("decisions".to_owned(), 0.0);
    plan.body.zero(t);
    plan.body.repeat(1, |epoch| {
        epoch.stage("rows", |_| Ok(())).input(rows);
        epoch.stage("behind", |_| Ok(()));
        epoch.decide(|p| {
            p.set("decisions", p.scalar("decisions", 0.0) + 1.0);
            Ok(Flow::Next)
        });
    });
    plan
}

/// Opens a job and changes its table; the phase in which that is done.
fn opened(driver: &mut Driver, slaves: &[SlaveId], now: u64) -> u64 {
    let commands = driver.step(at(now), Event::Opened);
    let [Command::Ops { phase, ops }] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(ops, &[TableOp::Zero { table: flexps_common::ids::TableId(0) }]);
    let mut placed = Vec::new();
    for slave in slaves {
        placed = driver.step(at(now), Event::Numbers(*slave, *phase, vec![vec![]]));
    }
    assert_eq!(placed, [Command::Place { stage: 0, after: Vec::new() }]);
    *phase
}

/// Launches a stage that was asked for, with a worker on each of these slaves.
fn launch(driver: &mut Driver, stage: u32, slaves: &[SlaveId], now: u64) -> StageRun {
    let workers = slaves.iter().map(|id| (*id, 1)).collect();
    let commands = driver.step(at(now), Event::Placed(stage, workers, Why::Balance));
    let [Command::Launch(launch)] = commands.as_slice() else { panic!("{commands:?}") };
    launch.run
}

fn broken() -> Error {
    Error::cluster("the connection to h3 is closed").retryable()
}

fn ended(error: Option<Error>) -> Outcome {
    Outcome { error, log: vec!["a line".to_owned()], ..Outcome::default() }
}

fn gone(slave: SlaveId) -> Error {
    Error::cluster(format!("slave {slave} is gone"))
}

/// A job whose first stage runs while rows are read.
fn reading() -> (Driver, StageRun, u64) {
    let mut driver = driver(&plan());
    let phase = opened(&mut driver, &[S1, S2, S3], 0);
    let run = launch(&mut driver, 0, &[S1, S2, S3], 0);
    (driver, run, phase)
}

/// From the order to begin anew on two slaves to the end.
#[track_caller]
fn goes_on(mut driver: Driver, commands: Vec<Command>, before: (StageRun, u64)) {
    assert_eq!(commands, [Command::Again(Anew::Plan)]);
    driver.begin_anew(&plan(), &named(&[S1, S2]), &Experiment::default());
    assert!(driver.stages.is_empty() && driver.failed_log.is_none());
    let phase = opened(&mut driver, &[S1, S2], 5);
    let run = launch(&mut driver, 0, &[S1, S2], 5);
    assert!(run > before.0 && phase > before.1, "what comes late of those before belongs to none");
    assert!(driver.step(at(5), Event::StageDone(S1, before.0, ended(Some(broken())))).is_empty());
    assert!(driver.step(at(5), Event::StageDone(S1, run, ended(None))).is_empty());
    let placed = driver.step(at(6), Event::StageDone(S2, run, ended(None)));
    assert_eq!(placed, [Command::Place { stage: 1, after: vec![run] }]);
    let run = launch(&mut driver, 1, &[S1, S2], 6);
    assert!(driver.step(at(7), Event::StageDone(S1, run, ended(None))).is_empty());
    assert!(driver.step(at(7), Event::StageDone(S2, run, ended(None))).is_empty(), "it is still being read");
    assert!(driver.may_begin_anew());
    assert_eq!(driver.step(at(8), Event::Facts(InputId(0), Facts::default())), [Command::End(Ok(()))]);
    assert_eq!((driver.progress.scalar("decisions", 0.0), driver.stages.len(), driver.epochs.len()), (1.0, 2, 1));
    assert_eq!(driver.epochs[0].seconds, 8.0, "time counts from the first beginning");
}

#[test]
fn a_slave_that_goes_while_rows_are_read_has_the_plan_begin_anew_when_the_others_have_stopped() {
    let (mut driver, run, phase) = reading();
    assert!(driver.may_begin_anew());
    let commands = driver.step(at(1), Event::Gone(S3, gone(S3), Some(Anew::Plan)));
    assert_eq!(commands, [Command::CancelStage(run, vec![S1, S2], gone(S3).message)]);
    assert!(driver.step(at(1), Event::StageDone(S2, run, ended(Some(Error::cancelled())))).is_empty());
    let commands = driver.step(at(2), Event::StageDone(S1, run, ended(Some(Error::cancelled()))));
    goes_on(driver, commands, (run, phase));
}

#[test]
fn a_connection_that_broke_first_is_no_end_when_a_slave_turns_out_to_be_gone() {
    let (mut driver, run, phase) = reading();
    let commands = driver.step(at(1), Event::StageDone(S1, run, ended(Some(broken()))));
    assert_eq!(commands, [Command::CancelStage(run, vec![S2, S3], broken().message)]);
    assert!(driver.step(at(1), Event::StageDone(S2, run, ended(Some(broken())))).is_empty());
    // What was asked of it meanwhile fails too.
    assert!(driver.step(at(1), Event::Fail(broken())).is_empty() && driver.may_begin_anew());
    let commands = driver.step(at(2), Event::Gone(S3, gone(S3), Some(Anew::Plan)));
    goes_on(driver, commands, (run, phase));
}

#[test]
fn a_connection_that_broke_while_no_slave_turns_out_to_be_gone_fails_the_job_a_little_later() {
    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::StageDone(S1, run, ended(Some(broken()))));
    for slave in [S2, S3] {
        assert!(driver.step(at(1), Event::StageDone(slave, run, ended(Some(Error::cancelled())))).is_empty());
    }
    assert!(driver.step(at(1) + Duration::from_millis(SILENCE_MS), Event::Tick).is_empty());
    assert_eq!(driver.step(at(1) + STOP_WITHIN, Event::Tick), [Command::End(Err(broken()))]);
}

#[test]
fn slaves_that_all_dropped_a_job_are_waited_for_until_they_turn_out_to_be_gone() {
    let dropped = || Error::cluster("the master is gone").retryable();
    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::StageDone(S1, run, ended(Some(dropped()))));
    assert!(driver.step(at(1), Event::Unread(S1, dropped())).is_empty() && driver.may_begin_anew());
    driver.step(at(2), Event::Gone(S1, gone(S1), Some(Anew::Plan)));
    // The next one has not registered anew yet.
    driver.step(at(2), Event::StageDone(S2, run, ended(Some(dropped()))));
    assert!(driver.step(at(2), Event::Unread(S2, dropped())).is_empty() && driver.may_begin_anew());
    assert!(driver.step(at(2), Event::StageDone(S3, run, ended(Some(dropped())))).is_empty());
    assert_eq!(driver.step(at(3), Event::Gone(S2, gone(S2), Some(Anew::Job))), [Command::Again(Anew::Job)]);
}

#[test]
fn a_plan_does_not_begin_anew_on_a_slave_that_reads_no_more() {
    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::StageDone(S1, run, ended(Some(broken()))));
    driver.step(at(1), Event::Unread(S2, broken()));
    driver.step(at(1), Event::StageDone(S2, run, ended(Some(Error::cancelled()))));
    assert!(driver.step(at(2), Event::Gone(S3, gone(S3), Some(Anew::Plan))).is_empty(), "the second may be gone too");
    assert_eq!(driver.step(at(2) + STOP_WITHIN, Event::Tick), [Command::End(Err(gone(S3)))]);
}

#[test]
fn what_no_slave_that_goes_can_have_caused_ends_the_job_at_once() {
    for error in [Error::data("a bad row"), Error::cancelled(), Error::cluster("another build")] {
        let (mut driver, run, _) = reading();
        driver.step(at(1), Event::StageDone(S1, run, ended(Some(error.clone()))));
        assert!(!driver.may_begin_anew(), "{error}");
        driver.step(at(1), Event::StageDone(S2, run, ended(Some(Error::cancelled()))));
        let commands = driver.step(at(1), Event::StageDone(S3, run, ended(Some(Error::cancelled()))));
        assert_eq!(commands, [Command::End(Err(error))]);
    }
}

#[test]
fn a_job_that_stops_to_begin_anew_can_be_cancelled_and_lose_one_more() {
    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::Gone(S3, gone(S3), Some(Anew::Plan)));
    assert!(driver.step(at(1), Event::Fail(Error::cancelled())).is_empty(), "its workers have not stopped");
    driver.step(at(1), Event::StageDone(S1, run, ended(Some(Error::cancelled()))));
    let commands = driver.step(at(1), Event::StageDone(S2, run, ended(Some(Error::cancelled()))));
    assert_eq!(commands, [Command::End(Err(Error::cancelled()))]);

    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::Gone(S3, gone(S3), Some(Anew::Plan)));
    driver.step(at(1), Event::StageDone(S1, run, ended(Some(Error::cancelled()))));
    assert_eq!(driver.step(at(1), Event::Gone(S2, gone(S2), Some(Anew::Plan))), [Command::Again(Anew::Plan)]);
    driver.begin_anew(&plan(), &named(&[S1]), &Experiment::default());
    // It is being opened again.
    assert_eq!(driver.step(at(2), Event::Gone(S1, gone(S1), None)), [Command::End(Err(gone(S1)))]);

    let (mut driver, _, _) = reading();
    driver.step(at(1), Event::Gone(S3, gone(S3), Some(Anew::Plan)));
    let commands = driver.step(at(1) + STOP_WITHIN, Event::Tick);
    let [Command::End(Err(error))] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(error.fault == Fault::Cluster && error.message.contains("h1, h2 did not stop"), "{error}");
}

#[test]
fn a_slave_that_goes_when_all_is_read_fails_the_job_by_name() {
    let (mut driver, run, _) = reading();
    driver.step(at(1), Event::Facts(InputId(0), Facts::default()));
    assert!(!driver.may_begin_anew());
    driver.step(at(2), Event::Gone(S3, gone(S3), None));
    driver.step(at(2), Event::StageDone(S1, run, ended(Some(Error::cancelled()))));
    let commands = driver.step(at(2), Event::StageDone(S2, run, ended(Some(Error::cancelled()))));
    assert_eq!(commands, [Command::End(Err(gone(S3)))]);
}

#[test]
fn a_load_is_stopped_before_the_plan_begins_anew_and_made_again() {
    let mut plan = Plan::default();
    let input = plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    let t = plan.table::<f32>("t", 1);
    let model = DataPath("/m".to_owned());
    plan.body.load(t, &model, "weights", input);
    let mut driver = driver(&plan);
    let loads = |driver: &mut Driver, slaves: &[SlaveId]| {
        let [Command::Ops { phase, .. }] = driver.step(at(0), Event::Opened)[..] else {
            panic!("no table is set to zero")
        };
        let mut commands = Vec::new();
        for slave in slaves {
            commands.extend(driver.step(at(0), Event::Numbers(*slave, phase, vec![vec![]])));
        }
        let load = LoadSpec { table: t.id, model: model.clone(), tensor: "weights".to_owned(), input: input.id };
        assert_eq!(commands, [Command::Load(load)]);
    };
    loads(&mut driver, &[S1, S2, S3]);
    assert_eq!(driver.step(at(1), Event::Gone(S3, gone(S3), Some(Anew::Plan))), [Command::StopTransfer]);
    assert_eq!(driver.step(at(1), Event::Loaded(Err(Error::cancelled()))), [Command::Again(Anew::Plan)]);
    driver.begin_anew(&plan, &named(&[S1, S2]), &Experiment::default());
    loads(&mut driver, &[S1, S2]);
}
