//! A saved model applied: what is predicted and judged agrees with a few lines that read its file by hand.

use crate::support::optimum::{auc, log_loss};
use crate::support::{Rows, assert_close, flexps, folder, model};
use std::path::PathBuf;

/// A model trained on some rows, and other rows of the same kind.
struct Trained {
    here: tempfile::TempDir,
    model: PathBuf,
    test: Rows,
    input: PathBuf,
}

fn trained(flags: &[&str]) -> Trained {
    let here = folder();
    let (train, test) = Rows::generate(40, 1500, 120, 10).split(1000);
    let model = here.path().join("model");
    let run = flexps(["run", "svrg", "--epochs", "10"]).args(flags).arg("--model").arg(&model);
    run.arg("--input").arg(train.write(here.path(), "train")).ok();
    let input = test.write(here.path(), "test");
    Trained { here, model, test, input }
}

/// `flexps COMMAND … --model M --input F`.
fn apply(command: &[&str], on: &Trained) -> crate::support::process::Invocation {
    flexps(command).arg("--model").arg(&on.model).arg("--input").arg(&on.input)
}

#[test]
fn predictions_agree_with_the_file_read_by_hand() {
    for flags in [&[][..], &["--bias"]] {
        let on = trained(flags);
        let saved = model::read(&on.model);
        let margins = on.test.margins(&saved.weights, saved.bias);
        let labels = apply(&["predict"], &on).ok().stdout;
        let expected: String = margins.iter().map(|m| if *m > 0.0 { "1\n" } else { "-1\n" }).collect();
        assert_eq!(labels, expected);
        let probabilities = apply(&["predict", "--output", "probability"], &on).ok().stdout;
        assert_eq!(probabilities.lines().count(), 500);
        for (line, margin) in probabilities.lines().zip(&margins) {
            assert_close(line.parse().unwrap(), 1.0 / (1.0 + (-margin).exp()), 1e-6);
        }
    }
}

