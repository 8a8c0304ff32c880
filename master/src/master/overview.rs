//! What the master shows of itself: to pages, to whoever measures it.
//!
//! Invariant: a picture is taken between two events, so its numbers belong together.

use super::Master;
use crate::job::Phase;
use crate::scheduler::Reservation;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::report::State;
use flexps_common::wire::api::JobLine;
use flexps_common::wire::slaves::SlaveLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The whole master at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overview {
    /// What its clock shows: seconds since the begin of its history.
    pub seconds: f64,
    /// Seconds since its own begin.
    pub up: f64,
    /// Its policy.
    pub policy: String,
    /// Its live slaves.
    pub slaves: Vec<SlaveLine>,
    /// Its jobs, newest last.
    pub jobs: Vec<JobLine>,
    /// What waits, in order of submission.
    pub queue: Vec<Waiting>,
    /// What runs, the oldest first.
    pub running: Vec<UnderWay>,
    /// The number of the next record of its history.
    pub next_record: u64,
    /// What it counted.
    #[serde(skip)]
    pub counts: Counts,
}

/// A job, or the stage of one, that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The job.
    pub job: JobId,
    /// The stage, when it waits for slots.
    pub stage: Option<String>,
    /// Seconds since it became ready.
    pub waited: f64,
    /// How often stages that became ready later were placed before it.
    pub passed_over: u32,
    /// Slots that are held back for it.
    pub held: u32,
    /// Why it waits, with the numbers.
    pub why: String,
}

/// A stage that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnderWay {
    /// Its job.
    pub job: JobId,
    /// Its name.
    pub stage: String,
    /// The round, from 1.
    pub epoch: u64,
    /// When it was launched, by the master's clock in seconds.
    pub start: f64,
    /// (slave, threads), without those that have ended.
    pub workers: Vec<(SlaveId, u32)>,
    /// Those that have: (slave, threads, when).
    #[serde(default)]
    pub ended: Vec<(SlaveId, u32, f64)>,
    /// Bytes of memory that it asked for on each of them.
    pub memory: u64,
}

/// What the master counted since its begin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Jobs submitted.
    pub submitted: u64,
    /// Jobs that ended well.
    pub done: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Stage runs that ended.
    pub stage_runs: u64,
    /// Slots times seconds in which they ran.
    pub slot_seconds: f64,
    /// Decisions of the policy.
    pub decisions: u64,
    /// Seconds that they took.
    pub decision_seconds: f64,
    /// Slaves that went without being asked to.
    pub slaves_lost: u64,
    /// Bytes of input that ended jobs read.
    pub read_bytes: u64,
    /// Of which from a replica on the reading slave's host.
    pub local_bytes: u64,
    /// Bytes that the workers of ended jobs sent to other slaves.
    pub sent_bytes: u64,
}

impl Counts {
    /// A job has ended whose workers sent so many bytes: its report lists the last of its runs alone.
    pub fn ended(&mut self, report: &flexps_common::report::Report, sent: u64) {
        match report.state {
            State::Done => self.done += 1,
            State::Cancelled => self.cancelled += 1,
            _ => self.failed += 1,
        }
        self.read_bytes += report.read.bytes;
        self.local_bytes += report.read.local_bytes;
        self.sent_bytes += sent;
    }

    /// A stage run has ended.
    pub fn ran(&mut self, threads: u32, lasted: Duration) {
        self.stage_runs += 1;
        self.slot_seconds += f64::from(threads) * lasted.as_secs_f64();
    }

    /// The policy was asked.
    pub fn decided(&mut self, took: Duration) {
        self.decisions += 1;
        self.decision_seconds += took.as_secs_f64();
    }
}

impl Master {
    /// The picture at `now`.
    pub(super) fn overview(&self, now: Duration) -> Overview {
        Overview {
            seconds: now.as_secs_f64(),
            up: self.born.elapsed().as_secs_f64(),
            policy: self.policy.name().to_owned(),
            slaves: self.slaves.lines(now),
            jobs: self.lines(now),
            queue: self.queue(now),
            running: self.books.begun(),
            next_record: self.log.next(),
            counts: self.counts,
        }
    }

    /// The jobs, newest last.
    pub(super) fn lines(&self, now: Duration) -> Vec<JobLine> {
        self.jobs.values().map(|job| job.line(now)).collect()
    }

    /// What waits, in order of submission.
    pub(super) fn queue(&self, now: Duration) -> Vec<Waiting> {
        let held: BTreeMap<(JobId, u32), u32> = self
            .books
            .reserved
            .iter()
            .map(|r: &Reservation| ((r.job, r.stage), r.workers.iter().map(|w| w.1).sum()))
            .collect();
        let waits = |job: &crate::job::Job| {
            let line = |place: Option<u32>, (since, passed_over): (Duration, u32), why: Option<&String>| {
                Some(Waiting {
                    job: job.id,
                    stage: place.and_then(|at| Some(job.plan.stage(at)?.name.clone())),
                    waited: now.saturating_sub(since).as_secs_f64(),
                    passed_over,
                    held: place.and_then(|at| held.get(&(job.id, at)).copied()).unwrap_or(0),
                    why: why?.clone(),
                })
            };
            match &job.phase {
                Phase::Ended => Vec::new(),
                Phase::Started(started) => {
                    let turns = started.ready.iter();
                    turns.filter_map(|(place, turn)| line(Some(*place), turn.queued, turn.why.as_ref())).collect()
                }
                Phase::Queued(_) => line(Some(0), job.queued, job.waiting.as_ref()).into_iter().collect(),
                Phase::Preparing => line(None, job.queued, job.waiting.as_ref()).into_iter().collect::<Vec<_>>(),
            }
        };
        self.jobs.values().flat_map(waits).collect()
    }
}
