//! One command alone: a job in this process reaches the optimum that Newton's method finds.

use crate::support::optimum::{objective, optimum};
use crate::support::{Rows, assert_close, flexps, folder, model};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The flags of a run that goes on until it no longer pays.
const TO_THE_END: [&str; 4] = ["--epochs", "300", "--tolerance", "1e-9"];

/// (reached - least) / least.
#[track_caller]
fn suboptimality(report: &serde_json::Value, least: f64) -> f64 {
    let reached = report["objective"].as_f64().unwrap_or_else(|| panic!("no objective in {report}"));
    (reached - least) / least
}

#[test]
fn svrg_reaches_1e_6_with_one_thread_and_two_under_every_consistency() {
    let here = folder();
    let rows = Rows::generate(7, 2000, 300, 12);
    let path = rows.write(here.path(), "rows");
    let (least, _) = optimum(&rows, 1.0 / 2000.0);
    for threads in ["1", "2"] {
        for consistency in ["bsp", "ssp", "asp"] {
            let run = flexps(["run", "svrg", "--slots", threads, "--wide", threads, "--narrow", threads]);
            let run = run.args(["--consistency", consistency]).args(TO_THE_END);
            let report = run.arg("--input").arg(&path).json();
            let gap = suboptimality(&report, least);
            assert!((-1e-7..1e-6).contains(&gap), "{threads} threads, {consistency}: {gap:.2e} above the optimum");
        }
    }
}

#[test]
fn lr_by_dual_ascent_reaches_a_certified_1e_8_on_any_number_of_threads() {
    let here = folder();
    let rows = Rows::generate(7, 2000, 300, 12);
    let path = rows.write(here.path(), "rows");
    let (least, _) = optimum(&rows, 1.0 / 2000.0);
    for threads in ["1", "2", "3"] {
        let run = flexps([
            "run",
            "lr",
            "--solver",
            "sdca",
            "--slots",
            threads,
            "--threads",
            threads,
            "--epochs",
            "3000",
            "--tolerance",
            "1e-8",
        ]);
        let report = run.arg("--input").arg(&path).json();
        let (gap, certified) = (suboptimality(&report, least), report["metrics"]["gap"].as_f64().unwrap());
        assert!(certified <= 1e-8, "{threads} threads: a gap of {certified:e}");
        assert!((-1e-8..certified + 1e-9).contains(&gap), "{threads} threads: {gap:.2e} above the optimum");
    }
}

#[test]
fn lr_comes_near_the_optimum_under_every_consistency() {
    let here = folder();
    let rows = Rows::generate(8, 2000, 100, 10);
    let path = rows.write(here.path(), "rows");
    let (least, _) = optimum(&rows, 1.0 / 2000.0);
    for consistency in ["bsp", "ssp", "asp", "sparse-ssp"] {
        let run = flexps([
            "run",
            "lr",
            "--solver",
            "sgd",
            "--consistency",
            consistency,
            "--epochs",
            "60",
            "--tolerance",
            "1e-6",
        ]);
        let gap = suboptimality(&run.arg("--input").arg(&path).json(), least);
        assert!((-1e-7..0.02).contains(&gap), "{consistency}: {gap:.2e} above the optimum");
    }
}

#[test]
fn the_objective_in_the_report_is_that_of_the_saved_weights() {
    let here = folder();
    let rows = Rows::generate(9, 1000, 80, 8);
    let path = rows.write(here.path(), "rows");
    for (job, bias) in [("svrg", false), ("svrg", true), ("lr", false), ("lr", true)] {
        let folder = here.path().join(format!("{job}-{bias}"));
        let mut run = flexps(["run", job, "--epochs", "5"]).arg("--input").arg(&path).arg("--model").arg(&folder);
        if bias {
            run = run.arg("--bias");
        }
        let report = run.json();
        let saved = model::read(&folder);
        assert_eq!(saved.bias != 0.0, bias, "{job}: a bias is learnt exactly when it is asked for");
        let by_hand = objective(&rows, &saved.weights, saved.bias, 1e-3);
        assert_close(report["objective"].as_f64().unwrap(), by_hand, 1e-5);
        assert_eq!(report["model"], folder.to_str().unwrap());
    }
}

#[test]
fn lambda_changes_the_optimum_that_is_found() {
    let here = folder();
    let rows = Rows::generate(10, 800, 60, 8);
    let path = rows.write(here.path(), "rows");
    for lambda in [0.1, 1e-4] {
        let run = flexps(["run", "svrg", "--lambda", &lambda.to_string()]).args(TO_THE_END);
        let gap = suboptimality(&run.arg("--input").arg(&path).json(), optimum(&rows, lambda).0);
        assert!((-1e-7..1e-5).contains(&gap), "lambda {lambda}: {gap:.2e} above the optimum");
    }
}

/// Packs a file with the tool of that name.
fn packed(tool: &str, from: &Path, to: &Path) {
    let output = Command::new(tool).arg("-c").arg(from).stdin(Stdio::null()).output().expect("the tool is installed");
    assert!(output.status.success(), "{tool}");
    std::fs::File::create(to).unwrap().write_all(&output.stdout).unwrap();
}

