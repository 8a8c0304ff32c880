//! The driver: events in, commands out.

use crate::job::driver::{Command, Driver, Event, STOP_WITHIN};
use crate::scheduler::Why;
use flexps_common::data::{Facts, InputSpec, schema::DataPath};
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun, TableId};
use flexps_common::metrics::{Metric, Metrics};
use flexps_common::pace::Pace;
use flexps_common::plan::{Flow, Input, LoadSpec, Plan, SaveSpec, TableOp, Threads};
use flexps_common::wire::control::Outcome;
use flexps_common::{Error, Result};
use std::time::Duration;

const S1: SlaveId = SlaveId(1);
const S2: SlaveId = SlaveId(2);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn driver(plan: &Plan) -> Driver {
    Driver::new(JobId(7), plan, &[(S1, "h1".to_owned()), (S2, "h2".to_owned())], &Experiment::default())
}

fn input(plan: &mut Plan) -> flexps_common::plan::Input {
    plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap()
}

fn outcome(loss: f64) -> Outcome {
    let mut metrics = Metrics::default();
    metrics.add("loss", Metric::Sum(loss));
    Outcome {
        error: None,
        metrics,
        worker_seconds: 2.0,
        wait_seconds: 0.5,
        bytes_sent: 10,
        bytes_received: 20,
        rows: 100,
        pace: Pace {
            worker_waits: vec![loss],
            worker_slept: vec![2.0],
            lead: vec![4, 2],
            most_lead: 1,
            conflicts: 3,
            control_messages: 5,
            control_bytes: 50,
        },
        ..Outcome::default()
    }
}

fn failed(message: &str) -> Outcome {
    Outcome { error: Some(Error::user(message)), ..outcome(0.0) }
}

/// Slots are wanted for a stage that had to wait for these runs.
fn place(stage: u32, after: &[u64]) -> Command {
    Command::Place { stage, after: after.iter().copied().map(StageRun).collect() }
}

/// Runs a stage that has just been asked for, on both slaves; gives what follows.
fn run_stage(driver: &mut Driver, stage: u32, seconds: u64, losses: [f64; 2]) -> Vec<Command> {
    let launched = driver.step(at(seconds), Event::Placed(stage, vec![(S1, 2), (S2, 1)], Why::Balance));
    let [Command::Launch(launch)] = launched.as_slice() else { panic!("{launched:?}") };
    let run = launch.run;
    assert!(driver.step(at(seconds), Event::StageDone(S2, run, outcome(losses[1]))).is_empty());
    driver.step(at(seconds), Event::StageDone(S1, run, outcome(losses[0])))
}

#[test]
fn stages_run_one_after_the_other_and_the_job_ends() {
    let mut plan = Plan::default();
    plan.body.stage("a", |_| Ok(()));
    plan.body.stage("b", |_| Ok(()));
    let mut driver = driver(&plan);
    assert_eq!(driver.step(at(0), Event::Opened), [place(0, &[])]);
    assert_eq!(run_stage(&mut driver, 0, 1, [0.0, 0.0]), [place(1, &[1])]);
    assert_eq!(run_stage(&mut driver, 1, 2, [0.0, 0.0]), [Command::End(Ok(()))]);
    let b = &driver.stages[1];
    assert_eq!((b.name.as_str(), b.epoch, b.threads, b.slaves.join(" ")), ("b", 1, 3, "h1 h2".to_owned()));
    assert_eq!((b.worker_seconds, b.wait_seconds, b.bytes_sent, b.bytes_received, b.rows), (4.0, 1.0, 20, 40, 200));
    let pace = Pace {
        worker_waits: vec![0.0; 2],
        worker_slept: vec![2.0; 2],
        lead: vec![8, 4],
        most_lead: 1,
        conflicts: 6,
        control_messages: 10,
        control_bytes: 100,
    };
    assert_eq!(b.pace, pace);
}

#[test]
fn metrics_merge_in_shard_order_whoever_answers_first() {
    // In the other order the sum would be 0.
    let losses = [1.0, 1e16];
    let mut plan = Plan::default();
    plan.body.stage("a", |_| Ok(()));
    plan.body.stage("a", |_| Ok(()));
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    run_stage(&mut driver, 0, 0, losses);
    let first = driver.progress.metric("a", "loss").unwrap();
    driver.step(at(0), Event::Placed(1, vec![(S1, 1), (S2, 1)], Why::Balance));
    driver.step(at(0), Event::StageDone(S1, StageRun(2), outcome(losses[0])));
    driver.step(at(0), Event::StageDone(S2, StageRun(2), outcome(losses[1])));
    assert_eq!(driver.progress.metric("a", "loss").unwrap().to_bits(), first.to_bits());
}

