//! A moment between a job's listing and its reading, for tests that change what was listed.
//!
//! Invariant: nothing is read before the change is made, however long that takes.

use super::process::{Run, example};
use super::{Cluster, wait};
use std::path::PathBuf;
use std::time::Duration;

/// A cluster of one slot, which a job has until it is told to end.
pub struct Held {
    pub cluster: Cluster,
    gate: PathBuf,
}

impl Held {
    /// The one slot is taken. `env` is for every process.
    #[track_caller]
    pub fn start(env: &[(&str, &str)]) -> Self {
        let cluster = Cluster::of(&example("failing_job"), 1, 1, env);
        let gate = cluster.folder().join("gate");
        let holder = ["run", "failing", "--detach", "--rounds", "1", "--threads", "1", "--until"];
        cluster.ask(holder).arg(&gate).ok();
        let held = Self { cluster, gate };
        held.until("the slot to be taken", 0, |job| job["state"] == "running");
        held
    }

    /// Runs a job over `input`, with `change` between listing and reading.
    #[track_caller]
    pub fn train(&self, input: &str, change: impl FnOnce()) -> Run {
        let job = ["run", "svrg", "--epochs", "2", "--tolerance", "0", "--input", input];
        let running = self.cluster.ask(job).within(180).start();
        self.until("the inputs to be listed", 1, |job| {
            job["note"].as_str().is_some_and(|note| note.contains("0 of 1 are free"))
        });
        change();
        std::fs::write(&self.gate, "go").expect("a file is written");
        running.finish()
    }

    #[track_caller]
    fn until(&self, what: &str, job: usize, is: impl Fn(&serde_json::Value) -> bool) {
        wait::until(what, Duration::from_secs(30), || is(&self.cluster.ask(["jobs"]).json()[job]).then_some(()));
    }
}
