//! What a plan must hold to be taken, and what is said of one that does not.

use crate::data::InputSpec;
use crate::data::schema::DataPath;
use crate::error::Fault;
use crate::ids::{InputId, TableId};
use crate::plan::{
    Flow, Input, Plan, SaveSpec, SaveTensor, Significant, StageBuilder, Steps, Storage, Table, TableSpec, Threads,
    WIDEST,
};
use crate::value::Element;

fn path() -> DataPath {
    DataPath("rows".to_owned())
}

/// A plan with the table `weights`, the input `rows` and a stage.
fn sound() -> (Plan, Table<f32>, Input) {
    let mut plan = Plan::default();
    let (table, rows) = (plan.table("weights", 1), plan.input(InputSpec::new("rows", vec![path()])).unwrap());
    plan.body.stage("train", |_| Ok(()));
    (plan, table, rows)
}

/// Handles of a plan that has more of everything.
fn foreign() -> (Table<f32>, Input) {
    (Table::new(TableId(20), 1), Input { id: InputId(7) })
}

/// Asserts that the plan, so changed, is refused with these words, and is still told.
#[track_caller]
fn refused(says: &str, change: impl FnOnce(&mut Plan, Table<f32>, Input)) {
    let (mut plan, table, rows) = sound();
    plan.check().unwrap();
    change(&mut plan, table, rows);
    let error = plan.check().unwrap_err();
    assert_eq!((error.fault, error.exit_code()), (Fault::User, 2), "{error}");
    assert!(error.message.contains(says), "'{error}' does not say '{says}'");
    plan.describe();
    plan.hash();
}

