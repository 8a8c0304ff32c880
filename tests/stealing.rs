//! Slaves that are slow while they read, or die: who reads their splits, on real processes.

use crate::support::cluster::Node;
use crate::support::http::{WITHIN, get, report};
use crate::support::process::send;
use crate::support::{Cluster, Rows, assert_close, model, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Of the cycle of a slowed process, what it runs and what it stands still.
const RUNS: Duration = Duration::from_millis(5);
const STANDS: Duration = Duration::from_millis(95);

/// A process that gets a twentieth of its time, until this is dropped.
struct Slowed {
    over: Arc<AtomicBool>,
    cycle: Option<JoinHandle<()>>,
}

impl Slowed {
    fn new(node: &Node) -> Self {
        let (pid, over) = (node.pid(), Arc::new(AtomicBool::new(false)));
        let ends = over.clone();
        let cycle = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                send(pid, libc::SIGSTOP);
                std::thread::sleep(STANDS);
                send(pid, libc::SIGCONT);
                std::thread::sleep(RUNS);
            }
        });
        Self { over, cycle: Some(cycle) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.cycle.take().into_iter().for_each(|cycle| cycle.join().expect("signals are sent without a panic"));
    }
}

/// So many files of 5000 rows that take long to unpack.
fn packed(folder: &Path, parts: u64) -> PathBuf {
    let here = folder.join("packed");
    std::fs::create_dir(&here).unwrap();
    for part in 0..parts {
        let path = Rows::generate(80 + part, 5000, 400, 30).write(&here, &format!("part{part}"));
        let done = Command::new("bzip2").arg(path).stdin(Stdio::null()).status().expect("bzip2 is installed");
        assert!(done.success());
    }
    here
}

/// A job whose model does not depend on who read which row.
fn submit(cluster: &Cluster, rows: &Path, name: &str) -> u64 {
    let flags = ["run", "lr", "--solver", "newton", "--tolerance", "1e-7", "--lambda", "1e-4", "--detach", "--input"];
    let run = cluster.ask(flags).arg(rows).arg("--model").arg(cluster.folder().join(name)).ok();
    run.stdout.trim().trim_start_matches('j').parse().expect("the job's number")
}

fn news(cluster: &Cluster, job: u64) -> Value {
    get(&cluster.pages, &format!("/api/v1/jobs/j{job}")).json()
}

/// Fails unless two jobs have read the same rows, each once, and learnt the same.
#[track_caller]
fn alike(cluster: &Cluster, (one, first): (&str, &Value), (other, second): (&str, &Value)) {
    for report in [first, second] {
        assert_eq!(report["state"], "done", "{report}");
    }
    for fact in ["rows", "positives", "nonzeros", "features"] {
        let of = |report: &Value| report["read"]["inputs"]["input"][fact].as_u64().expect("a fact");
        assert_eq!(of(first), of(second), "{fact} of {other}");
    }
    assert_eq!(first["read"]["bytes"], second["read"]["bytes"], "{other}");
    assert_close(first["objective"].as_f64().unwrap(), second["objective"].as_f64().unwrap(), 1e-6);
    let weights = |name: &str| model::read(&cluster.folder().join(name)).weights;
    for (feature, (a, b)) in weights(one).iter().zip(weights(other)).enumerate() {
        assert!((a - b).abs() < 1e-2, "weight {feature} is {a} in {one}, {b} in {other}");
    }
}

#[test]
fn what_a_slow_slave_has_not_read_is_read_by_the_others_each_row_once() {
    let cluster = Cluster::start(3, 1);
    let text = Rows::generate(79, 100_000, 400, 30).write(cluster.folder(), "text");
    for (kind, input) in [("packed", packed(cluster.folder(), 12)), ("text", text)] {
        let usual = report(&cluster.pages, submit(&cluster, &input, &format!("{kind}-usual")));
        let slowed = Slowed::new(&cluster.slaves[0]);
        let job = submit(&cluster, &input, &format!("{kind}-slow"));
        wait::until("the end of reading", Duration::from_secs(60), || {
            let news = news(&cluster, job);
            let read = !news["reading"].as_bool()? && news["report"]["read"]["rows"] == usual["read"]["rows"];
            (read || news["report"]["state"] == "failed").then_some(())
        });
        drop(slowed);
        let slow = report(&cluster.pages, job);
        alike(&cluster, (&format!("{kind}-usual"), &usual), (&format!("{kind}-slow"), &slow));
        assert!(slow["read"]["stolen"].as_u64() > Some(0), "{kind}: {}", slow["read"]);
    }
}

/// Waits until a job reads.
fn await_reading(cluster: &Cluster, job: u64) {
    wait::until("the reading", WITHIN, || {
        let news = news(cluster, job);
        (news["reading"] == true && news["report"]["read"]["bytes"].as_u64() > Some(0)).then_some(())
    });
}

/// Submits a job and waits until it reads. The slave is slowed until then, so that it has yet to read most of its splits.
fn begin(cluster: &Cluster, slave: usize, submit: impl FnOnce() -> u64) -> u64 {
    let _slowed = Slowed::new(&cluster.slaves[slave]);
    let job = submit();
    await_reading(cluster, job);
    job
}

/// Kills a slave in the middle of a job's reading.
fn kill(cluster: &mut Cluster, slave: usize, job: u64) {
    // Stood still it keeps what it has taken; so the reading can't end before it is dead.
    cluster.slaves[slave].signal(libc::SIGSTOP);
    assert_eq!(news(cluster, job)["reading"], true, "it was over too soon");
    cluster.slaves[slave].kill();
}

