//! What the one-thread host promises of workers, clocks, steps and rows.

use super::*;
use crate::metrics::Metric;
use crate::plan::{Consistency, Table, TableOp};
use crate::worker::{Touch, Worker};

fn block(rows: &[(f32, &[(u32, f32)])]) -> Block {
    let mut offsets = vec![0];
    let (mut indices, mut values) = (Vec::new(), Vec::new());
    for (_, row) in rows {
        indices.extend(row.iter().map(|(k, _)| *k));
        values.extend(row.iter().map(|(_, v)| *v));
        offsets.push(indices.len() as u32);
    }
    Block { labels: rows.iter().map(|(y, _)| *y).collect(), offsets, indices, values: Some(values) }
}

fn input(plan: &mut Plan) -> crate::plan::Input {
    let paths = vec![crate::data::schema::DataPath("rows".to_owned())];
    let spec = crate::data::InputSpec::new("input", paths);
    plan.input(spec).unwrap()
}

#[test]
fn a_worker_sees_the_others_updates_of_earlier_clocks_and_no_later_ones() {
    let mut plan = Plan::default();
    let table = plan.table::<f32>("t", 1);
    plan.body.stage("count", move |worker| {
        let mut seen = Vec::new();
        for clock in 0..20u32 {
            worker.get(table, &[7], &mut seen)?;
            assert_eq!(seen[0], (clock * 4) as f32);
            worker.add(table, &[7], &[1.0])?;
            worker.clock()?;
        }
        Ok(())
    });
    let outcome = Host::cluster(2, 2).run(&plan).unwrap();
    assert_eq!(outcome.table("t", 7..8), [80.0]);
}

#[test]
fn a_failing_worker_ends_its_siblings_and_names_the_stage() {
    let mut plan = Plan::default();
    plan.body.stage("bad", |worker| {
        if worker.place.index == 1 {
            return Err(Error::data("no good"));
        }
        loop {
            worker.clock()?;
        }
    });
    let error = Host::cluster(1, 3).run(&plan).unwrap_err();
    assert_eq!(error.message, "epoch 1 stage bad: no good");
}

#[test]
fn a_stage_that_updates_what_it_only_reads_fails() {
    for range in [false, true] {
        let mut plan = Plan::default();
        let (read, other) = (plan.table::<f32>("read", 1), plan.table::<f32>("other", 1));
        let stage = plan.body.stage("liar", move |worker| {
            worker.add(other, &[1], &[1.0])?;
            if range { worker.add_range(read, 1..2, &[1.0]) } else { worker.add(read, &[1], &[1.0]) }
        });
        stage.reads(read);
        let error = Host::cluster(1, 1).run(&plan).unwrap_err();
        assert!(error.message.contains("an update of table read, which the stage only reads"), "{error}");
    }
}

#[test]
fn again_does_not_count_a_round_and_stop_ends_the_repeat() {
    let mut plan = Plan::default();
    let table = plan.table::<u32>("runs", 1);
    plan.body.repeat(10, |round| {
        round.stage("run", move |worker| worker.add(table, &[0], &[1]));
        round.decide(move |progress| {
            let tries = progress.scalar("tries", 0.0) + 1.0;
            progress.set("tries", tries);
            progress.objective = Some(tries);
            if tries == 2.0 {
                return Ok(Flow::Again);
            }
            progress.ops.push(TableOp::Scale { table: table.id, by: 2.0 });
            Ok(if progress.epoch == 2 { Flow::Stop("enough".to_owned()) } else { Flow::Next })
        });
    });
    let outcome = Host::new().run(&plan).unwrap();
    let rounds: Vec<_> = outcome.stages.iter().map(|(_, round)| *round).collect();
    assert_eq!(rounds, [0, 1, 1, 2]);
    assert_eq!(outcome.epochs.iter().map(|e| e.objective).collect::<Vec<_>>(), [Some(1.0), Some(3.0), Some(4.0)]);
    assert_eq!(outcome.stopped.as_deref(), Some("enough"));
    assert_eq!(outcome.table("runs", 0..1), [((1.0 * 2.0 + 2.0) * 2.0 + 1.0) * 2.0]);
}

