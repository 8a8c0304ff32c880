//! Memory that stages ask for, on real processes: who waits for it, who is refused, and who tells.

use crate::support::http::get;
use crate::support::{Cluster, flexps, wait};
use serde_json::Value;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);

/// A cluster of slaves of four slots with so much memory each.
fn cluster(memory: &[&str]) -> Cluster {
    let mut cluster = Cluster::start(0, 4);
    for (i, size) in memory.iter().enumerate() {
        cluster.add_slave(&format!("h{}", i + 1), 4, &["--memory", size]);
    }
    cluster.await_slaves(memory.len());
    cluster
}

/// Submits a job of one stage of one thread that sleeps; gives its id.
fn submit(cluster: &Cluster, seconds: &str, memory: &[&str]) -> String {
    let job = cluster.ask(["run", "sleep", "--detach", "--stage"]).arg(format!("nap:1:{seconds}"));
    job.args(memory).ok().stdout.trim().to_owned()
}

fn status(cluster: &Cluster, id: &str) -> Value {
    cluster.ask(["status", id]).json()
}

/// When its one stage ran, in seconds since the master's begin.
fn ran(cluster: &Cluster, id: &str) -> (f64, f64) {
    let number = id.trim_start_matches('j').parse::<u64>().unwrap();
    wait::until(&format!("the end of {id}"), WITHIN, || (status(cluster, id)["state"] == "done").then_some(()));
    let history = get(&cluster.pages, "/api/v1/history").json();
    let records = history["records"].as_array().unwrap();
    let run = records.iter().find(|r| r["what"] == "run" && r["job"] == number).unwrap();
    (run["start"].as_f64().unwrap(), run["end"].as_f64().unwrap())
}

#[test]
fn jobs_whose_memory_does_not_fit_together_run_one_after_the_other_although_slots_are_free() {
    let cluster = cluster(&["8GiB"]);
    // Long enough for all that is asked meanwhile.
    let first = submit(&cluster, "8", &["--stage-memory", "5GiB"]);
    let second = submit(&cluster, "0.2", &["--stage-memory", "5GiB"]);
    let third = submit(&cluster, "0.2", &[]);
    let queue = wait::until("one that waits", WITHIN, || {
        let queue = get(&cluster.pages, "/api/v1/queue").json();
        queue[0]["why"].as_str().is_some_and(|why| why.contains("memory")).then_some(queue)
    });
    assert_eq!(queue[0]["why"], "needs 5.0 GiB of memory on one slave, most free is 3.0 GiB", "{queue}");
    let slave = get(&cluster.pages, "/api/v1/slaves").json()[0].clone();
    assert_eq!((slave["memory"].as_u64(), slave["memory_asked"].as_u64()), (Some(8 << 30), Some(5 << 30)), "{slave}");
    let metrics = get(&cluster.pages, "/metrics").body;
    for line in [
        "flexps_slave_memory_bytes{slave=\"h1\"} 8589934592",
        "flexps_slave_memory_asked_bytes{slave=\"h1\"} 5368709120",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "no {line} in\n{metrics}");
    }
    let listed = cluster.ask(["slaves"]).ok().stdout;
    assert!(listed.contains("8.0 GiB") && listed.contains("5.0 GiB"), "{listed}");
    let [first, second, third] = [first, second, third].map(|id| ran(&cluster, &id));
    assert!(second.0 >= first.1, "side by side: {first:?}, {second:?}");
    assert!(third.1 < first.1, "the one that asks for nothing waited: {first:?}, {third:?}");
    // What was recorded is played again with the same memory.
    let history = cluster.folder().join("history");
    cluster.ask(["history", "export", "--output"]).arg(&history).ok();
    let text = std::fs::read_to_string(&history).unwrap();
    assert!(text.contains("\"memory\":5368709120") && text.contains("\"memory\":8589934592"), "{text}");
    let replay = flexps(["workload", "replay", "--policies", "greedy"]).arg(&history).json();
    let ends = |of: usize| {
        let jobs = replay["policies"][of]["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job["end"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for (recorded, played) in ends(0).iter().zip(ends(1)) {
        assert!((recorded - played).abs() < 0.01, "{replay}");
    }
}

#[test]
fn a_job_that_can_never_fit_by_memory_is_refused_and_again_when_the_slave_that_it_needs_leaves() {
    let cluster = cluster(&["8GiB", "2GiB"]);
    let refused = cluster.ask(["run", "sleep", "--stage", "nap:1:1", "--stage-memory", "9GiB"]).exits(2);
    refused.says(&["stage nap needs 9.0 GiB of memory on one slave", "the largest slave has 8.0 GiB"]);
    submit(&cluster, "60", &["--stage-memory", "5GiB"]);
    let waits = submit(&cluster, "60", &["--stage-memory", "6GiB", "--after", "j1"]);
    let fits = submit(&cluster, "60", &["--stage-memory", "1GiB", "--after", "j1"]);
    cluster.slaves[0].signal(libc::SIGTERM);
    let error = wait::until("the refusal", WITHIN, || {
        let status = status(&cluster, &waits);
        (status["state"] == "failed").then(|| status["error"]["message"].as_str().unwrap().to_owned())
    });
    assert!(error.contains("(h1) is gone") && error.contains("6.0 GiB of memory on one slave"), "{error}");
    assert!(error.contains("the largest slave has 2.0 GiB"), "{error}");
    let error = status(&cluster, &fits)["error"]["message"].as_str().map(str::to_owned);
    assert!(error.is_none_or(|e| e.contains("after which it was to run")), "the one that fits was refused");
}

#[test]
fn the_embedded_cluster_counts_memory_too_and_a_workload_file_says_what_jobs_need() {
    let run = flexps(["run", "sleep", "--stage", "nap:1:0", "--memory", "1GiB", "--stage-memory", "2GiB"]).exits(2);
    run.says(&["needs 2.0 GiB of memory on one slave, the largest slave has 1.0 GiB"]);
    let here = crate::support::folder();
    let file = here.path().join("w.toml");
    let text = "[cluster]\nslaves=1\nslots=4\nmemory='8GiB'\n[[job]]\nname='a'\ncopies=3\nmemory='5GiB'\n\
        stage=[{name='x',threads=1,work=0.4}]\n[[job]]\nname='real'\nmemory='5GiB'\nrun='sleep'\nparams={stage=['y:1:0.4']}\n\
        stage=[{name='y',threads=1,work=0.4}]\n";
    std::fs::write(&file, text).unwrap();
    for how in ["simulate", "run"] {
        let compared = flexps(["workload", how, "--policies", "greedy"]).arg(&file).json();
        let makespan = compared["policies"][0]["measures"]["makespan"].as_f64().unwrap();
        assert!(makespan >= 1.6 - 1e-6, "{how}: four of 0.4 s, one at a time, took {makespan} s");
    }
}