#[track_caller]
fn refused_stage(says: &str, refine: impl FnOnce(StageBuilder<'_>, Table<f32>, Input)) {
    refused(says, |plan, table, rows| refine(plan.body.stage("bad", |_| Ok(())), table, rows));
}

fn spec(name: &str, update: &str) -> TableSpec {
    let (name, update) = (name.to_owned(), update.to_owned());
    TableSpec { name, element: f32::TYPE, width: 1, storage: Storage::Dense, update, update_params: Vec::new() }
}

fn tensor(name: &str, table: Table<f32>) -> SaveTensor {
    SaveTensor { name: name.to_owned(), table: table.id, keys: None, by_class: false }
}

fn save(plan: &mut Plan, tensors: Vec<SaveTensor>, input: Input) {
    plan.save(SaveSpec { path: path(), overwrite: false, tensors, input: input.id });
}

#[test]
fn a_stage_speaks_of_no_table_and_no_input_of_another_plan() {
    let (table, rows) = foreign();
    let one = "table t20, but the plan has 1 table, counted from 0";
    refused_stage(&format!("stage bad reads {one}"), |stage, _, _| {
        stage.reads(table);
    });
    refused_stage(&format!("stage bad updates {one}"), |stage, _, _| {
        stage.updates(table);
    });
    refused_stage(&format!("stage bad may round {one}"), |stage, _, _| {
        stage.may_round(table);
    });
    let one = "input i7, but the plan has 1 input";
    refused_stage(&format!("stage bad passes over the rows of {one}"), |stage, _, _| {
        stage.input(rows);
    });
    refused_stage(&format!("stage bad passes over the rows of {one}"), |stage, _, _| {
        stage.consumes(rows);
    });
    refused_stage(&format!("stage bad draws from {one}"), |stage, _, _| {
        stage.draws(rows, 0.5);
    });
    refused("stage left reads table t20", |plan, _, _| {
        plan.body.together(|group| {
            group.stage("left", |_| Ok(())).reads(table);
        });
    });
}

#[test]
fn an_operation_or_a_load_speaks_of_no_table_and_no_input_of_another_plan() {
    let (other, other_rows) = foreign();
    refused("zero of table t20", |plan, _, _| {
        plan.body.zero(other);
    });
    refused("scale of table t20", |plan, _, _| {
        plan.body.scale(other, 2.0);
    });
    refused("norm2 of table t20", |plan, _, _| {
        plan.body.norm2(other, "norm2");
    });
    refused("copy from table t20", |plan, table, _| {
        plan.body.copy(other, table);
    });
    refused("copy to table t20", |plan, table, _| {
        plan.body.copy(table, other);
    });
    refused("tensor w of rows is to be loaded into table t20", |plan, _, rows| {
        plan.body.load(other, &path(), "w", rows);
    });
    refused("tensor w of rows is to suit rows of input i7", |plan, table, _| {
        plan.body.load(table, &path(), "w", other_rows);
    });
    refused("zero of table t20", |plan, _, _| {
        plan.body.repeat(2, |round| {
            round.when("now", 1.0, |steps| {
                steps.zero(other);
            });
        });
    });
    refused("input held-out is to be like input i7", |plan, _, _| {
        let spec = InputSpec { like: Some(other_rows.id), ..InputSpec::new("held-out", vec![path()]) };
        plan.input(spec).unwrap();
    });
}

#[test]
fn a_model_is_of_tables_and_an_input_of_its_plan_and_its_tensors_have_names_of_their_own() {
    let (other, other_rows) = foreign();
    refused("tensor w of the model is saved from table t20", |plan, _, rows| {
        save(plan, vec![tensor("w", other)], rows)
    });
    refused("the model is saved for rows of input i7", |plan, table, _| {
        save(plan, vec![tensor("w", table)], other_rows);
    });
    refused("the plan saves a model but has no input", |plan, table, rows| {
        plan.inputs.clear();
        save(plan, vec![tensor("w", table)], rows);
    });
    refused("two tensors of the plan are called w", |plan, table, rows| {
        save(plan, vec![tensor("w", table), tensor("w", table)], rows);
    });
    refused("a tensor of the plan has an empty name", |plan, table, rows| save(plan, vec![tensor("", table)], rows));
    let (mut plan, table, rows) = sound();
    save(&mut plan, vec![tensor("w", table), tensor("v", table)], rows);
    plan.check().unwrap();
}

#[test]
fn a_name_is_neither_empty_nor_endless_nor_of_what_nobody_sees() {
    let long = "ä".repeat(201);
    let wrong = |name: &str, what: &str| match name {
        "" => format!("a {what} of the plan has an empty name"),
        "a\tb" => format!("the name of {what} \"a\\tb\" holds a control character"),
        _ => format!("the name of {what} \"{}\"... has 201 characters; at most 200", "ä".repeat(40)),
    };
    for name in ["", "a\tb", &long] {
        refused(&wrong(name, "table"), |plan, _, _| {
            plan.table::<f32>(name, 1);
        });
        refused(&wrong(name, "input"), |plan, _, _| {
            plan.input(InputSpec::new(name, vec![path()])).unwrap();
        });
        refused(&wrong(name, "stage"), |plan, _, _| {
            plan.body.stage(name, |_| Ok(()));
        });
        refused(&wrong(name, "scalar"), |plan, _, _| {
            plan.scalars.insert(name.to_owned(), 1.0);
        });
        refused(&wrong(name, "scalar"), |plan, table, _| {
            plan.body.norm2(table, name);
        });
        refused(&wrong(name, "scalar"), |plan, table, _| {
            plan.body.when(name, 1.0, |steps| {
                steps.zero(table);
            });
        });
    }
    let (mut plan, ..) = sound();
    plan.table::<f32>(&"ä".repeat(200), 1);
    // Stages may share names: what they report is then that of the last one.
    plan.body.stage("train", |_| Ok(()));
    plan.check().unwrap();
}

#[test]
fn tables_and_inputs_have_names_of_their_own() {
    refused("two tables of the plan are called weights", |plan, _, _| {
        plan.table::<f64>("weights", 2);
    });
    refused("two inputs of the plan are called rows", |plan, _, _| {
        plan.input(InputSpec::new("rows", vec![path()])).unwrap();
    });
}

#[test]
fn a_table_is_as_wide_as_a_shard_can_keep() {
    refused("table none has 0 elements per key; give it 1 to 1048576", |plan, _, _| {
        plan.table::<f32>("none", 0);
    });
    refused("table wide has 1048577 elements per key", |plan, _, _| {
        plan.table::<f32>("wide", WIDEST + 1);
    });
    let (mut plan, ..) = sound();
    plan.table::<f64>("wide", WIDEST);
    plan.check().unwrap();
}

#[test]
fn a_copy_is_between_tables_alike() {
    refused("table weights (f32 x 1) can't be copied to wide (f32 x 2): both must be alike", |plan, table, _| {
        let wide = plan.table("wide", 2);
        plan.body.copy(table, wide);
    });
    refused("table weights (f32 x 1) can't be copied to exact (f64 x 1)", |plan, table, _| {
        let id = plan.table::<f64>("exact", 1).id;
        plan.body.copy(table, Table::new(id, 1));
    });
}

#[test]
fn a_table_is_loaded_only_where_adds_leave_what_is_added() {
    refused("table steps can't be loaded, since its update function is sgd", |plan, _, rows| {
        let table = plan.table_with::<f32>(TableSpec { update_params: vec![0.1], ..spec("steps", "sgd") });
        plan.body.load(table, &path(), "w", rows);
    });
}

#[test]
fn a_stage_has_workers_and_no_range_falls() {
    for none in [
        Threads::Count(0),
        Threads::PerSlave(0),
        Threads::OneSlave(0),
        Threads::Visit(0),
        Threads::Range(0, 4),
        Threads::Range(0, 0),
    ] {
        refused_stage("stage bad asks for 0 threads; give at least 1", |stage, _, _| {
            stage.threads(none);
        });
    }
    refused_stage("stage bad asks for at least 5 and at most 4 threads", |stage, _, _| {
        stage.threads(Threads::Range(5, 4));
    });
    refused_stage("stage bad is to run on a slave with an empty name", |stage, _, _| {
        stage.on("");
    });
    refused_stage("stage bad is to run on h1 alone, but passes over rows", |stage, _, rows| {
        stage.on("h1").input(rows);
    });
}

#[test]
fn a_share_of_the_rows_is_above_0_and_at_most_1() {
    for share in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
        refused_stage(
            &format!("stage bad draws {share} of the rows of rows; give a share above 0"),
            |stage, _, rows| {
                stage.draws(rows, share);
            },
        );
    }
    let (mut plan, _, rows) = sound();
    plan.body.stage("all", |_| Ok(())).draws(rows, 1.0);
    plan.check().unwrap();
}

