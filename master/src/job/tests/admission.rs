//! Which slaves a job uses, and which jobs are refused.

use crate::job::admission::{Candidate, check, choose};
use flexps_common::data::InputSpec;
use flexps_common::data::schema::DataPath;
use flexps_common::error::Fault;
use flexps_common::ids::SlaveId;
use flexps_common::plan::{Plan, Threads};

fn candidates(slots: &[u32]) -> Vec<Candidate> {
    let one = |(id, slots): (u32, &u32)| Candidate {
        id: SlaveId(id),
        name: format!("h{id}"),
        slots: *slots,
        free: *slots,
        local_bytes: 0,
    };
    (1..).zip(slots).map(one).collect()
}

/// A plan of stages with an input or without one.
fn plan(stages: &[(&str, Threads, bool)]) -> Plan {
    let mut plan = Plan::default();
    let input = plan.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    for (name, threads, reads) in stages {
        let stage = plan.body.stage(name, |_| Ok(())).threads(*threads);
        if *reads {
            stage.input(input);
        }
    }
    plan
}

fn chosen(stages: &[(&str, Threads, bool)], slots: &[u32]) -> Vec<u32> {
    choose(&plan(stages), &candidates(slots)).unwrap().into_iter().map(|s| s.0).collect()
}

#[test]
fn a_job_uses_all_slaves_unless_it_has_fewer_threads() {
    assert_eq!(chosen(&[("wide", Threads::All, true)], &[2, 2, 2]), [1, 2, 3]);
    assert_eq!(chosen(&[("wide", Threads::Count(2), false)], &[2, 4, 2]), [1, 2]);
    let two = [("wide", Threads::All, true), ("narrow", Threads::Count(2), true)];
    assert_eq!(chosen(&two, &[2, 4, 2]).len(), 2);
    let beside = [("wide", Threads::All, true), ("narrow", Threads::Count(1), false)];
    assert_eq!(chosen(&beside, &[2, 2, 2]), [1, 2, 3]);
    // A stage on one slave does not keep the others from it, and needs a slave that is large enough.
    let on_one = [("wide", Threads::All, true), ("narrow", Threads::OneSlave(2), false)];
    assert_eq!(chosen(&on_one, &[1, 2, 1]), [1, 2, 3]);
    let alone = [("narrow", Threads::OneSlave(3), false)];
    assert_eq!(chosen(&alone, &[1, 2, 3]), [3]);
}

#[test]
fn fewer_slaves_are_those_with_free_slots_and_the_most_local_bytes() {
    let mut candidates = candidates(&[4, 4, 4]);
    candidates[0].free = 0;
    candidates[2].local_bytes = 9;
    let plan = plan(&[("s", Threads::Count(1), true)]);
    assert_eq!(choose(&plan, &candidates).unwrap(), [SlaveId(3)]);
    candidates[2].free = 0;
    assert_eq!(choose(&plan, &candidates).unwrap(), [SlaveId(2)]);
}

#[test]
fn a_job_that_can_never_fit_is_refused_with_the_numbers() {
    let error = choose(&plan(&[("full-gradient", Threads::Count(12), true)]), &candidates(&[4, 4])).unwrap_err();
    assert_eq!(error.fault, Fault::User);
    assert!(error.message.starts_with("stage full-gradient needs 12 slots, the cluster has 8"), "{error}");
    let error = choose(&plan(&[("s", Threads::PerSlave(5), true)]), &candidates(&[4, 2])).unwrap_err();
    assert!(error.message.contains("needs 5 slots on each slave, the largest slave has 4"), "{error}");
    let error = choose(&plan(&[("s", Threads::OneSlave(5), false)]), &candidates(&[4, 4])).unwrap_err();
    assert!(error.message.contains("needs 5 slots on one slave, the largest slave has 4"), "{error}");
    let both = plan(&[("wide", Threads::Count(6), false), ("narrow", Threads::Count(1), true)]);
    let error = choose(&both, &candidates(&[4, 4])).unwrap_err();
    assert!(error.message.contains("narrow") && error.message.contains("1 of 2 slaves"), "{error}");
}

#[test]
fn a_stage_of_no_threads_is_refused() {
    let error = check(&plan(&[("s", Threads::Count(0), true)])).unwrap_err();
    assert!(error.message.contains("stage s asks for 0 threads"), "{error}");
}

#[test]
fn enough_slots_go_before_local_bytes() {
    let mut candidates = candidates(&[1, 4, 4]);
    candidates[0].local_bytes = 9;
    let plan = plan(&[("wide", Threads::Count(8), false), ("narrow", Threads::Count(2), true)]);
    assert_eq!(choose(&plan, &candidates).unwrap(), [SlaveId(2), SlaveId(3)]);
}

#[test]
fn a_stage_that_names_a_slave_brings_its_job_there_or_is_refused_with_what_there_is() {
    let named = |name: &str, threads| {
        let mut plan = Plan::default();
        plan.body.stage("s", |_| Ok(())).threads(threads).on(name);
        plan
    };
    let candidates = candidates(&[4, 4, 2]);
    assert_eq!(choose(&named("h3", Threads::Count(2)), &candidates).unwrap(), [SlaveId(3)]);
    let error = choose(&named("h9", Threads::All), &candidates).unwrap_err();
    assert!(error.fault == Fault::User && error.message.ends_with("there are h1, h2, h3"), "{error}");
    let error = choose(&named("h3", Threads::Count(3)), &candidates).unwrap_err();
    assert!(error.message.contains("whose 2 slots are too few"), "{error}");
    let mut beside = named("h3", Threads::Count(1));
    beside.body.stage("wide", |_| Ok(())).threads(Threads::PerSlave(3));
    let error = choose(&beside, &candidates).unwrap_err();
    assert!(error.message.contains("h3, whose 2 slots"), "{error}");
    let mut reads = Plan::default();
    let input = reads.input(InputSpec::new("input", vec![DataPath("/f".to_owned())])).unwrap();
    reads.body.stage("s", |_| Ok(())).on("h1").input(input);
    assert!(check(&reads).unwrap_err().message.contains("passes over rows"));
}

#[test]
fn a_stage_that_visits_slaves_has_a_job_on_all_that_are_large_enough() {
    assert_eq!(chosen(&[("s", Threads::Visit(2), true)], &[2, 1, 3]), [1, 3]);
    assert_eq!(chosen(&[("s", Threads::Visit(1), false)], &[2, 1, 3]), [1, 2, 3]);
}
