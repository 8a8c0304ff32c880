//! Penalties, classes, folds and numbers, from the command to the model folder, against optima found by other means.

use crate::support::optimum::{objective, optimum, optimum_l1};
use crate::support::rows::Random;
use crate::support::{Cluster, Rows, assert_close, flexps, folder, model};
use std::fmt::Write;
use std::path::Path;

/// The objective and the gap of a run.
fn reached(report: &serde_json::Value) -> (f64, f64) {
    (report["objective"].as_f64().unwrap(), report["metrics"]["gap"].as_f64().unwrap())
}

#[test]
fn newton_and_coordinate_descent_reach_a_certified_1e_8_alone_and_on_three_slaves() {
    let cluster = Cluster::start(3, 2);
    let rows = Rows::generate(40, 3000, 300, 12);
    let path = rows.write(cluster.folder(), "rows");
    let lambda = 0.002;
    for (flags, least) in
        [(&["--solver", "newton"][..], optimum(&rows, lambda).0), (&["--penalty", "l1"], optimum_l1(&rows, lambda))]
    {
        let args = ["run", "lr", "--lambda", "0.002", "--tolerance", "1e-8", "--input", path.to_str().unwrap()];
        let runs = [flexps(args).args(flags), cluster.ask(args).args(flags)];
        for (run, slaves) in runs.into_iter().zip([1, 3]) {
            let folder = cluster.folder().join(format!("{}-{slaves}", flags[1]));
            let report = run.arg("--model").arg(&folder).json();
            let (objective_there, gap) = reached(&report);
            assert!(gap <= 1e-8, "{flags:?} on {slaves}: a gap of {gap:e}");
            let above = (objective_there - least) / least;
            assert!((-1e-9..1e-8).contains(&above), "{flags:?} on {slaves}: {above:e} above the optimum");
            assert_eq!(report["stages"][0]["slaves"].as_array().unwrap().len(), slaves);
            let saved = model::read(&folder);
            if flags[1] == "l1" {
                let nonzero = saved.weights.iter().filter(|w| **w != 0.0).count() as f64;
                assert_eq!(report["metrics"]["nonzeros"], nonzero);
                assert!(nonzero < 250.0, "{nonzero} of 300 weights are not zero");
            } else {
                assert_close(objective(&rows, &saved.weights, 0.0, lambda), objective_there, 1e-6);
            }
        }
    }
}

/// Rows of three classes with labels 3, 5 and 9, by which of three hidden models scores highest.
fn three_classes(folder: &Path, rows: usize) -> std::path::PathBuf {
    let mut random = Random::new(41);
    let hidden: Vec<[f64; 30]> = (0..3).map(|_| std::array::from_fn(|_| random.unit() - 0.5)).collect();
    let mut text = String::new();
    for _ in 0..rows {
        let row: Vec<(usize, f64)> = (0..30).map(|k| (k, random.unit())).filter(|(_, v)| *v < 0.4).collect();
        let score = |of: &[f64; 30]| row.iter().map(|(k, v)| of[*k] * v).sum::<f64>();
        let best = (0..3).max_by(|a, b| score(&hidden[*a]).total_cmp(&score(&hidden[*b]))).unwrap();
        let _ = write!(text, "{}", [3, 5, 9][best]);
        row.iter().for_each(|(k, v)| {
            let _ = write!(text, " {}:{v:.3}", k + 1);
        });
        text.push('\n');
    }
    let path = folder.join("classes");
    std::fs::write(&path, text).unwrap();
    path
}

/// The mean over `classes` of the part of a class's rows that is predicted to be of it, of pairs of prediction and label.
fn recall(pairs: &[(&str, &str)], classes: &[&str]) -> f64 {
    let of = |class: &&str| {
        let own: Vec<_> = pairs.iter().filter(|(_, label)| label == class).collect();
        own.iter().filter(|(predicted, label)| predicted == label).count() as f64 / own.len() as f64
    };
    classes.iter().map(of).sum::<f64>() / classes.len() as f64
}

