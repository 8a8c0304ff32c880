//! Jobs whose rows lie in a real HDFS: read where they lie, and past what goes wrong there.

use crate::support::hdfs::Hdfs;
use crate::support::process::{Invocation, Run};
use crate::support::{Cluster, Held, Rows, assert_close, flexps, folder, wait};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const FLAGS: [&str; 6] = ["run", "svrg", "--epochs", "20", "--tolerance", "0"];

/// Some MB of rows in four files of several blocks, here and, on two DataNodes each, at `path`.
fn rows(hdfs: &Hdfs, path: &str) -> (PathBuf, tempfile::TempDir) {
    let here = folder();
    let local = here.path().join("rows");
    std::fs::create_dir(&local).expect("a folder is made");
    for part in 0..4 {
        Rows::generate(40 + part, 10_000, 2000, 40).write(&local, &format!("part-{part}"));
    }
    hdfs.script(&["put", &local.to_string_lossy(), path]);
    hdfs.replicated(path);
    (local, here)
}

/// A short training run in this process over a path in HDFS.
fn train(hdfs: &Hdfs, path: &str) -> Invocation {
    flexps(FLAGS).arg("--input").arg(format!("{}{path}", hdfs.url)).env("HADOOP_CONF_DIR", &hdfs.conf).within(90)
}

