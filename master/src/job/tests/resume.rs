//! Checkpoints: when a driver orders one, and how it goes on from a place that one holds.

use crate::checkpoint::{Folder, Of};
use crate::job::driver::{Anew, Command, Driver, Event, Keeping, Place, WRITTEN_WITHIN};
use crate::job::{Job, Submission};
use crate::scheduler::Why;
use flexps_common::checkpoint::Kept;
use flexps_common::data::{Facts, InputSpec, schema::DataPath};
use flexps_common::error::Fault;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun, TableId};
use flexps_common::plan::{Flow, Input, Plan, TableOp, Threads};
use flexps_common::storage::Storage;
use flexps_common::wire::control::{Launch, Outcome};
use flexps_common::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

const S1: SlaveId = SlaveId(1);
const EVERY: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stage of slaves, rebuilt, then rounds that count themselves in a scalar, in another repeat.
fn plan() -> Plan {
    let mut plan = Plan::default();
    let rows = plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    let [weights, counts] = ["weights", "counts"].map(|name| plan.table::<f32>(name, 1));
    plan.body.stage("first", |_| Ok(())).input(rows);
    plan.body.rebuilt(|steps| {
        steps.zero(counts);
        steps.stage("counts", |_| Ok(())).input(rows).updates(counts);
    });
    plan.body.zero(weights);
    plan.body.repeat(2, |outer| {
        outer.resumable(3, |round| {
            round.stage("learn", |_| Ok(()));
            round.decide(|p| {
                p.set("rounds", p.scalar("rounds", 0.0) + 1.0);
                p.objective = Some(p.scalar("rounds", 0.0));
                Ok(Flow::Next)
            });
        });
    });
    plan
}

fn driver(from: Option<Place>) -> Driver {
    let mut driver = Driver::new(JobId(7), &plan(), &[(S1, "h1".to_owned())], &Experiment::default());
    driver.keeping = Some(Keeping::new(EVERY, from, Kept::default()));
    driver
}

/// Places a stage that was asked for on the only slave, and ends its run; what follows.
#[track_caller]
fn runs(driver: &mut Driver, stage: u32, now: u64) -> Vec<Command> {
    let run = launch(driver, stage, now).run;
    ends(driver, run, now)
}

#[track_caller]
fn launch(driver: &mut Driver, stage: u32, now: u64) -> Launch {
    let mut commands = driver.step(at(now), Event::Placed(stage, vec![(S1, 1)], Why::Balance));
    match commands.pop() {
        Some(Command::Launch(launch)) => launch,
        other => panic!("{other:?} behind {commands:?}"),
    }
}

fn ends(driver: &mut Driver, run: StageRun, now: u64) -> Vec<Command> {
    driver.step(at(now), Event::StageDone(S1, run, Outcome::default()))
}

#[track_caller]
fn zeroed(driver: &mut Driver, commands: &[Command], table: u16, now: u64) -> Vec<Command> {
    let [Command::Ops { phase, ops }] = commands else { panic!("{commands:?}") };
    assert_eq!(ops, &[TableOp::Zero { table: TableId(table) }]);
    driver.step(at(now), Event::Numbers(S1, *phase, vec![Vec::new()]))
}

#[track_caller]
fn asks(commands: &[Command], place: u32) {
    assert!(matches!(commands, [Command::Place { stage, .. }] if *stage == place), "{commands:?}, not stage {place}");
}

/// To the first round's stage, at second 1, with the rows read.
fn begun() -> Driver {
    begin(driver(None))
}

fn begin(mut driver: Driver) -> Driver {
    driver.step(at(1), Event::Facts(InputId(0), Facts::default()));
    asks(&driver.step(at(1), Event::Opened), 0);
    let counts = runs(&mut driver, 0, 1);
    let stage = zeroed(&mut driver, &counts, 1, 1);
    asks(&stage, 1);
    let weights = runs(&mut driver, 1, 1);
    asks(&zeroed(&mut driver, &weights, 0, 1), 2);
    driver
}

