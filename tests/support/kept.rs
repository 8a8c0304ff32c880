//! Jobs that keep checkpoints, and what these say of themselves.

use super::{Cluster, Rows, wait};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Epochs of a [`long_job`].
const EPOCHS: usize = 250;

/// Behind what a checkpoint was written that begins with these bytes.
pub fn behind(head: &[u8]) -> String {
    // Behind eight bytes that say what it is: the length of its description in JSON, twelve others, the description.
    let length = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
    let described: serde_json::Value = serde_json::from_slice(&head[24..24 + length]).unwrap();
    described["behind"].as_str().unwrap().to_owned()
}

/// The epoch in such a text.
pub fn epoch(behind: &str) -> u64 {
    behind.rsplit_once("epoch ").and_then(|(_, epoch)| epoch.parse().ok()).unwrap_or_else(|| panic!("{behind}"))
}

/// A report of a job that went on behind `epoch` or later and made `epochs` in all.
#[track_caller]
pub fn assert_resumed(report: &serde_json::Value, epoch: u64, epochs: usize) {
    let resumed = report["checkpoint"]["resumed"].as_str().map(self::epoch);
    assert!(resumed >= Some(epoch), "{}", report["checkpoint"]);
    let all = report["epochs"].as_array().unwrap();
    let numbers: Vec<u64> = all.iter().map(|epoch| epoch["epoch"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=epochs as u64).collect::<Vec<_>>());
    let seconds: Vec<f64> = all.iter().map(|epoch| epoch["seconds"].as_f64().unwrap()).collect();
    assert!(seconds.is_sorted(), "time counts on: {seconds:?}");
    let says = |note: &serde_json::Value| note.as_str().is_some_and(|note| note.starts_with("resumed behind epoch"));
    assert!(report["notes"].as_array().unwrap().iter().any(says), "{}", report["notes"]);
}

/// Rows of which a [`long_job`] learns.
pub fn some_rows(cluster: &Cluster) -> PathBuf {
    Rows::generate(20, 3000, 300, 15).write(cluster.folder(), "rows")
}

/// Submits a long job that keeps checkpoints; gives its id.
pub fn long_job(cluster: &Cluster, rows: &Path, kept: impl AsRef<OsStr>, restarts: &str) -> String {
    job_of(cluster, EPOCHS, rows, kept, restarts)
}

/// The same of so many epochs.
pub fn job_of(cluster: &Cluster, epochs: usize, rows: &Path, kept: impl AsRef<OsStr>, restarts: &str) -> String {
    let run = cluster.ask(["run", "svrg", "--epochs"]).arg(epochs.to_string()).args(["--tolerance", "0", "--restarts"]);
    let run = run.arg(restarts).args(["--checkpoint-every", "1ms", "--checkpoint"]).arg(kept.as_ref());
    let run = run.arg("--model").arg(cluster.folder().join("model"));
    run.arg("--detach").arg("--input").arg(rows).ok().stdout.trim().to_owned()
}

/// Waits until a cluster's only job waits to look for its checkpoint once more, and says `why`.
#[track_caller]
pub fn assert_waits(cluster: &Cluster, why: &str) {
    wait::until("a job that tries again", Duration::from_secs(60), || {
        let job = cluster.ask(["jobs"]).json()[0].take();
        assert!(["queued", "running"].contains(&job["state"].as_str().unwrap()), "{job}");
        job["note"]
            .as_str()
            .is_some_and(|note| note.starts_with("tries again every") && note.contains(why))
            .then_some(())
    });
}

/// The report of a job when it has ended.
#[track_caller]
pub fn ended(cluster: &Cluster, id: &str) -> serde_json::Value {
    wait::until("the job's end", Duration::from_secs(90), || {
        let report = cluster.ask(["status", id]).json();
        ["done", "failed", "cancelled"].contains(&report["state"].as_str().unwrap()).then_some(report)
    })
}
