//! What the scheduler must know beside slots and jobs: what runs and until when, reservations, shares, estimates, and where
//! each stage ran last.
//!
//! Invariant: a run is in the books from its launch until its last slave gave its slots back or is gone.

use super::overview::UnderWay;
use crate::history::Record;
use crate::job::Turn;
use crate::scheduler::{Estimates, Near, NearList, Reservation, Running, Runs, Share, Want};
use flexps_common::ids::{JobId, SlaveId, StageRun};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub struct Books {
    /// What runs.
    pub running: Runs,
    /// What the last decision held back.
    pub reserved: Vec<Reservation>,
    /// The shares of users and queues.
    pub shares: Vec<Share>,
    owners: BTreeMap<String, u32>,
    weights: BTreeMap<String, f64>,
    estimates: Estimates,
    last: BTreeMap<(JobId, u32), NearList>,
    names: BTreeMap<(JobId, StageRun), Begun>,
}

/// A run that was launched.
struct Begun {
    job: String,
    stage: String,
    place: u32,
    workers: Vec<(SlaveId, u32)>,
    epoch: u64,
    turn: Turn,
    since: Duration,
    want: Want,
    memory: u64,
    bound: bool,
    /// When the workers on slaves ended.
    ends: BTreeMap<SlaveId, Duration>,
}

/// A launch, for the books.
pub struct Launched<'a> {
    /// Its job.
    pub id: JobId,
    /// The job's name in the registry.
    pub job: &'a str,
    /// The stage's name.
    pub stage: &'a str,
    /// Its place in the plan.
    pub place: u32,
    /// The run.
    pub run: StageRun,
    /// (slave, threads).
    pub workers: &'a [(SlaveId, u32)],
    /// Whose share it counts against.
    pub owner: u32,
    /// The round, from 1.
    pub epoch: u64,
    /// How it waited.
    pub turn: &'a Turn,
    /// What it wanted.
    pub want: Want,
    /// Bytes of memory that it asked for on each slave.
    pub memory: u64,
    /// Whether it had to run on these slaves and no others.
    pub bound: bool,
}

impl Books {
    /// Books with the weights of shares, all others weigh 1, and how long stages ran under earlier masters.
    pub fn new(weights: BTreeMap<String, f64>, estimates: Estimates) -> Self {
        Self { weights, estimates, ..Self::default() }
    }

    /// The place of a user's or queue's share.
    pub fn owner(&mut self, name: &str) -> u32 {
        if let Some(known) = self.owners.get(name) {
            return *known;
        }
        let owner = self.shares.len() as u32;
        let weight = self.weights.get(name).copied().unwrap_or(1.0);
        self.shares.push(Share { weight, ..Share::default() });
        self.owners.insert(name.to_owned(), owner);
        owner
    }

    /// Where a stage ran last.
    pub fn near(&self, job: JobId, stage: u32) -> Option<NearList> {
        self.last.get(&(job, stage)).cloned()
    }

    /// How long a stage will run, by earlier runs.
    pub fn estimate(&self, job: &str, stage: &str, threads: u32) -> Option<Duration> {
        self.estimates.of(job, stage, threads)
    }

    /// A stage was launched.
    pub fn launched(&mut self, what: &Launched<'_>, now: Duration) {
        let Launched { id, job, stage, place, run, workers, owner, epoch, turn, want, memory, bound } = *what;
        let threads: u32 = workers.iter().map(|(_, n)| n).sum();
        let until = self.estimate(job, stage, threads).map(|e| now.saturating_add(e));
        let running = Running { owner, workers: workers.to_vec(), memory, since: now, until };
        self.running.insert((id, place), running);
        self.last.insert((id, place), workers.iter().map(|(id, _)| (*id, Near::Model)).collect());
        let (job, stage, workers, turn) = (job.to_owned(), stage.to_owned(), workers.to_vec(), turn.clone());
        let ends = BTreeMap::new();
        let begun = Begun { job, stage, place, workers, epoch, turn, since: now, want, memory, bound, ends };
        self.names.insert((id, run), begun);
        if let Some(share) = self.shares.get_mut(owner as usize) {
            share.slots += threads;
        }
    }

