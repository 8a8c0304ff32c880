//! The hinge on the weights themselves ([`crate::primal`]), beside the same oracle.

use super::variants::reached;
use super::*;
use crate::primal::flags::{self, ClassWeights};

fn hinge(solver: SvmSolver, common: Common, primal: flags::Flags) -> Svm {
    Svm { common, loss: SvmLoss::Hinge, solver, primal, ..Svm::default() }
}

fn ran(host: Host, job: &dyn DynJob, blocks: &[Block]) -> flexps_common::Result<Outcome> {
    host.rows(blocks.to_vec()).run(&job.plan()?)
}

fn common(tolerance: f64, bias: bool) -> Common {
    Common { tolerance, lambda: Some(0.005), bias, ..fixtures::flags() }
}

/// Whether a stage of this name ran.
fn has(outcome: &Outcome, stage: &str) -> bool {
    outcome.stages.iter().any(|(name, _)| name == stage)
}

/// Demands that the gap is at most `tolerance`, that P is as was reported, and no farther from what none can go below.
#[track_caller]
fn assert_best(outcome: &Outcome, problem: &Problem, bias: bool, bound: f64, tolerance: f64) {
    let (reached, gap) = reached(problem, outcome, bias);
    let reported = outcome.progress.objective.unwrap();
    assert!((reported - reached).abs() < 1e-6 * reached, "reported {reported}, is {reached}");
    assert!(gap <= tolerance, "gap {gap:e}, {:?}", outcome.stopped);
    let above = (reached - bound) / reached;
    assert!(above <= gap + 1e-6, "{above:e} above the optimum with a gap of {gap:e}");
}

/// Demands that Newton's steps reach the optimum of both rows on all hosts, by the stage `way` and not by `other`.
#[track_caller]
fn assert_solved(rows: [Rows; 2], worker_memory: Option<u32>, way: &str, other: &str) {
    for rows in rows {
        let blocks = rows.blocks(8);
        let problem = Problem::new(Kind::Hinge, &blocks, Some(0.005));
        for bias in [false, true] {
            let bound = if bias { problem.bound_with_bias() } else { problem.bound() };
            for (slaves, slots) in [(1, 1), (1, 2), (3, 1), (2, 2)] {
                let common = Common { worker_memory, ..common(1e-6, bias) };
                let job = hinge(SvmSolver::Newton, common, flags::Flags::default());
                let outcome = ran(Host::cluster(slaves, slots), &job, &blocks).unwrap();
                assert_best(&outcome, &problem, bias, bound, 1e-6);
                assert!(has(&outcome, way) && !has(&outcome, other));
            }
        }
    }
}

#[test]
fn newtons_steps_reach_the_optimum_of_the_hinge_alone_on_threads_and_on_slaves() {
    let sparse = Rows { rows: 300, features: 50, ..Rows::sparse(1) };
    let one_hot = Rows { rows: 240, features: 48, nonzeros: 12, one_hot: true, ..Rows::sparse(2) };
    assert_solved([sparse, one_hot], None, "matrix", "product");
}

#[test]
fn without_room_for_the_matrix_products_with_it_reach_the_optimum_too() {
    let sparse = Rows { rows: 500, features: 300, ..Rows::sparse(1) };
    let one_hot = Rows { rows: 400, features: 300, nonzeros: 12, one_hot: true, ..Rows::sparse(2) };
    assert_solved([sparse, one_hot], Some(1), "product", "matrix");
}

#[test]
fn rows_that_are_short_beside_the_penalty_reach_a_tight_tolerance_by_the_matrix_and_by_products() {
    for seed in 1..=4 {
        let blocks = Rows { rows: 400, features: 300, ..Rows::sparse(seed) }.blocks(4);
        for (worker_memory, way) in [(None, "matrix"), (Some(1), "product")] {
            let common = Common { worker_memory, lambda: Some(100.0), epochs: 1000, ..common(1e-7, true) };
            let job = hinge(SvmSolver::Newton, common, flags::Flags::default());
            let outcome = ran(Host::new(), &job, &blocks).unwrap();
            let gap = outcome.progress.scalars["gap"];
            assert!(gap <= 1e-7 && has(&outcome, way), "{way} of {seed}: {gap:e}, {:?}", outcome.stopped);
        }
    }
}

#[test]
fn an_intercept_is_found_though_no_row_may_lie_between_the_ends_of_the_slope() {
    let two = vec![fixtures::block(&[1.0, -1.0], &[&[(0, 1.0)], &[]])];
    // Labels that features tell next to nothing about.
    let mut skewed = Rows { rows: 500, features: 5, nonzeros: 1, one_hot: true, ..Rows::sparse(6) }.blocks(2);
    for block in &mut skewed {
        block.labels.iter_mut().enumerate().for_each(|(i, label)| *label = if i % 5 < 2 { 1.0 } else { -1.0 });
    }
    for (blocks, lambda) in [(two, 0.5), (skewed.clone(), 1.0), (skewed, 0.002)] {
        let problem = Problem::new(Kind::Hinge, &blocks, Some(lambda));
        for slots in [1, 2] {
            let common = Common { lambda: Some(lambda), ..common(1e-6, true) };
            let job = hinge(SvmSolver::Newton, common, flags::Flags::default());
            let outcome = ran(Host::cluster(1, slots), &job, &blocks).unwrap();
            assert_best(&outcome, &problem, true, problem.bound_with_bias(), 1e-6);
        }
    }
}

