//! What a path of penalties promises.

use super::*;
use flexps_common::plan::Step;

#[test]
fn each_step_of_a_path_is_certified_and_ends_where_a_run_of_its_own_does() {
    let blocks = Rows { features: 80, ..Rows::sparse(4) }.blocks(4);
    for loss in ALL {
        let common = Common { tolerance: 1e-6, lambda: Some(0.002), bias: true, ..fixtures::flags() };
        let flags = Flags { path: Some(10), ..Flags::default() };
        let outcome = run(Host::cluster(1, 2), &*job(loss, Norm::L1, common, flags), &blocks).unwrap();
        assert_eq!(outcome.epochs.len(), 10);
        let mut before = f64::INFINITY;
        for (at, epoch) in outcome.epochs.iter().enumerate() {
            let (lambda, gap) = (epoch.metrics["lambda"], epoch.metrics["gap"]);
            assert!(lambda < before && gap <= 1e-6, "step {at}: lambda {lambda} after {before}, gap {gap:e}");
            before = lambda;
            let problem = Problem::new(loss, &blocks, lambda, 0.0, true);
            let above = (epoch.objective.unwrap() - problem.optimum()) / epoch.objective.unwrap();
            assert!((-1e-10..gap + 1e-10).contains(&above), "step {at}: {above:e}");
        }
        assert_eq!(outcome.epochs[0].metrics["nonzeros"], 0.0);
        assert!((before - 0.002).abs() < 1e-12);
    }
}

/// Rows of which most features are rare, so that their norms are small.
fn rare(rows: usize) -> Vec<Block> {
    let mut blocks = Rows { rows, features: 40, nonzeros: 6, ..Rows::sparse(13) }.blocks(6);
    let mut row = 0u32;
    for block in &mut blocks {
        let mut indices = Vec::new();
        let mut values = Vec::new();
        let mut offsets = vec![0];
        for i in 0..block.rows() {
            let held = block.row(i);
            indices.extend_from_slice(held.indices);
            values.extend_from_slice(held.values.unwrap());
            indices.push(40 + row % 400);
            values.push(0.05);
            offsets.push(indices.len() as u32);
            row += 1;
        }
        (block.indices, block.values, block.offsets) = (indices, Some(values), offsets);
    }
    blocks
}

#[test]
fn along_a_path_all_features_are_looked_at_for_some_lambdas_and_each_is_certified_on_any_workers() {
    let blocks = rare(800);
    for (loss, norm) in [(Loss::Logistic, Norm::L1), (Loss::Logistic, Norm::ElasticNet), (Loss::Squared, Norm::L1)] {
        let mut weights: Vec<Vec<f64>> = Vec::new();
        for (slaves, slots) in HOSTS {
            let common = Common { tolerance: 1e-5, lambda: Some(1e-3), bias: true, ..fixtures::flags() };
            let flags = Flags { path: Some(40), ..Flags::default() };
            let outcome = run(Host::cluster(slaves, slots), &*job(loss, norm, common, flags), &blocks).unwrap();
            let share = if norm == Norm::L1 { 1.0 } else { 0.5 };
            for (step, epoch) in outcome.epochs.iter().enumerate().skip(1).step_by(6) {
                let (lambda, gap) = (epoch.metrics["lambda"], epoch.metrics["gap"]);
                let problem = Problem::new(loss, &blocks, share * lambda, (1.0 - share) * lambda, true);
                let above = (epoch.objective.unwrap() - problem.optimum()) / epoch.objective.unwrap();
                assert!(gap <= 1e-5 && (-1e-10..gap + 1e-10).contains(&above), "step {step}: {above:e} of {gap:e}");
            }
            let runs = |stage: &str| outcome.stages.iter().filter(|(name, _)| name == stage).count();
            assert_eq!(outcome.epochs.len(), 40);
            assert!(runs("gradient") <= 25, "{loss:?} {norm:?}: {} looks", runs("gradient"));
            weights.push(model(&outcome, 440, true));
        }
        for other in &weights[1..] {
            assert!(weights[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 0.02), "{loss:?} {norm:?}");
        }
    }
}

