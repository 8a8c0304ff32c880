//! Where tables live: what is chosen for which stage, and how a driver brings it about.

use crate::job::driver::{Command, Driver, Event, STOP_WITHIN};
use crate::job::homes::{Choice, Homes};
use crate::scheduler::Why;
use flexps_common::experiment::Experiment;
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::{JobId, SlaveId, StageRun, TableId};
use flexps_common::plan::{Plan, TableOp};
use flexps_common::report::{Access, TransferReport, Way};
use flexps_common::wire::control::{Launch, Outcome, TableUse};
use flexps_common::wire::moved::{Copies, Sent};
use flexps_common::{Error, Result};
use std::time::Duration;

const WIDE: u32 = 0;
const NARROW: u32 = 1;
const READING: u32 = 2;
const MB: u64 = 1 << 20;

/// What a slave's workers read and wrote of the only table, of which it serves `held`.
fn used(read: u64, written: u64, held: u64) -> Outcome {
    let tables = vec![TableUse { read_bytes: read, written_bytes: written, held_bytes: held }];
    Outcome { tables, ..Outcome::default() }
}

/// A table of 12 MB on `shards` slaves, after a wide stage on all that read and wrote all of it.
fn wide(shards: u32) -> Homes {
    let mut homes = Homes::new(1, shards as usize);
    assert!(homes.choose(WIDE, &(0..shards).collect::<Vec<_>>(), &[], None).moved.is_empty());
    let outcome = used(12 * MB, 12 * MB, 12 * MB / u64::from(shards));
    homes.ended(WIDE, 1, (0..shards).map(|shard| (shard, &outcome)));
    homes
}

#[test]
fn nothing_moves_to_few_slaves_while_nobody_knows_how_large_a_filled_table_is() {
    let mut homes = Homes::new(2, 3);
    let moved = |homes: &Homes| homes.choose(NARROW, &[1], &[], None).moved.len();
    assert_eq!(moved(&homes), 2, "empty ones go for nothing");
    homes.filled(Some(TableId(0)));
    assert_eq!(moved(&homes), 0);
    let told = TableUse { read_bytes: 12 * MB, written_bytes: 12 * MB, held_bytes: 4 * MB };
    let outcome = Outcome { tables: vec![told; 2], ..Outcome::default() };
    homes.ended(WIDE, 1, (0..3).map(|shard| (shard, &outcome)));
    assert_eq!(moved(&homes), 2);
}

#[test]
fn a_stage_on_one_slave_that_works_on_all_of_a_table_gets_it_and_keeps_it_while_few_others_want_it() {
    for (shards, goes_back) in [(2, false), (3, false), (6, true)] {
        let mut homes = wide(shards);
        let one = Home::on(&[1], shards as usize);
        let choice = homes.choose(NARROW, &[1], &[], None);
        assert_eq!((choice.homes.as_slice(), choice.moved.as_slice()), (&[one.clone()][..], &[0][..]), "{shards}");
        let expected = 12.0 * MB as f64 * f64::from(shards - 1) / f64::from(shards);
        assert!((choice.moving - expected).abs() < 1.0, "{shards}: {choice:?}");
        assert!(choice.busiest[0] <= choice.busiest[1], "{choice:?}");
        homes.begin(2, choice, &[1]);
        homes.ended(NARROW, 2, [(1, &used(12 * MB, 12 * MB, 12 * MB))].into_iter());
        assert!(homes.choose(NARROW, &[1], &[], None).moved.is_empty(), "it is there");
        let access = |stage, threads| homes.access(stage, threads).access;
        assert_eq!(
            (access(NARROW, 1), access(NARROW, 4), access(WIDE, shards)),
            (Access::Own, Access::Shared, Access::Shards)
        );
        // Many slaves would all go through the one: from some number on the table is spread again.
        let choice = homes.choose(WIDE, &(0..shards).collect::<Vec<_>>(), &[], None);
        assert_eq!(!choice.moved.is_empty(), goes_back, "{shards}: {choice:?}");
        assert_eq!(choice.homes[0] == Home::All, goes_back);
    }
}

