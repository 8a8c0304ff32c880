//! Snapshots: the model of a running job, saved while its workers go on.

use crate::support::{Cluster, Rows, flexps, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A job without an end that will keep a model.
struct Endless {
    cluster: Cluster,
    id: String,
    rows: PathBuf,
    keeps: PathBuf,
}

impl Endless {
    fn start(job: &[&str]) -> Self {
        Self::of(&[job, &["--epochs", "100000000", "--tolerance", "0"]].concat())
    }

    /// Of a job that takes much longer than a test.
    fn of(job: &[&str]) -> Self {
        let cluster = Cluster::start(2, 1);
        // Features in several chunks, on both slaves.
        let rows = Rows::generate(25, 600, 150_000, 20).write(cluster.folder(), "rows");
        let keeps = cluster.folder().join("final");
        let run = cluster.ask(["run"]).args(job).args(["--detach", "--model"]);
        let id = run.arg(&keeps).arg("--input").arg(&rows).ok().stdout.trim().to_owned();
        Self { cluster, id, rows, keeps }
    }

    /// Waits until it has ended more rounds than it had.
    fn goes_on(&self) {
        let known = || self.cluster.ask(["status", &self.id]).json()["epochs"].as_array().map_or(0, Vec::len);
        let before = known();
        wait::until("more epochs", 30 * SECOND, || (known() > before + 1).then_some(()));
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(name)
    }

    /// Takes one; checks that what it saved has learnt; gives what was said of it.
    fn snapshot(&self, to: &Path) -> Value {
        let found = self.cluster.ask(["snapshot", &self.id, "--overwrite", "--model"]).arg(to).json();
        assert!(found["epoch"].as_u64() >= Some(1) && found["stage"].is_string(), "{found}");
        let judged = flexps(["evaluate", "--model"]).arg(to).arg("--input").arg(&self.rows).json();
        assert!(judged["log_loss"].as_f64() < Some(0.6), "a model that has learnt: {judged}");
        found
    }

    /// Nothing but whole models is there.
    fn left_nothing(&self) {
        let all = std::fs::read_dir(self.cluster.folder()).unwrap().flatten();
        assert!(all.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".part")));
    }
}

#[test]
fn a_running_jobs_model_is_saved_and_its_workers_go_on() {
    for (job, consistency) in [("svrg", "bsp"), ("lr", "bsp"), ("lr", "asp")] {
        let sgd = if job == "lr" { &["--solver", "sgd", "--batch", "10"][..] } else { &[] };
        let on = Endless::start(&[&[job, "--consistency", consistency], sgd].concat());
        on.goes_on();
        for at in 0..3 {
            on.snapshot(&on.folder(&format!("snapshot-{at}")));
            on.goes_on();
        }
        if job == "lr" {
            let within = |found: &Value| found["stage"] == "train" && found["clock"].is_u64() == (consistency == "bsp");
            let to = on.folder("within");
            wait::until("one within the stage that learns", 60 * SECOND, || within(&on.snapshot(&to)).then_some(()));
        }
        on.left_nothing();
    }
}

#[test]
fn a_snapshot_that_cannot_be_is_refused_and_changes_nothing() {
    let on = Endless::start(&["svrg"]);
    on.goes_on();
    let (cluster, id, there) = (&on.cluster, &on.id, on.folder("there"));
    let said = cluster.ask(["snapshot", id, "--model"]).arg(&there).ok().stdout;
    assert!(said.contains(&format!("model of {id} at stage")) && said.contains(", epoch "), "{said}");
    let ask = |id: &str, to: &Path| cluster.ask(["snapshot", id, "--model"]).arg(to);
    ask(id, &there).exits(2);
    ask(id, &on.keeps).exits(2);
    ask("j99", &on.folder("late")).exits(2);
    let rows = ["--detach", "--input"];
    let keepless = cluster.ask(["run", "svrg", "--epochs", "100000000", "--tolerance", "0"]).args(rows).arg(&on.rows);
    let keepless = keepless.ok().stdout.trim().to_owned();
    // In turn with the other one, or behind it in the queue: neither has a model to be read.
    ask(&keepless, &on.folder("late")).exits(2);
    cluster.ask(["cancel", id]).ok();
    wait::until("the end", 20 * SECOND, || (cluster.ask(["status", id]).json()["state"] == "cancelled").then_some(()));
    ask(id, &on.folder("late")).exits(2);
    assert!(!on.folder("late").exists() && !on.keeps.exists());
    on.left_nothing();
}

#[test]
fn there_is_none_of_a_solver_that_makes_its_model_at_its_end() {
    let path = ["lr", "--solver", "newton", "--penalty", "l1", "--path", "1000", "--cv", "100"];
    for on in [Endless::of(&path), Endless::start(&["lr", "--solver", "sdca", "--cv", "100"])] {
        on.goes_on();
        let early = on.folder("early");
        let run = on.cluster.ask(["snapshot", &on.id, "--model"]).arg(&early).run();
        run.refuses(&[&on.id, "has no model yet", "at its end"]);
        assert!(!early.exists());
        on.left_nothing();
    }
}

#[test]
fn a_slave_that_goes_while_a_snapshot_is_taken_leaves_no_part_of_it() {
    let mut on = Endless::start(&["lr", "--solver", "sgd", "--batch", "10", "--consistency", "bsp"]);
    on.goes_on();
    on.cluster.slaves[1].signal(libc::SIGSTOP);
    let to = on.folder("late");
    let taking = on.cluster.ask(["snapshot", &on.id, "--model"]).arg(&to).within(60).start();
    std::thread::sleep(SECOND);
    let other = on.cluster.ask(["snapshot", &on.id, "--model"]).arg(on.folder("other")).run();
    other.refuses(&["is under way"]);
    assert!(!on.folder("other").exists());
    on.cluster.slaves[1].kill();
    let run = taking.finish();
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains(&format!("snapshot of job {}", on.id)), "{}", run.stderr);
    assert!(!to.exists());
    on.left_nothing();
}
