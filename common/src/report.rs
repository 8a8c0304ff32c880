//! The report of a job: what `--json` prints, `--report` writes and the history keeps.

use crate::checkpoint::Kept;
use crate::curve::Curve;
use crate::data::Facts;
use crate::error::Error;
use crate::ids::JobId;
use crate::pace::Pace;
use crate::repeat::Repeat;
use crate::scheduling::Scheduling;
use crate::wire::packing::Packing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waiting for slots.
    Queued,
    /// At least one of its steps began.
    Running,
    /// Ended well.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended by request.
    Cancelled,
}

impl State {
    /// Whether it can't change any more.
    pub fn ended(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
}

/// One round of a job's outermost repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: u64,
    /// Since the job's first step.
    pub seconds: f64,
    /// The objective, when the job computes one.
    pub objective: Option<f64>,
    /// Further numbers, e.g. validation loss.
    pub metrics: BTreeMap<String, f64>,
}

/// The loss on the first rows of a streaming pass, each scored before it was learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// How many rows.
    pub rows: u64,
    /// Their mean loss.
    pub loss: f64,
}

/// One run of one stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its name in the plan.
    pub name: String,
    /// The round, from 1.
    pub epoch: u64,
    /// Its workers.
    pub threads: u32,
    /// The slaves that they ran on.
    pub slaves: Vec<String>,
    /// What decided that it ran there: `wanted` (it could run nowhere else), `model`, `cached data`, `block locality` or
    /// `balance`.
    #[serde(default)]
    pub placed: String,
    /// When it was launched, in seconds since the job's submission.
    #[serde(default)]
    pub start: f64,
    /// From launch to the last worker's end.
    pub seconds: f64,
    /// Sum over the workers of the time from their start to their end.
    pub worker_seconds: f64,
    /// Of which waiting: for clocks, reads, rows.
    pub wait_seconds: f64,
    /// Bytes that its workers sent to other slaves.
    pub bytes_sent: u64,
    /// Bytes that they received.
    pub bytes_received: u64,
    /// Rows that its workers took.
    pub rows: u64,
    /// How its workers kept in step.
    #[serde(default)]
    pub pace: Pace,
    /// What of its tables went to disk and came back.
    #[serde(default)]
    pub model_disk: DiskUse,
    /// What they read of other slaves' shards through their slave's cache.
    #[serde(default)]
    pub cache: CacheUse,
    /// What they updated of other slaves' shards in sums.
    #[serde(default)]
    pub sums: SumUse,
    /// What a filter held back of what they updated there.
    #[serde(default)]
    pub filter: FilterUse,
    /// What values to and from there took, where a compression is asked for.
    #[serde(default)]
    pub packed: PackUse,
    /// How they reached the model.
    #[serde(default)]
    pub model: ModelReport,
}

/// How the workers of a stage run reached the tables that they used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// In which form.
    pub access: Access,
    /// Why.
    pub why: String,
}

/// The end of the log of the slave whose worker failed first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FailedLog {
    /// The slave's name.
    pub slave: String,
    /// Its last lines, the oldest first.
    pub lines: Vec<String>,
}

/// The form in which a stage's workers find the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// They used no table.
    #[default]
    None,
    /// One worker, the whole model beside it: nobody else wants a chunk's lock.
    Own,
    /// Several workers on one slave, the whole model beside them: one copy in chunks, a lock for each.
    Shared,
    /// The same without locks: workers race, and of two updates of a value at once one may be lost.
    Racing,
    /// Chunks on several slaves, or on another one, reached over the network.
    Shards,
}

impl std::str::FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Access::Own),
            "shared" => Ok(Access::Shared),
            "racing" => Ok(Access::Racing),
            "shards" => Ok(Access::Shards),
            _ => Err(format!("'{text}' is no access to a model; give own, shared, racing or shards")),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::None => "none",
            Access::Own => "own",
            Access::Shared => "shared",
            Access::Racing => "racing",
            Access::Shards => "shards",
        })
    }
}

/// Bytes of tables that went to the slaves' disks and came back, where they take more than `--model-memory`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Written, since memory was needed for others.
    pub written_bytes: u64,
    /// Read back.
    pub read_bytes: u64,
}

impl DiskUse {
    /// Adds another slave's, or another stage's.
    pub fn merge(&mut self, other: &Self) {
        self.written_bytes += other.written_bytes;
        self.read_bytes += other.read_bytes;
    }
}