#[test]
fn packed_rows_give_the_bits_of_plain_ones_whatever_their_name() {
    let here = folder();
    let plain = Rows::generate(11, 1000, 100, 10).write(here.path(), "rows");
    let bits = |input: &Path| {
        let folder = here.path().join("model");
        let run = flexps(["run", "svrg", "--slots", "1", "--epochs", "3", "--reproducible", "--overwrite"]);
        run.arg("--model").arg(&folder).arg("--input").arg(input).ok();
        model::read(&folder).bytes
    };
    let expected = bits(&plain);
    for tool in ["gzip", "bzip2", "zstd"] {
        let path = here.path().join(format!("{tool}.txt"));
        packed(tool, &plain, &path);
        assert!(bits(&path) == expected, "{tool}");
    }
    // No tool is at hand for snappy: its framing format, and Hadoop's blocks of length, length, raw snappy.
    let text = std::fs::read(&plain).unwrap();
    let mut framed = snap::write::FrameEncoder::new(Vec::new());
    framed.write_all(&text).unwrap();
    let mut hadoop = Vec::new();
    for block in text.chunks(20_000) {
        let raw = snap::raw::Encoder::new().compress_vec(block).unwrap();
        hadoop.extend((block.len() as u32).to_be_bytes());
        hadoop.extend((raw.len() as u32).to_be_bytes());
        hadoop.extend(raw);
    }
    for (name, bytes) in [("framed.txt", framed.into_inner().unwrap()), ("hadoop.snappy", hadoop)] {
        let path = here.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert!(bits(&path) == expected, "{name}");
    }
}

#[test]
fn files_directories_and_globs_give_the_same_rows() {
    let here = folder();
    let (first, second) = Rows::generate(12, 600, 50, 6).split(250);
    std::fs::create_dir(here.path().join("parts")).unwrap();
    let a = first.write(here.path(), "parts/a");
    let b = second.write(here.path(), "parts/b");
    for inputs in [vec![a, b], vec![here.path().join("parts")], vec![here.path().join("parts/[ab]")]] {
        let report = flexps(["run", "svrg", "--epochs", "2", "--input"]).args(&inputs).json();
        assert_eq!((&report["read"]["rows"], &report["read"]["files"]), (&600.into(), &2.into()), "{inputs:?}");
    }
}

#[test]
fn the_same_command_gives_the_same_bits_under_bsp() {
    let here = folder();
    let path = Rows::generate(13, 3000, 500, 20).write(here.path(), "rows");
    for job in ["svrg", "lr"] {
        let bits = |name: &str| {
            let folder = here.path().join(format!("{job}-{name}"));
            let run = flexps(["run", job, "--slots", "2", "--epochs", "4", "--tolerance", "0", "--reproducible"]);
            run.arg("--model").arg(&folder).arg("--input").arg(&path).ok();
            model::read(&folder).bytes
        };
        assert!(bits("once") == bits("twice"), "two runs of {job} wrote different bits");
    }
}

