//! What the master did, as records: a line of JSON each, appended and never changed. Traces, replays and pictures of a live
//! cluster are made of them.
//!
//! Invariants: a record stands for something that has happened; times are seconds since the begin of the first master
//! that wrote into the file and never fall;
//! a file that was cut off is good up to its last whole line.

mod lives;
mod log;
mod past;
mod read;
mod seen;
mod trace;

pub use lives::{Last, last};
pub use log::{Log, Page, Start};
pub use past::{Past, Telling};
pub use read::read;
pub use trace::{known, trace, workload};

use crate::job::Submission;
use crate::scheduler::Want;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::report::State;
use flexps_common::scheduling::Scheduling;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The format that this build writes and reads.
pub const FORMAT: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Record {
    /// A master began.
    Begin {
        /// [`FORMAT`].
        format: u32,
        /// Its policy.
        policy: String,
        /// Milliseconds since 1970.
        unix_ms: u64,
        /// The weights of users' and queues' shares; the others weigh 1, and all where an older build wrote it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        shares: BTreeMap<String, f64>,
    },
    /// Another policy decides from now on.
    Policy {
        /// When.
        at: f64,
        /// Its name.
        policy: String,
    },
    /// A slave joined.
    Slave {
        /// When.
        at: f64,
        /// Its identity.
        slave: SlaveId,
        /// Its name.
        name: String,
        /// Its slots.
        slots: u32,
        /// Bytes of memory that stages might ask for; none where it had no limit, or an older build did not say.
        #[serde(default)]
        memory: Option<u64>,
    },
    /// A slave is gone.
    Gone {
        /// When.
        at: f64,
        /// Its identity.
        slave: SlaveId,
    },
    /// A job was submitted, or is queued again.
    Job {
        /// When.
        at: f64,
        /// Its identity.
        job: JobId,
        /// Its name in the registry.
        name: String,
        /// When it was to run.
        scheduling: Scheduling,
        /// What its client made up for it; older builds did not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<u64>,
        /// With what a later master can queue it again, if nobody waited for its end. It has the same identity then, and is
        /// recorded once more: what was before is no part of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detached: Option<Box<Detached>>,
    },
    /// A job began to be opened on its slaves; older builds did not say. When it was opened before, it lost a slave:
    /// its plan begins anew, and the runs until then are no part of it.
    Open {
        /// When.
        at: f64,
        /// Its identity.
        job: JobId,
        /// In shard order.
        slaves: Vec<SlaveId>,
    },
    /// A stage ran, and has ended on all of its slaves.
    Run {
        /// Its job.
        job: JobId,
        /// Which of its runs this is; 0 where an older build wrote it.
        #[serde(default = "unknown")]
        run: StageRun,
        /// Those that had to end before; where an older build wrote it, the one that is recorded before.
        #[serde(default)]
        after: Option<Vec<StageRun>>,
        /// The stage's name.
        stage: String,
        /// The round, from 1.
        epoch: u64,
        /// When it was ready.
        ready: f64,
        /// When it was launched.
        start: f64,
        /// When its last worker had ended.
        end: f64,
        /// (slave, threads).
        workers: Vec<(SlaveId, u32)>,
        /// Of the time from `ready` to `start`, what opening the job took.
        lead: f64,
        /// When each of `workers` ended; empty when all did at `end`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ends: Vec<f64>,
        /// What it wanted; older builds did not say.
        #[serde(default)]
        want: Option<Want>,
        /// Bytes of memory that it asked for on each of `workers`.
        #[serde(default, skip_serializing_if = "nothing")]
        memory: u64,
        /// Whether it had to run there and nowhere else.
        #[serde(default, skip_serializing_if = "not")]
        bound: bool,
        /// Whether it was cut short, or failed: how long such a stage takes it does not tell. Older builds did not say.
        #[serde(default, skip_serializing_if = "not")]
        cut: bool,
    },
    /// Somebody had a job end that was under way: no later master queues it again, whether this one saw its end or not.
    Cancel {
        /// When.
        at: f64,
        /// Its identity.
        job: JobId,
    },
    /// A job ended.
    End {
        /// When.
        at: f64,
        /// Its identity.
        job: JobId,
        /// How.
        state: State,
        /// Why it failed.
        error: Option<String>,
    },
}

/// What was submitted, beside what its record tells anyway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detached {
    params: String,
    plan_hash: u64,
    reproducible: bool,
    /// Where an older build wrote it, which did of such jobs alone.
    #[serde(default, skip_serializing)]
    token: Option<u64>,
    experiment: Experiment,
}

impl Record {
    /// That this was submitted.
    pub fn of(job: JobId, submission: &Submission, now: Duration) -> Self {
        let Submission { name, params, plan_hash, reproducible, token, scheduling, experiment, detached } =
            submission.clone();
        let kept = Detached { params, plan_hash, reproducible, token: None, experiment };
        let detached = detached.then(|| Box::new(kept));
        Self::Job { at: now.as_secs_f64(), job, name, scheduling, token, detached }
    }
}

fn unknown() -> StageRun {
    StageRun(0)
}

fn nothing(bytes: &u64) -> bool {
    *bytes == 0
}

fn not(x: &bool) -> bool {
    !x
}

#[cfg(test)]
mod tests;
