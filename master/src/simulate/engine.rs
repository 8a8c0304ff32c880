//! The event loop in virtual time.
//!
//! Invariant: all events of a moment are taken before the policy is asked, in an order that the workload fixes; a stage is
//! ready exactly when the stages before it, and the round before it, have ended and its recorded gap is over.

use super::breakdowns::MOST;
use super::cluster::fits;
use super::workload::followers;
use super::{Cluster, JobSpec, JobTrace, Run, SlaveTrace, StageSpec, Trace, Workload};
use crate::scheduler::{Board, Estimates, Near, NearList, Policy, Ready, Share, Why};
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

/// What happens to a job, by place, and to a stage of it, by round and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// On one slave, by identity; on others it goes on.
    EndedOn(usize, u32, u32),
    Ended(usize, u32),
    /// After its last stage.
    Closed(usize),
    /// A slave (by place) breaks down, for the so manieth time from 0.
    Broke(u32, u32),
    /// It is back.
    Back(u32, u32),
    Arrived(usize),
    /// Its slaves are open.
    Opened(usize),
    Ready(usize, u32),
}

#[derive(Default)]
struct JobState {
    arrived: bool,
    /// Jobs that it waits for.
    waits: usize,
    round: u32,
    /// Stages of the round that have not ended.
    left: usize,
    /// By stage: how many stages of the round must still end before it.
    before: Vec<u32>,
    /// By stage: those that come after it.
    next: Vec<Vec<usize>>,
    tries: Vec<u32>,
    last: Vec<Option<NearList>>,
    /// By stage: the first of the same name. Recorded runs of one stage are stages of their own.
    same: Vec<usize>,
    /// Whether its slaves have opened it.
    open: bool,
    /// Whether a stage of it asked for that, and those that wait for it: that one once it was placed, and all others.
    asked: bool,
    held: Vec<Ready>,
}

struct Engine<'a> {
    workload: &'a Workload,
    cluster: &'a Cluster,
    seed: u64,
    board: Board,
    all: Arc<[SlaveId]>,
    /// The lists of jobs and stages that have slaves of their own, each list once.
    lists: BTreeMap<&'a [usize], Arc<[SlaveId]>>,
    owners: Vec<u32>,
    /// Jobs of one kind have one number.
    kinds: Vec<u32>,
    followers: Vec<Vec<usize>>,
    states: Vec<JobState>,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    estimates: Estimates,
    /// The kinds and stages that ended since the policy was asked last.
    noted: Vec<(u32, &'a str)>,
    running: BTreeMap<(usize, u32), usize>,
    /// Jobs that have not ended.
    open: usize,
    trace: Trace,
}

/// Runs the workload to its end.
pub fn simulate(workload: &Workload, cluster: &Cluster, policy: &dyn Policy, seed: u64) -> Result<Trace> {
    fits(workload, cluster)?;
    let mut engine = Engine::new(workload, cluster, seed);
    // Slaves break down for ever; what matters is over with the last job.
    while engine.open > 0
        && let Some(Reverse((now, event))) = engine.events.pop()
    {
        engine.happen(event, now);
        while let Some(Reverse((_, event))) = engine.events.peek().filter(|next| next.0.0 == now) {
            let event = *event;
            engine.events.pop();
            engine.happen(event, now);
        }
        engine.place(policy, now);
    }
    match engine.board.waiting().first() {
        None => Ok(engine.trace),
        Some(stuck) => Err(Error::bug(format!(
            "policy {} leaves {} stages waiting on an idle cluster, {:?} first",
            policy.name(),
            engine.board.waiting().len(),
            stuck.want
        ))),
    }
}

