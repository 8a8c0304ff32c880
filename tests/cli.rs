//! The command line itself: what it takes, what it prints where, how it ends.

use crate::support::process::{binary, program};
use crate::support::{Rows, flexps, folder};
use std::path::Path;
use std::time::Duration;

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_name() {
    flexps(["run", "svrg", "--epoch", "3"]).exits(2).says(&["--epoch", "--epochs"]);
    flexps(["run", "svrg", "--repot", "x"]).exits(2).says(&["--repot", "--report"]);
}

#[test]
fn an_unknown_job_is_refused_with_the_nearest_name() {
    flexps(["run", "svgr"]).exits(2).says(&["svgr", "svrg"]);
    flexps(["plan", "svgr"]).exits(2).says(&["svgr", "svrg"]);
    flexps(["run", "nojob"]).exits(2).says(&["nojob", "the jobs are lasso, lr, sleep, svm, svrg"]);
}

#[test]
fn every_command_has_help_that_names_its_flags() {
    for (command, flag) in [
        (vec!["run"], "--reproducible"),
        (vec!["run", "svrg"], "--epochs"),
        (vec!["run", "lr"], "--slots"),
        (vec!["plan"], "svrg"),
        (vec!["master"], "--bind"),
        (vec!["slave"], "--host"),
        (vec!["jobs"], "--json"),
        (vec!["status"], "[JOB]"),
        (vec!["cancel"], "<JOB>"),
        (vec!["slaves"], "--json"),
        (vec!["data", "generate"], "--nonzeros"),
        (vec!["data", "info"], "--json"),
        (vec!["predict"], "--output"),
        (vec!["evaluate"], "--model"),
        (vec!["model", "show"], "<MODEL>"),
        (vec!["model", "export"], "liblinear"),
        (vec!["doctor"], "--hdfs"),
        (vec!["completions"], "bash"),
    ] {
        let run = flexps(command.iter().chain(&["--help"])).ok();
        assert!(run.stdout.contains(flag), "help of {command:?} does not name {flag}\n{run}");
    }
}

#[test]
fn completions_know_the_jobs_and_their_flags() {
    let here = folder();
    for shell in ["bash", "zsh", "fish"] {
        let script = flexps(["completions", shell]).ok().stdout;
        assert!(script.contains("svrg") && script.contains("epochs") && script.contains("secret"), "{shell}");
        if shell == "bash" {
            let path = here.path().join("completions");
            std::fs::write(&path, script).unwrap();
            program(Path::new("bash"), ["-n".as_ref(), path.as_os_str()]).ok();
        }
    }
}

