//! Every solver that promises the optimum, under each loss and penalty that it offers, on three real sets of two classes and
//! one of numbers: within 1e-6 of an optimum found by other means, alone and on three slaves; of the sets one as it is, one with
//! an intercept, one with weights of classes where the solver has them.
//!
//! `ftrl`, and `sgd` but for SAGA, wander about the optimum and promise none; what `ftrl` says of itself is held against the
//! best in hindsight.

use crate::support::least::{Loss, Problem};
use crate::support::process::program;
use crate::support::{Cluster, Rows, assert_close, flexps, model};
use std::path::{Path, PathBuf};

/// The sets. `scripts/data` fetches them once, and says what it lacks when it can't.
fn sets() -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/data");
    let run = program(&script, ["small"]).with_users_cache().within(600).ok();
    let paths: Vec<PathBuf> = run.stdout.lines().map(PathBuf::from).collect();
    assert_eq!(paths.len(), 4, "{run}");
    paths
}

fn parse(path: &Path) -> Rows {
    Rows::parse(&std::fs::read_to_string(path).unwrap())
}

/// Job and flags, loss, and which part of lambda is L1.
type Case = (&'static [&'static str], Loss, f64);

const SAGA: &[&str] = &["lr", "--solver", "sgd", "--optimizer", "saga", "--batch", "10", "--tolerance", "0"];
const SVRG: &[&str] = &["svrg", "--tolerance", "0"];

const CLASSES: [Case; 18] = [
    (SVRG, Loss::Logistic, 0.0),
    (SAGA, Loss::Logistic, 0.0),
    (&["lr"], Loss::Logistic, 0.0),
    (&["lr", "--solver", "sdca"], Loss::Logistic, 0.0),
    (&["lr", "--solver", "newton"], Loss::Logistic, 0.0),
    (&["lr", "--penalty", "l1"], Loss::Logistic, 1.0),
    (&["lr", "--penalty", "elastic-net"], Loss::Logistic, 0.5),
    (&["lr", "--penalty", "elastic-net", "--l1-ratio", "0.1"], Loss::Logistic, 0.1),
    (&["svm", "--solver", "sdca"], Loss::SquaredHinge, 0.0),
    (&["svm", "--solver", "newton"], Loss::SquaredHinge, 0.0),
    (&["svm", "--penalty", "l1"], Loss::SquaredHinge, 1.0),
    (&["svm", "--penalty", "elastic-net"], Loss::SquaredHinge, 0.5),
    (&["svm", "--loss", "hinge"], Loss::Hinge, 0.0),
    (&["svm", "--loss", "squared"], Loss::Squared, 0.0),
    (&["svm", "--loss", "squared", "--solver", "sdca"], Loss::Squared, 0.0),
    (&["svm", "--loss", "squared", "--solver", "newton"], Loss::Squared, 0.0),
    (&["svm", "--loss", "squared", "--penalty", "l1"], Loss::Squared, 1.0),
    (&["svm", "--loss", "squared", "--penalty", "elastic-net"], Loss::Squared, 0.5),
];

const NUMBERS: [Case; 3] = [
    (&["lasso"], Loss::Squared, 1.0),
    (&["lasso", "--penalty", "elastic-net"], Loss::Squared, 0.5),
    (&["lasso", "--penalty", "l2"], Loss::Squared, 0.0),
];

