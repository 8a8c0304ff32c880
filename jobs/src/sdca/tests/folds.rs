//! Folds, beside those of Newton's method ([`crate::primal`]), which finds the same optima another way.

use super::variants::three_classes;
use super::*;
use crate::primal::flags::{self, ClassWeights};
use flexps_common::plan::NO_MODEL;

/// A job by `solver`, which `auto` is not.
fn folded(kind: Kind, is_newton: bool, common: &Common, primal: &flags::Flags) -> Box<dyn DynJob> {
    let (common, primal) = (common.clone(), primal.clone());
    let loss = match kind {
        Kind::Logistic => {
            let solver = if is_newton { Solver::Newton } else { Solver::Sdca };
            return Box::new(Lr { common, solver, primal, ..Lr::default() });
        }
        Kind::Hinge => SvmLoss::Hinge,
        Kind::SquaredHinge => SvmLoss::SquaredHinge,
        Kind::Squared => SvmLoss::Squared,
    };
    let solver = if is_newton { SvmSolver::Newton } else { SvmSolver::Sdca };
    Box::new(Svm { common, loss, solver, primal, ..Svm::default() })
}

fn ran(host: Host, job: &dyn DynJob, blocks: &[Block]) -> Outcome {
    host.rows(blocks.to_vec()).run(&job.plan().unwrap()).unwrap()
}

fn common(bias: bool) -> Common {
    Common { tolerance: 1e-7, lambda: Some(0.05), epochs: 3000, bias, ..fixtures::flags() }
}

fn folds(cv: u32) -> flags::Flags {
    flags::Flags { cv: Some(cv), ..flags::Flags::default() }
}

fn scalar(outcome: &Outcome, name: &str) -> f64 {
    outcome.progress.scalars[name]
}

const HOSTS: [(usize, usize); 4] = [(1, 1), (1, 2), (3, 1), (2, 2)];

/// Demands that rows that are held out show the same, whoever learns.
#[track_caller]
fn assert_alike(kind: Kind, common: &Common, primal: &flags::Flags, blocks: &[Block], hosts: &[(usize, usize)]) {
    let newton = ran(Host::new(), &*folded(kind, true, common, primal), blocks);
    for (slaves, slots) in hosts {
        let sdca = ran(Host::cluster(*slaves, *slots), &*folded(kind, false, common, primal), blocks);
        let case = format!("{kind:?} bias {} on {slaves} x {slots}", common.bias);
        let [own, other] = [&sdca, &newton].map(|outcome| scalar(outcome, "cv_loss"));
        assert!((own - other).abs() < 1e-4 * other, "{case}: {own}, of newton {other}");
        let [own, other] = [&sdca, &newton].map(|outcome| scalar(outcome, "cv_accuracy"));
        let rows = blocks.iter().map(Block::rows).sum::<usize>() as f64;
        assert!((own - other).abs() * rows < 1.5, "{case}: {own} right, of newton {other}");
        assert!(scalar(&sdca, "gap") <= common.tolerance, "{case}: {:?}", sdca.stopped);
        assert!(sdca.stages.iter().any(|(name, _)| name == "ascent"), "{case}: another solver");
    }
}

#[test]
fn folds_of_two_classes_show_what_they_show_newton() {
    let blocks = Rows { rows: 300, features: 20, ..Rows::sparse(41) }.blocks(7);
    for kind in ALL {
        // Of the hinge and an intercept single precision has no more digits.
        let tolerance = if kind == Kind::Hinge { 3e-7 } else { 1e-7 };
        let common = |bias| Common { tolerance, ..common(bias) };
        for bias in [false, true] {
            assert_alike(kind, &common(bias), &folds(4), &blocks, &HOSTS);
        }
        let weights = ClassWeights::Given(vec![(-1.0, 0.5), (1.0, 3.0)]);
        let weighted = flags::Flags { class_weight: Some(weights), ..folds(3) };
        assert_alike(kind, &common(true), &weighted, &blocks, &HOSTS[1..3]);
    }
}

#[test]
fn folds_of_several_classes_show_what_they_show_newton() {
    let blocks = three_classes();
    for kind in [Kind::Logistic, Kind::SquaredHinge, Kind::Hinge] {
        assert_alike(kind, &common(kind == Kind::Logistic), &folds(3), &blocks, &HOSTS[1..]);
    }
    let balanced = flags::Flags { class_weight: Some(ClassWeights::Balanced), ..folds(2) };
    assert_alike(Kind::Logistic, &common(true), &balanced, &blocks, &HOSTS[..1]);
}

#[test]
fn folds_of_rows_that_come_in_parts_show_the_same() {
    let blocks = Rows { rows: 400, features: 500, ..Rows::sparse(42) }.blocks(6);
    let common = Common { worker_memory: Some(0), ..common(true) };
    assert_alike(Kind::Logistic, &common, &folds(3), &blocks, &HOSTS);
}