#[test]
fn a_stage_that_touches_little_reaches_for_it_over_the_network() {
    let mut homes = wide(3);
    homes.ended(NARROW, 2, [(1, &used(1000, 1000, 4 * MB))].into_iter());
    assert!(homes.choose(NARROW, &[1], &[], None).moved.is_empty());
}

#[test]
fn tables_that_one_slave_may_have_no_room_for_stay_spread() {
    let mut homes = Homes::new(1, 3);
    let outcome = used(12 * MB, 12 * MB, 1 << 30);
    homes.ended(WIDE, 1, (0..3).map(|shard| (shard, &outcome)));
    homes.ended(NARROW, 2, [(1, &used(3 << 30, 3 << 30, 1 << 30))].into_iter());
    assert!(homes.choose(NARROW, &[1], &[], None).moved.is_empty());
}

#[test]
fn a_table_that_nobody_changed_since_goes_back_for_nothing() {
    let mut homes = wide(6);
    homes.begin(2, Choice::staying(&[Home::on(&[1], 6)]), &[1]);
    homes.ended(NARROW, 2, [(1, &used(12 * MB, 0, 12 * MB))].into_iter());
    let all: Vec<_> = (0..6).collect();
    let choice = homes.choose(WIDE, &all, &[], None);
    assert_eq!((choice.moving, choice.homes[0].clone()), (0.0, Home::All));
    homes.operated(3, &[TableOp::Scale { table: TableId(0), by: 2.0 }]);
    assert!(homes.choose(WIDE, &all, &[], None).moving > 11.9 * MB as f64 * 5.0 / 6.0);
}

/// A table of 12 MB on the second of `shards` slaves, which a stage on all of them only reads, each slave all of it.
fn read_by_all(shards: u32) -> Homes {
    let mut homes = wide(shards);
    // Nobody else wants it.
    let outcome = used(0, 0, 0);
    homes.ended(WIDE, 1, (0..shards).map(|shard| (shard, &outcome)));
    homes.begin(2, Choice::staying(&[Home::on(&[1], shards as usize)]), &[1]);
    homes.ended(NARROW, 2, [(1, &used(12 * MB, 12 * MB, 12 * MB))].into_iter());
    let outcome = used(12 * MB, 0, 0);
    homes.ended(READING, 3, (0..shards).map(|shard| (shard, &outcome)));
    homes
}

#[test]
fn a_table_on_one_slave_that_many_only_read_is_copied_to_them_where_that_loads_the_one_less() {
    for (shards, copies) in [(2, false), (3, true), (6, true)] {
        let homes = read_by_all(shards);
        let all: Vec<u32> = (0..shards).collect();
        let choice = homes.choose(READING, &all, &[TableId(0)], None);
        assert_eq!((choice.copied.as_slice(), choice.moved.is_empty()), (if copies { &[0][..] } else { &[] }, true));
        if copies {
            assert_eq!(choice.homes, [Home::on(&[1], shards as usize)], "it lives where it did");
            let others = 12.0 * MB as f64 * f64::from(shards - 1);
            assert!(choice.busiest[0] < 0.8 * others, "{choice:?}");
            // Each of the others gets all of it once, whoever sends it.
            assert!((choice.moving - others).abs() < 1.0, "{choice:?}");
        }
        let none = |reads: &[TableId], wanted| homes.choose(READING, &all, reads, wanted).copied.is_empty();
        assert!(none(&[], None), "the plan does not say that it is only read");
        assert!(none(&[TableId(0)], Some(Access::Shards)) && none(&[TableId(0)], Some(Access::Shared)));
    }
}

