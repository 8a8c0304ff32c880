//! The master's state and what each event does to it.
//!
//! Invariant: a slave that is gone is out of every list at once, and every job that used it fails or begins anew without
//! it; a job that has ended holds nothing but its report.

mod again;
mod books;
mod choices;
mod clients;
mod drive;
mod held;
pub mod overview;
mod place;
mod resumed;
mod snapshot;
mod waiting;

use crate::event::{Asked, Event};
use crate::history::{FORMAT, Log, Record, Telling};
use crate::job::driver::Event as Step;
use crate::job::{Job, Phase};
use crate::node::Options;
use crate::scheduler::Policy;
use crate::slaves::Slaves;
use books::Books;
use clients::Waiting;
use drive::KEPT_JOBS;
use flexps_common::error::Fault;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::job::Registry;
use flexps_common::storage::Storage;
use flexps_common::transport::{Connection, Network, Packet};
use flexps_common::wire::control::{FromMaster, FromSlave, HEARTBEAT_MS, ToMaster, ToSlave};
use flexps_common::wire::slaves::{Member, Registration};
use flexps_common::{Error, Result};
use overview::Counts;
use resumed::Away;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How long a master that is to end waits for its slaves.
const END_WITHIN: Duration = Duration::from_secs(12);
/// And, once its jobs have ended, for the questions of those who follow them.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Why a slave is gone that said so.
const LEFT: &str = "it left";

/// See the module.
pub struct Master {
    network: Network,
    registry: Registry,
    policy: Box<dyn Policy>,
    storage: Storage,
    /// The folder of what searches for threads found.
    searches: Option<PathBuf>,
    events: UnboundedSender<Event>,
    /// Made up at its start, so that nothing that is meant for another master reaches this one's jobs.
    number: u64,
    born: Instant,
    /// What the clock showed then: more than nothing where a history goes on.
    before: Duration,
    /// What it showed when the events came that are being handled.
    now: Duration,
    slaves: Slaves,
    jobs: BTreeMap<JobId, Job>,
    submitted: u64,
    /// Snapshots asked for so far.
    snapshots: u64,
    books: Books,
    log: Log,
    waiters: Vec<Waiting>,
    /// Jobs that somebody follows and has not heard the end of, and until when he is expected to ask again.
    followed: BTreeMap<JobId, Duration>,
    counts: Counts,
    /// Whether slots or ready stages changed since they were last matched.
    unplaced: bool,
    /// How many requests have no answer yet, by slave; none of one that is gone.
    asked: BTreeMap<SlaveId, usize>,
    stopping: Option<Duration>,
    /// When the last job ended.
    ended: Duration,
    /// Whether somebody was told of an end since it was told to end.
    told: bool,
    /// Slaves that are yet to come back, for jobs that were queued again.
    away: Option<Away>,
}

impl Master {
    /// A master without slaves and jobs.
    pub fn new(network: Network, registry: Registry, options: Options, events: UnboundedSender<Event>) -> Result<Self> {
        let Options { policy, storage, searches, shares, history, .. } = options;
        let mut told = Telling::new(KEPT_JOBS);
        let mut log = Log::open(history.as_deref(), |record| told.take(record))?;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (name, unix_ms) = (policy.name().to_owned(), unix.as_millis() as u64);
        let past = told.end(unix_ms);
        past.missing.iter().for_each(|record| log.push(record));
        log.push(&Record::Begin { format: FORMAT, policy: name, unix_ms, shares: shares.clone() });
        let mut master = Self {
            network,
            registry,
            policy,
            storage,
            searches,
            events,
            number: rand::random(),
            born: Instant::now(),
            before: past.now,
            now: past.now,
            slaves: Slaves::after(past.slaves),
            jobs: past.ended.into_iter().map(|job| (job.id, job)).collect(),
            submitted: past.jobs,
            snapshots: 0,
            books: Books::new(shares, past.estimates),
            log,
            waiters: Vec::new(),
            followed: BTreeMap::new(),
            counts: Counts::default(),
            unplaced: false,
            asked: BTreeMap::new(),
            stopping: None,
            ended: past.now,
            told: false,
            away: None,
        };
        master.queue_again(past.waiting, past.away);
        Ok(master)
    }

    /// Reads the clock. All that is handled and settled until the next time is of one moment: so a replay sees what was
    /// decided upon, whatever time deciding took.
    pub fn wake(&mut self) {
        self.now = self.before + self.born.elapsed();
    }