#[test]
fn several_classes_are_learnt_predicted_and_judged() {
    let here = folder();
    let path = three_classes(here.path(), 1500);
    for (job, more) in [
        ("lr", &["--solver", "newton", "--cv", "5"][..]),
        ("lr", &["--penalty", "l1", "--lambda", "1e-4", "--cv", "5"]),
        ("svm", &["--solver", "newton", "--cv", "5"]),
        ("lr", &["--solver", "sdca", "--cv", "5"]),
        ("svm", &["--solver", "sdca", "--class-weight", "balanced"]),
    ] {
        let saved = here.path().join("model");
        let run = flexps(["run", job, "--bias", "--overwrite"]).args(more).arg("--model").arg(&saved);
        let report = run.arg("--input").arg(&path).json();
        if more.contains(&"--cv") {
            let accuracy = report["metrics"]["cv_accuracy"].as_f64().unwrap();
            assert!((0.75..1.0).contains(&accuracy), "{job} {more:?}: {accuracy}");
        }
        let on = |command: &str| flexps([command, "--model"]).arg(&saved).arg("--input").arg(&path);
        let predicted = on("predict").ok().stdout;
        let text = std::fs::read_to_string(&path).unwrap();
        let labels = text.lines().map(|line| line.split(' ').next().unwrap());
        let right = predicted.lines().zip(labels).filter(|(ours, label)| ours == label).count();
        assert!(right > 1200, "{right} of 1500");
        let judged = on("evaluate").arg("--json").ok().json();
        assert_close(judged["accuracy"].as_f64().unwrap(), right as f64 / 1500.0, 1e-9);
        let pairs: Vec<(&str, &str)> =
            predicted.lines().zip(text.lines().map(|line| line.split(' ').next().unwrap())).collect();
        assert_close(judged["recall"].as_f64().unwrap(), recall(&pairs, &["3", "5", "9"]), 1e-9);
        // Of a class that no row is of there is none.
        let lines = text.lines().zip(&pairs).filter(|(_, (_, label))| *label != "5");
        let (two, pairs): (String, Vec<_>) = lines.map(|(line, pair)| (format!("{line}\n"), *pair)).unzip();
        let without = here.path().join("without");
        std::fs::write(&without, two).unwrap();
        let judged = flexps(["evaluate", "--model"]).arg(&saved).arg("--input").arg(&without).json();
        assert_close(judged["recall"].as_f64().unwrap(), recall(&pairs, &["3", "9"]), 1e-9);
        let probabilities = on("predict").args(["--output", "probability"]).ok().stdout;
        for line in probabilities.lines() {
            let sum: f64 = line.split(' ').map(|p| p.parse::<f64>().unwrap()).sum();
            assert!(line.split(' ').count() == 3 && (sum - 1.0).abs() < 1e-9, "{line}");
        }
        let shown = flexps(["model", "show"]).arg(&saved).ok().stdout;
        assert!(shown.contains("3, 5 and 9"), "{shown}");
        let exported = here.path().join("exported");
        flexps(["model", "export", "--format", "liblinear", "--output"]).arg(&exported).arg(&saved).ok();
        let text = std::fs::read_to_string(&exported).unwrap();
        assert!(text.contains("nr_class 3\nlabel 3 5 9\nnr_feature 30\nbias 1\nw\n"), "{text}");
        assert_eq!(text.lines().last().unwrap().split_whitespace().count(), 3);
        flexps(["model", "export", "--format", "text", "--output"]).arg(&exported).arg(&saved).ok();
        let text = std::fs::read_to_string(&exported).unwrap();
        for class in ["3 ", "5 ", "9 "] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{class}bias "))), "{text}");
            assert!(text.lines().any(|line| line.starts_with(class) && !line.contains("bias")), "{text}");
        }
    }
}

