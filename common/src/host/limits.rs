//! What the one-thread host refuses as the engine does, and what it survives.

use super::*;
use crate::error::Fault;
use crate::ids::{InputId, TableId};
use crate::metrics::Metric;
use crate::plan::{Input, Storage, Table, TableSpec};
use crate::worker::{Push, Worker};

/// What a stage of this function leads to, on one slave of so many slots.
fn run(slots: usize, work: impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static) -> Result<Outcome> {
    let mut plan = Plan::default();
    plan.body.stage("s", work);
    Host::cluster(1, slots).run(&plan)
}

fn rows(plan: &mut Plan) -> Input {
    let paths = vec![crate::data::schema::DataPath("rows".to_owned())];
    plan.input(crate::data::InputSpec::new("rows", paths)).unwrap()
}

fn blocks(count: usize) -> Vec<Block> {
    vec![Block { labels: vec![1.0], offsets: vec![0, 1], indices: vec![3], values: None }; count]
}

#[test]
fn a_panic_names_the_stage_the_worker_and_its_text_and_keeps_nobody_waiting() {
    for slots in [1, 3] {
        let error = run(slots, move |worker| {
            if worker.place.index == slots - 1 {
                panic!("worker {} fell", worker.place.index);
            }
            loop {
                worker.clock()?;
            }
        });
        let error = error.unwrap_err();
        let last = slots - 1;
        assert_eq!(error.message, format!("epoch 1 stage s: worker {last} panicked: worker {last} fell"));
        assert_eq!(error.fault, Fault::Bug);
    }
}

#[test]
fn an_update_function_that_panics_and_a_decision_that_does_are_errors() {
    #[derive(Clone)]
    struct Falls;
    impl crate::updates::Update for Falls {
        fn apply<T: crate::value::Element>(&self, _: &mut [T], _: &[T]) {
            panic!("no such update");
        }
    }
    for (slots, clocks) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut plan = Plan::default();
        let table = plan.table_with::<f32>(TableSpec { update: "falls".to_owned(), ..spec(Storage::Dense) });
        plan.body.stage("s", move |worker| {
            worker.add(table, &[1], &[1.0, 1.0])?;
            (0..clocks).try_for_each(|_| worker.clock())
        });
        let updates = Updates::new().with("falls", |_| Ok(Falls));
        let error = Host::cluster(1, slots).updates(updates).run(&plan).unwrap_err();
        assert!(error.message.ends_with("panicked: no such update"), "{error}");
    }
    let mut plan = Plan::default();
    plan.body.decide(|_| panic!("no such metric"));
    let error = Host::new().run(&plan).unwrap_err();
    assert_eq!(error.message, "a decision of the plan panicked: no such metric");
}

#[test]
fn a_sum_that_a_sibling_does_not_come_to_is_an_error_for_all() {
    let says = "no worker can go on: 1 wait in clock, 1 in sum_local for a sibling";
    let meet = |worker: &mut Worker<'_>| match worker.place.local_index {
        0 => worker.sum_local(&mut [1.0f32]),
        _ => worker.clock(),
    };
    let error = run(2, meet).unwrap_err();
    assert!(error.message.contains(says), "{error}");
    // Another slave's workers are in nobody's way while they run, and can't help once they have ended.
    let mut plan = Plan::default();
    plan.body.stage("s", move |worker| {
        if worker.place.index < 2 {
            return meet(worker);
        }
        (0..100).try_for_each(|_| worker.sum_local(&mut [1.0f32]))
    });
    let error = Host::cluster(2, 2).run(&plan).unwrap_err();
    assert!(error.message.contains(says), "{error}");
    for _ in 0..20 {
        let both = |worker: &mut Worker<'_>| {
            for _ in 0..50 {
                worker.sum_local(&mut [1.0f32])?;
                worker.clock()?;
            }
            Ok(())
        };
        run(3, both).unwrap();
    }
}

fn spec(storage: Storage) -> TableSpec {
    let (name, element, update) = ("t".to_owned(), crate::value::Type::F32, "add".to_owned());
    TableSpec { name, element, width: 2, storage, update, update_params: Vec::new() }
}

