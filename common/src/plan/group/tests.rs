//! What a plan promises of stages that stand together.

use crate::data::InputSpec;
use crate::data::schema::DataPath;
use crate::host::Host;
use crate::plan::{Group, Input, Plan, Table, predecessors};
use crate::worker::Worker;
use crate::{Error, Result};

struct Tables {
    plan: Plan,
    a: Table<f32>,
    b: Table<f32>,
    rows: Input,
}

fn tables() -> Tables {
    let mut plan = Plan::default();
    let (a, b) = (plan.table("a", 1), plan.table("b", 1));
    let rows = plan.input(InputSpec::new("input", vec![DataPath("rows".to_owned())])).unwrap();
    Tables { plan, a, b, rows }
}

fn nothing(_: &mut Worker<'_>) -> Result<()> {
    Ok(())
}

/// What the check says of a group.
fn checked(build: impl FnOnce(&mut Group<'_>, Table<f32>, Table<f32>, Input)) -> Result<()> {
    let Tables { mut plan, a, b, rows } = tables();
    plan.body.repeat(2, |round| {
        round.together(|group| build(group, a, b, rows));
    });
    plan.check()
}

fn refused(build: impl FnOnce(&mut Group<'_>, Table<f32>, Table<f32>, Input)) -> String {
    let error: Error = checked(build).unwrap_err();
    assert_eq!(error.fault, crate::error::Fault::User);
    error.message
}

#[test]
fn a_stage_names_only_stages_above_it_so_that_none_wait_in_a_circle() {
    let unknown = refused(|group, _, _, _| {
        group.stage("left", nothing);
        group.stage("sum", nothing).after(&["left", "right"]);
    });
    assert_eq!(unknown, "stage sum: a stage comes after stages above it in its group (left), not right");
    let circle = refused(|group, _, _, _| {
        group.stage("one", nothing).after(&["other"]);
        group.stage("other", nothing).after(&["one"]);
    });
    assert_eq!(circle, "stage one: a stage comes after stages above it in its group (there are none), not other");
    let twice = refused(|group, _, _, _| {
        group.stage("one", nothing);
        group.stage("one", nothing).after(&["one"]);
    });
    assert_eq!(twice, "two stages that stand together are called one; each needs its own name");
    let mut plan = Plan::default();
    plan.body.stage("first", nothing);
    plan.body.stage("alone", nothing).after(&["first"]);
    let alone = plan.check().unwrap_err().message;
    assert!(alone.contains("stage alone is to come after first, but stands alone"), "{alone}");
}

#[test]
fn stages_side_by_side_share_no_table_that_one_updates_and_no_rows_that_one_passes_over() {
    let table = refused(|group, a, _, _| {
        group.stage("left", nothing).reads(a);
        group.stage("right", nothing).updates(a);
    });
    let both = "stages left and right may run side by side and both";
    assert_eq!(table, format!("{both} touch table a, which one of them updates; let one come after the other"));
    let rows = refused(|group, _, _, rows| {
        group.stage("left", nothing).draws(rows, 0.5);
        group.stage("right", nothing).input(rows);
    });
    assert_eq!(rows, format!("{both} take rows of input, over which one of them passes; let one come after the other"));
    let itself = refused(|group, a, _, _| {
        group.stage("odd", nothing).reads(a).updates(a);
    });
    assert_eq!(itself, "stage odd says that it only reads table a, and that it updates it");
    // Reading together is fine, and so is what one leaves to the next, however far behind.
    checked(|group, a, b, rows| {
        group.stage("left", nothing).reads(a).updates(b).input(rows);
        group.stage("right", nothing).reads(a);
        group.stage("middle", nothing).after(&["left"]);
        group.stage("last", nothing).after(&["right", "middle"]).reads(b).updates(a).input(rows);
    })
    .unwrap();
}

#[test]
fn the_text_of_a_plan_and_its_hash_tell_who_comes_after_whom() {
    let plan = |after: &[&str]| {
        let Tables { mut plan, a, b, .. } = tables();
        plan.body.together(|group| {
            group.stage("left", nothing).updates(a);
            group.stage("right", nothing).reads(b);
            group.stage("sum", nothing).after(after);
        });
        plan
    };
    let diamond = plan(&["left", "right"]);
    let text = diamond.describe();
    let lines: Vec<&str> = text.lines().skip_while(|line| *line != "together").collect();
    assert_eq!(
        lines,
        [
            "together",
            "  stage left: a thread on each slot, no more than cores, bsp, updates a, at once",
            "  stage right: a thread on each slot, no more than cores, bsp, reads b, at once",
            "  stage sum: a thread on each slot, no more than cores, bsp, after left, right",
        ]
    );
    assert_ne!(diamond.hash(), plan(&["left"]).hash());
    assert_eq!(diamond.hash(), plan(&["left", "right"]).hash());
    let specs: Vec<_> = diamond.stages().into_iter().cloned().collect();
    assert_eq!(predecessors(&specs), [vec![], vec![], vec![0, 1]]);
}

#[test]
fn the_host_runs_each_stage_of_a_group_behind_those_that_it_names() {
    let Tables { mut plan, a, b, .. } = tables();
    plan.inputs.clear();
    plan.body.together(|group| {
        group.stage("left", move |w| w.add(a, &[0], &[1.0])).updates(a);
        group.stage("right", move |w| w.add(b, &[0], &[2.0])).updates(b);
        let sum = move |w: &mut Worker<'_>| {
            let mut left = Vec::new();
            w.get(a, &[0], &mut left)?;
            w.add(b, &[0], &left)
        };
        group.stage("sum", sum).after(&["left", "right"]).reads(a).updates(b);
    });
    let outcome = Host::new().run(&plan).unwrap();
    assert_eq!(outcome.table("b", 0..1), [3.0]);
    assert_eq!(outcome.stages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["left", "right", "sum"]);
}

#[test]
fn a_stage_of_a_group_that_touches_what_it_did_not_declare_fails_and_names_it() {
    type Touch = fn(&mut Worker<'_>, Table<f32>, Input) -> Result<()>;
    let touches: [(Touch, &str); 6] = [
        (|w, a, _| w.get(a, &[0], &mut Vec::new()), "table a: the stage stands together with others"),
        (|w, a, _| w.add(a, &[0], &[1.0]), "an update of table a: the stage stands together with others"),
        (|w, a, _| w.add_range(a, 0..1, &[1.0]), "an update of table a: the stage stands together with others"),
        (|w, _, rows| w.block(rows, 0).map(drop), "rows of input i0: the stage stands together with others"),
        (|w, _, rows| w.put_column(rows, 0, "c", vec![1.0f32]), "rows of input i0: the stage stands together"),
        (|w, _, rows| w.draw(rows).map(drop), "rows of input i0: the stage stands together with others"),
    ];
    for (touch, says) in touches {
        let Tables { mut plan, a, rows, .. } = tables();
        plan.body.together(|group| {
            group.stage("liar", move |w| touch(w, a, rows));
        });
        let error = Host::new().rows(Vec::new()).run(&plan).unwrap_err();
        assert!(error.message.starts_with(&format!("epoch 1 stage liar: {says}")), "{error}");
    }
}
