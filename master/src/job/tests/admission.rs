//! Which slaves a job uses, and which jobs are refused.

use crate::job::admission::{Candidate, check, choose};
use flexps_common::data::InputSpec;
use flexps_common::data::schema::DataPath;
use flexps_common::error::Fault;
use flexps_common::ids::SlaveId;
use flexps_common::plan::{Plan, Step, Threads};
use flexps_common::wire::slaves::SlaveLine;

/// A slave that has its machine for itself.
pub(super) fn candidate(id: u32, slots: u32) -> Candidate {
    Candidate {
        id: SlaveId(id),
        name: format!("h{id}").into(),
        slots,
        free: slots,
        memory: u64::MAX,
        memory_left: u64::MAX,
        local_bytes: 0,
        machine: format!("h{id}").into(),
        cores: slots,
    }
}

fn candidates(slots: &[u32]) -> Vec<Candidate> {
    (1..).zip(slots).map(|(id, slots)| candidate(id, *slots)).collect()
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
    choose(&plan(stages), &candidates(slots), u64::MAX).unwrap().into_iter().map(|s| s.0).collect()
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
fn no_more_slaves_are_used_than_a_user_allows() {
    let of = |stages: &[(&str, Threads, bool)], slots: &[u32], most| {
        let plan = Plan { most_slaves: Some(most), ..plan(stages) };
        choose(&plan, &candidates(slots), u64::MAX).map(|slaves| slaves.into_iter().map(|s| s.0).collect::<Vec<_>>())
    };
    // A few threads over rows are beside one another, on a slave that has slots for them.
    assert_eq!(of(&[("s", Threads::Count(2), true)], &[2, 2, 2], 1).unwrap(), [1]);
    assert_eq!(of(&[("s", Threads::Count(3), true)], &[2, 4, 2], 1).unwrap(), [2]);
    assert_eq!(of(&[("s", Threads::All, true)], &[2, 4, 2], 2).unwrap(), [1, 2]);
    assert_eq!(of(&[("s", Threads::All, true)], &[2, 2], 9).unwrap(), [1, 2]);
    let refused = of(&[("s", Threads::Count(5), true)], &[2, 4, 2], 1).unwrap_err();
    assert_eq!(refused.fault, Fault::User);
    assert_eq!(
        refused.message,
        "stage s needs 5 slots, but the job may use no more than 1 of 3 slaves (--slaves), which have 4 slots; allow more of \
         them, or give it at most 4 threads"
    );
    let mut named = plan(&[]);
    for slave in ["h1", "h2"] {
        named.body.stage(slave, |_| Ok(())).threads(Threads::Count(1)).on(slave);
    }
    named.most_slaves = Some(1);
    let refused = choose(&named, &candidates(&[2, 2]), u64::MAX).unwrap_err();
    assert!(refused.message.contains("to run on h1, h2, but the job may use no more than 1"), "{refused}");
    let beyond = of(&[("s", Threads::Count(9), true)], &[2, 4, 2], 1).unwrap_err();
    assert!(beyond.message.contains("the cluster has 8"), "{beyond}");
}

#[test]
fn fewer_slaves_are_those_with_free_slots_and_the_most_local_bytes() {
    let mut candidates = candidates(&[4, 4, 4]);
    candidates[0].free = 0;
    candidates[2].local_bytes = 9;
    let plan = plan(&[("s", Threads::Count(1), true)]);
    assert_eq!(choose(&plan, &candidates, u64::MAX).unwrap(), [SlaveId(3)]);
    candidates[2].free = 0;
    assert_eq!(choose(&plan, &candidates, u64::MAX).unwrap(), [SlaveId(2)]);
}

#[test]
fn a_job_that_can_never_fit_is_refused_with_the_numbers() {
    let error =
        choose(&plan(&[("full-gradient", Threads::Count(12), true)]), &candidates(&[4, 4]), u64::MAX).unwrap_err();
    assert_eq!(error.fault, Fault::User);
    assert!(error.message.starts_with("stage full-gradient needs 12 slots, the cluster has 8"), "{error}");
    let error = choose(&plan(&[("s", Threads::PerSlave(5), true)]), &candidates(&[4, 2]), u64::MAX).unwrap_err();
    assert!(error.message.contains("needs 5 slots on each slave, the largest slave has 4"), "{error}");
    let error = choose(&plan(&[("s", Threads::OneSlave(5), false)]), &candidates(&[4, 4]), u64::MAX).unwrap_err();
    assert!(error.message.contains("needs 5 slots on one slave, the largest slave has 4"), "{error}");
    let both = plan(&[("wide", Threads::Count(6), false), ("narrow", Threads::Count(1), true)]);
    let error = choose(&both, &candidates(&[4, 4]), u64::MAX).unwrap_err();
    assert!(error.message.contains("narrow") && error.message.contains("1 of 2 slaves"), "{error}");
}

/// Slaves of (slots, GiB of memory).
fn with_memory(slaves: &[(u32, u64)]) -> Vec<Candidate> {
    let slots: Vec<u32> = slaves.iter().map(|(slots, _)| *slots).collect();
    let mut all = candidates(&slots);
    all.iter_mut().zip(slaves).for_each(|(c, (_, gib))| (c.memory, c.memory_left) = (gib << 30, gib << 30));
    all
}

/// The slaves of a job whose stages need so many GiB.
fn chosen_by_memory(stages: &[(&str, Threads, bool, u64)], slaves: &[Candidate]) -> Result<Vec<u32>, String> {
    let plain: Vec<_> = stages.iter().map(|(name, threads, reads, _)| (*name, *threads, *reads)).collect();
    let mut plan = plan(&plain);
    for (step, stage) in plan.body.0.iter_mut().zip(stages) {
        let Step::Stage(spec) = step else { panic!("a step that is no stage") };
        spec.memory = stage.3 << 30;
    }
    choose(&plan, slaves, u64::MAX).map(|ids| ids.into_iter().map(|s| s.0).collect()).map_err(|e| e.message)
}

#[test]
fn a_job_is_on_slaves_with_the_memory_that_its_stages_need() {
    let slaves = with_memory(&[(4, 2), (4, 8), (2, 16)]);
    let chosen = |stages: &[(&str, Threads, bool, u64)]| chosen_by_memory(stages, &slaves).unwrap();
    // A stage that runs on each slave keeps its job from those that are too small, one on a single slave does not.
    assert_eq!(chosen(&[("rows", Threads::Auto, true, 4)]), [2, 3]);
    assert_eq!(chosen(&[("all", Threads::All, false, 9)]), [3]);
    assert_eq!(chosen(&[("rows", Threads::All, true, 1), ("own", Threads::OneSlave(2), false, 9)]), [1, 2, 3]);
    assert_eq!(chosen(&[("own", Threads::OneSlave(4), false, 4)]), [2]);
    assert_eq!(chosen(&[("count", Threads::Count(1), false, 9)]), [3]);
    // Where no slave is large enough for all stages, there is one for each.
    assert_eq!(chosen(&[("wide", Threads::OneSlave(4), false, 1), ("large", Threads::OneSlave(1), false, 9)]).len(), 3);
}

#[test]
fn a_slave_whose_memory_is_asked_for_comes_after_one_that_is_free() {
    let mut slaves = with_memory(&[(8, 8), (4, 8)]);
    let one = [("s", Threads::Count(1), false, 5)];
    assert_eq!(chosen_by_memory(&one, &slaves).unwrap(), [1]);
    slaves[0].memory_left = 3 << 30;
    assert_eq!(chosen_by_memory(&one, &slaves).unwrap(), [2]);
}

#[test]
fn a_job_that_can_never_fit_by_memory_is_refused_with_the_numbers() {
    let slaves = with_memory(&[(4, 2), (2, 8)]);
    let refused = |stages: &[(&str, Threads, bool, u64)]| chosen_by_memory(stages, &slaves).unwrap_err();
    let much = "stage s needs 9.0 GiB of memory on";
    let most = "the largest slave has 8.0 GiB; ask for at most 8.0 GiB";
    assert_eq!(refused(&[("s", Threads::Count(1), false, 9)]), format!("{much} one slave, {most}"));
    assert_eq!(refused(&[("s", Threads::Count(2), true, 9)]), format!("{much} each slave, {most}"));
    let both = refused(&[("s", Threads::OneSlave(4), false, 4)]);
    assert!(both.starts_with("stage s needs 4 slots and 4.0 GiB of memory on one slave, no slave"), "{both}");
    let few = refused(&[("s", Threads::Count(3), false, 4)]);
    assert!(few.contains("needs 3 slots and 4.0 GiB of memory") && few.contains("have 2 slots"), "{few}");
    let each = refused(&[("a", Threads::PerSlave(4), false, 0), ("b", Threads::All, false, 4)]);
    assert!(each.contains("both the 4 slots and the 4.0 GiB"), "{each}");
    let mut named = plan(&[]);
    named.body.stage("s", |_| Ok(())).threads(Threads::Count(1)).on("h1").memory(3 << 30);
    let error = choose(&named, &slaves, u64::MAX).unwrap_err().message;
    assert_eq!(error, "stage s is to run on h1 and needs 3.0 GiB of memory, it has 2.0 GiB");
}

#[test]
fn enough_slots_go_before_local_bytes() {
    let mut candidates = candidates(&[1, 4, 4]);
    candidates[0].local_bytes = 9;
    let plan = plan(&[("wide", Threads::Count(8), false), ("narrow", Threads::Count(2), true)]);
    assert_eq!(choose(&plan, &candidates, u64::MAX).unwrap(), [SlaveId(2), SlaveId(3)]);
}

#[test]
fn a_stage_that_names_a_slave_brings_its_job_there_or_is_refused_with_what_there_is() {
    let named = |name: &str, threads| {
        let mut plan = Plan::default();
        plan.body.stage("s", |_| Ok(())).threads(threads).on(name);
        plan
    };
    let candidates = candidates(&[4, 4, 2]);
    assert_eq!(choose(&named("h3", Threads::Count(2)), &candidates, u64::MAX).unwrap(), [SlaveId(3)]);
    let error = choose(&named("h9", Threads::All), &candidates, u64::MAX).unwrap_err();
    assert!(error.fault == Fault::User && error.message.ends_with("there are h1, h2, h3"), "{error}");
    let error = choose(&named("h3", Threads::Count(3)), &candidates, u64::MAX).unwrap_err();
    assert!(error.message.contains("whose 2 slots are too few"), "{error}");
    let mut beside = named("h3", Threads::Count(1));
    beside.body.stage("wide", |_| Ok(())).threads(Threads::PerSlave(3));
    let error = choose(&beside, &candidates, u64::MAX).unwrap_err();
    assert!(error.message.contains("h3, whose 2 slots"), "{error}");
}

#[test]
fn a_stage_that_visits_slaves_has_a_job_on_all_that_are_large_enough() {
    assert_eq!(chosen(&[("s", Threads::Visit(2), true)], &[2, 1, 3]), [1, 3]);
    assert_eq!(chosen(&[("s", Threads::Visit(1), false)], &[2, 1, 3]), [1, 2, 3]);
}

#[test]
fn what_a_client_checks_is_refused_as_the_master_refuses_it() {
    let listed = |slots: &[u32]| -> Vec<SlaveLine> {
        let line = |(id, slots): (u32, &u32)| SlaveLine {
            id: SlaveId(id),
            name: format!("h{id}"),
            host: format!("h{id}"),
            slots: *slots,
            // What runs there now ends some day.
            busy: *slots,
            memory: None,
            memory_asked: 0,
            silent: 0.0,
            pid: 1,
        };
        (1..).zip(slots).map(line).collect()
    };
    for (threads, slots, fits) in [
        (Threads::PerSlave(4), &[4, 2][..], true),
        (Threads::PerSlave(5), &[4, 2], false),
        (Threads::Count(6), &[4, 2], true),
        (Threads::Count(7), &[4, 2], false),
    ] {
        let plan = plan(&[("s", threads, false)]);
        let error = choose(&plan, &candidates(slots), u64::MAX).err();
        assert_eq!(check(&plan, &listed(slots)).err().map(|e| e.message), error.map(|e| e.message));
        assert_eq!(check(&plan, &listed(slots)).is_ok(), fits, "{threads:?}");
    }
    // Slaves may still come.
    assert!(check(&plan(&[("s", Threads::Count(7), false)]), &[]).is_ok());
}
