//! Real mail: a classifier of the SpamAssassin corpus comes as near to the optimum as promised, and is what its file says.

use crate::support::optimum::{auc, log_loss, optimum};
use crate::support::process::program;
use crate::support::{Rows, assert_close, flexps, folder, model};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The training and the test set. `scripts/data` fetches them once, and says what it lacks when it can't.
fn sets() -> (PathBuf, PathBuf) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/data");
    let run = program(&script, ["spamassassin"]).with_users_cache().within(600).ok();
    let paths: Vec<PathBuf> = run.stdout.lines().map(PathBuf::from).collect();
    <[_; 2]>::try_from(paths).map(Into::into).unwrap_or_else(|_| panic!("two paths\n{run}"))
}

/// The rows of a file packed by gzip.
fn rows(path: &Path) -> Rows {
    let output = Command::new("gzip").arg("-dc").arg(path).stdin(Stdio::null()).output().expect("gzip is installed");
    assert!(output.status.success(), "{}", path.display());
    Rows::parse(&String::from_utf8(output.stdout).expect("rows are text"))
}

#[test]
fn spam_is_told_from_ham_within_1e_3_of_the_optimum_and_the_saved_model_says_the_same() {
    let (train, test) = sets();
    let here = folder();
    let folder = here.path().join("model");
    let run = flexps(["run", "svrg", "--input"]).arg(&train).arg("--validation").arg(&test);
    let report = run.arg("--model").arg(&folder).within(300).json();

    let mails = rows(&train);
    let (least, _) = optimum(&mails.compact(), 1.0 / mails.labels.len() as f64);
    let gap = (report["objective"].as_f64().unwrap() - least) / least;
    assert!((-1e-6..1e-3).contains(&gap), "{gap:.2e} above the optimum {least}: {report}");
    assert!(report["metrics"]["auc"].as_f64().is_some_and(|auc| auc >= 0.99), "{}", report["metrics"]);

    let (saved, mails) = (model::read(&folder), rows(&test));
    let margins = mails.margins(&saved.weights, saved.bias);
    let apply = |command: &str| flexps([command, "--model"]).arg(&folder).arg("--input").arg(&test);
    let expected: String = margins.iter().map(|m| if *m > 0.0 { "1\n" } else { "-1\n" }).collect();
    assert!(apply("predict").ok().stdout == expected, "other labels than by hand");
    let (found, n) = (apply("evaluate").json(), margins.len() as f64);
    let pairs = || margins.iter().zip(&mails.labels);
    let right = pairs().filter(|(m, y)| (**m > 0.0) == (**y > 0.0)).count() as f64;
    let loss: f64 = pairs().map(|(m, y)| log_loss(m * y)).sum();
    assert_eq!(found["rows"], margins.len());
    assert_close(found["accuracy"].as_f64().unwrap(), right / n, 1e-12);
    assert_close(found["log_loss"].as_f64().unwrap(), loss / n, 1e-9);
    assert_close(found["auc"].as_f64().unwrap(), auc(&mails, &margins), 1e-12);
    assert_close(report["metrics"]["auc"].as_f64().unwrap(), found["auc"].as_f64().unwrap(), 1e-3);
}