#[test]
fn operations_in_a_row_are_one_message_and_norms_add_up() {
    let mut plan = Plan::default();
    let [t, u] = ["t", "u"].map(|name| plan.table::<f32>(name, 1));
    plan.body.copy(t, u).zero(t).norm2(u, "norm");
    let mut driver = driver(&plan);
    let commands = driver.step(at(0), Event::Opened);
    let [Command::Ops { phase, ops }] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(ops.len(), 3);
    let phase = *phase;
    assert!(driver.step(at(0), Event::Numbers(S2, phase, vec![vec![], vec![], vec![(1, 9.0)]])).is_empty());
    assert!(driver.step(at(0), Event::Numbers(S1, phase + 1, vec![vec![]])).is_empty(), "an answer of another message");
    assert_eq!(
        driver.step(at(0), Event::Numbers(S1, phase, vec![vec![], vec![], vec![(0, 16.0)]])),
        [Command::End(Ok(()))]
    );
    assert_eq!(driver.progress.scalar("norm", 0.0), 25.0);
}

#[test]
fn what_stops_a_repeat_within_another_is_not_what_ended_the_job() {
    let mut plan = Plan::default();
    plan.body.repeat(2, |outer| {
        outer.repeat(10, |inner| {
            inner.stage("s", |_| Ok(()));
            inner.decide(|_| Ok(Flow::Stop("inner".to_owned())));
        });
    });
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    assert_eq!(run_stage(&mut driver, 0, 1, [0.0, 0.0]), [place(0, &[1])]);
    assert_eq!(run_stage(&mut driver, 0, 2, [0.0, 0.0]), [Command::End(Ok(()))]);
    assert_eq!((driver.stopped.as_deref(), driver.epochs.len()), (None, 2));
}

#[test]
fn rounds_repeat_until_a_decision_stops_them_and_are_in_the_report() {
    let mut plan = Plan::default();
    plan.body.repeat(10, |epoch| {
        epoch.stage("s", |_| Ok(()));
        epoch.decide(|p| {
            let loss = p.metric("s", "loss")?;
            p.objective = Some(loss);
            p.epoch_metrics.insert("auc".to_owned(), 0.5);
            Ok(if p.epoch == 2 { Flow::Stop("enough".to_owned()) } else { Flow::Next })
        });
    });
    plan.body.stage("last", |_| Ok(()));
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    for round in 0..2 {
        assert_eq!(run_stage(&mut driver, 0, round + 1, [round as f64, 0.0]), [place(0, &[round + 1])]);
    }
    assert_eq!(run_stage(&mut driver, 0, 3, [2.0, 0.0]), [place(1, &[3])]);
    assert_eq!(driver.stopped.as_deref(), Some("enough"));
    let epochs: Vec<_> = driver.epochs.iter().map(|e| (e.epoch, e.seconds, e.objective, e.metrics["auc"])).collect();
    assert_eq!(epochs, [(1, 1.0, Some(0.0), 0.5), (2, 2.0, Some(1.0), 0.5), (3, 3.0, Some(2.0), 0.5)]);
}

#[test]
fn a_round_that_is_made_again_is_not_counted() {
    let mut plan = Plan::default();
    plan.scalars.insert("step".to_owned(), 8.0);
    let (t, u) = (plan.table::<f32>("t", 1), plan.table::<f32>("u", 1));
    plan.body.repeat(1, |epoch| {
        epoch.stage("s", |_| Ok(()));
        epoch.decide(move |p| {
            if p.metric("s", "loss")? < 5.0 {
                return Ok(Flow::Next);
            }
            p.set("step", p.scalar("step", 0.0) / 2.0);
            p.copy(t, u);
            Ok(Flow::Again)
        });
    });
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    let commands = run_stage(&mut driver, 0, 1, [5.0, 1.0]);
    let [Command::Ops { phase, ops }] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(ops, &[TableOp::Copy { from: TableId(0), to: TableId(1) }]);
    let phase = *phase;
    driver.step(at(1), Event::Numbers(S1, phase, vec![vec![]]));
    assert_eq!(driver.step(at(1), Event::Numbers(S2, phase, vec![vec![]])), [place(0, &[1])]);
    assert_eq!(driver.progress.epoch, 0);
    assert_eq!(run_stage(&mut driver, 0, 2, [0.0, 1.0]), [Command::End(Ok(()))]);
    assert_eq!((driver.epochs.len(), driver.progress.scalar("step", 0.0)), (1, 4.0));
}

