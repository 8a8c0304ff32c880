//! A model on its way between stages of real processes: the same bits by every way, and a report that tells it.

use crate::support::process::Invocation;
use crate::support::{Cluster, Rows, flexps, folder, model, wait};
use std::path::Path;
use std::time::Duration;

/// A wide stage on all slaves and a narrow one on one of them, on rows drawn from all.
const FLAGS: [&str; 9] = ["run", "svrg", "--epochs", "2", "--tolerance", "0", "--sample-share", "1", "--reproducible"];

/// The bits of the model that a run makes, and its report.
fn train(run: Invocation, rows: &Path, here: &Path) -> (Vec<u8>, serde_json::Value) {
    let model = here.join("model");
    let run = run.arg("--input").arg(rows).arg("--overwrite").arg("--model").arg(&model);
    let report = run.json();
    (std::fs::read(model.join("model.safetensors")).unwrap(), report)
}

/// Whether the system lets a process read the memory of another one of the same user.
fn may_read() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    cfg!(target_os = "linux") && !scope.is_ok_and(|scope| scope.trim() != "0")
}

/// Bytes of a run's transfers that were read in the memory of other slaves.
fn memory_bytes(report: &serde_json::Value) -> u64 {
    report["transfers"].as_array().into_iter().flatten().filter_map(|t| t["memory_bytes"].as_u64()).sum()
}

#[test]
fn twenty_runs_on_three_slaves_give_the_same_bits_by_memory_in_messages_and_over_the_shards() {
    let here = folder();
    // Features in several chunks, so that the tables have parts on all slaves.
    let rows = Rows::generate(31, 1500, 300_000, 12).write(here.path(), "rows");
    let cluster = Cluster::start(3, 1);
    let mut first = None;
    for run in 0..20 {
        for way in ["direct", "messages", "kv"] {
            let (bits, report) = train(cluster.ask(FLAGS).args(["--transfer", way]), &rows, here.path());
            assert_eq!(report["stages"][2]["name"], "stochastic");
            assert_eq!(report["stages"][2]["slaves"].as_array().map(Vec::len), Some(1));
            let transfers = report["transfers"].as_array().map_or(0, Vec::len);
            assert_eq!(transfers > 0, way != "kv", "{}", report["transfers"]);
            assert_eq!(memory_bytes(&report) > 0, way == "direct" && may_read(), "{}", report["transfers"]);
            let first = first.get_or_insert_with(|| bits.clone());
            assert!(*first == bits, "run {run}, {way}: other bits than the first run's");
        }
    }
}

#[test]
fn a_feature_that_no_drawn_row_has_stays_as_it_is() {
    let here = folder();
    // Each slave's file has a feature of its own beside those that all rows have.
    let files = [(30, "g0"), (31, "g1")].map(|(own, name)| {
        let mut rows = Rows::generate(37, 1000, 30, 30);
        rows.rows.iter_mut().for_each(|row| row.push((own, 1.0)));
        // In one piece, which one slave reads.
        let whole = here.path().join(format!("{name}.rows"));
        let text = rows.write(here.path(), name);
        flexps(["data", "convert"]).arg(text).arg("--output").arg(&whole).ok();
        whole
    });
    let model = here.path().join("model");
    let cluster = Cluster::start(2, 1);
    let run = cluster.ask(["run", "svrg", "--epochs", "1", "--tolerance", "0", "--sample-share", "0.5", "--input"]);
    run.args(&files).arg("--model").arg(&model).ok();
    let weights = model::read(&model).weights;
    let still = weights[30..32].iter().filter(|weight| **weight == 0.0).count();
    assert_eq!(still, 1, "{weights:?}");
}