#[test]
fn plan_shows_stages_and_tables_and_reads_nothing() {
    let run = flexps(["plan", "svrg", "--input", "/no/such/file", "--epochs", "7"]).ok();
    for word in ["table", "stage", "repeat at most 7 times", "/no/such/file"] {
        assert!(run.stdout.contains(word), "the plan does not show {word}\n{run}");
    }
    // Of the rows that a run would make.
    flexps(["plan", "lr"]).within(60).ok().says(&["no --input"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script = format!("set -o pipefail; {} completions bash | head -c 10 >/dev/null", binary().display());
    program(Path::new("bash"), ["-c", &script]).ok();
    let script = format!(
        "set -o pipefail; {} data generate webspam --rows 3000 --output - | head -n 1 >/dev/null",
        binary().display()
    );
    program(Path::new("bash"), ["-c", &script]).ok();
}

#[test]
fn generated_rows_are_the_same_however_they_are_cut() {
    let here = folder();
    let shape = ["data", "generate", "kdd", "--rows", "500", "--features", "10000", "--output"];
    let made = |output: &str, more: &[&str]| {
        flexps(shape.iter().chain(&[output]).chain(more)).in_folder(here.path()).ok();
        here.path().join(output)
    };
    let one = std::fs::read(made("one", &[])).unwrap();
    let parts = made("parts", &["--files", "3"]);
    let mut joined = Vec::new();
    for part in ["part-00000.libsvm", "part-00001.libsvm", "part-00002.libsvm"] {
        joined.extend(std::fs::read(parts.join(part)).unwrap());
    }
    assert_eq!(one.iter().filter(|b| **b == b'\n').count(), 500);
    assert!(one == joined, "three files hold other bytes than one");
    // A slash asks for a folder.
    assert!(one == std::fs::read(made("new/", &[]).join("part-00000.libsvm")).unwrap(), "one file in a folder differs");
    flexps(shape).arg(here.path().join("one/")).exits(2).says(&["one/: something else stands there"]);
    made("parts", &["--files", "3"]);
    let fewer = flexps(shape).arg(&parts).args(["--files", "2"]).exits(2);
    fewer.says(&["parts: the folder holds other files, part-00002.libsvm among them"]);
    assert!(one == std::fs::read(made("again", &[])).unwrap(), "a second run wrote other bytes");
    assert!(one != std::fs::read(made("other", &["--seed", "6"])).unwrap(), "the seed changes nothing");
}

#[test]
fn data_info_tells_what_a_file_holds() {
    let here = folder();
    let rows = Rows::generate(1, 200, 50, 5);
    let info = flexps(["data", "info"]).arg(rows.write(here.path(), "rows")).json();
    let nonzeros: usize = rows.rows.iter().map(Vec::len).sum();
    assert_eq!(info["rows"], 200);
    assert_eq!(info["nonzeros"], nonzeros);
    assert_eq!(info["index_base"], 1);
    assert_eq!(info["labels"]["negative"], -1.0);
    assert_eq!(info["files"][0]["blocks"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_pattern_is_of_the_folder_one_works_in_whatever_that_is_called() {
    let here = folder();
    let work = here.path().join("run[1]{a,b}");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("rows.txt"), "1 1:1\n-1 2:1\n").unwrap();
    let info = flexps(["data", "info", "*.{txt,libsvm}"]).in_folder(&work).json();
    assert_eq!(info["rows"], 2);
}

#[test]
fn classes_are_found_wherever_in_a_file_they_stand() {
    let here = folder();
    let input = here.path().join("sorted.libsvm");
    // Much longer than what is looked at of its ends.
    let text: String = (1..=3).map(|class| format!("{} {class}:1 9:0.5\n", 10 * class).repeat(20_000)).collect();
    std::fs::write(&input, text).unwrap();
    let info = flexps(["data", "info"]).arg(&input).json();
    assert_eq!(info["labels"], serde_json::json!([10.0, 20.0, 30.0]));
    assert_eq!((&info["rows"], &info["bad_rows"]), (&60_000.into(), &0.into()));
    let ended = flexps(["run", "lr", "--epochs", "2", "--input"]).arg(&input).ok();
    assert!(ended.stdout.contains("labels 10/20/30 detected in --input"), "{ended}");
}

#[test]
fn data_info_looks_at_both_ends_of_a_file_as_a_job_does() {
    let here = folder();
    let input = here.path().join("rows.libsvm");
    let many = "1 1:1 9:0.5\n2 2:1 9:0.5\n".repeat(20_000);
    std::fs::write(&input, format!("{many}3 0:1\n")).unwrap();
    let info = flexps(["data", "info"]).arg(&input).json();
    assert_eq!((&info["labels"], &info["index_base"]), (&serde_json::json!([1.0, 2.0, 3.0]), &0.into()));
    assert_eq!((&info["rows"], &info["bad_rows"]), (&40_001.into(), &0.into()));
    let ended = flexps(["run", "lr", "--epochs", "2", "--input"]).arg(&input).ok();
    assert!(ended.stdout.contains("index base 0, labels 1/2/3 detected in --input"), "{ended}");
    // Between the ends neither looks, and the first row that does not fit is told without the flags of jobs.
    for (odd, says) in [("3 1:1", "label '3' is neither of the two classes"), ("1 0:1", "index 0 in '0:1'")] {
        std::fs::write(&input, format!("{many}{odd}\n{many}")).unwrap();
        let info = flexps(["data", "info"]).arg(&input).json();
        let first = info["first_bad_row"].as_str().unwrap_or_default();
        assert!(first.contains(says) && first.contains("line 40001") && !first.contains("--"), "{info}");
        flexps(["run", "lr", "--epochs", "2", "--input"]).arg(&input).exits(2).says(&[says, "; give "]);
    }
}

#[test]
fn a_report_tells_of_the_model_and_not_what_the_solver_remembers_of_its_way() {
    let here = folder();
    let rows = Rows::generate(3, 300, 40, 5).write(here.path(), "rows");
    let flags = ["--lambda", "1e-6", "--epochs", "2", "--tolerance", "1e-9", "--input"];
    let run = || flexps(["run", "lr", "--solver", "sdca"]).args(flags).arg(&rows);
    let report = run().json();
    let told: Vec<&str> = report["metrics"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(told, ["features", "gap", "lambda", "objective", "rows", "training_accuracy"]);
    let why = report["stopped"].as_str().unwrap();
    assert!(why.contains("2 epochs were made; duality gap"), "{why}");
    let text = run().ok().stdout;
    assert_eq!(text.lines().filter(|line| line.starts_with("objective ")).count(), 1, "{text}");
}

#[test]
fn the_report_goes_to_stdout_as_one_object_and_to_the_file_with_its_keys() {
    let here = folder();
    let rows = Rows::generate(2, 300, 40, 5).write(here.path(), "rows");
    let file = here.path().join("report.json");
    let run = flexps(["run", "svrg", "--epochs", "2", "--tolerance", "0", "--json", "--input"])
        .arg(&rows)
        .arg("--report")
        .arg(&file)
        .ok();
    let report = run.json();
    for key in ["job", "state", "objective", "metrics", "epochs", "stages", "read", "model", "peak_memory_bytes"] {
        assert!(report.get(key).is_some(), "the report lacks {key}\n{run}");
    }
    for key in [
        "name",
        "epoch",
        "threads",
        "slaves",
        "seconds",
        "worker_seconds",
        "wait_seconds",
        "bytes_sent",
        "bytes_received",
        "pace",
    ] {
        assert!(report["stages"][0].get(key).is_some(), "a stage of the report lacks {key}\n{run}");
    }
    for key in ["files", "splits", "rows", "bytes", "local_bytes", "seconds"] {
        assert!(report["read"].get(key).is_some(), "the report's reading lacks {key}\n{run}");
    }
    for key in ["epoch", "seconds", "objective"] {
        assert!(report["epochs"][0].get(key).is_some(), "an epoch of the report lacks {key}\n{run}");
    }
    assert_eq!(report["state"], "done");
    assert_eq!(report["epochs"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["read"]["rows"], 300);
    assert!(run.stderr.is_empty(), "nothing is said when nobody watches\n{run}");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, report);
}

#[test]
fn a_report_that_can_not_be_written_is_refused_before_the_job_runs() {
    let run = flexps(["run", "svrg", "--report", "/no/such/folder/report.json"]).exits(2);
    run.says(&["--report: /no/such/folder/report.json", "no such file or directory"]);
    assert!(run.stdout.is_empty(), "{run}");
}

#[test]
fn engine_flags_stand_before_or_behind_the_jobs_own() {
    let here = folder();
    let rows = Rows::generate(2, 100, 20, 5).write(here.path(), "rows");
    for flags in [["run", "--slots", "1", "--json", "svrg"], ["run", "svrg", "--slots", "1", "--json"]] {
        let report = flexps(flags).arg("--input").arg(&rows).ok().json();
        assert!(report["stages"].as_array().is_some_and(|s| s.iter().all(|s| s["threads"] == 1)), "{report}");
    }
}

#[test]
fn without_json_the_stages_and_the_result_are_printed() {
    let here = folder();
    let rows = Rows::generate(2, 300, 40, 5).write(here.path(), "rows");
    let run = flexps(["run", "svrg", "--epochs", "3", "--tolerance", "0", "--input"]).arg(&rows).ok();
    for word in ["stage", "threads", "worker time", "objective", "300 rows"] {
        assert!(run.stdout.contains(word), "the result does not show {word}\n{run}");
    }
    assert!(run.stderr.is_empty(), "nothing is said when nobody watches\n{run}");
}

#[test]
fn ctrl_c_cancels_the_job_and_exits_130() {
    let here = folder();
    let rows = Rows::generate(2, 2000, 200, 20).write(here.path(), "rows");
    let endless = ["run", "svrg", "--epochs", "100000000", "--tolerance", "0", "--input"];
    let model = here.path().join("model");
    let mut running =
        flexps(endless).arg(&rows).arg("--model").arg(&model).env("FLEXPS_LOG", "info").within(30).start();
    running.await_stderr("stage");
    running.signal(libc::SIGINT);
    let run = running.finish();
    assert_eq!(run.code, 130, "{run}");
    run.says(&["cancelled"]);
    assert!(!model.exists(), "a cancelled job saves nothing");
}

#[test]
fn a_command_that_was_suspended_goes_on() {
    let here = folder();
    let rows = Rows::generate(2, 2000, 200, 20).write(here.path(), "rows");
    let run = flexps(["run", "svrg", "--epochs", "100000000", "--tolerance", "0", "--time-limit", "9s", "--input"]);
    let mut running = run.arg(&rows).env("FLEXPS_LOG", "info").within(60).start();
    running.await_stderr("stage starts");
    running.signal(libc::SIGSTOP);
    // Longer than a slave may be silent.
    std::thread::sleep(Duration::from_secs(7));
    running.signal(libc::SIGCONT);
    let run = running.finish();
    assert_eq!(run.code, 0, "{run}");
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    for filter in ["flexps=loud", "debgu"] {
        flexps(["--log", filter, "completions", "bash"]).exits(2).says(&["--log", filter]);
    }
}

#[test]
fn small_changes_can_be_held_back_by_mini_batches_alone_and_not_under_sparse_ssp() {
    let here = folder();
    let rows = Rows::generate(2, 100, 20, 5).write(here.path(), "rows");
    let run = |flags: &[&str]| flexps(["run", "lr", "--epochs", "1", "--input"]).arg(&rows).args(flags);
    let filter = ["--filter", "significant:0.1"];
    run(&[&filter[..], &["--consistency", "sparse-ssp"]].concat()).exits(2).says(&[
        "stage train",
        "filter significant:0.1:8",
        "sparse-ssp",
        "bsp, ssp or asp",
    ]);
    run(&[&filter[..], &["--solver", "sdca"]].concat()).exits(2).says(&["--filter", "--solver sgd"]);
    run(&["--filter", "significant:-1"]).exits(2).says(&["'significant:-1' is no filter", "significant:SHARE:CLOCKS"]);
    // Without a solver's name it asks for mini-batches.
    let report = run(&filter).json();
    assert!(report["stages"].as_array().unwrap().iter().any(|stage| stage["name"] == "train"));
}

#[test]
fn an_empty_flexps_master_is_none() {
    let here = folder();
    let rows = Rows::generate(2, 100, 20, 5).write(here.path(), "rows");
    let run = flexps(["run", "svrg", "--epochs", "1", "--input"]).arg(&rows).env("FLEXPS_MASTER", "");
    assert_eq!(run.json()["read"]["rows"], 100);
    flexps(["run", "svrg", "--detach"]).env("FLEXPS_MASTER", "").exits(2).says(&["--detach", "--master"]);
}

#[test]
fn detaching_from_an_embedded_job_is_refused() {
    flexps(["run", "svrg", "--detach"]).exits(2).says(&["--detach", "--master"]);
}

#[test]
fn flags_that_would_do_nothing_here_are_refused_before_anything_is_done() {
    let run = || flexps(["run", "sleep", "--stage", "x:1:0.01"]).within(20);
    // Nothing listens there: it is not asked.
    let remote = || run().args(["--master", "127.0.0.1:1"]);
    for (flag, value) in [
        ("--slots", "2"),
        ("--cores", "2"),
        ("--memory", "1GiB"),
        ("--cache-memory", "1GiB"),
        ("--model-memory", "1GiB"),
        ("--spill-dir", "/tmp"),
    ] {
        remote().args([flag, value]).exits(2).says(&[flag, "127.0.0.1:1", "flexps slave"]);
        run().args([flag, value]).ok();
    }
    remote().args(["--detach", "--json"]).exits(2).says(&["--detach", "--json", "flexps status"]);
    remote().args(["--detach", "--report", "report"]).exits(2).says(&["--detach", "--report"]);
    run().args(["--secret-file", "secret"]).exits(2).says(&["--secret-file", "--master"]);
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_job_runs() {
    let here = folder();
    let run = flexps(["run", "sleep", "--stage", "x:1:600", "--report"]).arg(here.path()).within(20);
    run.exits(2).says(&["--report", "a folder; give a file"]);
    // A link, so that a mistake here takes no device from the machine.
    let link = here.path().join("link");
    std::os::unix::fs::symlink("/dev/stderr", &link).unwrap();
    let run = flexps(["run", "sleep", "--stage", "x:1:0.01", "--json", "--report"]).arg(&link).ok();
    assert_eq!(run.stdout, run.stderr);
}

#[test]
fn a_report_in_the_way_of_the_model_is_refused_before_the_job_runs() {
    let here = folder();
    let rows = Rows::generate(53, 200, 50, 5).write(here.path(), "rows");
    let run = |model: &str, report: &str| {
        let run =
            flexps(["run", "svrg", "--epochs", "1", "--overwrite", "--model", model, "--report", report, "--input"]);
        run.arg(&rows).in_folder(here.path())
    };
    run("m", "report").ok();
    std::os::unix::fs::symlink(here.path(), here.path().join("link")).unwrap();
    let inside = here.path().join("m/report.json");
    for (model, report) in [
        ("m", "m/report.json"),
        ("link/m", "m/report.json"),
        ("m", inside.to_str().unwrap()),
        ("new", "new"),
        ("new/deep", "new"),
    ] {
        let says = [format!("--report {report}: --model "), format!("{model} needs that place")];
        run(model, report).exits(2).says(&[&says[0], &says[1]]);
    }
    run("new", "reports/").exits(2).says(&["--report: reports/: a folder; give a file"]);
    let mut left: Vec<_> = std::fs::read_dir(here.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["link", "m", "report", "rows"]);
    assert_eq!(std::fs::read_dir(here.path().join("m")).unwrap().count(), 2);
}

#[test]
fn a_report_that_cannot_be_written_in_the_end_costs_no_result() {
    let here = folder();
    let link = here.path().join("link");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    let run = flexps(["run", "sleep", "--stage", "x:1:0.01", "--json", "--report"]).arg(&link).exits(1);
    run.says(&["--report"]);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["state"], "done");
}

#[test]
fn what_goes_to_stdout_as_a_file_stands_beside_the_rest() {
    let here = folder();
    let path = here.path().join("all");
    let run = ["run", "sleep", "--stage", "x:1:0.01", "--report", "/dev/stdout"];
    let out = std::fs::File::create(&path).unwrap();
    let status = std::process::Command::new(binary()).args(run).env("FLEXPS_MASTER", "").stdout(out).status();
    assert!(status.unwrap().success());
    let text = std::fs::read_to_string(&path).unwrap();
    let (report, table) = text.split_once('\n').unwrap();
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(report["state"] == "done" && table.starts_with("stage "), "{text}");
}

#[test]
fn a_slave_has_a_name_and_a_host() {
    for flag in ["--name", "--host"] {
        flexps(["slave", "--master", "127.0.0.1:1", flag, ""]).within(20).exits(2).says(&[flag]);
    }
}

#[test]
fn rows_of_several_files_do_not_go_to_stdout() {
    let run = flexps(["data", "generate", "kdd", "--rows", "10", "--files", "2", "--output", "-"]);
    run.exits(2).says(&["--files 2", "stdout is one file"]);
}

#[test]
fn each_job_has_a_line_of_help_for_those_who_run_it() {
    for command in ["run", "plan"] {
        let help = flexps([command, "--help"]).ok().stdout;
        let line = |job: &str| help.lines().find(|line| line.trim().starts_with(job)).unwrap_or_default().to_owned();
        assert!(line("sleep").contains("Stages that only sleep"), "{help}");
        assert!(!help.contains("See the module"), "{help}");
    }
    flexps(["run", "sleep", "--help"]).ok().stdout.starts_with("Stages that only sleep").then_some(()).unwrap();
}

#[test]
fn doctor_says_of_each_line_that_it_passes_or_what_to_do() {
    let run = flexps(["doctor"]).run();
    assert!(run.stdout.lines().count() >= 5, "{run}");
    for line in run.stdout.lines() {
        assert!(
            ["ok ", "-- ", "!! "].iter().any(|mark| line.starts_with(mark)),
            "'{line}' neither passes nor helps\n{run}"
        );
    }
    let run = flexps(["doctor", "--hdfs", "hdfs://127.0.0.1:1"]).within(60).exits(1);
    assert!(run.stdout.contains("!! HDFS"), "{run}");
}