/// Keys of other slaves' shards that workers read through their slave's cache, one for all workers there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Read from what was fetched before, or was being fetched.
    pub hits: u64,
    /// Fetched.
    pub misses: u64,
    /// Slaves that left it for the rest of the stage, since it had too few hits.
    pub off: u64,
}

impl CacheUse {
    /// Adds another slave's, or another stage's.
    pub fn merge(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.off += other.off;
    }
}

/// Updates of other slaves' shards that the workers of a slave made at the same clock, and that were summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumUse {
    /// Messages that they would have been.
    pub updates: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Messages that were sent for them,
    pub sent: u64,
    /// and bytes of the values in these.
    pub sent_bytes: u64,
}

impl SumUse {
    /// Adds another slave's, or another stage's.
    pub fn merge(&mut self, other: &Self) {
        self.updates += other.updates;
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
    }
}

/// Updates of other slaves' shards that went through a filter. An entry is what an update adds to a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterUse {
    /// Entries that workers made.
    pub entries: u64,
    /// Of which were held back, to go later or with others.
    pub held: u64,
    /// Entries that were sent in the end: each with all that was held back of its key.
    pub sent: u64,
    /// Bytes of the values that need not go for that: those of `entries` less those of `sent`.
    pub saved_bytes: u64,
}

impl FilterUse {
    /// Adds another slave's, or another stage's.
    pub fn merge(&mut self, other: &Self) {
        self.entries += other.entries;
        self.held += other.held;
        self.sent += other.sent;
        self.saved_bytes += other.saved_bytes;
    }
}

/// Values that workers sent to other slaves' shards and got from them, where a compression is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackUse {
    /// Their bytes raw,
    pub raw_bytes: u64,
    /// and as they went.
    pub bytes: u64,
    /// Of the raw bytes, those that went in LZ4's block format,
    pub lz4_bytes: u64,
    /// and those that went as 16-bit floats.
    pub f16_bytes: u64,
}

impl PackUse {
    /// Values of so many raw bytes went in so many.
    pub fn count(&mut self, packing: Packing, raw: u64, bytes: u64) {
        self.raw_bytes += raw;
        self.bytes += bytes;
        match packing {
            Packing::Raw => {}
            Packing::Lz4 { .. } => self.lz4_bytes += raw,
            Packing::Half { .. } => self.f16_bytes += raw,
        }
    }

    /// Adds another slave's, or another stage's.
    pub fn merge(&mut self, other: &Self) {
        self.raw_bytes += other.raw_bytes;
        self.bytes += other.bytes;
        self.lz4_bytes += other.lz4_bytes;
        self.f16_bytes += other.f16_bytes;
    }
}

/// A model's way from one stage's slaves to the next one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// The stage that it went to.
    pub stage: String,
    /// The round, from 1.
    pub epoch: u64,
    /// The tables that were to move.
    pub tables: Vec<String>,
    /// The slaves where they were.
    pub from: Vec<String>,
    /// The slaves where they were to be.
    pub to: Vec<String>,
    /// How it went.
    pub way: Way,
    /// Bytes of values that went.
    pub bytes: u64,
    /// Those that they would have been without compression.
    #[serde(default)]
    pub raw_bytes: u64,
    /// Those of them that went by memory: the receiver, a process of the same machine, read them in the sender's.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Chunks that went.
    pub chunks: u64,
    /// Chunks that did not need to: they lay there already, unchanged.
    pub kept: u64,
    /// From the order to the last acknowledgement, beside the stage's start.
    pub milliseconds: f64,
    /// The longest that a worker of the stage waited for it: the rest of it went unnoticed.
    #[serde(default)]
    pub waited_milliseconds: f64,
    /// Bytes that this transfer and the stage behind it were expected to send through the busiest slave.
    pub expected_bytes: u64,
    /// The same for the way over all slaves' shards, which was not taken.
    pub shards_bytes: u64,
    /// How long these would take: at the rate of this transfer or, where it went by memory, at that of messages between the
    /// same slaves, measured behind the job's first one; none until then.
    pub shards_milliseconds: Option<f64>,
    /// Why it failed, if it did: the stage then found the model where it was.
    pub failed: Option<String>,
}

/// The way that a transfer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To one slave.
    Gather,
    /// From one slave to several.
    Scatter,
    /// From several to several.
    Exchange,
    /// Copies to several, each of whom passes a part on to the others; the model lives where it did.
    Broadcast,
    /// Nothing had to be sent.
    Kept,
    /// It failed; the model stayed where it was.
    Stayed,
}