#[test]
fn three_slaves_read_their_own_blocks_and_repeat_their_bits() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (local, _here) = rows(hdfs, "/jobs/own");
    let alone = flexps(FLAGS).arg("--input").arg(&local).json();
    let cluster = Cluster::with(3, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let run = || {
        let url = format!("{}/jobs/own", hdfs.url);
        cluster.ask(FLAGS).arg("--reproducible").arg("--input").arg(url).json()
    };
    let (once, twice) = (run(), run());
    assert_eq!(once["read"]["rows"], 40_000);
    assert_close(once["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-3);
    assert_eq!(once["objective"], twice["objective"]);
    let share = once["read"]["local_bytes"].as_f64().unwrap() / once["read"]["bytes"].as_f64().unwrap();
    assert!(share >= 0.9, "only {share:.2} of the bytes were read locally: {}", once["read"]);
}

#[test]
fn splits_by_lot_are_the_same_rows_read_from_further_away() {
    let (hdfs, _quiet) = Hdfs::quiet();
    rows(hdfs, "/jobs/lots");
    let cluster = Cluster::with(3, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let read = |way: &str| {
        let url = format!("{}/jobs/lots", hdfs.url);
        cluster.ask(["run", "svrg", "--epochs", "1", "--splits", way]).arg("--input").arg(url).json()
    };
    let [near, random] = ["near", "random"].map(read);
    let notes = |report: &serde_json::Value| report["notes"].to_string().contains("with --splits random");
    assert!(notes(&random) && !notes(&near), "{}", random["notes"]);
    for report in [&near, &random] {
        assert_eq!((&report["read"]["rows"], &report["read"]["bytes"]), (&40_000.into(), &near["read"]["bytes"]));
    }
    let local = |report: &serde_json::Value| report["read"]["local_bytes"].as_u64().unwrap();
    assert!(local(&random) < near["read"]["bytes"].as_u64().unwrap(), "{}", random["read"]);
    cluster.ask(["run", "svrg", "--splits", "far"]).exits(2).says(&["'far' is no way of splits; give near or random"]);
}

#[test]
fn a_dataset_file_in_hdfs_is_read_by_its_blocks_where_they_lie() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (_, here) = rows(hdfs, "/jobs/dataset-text");
    let dataset = here.path().join("rows.data");
    let text = format!("{}/jobs/dataset-text", hdfs.url);
    flexps(["data", "convert", "--output"]).arg(&dataset).arg(&text).env("HADOOP_CONF_DIR", &hdfs.conf).ok();
    hdfs.script(&["put", &dataset.to_string_lossy(), "/jobs/dataset"]);
    hdfs.replicated("/jobs/dataset");
    let (alone, remote) = (flexps(FLAGS).arg("--input").arg(&dataset).json(), train(hdfs, "/jobs/dataset").json());
    assert_eq!(alone["read"]["inputs"], remote["read"]["inputs"]);
    assert_eq!(train(hdfs, "/jobs/dataset-text").json()["read"]["inputs"], remote["read"]["inputs"]);
    let cluster = Cluster::with(3, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    // A slave that others slow down loses splits to them otherwise.
    let run = cluster.ask(FLAGS).arg("--reproducible").arg("--input");
    let run = run.arg(format!("{}/jobs/dataset", hdfs.url)).json();
    assert_eq!(run["read"]["rows"], 40_000);
    assert_close(run["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-3);
    let share = run["read"]["local_bytes"].as_f64().unwrap() / run["read"]["bytes"].as_f64().unwrap();
    assert!(share >= 0.9, "only {share:.2} of the bytes were read locally: {}", run["read"]);
}

#[test]
fn rows_in_hdfs_are_described_with_their_hosts() {
    let (hdfs, _quiet) = Hdfs::quiet();
    rows(hdfs, "/jobs/info");
    let info =
        flexps(["data", "info"]).arg(format!("{}/jobs/info/part-*", hdfs.url)).env("HADOOP_CONF_DIR", &hdfs.conf);
    let shown = info.ok().stdout;
    for word in ["rows       40000", "h1", "h2", "h3", "part-3"] {
        assert!(shown.contains(word), "{word}\n{shown}");
    }
}

#[test]
fn a_job_without_webhdfs_says_once_that_locality_is_off() {
    let (hdfs, _quiet) = Hdfs::quiet();
    rows(hdfs, "/jobs/off");
    let run = train(hdfs, "/jobs/off").env("FLEXPS_WEBHDFS", "127.0.0.1:1").ok();
    assert_eq!(format!("{run}").matches("locality is off").count(), 1, "{run}");
}

#[test]
fn a_file_of_somebody_else_is_the_users_mistake() {
    let (hdfs, _quiet) = Hdfs::quiet();
    hdfs.put("/jobs/locked/rows", b"+1 1:1\n-1 2:1\n");
    hdfs.script(&["fs", "-chmod", "700", "/jobs/locked"]);
    let run = train(hdfs, "/jobs/locked/rows").env("HADOOP_USER_NAME", "somebody").exits(2);
    run.says(&["error: ", "permission denied in HDFS", "somebody"]);
}

#[test]
fn a_job_goes_on_without_a_killed_data_node() {
    let (hdfs, _alone) = Hdfs::alone();
    rows(hdfs, "/jobs/killed");
    hdfs.script(&["kill", "h2"]);
    let run = train(hdfs, "/jobs/killed").run();
    hdfs.script(&["start", "h2"]);
    assert_eq!(run.code, 0, "{run}");
}

#[test]
fn a_job_goes_on_without_a_hung_data_node() {
    let (hdfs, _alone) = Hdfs::alone();
    rows(hdfs, "/jobs/hung");
    let quiet = train(hdfs, "/jobs/hung").ok();
    hdfs.script(&["pause", "h1"]);
    let run = train(hdfs, "/jobs/hung").run();
    hdfs.script(&["resume", "h1"]);
    assert_eq!(run.code, 0, "{run}");
    let lost = run.elapsed.saturating_sub(quiet.elapsed);
    assert!(lost < Duration::from_secs(15), "{lost:?} were lost\n{run}");
    // Blocks on other DataNodes alone cost nothing, and then there is nothing to say.
    let named = run.stderr.matches("DataNode h1 (127.0.0.1:").count();
    assert!(named == 1 || (named == 0 && lost < Duration::from_secs(1)), "h1 was named {named} times\n{run}");
    assert!(!run.stderr.contains("DatanodeIdProto"), "{run}");
}

#[test]
fn a_wrong_port_of_the_name_node() {
    let (hdfs, _quiet) = Hdfs::quiet();
    // Its own web page.
    let site = std::fs::read_to_string(hdfs.conf.join("hdfs-site.xml")).unwrap();
    let web = site.split("dfs.namenode.http-address</name><value>").nth(1).unwrap().split('<').next().unwrap();
    let run = flexps(FLAGS).arg("--input").arg(format!("hdfs://{web}/jobs")).within(45).exits(1);
    run.says(&["error: ", web, "RPC port"]);
}

#[test]
fn a_file_in_hdfs_that_vanishes_between_listing_and_reading() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let file = hdfs.put("/jobs/vanishing", Rows::generate(60, 500, 50, 5).text().as_bytes());
    let held = Held::start(&[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let run = held.train(&file.path, || drop(hdfs.script(&["fs", "-rm", "/jobs/vanishing"])));
    assert_eq!(run.code, 2, "{run}");
    run.says(&["error: ", &file.path, "vanished after it was listed"]);
}

#[test]
fn a_file_in_hdfs_that_grows_between_listing_and_reading() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let file = hdfs.put("/jobs/growing", Rows::generate(61, 500, 50, 5).text().as_bytes());
    let held = Held::start(&[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let more = held.cluster.folder().join("more");
    std::fs::write(&more, "+1 1:1\n").unwrap();
    let append = ["fs", "-appendToFile", &more.to_string_lossy(), "/jobs/growing"];
    let run = held.train(&file.path, || drop(hdfs.script(&append)));
    assert_ne!(run.code, 0, "{run}");
    run.says(&["error: ", &file.path, "the file changed"]);
}

#[test]
fn hdfs_that_stops_in_the_middle_of_a_job_is_named_and_the_cluster_goes_on() {
    let (hdfs, _alone) = Hdfs::alone();
    let (local, _here) = rows(hdfs, "/jobs/stopped");
    let held = Held::start(&[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let run = held.train(&format!("{}/jobs/stopped", hdfs.url), || {
        hdfs.script(&["kill", "nn1", "h1", "h2", "h3"]);
    });
    let next = held.cluster.ask(FLAGS).arg("--input").arg(&local).run();
    hdfs.script(&["start", "nn1"]);
    hdfs.script(&["start", "h1", "h2", "h3"]);
    assert_eq!(run.code, 1, "{run}");
    run.says(&["error: ", "/jobs/stopped", hdfs.url.trim_start_matches("hdfs://")]);
    assert_eq!(next.code, 0, "{next}");
    wait::until("HDFS to be whole again", Duration::from_secs(60), || {
        (train(hdfs, "/jobs/stopped").run().code == 0).then_some(())
    });
}

/// Some 50 MB of rows at `path`, two replicas of each block.
fn many_rows(hdfs: &Hdfs, path: &str) {
    let here = folder();
    let local = here.path().join("rows");
    flexps(["data", "generate", "webspam", "--rows", "2000", "--output"]).arg(&local).ok();
    hdfs.script(&["put", &local.to_string_lossy(), path]);
    hdfs.replicated(path);
}

/// Trains over rows in HDFS; h1 is disturbed while they are read. The job stands still meanwhile, so that the disturbance
/// comes in the middle of its reading and not behind it.
#[track_caller]
fn disturbed_while_reading(hdfs: &Hdfs, path: &str, disturb: &str, mend: &str) -> Run {
    let run = flexps(["run", "svrg", "--epochs", "2", "--slots", "1", "--input"]).arg(format!("{}{path}", hdfs.url));
    let run = run.env("HADOOP_CONF_DIR", &hdfs.conf).env("FLEXPS_LOG", "info").within(90);
    let mut running = run.start();
    running.await_stderr("stage starts");
    running.signal(libc::SIGSTOP);
    hdfs.script(&[disturb, "h1"]);
    running.signal(libc::SIGCONT);
    let disturbed = Instant::now();
    let run = running.finish();
    hdfs.script(&[mend, "h1"]);
    assert_eq!(run.code, 0, "{run}");
    assert!(run.stdout.contains("2000 rows"), "no row is lost\n{run}");
    assert!(disturbed.elapsed() < Duration::from_secs(25), "the job took {:?} more\n{run}", disturbed.elapsed());
    run
}

#[test]
fn a_data_node_killed_while_a_job_reads_from_it() {
    let (hdfs, _alone) = Hdfs::alone();
    many_rows(hdfs, "/jobs/killed-while-read");
    disturbed_while_reading(hdfs, "/jobs/killed-while-read", "kill", "start");
}

#[test]
fn a_data_node_hung_while_a_job_reads_from_it() {
    let (hdfs, _alone) = Hdfs::alone();
    many_rows(hdfs, "/jobs/hung-while-read");
    disturbed_while_reading(hdfs, "/jobs/hung-while-read", "pause", "resume");
}