impl<'a> Engine<'a> {
    fn new(workload: &'a Workload, cluster: &'a Cluster, seed: u64) -> Self {
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        let mut shares: Vec<Share> = Vec::new();
        let mut owner = |job: &'a JobSpec| {
            *names.entry(&job.owner).or_insert_with(|| {
                let weight = cluster.weights.get(&job.owner).copied().unwrap_or(1.0);
                shares.push(Share { weight, ..Share::default() });
                shares.len() as u32 - 1
            })
        };
        let owners = workload.jobs.iter().map(&mut owner).collect();
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut kind = |job: &'a JobSpec| {
            let next = numbers.len() as u32;
            *numbers.entry(&job.kind).or_insert(next)
        };
        let kinds = workload.jobs.iter().map(&mut kind).collect();
        let mut board = Board::new(shares);
        let mut trace = Trace::default();
        for (id, (place, slots)) in (1..).zip(cluster.slots.iter().enumerate()) {
            board.join(SlaveId(id), *slots, cluster.memory_of(place));
            let name = cluster.names.get(place).cloned().unwrap_or_else(|| format!("s{id}"));
            trace.slaves.push(SlaveTrace { name, slots: *slots });
        }
        let mut events = BinaryHeap::with_capacity(workload.jobs.len());
        let mut states = Vec::with_capacity(workload.jobs.len());
        for (place, job) in workload.jobs.iter().enumerate() {
            events.push(Reverse((job.arrival, Event::Arrived(place))));
            states.push(JobState { waits: job.after.len(), ..JobState::default() });
            trace.jobs.push(JobTrace {
                name: job.name.clone(),
                owner: job.owner.clone(),
                priority: job.priority,
                arrival: job.arrival,
                end: None,
                deadline: job.deadline,
                failed: false,
            });
        }
        if let Some(breakdowns) = workload.luck.breakdowns {
            for slave in 0..cluster.slots.len() as u32 {
                events.push(Reverse((breakdowns.holds(seed, slave, 0), Event::Broke(slave, 0))));
            }
        }
        Self {
            open: workload.jobs.len(),
            workload,
            cluster,
            seed,
            board,
            all: (1..=cluster.slots.len() as u32).map(SlaveId).collect(),
            lists: BTreeMap::new(),
            owners,
            kinds,
            followers: followers(&workload.jobs),
            states,
            events,
            estimates: workload.known.clone(),
            noted: Vec::new(),
            running: BTreeMap::new(),
            trace,
        }
    }

    fn happen(&mut self, event: Event, now: Duration) {
        match event {
            Event::Arrived(job) => {
                self.states[job].arrived = true;
                self.begin(job, now);
            }
            Event::Opened(job) => {
                self.states[job].open = true;
                for ready in std::mem::take(&mut self.states[job].held) {
                    let (slaves, estimate) = (self.slaves(job, ready.stage), self.estimate(job, ready.stage));
                    self.board.add(Ready { slaves, estimate, ..ready });
                }
            }
            Event::Ready(job, stage) => self.ready(job, stage, now),
            Event::EndedOn(job, stage, slave) => {
                self.board.ended_on(JobId(job as u64 + 1), stage, SlaveId(slave), now);
            }
            Event::Ended(job, stage) => self.ended(job, stage, now),
            Event::Closed(job) => self.job_ended(job, now),
            Event::Broke(slave, count) => self.broke(slave, count, now),
            Event::Back(slave, count) => self.back(slave, count, now),
        }
    }

    /// A slave is gone, and with it what ran there: each of its stages runs again, wherever it fits then.
    fn broke(&mut self, slave: u32, count: u32, now: Duration) {
        let Some(breakdowns) = self.workload.luck.breakdowns else { return };
        self.trace.breakdowns += 1;
        self.events.push(Reverse((now.saturating_add(breakdowns.repair), Event::Back(slave, count))));
        let id = SlaveId(slave + 1);
        let left = self.all.iter().copied().filter(|other| *other != id).collect();
        let before = std::mem::replace(&mut self.all, left);
        let there = |at: &usize| self.trace.runs[*at].workers.iter().any(|(place, _)| *place == slave);
        let hit: Vec<((usize, u32), usize)> =
            self.running.iter().filter(|(_, at)| there(at)).map(|(key, at)| (*key, *at)).collect();
        for ((job, stage), at) in &hit {
            self.running.remove(&(*job, *stage));
            (self.trace.runs[*at].end, self.trace.runs[*at].failed) = (now, true);
            self.board.ended(JobId(*job as u64 + 1), *stage, now);
        }
        self.board.leave(id, &before, &self.all);
        for ((job, stage), _) in hit {
            self.ready(job, stage, now);
        }
    }

    fn back(&mut self, slave: u32, count: u32, now: Duration) {
        let id = SlaveId(slave + 1);
        let at = self.all.partition_point(|other| *other < id);
        let mut all = self.all.to_vec();
        all.insert(at, id);
        let before = std::mem::replace(&mut self.all, all.into());
        let (slots, memory) = (self.cluster.slots[slave as usize], self.cluster.memory_of(slave as usize));
        self.board.join(id, slots, memory);
        self.board.replace(&before, &self.all);
        if let Some(breakdowns) = self.workload.luck.breakdowns.filter(|_| count + 1 < MOST) {
            let again = breakdowns.holds(self.seed, slave, count + 1);
            self.events.push(Reverse((now.saturating_add(again), Event::Broke(slave, count + 1))));
        }
    }

    /// Begins a job when nothing holds it back any more.
    fn begin(&mut self, job: usize, now: Duration) {
        let state = &mut self.states[job];
        if !state.arrived || state.waits > 0 {
            return;
        }
        let JobSpec { stages, opening, .. } = &self.workload.jobs[job];
        state.open = opening.is_zero();
        if !state.open {
            self.board.must_open(JobId(job as u64 + 1));
        }
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        state.same = (0..).zip(stages).map(|(place, s)| *named.entry(&s.name).or_insert(place)).collect();
        (state.tries, state.last) = (vec![0; stages.len()], vec![None; stages.len()]);
        state.next = vec![Vec::new(); stages.len()];
        for (place, stage) in stages.iter().enumerate() {
            stage.after.iter().for_each(|first| state.next[*first].push(place));
        }
        self.round(job, 0, now);
    }

    fn round(&mut self, job: usize, round: u32, now: Duration) {
        let spec = &self.workload.jobs[job];
        if round >= spec.rounds || spec.stages.is_empty() {
            // One without stages may be one of a long chain of them.
            if spec.closing.is_zero() && !spec.stages.is_empty() {
                return self.job_ended(job, now);
            }
            return self.events.push(Reverse((now.saturating_add(spec.closing), Event::Closed(job))));
        }
        let state = &mut self.states[job];
        (state.round, state.left) = (round, spec.stages.len());
        state.before = spec.stages.iter().map(|s| s.after.len() as u32).collect();
        for (place, _) in spec.stages.iter().enumerate().filter(|(_, s)| s.after.is_empty()) {
            self.later(job, round, place, now);
        }
    }

    fn later(&mut self, job: usize, round: u32, place: usize, now: Duration) {
        let spec = &self.workload.jobs[job];
        let at = now.saturating_add(spec.stages[place].timing.gap());
        self.events.push(Reverse((at, Event::Ready(job, flat(spec, round, place)))));
    }

    fn ready(&mut self, job: usize, stage: u32, now: Duration) {
        let spec = &self.workload.jobs[job];
        let place = stage as usize % spec.stages.len();
        let wanted = &spec.stages[place];
        let slaves = self.slaves(job, stage);
        let ready = Ready {
            job: JobId(job as u64 + 1),
            stage,
            priority: spec.priority,
            owner: self.owners[job],
            since: now,
            passed_over: 0,
            want: wanted.threads.want(),
            memory: wanted.memory,
            slaves,
            near: self.states[job].last[self.states[job].same[place]].clone(),
            estimate: self.estimate(job, stage),
        };
        let state = &mut self.states[job];
        if !state.open && std::mem::replace(&mut state.asked, true) {
            return state.held.push(ready);
        }
        self.board.add(ready);
    }

    /// The slaves that a stage may run on. A list of its own stays the same while one of them is away: it waits for it.
    fn slaves(&mut self, job: usize, stage: u32) -> Arc<[SlaveId]> {
        let spec = &self.workload.jobs[job];
        let places = spec.slaves_of(&spec.stages[stage as usize % spec.stages.len()]);
        if places.is_empty() {
            return self.all.clone();
        }
        let list = || places.iter().map(|place| SlaveId(*place as u32 + 1)).collect();
        self.lists.entry(places).or_insert_with(list).clone()
    }

    /// How long a stage will run on the fewest threads that it can have.
    fn estimate(&self, job: usize, stage: u32) -> Option<Duration> {
        let (spec, wanted) = wanted(self.workload, job, stage);
        self.estimates.of(&spec.kind, &wanted.name, spec.limits(wanted, self.cluster).0)
    }

    /// What waited before one of its kind ended has an estimate from then on, as on a live cluster.
    fn estimate_anew(&mut self) {
        let (workload, cluster) = (self.workload, self.cluster);
        let Self { kinds, estimates, noted, board, .. } = self;
        if noted.is_empty() {
            return;
        }
        // Those of one kind mostly want the same.
        let mut last = None;
        board.estimate(|ready| {
            let job = ready.job.0 as usize - 1;
            if noted.iter().all(|(kind, _)| *kind != kinds[job]) {
                return ready.estimate;
            }
            let (spec, wanted) = wanted(workload, job, ready.stage);
            let key = (kinds[job], wanted.name.as_str());
            if !noted.contains(&key) {
                return ready.estimate;
            }
            let key = (key, wanted.threads, spec.slaves_of(wanted));
            match last {
                Some((known, estimate)) if known == key => estimate,
                _ => {
                    let estimate = estimates.of(&spec.kind, &wanted.name, spec.limits(wanted, cluster).0);
                    last.insert((key, estimate)).1
                }
            }
        });
        noted.clear();
    }

    fn place(&mut self, policy: &dyn Policy, now: Duration) {
        self.estimate_anew();
        for (placement, ready) in self.board.decide(policy, now) {
            let job = placement.job.0 as usize - 1;
            let spec = &self.workload.jobs[job];
            if !self.states[job].open {
                self.states[job].held.push(ready);
                self.events.push(Reverse((now.saturating_add(spec.opening), Event::Opened(job))));
                continue;
            }
            let (round, place) =
                (placement.stage / spec.stages.len() as u32, placement.stage as usize % spec.stages.len());
            let threads: u32 = placement.workers.iter().map(|(_, n)| n).sum();
            // It may have got more than it waited for.
            let estimate = self.estimates.of(&spec.kind, &spec.stages[place].name, threads);
            self.board.expect(ready.key(), estimate.map(|lasts| now.saturating_add(lasts)));
            let planned = spec.stages[place].timing.on(threads);
            let attempt = self.states[job].tries[place];
            let drawn = self.workload.luck.draw(planned, self.seed, job, placement.stage, attempt);
            let same = self.states[job].same[place];
            self.states[job].last[same] = Some(placement.workers.iter().map(|(id, _)| (*id, Near::Model)).collect());
            let recorded = spec.stages[place].timing.recorded();
            // Elsewhere than recorded, nobody knows who would have ended first.
            let each = recorded.map(|run| &run.each).filter(|each| each.len() == placement.workers.len());
            for ((id, _), lasts) in placement.workers.iter().zip(each.into_iter().flatten()) {
                self.events.push(Reverse((now.saturating_add(*lasts), Event::EndedOn(job, placement.stage, id.0))));
            }
            self.running.insert((job, placement.stage), self.trace.runs.len());
            self.trace.runs.push(Run {
                job,
                stage: spec.stages[place].name.clone(),
                round: recorded.map_or(round + 1, |run| run.round),
                ready: ready.since,
                start: now,
                end: now.saturating_add(drawn.lasts),
                workers: placement.workers.iter().map(|(id, n)| (id.0 - 1, *n)).collect(),
                why: Some(placement.why).filter(|why| *why != Why::Wanted),
                failed: drawn.fails,
            });
            self.events.push(Reverse((now.saturating_add(drawn.lasts), Event::Ended(job, placement.stage))));
        }
    }

    fn ended(&mut self, job: usize, stage: u32, now: Duration) {
        // One that a slave took with it has no end of its own any more.
        let Some(at) = self.running.get(&(job, stage)).copied().filter(|at| self.trace.runs[*at].end == now) else {
            return;
        };
        self.running.remove(&(job, stage));
        self.board.ended(JobId(job as u64 + 1), stage, now);
        let run = &self.trace.runs[at];
        let spec = &self.workload.jobs[job];
        let (round, place) = (stage / spec.stages.len() as u32, stage as usize % spec.stages.len());
        if run.failed {
            self.states[job].tries[place] += 1;
            return self.ready(job, stage, now);
        }
        if spec.stages[place].timing.recorded().is_none_or(|recorded| !recorded.cut) {
            self.estimates.note(&spec.kind, &run.stage, run.threads(), now.saturating_sub(run.start));
            let noted = (self.kinds[job], spec.stages[place].name.as_str());
            if !self.noted.contains(&noted) {
                self.noted.push(noted);
            }
        }
        let state = &mut self.states[job];
        state.tries[place] = 0;
        state.left -= 1;
        if state.left == 0 {
            return self.round(job, round + 1, now);
        }
        for next in state.next[place].clone() {
            let before = &mut self.states[job].before[next];
            *before -= 1;
            if *before == 0 {
                self.later(job, round, next, now);
            }
        }
    }

    fn job_ended(&mut self, job: usize, now: Duration) {
        self.board.job_ended(JobId(job as u64 + 1));
        self.trace.jobs[job].end = Some(now);
        self.open -= 1;
        for follower in std::mem::take(&mut self.followers[job]) {
            self.states[follower].waits -= 1;
            self.begin(follower, now);
        }
    }
}

/// A stage and its job, by its number over all rounds.
fn wanted(workload: &Workload, job: usize, stage: u32) -> (&JobSpec, &StageSpec) {
    let spec = &workload.jobs[job];
    (spec, &spec.stages[stage as usize % spec.stages.len()])
}

/// A stage's number over all rounds.
fn flat(job: &JobSpec, round: u32, place: usize) -> u32 {
    round * job.stages.len() as u32 + place as u32
}