/// How the engine chose a stage's threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadsReport {
    /// The stage.
    pub stage: String,
    /// `auto`, a few counts tried and a curve fitted, or `offline`, all counts tried.
    pub way: String,
    /// What was to be least: `elapsed`, `worker-time` or the weight of the latter.
    pub optimize: String,
    /// The fewest and the most threads of the last run that was decided about.
    pub limits: (u32, u32),
    /// The counts that were tried, the fewest threads first.
    pub tried: Vec<Tried>,
    /// T(p) as it was fitted.
    pub curve: Option<Curve>,
    /// By what part of its time a run is off the curve: one standard deviation.
    pub error: Option<f64>,
    /// The count that was chosen.
    pub threads: u32,
    /// What a run on it is expected to take.
    pub expected_seconds: Option<f64>,
    /// Runs that were made to try a count.
    pub tries: u64,
    /// What they took, of `seconds`.
    pub tried_seconds: f64,
    /// What all runs of the stage took.
    pub seconds: f64,
    /// How often all was tried anew, since runs no longer took what they had taken.
    pub restarts: u64,
}

/// A count of threads that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The count.
    pub threads: u32,
    /// Runs that count; the older ones are forgotten.
    pub runs: u64,
    /// Their median.
    pub seconds: f64,
}

/// How the inputs were read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Files.
    pub files: u64,
    /// Splits that they were cut into.
    pub splits: u64,
    /// Of which read by another slave than was planned: parts that slow slaves gave away count as splits.
    #[serde(default)]
    pub stolen: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes read, as stored (compressed ones count as such).
    pub bytes: u64,
    /// Of which from a replica on the reading slave's host.
    pub local_bytes: u64,
    /// Of which it was known on which hosts they lie.
    pub located_bytes: u64,
    /// From the first request for a split to the last parsed row.
    pub seconds: f64,
    /// Bytes that the rows take in the slaves' memory.
    pub cached_bytes: u64,
    /// Bytes that they take on the slaves' disks.
    pub spilled_bytes: u64,
    /// What each input turned out to hold, by name.
    pub inputs: BTreeMap<String, Facts>,
}

impl ReadReport {
    /// The share of the bytes that were read locally; none when nobody knows where they lie.
    pub fn local_share(&self) -> Option<f64> {
        (self.located_bytes > 0).then(|| self.local_bytes as f64 / self.bytes.max(1) as f64)
    }
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The job's name in the registry.
    pub job: String,
    /// Its id.
    pub id: JobId,
    /// Where it stands.
    pub state: State,
    /// Why it failed.
    pub error: Option<Error>,
    /// What the slave logged on which it failed, if a worker of a slave with a log of its own did.
    #[serde(default)]
    pub failed_log: Option<FailedLog>,
    /// Its parameters.
    pub params: serde_json::Value,
    /// The last round's objective.
    pub objective: Option<f64>,
    /// The last value of every metric and scalar that the job reported.
    pub metrics: BTreeMap<String, f64>,
    /// Why the job ended when it did, e.g. `tolerance 1e-4 reached`.
    pub stopped: Option<String>,
    /// Its rounds.
    pub epochs: Vec<EpochReport>,
    /// The loss as rows came, of a streaming pass, at ever more rows.
    #[serde(default)]
    pub progress: Vec<ProgressReport>,
    /// Its stage runs, in order.
    pub stages: Vec<StageReport>,
    /// How its model went from stage to stage.
    #[serde(default)]
    pub transfers: Vec<TransferReport>,
    /// How the threads of those stages were chosen that leave it to the engine.
    #[serde(default)]
    pub threads: Vec<ThreadsReport>,
    /// Its reading.
    pub read: ReadReport,
    /// The slaves that went while it read, each time with the plan begun anew.
    #[serde(default)]
    pub repeats: Vec<Repeat>,
    /// What it kept to go on from, if it was asked to.
    #[serde(default)]
    pub checkpoint: Option<Kept>,
    /// The model's folder.
    pub model: Option<String>,
    /// Largest resident set of a process that worked on it.
    pub peak_memory_bytes: u64,
    /// From submission to the end.
    pub seconds: f64,
    /// When it was to run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Remarks a user should see once, e.g. that locality is off and why.
    pub notes: Vec<String>,
}