#[test]
fn every_solver_loss_and_penalty_is_within_1e_6_of_the_optimum_on_real_sets_alone_and_on_three_slaves() {
    let cluster = Cluster::start(3, 1);
    let mut missed = Vec::new();
    for (at, path) in sets().iter().enumerate() {
        let rows = parse(path);
        let cases: &[Case] = if at < 3 { &CLASSES } else { &NUMBERS };
        for (flags, loss, ratio) in cases {
            let lambda = 0.01;
            let weighs = at == 2 && *flags != SVRG && *flags != SAGA;
            let (l1, l2, bias) = (lambda * ratio, lambda * (1.0 - ratio), at == 1);
            let class_weights = if weighs { [1.0, 3.0] } else { [1.0; 2] };
            let problem = Problem { rows: &rows, loss: *loss, l1, l2, bias, class_weights };
            let best = problem.least();
            let mut args = vec!["run"];
            args.extend(*flags);
            args.extend(["--lambda", "0.01", "--input", path.to_str().unwrap()]);
            // Without a certificate an end is known in epochs alone.
            let promises = !flags.contains(&"--tolerance");
            args.extend(if promises { &["--epochs", "5000", "--tolerance", "5e-7"][..] } else { &["--epochs", "200"] });
            args.extend(bias.then_some("--bias"));
            args.extend(weighs.then_some(["--class-weight", "-1=1,1=3"]).iter().flatten());
            for (run, slaves) in [(flexps(&args), 1), (cluster.ask(&args), 3)] {
                let saved = cluster.folder().join("model");
                let report = run.arg("--overwrite").arg("--model").arg(&saved).within(120).json();
                let case = format!("{} of {} on {slaves}", args[1..].join(" "), path.display());
                let model = model::read(&saved);
                let reached = problem.value(&model.weights, model.bias);
                let (above, said) = ((reached - best) / best, report["objective"].as_f64().unwrap());
                if !(-1e-7..1e-6).contains(&above) || (said - reached).abs() > 1e-6 * reached {
                    missed.push(format!("{case}: {above:.2e} above {best}, reported {said}"));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Mean losses by FTRL-proximal (McMahan et al., KDD 2013, Algorithm 1) without a penalty, each row scored before it is learnt
/// from: of the first 128, 256, ... rows, and of all.
fn progressive(rows: &Rows, alpha: f64, beta: f64) -> Vec<(u64, f64)> {
    let (mut z, mut n) = (vec![0.0; rows.features], vec![0.0f64; rows.features]);
    let (mut loss, mut points, count) = (0.0, Vec::new(), rows.rows.len() as u64);
    for (done, (row, y)) in (1u64..).zip(rows.rows.iter().zip(&rows.labels)) {
        let weight = |k: usize, z: &[f64], n: &[f64]| -z[k] / ((beta + n[k].sqrt()) / alpha);
        let margin: f64 = y * row.iter().map(|(k, v)| v * weight(*k as usize, &z, &n)).sum::<f64>();
        loss += Loss::Logistic.at(1.0, margin);
        let slope = -y / (1.0 + margin.exp());
        for (k, v) in row {
            let (k, g) = (*k as usize, slope * v);
            z[k] += g - ((n[k] + g * g).sqrt() - n[k].sqrt()) / alpha * weight(k, &z, &n);
            n[k] += g * g;
        }
        if done == count || done >= 128 && done.is_power_of_two() {
            points.push((done, loss / done as f64));
        }
    }
    points
}

#[test]
fn the_progressive_loss_of_ftrl_is_logged_and_reported_at_doubling_rows_and_is_that_of_the_algorithm() {
    for path in &sets()[..3] {
        let args = ["run", "lr", "--solver", "ftrl", "--step", "0.5", "--threads", "1", "--json", "--input"];
        let run = flexps(args).arg(path).ok();
        let report = run.json();
        let rows = parse(path);
        // Beta is a gradient's size: of the first rows that came, however many that were, the mean size of values times 4 p (1 - p).
        let beta = report["metrics"]["beta"].as_f64().unwrap();
        let values = || rows.rows.iter().flatten();
        let p = rows.labels.iter().filter(|y| **y > 0.0).count() as f64 / rows.labels.len() as f64;
        let size = values().map(|(_, v)| v.abs()).sum::<f64>() / values().count() as f64;
        assert_close(beta, size * 4.0 * p * (1.0 - p), 0.25);
        let expected = progressive(&rows, 0.5, beta);
        let told = report["progress"].as_array().unwrap();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, (rows, loss)) in told.iter().zip(&expected) {
            assert_eq!(told["rows"].as_u64(), Some(*rows));
            assert_close(told["loss"].as_f64().unwrap(), *loss, 1e-4);
        }
        let (_, last) = expected.last().unwrap();
        assert_close(report["metrics"]["progressive_loss"].as_f64().unwrap(), *last, 1e-4);
        run.says(&["progressive loss 0.", "on the first 128 rows"]);
    }
}