#[test]
fn nested_rounds_count_for_themselves() {
    let mut plan = Plan::default();
    plan.body.repeat(2, |outer| {
        outer.repeat(3, |inner| {
            inner.stage("in", |_| Ok(()));
        });
        outer.stage("out", |_| Ok(()));
        outer.repeat(0, |never| {
            never.stage("never", |_| Ok(()));
        });
    });
    let mut driver = driver(&plan);
    let mut commands = driver.step(at(0), Event::Opened);
    while let [Command::Place { stage, .. }] = commands[..] {
        commands = run_stage(&mut driver, stage, 1, [0.0, 0.0]);
    }
    assert_eq!(commands, [Command::End(Ok(()))]);
    let runs: Vec<_> = driver.stages.iter().map(|s| (s.name.as_str(), s.epoch)).collect();
    let round = |n| [("in", 1), ("in", 2), ("in", 3), ("out", n)];
    assert_eq!(runs, [round(1), round(2)].concat());
    assert_eq!(driver.epochs.len(), 2);
}

#[test]
fn decisions_and_the_end_wait_for_the_facts_of_all_inputs() {
    let mut plan = Plan::default();
    let rows = input(&mut plan);
    plan.body.stage("a", |_| Ok(())).input(rows);
    plan.body.decide(|p| {
        let rows = p.facts[0].as_ref().map_or(0, |f| f.rows);
        p.set("rows", rows as f64);
        Ok(Flow::Next)
    });
    let mut driver = driver(&plan);
    assert_eq!(driver.step(at(0), Event::Opened), [place(0, &[])]);
    assert!(run_stage(&mut driver, 0, 1, [0.0, 0.0]).is_empty(), "the input is still being read");
    let facts = Facts { rows: 5, ..Facts::default() };
    assert_eq!(driver.step(at(2), Event::Facts(InputId(0), facts)), [Command::End(Ok(()))]);
    assert_eq!(driver.progress.scalar("rows", 0.0), 5.0);
}

#[test]
fn the_model_is_saved_at_the_end_and_a_failure_to_save_fails_the_job() {
    let mut plan = Plan::default();
    let rows = input(&mut plan);
    plan.save(SaveSpec { path: DataPath("/m".to_owned()), overwrite: false, tensors: Vec::new(), input: rows.id });
    for result in [Ok(()), Err(Error::cluster("the disk is full"))] {
        let mut driver = driver(&plan);
        assert!(driver.step(at(0), Event::Opened).is_empty());
        assert_eq!(driver.step(at(1), Event::Facts(InputId(0), Facts::default())), [Command::Save]);
        assert_eq!(driver.step(at(2), Event::Saved(result.clone())), [Command::End(result)]);
    }
}

#[test]
fn a_model_is_loaded_into_a_table_that_was_set_to_zero() {
    let mut plan = Plan::default();
    let t = plan.table::<f32>("t", 1);
    let model = DataPath("/m".to_owned());
    plan.body.load(t, &model, "weights", Input { id: InputId(0) });
    let mut driver = driver(&plan);
    let commands = driver.step(at(0), Event::Opened);
    let [Command::Ops { phase, ops }] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(ops, &[TableOp::Zero { table: t.id }]);
    let phase = *phase;
    driver.step(at(0), Event::Numbers(S1, phase, vec![vec![]]));
    let load = Command::Load(LoadSpec { table: t.id, model, tensor: "weights".to_owned(), input: InputId(0) });
    assert_eq!(driver.step(at(0), Event::Numbers(S2, phase, vec![vec![]])), [load]);
    assert_eq!(driver.step(at(0), Event::Loaded(Ok(()))), [Command::End(Ok(()))]);
}