#[test]
fn auto_chooses_by_the_rows_says_why_and_reaches_the_same_optimum_alone_and_on_three_slaves() {
    let cluster = Cluster::start(3, 2);
    // Few long rows, and many features: one for each solver.
    for (rows, wanted, other) in
        [(Rows::generate(43, 2000, 30, 12), "newton", "sdca"), (Rows::generate(44, 500, 900, 12), "sdca", "newton")]
    {
        let path = rows.write(cluster.folder(), wanted);
        let args = ["run", "lr", "--lambda", "0.0005", "--tolerance", "1e-4", "--input", path.to_str().unwrap()];
        let least = optimum(&rows, 0.0005).0;
        for run in [flexps(args), cluster.ask(args)] {
            let report = run.json();
            let (objective, gap) = reached(&report);
            let above = (objective - least) / least;
            assert!(above <= gap + 1e-7 && gap <= 1e-4, "{above:e} above the optimum with a gap of {gap:e}");
            let notes = report["notes"].to_string();
            assert!(
                notes.contains(&format!("solver {wanted}: ")) && !notes.contains(&format!("solver {other}: ")),
                "{notes}"
            );
        }
    }
}

#[test]
fn numbers_are_learnt_with_few_weights() {
    let here = folder();
    let mut random = Random::new(42);
    let mut text = String::new();
    for _ in 0..800 {
        let row: Vec<f64> = (0..40).map(|_| random.unit() - 0.5).collect();
        let number = 7.0 + 3.0 * row[2] - 5.0 * row[11] + 0.1 * (random.unit() - 0.5);
        let _ = write!(text, "{number:.5}");
        row.iter().enumerate().for_each(|(k, v)| {
            let _ = write!(text, " {}:{v:.4}", k + 1);
        });
        text.push('\n');
    }
    let path = here.path().join("numbers");
    std::fs::write(&path, text).unwrap();
    let saved = here.path().join("model");
    let run = flexps(["run", "lasso", "--bias", "--lambda", "0.01", "--tolerance", "1e-6", "--model"]).arg(&saved);
    let report = run.arg("--input").arg(&path).json();
    assert_eq!(report["metrics"]["nonzeros"], 2.0, "{}", report["metrics"]);
    let weights = model::read(&saved);
    assert!((weights.weights[11] + 5.0).abs() < 0.3 && (weights.bias - 7.0).abs() < 0.05, "{weights:?}");
    let on = |command: &str| flexps([command, "--model"]).arg(&saved).arg("--input").arg(&path);
    let judged = on("evaluate").arg("--json").ok().json();
    assert!(judged["rmse"].as_f64().unwrap() < 0.2 && judged["r2"].as_f64().unwrap() > 0.98, "{judged}");
    let first: f64 = on("predict").ok().stdout.lines().next().unwrap().parse().unwrap();
    assert!((0.0..14.0).contains(&first), "{first}");
    on("predict").args(["--output", "probability"]).exits(2).says(&["numbers", "probability"]);
    let run = flexps(["run", "lasso", "--bias", "--path", "20", "--cv", "4"]).arg("--input").arg(&path).json();
    assert_eq!(run["epochs"].as_array().unwrap().len(), 100);
    assert!(run["metrics"]["nonzeros"].as_f64().unwrap() >= 2.0);
}

#[test]
fn the_report_of_a_path_is_of_the_lambda_that_is_kept() {
    let here = folder();
    let path = here.path().join("noise");
    // Numbers that the features tell nothing of, so that the less is learnt the better.
    let row = |i: usize| {
        let noise = |by: usize| (i * by + 1) * (i + by) % 101;
        format!(
            "{} 1:{} 2:{} 3:{}\n",
            noise(7),
            noise(11) as f64 / 50.0,
            noise(13) as f64 / 50.0,
            noise(17) as f64 / 50.0
        )
    };
    std::fs::write(&path, (0..120).map(row).collect::<String>()).unwrap();
    let run = flexps(["run", "lasso", "--bias", "--path", "8", "--cv", "3"]).arg("--input").arg(&path).json();
    let epochs = &run["epochs"].as_array().unwrap()[24..];
    let kept =
        epochs.iter().find(|epoch| epoch["metrics"]["lambda"] == run["metrics"]["lambda"]).expect("a step of the path");
    assert_ne!(kept, epochs.last().unwrap(), "the last is of no use");
    assert_eq!(kept["objective"], run["objective"]);
    for name in ["nonzeros", "gap", "rounds"] {
        assert_eq!(kept["metrics"][name], run["metrics"][name], "{name}");
    }
}