#[test]
fn copies_are_made_again_when_the_table_was_changed_and_not_before() {
    let mut homes = read_by_all(3);
    let choice = homes.choose(READING, &[0, 1, 2], &[TableId(0)], None);
    homes.begin(4, choice, &[0, 1, 2]);
    let choice = homes.choose(READING, &[0, 1, 2], &[TableId(0)], None);
    assert_eq!((choice.copied.as_slice(), choice.moving), (&[0][..], 0.0));
    homes.operated(5, &[TableOp::Scale { table: TableId(0), by: 2.0 }]);
    assert!(homes.choose(READING, &[0, 1, 2], &[TableId(0)], None).moving > 23.0 * MB as f64);
}

#[test]
fn a_table_that_a_slave_may_have_no_room_for_is_not_copied() {
    let mut homes = read_by_all(3);
    homes.ended(NARROW, 4, [(1, &used(12 * MB, 12 * MB, 3 << 30))].into_iter());
    assert!(homes.choose(READING, &[0, 1, 2], &[TableId(0)], None).copied.is_empty());
}

const S1: SlaveId = SlaveId(1);
const S2: SlaveId = SlaveId(2);
const S3: SlaveId = SlaveId(3);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A driver on two slaves whose table was just written by a wide stage, and that has asked for slots for a narrow one.
fn driver(transfer: Transfer) -> Driver {
    let mut plan = Plan::default();
    plan.table::<f32>("w", 1);
    plan.body.stage("wide", |_| Ok(()));
    plan.body.stage("narrow", |_| Ok(()));
    let mut driver = Driver::new(
        JobId(7),
        &plan,
        &[(S1, "h1".to_owned()), (S2, "h2".to_owned())],
        &Experiment { transfer, ..Experiment::default() },
    );
    driver.step(at(0), Event::Opened);
    driver.step(at(0), Event::Placed(0, vec![(S1, 1), (S2, 1)], Why::Balance));
    for slave in [S1, S2] {
        driver.step(at(0), Event::StageDone(slave, StageRun(1), used(12 * MB, 12 * MB, 6 * MB)));
    }
    driver
}

fn launched(commands: &[Command]) -> &Launch {
    let [Command::Launch(launch)] = commands else { panic!("{commands:?}") };
    launch
}

