//! Jobs that keep their checkpoints in a real HDFS, and go on from them as from those on a disk.

use crate::support::hdfs::Hdfs;
use crate::support::kept::{assert_resumed, assert_waits, behind, ended, epoch, job_of, long_job};
use crate::support::process::{Invocation, Running};
use crate::support::{Cluster, Rows, assert_close, flexps, folder, model, wait};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// More epochs than a test lasts.
const ENDLESS: usize = 100_000_000;

/// Jobs of which each keeps something else between epochs: tables, and dual variables of rows.
const JOBS: [&[&str]; 2] = [&["svrg"], &["lr", "--solver", "sdca", "--joins", "4", "--threads", "2", "--bias"]];

/// A folder in HDFS for a job's checkpoint.
struct Kept<'a> {
    hdfs: &'a Hdfs,
    path: &'static str,
}

impl Kept<'_> {
    fn url(&self) -> String {
        format!("{}{}", self.hdfs.url, self.path)
    }

    fn file(&self) -> String {
        format!("{}/checkpoint.bin", self.path)
    }

    /// What tells the checkpoint that is there from the next one, and behind what it was written.
    fn found(&self) -> Option<((u64, u64), String)> {
        self.hdfs.head(&self.file()).map(|(version, head)| (version, behind(&head)))
    }

    /// Waits until a checkpoint is there; the epoch behind which it was written.
    #[track_caller]
    fn awaited(&self) -> u64 {
        epoch(&wait::until("a checkpoint", 60 * SECOND, || self.found()).1)
    }
}

/// A cluster that finds the NameNode.
fn cluster(hdfs: &Hdfs, slaves: usize) -> Cluster {
    Cluster::with(slaves, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())])
}

/// Enough rows for epochs to last until a checkpoint was noticed.
fn rows(folder: &Path) -> PathBuf {
    Rows::generate(31, 20_000, 300, 15).write(folder, "rows")
}

/// A command that does.
fn run(hdfs: &Hdfs, job: &[&str], rows: &Path) -> Invocation {
    flexps(["run"]).args(job).arg("--input").arg(rows).env("HADOOP_CONF_DIR", &hdfs.conf)
}

/// The report of a job when it says why a checkpoint was not written.
#[track_caller]
fn failed(cluster: &Cluster, id: &str) -> serde_json::Value {
    wait::until("a checkpoint that fails", 60 * SECOND, || {
        let report = cluster.ask(["status", id]).json();
        assert_eq!(report["state"], "running", "{report}");
        report["checkpoint"]["error"].is_string().then_some(report)
    })
}

#[test]
fn a_command_that_was_killed_goes_on_from_its_checkpoint_in_hdfs_to_the_same_bits() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let rows = rows(here.path());
    let kept = Kept { hdfs, path: "/kept/bits/ck" };
    for (number, job) in JOBS.iter().enumerate() {
        let [whole, parts] = ["whole", "parts"].map(|name| here.path().join(format!("{name}-{number}")));
        let fixed = ["--epochs", "250", "--tolerance", "0", "--reproducible", "--slots", "2", "--model"];
        let run = |model: &Path| run(hdfs, job, &rows).args(fixed).arg(model);
        let alone = run(&whole).json();
        let again = || run(&parts).args(["--checkpoint-every", "1ms", "--checkpoint", &kept.url()]);
        let killed = again().start();
        let epoch = kept.awaited();
        // The master and the slave are one process, and it is killed as by a power failure.
        drop(killed);
        assert!(!parts.exists(), "{job:?} was killed too late");
        // What it leaves if it is writing just then.
        hdfs.script(&["fs", "-mkdir", &format!("{}/.checkpoint.bin.1-2-3.part", kept.path)]);
        let report = again().json();
        assert_resumed(&report, epoch, 250);
        assert_eq!(report["checkpoint"]["folder"], kept.url().as_str());
        assert_eq!(
            (&report["checkpoint"]["failed"], &report["checkpoint"]["error"]),
            (&0.into(), &serde_json::Value::Null)
        );
        assert_eq!(report["objective"], alone["objective"], "{job:?}");
        assert!(model::read(&whole).bytes == model::read(&parts).bytes, "{job:?}: other bits");
        assert!(hdfs.below("/kept/bits").is_empty(), "{:?}", hdfs.below("/kept/bits"));
    }
}

