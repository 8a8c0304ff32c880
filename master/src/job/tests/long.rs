//! Jobs of more rounds than a report lists.

use crate::job::driver::{Command, Driver, Event};
use crate::scheduler::Why;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::plan::{Flow, Plan};
use flexps_common::wire::control::Outcome;
use std::time::Duration;

const S1: SlaveId = SlaveId(1);
const NOW: Duration = Duration::ZERO;

#[test]
fn of_many_rounds_the_last_are_listed_and_all_are_counted() {
    const ROUNDS: u64 = 45_000;
    let mut plan = Plan::default();
    plan.body.repeat(ROUNDS, |round| {
        round.stage("work", |_| Ok(()));
        round.decide(|p| {
            p.objective = Some(p.epoch as f64);
            Ok(Flow::Next)
        });
    });
    let mut driver = Driver::new(JobId(7), &plan, &[(S1, "h1".to_owned())], &Experiment::default());
    let mut commands = driver.step(NOW, Event::Opened);
    while let [Command::Place { stage, .. }] = commands[..] {
        let launched = driver.step(NOW, Event::Placed(stage, vec![(S1, 1)], Why::Balance));
        let [Command::Launch(launch)] = launched.as_slice() else { panic!("{launched:?}") };
        commands = driver.step(NOW, Event::StageDone(S1, launch.run, Outcome::default()));
    }
    assert_eq!(commands, [Command::End(Ok(()))]);
    let (before, listed) = (driver.unlisted.epochs, driver.epochs.len() as u64);
    assert_eq!(before + listed, ROUNDS);
    assert!((10_000..=20_000).contains(&listed), "{listed} are listed");
    assert_eq!(driver.epochs[0].epoch, before + 1);
    let last = driver.epochs.last().unwrap();
    assert_eq!((last.epoch, last.objective), (ROUNDS, Some((ROUNDS - 1) as f64)));
}