#[test]
fn what_is_rebuilt_runs_once_and_goes_on_in_any_case() {
    let mut plan = Plan::default();
    let table = plan.table::<u32>("runs", 1);
    plan.body.rebuilt(|steps| _ = steps.stage("counts", move |worker| worker.add(table, &[0], &[1])));
    plan.body.resumable(3, |round| _ = round.stage("run", move |worker| worker.add(table, &[1], &[1])));
    assert_eq!(Host::new().run(&plan).unwrap().table("runs", 0..2), [1.0, 3.0]);
    plan.body.rebuilt(|steps| _ = steps.decide(|_| Ok(Flow::Stop("enough".to_owned()))));
    let error = Host::new().run(&plan).unwrap_err();
    assert!(error.message.contains("among steps that are rebuilt asked for Stop"), "{error}");
}

#[test]
fn rows_are_dealt_to_slaves_and_renumbered_by_their_key_map() {
    let rows: Vec<Block> = (0..6).map(|i| block(&[(1.0, &[(100 * i, 1.0), (1000, 2.0)])])).collect();
    let mut plan = Plan::default();
    let rows_of = input(&mut plan);
    let table = plan.table::<f32>("sum", 1);
    let stage = plan.body.stage("sum", move |worker| {
        let map = worker.key_map(rows_of)?;
        let mut sums = vec![0.0; map.len()];
        let mut pass = worker.pass(rows_of);
        while let Some((_, block)) = pass.next(worker)? {
            for i in 0..block.rows() {
                let row = block.row(i);
                row.indices.iter().zip(row.values.unwrap_or(&[])).for_each(|(k, v)| sums[*k as usize] += v);
                worker.report("rows", Metric::Count(1));
            }
        }
        worker.add_mapped(table, &map, &sums)
    });
    stage.input(rows_of);
    for host in [Host::new(), Host::cluster(1, 2), Host::cluster(3, 2)] {
        let outcome = host.rows(rows.clone()).run(&plan).unwrap();
        assert_eq!(outcome.progress.metric("sum", "rows").unwrap(), 6.0);
        let sums = outcome.table("sum", 0..1001);
        assert_eq!((sums[0], sums[100], sums[500], sums[1000]), (1.0, 1.0, 1.0, 12.0));
    }
}

#[test]
fn a_stage_that_draws_has_the_rows_numbered_as_slaves_have_to_send_them() {
    let rows: Vec<Block> = (0..6).map(|i| block(&[(1.0, &[(100 * i, 1.0), (1000, 2.0)])])).collect();
    let mut plan = Plan::default();
    let rows_of = input(&mut plan);
    plan.body.stage("draws", move |worker| worker.draw(rows_of).map(drop)).draws(rows_of, 0.5);
    plan.body
        .stage("passes", move |worker| {
            let mut pass = worker.pass(rows_of);
            while let Some((_, block)) = pass.next(worker)? {
                let largest = block.indices.iter().max().copied().unwrap_or_default();
                worker.report("largest", Metric::Max(f64::from(largest)));
            }
            Ok(())
        })
        .input(rows_of);
    let done = Host::new().rows(rows).run(&plan).unwrap();
    assert_eq!(done.progress.metric("passes", "largest").unwrap(), 6.0, "numbers of the slave's own seven features");
}

#[test]
fn columns_stay_with_their_block_over_stages() {
    let mut plan = Plan::default();
    let rows_of = input(&mut plan);
    for round in 0..2 {
        let stage = plan.body.stage("mark", move |worker| {
            for at in worker.own_blocks(rows_of)? {
                let mut column = worker.take_column::<f32>(rows_of, at, "mark", 1)?;
                assert_eq!(column, [round as f32 * (at + 1) as f32]);
                column[0] += (at + 1) as f32;
                worker.put_column(rows_of, at, "mark", column)?;
            }
            Ok(())
        });
        stage.input(rows_of);
    }
    let rows = vec![block(&[(1.0, &[])]), block(&[(-1.0, &[])])];
    Host::new().rows(rows).run(&plan).unwrap();
}