/// The narrow stage is launched on the second slave, its model still on its way.
fn under_way() -> Driver {
    let mut driver = driver(Transfer::Direct);
    let commands = driver.step(at(1), Event::Placed(1, vec![(S2, 1)], Why::Balance));
    let [Command::Launch(launch), Command::Move { phase: 3, homes, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((launch.run, launch.phase, &launch.homes), (StageRun(2), 3, &None));
    assert_eq!(*homes, [Home::Some(vec![1])]);
    assert_eq!(driver.whereabouts(), "while the model moved to stage narrow, epoch 1");
    driver
}

fn settled(homes: Home) -> Command {
    Command::Settle { phase: 3, run: StageRun(2), homes: vec![homes], copies: Copies::default() }
}

fn sent(to: SlaveId, bytes: u64) -> Result<Vec<Sent>> {
    Ok(vec![Sent {
        to,
        chunks: bytes / 1000,
        bytes,
        kept: 0,
        forwarded: 0,
        raw: bytes,
        memory: 0,
        pace: None,
        copies: false,
    }])
}

#[test]
fn the_model_moves_beside_the_stages_start_and_the_report_says_how_and_who_waited() {
    let mut driver = under_way();
    assert!(driver.step(at(2), Event::Sent(S1, 3, sent(S2, 5000))).is_empty());
    assert!(driver.step(at(2), Event::Sent(S2, 2, Ok(vec![]))).is_empty(), "an answer to another move");
    assert_eq!(driver.step(at(3), Event::Sent(S2, 3, Ok(vec![]))), [settled(Home::Some(vec![1]))]);
    assert_eq!(driver.whereabouts(), "in stage narrow, epoch 1");
    let outcome = Outcome { model_wait_seconds: 0.5, ..used(MB, MB, MB) };
    assert_eq!(driver.step(at(4), Event::StageDone(S2, StageRun(2), outcome)), [Command::End(Ok(()))]);
    let [report] = driver.transfers.as_slice() else { panic!("{:?}", driver.transfers) };
    assert_eq!((report.stage.as_str(), report.tables.as_slice()), ("narrow", &["w".to_owned()][..]));
    assert_eq!((report.from.join(" "), report.to.join(" "), report.way), ("h1 h2".into(), "h2".into(), Way::Gather));
    assert_eq!((report.bytes, report.chunks, &report.failed), (5000, 5, &None));
    assert_eq!((report.milliseconds, report.waited_milliseconds), (2000.0, 500.0));
    assert!(report.shards_milliseconds.unwrap() > 0.0);
    let stage = &driver.stages[1];
    assert_eq!((stage.start, stage.seconds), (1.0, 3.0), "it has run since its launch");
}

#[test]
fn of_many_transfers_the_last_are_listed_and_all_are_counted() {
    let mut driver = under_way();
    driver.transfers = vec![by_memory(Some(1e-9)); 20_000];
    driver.step(at(2), Event::Sent(S1, 3, sent(S2, 5000)));
    driver.step(at(3), Event::Sent(S2, 3, Ok(vec![])));
    let outcome = Outcome { model_wait_seconds: 0.5, ..used(MB, MB, MB) };
    driver.step(at(4), Event::StageDone(S2, StageRun(2), outcome));
    assert_eq!((driver.unlisted.transfers, driver.transfers.len()), (10_000, 10_001));
    let told = driver.transfers.last().map(|report| (report.bytes, report.memory_bytes, report.waited_milliseconds));
    assert_eq!(told, Some((5000, 0, 500.0)));
}

/// What is told of a transfer that went by memory.
fn by_memory(pace: Option<f64>) -> TransferReport {
    let mut driver = under_way();
    let sent = sent(S2, 5000).map(|sent| sent.into_iter().map(|sent| Sent { memory: 4000, pace, ..sent }).collect());
    driver.step(at(2), Event::Sent(S1, 3, sent));
    driver.step(at(3), Event::Sent(S2, 3, Ok(vec![])));
    driver.transfers.remove(0)
}

#[test]
fn what_went_by_memory_is_told_and_the_shards_are_estimated_at_the_pace_of_messages() {
    let unknown = by_memory(None);
    assert_eq!((unknown.bytes, unknown.memory_bytes, unknown.shards_milliseconds), (5000, 4000, None));
    let known = by_memory(Some(1e-9));
    let expected = known.shards_bytes as f64 * 1e-6;
    assert!(expected > 0.0 && (known.shards_milliseconds.unwrap() / expected - 1.0).abs() < 1e-6, "{known:?}");
}

#[test]
fn a_transfer_by_memory_has_its_estimate_once_the_pace_of_messages_is_known() {
    let (mut driver, _) = about_to_copy();
    driver.transfers.push(by_memory(None));
    let sent = |pace| Sent { copies: true, memory: 4000, pace, ..sent(S2, 4000).unwrap().remove(0) };
    driver.step(at(2), Event::Sent(S1, 4, Ok(vec![sent(Some(2e-9)), sent(Some(1e-9)), sent(None)])));
    driver.step(at(2), Event::Sent(S2, 4, Ok(vec![])));
    driver.step(at(3), Event::Sent(S3, 4, Ok(vec![])));
    for transfer in driver.transfers.iter().filter(|transfer| transfer.memory_bytes > 0) {
        let expected = transfer.shards_bytes as f64 * 2e-6;
        assert!((transfer.shards_milliseconds.unwrap() / expected - 1.0).abs() < 1e-6, "{transfer:?}");
    }
}

#[test]
fn a_stage_that_ends_before_its_move_is_over_goes_on_when_it_is() {
    let mut driver = under_way();
    assert!(driver.step(at(2), Event::StageDone(S2, StageRun(2), used(0, 0, 0))).is_empty());
    driver.step(at(2), Event::Sent(S1, 3, sent(S2, 5000)));
    let commands = driver.step(at(3), Event::Sent(S2, 3, Ok(vec![])));
    assert_eq!(commands, [settled(Home::Some(vec![1])), Command::End(Ok(()))]);
}

#[test]
fn a_transfer_that_fails_or_hangs_leaves_the_model_where_it_was_and_the_stage_goes_on() {
    for hangs in [false, true] {
        let mut driver = under_way();
        let commands = if hangs {
            driver.step(at(2), Event::Sent(S2, 3, Ok(vec![])));
            assert!(driver.step(at(10), Event::Tick).is_empty());
            driver.step(at(20), Event::Tick)
        } else {
            driver.step(at(2), Event::Sent(S1, 3, Err(Error::cluster("no way to h2"))));
            driver.step(at(2), Event::Sent(S2, 3, Ok(vec![])))
        };
        assert_eq!(commands, [settled(Home::All)]);
        let why = if hangs { "slave s1 (h1) did not send its part in time" } else { "no way to h2" };
        assert_eq!((driver.transfers[0].failed.as_deref(), driver.transfers[0].way), (Some(why), Way::Stayed));
        assert!(driver.step(at(21), Event::Sent(S1, 3, sent(S2, 5000))).is_empty(), "too late");
        assert_eq!(driver.homes(), [Home::All]);
        let commands = driver.step(at(22), Event::StageDone(S2, StageRun(2), used(MB, MB, 0)));
        assert_eq!(commands, [Command::End(Ok(()))]);
    }
}

#[test]
fn a_slave_that_goes_in_mid_transfer_ends_the_job_with_its_name() {
    let mut driver = under_way();
    let gone = Error::cluster("slave s1 (h1) is gone");
    let commands = driver.step(at(2), Event::Gone(S1, gone.clone(), None));
    assert_eq!(commands, [Command::CancelStage(StageRun(2), vec![S2], gone.message.clone())]);
    // What is still sent has no one to settle for.
    assert!(driver.step(at(2), Event::Sent(S2, 3, Ok(vec![]))).is_empty());
    let outcome = Outcome { error: Some(Error::cancelled()), ..Outcome::default() };
    assert_eq!(driver.step(at(3), Event::StageDone(S2, StageRun(2), outcome)), [Command::End(Err(gone))]);
}

#[test]
fn a_job_can_be_cancelled_in_mid_transfer() {
    let mut driver = under_way();
    let commands = driver.step(at(2), Event::Fail(Error::cancelled()));
    assert_eq!(commands, [Command::CancelStage(StageRun(2), vec![S2], "cancelled".to_owned())]);
    assert!(driver.step(at(2), Event::Tick).is_empty());
    // Workers that hang are waited for as always.
    let commands = driver.step(at(2) + STOP_WITHIN, Event::Tick);
    let [Command::End(Err(e))] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(e.message.contains("workers on h2 did not stop"), "{e}");
}

#[test]
fn without_direct_transfer_tables_stay_on_all_slaves() {
    let mut driver = driver(Transfer::Kv);
    let commands = driver.step(at(1), Event::Placed(1, vec![(S2, 1)], Why::Balance));
    assert_eq!(launched(&commands).homes, Some(vec![Home::All]));
    assert!(driver.transfers.is_empty());
}

#[test]
fn an_access_that_is_asked_for_is_given_where_the_workers_can_have_it() {
    let homes = Homes::new(2, 3);
    let homes_for = |workers: &[u32], wanted| homes.choose(NARROW, workers, &[], Some(wanted)).homes;
    for wanted in [Access::Own, Access::Shared, Access::Racing] {
        assert_eq!(homes_for(&[1], wanted), vec![Home::on(&[1], 3); 2], "nothing else would bring empty tables");
        assert_eq!(homes_for(&[0, 1], wanted), homes.choose(NARROW, &[0, 1], &[], None).homes);
    }
    assert_eq!(homes_for(&[1], Access::Shards), vec![Home::All; 2]);
}

/// On three slaves: the table lives on the first, which wrote all of it, and a stage that only reads it has its slots.
fn about_to_copy() -> (Driver, Vec<Command>) {
    let mut plan = Plan::default();
    let table = plan.table::<f32>("w", 1);
    plan.body.stage("begin", |_| Ok(()));
    plan.body.stage("narrow", |_| Ok(()));
    plan.body.stage("reading", |_| Ok(())).reads(table);
    let slaves = [(S1, "h1".to_owned()), (S2, "h2".to_owned()), (S3, "h3".to_owned())];
    let mut driver = Driver::new(JobId(7), &plan, &slaves, &Experiment::default());
    let all = || vec![(S1, 1), (S2, 1), (S3, 1)];
    driver.step(at(0), Event::Opened);
    driver.step(at(0), Event::Placed(0, all(), Why::Balance));
    for slave in [S1, S2, S3] {
        driver.step(at(0), Event::StageDone(slave, StageRun(1), used(0, 0, 4 * MB)));
    }
    driver.step(at(0), Event::Placed(1, vec![(S1, 1)], Why::Balance));
    for slave in [S1, S2, S3] {
        driver.step(at(0), Event::Sent(slave, 3, Ok(vec![])));
    }
    driver.step(at(1), Event::StageDone(S1, StageRun(2), used(12 * MB, 12 * MB, 12 * MB)));
    let commands = driver.step(at(1), Event::Placed(2, all(), Why::Balance));
    (driver, commands)
}

/// The stage of [`about_to_copy`] may go on.
fn settled_with(copies: Copies) -> [Command; 1] {
    [Command::Settle { phase: 4, run: StageRun(3), homes: vec![Home::Some(vec![0])], copies }]
}

#[test]
fn copies_are_told_to_all_when_they_are_there_and_the_report_calls_it_a_broadcast() {
    let (mut driver, commands) = about_to_copy();
    let expected = Copies { tables: vec![TableId(0)], to: vec![0, 1, 2] };
    let [Command::Launch(launch), Command::Move { phase: 4, homes, copies, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((&launch.homes, homes, copies), (&None, &vec![Home::Some(vec![0])], &expected));
    let sent = Sent {
        to: S2,
        chunks: 8,
        bytes: 4000,
        kept: 0,
        forwarded: 4000,
        raw: 8000,
        memory: 0,
        pace: None,
        copies: true,
    };
    driver.step(at(2), Event::Sent(S1, 4, Ok(vec![sent])));
    driver.step(at(2), Event::Sent(S2, 4, Ok(vec![])));
    assert_eq!(driver.step(at(3), Event::Sent(S3, 4, Ok(vec![]))), settled_with(expected));
    let report = driver.transfers.last().unwrap();
    assert_eq!((report.way, report.bytes, report.chunks), (Way::Broadcast, 8000, 8));
    assert_eq!((report.from.join(" "), report.to.join(" ")), ("h1".into(), "h1 h2 h3".into()));
    for slave in [S1, S2, S3] {
        driver.step(at(4), Event::StageDone(slave, StageRun(3), used(12 * MB, 0, 0)));
    }
    assert!(driver.stages[2].model.why.ends_with("; a copy of w beside each"), "{}", driver.stages[2].model.why);
}

#[test]
fn copies_that_did_not_all_come_are_not_read() {
    let (mut driver, _) = about_to_copy();
    driver.step(at(2), Event::Sent(S1, 4, Err(Error::cluster("no way to h3"))));
    driver.step(at(2), Event::Sent(S2, 4, Ok(vec![])));
    assert_eq!(driver.step(at(2), Event::Sent(S3, 4, Ok(vec![]))), settled_with(Copies::default()));
    let report = driver.transfers.last().unwrap();
    assert_eq!((report.way, report.failed.as_deref()), (Way::Stayed, Some("no way to h3")));
}
