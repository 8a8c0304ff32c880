//! Jobs that are killed, or lose a slave, and go on from their checkpoint.

use crate::support::kept::{assert_resumed, assert_waits, ended, epoch, long_job, some_rows};
use crate::support::rows::Random;
use crate::support::{Cluster, Rows, assert_close, flexps, folder, kept, model, wait};
use std::path::Path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Jobs of which each keeps something else between epochs: steps, squares, replicas' rows, the best model so far, rows' slopes and
/// dual variables.
const JOBS: [&[&str]; 8] = [
    &["svrg"],
    &["svrg", "--bias", "--narrow", "2", "--wide", "2"],
    &["svrg", "--sample-share", "1", "--inner", "0.5", "--narrow", "2"],
    &["lr", "--optimizer", "adagrad", "--bias", "--threads", "2"],
    &["lr", "--solver", "sgd", "--batch", "20", "--threads", "2", "--patience", "1000"],
    &["lr", "--optimizer", "saga", "--batch", "20", "--threads", "2"],
    &["lr", "--solver", "sdca", "--joins", "4", "--threads", "2", "--bias"],
    &["svm", "--solver", "sdca", "--loss", "squared"],
];

/// Others, of which each keeps other things: which features are worked on, folds and how they did, the path so far, steps by
/// products.
const PROBLEMS: [&[&str]; 5] = [
    &["lasso", "--tolerance", "1e-8", "--path", "60", "--bias"],
    &["lr", "--tolerance", "1e-7", "--penalty", "l1", "--path", "10", "--cv", "2"],
    &["lr", "--tolerance", "1e-9", "--solver", "newton", "--worker-memory", "1MiB", "--lambda", "1e-8", "--bias"],
    &["svm", "--tolerance", "1e-8", "--solver", "newton", "--cv", "20"],
    &["lr", "--tolerance", "1e-7", "--solver", "sdca", "--cv", "20"],
];

/// Behind what the checkpoint in `folder` was written, if one is there.
fn behind(folder: &Path) -> Option<String> {
    std::fs::read(folder.join("checkpoint.bin")).ok().map(|bytes| kept::behind(&bytes))
}

/// Waits until a checkpoint is there; the epoch behind which it was written.
#[track_caller]
fn await_checkpoint(folder: &Path) -> u64 {
    epoch(&wait::until("a checkpoint", 30 * SECOND, || behind(folder)))
}

/// What is in a folder.
fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_command_that_was_killed_goes_on_from_its_checkpoint_to_the_same_bits() {
    let here = folder();
    let path = |name: &str| here.path().join(name);
    let (train, held_out) = Rows::generate(31, 3000, 300, 15).split(2500);
    let (train, held_out) = (train.write(here.path(), "rows"), held_out.write(here.path(), "held-out"));
    for (number, job) in JOBS.iter().enumerate() {
        let (whole, parts, kept) = (path(&format!("whole-{number}")), path("parts"), path("kept"));
        let run = |model: &Path| {
            let fixed = ["--epochs", "120", "--tolerance", "0", "--reproducible", "--slots", "2", "--input"];
            let run = flexps(["run"]).args(*job).args(fixed).arg(&train).arg("--validation").arg(&held_out);
            run.arg("--model").arg(model)
        };
        let alone = run(&whole).json();
        let again = || run(&parts).args(["--checkpoint-every", "1ms", "--checkpoint"]).arg(&kept);
        let killed = again().start();
        let epoch = await_checkpoint(&kept);
        drop(killed);
        assert!(!parts.exists(), "{job:?} was killed too late");
        let report = again().json();
        assert_resumed(&report, epoch, 120);
        assert_eq!(report["objective"], alone["objective"], "{job:?}");
        assert_eq!(report["metrics"], alone["metrics"], "{job:?}");
        assert!(model::read(&whole).bytes == model::read(&parts).bytes, "{job:?}: other bits");
        assert!(!kept.exists(), "of no use any more");
        std::fs::remove_dir_all(&parts).unwrap();
        let left = entries(here.path());
        assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
    }
}

