//! Rows that no solver likes: each of them ends with a finite model or a clear error, never with a model that has a NaN.

use crate::support::process::Run;
use crate::support::{flexps, folder, model};
use std::path::{Path, PathBuf};

/// All ways to a model of two classes.
const SOLVERS: [(&str, &[&str]); 12] = [
    ("svrg", &[]),
    ("lr", &["--solver", "auto"]),
    ("lr", &["--solver", "sdca"]),
    ("lr", &["--solver", "newton"]),
    ("lr", &["--solver", "ftrl"]),
    ("lr", &["--solver", "sgd"]),
    ("lr", &["--solver", "sgd", "--optimizer", "adagrad"]),
    ("lr", &["--solver", "sgd", "--optimizer", "saga"]),
    ("lr", &["--penalty", "l1"]),
    ("svm", &["--solver", "sdca"]),
    ("svm", &["--loss", "hinge"]),
    ("svm", &["--solver", "newton"]),
];

/// Trains on `path`; a model that comes of it has finite weights and is not there after an error.
#[track_caller]
fn train(path: &Path, (job, flags): (&str, &[&str]), more: &[&str]) -> Run {
    let saved = path.with_extension("model");
    let _ = std::fs::remove_dir_all(&saved);
    // One pass has no epochs.
    let epochs: &[&str] = if flags.contains(&"ftrl") { &[] } else { &["--epochs", "30"] };
    let run = flexps(["run", job, "--json", "--model"]).arg(&saved);
    let run = run.args(epochs).args(flags).args(more).arg("--input").arg(path).within(60).run();
    match run.code {
        0 => {
            let model = model::read(&saved);
            assert!(
                model.bias.is_finite() && model.weights.iter().all(|w| w.is_finite()),
                "{job} {flags:?}: {model:?}"
            );
        }
        1 | 2 => assert!(!saved.exists(), "{job} {flags:?} failed and left a model\n{run}"),
        _ => panic!("{job} {flags:?}\n{run}"),
    }
    run
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_constant_feature_and_rows_with_both_labels_make_a_model() {
    let here = folder();
    let constant = write(here.path(), "constant", &"+1 1:1 2:3\n-1 1:-2 2:3\n+1 1:1.5 2:3\n-1 2:3\n".repeat(20));
    let both = write(here.path(), "both", &"+1 1:1 2:1\n-1 1:1 2:1\n".repeat(20));
    for path in [constant, both] {
        for solver in SOLVERS {
            let run = train(&path, solver, &[]);
            assert_eq!(run.code, 0, "{solver:?}\n{run}");
        }
    }
}

#[test]
fn values_of_1e30_and_1e_minus_30_make_a_finite_model_or_an_error_that_says_what_to_do() {
    let here = folder();
    let huge = write(here.path(), "huge", &"+1 1:1e30 2:1\n-1 1:-1e30 2:1e-30\n+1 2:1\n-1 1:1e30\n".repeat(10));
    let tiny = write(here.path(), "tiny", &"+1 1:1e-30\n-1 1:-1e-30 2:1e-30\n+1 2:1\n-1 2:1\n".repeat(10));
    for path in [&huge, &tiny] {
        for solver in SOLVERS {
            for bias in [false, true] {
                let run = train(path, solver, if bias { &["--bias"] } else { &[] });
                // Steps on the dual of an intercept beside a feature of 1e30 may come to no end, and those along a gradient
                // are nothing in single precision; all else learns.
                let (job, flags) = solver;
                let by_steps = job == "svrg" || flags.contains(&"sgd") && !flags.contains(&"adagrad");
                let hard = path == &huge && (by_steps || bias && flags.contains(&"sdca"));
                if run.code == 0 || !hard {
                    assert_eq!(run.code, 0, "{solver:?}\n{run}");
                } else {
                    run.refuses(&["scale the features"]);
                }
            }
        }
    }
}

#[test]
fn accuracy_on_rows_without_features_is_what_evaluate_says() {
    let here = folder();
    // A negative row of no feature is right without a bias, a positive one wrong.
    let path = write(here.path(), "empty", &"+1 1:1\n-1 1:-1\n-1\n-1\n+1\n".repeat(9));
    for solver in SOLVERS {
        let run = train(&path, solver, &[]);
        assert_eq!(run.code, 0, "{solver:?}\n{run}");
        let model = path.with_extension("model");
        let found = flexps(["evaluate", "--model"]).arg(&model).arg("--input").arg(&path).json();
        let reported = &run.json()["metrics"]["training_accuracy"];
        let (_, flags) = solver;
        // Who makes one pass knows how its rows were scored before they were learnt from.
        let none = flags.contains(&"ftrl") && reported.is_null();
        assert!(none || reported.as_f64() == found["accuracy"].as_f64(), "{solver:?}: {found}\n{run}");
    }
}

#[test]
fn one_label_is_refused_by_every_solver() {
    let here = folder();
    let one = write(here.path(), "one", "+1 1:1\n+1 2:1\n+1 1:2\n");
    for solver in SOLVERS {
        // Also where the flags name the other one.
        for labels in [&[][..], &["--labels=-1,1"]] {
            let run = train(&one, solver, labels);
            assert_eq!(run.code, 2, "{solver:?}\n{run}");
            run.says(&["all 3 rows", "two classes"]);
        }
    }
}

#[test]
fn what_no_class_and_no_fold_can_be_made_of_is_said() {
    let here = folder();
    let path = write(here.path(), "rows", "+1 1:1\n-1 2:1\n+1 1:2\n-1 2:2\n");
    for weights in ["1=0", "1=-2", "1=nan", "1"] {
        for solver in [("lr", &["--solver", "sdca"][..]), ("svm", &["--solver", "newton"])] {
            train(&path, solver, &["--class-weight", weights]).refuses(&["class weights", "above 0"]);
        }
    }
    for solver in [("lr", &["--solver", "auto"][..]), ("lr", &["--solver", "sdca"]), ("lr", &["--solver", "newton"])] {
        train(&path, solver, &["--class-weight", "7=2"]).refuses(&["label 7", "-1 and 1"]);
    }
    train(&path, ("lr", &[]), &["--cv", "5"]).refuses(&["5 folds", "there are 4"]);
    for solver in SOLVERS {
        let run = train(&path, solver, &["--lambda=-1"]);
        assert_eq!(run.code, 2, "{run}");
        run.says(&["--lambda", "-1 is out of range"]);
    }
}

#[test]
fn rows_that_are_separable_have_no_optimum_without_a_penalty_and_are_said_to_be() {
    let here = folder();
    let path = write(here.path(), "rows", &"+1 1:1\n-1 2:1\n+1 1:2\n-1 2:2\n".repeat(50));
    let sgd = |optimizer| ["--solver", "sgd", "--optimizer", optimizer];
    for (job, flags) in [
        ("svrg", &[][..]),
        ("lr", &["--solver", "auto"]),
        ("lr", &["--solver", "newton"]),
        ("lr", &sgd("sgd")),
        ("lr", &sgd("adagrad")),
        ("lr", &sgd("saga")),
    ] {
        train(&path, (job, flags), &["--lambda", "0"]).refuses(&["separable", "--lambda above 0"]);
    }
    // Rows that are not have one.
    let mixed = write(here.path(), "mixed", &"+1 1:1\n-1 1:1\n+1 1:2\n-1 2:2\n+1 2:1\n".repeat(50));
    for (job, flags) in [("svrg", &[][..]), ("lr", &["--solver", "newton"]), ("lr", &sgd("sgd"))] {
        let run = train(&mixed, (job, flags), &["--lambda", "0"]);
        assert_eq!(run.code, 0, "{job} {flags:?}\n{run}");
    }
}

#[test]
fn a_start_from_which_all_rows_are_far_on_the_wrong_side_leads_to_the_optimum_under_an_l1_penalty() {
    let here = folder();
    let rows = |value: &str, few: bool, turned: bool| -> String {
        let sign = |i: usize| if i.is_multiple_of(2) == turned { "-1" } else { "+1" };
        let row = |i: usize| format!("{} {}:{value}\n", sign(i), if few { 1 + i % 2 } else { 1 + i });
        (0..200).map(row).collect()
    };
    // Few features are learnt by a matrix, many by their columns.
    for few in [true, false] {
        let turned = write(here.path(), "turned", &rows("1", few, true));
        let path = write(here.path(), "rows", &rows("6", few, false));
        let saved = here.path().join("start");
        flexps(["run", "lr", "--lambda", "1e-8", "--overwrite", "--model"])
            .arg(&saved)
            .arg("--input")
            .arg(&turned)
            .ok();
        let args =
            ["run", "lr", "--penalty", "l1", "--lambda", "1e-3", "--tolerance", "1e-6", "--epochs", "60", "--input"];
        for threads in ["1", "2"] {
            let run = || flexps(args).arg(&path).args(["--threads", threads]);
            let (at_zero, far) = (run().json(), run().arg("--init-model").arg(&saved).json());
            let [expected, reached] = [&at_zero, &far].map(|report| report["objective"].as_f64().unwrap());
            let began = model::read(&saved).weights.iter().map(|w| w.abs()).fold(0.0, f64::max);
            assert!(began > 6.0, "a margin of {}", 6.0 * began);
            assert!((reached / expected - 1.0).abs() < 2e-6, "few {few}, {threads}: {reached} and not {expected}");
        }
    }
}