#[test]
fn keys_may_be_anywhere() {
    for storage in [Storage::Sparse, Storage::Dense] {
        let mut plan = Plan::default();
        let table = plan.table_with::<f32>(spec(storage));
        let other = plan.table::<f32>("other", 2);
        plan.body.stage("s", move |worker| {
            worker.add(table, &[5, u32::MAX], &[1.0, 2.0, 3.0, 4.0])?;
            worker.clock()?;
            let mut seen = Vec::new();
            worker.get(table, &[4, 5, u32::MAX], &mut seen)?;
            assert_eq!(seen, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
            worker.get_range(table, 7..7, &mut seen)?;
            assert!(seen.is_empty());
            Ok(())
        });
        plan.body.copy(table, other);
        plan.body.scale(table, 2.0);
        plan.body.norm2(table, "norm2");
        plan.body.norm2(other, "other");
        let outcome = Host::new().run(&plan).unwrap();
        assert_eq!(outcome.table("t", 4..6), [0.0, 0.0, 2.0, 4.0]);
        assert_eq!((outcome.progress.scalars["norm2"], outcome.progress.scalars["other"]), (120.0, 30.0));
    }
}

#[test]
fn a_table_of_hashed_keys_takes_no_more_than_they_do() {
    let mut plan = Plan::default();
    let table = plan.table_with::<f32>(spec(Storage::Sparse));
    plan.body.stage("s", move |worker| {
        let keys: Vec<u32> = (0..1 << 16).map(|i| i << 16).collect();
        worker.add(table, &keys, &vec![1.0; 2 * keys.len()])
    });
    plan.body.norm2(table, "norm2");
    assert_eq!(Host::new().run(&plan).unwrap().progress.scalars["norm2"], f64::from(2 << 16));
}

#[test]
fn rows_that_a_stage_consumes_are_there_once() {
    for slots in [1, 2] {
        let mut plan = Plan::default();
        let input = rows(&mut plan);
        let work = move |worker: &mut Worker<'_>| {
            let mut pass = worker.pass(input);
            pass.next(worker)?;
            // A second pass goes on where the first one is, and a third finds nothing.
            for (name, count) in [("second", 1), ("third", 0)] {
                let (mut pass, mut seen) = (worker.pass(input), 0);
                while pass.next(worker)?.is_some() {
                    seen += 1;
                    worker.report(name, Metric::Count(1));
                }
                assert!(seen >= count && (count > 0 || seen == 0), "{seen} blocks in the {name} pass");
            }
            let again = worker.block(input, worker.place.local_index).unwrap_err();
            assert!(again.message.contains("was asked for again, but its stage consumes the rows"), "{again}");
            let numbered = worker.key_map(input).unwrap_err();
            assert!(numbered.message.contains("are not numbered"), "{numbered}");
            Ok(())
        };
        plan.body.stage("s", work).consumes(input);
        let outcome = Host::cluster(1, slots).rows(blocks(5)).run(&plan).unwrap();
        assert_eq!(outcome.progress.metric("s", "second").unwrap(), (5 - slots) as f64);
    }
}

#[test]
fn rows_are_drawn_only_where_a_stage_says_so() {
    for draws in [false, true] {
        let mut plan = Plan::default();
        let input = rows(&mut plan);
        let stage = plan.body.stage("s", move |worker| worker.draw(input).map(drop));
        if draws {
            stage.draws(input, 0.5);
        }
        let drawn = Host::new().rows(blocks(2)).run(&plan).map(drop);
        let says = "epoch 1 stage s: no stage draws from input i0";
        assert_eq!(drawn.map_err(|e| e.message), if draws { Ok(()) } else { Err(says.to_owned()) });
    }
}

#[test]
fn a_stage_on_one_slave_by_name_is_there_alone() {
    let mut plan = Plan::default();
    let work = |worker: &mut Worker<'_>| {
        worker.report("slaves", Metric::Max(worker.place.slaves as f64));
        worker.report("workers", Metric::Count(1));
        Ok(())
    };
    plan.body.stage("s", work).on("h7");
    let outcome = Host::cluster(3, 2).run(&plan).unwrap();
    let seen = ["slaves", "workers"].map(|name| outcome.progress.metric("s", name).unwrap());
    assert_eq!(seen, [1.0, 2.0]);
}

