//! A user's own crate with its own job gets the whole command.

use crate::support::process::{Run, example, program};
use crate::support::{Cluster, Rows, folder, http, model};
use std::path::PathBuf;

// The tutorial's own unit test runs here: testing the example itself would take the place of its program.
#[allow(dead_code)]
#[path = "../jobs/examples/custom_job.rs"]
mod tutorial;

fn custom_job() -> PathBuf {
    example("custom_job")
}

#[test]
fn a_job_of_a_users_own_runs_has_help_and_a_plan() {
    let here = folder();
    let path = Rows::generate(50, 500, 30, 5).write(here.path(), "rows");
    let help = program(&custom_job(), ["run", "--help"]).ok();
    let job = help.stdout.lines().skip_while(|l| !l.starts_with("Jobs:")).nth(1).expect("a job");
    let job = job.split_whitespace().next().expect("its name").to_owned();
    assert!(!["lr", "svrg"].contains(&job.as_str()), "the example has a job of its own, not {job}");
    let plan = program(&custom_job(), ["plan", &job, "--input"]).arg(&path).ok();
    assert!(plan.stdout.matches("stage ").count() >= 2, "{plan}");
    let report = program(&custom_job(), ["run", &job, "--input"]).arg(&path).json();
    assert_eq!(report["state"], "done");
    assert_eq!(report["read"]["rows"], 500);
}

/// A run that ended with `code` and one error line that holds `words`, and nothing that calls for a report to us.
#[track_caller]
fn failed_in_one_line(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, code, "{run}");
    let lines: Vec<_> = run.stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "one line says it\n{run}");
    for word in words {
        assert!(lines[0].contains(word), "it does not say '{word}'\n{run}");
    }
}

#[test]
fn a_worker_that_panics_fails_its_job_by_name_and_the_cluster_takes_the_next() {
    let failing = example("failing_job");
    let alone = program(&failing, ["run", "failing", "--slots", "2", "--panic-in", "2"]).run();
    failed_in_one_line(&alone, 1, &["failing epoch 2 stage work worker 1 on ", "panicked: out of ideas"]);

    let cluster = Cluster::of(&failing, 2, 1, &[]);
    let run = cluster.ask(["run", "failing", "--panic-in", "2"]).run();
    failed_in_one_line(&run, 1, &["failing epoch 2 stage work worker 1 on h", "panicked: out of ideas"]);
    let run = cluster.ask(["run", "failing", "--error-in", "3"]).run();
    failed_in_one_line(&run, 2, &["failing epoch 3 stage work worker 1 on h", "a value that makes no sense"]);
    assert_eq!(cluster.ask(["run", "failing"]).json()["state"], "done");
    let logs: String = cluster.slaves.iter().chain([&cluster.master]).map(|node| node.log()).collect();
    assert!(!logs.contains("please report"), "the user's panic is taken for ours\n{logs}");
    assert!(logs.contains("failing_job.rs:"), "a slave's log says where the panic was\n{logs}");
}

#[test]
fn a_users_own_update_function_runs_on_the_slaves_and_a_name_that_is_none_is_refused_before_anything_runs() {
    let own = example("own_update");
    let cluster = Cluster::of(&own, 2, 2, &[]);
    let rows = Rows::generate(51, 800, 200, 8);
    let input = rows.write(cluster.folder(), "rows");
    let mut expected = vec![0.0f64; 200];
    for (at, value) in rows.rows.iter().flatten() {
        let kept = &mut expected[*at as usize];
        let further = |x: f64| (x != 0.0, (x - 0.25).abs(), x);
        if further(*value) > further(*kept) {
            *kept = *value;
        }
    }
    let flags = ["run", "extremes", "--centre", "0.25", "--input"];
    let runs = [("alone", program(&own, flags)), ("cluster", cluster.ask(flags))];
    for (name, run) in runs {
        let saved = cluster.folder().join(name);
        run.arg(&input).arg("--model").arg(&saved).ok();
        let found = model::read(&saved).weights;
        assert_eq!(found[..], expected[..found.len()], "{name}");
        assert!(found.len() > 150);
    }
    let words = ["no update function is called 'nearest'", "adagrad, add, assign, ftrl, furthest, max, sgd"];
    for command in ["run", "plan"] {
        let run = cluster.ask([command, "extremes", "--keep", "nearest", "--input"]).arg(&input).run();
        failed_in_one_line(&run, 2, &words);
    }
    // Nor by the master's pages.
    let body = serde_json::json!({ "job": "extremes", "params": { "input": [input], "keep": "nearest" } });
    let answer = http::post(&cluster.pages, "/api/v1/jobs", &body);
    assert!(answer.status >= 400 && words.iter().all(|word| answer.body.contains(word)), "{answer:?}");
    assert_eq!(cluster.ask(["jobs"]).json().as_array().map(Vec::len), Some(1), "none was begun");
}