/// A driver that has ordered a checkpoint behind the first round, at second 7, and its place.
fn keeping() -> (Driver, Place) {
    let mut driver = begun();
    let mut commands = runs(&mut driver, 2, 7);
    assert_eq!(commands.len(), 1, "no stage runs beside it");
    let Some(Command::Keep(place)) = commands.pop() else { panic!("{commands:?}") };
    assert!(
        driver.whereabouts().contains("checkpoint was written behind round 1 of epoch 1"),
        "{}",
        driver.whereabouts()
    );
    (driver, Place::clone(&place))
}

/// From the stage of a round to the end, in `rounds` rounds that take a second each.
#[track_caller]
fn goes_on(driver: &mut Driver, rounds: u64, now: u64) {
    for round in 0..rounds {
        let mut commands = runs(driver, 2, now + round);
        if let [Command::Keep(_)] = commands.as_slice() {
            commands = driver.step(at(now + round), Event::Kept(Ok(10)));
        }
        if round + 1 == rounds {
            assert_eq!(commands, [Command::Save], "the checkpoint has to go");
        } else {
            asks(&commands, 2);
        }
    }
    assert_eq!(driver.step(at(now + rounds), Event::Saved(Ok(()))), [Command::End(Ok(()))]);
    assert_eq!((driver.progress.scalar("rounds", 0.0), driver.epochs.len()), (6.0, 2));
}

#[test]
fn a_checkpoint_is_ordered_between_two_rounds_once_its_time_has_come() {
    let mut driver = begun();
    asks(&runs(&mut driver, 2, 5), 2);
    let commands = runs(&mut driver, 2, 6);
    assert!(
        matches!(commands.as_slice(), [Command::Keep(place)] if place.behind() == "round 2 of epoch 1"),
        "{commands:?}"
    );
    // None behind the last round of the repeat; the next one when nine times as long has passed as this one took.
    asks(&driver.step(at(8), Event::Kept(Ok(100))), 2);
    asks(&runs(&mut driver, 2, 100), 2);
    assert!(
        matches!(runs(&mut driver, 2, 101).as_slice(), [Command::Keep(place)] if place.behind() == "round 1 of epoch 2")
    );
    let kept = driver.kept().unwrap();
    assert_eq!((kept.written, kept.behind.as_str(), kept.bytes, kept.seconds), (1, "round 2 of epoch 1", 100, 2.0));
}

#[test]
fn a_checkpoint_whose_time_no_clock_shows_is_never_due() {
    let mut driver = driver(None);
    driver.keeping = Some(Keeping::new(Duration::MAX, None, Kept::default()));
    let mut driver = begin(driver);
    goes_on(&mut driver, 6, 1_000_000);
    assert_eq!(driver.kept().unwrap().written, 0);
}

#[test]
fn checkpoints_take_a_tenth_of_the_time_at_most() {
    let mut driver = begun();
    assert!(matches!(runs(&mut driver, 2, 6).as_slice(), [Command::Keep(_)]));
    // It took ten seconds.
    asks(&driver.step(at(16), Event::Kept(Ok(100))), 2);
    asks(&runs(&mut driver, 2, 105), 2);
    asks(&runs(&mut driver, 2, 105), 2);
    assert!(matches!(runs(&mut driver, 2, 106).as_slice(), [Command::Keep(_)]));
}

#[test]
fn a_job_goes_on_whether_a_checkpoint_is_written_or_not_and_says_so() {
    for (written, failed) in [(Ok(10), 0), (Err(Error::user("no space left")), 1), (Err(lost()), 0)] {
        let (mut driver, _) = keeping();
        let good = u64::from(written.is_ok());
        asks(&driver.step(at(8), Event::Kept(written)), 2);
        let kept = driver.kept().unwrap();
        assert_eq!((kept.written, kept.failed), (good, failed));
        assert_eq!(kept.error.as_deref(), (failed > 0).then_some("no space left"));
        goes_on(&mut driver, 5, 9);
    }
}