#[test]
fn the_round_again_is_asked_for_inside_a_repeat() {
    let mut plan = Plan::default();
    plan.body.decide(|_| Ok(Flow::Again));
    plan.body.stage("never", |_| Ok(()));
    let error = Host::new().run(&plan).unwrap_err();
    assert_eq!(error.message, "a decision outside of any repeat asked for the round again");
    let mut plan = Plan::default();
    plan.body.decide(|_| Ok(Flow::Stop("enough".to_owned())));
    assert_eq!(Host::new().run(&plan).unwrap().stopped.as_deref(), Some("enough"));
    let mut plan = Plan::default();
    plan.body.repeat(2, |outer| {
        outer.repeat(10, |inner| {
            inner.stage("s", |_| Ok(()));
            inner.decide(|_| Ok(Flow::Stop("inner".to_owned())));
        });
    });
    let outcome = Host::new().run(&plan).unwrap();
    assert_eq!((outcome.stopped, outcome.epochs.len()), (None, 2), "the outer one made all of its rounds");
}

#[test]
fn handles_of_another_plan_are_errors() {
    let mut other = Plan::default();
    for i in 0..20 {
        other.table::<f32>(&i.to_string(), 1);
    }
    let table: Table<f32> = other.table("far", 1);
    type Call = fn(&mut Worker<'_>, Table<f32>) -> Result<()>;
    let calls: [Call; 6] = [
        |w, t| w.get(t, &[1], &mut Vec::new()),
        |w, t| w.peek(t, &[1], &mut Vec::new()),
        |w, t| w.add(t, &[1], &[1.0]),
        |w, t| w.get_range(t, 0..2, &mut Vec::new()),
        |w, t| w.add_range(t, 0..2, &[1.0, 1.0]),
        |w, t| w.add_many(&[Push { table: t.id, keys: &[1], values: crate::value::Values::F32(&[1.0]) }]),
    ];
    for call in calls {
        let error = run(1, move |worker| call(worker, table)).unwrap_err();
        assert_eq!(error.message, "epoch 1 stage s: no table t20");
    }
    let input = Input { id: InputId(7) };
    let error = run(1, move |worker| worker.pass(input).next(worker).map(drop)).unwrap_err();
    assert_eq!(error.message, "epoch 1 stage s: no input i7");
    for op in [
        TableOp::Zero { table: table.id },
        TableOp::Scale { table: table.id, by: 2.0 },
        TableOp::Norm2 { table: table.id, into: "norm2".to_owned() },
        TableOp::Copy { from: TableId(0), to: table.id },
        TableOp::Copy { from: table.id, to: TableId(0) },
    ] {
        let mut plan = Plan::default();
        plan.table::<f32>("t", 1);
        plan.body.decide(move |progress| {
            progress.ops.push(op.clone());
            Ok(Flow::Next)
        });
        let error = Host::new().run(&plan).unwrap_err();
        assert!(error.message.contains("table t20, but the plan has 1 table"), "{error}");
    }
}

#[test]
fn values_of_another_type_than_the_tables_are_refused_where_they_are_given() {
    let mut plan = Plan::default();
    let table = plan.table::<f32>("t", 1);
    plan.body.stage("s", move |worker| {
        let values = crate::value::Values::I32(&[1]);
        let error = worker.add_many(&[Push { table: table.id, keys: &[1], values }]).unwrap_err();
        assert_eq!(error.message, "table t holds f32, not i32");
        Ok(())
    });
    Host::new().run(&plan).unwrap();
}

#[test]
fn a_metric_of_two_kinds_is_refused_by_name() {
    let error = run(2, |worker| {
        let kind = if worker.place.index == 0 { Metric::Sum(1.0) } else { Metric::Count(1) };
        worker.report("loss", kind);
        Ok(())
    });
    let error = error.unwrap_err();
    assert!(
        error.message.starts_with("epoch 1 stage s: metric loss is reported as values of several kinds"),
        "{error}"
    );
}