#[test]
fn the_model_is_that_of_all_rows() {
    for (blocks, classes) in [(Rows::sparse(43).blocks(4), 1), (three_classes(), 3)] {
        for (slaves, slots) in HOSTS {
            let with = |primal: &flags::Flags| {
                let job = folded(Kind::Logistic, false, &common(true), primal);
                ran(Host::cluster(slaves, slots), &*job, &blocks)
            };
            let (folded, plain) = (with(&folds(5)), with(&flags::Flags::default()));
            let features = scalar(&plain, "features") as u32;
            let model = |outcome: &Outcome| {
                let weights = outcome.table("weights", 0..classes * features);
                [weights, outcome.table("bias", 0..classes)].concat()
            };
            let most = model(&plain).iter().zip(model(&folded)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(most < 1e-3, "{classes} classes on {slaves} x {slots}: {most} apart");
            for name in ["rows", "lambda"] {
                assert_eq!(scalar(&folded, name), scalar(&plain, name), "{name}");
            }
            let [own, other] = [&folded, &plain].map(|outcome| outcome.progress.objective.unwrap());
            assert!((own - other).abs() < 1e-6 * other, "{own} with folds, {other} without");
            assert_eq!(
                folded.progress.scalars.get("training_accuracy"),
                plain.progress.scalars.get("training_accuracy")
            );
            assert!(folded.stopped.unwrap().starts_with("5 folds held out, to duality gaps of at most "));
        }
    }
}

#[test]
fn what_is_held_out_is_divided_by_rows_whatever_they_count() {
    let blocks = Rows { rows: 300, features: 20, ..Rows::sparse(44) }.blocks(3);
    let thrice = ClassWeights::Given(vec![(-1.0, 3.0), (1.0, 3.0)]);
    let weighted = flags::Flags { class_weight: Some(thrice), ..folds(3) };
    let (light, heavy) = (common(true), Common { lambda: Some(0.15), ..common(true) });
    for is_newton in [false, true] {
        let loss = |common, primal| {
            let outcome = ran(Host::new(), &*folded(Kind::Logistic, is_newton, common, primal), &blocks);
            scalar(&outcome, "cv_loss")
        };
        // The same model.
        let (one, three) = (loss(&light, &folds(3)), loss(&heavy, &weighted));
        assert!((three - 3.0 * one).abs() < 1e-3 * three, "{three} where rows count 3, else {one}");
    }
}

#[test]
fn validation_rows_judge_the_model_of_all_rows_alone() {
    let all = Rows { rows: 500, ..Rows::sparse(46) }.blocks(5);
    for blocks in [all, three_classes()] {
        let common = Common { validation: vec![path("held-out")], ..common(true) };
        let with = |primal: &flags::Flags| {
            let job = folded(Kind::Logistic, false, &common, primal);
            let host = Host::new().rows(blocks[1..].to_vec()).rows(blocks[..1].to_vec());
            host.run(&job.plan().unwrap()).unwrap()
        };
        let (folded, plain) = (with(&folds(3)), with(&flags::Flags::default()));
        let accuracy = |outcome: &Outcome| scalar(outcome, "validation_accuracy");
        assert_eq!(accuracy(&folded), accuracy(&plain));
        let judged = folded.epochs.iter().filter(|epoch| epoch.metrics.contains_key("validation_loss")).count();
        assert!(judged <= plain.epochs.len() + 2, "{judged} epochs judged, {} without folds", plain.epochs.len());
    }
}

#[test]
fn of_each_loss_both_solvers_tell_how_many_validation_rows_of_two_classes_are_right() {
    let blocks = Rows { rows: 500, ..Rows::sparse(46) }.blocks(5);
    for kind in ALL {
        let common = Common { validation: vec![path("held-out")], tolerance: 1e-5, ..common(true) };
        let [own, other] = [false, true].map(|is_newton| {
            let job = folded(kind, is_newton, &common, &flags::Flags::default());
            let host = Host::new().rows(blocks[1..].to_vec()).rows(blocks[..1].to_vec());
            scalar(&host.run(&job.plan().unwrap()).unwrap(), "validation_accuracy")
        });
        assert!(own > 0.5 && (own - other).abs() * 100.0 < 1.5, "{kind:?}: {own}, of newton {other}");
    }
}

#[test]
fn what_is_of_one_problem_is_refused_with_folds() {
    let patient = Common { patience: Some(3), validation: vec![path("v")], ..common(false) };
    let starts = Common { init_model: Some(path("m")), ..common(false) };
    for (common, primal, words) in [
        (patient, folds(3), "--patience is for one problem"),
        (starts, folds(3), "--init-model is for one problem"),
        (common(false), flags::Flags { path: Some(5), ..folds(3) }, "has no --path"),
    ] {
        let error = folded(Kind::Logistic, false, &common, &primal).plan().err().unwrap();
        assert!(error.message.contains(words), "{} lacks {words}", error.message);
    }
    let blocks = [fixtures::block(&[1.0, -1.0], &[&[(0, 1.0)], &[(0, -1.0)]])];
    let plan = folded(Kind::Logistic, false, &common(false), &folds(2)).plan().unwrap();
    let error = Host::new().rows(blocks.to_vec()).run(&plan).err().unwrap();
    assert!(error.message.contains("fewer"), "{}", error.message);
}

#[test]
fn until_all_classes_and_rows_are_learnt_there_is_no_model() {
    let two = Rows { rows: 300, features: 20, ..Rows::sparse(43) }.blocks(3);
    let (three, none) = (three_classes(), flags::Flags::default);
    for (primal, blocks) in [(folds(3), &two), (none(), &three), (none(), &two)] {
        for is_newton in [false, true] {
            let plan = folded(Kind::Logistic, is_newton, &common(true), &primal).plan().unwrap();
            assert_eq!(plan.scalars.get(NO_MODEL), Some(&1.0));
            let outcome = Host::new().rows(blocks.clone()).run(&plan).unwrap();
            // The ascent puts several classes in their place with its last decision.
            let lacks = !is_newton && std::ptr::eq(blocks, &three);
            assert_eq!(scalar(&outcome, NO_MODEL) > 0.0, lacks, "{primal:?}, newton: {is_newton}");
        }
    }
}