fn restored(place: &Place) -> Event {
    Event::Restored(Ok(Arc::new(place.clone())))
}

fn lost() -> Error {
    Error::cluster("the connection to h1 is closed").retryable()
}

#[test]
fn who_goes_on_from_a_place_makes_anew_what_belongs_to_slaves_and_nothing_else_before_its_round() {
    let (_, place) = keeping();
    let mut driver = driver(Some(place.clone()));
    driver.spent = at(100);
    assert_eq!(driver.step(at(20), Event::Opened), [Command::Restore]);
    assert!(driver.begins(), "it has asked for no slots");
    let counts = driver.step(at(21), restored(&place));
    let stage = zeroed(&mut driver, &counts, 1, 21);
    asks(&stage, 1);
    let launch = launch(&mut driver, 1, 21);
    assert_eq!((launch.epoch, launch.scalars["rounds"]), (0, 1.0));
    assert!(ends(&mut driver, launch.run, 22).is_empty(), "rows are still being read");
    asks(&driver.step(at(23), Event::Facts(InputId(0), Facts { rows: 3, ..Facts::default() })), 2);
    assert_eq!(driver.progress.facts[0].as_ref().unwrap().rows, 3);
    assert_eq!(driver.progress.objective, Some(1.0));
    goes_on(&mut driver, 5, 24);
    // 100 seconds that an earlier start took, 20 that this master had been there, 4 rounds of a second.
    assert_eq!(driver.epochs[1].seconds, 108.0);
}

#[test]
fn rows_that_are_read_while_tables_are_restored_are_known_afterwards() {
    let (_, place) = keeping();
    let mut driver = driver(Some(place.clone()));
    driver.step(at(20), Event::Opened);
    driver.step(at(20), Event::Facts(InputId(0), Facts::default()));
    let counts = driver.step(at(21), restored(&place));
    asks(&zeroed(&mut driver, &counts, 1, 21), 1);
    asks(&runs(&mut driver, 1, 22), 2);
}

#[test]
fn a_plan_that_begins_anew_while_it_reads_goes_on_from_the_same_place() {
    let mut driver = driver(Some(keeping().1));
    driver.step(at(20), Event::Opened);
    assert!(driver.may_begin_anew());
    let stopping = driver.step(at(20), Event::Gone(SlaveId(9), lost(), Some(Anew::Plan)));
    assert_eq!(stopping, [Command::StopTransfer]);
    let anew = driver.step(at(20), Event::Restored(Err(Error::cancelled())));
    assert_eq!(anew, [Command::Again(Anew::Plan)]);
    driver.begin_anew(&plan(), &[(S1, "h1".to_owned())], &Experiment::default());
    assert_eq!(driver.step(at(21), Event::Opened), [Command::Restore]);
}

#[test]
fn who_finds_the_tables_of_another_place_than_he_knew_goes_on_from_there() {
    let (mut before, first) = keeping();
    asks(&before.step(at(8), Event::Kept(Ok(10))), 2);
    let mut commands = runs(&mut before, 2, 100);
    let Some(Command::Keep(second)) = commands.pop() else { panic!("{commands:?}") };
    // It was put in its place while the plan stopped to begin anew.
    let mut driver = driver(Some(first));
    assert_eq!(driver.step(at(200), Event::Opened), [Command::Restore]);
    let counts = driver.step(at(201), restored(&second));
    asks(&zeroed(&mut driver, &counts, 1, 201), 1);
    driver.step(at(201), Event::Facts(InputId(0), Facts::default()));
    asks(&runs(&mut driver, 1, 201), 2);
    assert_eq!(driver.kept().unwrap().resumed.as_deref(), Some("round 2 of epoch 1"));
    goes_on(&mut driver, 4, 202);
}

