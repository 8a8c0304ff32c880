//! What the workers of a slave share, or hold back, on their way to another slave's shard, between real processes.

use crate::support::{Cluster, Rows, assert_close, model};

/// Mini-batches of rows that have frequent features in common.
const BATCHES: [&str; 9] = ["run", "lr", "--solver", "sgd", "--epochs", "3", "--batch", "20", "--reproducible"];

/// Rows in several files, so that each of a slave's workers has some.
fn rows(cluster: &Cluster) {
    let folder = cluster.folder().join("rows");
    std::fs::create_dir(&folder).unwrap();
    for file in 0..8 {
        Rows::generate(60 + file, 400, 300, 20).write(&folder, &format!("part-{file}"));
    }
}

/// A run under bsp: the model's bytes and the report.
fn run(cluster: &Cluster, name: &str, flags: &[&str]) -> (Vec<u8>, serde_json::Value) {
    let folder = cluster.folder().join(name);
    let run = cluster.ask(BATCHES).args(["--consistency", "bsp"]).args(flags);
    let report = run.arg("--input").arg(cluster.folder().join("rows")).arg("--model").arg(&folder).json();
    (model::read(&folder).bytes, report)
}

/// What the stages that learn count under this name, of what they share so.
fn counted(report: &serde_json::Value, what: &str, name: &str) -> u64 {
    let trained = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == "train");
    trained.map(|stage| stage[what][name].as_u64().unwrap()).sum()
}

#[test]
fn workers_of_a_slave_read_frequent_features_once_for_all_and_the_model_is_the_same_to_the_bit() {
    let cluster = Cluster::start(2, 2);
    rows(&cluster);
    let (bits, apart) = run(&cluster, "apart", &["--slave-cache", "off"]);
    let (shared_bits, shared) = run(&cluster, "shared", &["--slave-cache", "on"]);
    assert!(bits == shared_bits, "what was read for siblings changed the model");
    let [hits, misses] = ["hits", "misses"].map(|name| counted(&shared, "cache", name));
    assert!(misses > 0 && hits > misses / 10, "{hits} keys were read for all, {misses} fetched");
    assert_eq!(["hits", "misses"].map(|name| counted(&apart, "cache", name)), [0; 2]);
    let received = |report: &serde_json::Value| {
        report["stages"].as_array().unwrap().iter().map(|stage| stage["bytes_received"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(received(&shared) < received(&apart), "{} bytes came, {} without", received(&shared), received(&apart));
}

#[test]
fn workers_of_a_slave_send_one_sum_of_their_updates_and_repeat_their_bits() {
    let cluster = Cluster::start(2, 2);
    rows(&cluster);
    let (_, apart) = run(&cluster, "apart", &[]);
    let (bits, summed) = run(&cluster, "summed", &["--sum-updates"]);
    let (bits_again, _) = run(&cluster, "again", &["--sum-updates"]);
    assert!(bits == bits_again, "other bits");
    assert_close(summed["objective"].as_f64().unwrap(), apart["objective"].as_f64().unwrap(), 1e-5);
    let [updates, sent, bytes, sent_bytes] =
        ["updates", "sent", "bytes", "sent_bytes"].map(|name| counted(&summed, "sums", name));
    assert!(sent > 0 && 3 * sent < 2 * updates, "{updates} updates went as {sent}");
    assert!(10 * sent_bytes < 9 * bytes, "{bytes} bytes of values went as {sent_bytes}");
    assert_eq!(["updates", "sent"].map(|name| counted(&apart, "sums", name)), [0; 2]);
}

#[test]
fn small_changes_that_are_held_back_are_fewer_bytes_to_the_same_objective_and_each_run_has_the_same_bits() {
    let cluster = Cluster::start(2, 1);
    rows(&cluster);
    let (_, all) = run(&cluster, "all", &[]);
    let (bits, held) = run(&cluster, "held", &["--filter", "significant:0.05:8"]);
    let (bits_again, _) = run(&cluster, "again", &["--filter", "significant:0.05:8"]);
    assert!(bits == bits_again, "other bits");
    assert_close(held["objective"].as_f64().unwrap(), all["objective"].as_f64().unwrap(), 1e-3);
    let [entries, back, sent, saved] =
        ["entries", "held", "sent", "saved_bytes"].map(|name| counted(&held, "filter", name));
    assert!(back > entries / 10 && sent < entries, "{entries} changes, {back} held back, {sent} sent");
    assert!(saved == 4 * (entries - sent), "{saved} bytes not sent for {} changes", entries - sent);
    let [bytes, bytes_held] = [&all, &held].map(bytes_sent);
    assert!(bytes_held < bytes, "{bytes_held} bytes sent, {bytes} without a filter");
    assert_eq!(counted(&all, "filter", "entries"), 0);
}

/// What the workers of the stages that learn sent.
fn bytes_sent(report: &serde_json::Value) -> u64 {
    let trained = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == "train");
    trained.map(|stage| stage["bytes_sent"].as_u64().unwrap()).sum()
}

#[test]
fn values_that_go_packed_are_fewer_bytes_and_the_same_bits_unless_they_are_rounded() {
    let cluster = Cluster::start(2, 1);
    rows(&cluster);
    let (bits, raw) = run(&cluster, "raw", &[]);
    let taken = |report| ["raw_bytes", "bytes", "lz4_bytes", "f16_bytes"].map(|name| counted(report, "packed", name));
    assert_eq!(taken(&raw), [0; 4]);
    let (packed_bits, packed) = run(&cluster, "lz4", &["--compress", "lz4"]);
    assert!(bits == packed_bits, "other bits");
    let [before, after, by_lz4, rounded] = taken(&packed);
    assert!(after < before && by_lz4 > 0 && rounded == 0, "{before} bytes of values went as {after}: {packed}");
    // Within a machine nothing is won, and nothing lost.
    let (auto_bits, auto) = run(&cluster, "auto", &["--compress", "auto"]);
    assert!(bits == auto_bits && taken(&auto) == [before, before, 0, 0], "{:?} under auto", taken(&auto));
    let (_, rounded) = run(&cluster, "f16", &["--compress", "f16"]);
    let [before, after, _, by_f16] = taken(&rounded);
    assert!(2 * (before - after) == by_f16 && 3 * by_f16 > 2 * before, "{by_f16} of {before} bytes rounded: {after}");
    assert!(bytes_sent(&rounded) < bytes_sent(&raw), "{} bytes sent", bytes_sent(&rounded));
    assert_close(rounded["objective"].as_f64().unwrap(), raw["objective"].as_f64().unwrap(), 1e-3);
    assert!(rounded["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("rounded")));
}

#[test]
fn a_job_whose_results_are_exact_refuses_to_have_its_values_rounded() {
    let cluster = Cluster::start(2, 1);
    rows(&cluster);
    let run = cluster.ask(["run", "svm", "--compress", "f16", "--input"]).arg(cluster.folder().join("rows"));
    run.exits(2).says(&["--compress", "no stage of this job lets those of a table be rounded", "take lz4 or auto"]);
}