#[test]
fn a_job_whose_slave_is_killed_goes_on_from_its_checkpoint_in_hdfs() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (mut cluster, kept) = (cluster(hdfs, 3), Kept { hdfs, path: "/kept/slave/ck" });
    let rows = rows(cluster.folder());
    let id = long_job(&cluster, &rows, kept.url(), "1");
    let epoch = kept.awaited();
    cluster.slaves[1].kill();
    let report = ended(&cluster, &id);
    assert_eq!((&report["state"], &report["repeats"][0]["slave"]), (&"done".into(), &"h2".into()), "{report}");
    assert_resumed(&report, epoch, 250);
    assert!(hdfs.below("/kept/slave").is_empty(), "{:?}", hdfs.below("/kept/slave"));
}

#[test]
fn a_job_whose_master_and_slaves_are_killed_is_queued_again_and_goes_on_from_hdfs() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (mut cluster, kept) = (cluster(hdfs, 2), Kept { hdfs, path: "/kept/all/ck" });
    let (rows, history) = (rows(cluster.folder()), cluster.folder().join("history").to_string_lossy().into_owned());
    cluster.restart_master(&["--history", &history]);
    cluster.await_slaves(2);
    let id = long_job(&cluster, &rows, kept.url(), "0");
    let epoch = kept.awaited();
    cluster.master.kill();
    cluster.slaves.clear();
    cluster.restart_master(&["--history", &history]);
    for host in ["h1", "h2"] {
        cluster.add_slave(host, 1, &[]);
    }
    let report = ended(&cluster, &id);
    assert_eq!(report["state"], "done", "{report}");
    assert_resumed(&report, epoch, 250);
    let alone = flexps(["run", "svrg", "--tolerance", "1e-8", "--epochs", "250", "--input"]).arg(&rows).json();
    assert_close(report["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-5);
    assert!(hdfs.below("/kept/all").is_empty(), "{:?}", hdfs.below("/kept/all"));
}

#[test]
fn a_checkpoint_in_hdfs_that_can_be_of_no_use_is_refused() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (cluster, kept) = (cluster(hdfs, 1), Kept { hdfs, path: "/kept/refused/ck" });
    let (rows, url) = (rows(cluster.folder()), kept.url());
    let refused = |job: &[&str], folder: &str, says: &[&str]| {
        let run = cluster.ask(["run"]).args(job).arg("--input").arg(&rows).args(["--checkpoint", folder]);
        run.exits(2).says(says);
    };
    refused(&["lr", "--solver", "ftrl"], &url, &["--checkpoint", "lr has no rounds"]);
    refused(&["svrg", "--model", &url], &url, &["--checkpoint", "the model goes to"]);
    let id = job_of(&cluster, ENDLESS, &rows, &url, "0");
    for other in [url.clone(), format!("{url}/")] {
        refused(&["svrg"], &other, &["--checkpoint", &format!("job {id} keeps its own")]);
    }
    kept.awaited();
    cluster.ask(["cancel", &id]).ok();
    assert_eq!(ended(&cluster, &id)["state"], "cancelled");
    let differs = format!("--epochs is {ENDLESS} there, and 7 here");
    refused(&["svrg", "--epochs", "7"], &url, &[&url, "holds a checkpoint of svrg", &differs, "remove"]);
    assert_eq!(hdfs.below("/kept/refused"), ["/ck", "/ck/checkpoint.bin"], "it stays for who goes on");
    hdfs.put(&kept.file(), b"fxcheck2");
    let id = job_of(&cluster, ENDLESS, &rows, &url, "0");
    let report = ended(&cluster, &id);
    let error = report["error"]["message"].as_str().unwrap();
    assert!(error.contains(&format!("{url}/checkpoint.bin: it was cut short")), "{error}");
    assert_eq!(hdfs.below("/kept/refused"), ["/ck", "/ck/checkpoint.bin"]);
}

#[test]
fn a_folder_in_hdfs_that_no_checkpoint_can_be_kept_in_is_said_before_anything_is_read() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let rows = rows(here.path());
    hdfs.put("/kept/locked/file", b"of somebody else");
    hdfs.script(&["fs", "-chmod", "755", "/kept/locked"]);
    let url = |path: &str| format!("{}{path}", hdfs.url);
    let run = |folder: &str| run(hdfs, &["svrg", "--checkpoint", folder], &rows);
    let refused = |run: Invocation, says: &[&str]| {
        let run = run.exits(2);
        run.says(says);
        assert!(!format!("{run}").contains("epoch"), "{run}");
    };
    let locked = url("/kept/locked");
    refused(run(&locked).env("HADOOP_USER_NAME", "somebody"), &["permission denied in HDFS", "somebody", &locked]);
    for file in ["/kept/locked/file", "/kept/locked/file/ck"] {
        refused(run(&url(file)), &[&url(file), "a file stands where a folder is needed"]);
    }
    refused(run(&hdfs.url), &[&hdfs.url, "can't be a checkpoint's folder"]);
    refused(run(&url("/kept/../ck")), &["/kept/../ck", "HDFS takes no path with"]);
    run("hdfs://127.0.0.1:1/kept").exits(1).says(&["hdfs://127.0.0.1:1/kept", "refused the connection"]);
    assert_eq!(hdfs.below("/kept/locked"), ["/file"]);
}