#[test]
fn bits_are_those_of_the_slaves_names_whoever_came_first() {
    let here = folder();
    let rows = Rows::generate(33, 1500, 300_000, 12).write(here.path(), "rows");
    let [one, other] = [["h1", "h2"], ["h2", "h1"]].map(|order| {
        let mut cluster = Cluster::start(0, 1);
        for (count, host) in (1..).zip(order) {
            cluster.add_slave(host, 1, &[]);
            cluster.await_slaves(count);
        }
        let (bits, report) = train(cluster.ask(FLAGS), &rows, here.path());
        assert_eq!(report["stages"][2]["slaves"], serde_json::json!(["h1"]), "{}", report["stages"][2]);
        bits
    });
    assert!(one == other, "other bits where h2 came first");
}

#[test]
fn twenty_runs_in_one_process_give_the_same_bits() {
    let here = folder();
    let rows = Rows::generate(32, 1500, 300_000, 12).write(here.path(), "rows");
    let run = || train(flexps(FLAGS).args(["--slots", "2", "--narrow", "2"]), &rows, here.path()).0;
    let first = run();
    assert!((1..20).all(|_| run() == first));
}

#[test]
fn the_report_lists_each_transfer_with_its_way_and_what_the_shards_would_have_cost() {
    let here = folder();
    let rows = Rows::generate(33, 1500, 300_000, 12).write(here.path(), "rows");
    let cluster = Cluster::start(3, 1);
    let (_, report) = train(cluster.ask(FLAGS), &rows, here.path());
    for (stage, access) in [("stochastic", "own"), ("full-gradient", "shards")] {
        let found = report["stages"].as_array().unwrap().iter().find(|s| s["name"] == stage).unwrap();
        assert_eq!(found["model"]["access"], access, "{found}");
    }
    let transfers = report["transfers"].as_array().unwrap();
    let first = &transfers[0];
    assert_eq!((first["stage"].as_str(), first["way"].as_str()), (Some("stochastic"), Some("gather")), "{first}");
    assert_eq!(first["to"].as_array().map(Vec::len), Some(1), "{first}");
    assert!(first["bytes"].as_u64() > Some(100_000) && first["milliseconds"].as_f64() > Some(0.0), "{first}");
    assert!(first["expected_bytes"].as_u64() <= first["shards_bytes"].as_u64(), "{first}");
    let memory = if may_read() { &first["bytes"] } else { &serde_json::json!(0) };
    assert_eq!(&first["memory_bytes"], memory, "{first}");
    // The slave that has the model keeps it: in the second epoch the narrow stage finds it there.
    let again = transfers.iter().filter(|t| t["stage"] == "stochastic" && t["epoch"] == 2);
    assert!(again.clone().all(|t| t["bytes"] == 0), "{transfers:?}");
    let run = cluster.ask(FLAGS).arg("--input").arg(&rows).ok();
    assert!(run.stdout.contains("transfers  ") && run.stdout.contains(" by memory)") == may_read(), "{run}");
}

#[test]
fn a_model_that_lives_on_one_slave_is_broadcast_to_a_wide_stage_that_only_reads_it_and_gives_the_same_bits() {
    let here = folder();
    // Rows of every slave hold nearly all features.
    let rows = Rows::generate(36, 900, 131_072, 1500).write(here.path(), "rows");
    let cluster = Cluster::start(3, 1);
    let (bits, report) = train(cluster.ask(FLAGS), &rows, here.path());
    let transfers = report["transfers"].as_array().unwrap();
    let sent = transfers.iter().find(|t| t["stage"] == "full-gradient" && t["way"] == "broadcast");
    let sent = sent.unwrap_or_else(|| panic!("{transfers:?}"));
    assert_eq!(sent["tables"], serde_json::json!(["weights"]));
    assert_eq!(
        (sent["from"].as_array().map(Vec::len), sent["to"].as_array().map(Vec::len)),
        (Some(1), Some(3)),
        "{sent}"
    );
    let stage = report["stages"].as_array().unwrap().iter().find(|s| s["name"] == "full-gradient").unwrap();
    assert!(stage["model"]["why"].as_str().unwrap().contains("a copy of weights beside each"), "{stage}");
    let (over_shards, _) = train(cluster.ask(FLAGS).args(["--transfer", "kv"]), &rows, here.path());
    assert!(bits == over_shards, "other bits than over the shards");
}