#[test]
fn a_filter_holds_back_something_for_a_time() {
    for share in [-0.1, f64::NAN, f64::INFINITY] {
        let filter = Some(Significant { share, clocks: 8 });
        refused_stage(
            &format!("stage bad: a filter holds back less than a share of a value, from 0; {share}"),
            |s, _, _| {
                s.filter(filter);
            },
        );
    }
    for clocks in [0, 1001] {
        let filter = Some(Significant { share: 0.1, clocks });
        refused_stage(&format!("for 1 to 1000 clocks, not {clocks}"), |stage, _, _| {
            stage.filter(filter);
        });
    }
}

#[test]
fn a_filter_has_a_table_of_floats_whose_updates_add_up() {
    let filter = Some(Significant { share: 0.1, clocks: 8 });
    let says =
        "stage bad is to hold back small updates (filter significant:0.1:8), but updates no table where that can be";
    refused_stage(says, |stage, table, _| {
        stage.reads(table).filter(filter);
    });
    refused(says, |plan, _, _| {
        let counts = plan.table::<u32>("counts", 1);
        plan.body.stage("bad", |_| Ok(())).updates(counts).filter(filter);
    });
    refused(says, |plan, _, _| {
        let newest = plan.table_with::<f32>(spec("newest", "assign"));
        plan.body.stage("bad", |_| Ok(())).updates(newest).filter(filter);
    });
    refused(says, |plan, _, _| {
        plan.body.together(|group| {
            group.stage("bad", |_| Ok(())).filter(filter);
        });
    });
    let (mut plan, table, _) = sound();
    let own = plan.table_with::<f32>(spec("own", "a-users-own"));
    plan.body.stage("any", |_| Ok(())).filter(filter);
    plan.body.stage("said", |_| Ok(())).updates(table).filter(filter);
    plan.body.stage("own", |_| Ok(())).updates(own).filter(filter);
    plan.check().unwrap();
}

#[test]
fn what_is_repeated_or_done_at_times_holds_a_step() {
    refused("a repeat of at most 3 times holds no step", |plan, _, _| {
        plan.body.repeat(3, |_| {});
    });
    refused("what is done when now is 1 holds no step", |plan, _, _| {
        plan.body.when("now", 1.0, |_| {});
    });
    refused("what is done when now is 1 holds no step", |plan, _, _| plan.when("now", 1.0, |_| Ok(())).unwrap());
    refused("a repeat of at most 3 times holds no step", |plan, _, _| {
        plan.body.repeat(3, |round| {
            round.when("now", 1.0, |steps| {
                steps.repeat(2, |_| {});
            });
        });
    });
    refused("stages are to stand together, but there are none", |plan, _, _| {
        plan.body.together(|_| {});
    });
    let (mut plan, ..) = sound();
    plan.body.repeat(0, |round| {
        round.stage("never", |_| Ok(()));
    });
    plan.check().unwrap();
}