    /// The stages that run, the oldest first.
    pub fn begun(&self) -> Vec<UnderWay> {
        let under_way = |((job, _), begun): (&(JobId, StageRun), &Begun)| {
            let end = |slave| begun.ends.get(slave).map(Duration::as_secs_f64);
            let workers = begun.workers.iter();
            UnderWay {
                job: *job,
                stage: begun.stage.clone(),
                epoch: begun.epoch,
                start: begun.since.as_secs_f64(),
                workers: workers.clone().filter(|(id, _)| end(id).is_none()).copied().collect(),
                ended: workers.filter_map(|(id, threads)| Some((*id, *threads, end(id)?))).collect(),
                memory: begun.memory,
            }
        };
        let mut all: Vec<UnderWay> = self.names.iter().map(under_way).collect();
        all.sort_by(|a, b| a.start.total_cmp(&b.start));
        all
    }

    /// A slave gave the slots of a run back; the run's record when it was the last. Of one that was `cut` short nobody learns
    /// how long it takes.
    pub fn gave_back(&mut self, job: JobId, run: StageRun, slave: SlaveId, cut: bool, now: Duration) -> Option<Record> {
        let begun = self.names.get_mut(&(job, run))?;
        begun.ends.insert(slave, now);
        let place = begun.place;
        if !self.leave(job, place, slave, now) {
            return None;
        }
        let begun = self.names.remove(&(job, run))?;
        let threads = begun.workers.iter().map(|(_, n)| n).sum();
        if !cut {
            self.estimates.note(&begun.job, &begun.stage, threads, now.saturating_sub(begun.since));
        }
        let ends: Vec<Duration> =
            begun.workers.iter().map(|(id, _)| begun.ends.get(id).copied().unwrap_or(now)).collect();
        let at_once = ends.iter().all(|at| *at == now);
        Some(Record::Run {
            job,
            stage: begun.stage,
            epoch: begun.epoch,
            run,
            after: Some(begun.turn.after),
            ready: begun.turn.queued.0.as_secs_f64(),
            start: begun.since.as_secs_f64(),
            end: now.as_secs_f64(),
            workers: begun.workers,
            lead: begun.turn.lead.as_secs_f64(),
            ends: if at_once { Vec::new() } else { ends.iter().map(Duration::as_secs_f64).collect() },
            want: Some(begun.want),
            memory: begun.memory,
            bound: begun.bound,
            cut,
        })
    }

    /// A slave is gone.
    pub fn gone(&mut self, slave: SlaveId, now: Duration) {
        for (job, place) in self.running.keys().copied().collect::<Vec<_>>() {
            self.leave(job, place, slave, now);
        }
    }

    /// A job has ended, or begins anew.
    pub fn job_ended(&mut self, job: JobId, now: Duration) {
        let of_job = (job, 0)..=(job, u32::MAX);
        for (key, slaves) in self
            .running
            .range(of_job.clone())
            .map(|(k, r)| (*k, r.workers.iter().map(|w| w.0).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
        {
            for slave in slaves {
                self.leave(key.0, key.1, slave, now);
            }
        }
        self.last.retain(|(of, _), _| *of != job);
        self.names.retain(|(of, _), _| *of != job);
        self.reserved.retain(|r| r.job != job);
    }

    /// Takes a slave out of a run; true when that was its last one.
    fn leave(&mut self, job: JobId, place: u32, slave: SlaveId, now: Duration) -> bool {
        let Some(run) = self.running.get_mut(&(job, place)) else { return false };
        let left: u32 = run.workers.iter().filter(|w| w.0 == slave).map(|w| w.1).sum();
        run.workers.retain(|w| w.0 != slave);
        if let Some(share) = self.shares.get_mut(run.owner as usize) {
            share.slots = share.slots.saturating_sub(left);
            share.used += f64::from(left) * now.saturating_sub(run.since).as_secs_f64();
        }
        let over = run.workers.is_empty();
        if over {
            self.running.remove(&(job, place));
        }
        over
    }
}
