//! What a policy sees and what it answers: plain values, built by whoever asks it.

use flexps_common::ids::{JobId, SlaveId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A slave's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Whose.
    pub id: SlaveId,
    /// Slots that it lends.
    pub slots: u32,
    /// Of which no stage runs in.
    pub free: u32,
    /// Cores that it may use.
    pub cores: u32,
    /// Bytes of memory that no stage has asked for; `u64::MAX` where nobody counts.
    pub memory: u64,
}

impl Slots {
    /// Of its slots as many as it has cores for.
    pub fn with_cores(&self) -> u32 {
        self.slots.min(self.cores)
    }
}

/// What a stage wants of the slaves that it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// `threads` over all of them, and at least `each` on each.
    Spread {
        /// In all.
        threads: u32,
        /// On each.
        each: u32,
    },
    /// As many as are free over all of them, within these limits, and at least `each` on each.
    Range {
        /// It does not start with fewer.
        least: u32,
        /// It can't use more.
        most: u32,
        /// On each.
        #[serde(default)]
        each: u32,
    },
    /// So many, all on one of them: a stage with a local model.
    OneSlave(u32),
    /// So many on each of them.
    PerSlave(u32),
    /// Every slot of each of them.
    All,
    /// As many on each of them as it has slots, but no more than cores.
    Cores,
}

/// What of a stage a slave already has, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Near {
    /// Its model: it ran there last.
    Model,
    /// Its rows, read and cached.
    Data,
    /// Blocks of its input on the same host.
    Blocks,
}

/// Slaves that have something of a stage, the best first.
pub type NearList = Arc<[(SlaveId, Near)]>;

/// Why a stage's threads went where they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There was no choice: it wants these slaves.
    Wanted,
    /// A slave had something of it.
    Near(Near),
    /// These slaves had the most free slots.
    Balance,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Wanted => "wanted",
            Why::Near(Near::Model) => "model",
            Why::Near(Near::Data) => "cached data",
            Why::Near(Near::Blocks) => "block locality",
            Why::Balance => "balance",
        })
    }
}

/// A stage that could start now, if it had its slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// Its job; jobs are numbered in order of submission.
    pub job: JobId,
    /// Its place in the plan.
    pub stage: u32,
    /// Higher goes first, where the policy looks at it.
    pub priority: i32,
    /// Whose share it counts against: a place in [`View::shares`].
    pub owner: u32,
    /// When it became ready.
    pub since: Duration,
    /// How often stages that became ready later were placed while this one was not.
    pub passed_over: u32,
    /// What it wants.
    pub want: Want,
    /// Bytes of memory that it needs on each slave where it has threads.
    pub memory: u64,
    /// The slaves that it may use, in shard order. Stages with the same slaves share one list: that is what makes a
    /// decision about thousands of stages cheap.
    pub slaves: Arc<[SlaveId]>,
    /// Which of them have something of it, the best first.
    pub near: Option<NearList>,
    /// How long it will run, if history says.
    pub estimate: Option<Duration>,
}

/// A stage that runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// Whose share it counts against.
    pub owner: u32,
    /// (slave, threads).
    pub workers: Vec<(SlaveId, u32)>,
    /// Bytes of memory that it asked for on each of them.
    pub memory: u64,
    /// When it was placed.
    pub since: Duration,
    /// When it will end, if history says. One that is overdue ends any moment.
    pub until: Option<Duration>,
}

/// The stages that run, by job and place in the plan.
pub type Runs = BTreeMap<(JobId, u32), Running>;

/// A user's or queue's share of the cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// How many times the share of one with weight 1; more than 0.
    pub weight: f64,
    /// Slots that its stages run in.
    pub slots: u32,
    /// Slot-seconds that its ended stages took.
    pub used: f64,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1.0, slots: 0, used: 0.0 }
    }
}

/// Slots that are held back for a stage until it fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its job.
    pub job: JobId,
    /// Its place in the plan.
    pub stage: u32,
    /// Where, and how many, in shard order.
    pub workers: Vec<(SlaveId, u32)>,
    /// When all of them will be free at the latest, if the ends of what runs there are known.
    pub at: Option<Duration>,
}

/// All that a policy may look at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Since the master started.
    pub now: Duration,
    /// Live slaves, by identity.
    pub slaves: &'a [Slots],
    /// Stages that could start, in order of submission: by job, then by place in the plan. A queued job is there with its
    /// first stage.
    pub ready: &'a [Ready],
    /// Jobs that were started and have not ended, in order of submission.
    pub started: &'a [JobId],
    /// What runs.
    pub running: &'a Runs,
    /// What the last decision held back, the oldest first.
    pub reserved: &'a [Reservation],
    /// The shares, by [`Ready::owner`].
    pub shares: &'a [Share],
}

impl<'a> View<'a> {
    /// The stage that a reservation is for, if it still waits.
    pub(super) fn reserved_for(&self, reservation: &Reservation) -> Option<&'a Ready> {
        let key = (reservation.job, reservation.stage);
        self.ready.binary_search_by_key(&key, Ready::key).ok().map(|at| &self.ready[at])
    }
}

/// A stage that is to start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Its job.
    pub job: JobId,
    /// Its place in the plan.
    pub stage: u32,
    /// (slave, threads) in shard order, without zeros.
    pub workers: Vec<(SlaveId, u32)>,
    /// What decided.
    pub why: Why,
}

/// What a policy answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// To start, in the order in which they were decided.
    pub placed: Vec<Placement>,
    /// Held back, the oldest first; goes into the next view.
    pub reserved: Vec<Reservation>,
}

/// The place of a slave in a list by identity. Identities are mostly dense, so the first guess is mostly right.
pub(super) fn place_of(slaves: &[Slots], id: SlaveId) -> Option<usize> {
    let first = slaves.first()?.id;
    let guess = id.0.wrapping_sub(first.0) as usize;
    if slaves.get(guess).is_some_and(|s| s.id == id) {
        return Some(guess);
    }
    slaves.binary_search_by_key(&id, |s| s.id).ok()
}

impl Want {
    /// The fewest threads that it can start with, whatever its slaves are.
    pub fn least(self) -> u32 {
        match self {
            Want::Spread { threads, .. } => threads,
            Want::Range { least, .. } => least,
            Want::OneSlave(n) | Want::PerSlave(n) => n,
            Want::All | Want::Cores => 1,
        }
    }
}

impl Ready {
    /// What tells it from others.
    pub fn key(&self) -> (JobId, u32) {
        (self.job, self.stage)
    }
}

impl Running {
    /// Slots that it takes.
    pub fn slots(&self) -> u32 {
        self.workers.iter().map(|(_, n)| n).sum()
    }
}