fn one_stage() -> (Driver, StageRun) {
    let mut plan = Plan::default();
    plan.body.stage("s", |_| Ok(()));
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    driver.step(at(0), Event::Placed(0, vec![(S1, 1), (S2, 1)], Why::Balance));
    (driver, StageRun(1))
}

#[test]
fn an_error_cancels_the_siblings_and_the_job_fails_with_the_first_error() {
    let (mut driver, run) = one_stage();
    let commands = driver.step(at(1), Event::StageDone(S2, run, failed("worker 1: bad luck")));
    assert_eq!(commands, [Command::CancelStage(run, vec![S1], "worker 1: bad luck".to_owned())]);
    let commands = driver.step(at(2), Event::StageDone(S1, run, failed("cancelled")));
    assert_eq!(commands, [Command::End(Err(Error::user("worker 1: bad luck")))]);
    assert!(driver.step(at(3), Event::Fail(Error::cancelled())).is_empty(), "it has ended");
}

#[test]
fn workers_that_do_not_stop_are_waited_for_so_long_and_named() {
    let (mut driver, _) = one_stage();
    driver.step(at(1), Event::Fail(Error::cancelled()));
    assert!(driver.step(at(1) + STOP_WITHIN - Duration::from_millis(1), Event::Tick).is_empty());
    let commands = driver.step(at(1) + STOP_WITHIN, Event::Tick);
    let [Command::End(Err(error))] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(error.fault == Fault::Cancelled && error.message.contains("h1, h2 did not stop"), "{error}");
}

#[test]
fn a_gone_slave_fails_the_job_by_name_even_when_a_broken_connection_was_seen_first() {
    let gone = Error::cluster("slave s2 (h2) is gone (connection closed) in stage s, epoch 1");
    let (mut driver, run) = one_stage();
    assert_eq!(driver.whereabouts(), "in stage s, epoch 1");
    let cancel = Command::CancelStage(run, vec![S1], gone.message.clone());
    assert_eq!(driver.step(at(1), Event::Gone(S2, gone.clone(), None)), [cancel], "the dead one is not waited for");
    let commands = driver.step(at(2), Event::StageDone(S1, run, failed("cancelled")));
    assert_eq!(commands, [Command::End(Err(gone.clone()))]);

    let (mut driver, run) = one_stage();
    let broken = Outcome { error: Some(Error::cluster("the connection to h2 is closed")), ..outcome(0.0) };
    driver.step(at(1), Event::StageDone(S1, run, broken));
    assert_eq!(driver.step(at(2), Event::Gone(S2, gone.clone(), None)), [Command::End(Err(gone))]);
}

#[test]
fn a_job_can_be_cancelled_wherever_it_is() {
    let cancelled = Command::End(Err(Error::cancelled()));
    let mut plan = Plan::default();
    let rows = input(&mut plan);
    let t = plan.table::<f32>("t", 1);
    plan.body.zero(t).stage("s", |_| Ok(())).input(rows);
    plan.save(SaveSpec { path: DataPath("/m".to_owned()), overwrite: false, tensors: Vec::new(), input: rows.id });
    let to = |steps: usize| {
        let mut driver = driver(&plan);
        let events = [
            Event::Opened,
            Event::Numbers(S1, 2, vec![vec![]]),
            Event::Numbers(S2, 2, vec![vec![]]),
            Event::Placed(0, vec![(S1, 1)], Why::Balance),
            Event::Sent(S1, 3, Ok(Vec::new())),
            Event::Sent(S2, 3, Ok(Vec::new())),
            Event::StageDone(S1, StageRun(1), outcome(0.0)),
            Event::Facts(InputId(0), Facts::default()),
        ];
        for event in events.into_iter().take(steps) {
            driver.step(at(0), event);
        }
        driver
    };
    // Opening, changing tables, waiting for slots, reading: nothing runs that must stop first.
    for steps in [0, 1, 2, 3, 7] {
        let mut driver = to(steps);
        assert_eq!(driver.step(at(1), Event::Fail(Error::cancelled())), [cancelled_copy(&cancelled)], "{steps}");
    }
    // While the model moves to it, and behind that.
    for steps in [4, 5, 6] {
        let commands = to(steps).step(at(1), Event::Fail(Error::cancelled()));
        assert_eq!(commands, [Command::CancelStage(StageRun(1), vec![S1], "cancelled".to_owned())], "{steps}");
    }
    let mut saving = to(8);
    assert_eq!(saving.step(at(1), Event::Fail(Error::cancelled())), [Command::StopTransfer]);
    assert_eq!(saving.step(at(1), Event::Saved(Err(Error::cancelled()))), [cancelled]);
}