#[test]
fn a_path_under_cross_validation_keeps_the_lambda_with_the_least_loss() {
    let blocks = Rows { features: 60, ..Rows::sparse(9) }.blocks(4);
    let common = Common { tolerance: 1e-5, lambda: Some(1e-4), bias: true, ..fixtures::flags() };
    let flags = Flags { path: Some(8), cv: Some(4), ..Flags::default() };
    let outcome = run(Host::new(), &*job(Loss::Logistic, Norm::L1, common, flags), &blocks).unwrap();
    let scalars = &outcome.progress.scalars;
    let mean = |step: usize| scalars[&format!("cv_loss_{step}")] / scalars[&format!("cv_judged_{step}")];
    let best = (0..8).min_by(|a, b| mean(*a).total_cmp(&mean(*b))).unwrap();
    let lambda = outcome.epochs[4 * 8 + best].metrics["lambda"];
    assert_eq!(scalars["lambda"], lambda);
    let nonzeros = outcome.table("weights", 0..60).iter().filter(|w| **w != 0.0).count() as f64;
    assert_eq!(scalars["nonzeros"], nonzeros);
}

/// The mean loss of the model of a class, or of the only one, on rows; without the penalty.
fn mean_loss(outcome: &Outcome, loss: Loss, blocks: &[Block], class: Option<u32>) -> f64 {
    let mut problem = Problem::new(loss, blocks, 0.0, 0.0, true);
    let (features, at) = (problem.features as u32, class.unwrap_or(0));
    if let Some(class) = class {
        problem.rows.iter_mut().for_each(|(y, ..)| *y = if *y == f64::from(class) { 1.0 } else { -1.0 });
    }
    let mut w = outcome.table("weights", at * features..(at + 1) * features);
    w.extend(outcome.table("bias", at..at + 1));
    problem.objective(&w)
}

#[test]
fn of_a_path_that_validation_rows_judge_all_that_is_told_is_of_the_model_that_is_kept() {
    let rows = |seed| Rows { rows: 120, features: 60, ..Rows::sparse(seed) }.blocks(2);
    let (blocks, held_out) = (rows(9), rows(10));
    for loss in ALL {
        let validation = vec![fixtures::path("held-out")];
        let common = Common { tolerance: 1e-5, lambda: Some(1e-5), bias: true, validation, ..fixtures::flags() };
        let job = job(loss, Norm::L1, common, Flags { path: Some(12), ..Flags::default() });
        let outcome = Host::new().rows(blocks.clone()).rows(held_out.clone()).run(&job.plan().unwrap()).unwrap();
        let scalars = &outcome.progress.scalars;
        for (name, rows) in [("training_loss", &blocks), ("validation_loss", &held_out)] {
            let expected = mean_loss(&outcome, loss, rows, None);
            assert!(
                (scalars[name] - expected).abs() < 1e-4 * expected,
                "{loss:?} {name}: {}, {expected}",
                scalars[name]
            );
        }
        let steps: Vec<f64> = outcome.epochs.iter().map(|epoch| epoch.metrics["validation_loss"]).collect();
        let least = steps.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(scalars["validation_loss"], least, "{loss:?}");
        assert!(steps.last() > Some(&(1.01 * least)), "{loss:?}: the last is the best: {steps:?}");
    }
}

#[test]
fn of_several_classes_losses_are_means_and_sums_count_each_class_once() {
    let blocks = three_classes();
    for path in [None, Some(6)] {
        let validation = vec![fixtures::path("held-out")];
        let common = Common { tolerance: 1e-6, lambda: Some(0.002), bias: true, validation, ..fixtures::flags() };
        let job = job(Loss::Logistic, Norm::L1, common, Flags { path, ..Flags::default() });
        let outcome = Host::new().rows(blocks.clone()).rows(blocks.clone()).run(&job.plan().unwrap()).unwrap();
        let scalars = &outcome.progress.scalars;
        let losses = (0..3).map(|class| mean_loss(&outcome, Loss::Logistic, &blocks, Some(class)));
        let mean = losses.sum::<f64>() / 3.0;
        for name in ["training_loss", "validation_loss"] {
            assert!((scalars[name] - mean).abs() < 1e-4 * mean, "{path:?} {name}: {}, {mean}", scalars[name]);
        }
        // Rows that are judged as they were learnt do best with the least penalty, of all classes the last one.
        let weights = outcome.table("weights", 0..120);
        let penalty = 0.002 * weights.iter().map(|w| w.abs()).sum::<f64>();
        let objective = 3.0 * mean + penalty;
        assert!(
            (scalars["objective"] - objective).abs() < 1e-4 * objective,
            "{path:?}: {}, {objective}",
            scalars["objective"]
        );
        assert_eq!(scalars["nonzeros"], weights.iter().filter(|w| **w != 0.0).count() as f64, "{path:?}");
        assert!((scalars["lambda"] - 0.002).abs() < 1e-9, "{path:?}: that of all classes, {}", scalars["lambda"]);
    }
}

