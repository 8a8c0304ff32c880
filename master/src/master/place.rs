//! Matches ready stages with free slots, by the policy.

use super::Master;
use super::books::Books;
use super::choices::Choices;
use super::waiting::{needs, why};
use crate::event::Asked;
use crate::history::Record;
use crate::job::admission::{self, Candidate};
use crate::job::driver::{Driver, Event as Step};
use crate::job::reading::Reading;
use crate::job::readings::Readings;
use crate::job::{Phase, Started, experiment, width};
use crate::prepare::Prepared;
use crate::scheduler::{Decision, Near, NearList, Placement, Ready, Slots, View, Want, Why, note_overtaken};
use crate::slaves::Slave;
use crate::tune::Tuners;
use crate::{assigner, job::Job};
use flexps_common::Error;
use flexps_common::ids::{InputId, JobId, SlaveId};
use flexps_common::plan::{StageSpec, Threads};
use flexps_common::report::State;
use flexps_common::transport::Packet;
use flexps_common::wire::control::ToSlave;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a slave may take to open a job.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

impl Master {
    /// Starts what fits.
    pub(super) fn place(&mut self, now: Duration) {
        if self.awaits_slaves() {
            return;
        }
        let [mut started, mut asking, mut begins] = [const { Vec::<JobId>::new() }; 3];
        for (id, job) in &self.jobs {
            let asks = match &job.phase {
                Phase::Started(running) => {
                    started.push(*id);
                    if running.driver.begins() {
                        begins.push(*id);
                    }
                    !running.ready.is_empty() || running.driver.begins()
                }
                Phase::Queued(_) => true,
                Phase::Preparing | Phase::Ended => false,
            };
            if asks {
                asking.push(*id);
            }
        }
        let mut ready: Vec<Ready> = Vec::new();
        let mut waiting: Vec<(JobId, String)> = Vec::new();
        let queues = asking.iter().any(|id| matches!(self.jobs.get(id).map(|job| &job.phase), Some(Phase::Queued(_))));
        let mut choices = Choices::of(if queues { self.unheld() } else { Vec::new() });
        for id in asking {
            match self.ready(id, &mut choices, now, &mut ready) {
                Waits::Other(why) => waiting.push((id, why)),
                Waits::Never(error) => self.fail(id, error, now),
                Waits::Slots => {}
            }
        }
        // One that begins was placed already, and only keeps its turn.
        let begun = |job: &JobId| begins.binary_search(job).is_err();
        if waiting.is_empty() && !ready.iter().any(|ready| begun(&ready.job)) {
            return;
        }
        let mut slots: Vec<Slots> = self.slaves.iter().map(|(id, slave)| slave.as_seen(id)).collect();
        let Books { running, reserved, shares, .. } = &self.books;
        let view = View { now, slaves: &slots, ready: &ready, started: &started, running, reserved, shares };
        let asked = std::time::Instant::now();
        let Decision { mut placed, reserved } = self.policy.decide(&view);
        self.counts.decided(asked.elapsed());
        self.books.reserved = reserved;
        let (placed_now, mut left): (Vec<Ready>, Vec<Ready>) =
            ready.into_iter().partition(|r| placed.iter().any(|p| (p.job, p.stage) == r.key()));
        left.retain(|ready| begun(&ready.job));
        // A job that is opened now takes its slots, and overtakes others, when its first stage is placed.
        let takes = |job: &JobId| started.binary_search(job).is_ok() && begun(job);
        note_overtaken(&mut left, placed_now.iter().filter(|r| takes(&r.job)));
        // Those that are left wait for what these leave.
        let of = |p: &Placement| placed_now.iter().find(|r| r.key() == (p.job, p.stage)).map_or(0, |r| r.memory);
        for placement in placed.iter().filter(|p| started.binary_search(&p.job).is_ok()) {
            let memory = of(placement);
            for (id, n) in &placement.workers {
                if let Ok(at) = slots.binary_search_by_key(id, |s| s.id) {
                    slots[at].free = slots[at].free.saturating_sub(*n);
                    slots[at].memory = slots[at].memory.saturating_sub(memory);
                }
            }
        }
        for ready in left {
            let reserved = self.books.reserved.iter().find(|r| (r.job, r.stage) == ready.key());
            let why = why(&ready, &slots, reserved);
            let Some(job) = self.jobs.get_mut(&ready.job) else { continue };
            match job.started().and_then(|started| started.ready.get_mut(&ready.stage)) {
                Some(turn) => {
                    turn.queued.1 = ready.passed_over;
                    if turn.why.as_ref() != Some(&why) {
                        turn.why = Some(why);
                        job.tell_waiting();
                    }
                }
                None => {
                    job.queued.1 = ready.passed_over;
                    waiting.push((ready.job, why));
                }
            }
        }
        for (id, why) in waiting {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.waits(Some(why));
            }
        }
        placed.retain(|placement| begun(&placement.job));
        for Placement { job, stage, workers, why } in placed {
            self.placed(job, (stage, workers, why), now);
        }
    }

    fn placed(&mut self, id: JobId, (stage, workers, why): (u32, Vec<(SlaveId, u32)>, Why), now: Duration) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.waiting = None;
        job.version += 1;
        match std::mem::replace(&mut job.phase, Phase::Ended) {
            // Its first stage would fit now. Slots are taken when it is there: its slaves must be opened first.
            Phase::Queued(prepared) => {
                job.opened = now;
                let slaves = job.slaves.to_vec();
                self.start(id, prepared, slaves, now);
            }
            Phase::Started(started) => {
                job.phase = Phase::Started(started);
                self.step(id, Step::Placed(stage, workers, why), now);
                self.jobs.get_mut(&id).into_iter().for_each(Job::tell_waiting);
            }
            other => job.phase = other,
        }
    }

    /// What a job waits for now; the stages that wait for slots are added to `ready`. One that is queued waits as the stage
    /// that would run first on the slaves that it would use.
    fn ready(&mut self, id: JobId, choices: &mut Choices, now: Duration, ready: &mut Vec<Ready>) -> Waits {
        let Some(job) = self.jobs.get(&id) else { return Waits::Slots };
        match &job.phase {
            Phase::Preparing | Phase::Ended => {}
            // One that ends takes no more.
            Phase::Started(started) if started.driver.ending() => {}
            Phase::Started(started) if started.driver.begins() => ready.extend(self.wanted(id, 0, job.queued, now)),
            Phase::Started(started) => {
                let stages = started.ready.iter().map(|(place, turn)| (*place, turn.queued));
                for (place, queued) in stages.collect::<Vec<_>>() {
                    ready.extend(self.wanted(id, place, queued, now));
                }
            }
            Phase::Queued(prepared) => {
                if let Some(waits) = self.after(job) {
                    return waits;
                }
                if choices.candidates.is_empty() {
                    return Waits::Other("waits for a slave".to_owned());
                }
                let choice = choices.choice(job, prepared, |candidates| {
                    let chosen = admission::choose(&job.plan, &self.near(candidates, prepared), prepared.bytes());
                    chosen.map(|slaves| self.shared_list(slaves)).map_err(|e| e.message)
                });
                match choice {
                    Err(why) => return Waits::Other(why),
                    Ok(best) => ready.extend(self.queued(id, best, now)),
                }
            }
        }
        Waits::Slots
    }

    /// A stage that waits for slots, as a policy sees it.
    pub(super) fn wanted(
        &mut self,
        id: JobId,
        place: u32,
        (since, passed_over): (Duration, u32),
        now: Duration,
    ) -> Option<Ready> {
        let found = |job: &Job| job.plan.stage(place).is_some_and(|stage| stage.threads.found());
        let chosen = if found(self.jobs.get(&id)?) { self.chosen(id, place) } else { (0, 0) };
        let job = self.jobs.get(&id)?;
        let stage = job.plan.stage(place);
        let want = stage.map_or(Want::Spread { threads: 0, each: 0 }, |s| admission::want(s, chosen, job.reproducible));
        let slaves = self.allowed(job, place, stage);
        let threads = needs(want, &slaves, |id| self.slaves.get(id).map(|s| s.as_seen(id)));
        let scheduling = &job.report.scheduling;
        let near = near(job, stage, self.books.near(id, place));
        let estimate = stage.and_then(|s| self.books.estimate(&job.name, &s.name, threads));
        let (priority, owner) = (scheduling.priority, self.books.owner(scheduling.share()));
        Some(Ready {
            job: id,
            stage: place,
            priority,
            owner,
            since: since.min(now),
            passed_over,
            want,
            memory: stage.map_or(0, |s| s.memory),
            slaves,
            near,
            estimate,
        })
    }

    /// The slaves that a stage may run on: the one that it names, those that it has still to visit, or all of its job's. Where
    /// bits are to repeat, a stage on one slave has the first that is large enough, whoever is free or came earlier.
    fn allowed(&self, job: &Job, place: u32, stage: Option<&StageSpec>) -> Arc<[SlaveId]> {
        let Some(stage) = stage else { return job.slaves.clone() };
        if let Some(name) = &stage.on {
            let called = |id: &&SlaveId| self.slaves.get(**id).is_some_and(|s| s.registration.name == *name);
            return job.slaves.iter().find(called).copied().into_iter().collect();
        }
        let slaves = match &job.phase {
            Phase::Started(started) if matches!(stage.threads, Threads::Visit(_)) => {
                let visited = started.driver.visited(place);
                job.slaves.iter().filter(|id| !visited.contains(id)).copied().collect()
            }
            _ => job.slaves.clone(),
        };
        let (Threads::OneSlave(threads) | Threads::Visit(threads)) = stage.threads else { return slaves };
        if !job.reproducible {
            return slaves;
        }
        let large = |s: &Slave| s.registration.slots >= threads && s.memory() >= stage.memory;
        let first = slaves.iter().find(|id| self.slaves.get(**id).is_some_and(large));
        first.map_or(slaves.clone(), |first| Arc::from([*first]))
    }

    /// The fewest threads of a stage that leaves them to the engine, and those that its tuner says, of what is free now, so
    /// that it never waits for more. One of a queued job can do with the fewest.
    fn chosen(&mut self, id: JobId, place: u32) -> (u32, u32) {
        let Some(job) = self.jobs.get(&id) else { return (0, 0) };
        let Some(stage) = job.plan.stage(place) else { return (0, 0) };
        let least = if stage.input.is_some() { job.slaves.len().max(1) as u32 } else { 1 };
        let allowed = self.allowed(job, place, Some(stage));
        let own = || allowed.iter().filter_map(|id| self.slaves.get(*id));
        let free = own().filter(|s| s.memory_left() >= stage.memory).map(|s| s.free()).sum();
        let all = own().filter(|s| s.memory() >= stage.memory).map(|s| s.registration.slots).sum();
        let cores = self.slaves.cores(&allowed);
        let chosen = match self.jobs.get_mut(&id).and_then(Job::started) {
            Some(started) => started.driver.tuners.next(place, (least, free), cores).unwrap_or(all),
            None => least,
        };
        (least, chosen)
    }

    /// Whether the jobs that it is to run after hold it back.
    fn after(&self, job: &Job) -> Option<Waits> {
        for id in &job.report.scheduling.after {
            // Listed for as long as this one waits.
            let Some(first) = self.jobs.get(id) else { continue };
            match first.report.state {
                State::Done => {}
                State::Failed | State::Cancelled => {
                    let what = if first.report.state == State::Failed { "failed" } else { "was cancelled" };
                    let message = format!("{id}, after which it was to run, {what}");
                    // A mistake of who submitted it only if he could have known.
                    let known = first.ended();
                    let error = if known <= job.submitted { Error::user(message) } else { Error::cluster(message) };
                    return Some(Waits::Never(error));
                }
                State::Queued | State::Running => return Some(Waits::Other(format!("waits for the end of {id}"))),
            }
        }
        None
    }

    /// Ends the jobs that wait and fitted on the slaves of `before`, but can't on those that are left, with the numbers. With
    /// no slave left they wait for one, and one that started over for as many as it needs.
    pub(super) fn refuse(&mut self, before: &[Candidate], why: &str, now: Duration) {
        let left = self.candidates();
        if left.is_empty() {
            return;
        }
        let waits = |job: &&Job| matches!(job.phase, Phase::Preparing | Phase::Queued(_)) && !job.waits_to_restart();
        let error = |job: &Job| {
            let error = admission::choose(&job.plan, &left, u64::MAX).err()?;
            admission::choose(&job.plan, before, u64::MAX).is_ok().then(|| (job.id, error.context(why.to_owned())))
        };
        for (id, error) in self.jobs.values().filter(waits).filter_map(error).collect::<Vec<_>>() {
            self.fail(id, error, now);
        }
    }

    /// The list of another job when it is the same: stages are compared by list, and a list can be long.
    pub(super) fn shared_list(&self, slaves: Vec<SlaveId>) -> Arc<[SlaveId]> {
        let same = self.jobs.values().map(|j| &j.slaves).find(|list| ***list == *slaves);
        same.cloned().unwrap_or_else(|| slaves.into())
    }

    /// The live slaves as a job sees them that reads nothing.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(id, s): (SlaveId, &Slave)| Candidate {
            id,
            name: s.registration.name.as_str().into(),
            slots: s.registration.slots,
            free: s.free(),
            memory: s.memory(),
            memory_left: s.memory_left(),
            local_bytes: 0,
            machine: s.registration.machine().into(),
            cores: s.registration.cores,
        };
        self.slaves.iter().map(candidate).collect()
    }

    /// The same as a job sees them that is about to read.
    fn near<'a>(&self, candidates: &'a [Candidate], prepared: &Prepared) -> Cow<'a, [Candidate]> {
        if prepared.local.is_empty() {
            return Cow::Borrowed(candidates);
        }
        let mut near = candidates.to_vec();
        for candidate in &mut near {
            let host = self.slaves.get(candidate.id).map(|slave| slave.registration.host.as_str());
            candidate.local_bytes = host.and_then(|host| prepared.local.get(host)).copied().unwrap_or(0);
        }
        Cow::Owned(near)
    }

    fn start(&mut self, id: JobId, prepared: Prepared, slaves: Vec<SlaveId>, now: Duration) {
        let candidates = self.candidates();
        let peers: Vec<_> = slaves.iter().filter_map(|s| self.slaves.peer(*s)).collect();
        let hosts = |s: &SlaveId| self.slaves.get(*s).map(|l| l.registration.host.clone()).unwrap_or_default();
        let readers: Vec<_> = slaves.iter().map(|s| assigner::Reader { slave: *s, host: hosts(s) }).collect();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let bytes = prepared.bytes();
        job.note(width::note(&job.plan, &candidates, &slaves, bytes));
        let mut readings = Vec::new();
        let rules = assigner::Rules { splits: job.experiment.splits, reproducible: job.reproducible };
        for (place, (spec, listed)) in (0..).zip(job.plan.inputs.iter().zip(&prepared.inputs)) {
            let splits = assigner::cut(InputId(place), &listed.sources, slaves.len());
            readings.push(Reading::new(spec, listed, splits, readers.clone(), rules, now));
        }
        job.note(prepared.notes);
        job.report.state = State::Running;
        let names: Vec<_> = peers.iter().map(|p| p.name.as_str()).collect();
        job.note(experiment::at_start(&job.experiment, &names));
        let names: Vec<_> = peers.iter().map(|p| (p.id, p.name.clone())).collect();
        let mut driver = Driver::new(id, &job.plan, &names, &job.experiment);
        // How long runs take is never the same twice: bits that repeat need counts that do.
        if !job.reproducible {
            driver.tuners = Tuners::of(&job.plan, job.experiment.optimize, prepared.known);
        } else if job.plan.stages().iter().any(|stage| stage.threads.found()) {
            job.note(["with --reproducible no threads are tried: such stages have every slot".to_owned()]);
        }
        if job.reproducible {
            job.note(width::unrepeatable(&job.plan, slaves.len()));
        }
        driver.restarts = job.may_restart();
        let checkpoint = prepared.checkpoint.map(|found| {
            let (folder, place) = *found;
            driver.keeping = Some(job.keeping(&folder, place));
            folder
        });
        driver.spent = job.spent;
        driver.count_on(job.counted);
        driver.began = job.began;
        job.phase = Phase::Started(Box::new(Started {
            driver,
            // Opened right below.
            time: job.openings + 1,
            readings: Readings::new(readings, &job.plan, slaves.len()),
            opening: Default::default(),
            told_to_read: false,
            ready: BTreeMap::new(),
            searches: prepared.searches,
            checkpoint,
            stop: Default::default(),
            snapshot: None,
            lost: Vec::new(),
            slaves,
        }));
        self.open(id, now);
    }

    /// Asks a job's slaves to open it, for the first time or again.
    pub(super) fn open(&mut self, id: JobId, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let (name, params, plan_hash) = (job.name.clone(), job.params.clone(), job.plan_hash);
        let experiment = job.experiment.clone();
        job.openings += 1;
        let time = job.openings;
        let Some(started) = job.started() else { return };
        let slaves = started.slaves.clone();
        started.opening = slaves.iter().copied().collect();
        let asked = Asked::Open(time);
        tracing::info!(job = %id, slaves = slaves.len(), time, "job starts");
        self.log.push(&Record::Open { at: now.as_secs_f64(), job: id, slaves: slaves.clone() });
        let peers: Vec<_> = slaves.iter().filter_map(|s| self.slaves.peer(*s)).collect();
        for slave in slaves {
            let you = self.member(slave);
            let (name, params, slaves) = (name.clone(), params.clone(), peers.clone());
            let experiment = experiment.clone();
            match Packet::control(&ToSlave::Open { job: id, name, params, plan_hash, slaves, you, experiment }) {
                Ok(packet) => self.ask(id, slave, asked, &packet, OPEN_WITHIN),
                Err(e) => return self.fail(id, e, now),
            }
        }
    }
}