fn cancelled_copy(command: &Command) -> Command {
    let Command::End(result) = command else { panic!("{command:?}") };
    Command::End(result.clone())
}

#[test]
fn a_model_that_was_saved_before_the_cancel_came_is_a_job_that_is_done() {
    let mut plan = Plan::default();
    let rows = input(&mut plan);
    plan.save(SaveSpec { path: DataPath("/m".to_owned()), overwrite: false, tensors: Vec::new(), input: rows.id });
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    driver.step(at(0), Event::Facts(InputId(0), Facts::default()));
    driver.step(at(0), Event::Fail(Error::cancelled()));
    assert_eq!(driver.step(at(0), Event::Saved(Ok(()))), [Command::End(Ok(()))]);
}

#[test]
fn a_metric_that_slaves_report_as_different_kinds_ends_the_job_and_is_named() {
    let mut plan = Plan::default();
    plan.body.stage("a", |_| Ok(()));
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    driver.step(at(0), Event::Placed(0, vec![(S1, 1), (S2, 1)], Why::Balance));
    driver.step(at(0), Event::StageDone(S1, StageRun(1), outcome(1.0)));
    let mut other = outcome(1.0);
    other.metrics = Metrics::default();
    other.metrics.add("loss", Metric::Count(1));
    let commands = driver.step(at(0), Event::StageDone(S2, StageRun(1), other));
    let [Command::End(Err(error))] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(error.message.starts_with("stage a: metric loss is reported as values of several kinds"), "{error}");
}

#[test]
fn a_decision_that_panics_or_asks_for_what_is_not_there_is_an_error_of_the_plan() {
    type Decide = fn(&mut flexps_common::plan::Progress) -> Result<Flow>;
    let cases: [(Decide, &str); 2] = [
        (|_| panic!("no such metric"), "panicked: no such metric"),
        (|p| p.metric("x", "y").map(|_| Flow::Next), "stage x reported no y"),
    ];
    for (decide, says) in cases {
        let mut plan = Plan::default();
        plan.body.repeat(u64::MAX, |epoch| {
            epoch.decide(decide);
        });
        let commands = driver(&plan).step(at(0), Event::Opened);
        let [Command::End(Err(error))] = commands.as_slice() else { panic!("{commands:?}") };
        assert!(error.fault == Fault::Bug && error.message.contains(says), "{error}");
    }
}

#[test]
fn a_stage_that_visits_slaves_knows_where_it_was_until_it_was_everywhere() {
    let mut plan = Plan::default();
    plan.body.repeat(4, |round| {
        round.stage("visit", |_| Ok(())).threads(Threads::Visit(1));
        round.stage("given", |_| Ok(())).threads(Threads::Count(1));
    });
    let mut driver = driver(&plan);
    driver.step(at(0), Event::Opened);
    for (slave, visited) in [(S2, vec![S2]), (S1, vec![]), (S1, vec![S1]), (S2, vec![])] {
        for stage in 0..2 {
            let launched = driver.step(at(0), Event::Placed(stage, vec![(slave, 1)], Why::Balance));
            let [Command::Launch(launch)] = launched.as_slice() else { panic!("{launched:?}") };
            assert_eq!((launch.stage, driver.visited(0), driver.visited(1)), (stage, &visited[..], &[][..]));
            driver.step(at(0), Event::StageDone(slave, launch.run, outcome(0.0)));
        }
    }
}

#[test]
fn a_plan_that_goes_round_without_work_is_ended_whatever_it_is_made_of() {
    let mut waits = Plan::default();
    waits.body.repeat(u64::MAX, |round| {
        round.when("never", 1.0, |body| _ = body.stage("s", |_| Ok(())));
    });
    let mut decides = Plan::default();
    decides.body.repeat(u64::MAX, |round| _ = round.decide(|_| Ok(Flow::Again)));
    for plan in [waits, decides] {
        let commands = driver(&plan).step(at(0), Event::Opened);
        let [Command::End(Err(error))] = commands.as_slice() else { panic!("{commands:?}") };
        assert!(error.fault == Fault::User && error.message.contains("without a stage"), "{error}");
    }
}