#[test]
fn rows_beyond_the_memory_go_to_disk_and_change_no_bit() {
    let here = folder();
    let path = Rows::generate(14, 20_000, 2000, 40).write(here.path(), "rows");
    let spill = here.path().join("spill");
    let report = |memory: &str, name: &str| {
        let run = flexps(["run", "svrg", "--epochs", "3", "--tolerance", "0", "--reproducible", "--slots", "2"]);
        let run = run.args(["--cache-memory", memory]).arg("--spill-dir").arg(&spill);
        run.arg("--model").arg(here.path().join(name)).arg("--input").arg(&path).json()
    };
    let all = report("1GiB", "memory");
    let some = report("1MiB", "disk");
    assert_eq!(all["read"]["spilled_bytes"], 0);
    assert!(some["read"]["spilled_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{}", some["read"]);
    assert!(model::read(&here.path().join("memory")).bytes == model::read(&here.path().join("disk")).bytes);
    let left: Vec<_> = std::fs::read_dir(&spill).map(Iterator::collect).unwrap_or_default();
    assert!(left.is_empty(), "the spill folder still holds {left:?}");
}

#[test]
fn rows_of_four_times_the_memory_train_to_the_same_model_under_the_limit() {
    const MIB: u64 = 1 << 20;
    let here = folder();
    let path = here.path().join("rows");
    let shape = ["webspam", "--rows", "12000", "--features", "50000", "--nonzeros", "1500", "--seed", "5"];
    flexps(["data", "generate"]).args(shape).arg("--output").arg(&path).ok();
    let train = |memory: &str| {
        let run = flexps([
            "run",
            "lr",
            "--tolerance",
            "1e-3",
            "--threads",
            "2",
            "--slots",
            "2",
            "--reproducible",
            "--worker-memory",
            "4",
        ]);
        let run = run.args(["--cache-memory", memory]).arg("--spill-dir").arg(here.path());
        run.arg("--model").arg(here.path().join(memory)).arg("--input").arg(&path).json()
    };
    let (disk, all) = (train("34MiB"), train("1GiB"));
    let rows = all["read"]["cached_bytes"].as_u64().unwrap();
    assert!(rows >= 4 * 34 * MIB, "{}", all["read"]);
    assert_eq!(disk["read"]["spilled_bytes"].as_u64().unwrap() + disk["read"]["cached_bytes"].as_u64().unwrap(), rows);
    assert!(model::read(&here.path().join("34MiB")).bytes == model::read(&here.path().join("1GiB")).bytes);
    // Beside the rows: two windows of 8 MiB, and 64 MiB for the program and what is read and parsed at a time.
    let peak = disk["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak <= (34 + 2 * 8 + 64) * MIB && peak < rows, "{} MiB", peak / MIB);
}

#[test]
fn a_run_from_a_saved_model_starts_where_that_ended() {
    let here = folder();
    let path = Rows::generate(15, 1000, 100, 10).write(here.path(), "rows");
    let folder = here.path().join("model");
    let first = flexps(["run", "svrg"]).args(TO_THE_END).arg("--model").arg(&folder).arg("--input").arg(&path).json();
    let second =
        flexps(["run", "svrg", "--epochs", "1"]).arg("--init-model").arg(&folder).arg("--input").arg(&path).json();
    let (end, start) = (first["objective"].as_f64().unwrap(), second["epochs"][0]["objective"].as_f64().unwrap());
    assert_close(start, end, 1e-6);
}

#[test]
fn validation_rows_stop_a_run_that_no_longer_helps() {
    let here = folder();
    let (train, test) = Rows::generate(16, 700, 600, 30).split(300);
    let run = flexps(["run", "svrg", "--lambda", "0", "--tolerance", "0", "--patience", "2", "--epochs", "200"]);
    let run = run.arg("--input").arg(train.write(here.path(), "train"));
    let report = run.arg("--validation").arg(test.write(here.path(), "test")).json();
    let epochs = report["epochs"].as_array().unwrap().len();
    assert!(epochs < 200, "200 epochs although the validation loss no longer falls");
    assert!(report["stopped"].as_str().is_some_and(|why| why.contains("validation")), "{}", report["stopped"]);
    assert!(report["metrics"]["auc"].as_f64().is_some_and(|auc| auc > 0.6), "{}", report["metrics"]);
}

#[test]
fn a_time_limit_ends_a_run_after_the_epoch_in_which_it_is_up() {
    let here = folder();
    let path = Rows::generate(17, 2000, 200, 20).write(here.path(), "rows");
    let run = flexps(["run", "svrg", "--epochs", "100000000", "--tolerance", "0", "--time-limit", "1s"]).within(20);
    let report = run.arg("--input").arg(&path).json();
    assert!(report["stopped"].as_str().is_some_and(|why| why.contains("time")), "{}", report["stopped"]);
}

#[test]
fn without_input_rows_are_made_once_and_the_held_out_auc_is_reported() {
    let cache = folder();
    let run =
        || flexps(["run", "svrg", "--epochs", "5", "--json"]).env("XDG_CACHE_HOME", cache.path()).within(300).ok();
    let first = run();
    let said: Vec<_> = first.stderr.lines().collect();
    assert!(said.len() == 1 && said[0].contains(cache.path().to_str().unwrap()), "one line says where\n{first}");
    assert!(first.json()["metrics"]["auc"].as_f64().is_some_and(|auc| auc > 0.8), "{first}");
    let second = run();
    assert!(!second.stderr.contains("making"), "the rows were made again\n{second}");
}

#[test]
fn a_model_of_four_times_the_memory_trains_to_the_same_bits() {
    let here = folder();
    let rows = Rows::generate(11, 400, 2_000_000, 12);
    let path = rows.write(here.path(), "rows");
    // 8 MB a table; `svrg` has five, and `lr` by SGD three.
    for (job, memory) in [(&["svrg"][..], "10MB"), (&["lr", "--solver", "sgd", "--batch", "50"], "6MB")] {
        let run = |more: &[&str]| {
            let run = flexps(["run"]).args(job).args(["--slots", "2", "--consistency", "bsp", "--epochs", "3"]);
            run.args(["--tolerance", "0"]).args(more).arg("--input").arg(&path).json()
        };
        let all = run(&[]);
        let little = run(&["--model-memory", memory]);
        let disk = |report: &serde_json::Value, which: &str| {
            let stages = report["stages"].as_array().unwrap().iter();
            stages.map(|stage| stage["model_disk"][which].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(disk(&all, "written_bytes"), 0);
        assert!(disk(&little, "written_bytes") > 8 << 20, "{job:?}: {little}");
        assert!(disk(&little, "read_bytes") > 8 << 20, "{job:?}: {little}");
        assert_eq!(little["objective"], all["objective"], "{job:?}");
        assert_eq!(little["epochs"].as_array().unwrap().len(), all["epochs"].as_array().unwrap().len());
    }
}