#[test]
fn what_a_slave_held_that_is_killed_while_it_reads_is_read_by_the_others_each_row_once() {
    let mut cluster = Cluster::start(3, 1);
    let input = packed(cluster.folder(), 12);
    let usual = report(&cluster.pages, submit(&cluster, &input, "usual"));
    assert_eq!(usual["repeats"], serde_json::json!([]));
    let job = begin(&cluster, 1, || submit(&cluster, &input, "killed"));
    kill(&mut cluster, 1, job);
    let killed = report(&cluster.pages, job);
    alike(&cluster, ("usual", &usual), ("killed", &killed));
    let [repeat] = killed["repeats"].as_array().unwrap().as_slice() else { panic!("{}", killed["repeats"]) };
    assert_eq!(repeat["slave"], "h2");
    assert!(repeat["splits"].as_u64() > Some(0) && repeat["bytes"].as_u64() > Some(0), "{repeat}");
    let said = |note: &Value| note.as_str().is_some_and(|note| note.contains("(h2) is gone") && note.contains("anew"));
    assert!(killed["notes"].as_array().unwrap().iter().any(said), "{}", killed["notes"]);
    let on_h2 = |stage: &Value| stage["slaves"].as_array().unwrap().contains(&"h2".into());
    assert!(!killed["stages"].as_array().unwrap().iter().any(on_h2), "{}", killed["stages"]);
    cluster.await_slaves(2);
    let again = report(&cluster.pages, submit(&cluster, &input, "again"));
    alike(&cluster, ("usual", &usual), ("again", &again));
}

#[test]
fn a_master_that_stands_still_while_rows_are_read_costs_time_alone() {
    let cluster = Cluster::start(2, 1);
    let input = packed(cluster.folder(), 12);
    let job = begin(&cluster, 1, || submit(&cluster, &input, "patient"));
    cluster.master.signal(libc::SIGSTOP);
    assert_eq!(cluster.slaves.len(), 2);
    // Slaves ask for splits all the time, and have no answer for longer than any other may take.
    std::thread::sleep(Duration::from_secs(12));
    cluster.master.signal(libc::SIGCONT);
    let report = report(&cluster.pages, job);
    assert_eq!((&report["state"], &report["repeats"]), (&"done".into(), &serde_json::json!([])), "{report}");
    assert_eq!(report["read"]["rows"], 60_000, "{}", report["read"]);
}

#[test]
fn what_a_slave_had_read_that_is_killed_just_before_all_is_read_is_read_by_the_others() {
    let mut cluster = Cluster::start(2, 1);
    let input = packed(cluster.folder(), 2);
    // Each keeps to its part: nothing of it is asked back from the other one.
    let flags = ["run", "lr", "--solver", "newton", "--tolerance", "1e-4", "--reproducible", "--detach", "--input"];
    let submit = || cluster.ask(flags).arg(&input).ok().stdout.trim().trim_start_matches('j').parse().unwrap();
    let job = begin(&cluster, 0, submit);
    // Time enough for the second to read its part, too little for the first to be missed.
    cluster.slaves[0].signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(news(&cluster, job)["reading"], true, "it was over too soon");
    // The first soon has read its part too; the master misses a dead one only some seconds later.
    cluster.slaves[1].kill();
    cluster.slaves[0].signal(libc::SIGCONT);
    let killed = report(&cluster.pages, job);
    assert_eq!((&killed["state"], &killed["read"]["rows"]), (&"done".into(), &10_000.into()), "{killed}");
    assert_eq!(killed["repeats"][0]["slave"], "h2", "{killed}");
}

#[test]
fn a_job_goes_on_without_a_slave_that_dies_or_leaves_while_it_reads_unless_rows_are_consumed() {
    let mut cluster = Cluster::start(4, 1);
    let input = packed(cluster.folder(), 12);
    let sgd = |cluster: &Cluster, flags: &[&str]| {
        let run = cluster.ask(["run", "lr", "--detach", "--input"]).arg(&input).args(flags).ok();
        run.stdout.trim().trim_start_matches('j').parse::<u64>().expect("the job's number")
    };
    let flags = ["--solver", "sgd", "--consistency", "asp", "--epochs", "2"];
    let usual = report(&cluster.pages, sgd(&cluster, &flags));
    // The stage that takes rows as they come.
    let taken = |report: &Value| {
        let stages = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == "first-pass");
        stages.map(|stage| stage["rows"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for (slave, orderly) in [(1, false), (2, true)] {
        let job = begin(&cluster, slave, || sgd(&cluster, &flags));
        if orderly {
            cluster.slaves[slave].signal(libc::SIGTERM);
        } else {
            kill(&mut cluster, slave, job);
        }
        let lost = report(&cluster.pages, job);
        assert_eq!(lost["state"], "done", "{lost}");
        assert_eq!(lost["repeats"].as_array().unwrap().len(), 1, "{lost}");
        assert_eq!(lost["read"]["inputs"]["input"]["rows"], usual["read"]["inputs"]["input"]["rows"]);
        assert_eq!(taken(&lost), taken(&usual));
        cluster.await_slaves(4 - slave);
    }
    let once = begin(&cluster, 3, || sgd(&cluster, &["--solver", "ftrl"]));
    kill(&mut cluster, 3, once);
    let lost = report(&cluster.pages, once);
    let error = lost["error"]["message"].as_str().unwrap_or_default();
    assert!(lost["state"] == "failed" && error.contains("(h4) is gone"), "{lost}");
}