/// Which slaves have something of a job's stage, the best first: where it ran last, where tables live that are on one slave,
/// where the rows are that it takes.
fn near(job: &Job, stage: Option<&StageSpec>, last: Option<NearList>) -> Option<NearList> {
    let Phase::Started(started) = &job.phase else { return last };
    // On its only slave everything is near.
    let homes = if started.slaves.len() > 1 { started.driver.homes() } else { &[] };
    let alone = homes.iter().map(|home| home.members(started.slaves.len())).filter(|members| members.len() == 1);
    let models = alone.flatten().filter_map(|shard| Some((*started.slaves.get(shard as usize)?, Near::Model)));
    let input = stage.and_then(|stage| stage.input.or(stage.draws.map(|(input, _)| input)));
    let reading = input.and_then(|input| started.readings.get(input));
    let more: Vec<(SlaveId, Near)> = models.chain(reading.into_iter().flat_map(Reading::near)).collect();
    if more.is_empty() {
        return last;
    }
    let mut all: Vec<(SlaveId, Near)> = Vec::new();
    for (id, near) in last.iter().flat_map(|list| list.iter().copied()).chain(more) {
        if !all.iter().any(|(known, _)| *known == id) {
            all.push((id, near));
        }
    }
    Some(all.into())
}

/// What a job waits for.
enum Waits {
    /// At most: its stages that are ready, if any.
    Slots,
    Other(String),
    Never(Error),
}
