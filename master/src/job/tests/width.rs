//! Threads that nobody gives a number of: as many as there are cores.

use super::admission::candidate;
use crate::job::admission::{Candidate, choose};
use crate::job::width::{note, unrepeatable};
use flexps_common::data::InputSpec;
use flexps_common::data::schema::DataPath;
use flexps_common::plan::{Consistency, Plan, Threads};

/// Slaves by machine, its cores, and their slots.
fn slaves(all: &[(&str, u32, u32)]) -> Vec<Candidate> {
    let one = |(id, (machine, cores, slots)): (u32, &(&str, u32, u32))| Candidate {
        machine: (*machine).into(),
        cores: *cores,
        ..candidate(id, *slots)
    };
    (1..).zip(all).map(one).collect()
}

fn plan(stages: &[Threads]) -> Plan {
    let mut plan = Plan::default();
    let input = plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    for threads in stages {
        plan.body.stage("stage", |_| Ok(())).threads(*threads).input(input);
    }
    plan
}

/// The slaves that are chosen, and what is said of it.
fn chosen(plan: &Plan, slaves: &[Candidate], bytes: u64) -> (Vec<u32>, String) {
    let chosen = choose(plan, slaves, bytes).unwrap();
    let said = note(plan, slaves, &chosen, bytes).unwrap_or_default();
    (chosen.into_iter().map(|id| id.0).collect(), said)
}

const ANOTHER: &str = "--threads (of svrg --wide) gives another number";

#[test]
fn without_a_number_a_job_has_as_many_threads_as_its_slaves_machines_have_cores() {
    let default = plan(&[Threads::Cores, Threads::PerSlave(1)]);
    let four = slaves(&[("m", 2, 1); 4]);
    let says = format!("2 threads on 2 of 4 slaves: the slaves' machine has 2 cores; {ANOTHER}");
    assert_eq!(chosen(&default, &four, 0), (vec![1, 2], says));
    let one = slaves(&[("m", 2, 8)]);
    let says = format!("2 threads on 1 of 1 slave: the slaves' machine has 2 cores; {ANOTHER}");
    assert_eq!(chosen(&default, &one, 0), (vec![1], says));
    // Each machine has its own; a slave alone has cores, however few.
    let two = slaves(&[("m", 2, 1), ("n", 4, 2), ("m", 2, 1), ("n", 4, 2), ("m", 2, 1), ("n", 4, 2), ("o", 1, 3)]);
    let says = format!("7 threads on 5 of 7 slaves: the slaves' machines have 7 cores; {ANOTHER}");
    assert_eq!(chosen(&default, &two, 0), (vec![1, 2, 3, 4, 7], says));
    // Enough cores for all slots.
    assert_eq!(chosen(&default, &slaves(&[("m", 8, 2); 4]), 0), (vec![1, 2, 3, 4], String::new()));
}

#[test]
fn of_slaves_that_share_cores_those_with_free_slots_and_rows_come_first() {
    let mut four = slaves(&[("m", 2, 1); 4]);
    (four[0].free, four[2].local_bytes) = (0, 9);
    assert_eq!(chosen(&plan(&[Threads::Cores]), &four, 0).0, [2, 3]);
}

#[test]
fn a_job_that_is_to_repeat_its_bits_is_told_of_stages_that_do_not() {
    let mut plan = plan(&[Threads::Count(2)]);
    assert_eq!(unrepeatable(&plan, 3), None);
    plan.body.stage("loose", |_| Ok(())).consistency(Consistency::Ssp { staleness: 2 });
    for slaves in [1, 3] {
        let told = unrepeatable(&plan, slaves).unwrap();
        assert!(told.contains("under ssp:2 stage loose"), "{told}");
    }
}

#[test]
fn numbers_that_are_given_are_kept_whatever_the_cores_are() {
    let four = slaves(&[("m", 2, 1); 4]);
    for given in [Threads::Count(4), Threads::All, Threads::Auto, Threads::PerSlave(1)] {
        assert_eq!(chosen(&plan(&[given]), &four, 0), (vec![1, 2, 3, 4], String::new()), "{given:?}");
    }
    let says = "runs on 3 of 4 slaves, since no stage can use more".to_owned();
    assert_eq!(chosen(&plan(&[Threads::Count(3)]), &four, 0), (vec![1, 2, 3], says));
    let mut by_rows = Plan::default();
    let input = by_rows.input(InputSpec::new("rows", vec![DataPath("rows".to_owned())])).unwrap();
    by_rows.body.stage("tally", |_| Ok(())).threads(Threads::Range(1, 6)).input(input);
    let (slaves, says) = chosen(&by_rows, &four, u64::MAX);
    assert_eq!(slaves.len(), 1);
    assert!(says.contains("since stage tally passes over rows on each of them and may begin with 1 thread;"), "{says}");
    // Also beside stages of no number.
    for given in [Threads::Count(4), Threads::Range(4, 8), Threads::All, Threads::Auto] {
        assert_eq!(chosen(&plan(&[Threads::Cores, given]), &four, 0).0, [1, 2, 3, 4], "{given:?}");
    }
    let mut named = plan(&[Threads::Cores]);
    named.body.stage("there", |_| Ok(())).threads(Threads::Count(1)).on("h4");
    assert_eq!(chosen(&named, &four, 0).0, [1, 2, 3, 4]);
}

#[test]
fn a_small_input_is_worth_one_slave_of_each_machine() {
    let mut worth = plan(&[Threads::Cores]);
    worth.slave_bytes = 100 << 20;
    let four = slaves(&[("m", 2, 1); 4]);
    let says =
        format!("1 thread on 1 of 4 slaves: 199.0 MiB of input are worth no more slaves of a machine; {ANOTHER}");
    assert_eq!(chosen(&worth, &four, 199 << 20), (vec![1], says));
    assert_eq!(chosen(&worth, &four, 200 << 20).0, [1, 2]);
    let apart = slaves(&[("m", 2, 1), ("m", 2, 1), ("n", 2, 1), ("n", 2, 1)]);
    assert_eq!([199, 399, 400].map(|mib| chosen(&worth, &apart, mib << 20).0.len()), [2, 2, 4]);
    worth.fix_threads(4);
    assert_eq!(chosen(&worth, &four, 1).0, [1, 2, 3, 4]);
}