#[test]
fn a_job_that_ends_while_a_checkpoint_is_written_or_read_waits_for_that() {
    let (written, _) = keeping();
    let mut restoring = driver(Some(keeping().1));
    restoring.step(at(7), Event::Opened);
    let stopped: [(Driver, Event); 2] =
        [(written, Event::Kept(Err(Error::cancelled()))), (restoring, Event::Restored(Err(Error::cancelled())))];
    for (mut driver, stopped) in stopped {
        assert_eq!(driver.step(at(8), Event::Fail(Error::cancelled())), [Command::StopTransfer]);
        let ended: Vec<Command> = driver.step(at(8), stopped);
        let [Command::End(Err(error))] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!(error.fault, Fault::Cancelled);
    }
}

#[test]
fn a_job_that_starts_again_waits_longer_for_a_checkpoint_that_is_being_written() {
    for written in [true, false] {
        let (mut driver, _) = keeping();
        driver.restarts = true;
        let stopping = driver.step(at(8), Event::Gone(SlaveId(9), lost(), Some(Anew::Job)));
        assert_eq!(stopping, [Command::StopTransfer]);
        let last = at(8) + WRITTEN_WITHIN - at(1);
        assert!(driver.step(last, Event::Tick).is_empty());
        if written {
            let again = driver.step(last, Event::Kept(Err(Error::cancelled())));
            assert_eq!(again, [Command::Again(Anew::Job)]);
        } else {
            let ended = driver.step(at(8) + WRITTEN_WITHIN, Event::Tick);
            assert!(matches!(ended.as_slice(), [Command::End(Err(_))]), "{ended:?}");
        }
    }
}

#[test]
fn a_place_that_the_plan_lacks_is_an_error() {
    let mut bare = Plan::default();
    bare.body.stage("only", |_| Ok(()));
    let mut driver = Driver::new(JobId(7), &bare, &[(S1, "h1".to_owned())], &Experiment::default());
    let (_, place) = keeping();
    driver.keeping = Some(Keeping::new(EVERY, Some(place.clone()), Kept::default()));
    driver.step(at(0), Event::Opened);
    let ended = driver.step(at(1), restored(&place));
    let result: &Result<()> = match ended.as_slice() {
        [Command::End(result)] => result,
        other => panic!("{other:?}"),
    };
    assert_eq!(result.as_ref().unwrap_err().fault, Fault::Bug);
}

#[test]
fn what_is_rebuilt_behind_a_place_is_neither_left_out_of_its_tables_nor_done_before_it() {
    let mut plan = Plan::default();
    let [early, late] = ["early", "late"].map(|name| plan.table::<f32>(name, 1));
    plan.body.rebuilt(|steps| _ = steps.stage("first", |_| Ok(())).updates(early));
    plan.body.resumable(9, |round| _ = round.stage("learn", |_| Ok(())));
    plan.body.rebuilt(|steps| _ = steps.stage("last", |_| Ok(())).updates(late));
    let driver = |from| {
        let mut driver = Driver::new(JobId(7), &plan, &[(S1, "h1".to_owned())], &Experiment::default());
        driver.keeping = Some(Keeping::new(EVERY, from, Kept::default()));
        driver
    };
    let mut before = driver(None);
    asks(&before.step(at(0), Event::Opened), 0);
    asks(&runs(&mut before, 0, 1), 1);
    let mut commands = runs(&mut before, 1, 9);
    let Some(Command::Keep(place)) = commands.pop() else { panic!("{commands:?}") };
    assert_eq!(before.remade(&place), [early.id]);
    let mut driver = driver(Some(Place::clone(&place)));
    driver.step(at(10), Event::Opened);
    asks(&driver.step(at(10), restored(&place)), 0);
    asks(&runs(&mut driver, 0, 11), 1);
}