#[test]
fn the_evaluation_agrees_with_the_file_read_by_hand() {
    let on = trained(&["--bias"]);
    let saved = model::read(&on.model);
    let margins = on.test.margins(&saved.weights, saved.bias);
    let n = margins.len() as f64;
    let pairs = || margins.iter().zip(&on.test.labels);
    let right = pairs().filter(|(m, y)| (**m > 0.0) == (**y > 0.0)).count() as f64;
    let loss: f64 = pairs().map(|(m, y)| log_loss(m * y)).sum();
    let found = apply(&["evaluate"], &on).json();
    assert_eq!(found["rows"], 500);
    assert_close(found["accuracy"].as_f64().unwrap(), right / n, 1e-12);
    assert_close(found["log_loss"].as_f64().unwrap(), loss / n, 1e-9);
    assert_close(found["auc"].as_f64().unwrap(), auc(&on.test, &margins), 1e-12);
    let text = apply(&["evaluate"], &on).ok().stdout;
    for word in ["accuracy", "log loss", "AUC"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn an_evaluation_of_no_rows_is_refused() {
    let on = trained(&[]);
    let empty = on.here.path().join("empty");
    std::fs::write(&empty, "\n# nothing\n").unwrap();
    let run = flexps(["evaluate", "--model"]).arg(&on.model).arg("--input").arg(&empty).exits(2);
    run.says(&["error: ", empty.to_str().unwrap(), "no rows"]);
    assert!(run.stdout.is_empty(), "{run}");
}

#[test]
fn labels_are_predicted_as_they_stand_in_the_training_file() {
    let here = folder();
    let rows = here.path().join("rows");
    std::fs::write(&rows, "2 1:1\n5 2:1\n".repeat(50)).unwrap();
    let model = here.path().join("model");
    flexps(["run", "svrg", "--input"]).arg(&rows).arg("--model").arg(&model).ok();
    let run = flexps(["predict", "--model"]).arg(&model).arg("--input").arg(&rows).ok();
    assert_eq!(run.stdout, "2\n5\n".repeat(50));
}

#[test]
fn rows_with_features_that_the_model_never_saw_are_scored_by_the_others() {
    let on = trained(&[]);
    let wide = on.here.path().join("wide");
    std::fs::write(&wide, "+1 1:1 100000:3\n-1 1:1\n").unwrap();
    let run = flexps(["predict", "--output", "probability", "--model"]).arg(&on.model).arg("--input").arg(&wide).ok();
    let lines: Vec<_> = run.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{run}");
}

#[test]
fn the_liblinear_file_is_what_liblinear_reads() {
    let on = trained(&["--bias"]);
    let saved = model::read(&on.model);
    let path = on.here.path().join("liblinear");
    flexps(["model", "export", "--format", "liblinear"]).arg(&on.model).arg("--output").arg(&path).ok();
    let text = std::fs::read_to_string(path).unwrap();
    let (head, weights) = text.split_once("\nw\n").expect("a line w");
    let features = saved.weights.len();
    assert_eq!(head, format!("solver_type L2R_LR\nnr_class 2\nlabel 1 -1\nnr_feature {features}\nbias 1"));
    let weights: Vec<f64> = weights.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(weights.len(), features + 1);
    for (a, b) in weights.iter().zip(saved.weights.iter().chain([&saved.bias])) {
        assert_close(*a, *b, 1e-6);
    }
}

#[test]
fn the_npy_file_is_an_array_of_f32_whose_last_one_is_the_bias() {
    let on = trained(&["--bias"]);
    let saved = model::read(&on.model);
    let path = on.here.path().join("weights.npy");
    flexps(["model", "export", "--format", "npy"]).arg(&on.model).arg("--output").arg(&path).ok();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'<f4'"));
    let values: Vec<f64> =
        bytes[header..].chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    assert_eq!(values, [&saved.weights[..], &[saved.bias]].concat());
}

#[test]
fn the_text_file_lists_the_weights_that_are_not_zero() {
    let on = trained(&["--bias"]);
    let saved = model::read(&on.model);
    let path = on.here.path().join("weights.txt");
    flexps(["model", "export", "--format", "text"]).arg(&on.model).arg("--output").arg(&path).ok();
    let text = std::fs::read_to_string(path).unwrap();
    let nonzero = saved.weights.iter().filter(|w| **w != 0.0).count();
    assert_eq!(text.lines().count(), nonzero + 1);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("bias "), "{last}");
    let (index, weight) = text.lines().next().unwrap().split_once(' ').unwrap();
    assert_close(weight.parse().unwrap(), saved.weights[index.parse::<usize>().unwrap() - 1], 1e-6);
}

#[test]
fn show_says_what_a_model_is() {
    let on = trained(&[]);
    let run = flexps(["model", "show"]).arg(&on.model).ok();
    for word in ["svrg", "-1 and 1", "objective", "1000 rows", "indices from 1"] {
        assert!(run.stdout.contains(word), "{word}\n{run}");
    }
    let about = flexps(["model", "show"]).arg(&on.model).json();
    assert_eq!((&about["job"], &about["facts"]["rows"]), (&"svrg".into(), &1000.into()));
}

#[test]
fn rows_whose_features_count_from_zero_are_scored_and_exported_by_their_own_numbers() {
    let here = folder();
    let rows = Rows::generate(77, 300, 40, 6).write(here.path(), "from-one");
    let text = std::fs::read_to_string(&rows).unwrap();
    let shifted = |entry: &str| {
        let (index, value) = entry.split_once(':')?;
        Some(format!("{}:{value}", index.parse::<u64>().ok()? - 1))
    };
    let shift = |line: &str| {
        let entries = line.split(' ').map(|entry| shifted(entry).unwrap_or_else(|| entry.to_owned()));
        entries.collect::<Vec<_>>().join(" ") + "\n"
    };
    let zero = here.path().join("from-zero");
    std::fs::write(&zero, text.lines().map(shift).collect::<String>()).unwrap();
    let [one, zero] = [&rows, &zero].map(|rows| {
        let (model, exported) = (rows.with_extension("model"), rows.with_extension("text"));
        let args = ["run", "lr", "--solver", "newton", "--tolerance", "1e-8", "--model"];
        flexps(args).arg(&model).arg("--input").arg(rows).ok();
        let on = |command: &[&str]| flexps(command).arg("--model").arg(&model).arg("--input").arg(rows).ok().stdout;
        flexps(["model", "export", "--format", "text", "--output"]).arg(&exported).arg(&model).ok();
        let exported = std::fs::read_to_string(&exported).unwrap();
        let indices: Vec<u64> = exported.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        (on(&["predict", "--output", "probability"]), on(&["evaluate"]), indices)
    });
    assert_eq!((&one.0, &one.1), (&zero.0, &zero.1));
    assert_eq!(one.2, zero.2.iter().map(|index| index + 1).collect::<Vec<_>>());
    assert_eq!(zero.2[0], 0);
}

#[test]
fn rows_are_predicted_in_the_order_of_the_files_as_given() {
    let on = trained(&[]);
    let write = |name: &str, rows: &str| {
        let path = on.here.path().join(name);
        std::fs::write(&path, rows).unwrap();
        path
    };
    // Of a row of one feature the probability tells which it is.
    let saved = model::read(&on.model);
    let heavy = (0..saved.weights.len()).max_by(|a, b| saved.weights[*a].total_cmp(&saved.weights[*b])).unwrap() + 1;
    let (second, tenth) = (write("part-2", &format!("1 {heavy}:1\n")), write("part-10", &format!("-1 {heavy}:-1\n")));
    let predict = |paths: &[&PathBuf]| {
        let run =
            flexps(["predict", "--output", "probability", "--model"]).arg(&on.model).arg("--input").args(paths).ok();
        run.stdout.lines().map(|line| line.parse::<f64>().unwrap()).collect::<Vec<_>>()
    };
    let [above, below] = [predict(&[&second])[0], predict(&[&tenth])[0]];
    assert!(above > 0.5 && below < 0.5, "{above} {below}");
    assert_eq!(predict(&[&second, &tenth, &second]), [above, below, above]);
    let folder = on.here.path().join("part-*");
    assert_eq!(predict(&[&folder]), [below, above], "a glob's by name");
}
