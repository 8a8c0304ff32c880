//! Jobs as the simulator sees them: when they come, what their stages want, how long those take.
//!
//! Invariant: `after` of a stage names earlier places of its job, `after` of a job other places of the workload, and
//! neither goes in circles; whoever builds a workload checks that and says where the mistake is.

use super::{Cluster, Luck};
use crate::scheduler::{Estimates, Want};
use flexps_common::curve::Curve;
use std::time::Duration;

/// A list of jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// What tables and pictures call it.
    pub name: String,
    /// In order of arrival.
    pub jobs: Vec<JobSpec>,
    /// How durations vary.
    pub luck: Luck,
    /// How long stages ran before its begin.
    pub known: Estimates,
}

/// A job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobSpec {
    /// Its own name.
    pub name: String,
    /// What it is one of: jobs of one kind have one history.
    pub kind: String,
    /// When it is submitted.
    pub arrival: Duration,
    /// Higher goes first.
    pub priority: i32,
    /// Whose share it counts against.
    pub owner: String,
    /// When it should be done, after its arrival.
    pub deadline: Option<Duration>,
    /// The jobs (by place) that must be done before it starts.
    pub after: Vec<usize>,
    /// The stages of a round.
    pub stages: Vec<StageSpec>,
    /// Rounds; each begins when the one before has ended.
    pub rounds: u32,
    /// The slaves (by place) that it has, in shard order; all when none are named.
    pub slaves: Vec<usize>,
    /// How long its slaves take to open it, once there are slots for its first stage. Those stay free meanwhile.
    pub opening: Duration,
    /// How long it goes on after its last stage.
    pub closing: Duration,
}

/// A stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// Its name.
    pub name: String,
    /// What it runs on.
    pub threads: Threads,
    /// How long it takes.
    pub timing: Timing,
    /// The stages (by place) of the round that must end before it.
    pub after: Vec<usize>,
    /// Bytes of memory on each slave where it has threads.
    pub memory: u64,
    /// The slaves (by place) that it may run on; all of its job's when none are named.
    pub slaves: Vec<usize>,
}

/// A stage's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// So many anywhere.
    Count(u32),
    /// So many, and at least so many of them on each slave.
    Spread(u32, u32),
    /// As many as are free, within limits.
    Range(u32, u32),
    /// So many on one slave.
    OneSlave(u32),
    /// So many on each slave.
    PerSlave(u32),
    /// Every slot.
    All,
}

/// How long a stage takes on p threads.
#[derive(Debug, Clone, PartialEq)]
pub enum Timing {
    /// By T(p).
    Model(Curve),
    /// As it was recorded.
    Recorded(Recorded),
}

/// A recorded run of a stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// Its round, from 1.
    pub round: u32,
    /// From when it could have been ready to when it was.
    pub gap: Duration,
    /// How long it ran.
    pub lasts: Duration,
    /// How long it ran on each of its slaves; empty when all ended together.
    pub each: Vec<Duration>,
    /// Whether it was cut short: how long such a stage takes it does not tell.
    pub cut: bool,
}

impl Threads {
    /// What the scheduler is asked for.
    pub fn want(self) -> Want {
        match self {
            Threads::Count(threads) => Want::Spread { threads, each: 0 },
            Threads::Spread(threads, each) => Want::Spread { threads, each },
            Threads::Range(least, most) => Want::Range { least, most, each: 0 },
            Threads::OneSlave(n) => Want::OneSlave(n),
            Threads::PerSlave(n) => Want::PerSlave(n),
            Threads::All => Want::All,
        }
    }

    /// The fewest and the most threads on slaves of so many slots.
    pub fn limits(self, slots: &[u32]) -> (u32, u32) {
        let all = slots.iter().fold(0, |sum: u32, n| sum.saturating_add(*n));
        match self {
            Threads::Count(n) | Threads::Spread(n, _) | Threads::OneSlave(n) => (n, n),
            Threads::Range(least, most) => (least, most.min(all).max(least)),
            Threads::PerSlave(n) => {
                let threads = n.saturating_mul(slots.len() as u32);
                (threads, threads)
            }
            Threads::All => (all, all),
        }
    }
}

impl JobSpec {
    /// The slaves (by place) that a stage of it may run on; all when none are named.
    pub fn slaves_of<'a>(&'a self, stage: &'a StageSpec) -> &'a [usize] {
        if stage.slaves.is_empty() { &self.slaves } else { &stage.slaves }
    }

    /// The fewest and the most threads of a stage of it on a cluster.
    pub fn limits(&self, stage: &StageSpec, cluster: &Cluster) -> (u32, u32) {
        match self.slaves_of(stage) {
            [] => stage.threads.limits(&cluster.slots),
            some => {
                let slots: Vec<u32> = some.iter().filter_map(|place| cluster.slots.get(*place).copied()).collect();
                stage.threads.limits(&slots)
            }
        }
    }
}

impl Timing {
    /// How long it runs on p threads, before luck.
    pub fn on(&self, threads: u32) -> Duration {
        match self {
            Timing::Model(curve) => Duration::try_from_secs_f64(curve.seconds(threads)).unwrap_or(Duration::MAX),
            Timing::Recorded(run) => run.lasts,
        }
    }

    /// How long after the stages before it it is ready.
    pub fn gap(&self) -> Duration {
        self.recorded().map_or(Duration::ZERO, |run| run.gap)
    }

    /// What was recorded, if it was.
    pub fn recorded(&self) -> Option<&Recorded> {
        if let Timing::Recorded(run) = self { Some(run) } else { None }
    }
}

/// Of each job (by place) those that wait for it.
pub(super) fn followers(jobs: &[JobSpec]) -> Vec<Vec<usize>> {
    let mut followers = vec![Vec::new(); jobs.len()];
    for (place, job) in jobs.iter().enumerate() {
        job.after.iter().for_each(|first| followers[*first].push(place));
    }
    followers
}

/// The places of the jobs, each after those that it waits for, however long the chain is.
pub fn in_turn(jobs: &[JobSpec]) -> Vec<usize> {
    let followers = followers(jobs);
    let mut waits: Vec<usize> = jobs.iter().map(|job| job.after.len()).collect();
    let mut turn: Vec<usize> = (0..jobs.len()).filter(|place| waits[*place] == 0).collect();
    let mut next = 0;
    while let Some(place) = turn.get(next).copied() {
        next += 1;
        for follower in &followers[place] {
            waits[*follower] -= 1;
            if waits[*follower] == 0 {
                turn.push(*follower);
            }
        }
    }
    turn
}