#[test]
fn a_tolerance_of_1e_9_of_the_hinge_is_reached_in_a_round() {
    let blocks = Rows { rows: 500, features: 30, ..Rows::sparse(4) }.blocks(5);
    let job = hinge(SvmSolver::Newton, common(1e-9, false), flags::Flags::default());
    let outcome = ran(Host::new(), &job, &blocks).unwrap();
    assert!(outcome.progress.scalars["gap"] <= 1e-9, "{:?}", outcome.stopped);
    assert_eq!(outcome.progress.scalars["rounds"], 2.0, "the second certifies");
}

#[test]
fn more_digits_of_the_hinge_than_there_are_end_in_the_rounds_that_are_given() {
    let blocks = Rows { rows: 200, features: 20, ..Rows::sparse(4) }.blocks(5);
    let job = hinge(SvmSolver::Newton, Common { epochs: 3, ..common(1e-17, false) }, flags::Flags::default());
    let outcome = ran(Host::cluster(1, 2), &job, &blocks).unwrap();
    assert!(outcome.progress.scalars["gap"] <= 1e-11, "{:?}", outcome.progress.scalars["gap"]);
    assert!(outcome.progress.scalars["rounds"] <= 3.0);
}

#[test]
fn classes_of_the_hinge_count_as_much_as_they_are_given() {
    let blocks = Rows { features: 50, ..Rows::sparse(5) }.blocks(3);
    let problem = Problem::new(Kind::Hinge, &blocks, Some(0.005)).weighted(0.5, 2.0);
    let weights = ClassWeights::Given(vec![(-1.0, 0.5), (1.0, 2.0)]);
    let flags = flags::Flags { class_weight: Some(weights), ..flags::Flags::default() };
    let job = hinge(SvmSolver::Newton, common(1e-6, false), flags);
    let outcome = ran(Host::cluster(2, 1), &job, &blocks).unwrap();
    assert_best(&outcome, &problem, false, problem.bound(), 1e-6);
}

#[test]
fn folds_of_the_hinge_are_held_out() {
    let blocks = Rows { rows: 400, features: 30, ..Rows::sparse(7) }.blocks(4);
    let flags = flags::Flags { cv: Some(4), ..flags::Flags::default() };
    let job = hinge(SvmSolver::Auto, common(1e-5, true), flags);
    let outcome = ran(Host::cluster(1, 2), &job, &blocks).unwrap();
    let problem = Problem::new(Kind::Hinge, &blocks, Some(0.005));
    assert_best(&outcome, &problem, true, problem.bound_with_bias(), 1e-5);
    let (held_out, trained) = (outcome.progress.scalars["cv_loss"], outcome.progress.scalars["training_loss"]);
    assert!(held_out > trained && held_out < 1.0, "{held_out} of rows held out, {trained} of all");
}

#[test]
fn the_rows_decide_who_learns_the_hinge() {
    let few = Rows { rows: 3000, features: 20, nonzeros: 10, scales: 3.0, ..Rows::sparse(9) };
    let many = Rows { rows: 300, features: 2000, ..Rows::sparse(9) };
    for (rows, solver, stage) in [
        (few, SvmSolver::Auto, "matrix"),
        (few, SvmSolver::Newton, "matrix"),
        (many, SvmSolver::Auto, "ascent"),
        (many, SvmSolver::Newton, "product"),
    ] {
        let job = hinge(solver, common(1e-3, false), flags::Flags::default());
        let outcome = ran(Host::cluster(1, 2), &job, &rows.blocks(4)).unwrap();
        for other in ["matrix", "ascent", "product"] {
            assert_eq!(has(&outcome, other), other == stage, "{other} of {solver:?}");
        }
    }
}

#[test]
fn what_is_no_svm_with_a_hinge_is_refused_in_words() {
    let refused = |common, primal, penalty, words: &str| {
        let job = Svm { penalty, ..hinge(SvmSolver::Newton, common, primal) };
        let error = ran(Host::new(), &job, &[]).unwrap_err();
        assert!(error.message.contains(words), "{} lacks {words}", error.message);
    };
    refused(common(1e-3, false), flags::Flags::default(), flags::Kind::L1, "L2 penalty alone");
    let none = Common { lambda: Some(0.0), ..common(1e-3, false) };
    refused(none, flags::Flags::default(), flags::Kind::L2, "--lambda 0 leaves the hinge no dual");
}