    /// Handles one event; what it makes possible starts in [`Master::settle`].
    pub fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Request(from, message, reply) => self.request(from, *message, reply, now),
            // A slave that is not known hears so at its next heartbeat.
            Event::Report(from, message) => _ = self.slave_message(from, *message, now),
            Event::Broken(connection) => self.slaves.broken(connection, now),
            Event::Prepared(job, result) => self.prepared(job, result, now),
            Event::Answer(job, slave, asked, result) => {
                self.asked.entry(slave).and_modify(|left| *left = left.saturating_sub(1));
                self.answered(job, slave, asked, result, now);
            }
            Event::Loaded(job, result) => self.step(job, Step::Loaded(result), now),
            Event::Saved(job, result) => self.saved(job, result, now),
            Event::Kept(job, result) => {
                if let Err(e) = result.as_ref()
                    && !(e.retry || e.fault == Fault::Cancelled)
                {
                    tracing::warn!(%job, "no checkpoint was written: {e}");
                }
                self.step(job, Step::Kept(result), now);
            }
            Event::Restored(job, result) => self.step(job, Step::Restored(result), now),
            // An error means that nobody waits for the answer any more.
            Event::Look(reply) => _ = reply.send(self.overview(now)),
            Event::Watch(waiter) => self.watch(waiter, now),
            Event::Cancel(job, token, reply) => _ = reply.send(self.cancel(job, token, now)),
            Event::Jobs(reply) => _ = reply.send(self.lines(now)),
            Event::Slaves(reply) => _ = reply.send(self.slaves.lines(now)),
            Event::Queue(reply) => _ = reply.send(self.queue(now)),
            Event::History(start, reply) => _ = reply.send(self.log.page(self.log.number(start))),
            Event::SetPolicy(policy, reply) => _ = reply.send(self.set_policy(&policy, now)),
            Event::Tick => self.tick(now),
            Event::Stop => self.stop(now),
        }
    }

    /// Starts what fits after the events so far.
    pub fn settle(&mut self) {
        while std::mem::take(&mut self.unplaced) {
            self.place(self.now);
        }
    }

    /// Whether it was told to end and has.
    pub fn stopped(&self) -> bool {
        let told = || self.followed.is_empty() || self.now > self.ended + TOLD_WITHIN;
        let over = || {
            self.asked.values().all(|left| *left == 0)
                && self.jobs.values().all(|j| matches!(j.phase, Phase::Ended))
                && told()
        };
        self.stopping.is_some_and(|until| over() || self.now > until)
    }

    /// Whether an answer about a job that it ended may still be on its way.
    pub fn told(&self) -> bool {
        self.told
    }

    fn tick(&mut self, now: Duration) {
        for (id, why) in self.slaves.gone(now) {
            self.gone(id, &why, now);
        }
        let ending: Vec<JobId> =
            self.jobs.iter_mut().filter_map(|(id, j)| j.started()?.driver.ending().then_some(*id)).collect();
        for job in ending {
            self.step(job, Step::Tick, now);
        }
        self.look_for_slaves(now);
        self.try_again(now);
        self.news(now);
        self.log.flush();
    }

    fn stop(&mut self, now: Duration) {
        self.stopping.get_or_insert(now + END_WITHIN);
        self.followed.retain(|_, until| now < *until);
        let mut error = Error::cancelled();
        error.message = "the master was told to end".to_owned();
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.fail(job, error.clone(), now);
        }
    }

    /// A slave is gone, whoever noticed.
    fn gone(&mut self, id: SlaveId, why: &str, now: Duration) {
        let before = self.candidates();
        let Some(slave) = self.slaves.remove(id) else { return };
        self.asked.remove(&id);
        let called = slave.called(id);
        tracing::warn!(slave = %id, name = slave.registration.name, why, "slave is gone");
        self.books.gone(id, now);
        self.counts.slaves_lost += u64::from(why != LEFT);
        self.log.push(&Record::Gone { at: now.as_secs_f64(), slave: id });
        for job in self.jobs.iter().filter(|(_, j)| j.uses(id)).map(|(id, _)| *id).collect::<Vec<_>>() {
            let (error, anew) = self.without(job, (id, &slave), why, now);
            self.step(job, Step::Gone(id, error, anew), now);
        }
        self.refuse(&before, &format!("{called} is gone ({why})"), now);
        self.unplaced = true;
    }

    /// A run's slots on one slave are free; false when it had none. `failed` when its workers did not get to its end.
    fn give_back(&mut self, slave: SlaveId, job: JobId, run: StageRun, failed: bool, now: Duration) -> bool {
        let gave = self.slaves.give_back(slave, job, run);
        if gave {
            let ending = self.jobs.get_mut(&job).and_then(Job::started).is_some_and(|s| s.driver.ending());
            let cut = failed || ending;
            if let Some(record) = self.books.gave_back(job, run, slave, cut, now) {
                if let Record::Run { start, end, workers, .. } = &record {
                    let lasted = Duration::try_from_secs_f64(end - start).unwrap_or_default();
                    self.counts.ran(workers.iter().map(|(_, n)| n).sum(), lasted);
                }
                self.log.push(&record);
            }
            self.unplaced = true;
        }
        gave
    }

    /// Sends a message about a job to one slave; the answer comes back as an event.
    fn ask(&mut self, job: JobId, slave: SlaveId, asked: Asked, packet: &Packet, deadline: Duration) {
        let Some(to) = self.slaves.get(slave) else { return };
        let pending = match asked {
            // Only what goes wrong with them matters.
            Asked::Launch(_) | Asked::Order => to.control.tell(packet.clone(), deadline),
            _ => to.control.start(packet.clone(), deadline),
        };
        let events = self.events.clone();
        *self.asked.entry(slave).or_default() += 1;
        tokio::spawn(async move {
            let result = pending.answer().await.and_then(|packet| packet.message::<FromSlave>());
            // An error means that the master has ended.
            let _ = events.send(Event::Answer(job, slave, asked, result));
        });
    }

    /// Sends a message about a job to several slaves, encoded once.
    fn ask_all(
        &mut self,
        job: JobId,
        slaves: &[SlaveId],
        asked: Asked,
        message: &ToSlave,
        deadline: Duration,
    ) -> Result<()> {
        let packet = Packet::control(message)?;
        for slave in slaves {
            self.ask(job, *slave, asked, &packet, deadline);
        }
        Ok(())
    }

    /// A slave as it calls itself to this master.
    fn member(&self, id: SlaveId) -> Member {
        Member { master: self.number, id }
    }

    /// A message of a slave. One that is unknown, or means another master, is told so, and registers again.
    fn slave_message(&mut self, from: Connection, message: ToMaster, now: Duration) -> Result<FromMaster> {
        let Member { master, id } = match &message {
            ToMaster::Heartbeat { slave, .. }
            | ToMaster::Leave { slave }
            | ToMaster::NextSplit { slave, .. }
            | ToMaster::ReadDone { slave, .. }
            | ToMaster::StageDone { slave, .. } => *slave,
            _ => return Err(Error::bug("a client's message among those of slaves")),
        };
        let beat = if let ToMaster::Heartbeat { incarnation, .. } = message { Some(incarnation) } else { None };
        if master != self.number || !self.slaves.heard(id, from, beat, now) {
            return Ok(FromMaster::Unknown);
        }
        match message {
            ToMaster::Leave { .. } => self.gone(id, LEFT, now),
            ToMaster::NextSplit { job, input, time, read, .. } => {
                return self.next_split((job, time), id, input, read, now);
            }
            ToMaster::ReadDone { job, input, time, result, .. } => self.read_done((job, time), id, input, result, now),
            ToMaster::StageDone { job, run, outcome, .. } => {
                let first = self.give_back(id, job, run, outcome.error.is_some(), now);
                if let Some(job) = self.jobs.get_mut(&job) {
                    // A report whose answer was lost is told again.
                    job.sent += if first { outcome.bytes_sent } else { 0 };
                    let peak = &mut job.report.peak_memory_bytes;
                    *peak = outcome.peak_memory_bytes.max(*peak);
                }
                self.step(job, Step::StageDone(id, run, outcome), now);
            }
            _ => {}
        }
        Ok(FromMaster::Ok)
    }

    fn register(&mut self, registration: Registration, from: Connection, now: Duration) -> Result<FromMaster> {
        let (name, slots, memory) = (registration.name.clone(), registration.slots, registration.memory);
        let known = self.slaves.iter().map(|(id, _)| id).max();
        let Some((slave, replaced)) = self.slaves.register(registration.clone(), from, &self.network, now)? else {
            tracing::info!(name, "a slave has to wait: it is not known whether the one that had its name is gone");
            return Ok(FromMaster::Later(HEARTBEAT_MS));
        };
        // Identities only grow: one that asks again has an old one.
        let fresh = known.is_none_or(|known| slave > known);
        if let Some(old) = replaced {
            let same = self.slaves.get(old).is_some_and(|old| old.registration.same_process(&registration));
            let why = if same { "it had lost the master and dropped its jobs" } else { "a new process took its name" };
            self.gone(old, why, now);
        }
        tracing::info!(%slave, name, slots, "slave joined");
        if fresh {
            self.log.push(&Record::Slave { at: now.as_secs_f64(), slave, name: name.clone(), slots, memory });
        }
        self.came_back(&name);
        self.unplaced = true;
        Ok(FromMaster::Registered { slave: self.member(slave) })
    }
}