#[test]
fn what_is_rebuilt_stands_alone_and_holds_neither_loops_nor_conditions_nor_loads() {
    let stage = |steps: &mut Steps| _ = steps.stage("counts", |_| Ok(()));
    let inside = "put them beside these";
    refused(inside, |plan, _, _| _ = plan.body.repeat(2, |round| _ = round.rebuilt(stage)));
    refused(inside, |plan, _, _| _ = plan.body.when("few", 1.0, |few| _ = few.rebuilt(stage)));
    refused(inside, |plan, _, _| _ = plan.body.rebuilt(|steps| _ = steps.rebuilt(stage)));
    let holds = "take stages, operations and decisions";
    refused(holds, |plan, _, _| _ = plan.body.rebuilt(|steps| _ = steps.repeat(2, stage)));
    refused(holds, |plan, _, _| _ = plan.body.rebuilt(|steps| _ = steps.when("few", 1.0, stage)));
    refused(holds, |plan, table, rows| _ = plan.body.rebuilt(|steps| _ = steps.load(table, &path(), "weights", rows)));
    refused("holds no step", |plan, _, _| _ = plan.body.rebuilt(|_| ()));
    let (mut plan, table, _) = sound();
    plan.body.rebuilt(|steps| {
        stage(steps.zero(table));
        steps.decide(|_| Ok(Flow::Next));
    });
    plan.check().unwrap();
    let hash = plan.hash();
    let resumable = |resumable: bool| {
        let mut plan = plan.clone();
        if resumable {
            plan.body.resumable(3, stage)
        } else {
            plan.body.repeat(3, stage)
        };
        plan.hash()
    };
    assert!(resumable(true) != resumable(false) && hash != resumable(true), "nodes must agree on it");
}

#[test]
fn ids_do_not_wrap() {
    refused("the plan has 65537 tables; at most 65536 are allowed", |plan, _, _| {
        (0..1 << 16).for_each(|i| {
            plan.table::<f32>(&format!("t{i}"), 1);
        });
        assert_eq!(plan.table::<f32>("last", 1).id, TableId(u16::MAX));
        plan.tables.pop();
    });
    refused("the plan has 65537 inputs; at most 65536 are allowed", |plan, _, _| {
        for i in 0..1 << 16 {
            plan.input(InputSpec::new(&format!("i{i}"), vec![path()])).unwrap();
        }
    });
}

#[test]
fn a_plan_with_handles_of_another_one_is_told_by_their_ids() {
    let (mut plan, table, _) = sound();
    let (other, rows) = foreign();
    plan.body.copy(other, table);
    plan.body.stage("far", |_| Ok(())).reads(other).input(rows).draws(rows, 0.5);
    let text = plan.describe();
    assert!(text.contains("copy t20 to weights"), "{text}");
    assert!(text.contains("rows of i7, draws 0.5 of the rows of i7, reads t20"), "{text}");
}

#[test]
fn columns_that_go_with_checkpoints_are_of_rows_that_stay_and_are_named_once() {
    let mut plan = sound().0;
    let rows = Input { id: InputId(0) };
    plan.keep_column(rows, "dual");
    plan.keep_column(rows, "way");
    plan.check().unwrap();
    let with = plan.hash();
    assert!(plan.describe().contains("column dual of rows, in checkpoints\n"), "{}", plan.describe());
    plan.columns.pop();
    assert_ne!(plan.hash(), with);
    refused("column dual is kept of rows of input i7", |plan, _, _| plan.keep_column(foreign().1, "dual"));
    refused("a column of the plan has an empty name", |plan, _, rows| plan.keep_column(rows, ""));
    refused("column dual of rows is kept twice", |plan, _, rows| {
        plan.keep_column(rows, "dual");
        plan.keep_column(rows, "dual");
    });
    refused("column dual is kept of rows of rows, which a stage consumes", |plan, _, rows| {
        plan.keep_column(rows, "dual");
        plan.body.stage("stream", |_| Ok(())).consumes(rows);
    });
}

#[test]
fn what_is_rebuilt_is_changed_nowhere_else() {
    let made = |steps: &mut Steps, table| _ = steps.stage("counts", |_| Ok(())).updates(table);
    let says = "table weights is updated by what is to be rebuilt and changed elsewhere too";
    refused(says, |plan, table, _| {
        plan.body.rebuilt(|steps| made(steps, table));
        plan.body.resumable(3, |round| _ = round.stage("learn", |_| Ok(())).updates(table));
    });
    refused(says, |plan, table, _| {
        plan.body.rebuilt(|steps| made(steps, table));
        plan.body.zero(table);
    });
    let (mut plan, table, _) = sound();
    let copy = plan.table::<f32>("copy", 1);
    plan.body.rebuilt(|steps| {
        made(steps.zero(table), table);
        steps.copy(table, copy);
    });
    plan.body.resumable(3, |round| _ = round.stage("learn", |_| Ok(())).reads(table).updates(copy));
    plan.check().unwrap();
}