#[test]
fn a_models_access_that_is_asked_for_is_in_the_report_and_gives_a_model_as_good() {
    let here = folder();
    let rows = Rows::generate(34, 1500, 30_000, 12).write(here.path(), "rows");
    let sgd = ["run", "lr", "--solver", "sgd", "--epochs", "12", "--tolerance", "0", "--slots", "2", "--threads", "2"];
    let run = |model: &str, flags: &[&str]| {
        let report = flexps(sgd).args(["--consistency", model]).args(flags).arg("--input").arg(&rows).json();
        let found =
            report["stages"].as_array().unwrap().iter().find(|s| s["name"] == "train").unwrap()["model"].clone();
        (report["objective"].as_f64().unwrap(), found)
    };
    let (safe, found) = run("asp", &[]);
    assert_eq!(found["access"], "shared", "{found}");
    let (raced, found) = run("asp", &["--model-access", "racing"]);
    assert_eq!(found["access"], "racing", "{found}");
    assert!(found["why"].as_str().unwrap().contains("--model-access"), "{found}");
    // Two runs on two threads don't agree to the last digit; a race loses few of their updates.
    assert!((raced - safe).abs() < 0.03 * safe, "{raced} and {safe}");
    let (_, found) = run("bsp", &["--model-access", "racing"]);
    assert_eq!(found["access"], "shared", "nobody races under bsp: {found}");

    let cluster = Cluster::start(2, 1);
    let report = cluster.ask(FLAGS).args(["--model-access", "shards"]).arg("--input").arg(&rows).json();
    assert!(report["transfers"].as_array().is_none_or(Vec::is_empty), "{}", report["transfers"]);
    assert!(report["stages"].as_array().unwrap().iter().all(|s| s["model"]["access"] != "own"), "{}", report["stages"]);
}

#[test]
fn a_slave_killed_while_it_sends_its_part_leaves_the_saved_model_and_the_cluster_whole() {
    killed_while_it_sends("messages");
}

#[test]
fn a_slave_killed_while_its_memory_is_to_be_read_leaves_the_saved_model_and_the_cluster_whole() {
    killed_while_it_sends("direct");
}

fn killed_while_it_sends(way: &str) {
    let here = folder();
    let rows = Rows::generate(35, 1500, 300_000, 12).write(here.path(), "rows");
    let mut cluster = Cluster::start(3, 1);
    let (bits, first) = train(cluster.ask(FLAGS), &rows, here.path());
    let model = here.path().join("model");
    // What h2 offers and sends takes seconds to arrive.
    let slow = cluster.ask(FLAGS).args(["--inject", "delay:slave=h2,ms=3000", "--transfer", way]);
    let running = slow.args(["--overwrite", "--model"]).arg(&model).arg("--input").arg(&rows).within(90).start();
    let begun = |cluster: &Cluster, stage: &str| cluster.master.log().contains(&format!("job=j2 stage=\"{stage}\""));
    let on_its_way = || begun(&cluster, "stochastic").then_some(());
    wait::until("the model to be on its way", Duration::from_secs(60), on_its_way);
    std::thread::sleep(Duration::from_millis(500));
    cluster.slaves[1].kill();
    assert!(!begun(&cluster, "full-gradient"), "the kill came too late to tell anything");
    let run = running.finish();
    assert_eq!(run.code, 1, "{run}");
    run.says(&["h2"]);
    assert!(!begun(&cluster, "full-gradient"), "no stage may work on a part of the model");
    assert!(std::fs::read(model.join("model.safetensors")).unwrap() == bits, "the model that was saved before");
    cluster.await_slaves(2);
    let (_, again) = train(cluster.ask(FLAGS), &rows, here.path());
    let objective = |report: &serde_json::Value| report["objective"].as_f64().unwrap();
    assert!((objective(&again) - objective(&first)).abs() < 0.05 * objective(&first), "{again}");
}