/// Rows of which class 0 can be told from the rest, and the others from one another by nothing.
fn easy_and_hard(rows: usize, seed: u64) -> Vec<Block> {
    let mut blocks = Rows { rows, features: 40, ..Rows::sparse(seed) }.blocks(2);
    for block in &mut blocks {
        let sum = |i: usize| {
            let row = block.row(i);
            let own = row.indices.iter().zip(row.values.unwrap()).filter(|(key, _)| **key % 3 == 0);
            own.map(|(_, x)| *x).sum::<f32>()
        };
        block.labels = (0..block.rows()).map(|i| if sum(i) > 0.3 { 0.0 } else { 1.0 + (i % 2) as f32 }).collect();
    }
    blocks
}

#[test]
fn of_classes_that_keep_different_steps_of_a_path_what_is_told_is_of_the_model_that_they_make() {
    let (blocks, held_out) = (easy_and_hard(150, 21), easy_and_hard(600, 22));
    let validation = vec![fixtures::path("held-out")];
    let common = Common { tolerance: 1e-5, lambda: Some(1e-4), bias: true, validation, ..fixtures::flags() };
    for (slaves, slots) in HOSTS {
        let job = job(Loss::Logistic, Norm::L1, common.clone(), Flags { path: Some(12), ..Flags::default() });
        let host = Host::cluster(slaves, slots).rows(blocks.clone()).rows(held_out.clone());
        let outcome = host.run(&job.plan().unwrap()).unwrap();
        let best = |class: usize| {
            let loss = |step: &usize| outcome.epochs[12 * class + step].metrics["validation_loss"];
            (0..12).min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()
        };
        assert!(best(0) > best(1) && best(0) > best(2), "{} {} {}", best(0), best(1), best(2));
        let progress = &outcome.progress;
        assert!(!progress.scalars.contains_key("lambda") && progress.leaves_out("lambda"), "there is no lambda of all");
        let (weights, biases) = (outcome.table("weights", 0..120), outcome.table("bias", 0..3));
        let (mut right, mut rows) = (0.0, 0.0);
        for row in held_out.iter().flat_map(|block| (0..block.rows()).map(|i| block.row(i))) {
            let values = || row.indices.iter().zip(row.values.unwrap());
            let score = |class: usize| {
                biases[class]
                    + values().map(|(key, x)| weights[40 * class + *key as usize] * f64::from(*x)).sum::<f64>()
            };
            let guess = (0..3).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
            right += f64::from(u8::from(guess as f32 == row.label));
            rows += 1.0;
        }
        let told = outcome.progress.scalars["validation_accuracy"];
        assert!((told - right / rows).abs() < 1e-9, "{slaves} slaves: {told}, is {}", right / rows);
    }
}

#[test]
fn norms_whose_place_depends_on_the_slaves_are_in_no_checkpoint() {
    let common = Common { lambda: Some(0.01), ..fixtures::flags() };
    for loss in ALL {
        let plan = job(loss, Norm::L1, common.clone(), Flags { path: Some(5), ..Flags::default() }).plan().unwrap();
        let norms = plan.tables.iter().position(|table| table.name == "norms").unwrap();
        let remade =
            plan.body.0.iter().filter_map(|step| if let Step::Rebuilt(body) = step { Some(body) } else { None });
        let stages = remade.flatten().filter_map(|step| if let Step::Stage(stage) = step { Some(stage) } else { None });
        let stage = stages.into_iter().find(|stage| stage.name == "norms");
        let updates: Vec<usize> = stage.unwrap().updates.iter().map(|table| usize::from(table.0)).collect();
        assert_eq!(updates, [norms], "{loss:?}");
    }
}