/// Slaves and their names.
type Called = [(u32, &'static str)];

#[test]
fn a_stage_that_visits_slaves_goes_on_with_those_that_it_has_not_visited() {
    let mut plan = Plan::default();
    plan.body.resumable(9, |round| _ = round.stage("visit", |_| Ok(())).threads(Threads::Visit(1)));
    let driver = |slaves: &Called, from| {
        let named: Vec<(SlaveId, String)> =
            slaves.iter().map(|(id, name)| (SlaveId(*id), (*name).to_owned())).collect();
        let mut driver = Driver::new(JobId(7), &plan, &named, &Experiment::default());
        driver.keeping = Some(Keeping::new(EVERY, from, Kept::default()));
        driver
    };
    let mut before = driver(&[(1, "h1"), (2, "h2"), (3, "h3")], None);
    asks(&before.step(at(0), Event::Opened), 0);
    before.step(at(0), Event::Placed(0, vec![(SlaveId(2), 1)], Why::Balance));
    let mut commands = before.step(at(9), Event::StageDone(SlaveId(2), StageRun(1), Outcome::default()));
    let Some(Command::Keep(place)) = commands.pop() else { panic!("{commands:?}") };
    // Another master calls the same slaves otherwise, and others may have come.
    let cases: [(&Called, &[SlaveId]); 3] =
        [(&[(4, "h1"), (5, "h3"), (6, "h2")], &[SlaveId(6)]), (&[(1, "h4"), (2, "h5")], &[]), (&[(4, "h2")], &[])];
    for (slaves, visited) in cases {
        let mut driver = driver(slaves, Some(Place::clone(&place)));
        assert_eq!(driver.step(at(20), Event::Opened), [Command::Restore]);
        asks(&driver.step(at(20), restored(&place)), 0);
        assert_eq!(driver.visited(0), visited);
    }
}

/// A driver of the same plan whose rows keep something between rounds.
fn carrying(from: Option<Place>) -> Driver {
    let mut plan = plan();
    plan.keep_column(Input { id: InputId(0) }, "dual");
    let mut driver = Driver::new(JobId(7), &plan, &[(S1, "h1".to_owned())], &Experiment::default());
    driver.keeping = Some(Keeping::new(EVERY, from, Kept::default()));
    driver
}

#[test]
fn what_rows_keep_comes_back_when_all_rows_are_there_and_before_any_stage() {
    let (_, place) = keeping();
    let read = |driver: &mut Driver| driver.step(at(2), Event::Facts(InputId(0), Facts::default()));
    let mut driver = carrying(Some(place.clone()));
    assert!(driver.step(at(1), Event::Opened).is_empty(), "rows are still being read");
    assert!(driver.step(at(2), Event::Tick).is_empty());
    assert_eq!(read(&mut driver), [Command::Restore]);
    let counts = driver.step(at(3), restored(&place));
    let stage = zeroed(&mut driver, &counts, 1, 3);
    asks(&stage, 1);
    asks(&runs(&mut driver, 1, 3), 2);
    goes_on(&mut driver, 5, 4);
    // Rows that are there are not waited for; nor is anything where there is nothing to come back.
    let mut driver = carrying(Some(place));
    assert!(read(&mut driver).is_empty());
    assert_eq!(driver.step(at(3), Event::Opened), [Command::Restore]);
    asks(&carrying(None).step(at(1), Event::Opened), 0);
}

#[test]
fn a_job_that_starts_from_the_beginning_no_longer_tells_behind_what_it_had_resumed() {
    let here = tempfile::tempdir().unwrap();
    let path = DataPath(here.path().to_str().unwrap().to_owned());
    let of = Of { job: "svrg".to_owned(), params: serde_json::json!({}), plan: 7, inputs: 0 };
    let folder = Folder::open(&Storage::default(), &path, of).unwrap();
    for from in [None, Some(Place::default())] {
        let mut job = Job::new(JobId(7), Submission::bare("svrg"), plan(), at(0));
        let resumed = Some("epoch 3".to_owned());
        job.report.checkpoint = Some(Kept { resumed: resumed.clone(), written: 2, ..Kept::default() });
        let expected = resumed.filter(|_| from.is_some());
        let mut driver = driver(None);
        driver.keeping = Some(job.keeping(&folder, from));
        let kept = driver.kept().unwrap();
        assert_eq!((kept.resumed, kept.written), (expected, 2));
    }
}