/// Runs `job` alone, and again: killed behind `epoch`, and going on from its checkpoint. The two reports, which are of models of
/// the same bits.
#[track_caller]
fn whole_and_resumed(here: &Path, epoch: u64, job: &[&str]) -> [serde_json::Value; 2] {
    let [whole, parts, kept] = ["whole", "parts", "kept"].map(|name| here.join(name));
    let run = |model: &Path| flexps(["run"]).args(job).args(["--reproducible", "--overwrite", "--model"]).arg(model);
    let alone = run(&whole).json();
    let again = || run(&parts).args(["--checkpoint-every", "1ms", "--checkpoint"]).arg(&kept);
    let killed = again().start();
    let is_there = || behind(&kept).map(|behind| self::epoch(&behind)).filter(|behind| *behind >= epoch);
    wait::until("a checkpoint", 30 * SECOND, is_there);
    drop(killed);
    assert!(!parts.exists(), "{job:?} was killed too late");
    let report = again().json();
    assert!(report["checkpoint"]["resumed"].is_string(), "{job:?}: {}", report["checkpoint"]);
    assert!(model::read(&whole).bytes == model::read(&parts).bytes, "{job:?}: other bits");
    std::fs::remove_dir_all(&parts).unwrap();
    [alone, report]
}

#[test]
fn several_classes_are_judged_by_the_scores_of_those_before_the_checkpoint_too() {
    let here = folder();
    let [train, held_out] = [("rows", 3000), ("held-out", 800)].map(|(name, count)| {
        let text = Rows::generate(47, count, 60, 15).text();
        // Of the negative rows those with a certain feature are a third class.
        let third = |line: &str| line.strip_prefix("-1").filter(|row| row.contains(" 3:")).map(|row| format!("2{row}"));
        let lines: Vec<String> = text.lines().map(|line| third(line).unwrap_or_else(|| line.to_owned())).collect();
        let path = here.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    // It is killed while the second class is learnt, of three, or later, of the first fold or of all rows.
    let fixed = ["lr", "--solver", "sdca", "--threads", "2", "--slots", "2", "--epochs", "120", "--tolerance", "0"];
    for (more, name) in [(["--cv", "2"], "cv_accuracy"), (["--validation", &held_out], "validation_accuracy")] {
        let job = [&fixed[..], &more, &["--input", &train]].concat();
        let [alone, report] = whole_and_resumed(here.path(), 130, &job);
        assert_eq!(report["metrics"], alone["metrics"]);
        assert!(report["metrics"][name].is_number(), "{}", report["metrics"]);
    }
}

#[test]
fn searches_beside_an_intercept_go_on_to_the_same_bits() {
    let here = folder();
    // Dense columns that are much alike, on which the ascent is slow, so that it searches.
    let mut random = Random::new(48);
    let mut unit = || 4.0 * random.unit() - 2.0;
    let truth: Vec<f64> = (0..40).map(|_| unit()).collect();
    let row = |_| {
        let all = unit();
        let row: Vec<f64> = (1..=40).map(|j| all + 0.02 * f64::from(j) * unit()).collect();
        let score = row.iter().zip(&truth).map(|(x, w)| x * w).sum::<f64>() + 0.7 + unit();
        let values = (1..).zip(&row).map(|(j, x)| format!(" {j}:{x:.3}"));
        format!("{}{}\n", if score > 0.0 { "+1" } else { "-1" }, values.collect::<String>())
    };
    let rows: String = (0..6000).map(row).collect();
    let path = here.path().join("rows");
    std::fs::write(&path, rows.repeat(4)).unwrap();
    let job = ["svm", "--loss", "squared", "--solver", "sdca", "--threads", "1", "--slots", "1", "--bias"];
    let more = ["--lambda", "1e-4", "--epochs", "150", "--tolerance", "0", "--input", path.to_str().unwrap()];
    let [alone, report] = whole_and_resumed(here.path(), 20, &[&job[..], &more].concat());
    assert_eq!(report["objective"], alone["objective"]);
}

#[test]
fn solvers_of_many_problems_and_rounds_go_on_within_the_one_in_which_they_were_killed() {
    let here = folder();
    let rows = Rows::generate(32, 3000, 600, 20).write(here.path(), "rows");
    let [model, kept] = ["model", "kept"].map(|name| here.path().join(name));
    for job in PROBLEMS {
        let run = || flexps(["run"]).args(job).args(["--reproducible", "--slots", "2", "--input"]).arg(&rows);
        let alone = run().json();
        let again =
            || run().args(["--checkpoint-every", "1ms"]).arg("--checkpoint").arg(&kept).arg("--model").arg(&model);
        let killed = again().start();
        wait::until("a checkpoint", 30 * SECOND, || behind(&kept));
        drop(killed);
        assert!(!model.exists(), "{job:?} was killed too late");
        let report = again().json();
        assert!(report["checkpoint"]["resumed"].is_string(), "{job:?}: {}", report["checkpoint"]);
        assert_close(report["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-6);
        assert_eq!(report["epochs"].as_array().unwrap().len(), alone["epochs"].as_array().unwrap().len(), "{job:?}");
        for name in ["cv_loss", "training_loss"] {
            let [here, there] = [&report, &alone].map(|report| report["metrics"][name].as_f64());
            assert_eq!(here.is_some(), there.is_some(), "{job:?}: {name}");
            assert_close(here.unwrap_or(1.0), there.unwrap_or(1.0), 1e-4);
        }
        assert!(!kept.exists());
        std::fs::remove_dir_all(&model).unwrap();
    }
}

#[test]
fn a_job_whose_slave_is_killed_goes_on_from_its_checkpoint_on_those_that_are_left() {
    let mut cluster = Cluster::start(3, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let id = long_job(&cluster, &rows, &kept, "1");
    let epoch = await_checkpoint(&kept);
    cluster.slaves[1].kill();
    let report = ended(&cluster, &id);
    assert_eq!((&report["state"], &report["repeats"][0]["slave"]), (&"done".into(), &"h2".into()), "{report}");
    assert_resumed(&report, epoch, 250);
    let slaves = report["stages"][0]["slaves"].as_array().unwrap();
    assert_eq!(slaves.len(), 2, "{slaves:?}");
    let alone = flexps(["run", "svrg", "--tolerance", "1e-7", "--epochs", "250", "--input"]).arg(&rows).json();
    assert_close(report["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-5);
    flexps(["model", "show"]).arg(cluster.folder().join("model")).ok();
    assert!(!kept.exists());
}

#[test]
fn what_rows_keep_finds_them_on_other_slaves_and_in_other_blocks() {
    let cluster = Cluster::start(3, 1);
    let (rows, kept) = (cluster.folder().join("rows"), cluster.folder().join("kept"));
    std::fs::create_dir(&rows).unwrap();
    for (seed, name, count) in [(41, "b", 16_000), (42, "a", 200), (43, "c", 9_000)] {
        Rows::generate(seed, count, 300, 15).write(&rows, name);
    }
    let jobs: [(&[&str], f64); 3] = [
        (&["lr", "--solver", "sdca", "--threads", "3", "--joins", "4"], 1e-6),
        (&["lr", "--optimizer", "saga", "--batch", "50", "--threads", "3"], 1e-6),
        // Which rows rest is found anew.
        (&["svm", "--loss", "hinge", "--solver", "sdca", "--threads", "3"], 1e-3),
    ];
    for (job, within) in jobs {
        let fixed = ["--lambda", "1e-4", "--tolerance", "0", "--epochs", "400", "--checkpoint-every", "1ms", "--input"];
        let there = cluster.ask(["run", "--detach"]).args(job).args(fixed).arg(&rows).arg("--checkpoint").arg(&kept);
        let id = there.ok().stdout.trim().to_owned();
        let epoch = await_checkpoint(&kept);
        cluster.ask(["cancel", &id]).ok();
        assert_eq!(ended(&cluster, &id)["state"], "cancelled", "{job:?} was cancelled too late");
        let here = flexps(["run"]).args(job).args(fixed).arg(&rows).args(["--slots", "3", "--checkpoint"]).arg(&kept);
        let report = here.json();
        assert_resumed(&report, epoch, 400);
        let loss: &[&str] = if job[0] == "svm" { &["--loss", "hinge"] } else { &[] };
        let alone = flexps(["run", job[0], "--solver", "newton", "--lambda", "1e-4", "--tolerance", "1e-8"]).args(loss);
        let alone = alone.arg("--input").arg(&rows).json();
        assert_close(report["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), within);
    }
}

#[test]
fn a_path_goes_on_with_other_slaves_to_models_that_are_as_good_as_it_certifies() {
    let cluster = Cluster::start(2, 1);
    let (rows, kept) = (cluster.folder().join("rows"), cluster.folder().join("kept"));
    std::fs::create_dir(&rows).unwrap();
    // One slave knows that rows have few of all features, and keeps numbers of these alone.
    for (seed, name) in [(51, "a"), (52, "b")] {
        let mut part = Rows::generate(seed, 2000, 1500, 12);
        part.rows.iter_mut().flatten().for_each(|(feature, _)| *feature *= 60);
        Rows { features: 60 * part.features, ..part }.write(&rows, name);
    }
    let path = ["lr", "--penalty", "l1", "--path", "300", "--lambda", "3e-4", "--tolerance", "1e-6", "--input"];
    let keeps = ["--checkpoint-every", "1ms", "--checkpoint"];
    let there = cluster.ask(["run", "--detach"]).args(path).arg(&rows).args(keeps).arg(&kept);
    let id = there.ok().stdout.trim().to_owned();
    // Far enough on its way that it looks at few features.
    wait::until("a checkpoint", 60 * SECOND, || behind(&kept).filter(|behind| epoch(behind) > 60));
    cluster.ask(["cancel", &id]).ok();
    assert_eq!(ended(&cluster, &id)["state"], "cancelled", "it was cancelled too late");
    let run = || flexps(["run"]).args(path).arg(&rows).args(["--slots", "2"]);
    let (report, alone) = (run().args(keeps).arg(&kept).json(), run().json());
    assert!(report["checkpoint"]["resumed"].is_string(), "{}", report["checkpoint"]);
    let [steps, others] = [&report, &alone].map(|report| report["epochs"].as_array().unwrap());
    assert_eq!((steps.len(), others.len()), (300, 300));
    for (step, other) in steps.iter().zip(others) {
        assert_close(step["objective"].as_f64().unwrap(), other["objective"].as_f64().unwrap(), 3e-6);
    }
}

#[test]
fn a_checkpoint_that_is_damaged_when_a_slave_is_lost_is_a_note_and_no_end() {
    let mut cluster = Cluster::start(3, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let id = long_job(&cluster, &rows, &kept, "1");
    await_checkpoint(&kept);
    std::fs::write(kept.join("mine"), "precious").unwrap();
    // None is written meanwhile: a stage waits for the slave that stands still.
    cluster.slaves[1].signal(libc::SIGSTOP);
    std::thread::sleep(SECOND);
    std::fs::write(kept.join("checkpoint.bin"), "fxcheck2").unwrap();
    cluster.slaves[1].kill();
    let report = ended(&cluster, &id);
    assert_eq!(
        (&report["state"], &report["checkpoint"]["resumed"]),
        (&"done".into(), &serde_json::Value::Null),
        "{report}"
    );
    assert_eq!(report["epochs"].as_array().unwrap().len(), 250);
    let says = |note: &serde_json::Value| {
        note.as_str().is_some_and(|note| note.starts_with("started from the beginning") && note.contains("cut short"))
    };
    assert!(report["notes"].as_array().unwrap().iter().any(says), "{}", report["notes"]);
    assert_eq!(entries(&kept), ["mine"], "what is no checkpoint stays");
}

#[test]
fn a_checkpoint_that_can_not_be_read_when_a_slave_is_lost_is_waited_for() {
    let mut cluster = Cluster::start(3, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let id = long_job(&cluster, &rows, &kept, "1");
    let epoch = await_checkpoint(&kept);
    // None is written meanwhile: a stage waits for the slave that stands still.
    cluster.slaves[1].signal(libc::SIGSTOP);
    std::thread::sleep(SECOND);
    let [file, aside] = [kept.join("checkpoint.bin"), cluster.folder().join("aside")];
    std::fs::rename(&file, &aside).unwrap();
    // Not even root reads it as a file.
    std::fs::create_dir(&file).unwrap();
    cluster.slaves[1].kill();
    assert_waits(&cluster, "checkpoint.bin");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    let report = ended(&cluster, &id);
    assert_eq!((&report["state"], &report["repeats"][0]["slave"]), (&"done".into(), &"h2".into()), "{report}");
    assert_resumed(&report, epoch, 250);
    assert!(!kept.exists());
}

#[test]
fn a_job_that_is_queued_again_waits_for_its_checkpoints_folder() {
    let mut cluster = Cluster::start(2, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let history = cluster.folder().join("history").to_string_lossy().into_owned();
    cluster.restart_master(&["--history", &history]);
    cluster.await_slaves(2);
    let id = long_job(&cluster, &rows, &kept, "0");
    let epoch = await_checkpoint(&kept);
    cluster.master.kill();
    let aside = cluster.folder().join("aside");
    std::fs::rename(&kept, &aside).unwrap();
    std::fs::write(&kept, "of a disk that is not there yet").unwrap();
    cluster.restart_master(&["--history", &history]);
    cluster.await_slaves(2);
    assert_waits(&cluster, "--checkpoint");
    std::fs::remove_file(&kept).unwrap();
    std::fs::rename(&aside, &kept).unwrap();
    let report = ended(&cluster, &id);
    assert_eq!(report["state"], "done", "{report}");
    assert_resumed(&report, epoch, 250);
}

#[test]
fn a_checkpoint_that_can_not_be_removed_at_the_end_is_a_note() {
    let cluster = Cluster::start(1, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let id = long_job(&cluster, &rows, &kept, "0");
    await_checkpoint(&kept);
    let file = kept.join("checkpoint.bin");
    // One may be put there in between.
    wait::until("a folder in its place", 10 * SECOND, || {
        std::fs::remove_file(&file).and_then(|()| std::fs::create_dir(&file)).ok()
    });
    let report = ended(&cluster, &id);
    assert_eq!(report["state"], "done", "{report}");
    let says = |note: &serde_json::Value| {
        note.as_str().is_some_and(|note| note.contains("was not removed") && note.contains("checkpoint.bin"))
    };
    assert!(report["notes"].as_array().unwrap().iter().any(says), "{}", report["notes"]);
    assert_eq!(entries(&kept), ["checkpoint.bin"]);
}

#[test]
fn a_job_whose_master_is_killed_goes_on_when_it_is_submitted_to_the_next_one() {
    let mut cluster = Cluster::start(2, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    long_job(&cluster, &rows, &kept, "0");
    let epoch = await_checkpoint(&kept);
    cluster.master.kill();
    cluster.restart_master(&[]);
    cluster.await_slaves(2);
    let id = long_job(&cluster, &rows, &kept, "0");
    let report = ended(&cluster, &id);
    assert_eq!(report["state"], "done", "{report}");
    assert_resumed(&report, epoch, 250);
}

#[test]
fn a_checkpoint_that_can_be_of_no_use_is_refused_at_submission() {
    let cluster = Cluster::start(1, 1);
    let (rows, kept) = (some_rows(&cluster), cluster.folder().join("kept"));
    let refused = |flags: &[&str], says: &[&str]| {
        let run = cluster.ask(["run"]).args(flags).arg("--input").arg(&rows).arg("--checkpoint").arg(&kept);
        run.exits(2).says(says);
    };
    refused(&["lr", "--solver", "ftrl"], &["--checkpoint", "lr has no rounds", "--restarts"]);
    refused(&["svrg", "--model", kept.to_str().unwrap()], &["--checkpoint", "the model goes to"]);
    refused(&["svrg", "--model", cluster.folder().to_str().unwrap()], &["--checkpoint", "the model goes to"]);
    let id = long_job(&cluster, &rows, &kept, "0");
    refused(&["svrg"], &["--checkpoint", &format!("job {id} keeps its own")]);
    await_checkpoint(&kept);
    cluster.ask(["cancel", &id]).ok();
    wait::until("the job's end", 20 * SECOND, || {
        (cluster.ask(["status", &id]).json()["state"] == "cancelled").then_some(())
    });
    assert!(behind(&kept).is_some(), "it stays for who goes on");
    refused(&["svrg", "--epochs", "7"], &["holds a checkpoint of svrg", "--epochs is 250 there, and 7 here", "remove"]);
    std::fs::write(kept.join("checkpoint.bin"), "fxcheck2").unwrap();
    let id = long_job(&cluster, &rows, &kept, "0");
    let report = ended(&cluster, &id);
    let error = &report["error"]["message"];
    assert!(error.as_str().unwrap().contains("checkpoint.bin: it was cut short"), "{error}");
    std::fs::write(cluster.folder().join("mine"), "").unwrap();
    let run = cluster.ask(["run", "svrg", "--input"]).arg(&rows).arg("--checkpoint").arg(cluster.folder().join("mine"));
    run.exits(2).says(&["mine", "another path"]);
}