#[test]
fn update_functions_norm_and_load_do_what_their_names_say() {
    let mut plan = Plan::default();
    let make = |plan: &mut Plan, name: &str, update: &str, params: &[f64]| {
        let spec = crate::plan::TableSpec {
            name: name.to_owned(),
            element: crate::value::Type::F32,
            width: 2,
            storage: crate::plan::Storage::Dense,
            update: update.to_owned(),
            update_params: params.to_vec(),
        };
        plan.table_with::<f32>(spec)
    };
    let input = input(&mut plan);
    let tables = [
        make(&mut plan, "add", "add", &[]),
        make(&mut plan, "assign", "assign", &[]),
        make(&mut plan, "max", "max", &[]),
        make(&mut plan, "sgd", "sgd", &[0.5]),
        make(&mut plan, "adagrad", "adagrad", &[0.5]),
    ];
    let model = crate::data::schema::DataPath("m".to_owned());
    // Only one whose adds leave what is added can be loaded.
    plan.body.load(tables[0], &model, "weights", input);
    for table in &tables[1..] {
        plan.body.copy(tables[0], *table);
    }
    plan.body.stage("push", move |worker| {
        for table in tables {
            worker.add(table, &[1], &[5.0f32, -5.0])?;
        }
        Ok(())
    });
    plan.body.norm2(tables[0], "norm2");
    let host = Host::new().rows(Vec::new()).tensor("m", "weights", vec![1.0, 2.0, 3.0, 4.0]);
    let outcome = host.run(&plan).unwrap();
    assert_eq!(outcome.table("add", 0..2), [1.0, 2.0, 8.0, -1.0]);
    assert_eq!(outcome.table("assign", 0..2), [1.0, 2.0, 5.0, -5.0]);
    assert_eq!(outcome.table("max", 0..2), [1.0, 2.0, 5.0, 4.0]);
    assert_eq!(outcome.table("sgd", 0..2), [1.0, 2.0, 0.5, 6.5]);
    // A value and its sum of squares: 4 + 25.
    let moved = f64::from((3.0 - 0.5 * 5.0 / 29f64.sqrt()) as f32);
    assert_eq!(outcome.table("adagrad", 0..2), [1.0, 2.0, moved, 29.0]);
    assert_eq!(outcome.progress.scalars["norm2"], 1.0 + 4.0 + 64.0 + 1.0);
}

#[test]
fn siblings_sum_what_they_hold_without_a_table() {
    let mut plan = Plan::default();
    plan.body.stage("sum", |worker| {
        let mut values = [worker.place.local_index as f64, 1.0];
        worker.sum_local(&mut values)?;
        assert_eq!(values, [3.0, 3.0]);
        Ok(())
    });
    Host::cluster(2, 3).run(&plan).unwrap();
    plan.body.stage("some", |worker| if worker.place.index == 0 { worker.sum_local(&mut [0.0f32]) } else { Ok(()) });
    assert!(Host::cluster(1, 2).run(&plan).is_err());
}

#[test]
fn a_key_that_was_not_announced_for_the_clock_is_refused_by_name() {
    fn run(
        clock: u64,
        touch: impl Fn(&mut Worker<'_>, Table<f32>) -> crate::Result<()> + Send + Sync + 'static,
    ) -> crate::Result<()> {
        let mut plan = Plan::default();
        let table = plan.table::<f32>("t", 1);
        let sparse = Consistency::SparseSsp { staleness: 1, speculation: 2 };
        let stage = move |worker: &mut Worker<'_>| {
            assert_eq!(worker.ahead(), Some(2));
            for clock in 0..2 {
                worker.announce(clock, &[Touch { tables: &[table.id], keys: &[1, 5 + clock as u32] }])?;
            }
            (0..clock).try_for_each(|_| worker.clock())?;
            touch(worker, table)
        };
        plan.body.stage("s", stage).consistency(sparse);
        Host::new().run(&plan).map(drop)
    }
    let refused = |result: crate::Result<()>, key, clock| {
        let error = result.unwrap_err().message;
        let expected = format!("epoch 1 stage s: key {key} of table t was not announced for clock {clock};");
        assert!(error.starts_with(&expected), "{error}");
    };
    run(0, |w, t| w.get(t, &[1, 5], &mut Vec::new())).unwrap();
    run(1, |w, t| w.add(t, &[6], &[1.0])).unwrap();
    run(0, |w, t| w.get_range(t, 5..6, &mut Vec::new())).unwrap();
    run(2, |w, t| w.peek(t, &[9], &mut Vec::new())).unwrap();
    refused(run(1, |w, t| w.get(t, &[1, 5], &mut Vec::new())), 5, 1);
    refused(run(0, |w, t| w.add(t, &[1, 6], &[1.0, 1.0])), 6, 0);
    refused(run(0, |w, t| w.add_range(t, 0..2, &[1.0, 1.0])), 0, 0);
    refused(run(2, |w, t| w.get(t, &[1], &mut Vec::new())), 1, 2);
}
