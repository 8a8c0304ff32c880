//! Slowness that is put in: it shows where it should, and changes nothing else.

use crate::support::optimum::optimum;
use crate::support::{Cluster, Rows, flexps, folder, model};

/// Mini-batches under BSP: each clock waits for the slowest.
const BATCHES: [&str; 9] = ["run", "lr", "--solver", "sgd", "--epochs", "3", "--consistency", "bsp", "--reproducible"];

/// What the two workers spent in the stages of this name on what their pace calls so, in seconds.
fn spent(report: &serde_json::Value, stage: &str, what: &str) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for stage in report["stages"].as_array().unwrap().iter().filter(|s| s["name"] == stage) {
        let spent = stage["pace"][what].as_array().unwrap();
        assert_eq!(spent.len(), 2, "{stage}");
        sums.iter_mut().zip(spent).for_each(|(sum, spent)| *sum += spent.as_f64().unwrap());
    }
    sums
}

fn notes(report: &serde_json::Value) -> Vec<&str> {
    report["notes"].as_array().unwrap().iter().filter_map(|note| note.as_str()).collect()
}

#[test]
fn the_others_wait_for_a_slowed_worker_and_the_model_is_the_same_to_the_bit() {
    let here = folder();
    let rows = Rows::generate(40, 4000, 300, 20).write(here.path(), "rows");
    let run = |name: &str, inject: &[&str]| {
        let run = flexps(BATCHES).args(["--slots", "2", "--cores", "2"]).args(inject).arg("--input").arg(&rows);
        let report = run.arg("--model").arg(here.path().join(name)).json();
        (model::read(&here.path().join(name)).bytes, report)
    };
    let (bits, usual) = run("usual", &[]);
    let (slow_bits, report) = run("slow", &["--inject", "slow:worker=1,factor=20"]);
    assert!(bits == slow_bits, "a slow worker changed the model");
    assert_eq!(spent(&usual, "train", "worker_slept"), [0.0; 2]);
    // It sleeps 19 times what it computes; the other, which computes as much meanwhile, waits for the rest.
    let ([none, slept], [waited, _]) =
        (spent(&report, "train", "worker_slept"), spent(&report, "train", "worker_waits"));
    assert!(none == 0.0 && slept > 0.0, "worker 0 slept {none} s, worker 1 {slept} s");
    assert!(waited > slept / 2.0, "worker 0 waited {waited} s for worker 1, which slept {slept} s");
    assert!(notes(&report).contains(&"with slow:worker=1,factor=20"), "{}", report["notes"]);
}

#[test]
fn a_delayed_slave_is_waited_for_at_every_clock_and_the_model_is_the_same_to_the_bit() {
    const MS: u64 = 15;
    let cluster = Cluster::start(2, 1);
    let rows = Rows::generate(41, 2000, 300, 20).write(cluster.folder(), "rows");
    let run = |name: &str, inject: &[String]| {
        let folder = cluster.folder().join(name);
        let run = cluster.ask(BATCHES).args(inject).arg("--input").arg(&rows).arg("--model").arg(&folder);
        let report = run.json();
        (model::read(&folder).bytes, report)
    };
    let (bits, _) = run("usual", &[]);
    let (late_bits, report) = run("late", &["--inject".to_owned(), format!("delay:slave=h2,ms={MS}")]);
    assert!(bits == late_bits, "a slow network changed the model");
    let trained = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == "train");
    for stage in trained {
        let begun: u64 = stage["pace"]["lead"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
        // Each of two workers begins a clock when it has heard that the other's ended.
        let least = (begun / 2 * MS) as f64 / 1000.0;
        assert!(stage["seconds"].as_f64().unwrap() >= least, "{begun} clocks in {} s", stage["seconds"]);
    }
    let refused = cluster.ask(BATCHES).args(["--inject", "delay:slave=h7,ms=1"]).arg("--input").arg(&rows);
    refused.exits(2).says(&["h7", "h1, h2"]);
}

#[test]
fn what_cannot_be_put_in_is_refused_or_noted() {
    flexps(["run", "svrg", "--inject", "slow:worker=1"]).exits(2).says(&["--inject", "slow:worker=N,factor=F"]);
    flexps(["run", "svrg", "--inject", "delay:slave=h1,ms=0"]).exits(2).says(&["delay:slave=NAME,ms=N", "10000"]);
    let here = folder();
    let rows = Rows::generate(42, 200, 30, 5).write(here.path(), "rows");
    let run = flexps(["run", "lr", "--slots", "2", "--cores", "2", "--inject", "slow:worker=2,factor=4"])
        .arg("--input")
        .arg(rows);
    let report = run.json();
    let absent = "no worker 2 was slowed: no stage had more than 2 workers, counted from 0";
    assert!(notes(&report).contains(&absent), "{}", report["notes"]);
}

#[test]
fn with_fixed_threads_every_stage_has_that_number_of_workers() {
    let here = folder();
    let rows = Rows::generate(44, 300, 40, 6).write(here.path(), "rows");
    for more in [&["svrg"][..], &["svrg", "--sample-share", "1"], &["lr", "--solver", "sgd"]] {
        let run = flexps(["run", "--slots", "4", "--fixed-threads", "3"].iter().chain(more));
        let report = run.args(["--epochs", "2", "--input"]).arg(&rows).json();
        let stages = report["stages"].as_array().unwrap();
        assert!(stages.len() > 3 && stages.iter().all(|stage| stage["threads"] == 3), "{more:?}: {report}");
        assert!(notes(&report).contains(&"with --fixed-threads 3"), "{}", report["notes"]);
    }
    let run = flexps(["run", "svrg", "--slots", "4", "--fixed-threads", "5", "--input"]).arg(rows).exits(2);
    run.says(&["needs 5 slots", "has 4"]);
}

#[test]
fn svrg_and_lr_reach_1e_4_beside_a_straggler_under_all_four_models() {
    let cluster = Cluster::start(2, 1);
    let rows = Rows::generate(43, 4000, 120, 14);
    let path = rows.write(cluster.folder(), "rows");
    let (least, _) = optimum(&rows, 1.0 / 4000.0);
    let lr = ["lr", "--solver", "sgd", "--optimizer", "saga", "--batch", "10"];
    for job in [&["svrg"][..], &lr] {
        for model in ["bsp", "ssp:2", "asp", "sparse-ssp:2:8"] {
            let run = cluster.ask(["run"]).args(job).args(["--epochs", "25", "--tolerance", "0"]);
            let run = run.args(["--consistency", model, "--inject", "slow:worker=1,factor=4"]);
            let report = run.arg("--input").arg(&path).json();
            let gap = report["objective"].as_f64().unwrap() / least - 1.0;
            assert!((-1e-7..1e-4).contains(&gap), "{} under {model}: {gap:.2e} above the optimum", job[0]);
            let stage = if job[0] == "svrg" { "stochastic" } else { "train" };
            let slept = spent(&report, stage, "worker_slept");
            assert!(slept[0] == 0.0 && slept[1] > 0.0, "{} under {model}: {slept:?} s slept", job[0]);
        }
    }
}