#[test]
fn the_report_of_classes_that_keep_different_lambdas_of_a_path_tells_none_of_all() {
    let here = folder();
    // Class 0 can be told from the rest, and the others from one another by nothing.
    let write = |name: &str, seed: u64, rows: usize| {
        let mut random = Random::new(seed);
        let mut text = String::new();
        for i in 0..rows {
            let row: Vec<f64> = (0..40).map(|_| random.unit() - 0.5).collect();
            let easy = row.iter().step_by(3).sum::<f64>() > 0.3;
            let _ = write!(text, "{}", if easy { 0 } else { 1 + i % 2 });
            row.iter().enumerate().for_each(|(k, v)| {
                let _ = write!(text, " {}:{v:.3}", k + 1);
            });
            text.push('\n');
        }
        let path = here.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (rows, held_out) = (write("rows", 45, 150), write("held-out", 46, 600));
    let run = flexps(["run", "lr", "--penalty", "l1", "--lambda", "1e-4", "--path", "12", "--bias", "--validation"]);
    let report = run.arg(&held_out).arg("--input").arg(&rows).json();
    let epochs = report["epochs"].as_array().unwrap();
    let loss = |at: usize| epochs[at]["metrics"]["validation_loss"].as_f64().unwrap();
    let best = |class: usize| (0..12).min_by(|a, b| loss(12 * class + a).total_cmp(&loss(12 * class + b))).unwrap();
    assert!(best(0) > best(1) && best(0) > best(2), "{} {} {}", best(0), best(1), best(2));
    let told = report["metrics"].as_object().unwrap();
    assert!(!told.contains_key("lambda") && told.contains_key("gap"), "{told:?}");
    assert!(epochs.iter().all(|epoch| epoch["metrics"]["lambda"].is_number()));
}

#[test]
fn what_can_not_be_learnt_is_said() {
    let here = folder();
    let write = |name: &str, text: &str| {
        let path = here.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let apart = write("apart", "+1 1:1\n-1 2:1\n+1 1:2\n-1 2:2\n");
    let huge = write("huge", "+1 1:1e30\n-1 1:1e30 2:1e-30\n+1 2:1\n-1 1:-1e30\n");
    let run = |flags: &[&str], path: &Path| flexps(["run", "lr"]).args(flags).arg("--input").arg(path);
    run(&["--lambda", "0"], &apart).exits(2).says(&["separable", "--lambda"]);
    run(&["--lambda=-1"], &apart).exits(2).says(&["--lambda", "-1 is out of range"]);
    run(&["--cv", "5"], &apart).exits(2).says(&["5 folds", "4"]);
    run(&["--class-weight", "7=2"], &apart).exits(2).says(&["label 7", "-1 and 1"]);
    run(&["--solver", "sdca", "--penalty", "l1"], &apart).exits(2).says(&["--solver sdca", "--penalty"]);
    run(&["--path", "5"], &apart).exits(2).says(&["--path", "--penalty l1"]);
    let one = write("one", "+1 1:1\n+1 2:1\n");
    run(&["--penalty", "l1"], &one).exits(2).says(&["all 2 rows", "two classes"]);
    for (i, flags) in [&["--penalty", "l1"][..], &["--solver", "newton"], &["--bias"]].iter().enumerate() {
        let saved = here.path().join(format!("model{i}"));
        let run = run(flags, &huge).arg("--model").arg(&saved).run();
        if run.code == 0 {
            assert!(model::read(&saved).weights.iter().all(|w| w.is_finite()), "{run}");
        } else {
            assert!(!saved.exists(), "{run}");
            run.says(&["scale the features"]);
        }
    }
    let constant = write("constant", "+1 1:1 2:3\n-1 1:2 2:3\n+1 1:1.5 2:3\n-1 1:0.5 2:3\n+1 2:3\n-1 2:3\n");
    for flags in [&["--penalty", "l1", "--bias"][..], &["--solver", "newton", "--bias"]] {
        let report = run(flags, &constant).json();
        assert!(reached(&report).1 <= 1e-4, "{report}");
    }
}