#[test]
fn a_job_does_not_replace_the_checkpoint_of_another_masters_job() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let (cluster, kept) = (cluster(hdfs, 1), Kept { hdfs, path: "/kept/two/ck" });
    let rows = rows(cluster.folder());
    let first = job_of(&cluster, ENDLESS, &rows, kept.url(), "0");
    kept.awaited();
    // While it stands still the same command goes on from there, and writes the next one.
    cluster.master.signal(libc::SIGSTOP);
    // What it had asked for is done by then.
    std::thread::sleep(SECOND / 2);
    let before = kept.found().unwrap().0;
    let endless = ENDLESS.to_string();
    let job = ["svrg", "--epochs", &endless, "--tolerance", "0", "--checkpoint-every", "1ms", "--checkpoint"];
    let mut second: Running = run(hdfs, &[&job[..], &[kept.url().as_str()]].concat(), &rows).start();
    wait::until("the second one's checkpoint", 60 * SECOND, || {
        assert!(!second.ended(), "it ended early");
        kept.found().is_some_and(|(version, _)| version != before).then_some(())
    });
    second.signal(libc::SIGSTOP);
    cluster.master.signal(libc::SIGCONT);
    let report = failed(&cluster, &first);
    let error = report["checkpoint"]["error"].as_str().unwrap();
    assert!(error.contains("another job keeps its checkpoint there") && error.contains(&kept.url()), "{error}");
    cluster.ask(["cancel", &first]).ok();
    assert_eq!(ended(&cluster, &first)["state"], "cancelled");
    let version = kept.found().unwrap().0;
    assert_ne!(version, before);
    // The other one still may.
    second.signal(libc::SIGCONT);
    wait::until("its next checkpoint", 60 * SECOND, || {
        kept.found().is_some_and(|(next, _)| next != version).then_some(())
    });
}

#[test]
fn a_checkpoint_that_hdfs_does_not_take_is_told_and_the_job_goes_on() {
    let (hdfs, _alone) = Hdfs::alone();
    let (cluster, kept) = (cluster(hdfs, 1), Kept { hdfs, path: "/kept/safe/ck" });
    let rows = rows(cluster.folder());
    let id = job_of(&cluster, ENDLESS, &rows, kept.url(), "0");
    kept.awaited();
    hdfs.script(&["safemode", "on"]);
    let report = failed(&cluster, &id);
    hdfs.script(&["safemode", "off"]);
    let (error, written) = (&report["checkpoint"]["error"], report["checkpoint"]["written"].as_u64());
    assert!(error.as_str().unwrap().contains("safe mode"), "{error}");
    assert!(report["checkpoint"]["failed"].as_u64() > Some(0), "{}", report["checkpoint"]);
    wait::until("the next one", 60 * SECOND, || {
        let report = cluster.ask(["status", &id]).json();
        (report["checkpoint"]["written"].as_u64() > written).then_some(())
    });
    cluster.ask(["cancel", &id]).ok();
    assert_eq!(ended(&cluster, &id)["state"], "cancelled");
}

#[test]
fn a_job_that_loses_a_slave_while_hdfs_is_in_safe_mode_waits_and_goes_on_from_its_checkpoint() {
    let (hdfs, _alone) = Hdfs::alone();
    let (mut cluster, kept) = (cluster(hdfs, 3), Kept { hdfs, path: "/kept/waits/ck" });
    let rows = rows(cluster.folder());
    let id = job_of(&cluster, ENDLESS, &rows, kept.url(), "1");
    let epoch = kept.awaited();
    hdfs.script(&["safemode", "on"]);
    cluster.slaves[1].kill();
    assert_waits(&cluster, "safe mode");
    hdfs.script(&["safemode", "off"]);
    let report = wait::until("the job's next start", 60 * SECOND, || {
        let report = cluster.ask(["status", &id]).json();
        report["checkpoint"]["resumed"].is_string().then_some(report)
    });
    assert_eq!(report["repeats"][0]["slave"], "h2", "{report}");
    assert!(self::epoch(report["checkpoint"]["resumed"].as_str().unwrap()) >= epoch, "{report}");
    cluster.ask(["cancel", &id]).ok();
    assert_eq!(ended(&cluster, &id)["state"], "cancelled");
}
