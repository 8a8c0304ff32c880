//! The slave as a node: it registers, says that it lives, and serves its two listeners.
//!
//! Invariants: the loop owns the registration and decides about jobs, and nothing in it waits: what takes time runs as a
//! task or on a worker thread and answers itself, and what must follow it goes behind it among the job's orders; bulk
//! requests have a runtime of their own, so control never waits for them.

use crate::bulk::Bulk;
use crate::job::{OpenJob, Opening};
use crate::jobs::Jobs;
use crate::kv::Room;
use crate::memory;
use crate::moves;
use crate::options::Options;
use crate::orders::NO_PHASE;
use crate::reader::held::Held;
use crate::reader::{self, CacheRoom, Reader};
use crate::reports::report;
use crate::snapshots;
use crate::splits;
use crate::stage::launch::launch;
use crate::stage::pool::Pool;
use crate::stage::run::Run;
use flexps_common::background::Background;
use flexps_common::data::Schema;
use flexps_common::error::{Error, Fault, Result};
use flexps_common::home::Home;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::job::Registry;
use flexps_common::machine;
use flexps_common::plan::Plan;
use flexps_common::transport::{Channel, Connection, Listener, Network, Packet, Service};
use flexps_common::wire::control::{
    FromMaster, FromSlave, HEARTBEAT_MS, LEAST_PART, Launch, Outcome, SILENCE_MS, ToMaster, ToSlave,
};
use flexps_common::wire::moved::Copies;
use flexps_common::wire::slaves::{Member, Registration};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

/// How long the master may take for an answer to a heartbeat.
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(SILENCE_MS / 2);
/// Jobs are dropped when the master was silent for so long; tests don't wait so long.
pub const MASTER_LOST: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 60 });
/// Threads that serve bulk requests.
const BULK_THREADS: usize = 2;

/// A running slave. It goes on when the handle is dropped.
pub struct Handle {
    events: mpsc::UnboundedSender<Event>,
    state: watch::Receiver<State>,
}

/// Where a slave stands.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Registering,
    Registered(SlaveId),
    Ended(Result<()>),
}

type Reply = oneshot::Sender<Result<Packet>>;

enum Event {
    /// A request came to the control listener.
    Control(ToSlave, Reply),
    /// The master answered a registration or a heartbeat.
    Master(Result<FromMaster>),
    /// The owner of the handle wants it to end.
    Stop,
}

/// The control listener's service.
struct Control(mpsc::UnboundedSender<Event>);

impl Service for Control {
    fn call(&self, _from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let (reply, answer) = oneshot::channel();
        let sent = request.message().map(|message| self.0.send(Event::Control(message, reply)).is_ok());
        Box::pin(async move {
            match sent {
                Ok(true) => answer.await.unwrap_or_else(|_| Err(ended())),
                Ok(false) => Err(ended()),
                Err(e) => Err(e),
            }
        })
    }
}

fn ended() -> Error {
    Error::cluster("this slave is ending")
}

/// Why jobs are closed that a master began which knows this slave no more, or is another one. It may pass: if the master only
/// stood still, it takes the slave for gone as soon as that registers, and what may start over does.
pub(crate) fn unknown_there() -> Error {
    Error::cluster("the master has forgotten this slave").retryable()
}

/// Starts a slave: it listens when this returns, and registers at the master from then on; see [`Handle::registered`].
pub async fn start(network: Network, registry: Registry, options: Options) -> Result<Handle> {
    memory::give_back();
    let (events, receive) = mpsc::unbounded_channel();
    let jobs = Jobs::default();
    let bulk_runtime = Background::new("bulk", BULK_THREADS)?;
    let bulk = {
        // The listener serves on the runtime on which it was made.
        let (network, address) = (network.clone(), options.bulk.clone());
        let service = Arc::new(Bulk { jobs: jobs.clone(), memory: Arc::default() });
        let listen = async move { network.listen(&address, service).await };
        bulk_runtime
            .handle
            .spawn(listen)
            .await
            .map_err(|e| Error::bug(format!("the bulk listener did not start: {e}")))??
    };
    let control = network.listen(&options.control, Arc::new(Control(events.clone()))).await?;
    let registration = Registration {
        name: options.name.clone(),
        host: options.host.clone(),
        slots: options.slots,
        cores: options.cores.unwrap_or_else(machine::cores),
        own_cores: options.cores.is_some(),
        memory: options.memory,
        control: control.address().to_owned(),
        bulk: bulk.address().to_owned(),
        pid: std::process::id(),
        incarnation: incarnation(),
    };
    let (state, watch) = watch::channel(State::Registering);
    let room = Room::new(options.model_memory.unwrap_or(u64::MAX), &options.spill_dir);
    let cache = CacheRoom::of(options.cache_memory);
    let node = Node {
        master: network.channel(&options.master, "the master"),
        links: network.served_by_waiters()?,
        registry,
        options,
        jobs,
        pool: Arc::default(),
        room,
        cache,
        registration,
        id: None,
        asking: false,
        silent_since: None,
        events: events.clone(),
        state,
        _listeners: [control, bulk],
        _bulk_runtime: bulk_runtime,
    };
    tokio::spawn(node.run(receive));
    Ok(Handle { events, state: watch })
}

/// Differs from that of any other process that has or had the same name.
fn incarnation() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64).rotate_left(20) ^ u64::from(std::process::id())
}

impl Handle {
    /// Waits until the master has taken the slave; the identity that it got. An error when it ended before.
    pub async fn registered(&self) -> Result<SlaveId> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| *state != State::Registering).await.map(|state| state.clone());
        match reached {
            Ok(State::Registered(id)) => Ok(id),
            Ok(State::Ended(Err(e))) => Err(e),
            _ => Err(ended()),
        }
    }

    /// Asks the slave to leave the cluster and end; [`Handle::wait`] tells when it has.
    pub fn stop(&self) {
        // One that has ended needs no stop.
        let _ = self.events.send(Event::Stop);
    }

    /// Waits until the slave has ended: why, if it was not asked to.
    pub async fn wait(&self) -> Result<()> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| matches!(state, State::Ended(_))).await.map(|state| state.clone());
        match reached {
            Ok(State::Ended(result)) => result,
            _ => Ok(()),
        }
    }
}

struct Node {
    /// To other slaves, whose answers workers wait for.
    links: Network,
    registry: Registry,
    options: Options,
    master: Channel,
    jobs: Jobs,
    pool: Arc<Pool>,
    /// What the tables of all jobs may take.
    room: Arc<Room>,
    /// For rows of all jobs.
    cache: Arc<CacheRoom>,
    registration: Registration,
    /// As registered; none before, and after the master has forgotten this slave.
    id: Option<Member>,
    /// Whether a registration or a heartbeat is under way.
    asking: bool,
    /// Since when the master has not answered.
    silent_since: Option<Instant>,
    events: mpsc::UnboundedSender<Event>,
    state: watch::Sender<State>,
    _listeners: [Listener; 2],
    _bulk_runtime: Background,
}

impl Node {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Control(message, reply)) => self.control(message, reply),
                    Some(Event::Master(answer)) => {
                        if let Err(e) = self.heard_master(answer) {
                            break Err(e);
                        }
                    }
                    Some(Event::Stop) | None => break Ok(()),
                },
                _ = beat.tick() => self.beat(),
            }
        };
        if let Some(slave) = self.id {
            // Out of courtesy: a master that does not hear it notices the silence. First, so that what ends here is no failure of
            // its jobs.
            let _ = self.master.ask::<_, FromMaster>(&ToMaster::Leave { slave }, HEARTBEAT_DEADLINE).await;
        }
        self.jobs.close_all(&Error::cancelled().context("the slave ends"));
        let Self { state, _listeners, .. } = self;
        drop(_listeners);
        state.send_replace(State::Ended(result));
    }

    /// Registers, or says that the slave lives.
    fn beat(&mut self) {
        self.room.trim();
        self.jobs.untangle();
        if self.asking {
            return;
        }
        self.asking = true;
        let message = match self.id {
            Some(slave) => ToMaster::Heartbeat { slave, incarnation: self.registration.incarnation },
            None => ToMaster::Register(self.registration.clone()),
        };
        let (master, events) = (self.master.clone(), self.events.clone());
        tokio::spawn(async move {
            let answer = master.ask(&message, HEARTBEAT_DEADLINE).await;
            let _ = events.send(Event::Master(answer));
        });
    }

    /// An error when the slave can't be part of this cluster.
    fn heard_master(&mut self, answer: Result<FromMaster>) -> Result<()> {
        self.asking = false;
        let mut forgotten = false;
        let (name, address) = (&self.options.name, &self.options.master);
        match answer {
            Err(e) if self.id.is_none() && e.fault == Fault::User => return Err(e),
            Err(e) => {
                let since = *self.silent_since.get_or_insert_with(|| {
                    warn!(slave = %name, master = %address, error = %e, "the master does not answer; trying on");
                    Instant::now()
                });
                if since.elapsed() > MASTER_LOST {
                    self.jobs.close_all(&Error::cluster("the master is gone").retryable());
                    self.register_anew();
                }
                return Ok(());
            }
            Ok(FromMaster::Registered { slave }) => {
                let control = &self.registration.control;
                info!(slave = %name, id = %slave.id, master = %address, %control, "registered");
                // A master that had stood still may have opened some before it heard that this is another slave now.
                self.jobs.close_others(slave, &unknown_there());
                self.id = Some(slave);
                self.state.send_replace(State::Registered(slave.id));
            }
            Ok(FromMaster::Unknown) => {
                if self.id.take().is_some() {
                    forgotten = true;
                    warn!(slave = %name, master = %address, "the master does not know this slave; registering again");
                    self.jobs.close_all(&unknown_there());
                    self.state.send_replace(State::Registering);
                }
            }
            Ok(FromMaster::Later(_)) => {
                info!(slave = %name, master = %address, "waiting until the master knows whether another slave of this name lives");
            }
            Ok(_) => {}
        }
        if self.silent_since.take().is_some() {
            info!(slave = %name, master = %address, "the master answers again");
        }
        if forgotten {
            self.beat();
        }
        Ok(())
    }

    /// What ran here is gone, and a master that only stood still can't know: to it this is another slave from now on, so that
    /// it takes the old one for gone.
    fn register_anew(&mut self) {
        if self.id.take().is_some() {
            self.registration.incarnation = incarnation();
            self.state.send_replace(State::Registering);
        }
    }

    fn control(&mut self, message: ToSlave, reply: Reply) {
        // Who no longer waits for an answer needs none.
        let answer = |reply: Reply, result: Result<FromSlave>| {
            let _ = reply.send(result.and_then(|message| Packet::control(&message)));
        };
        let result = match message {
            ToSlave::Open { job, name, params, plan_hash, slaves, you, experiment } => self
                .plan(&name, &params, plan_hash)
                .and_then(|plan| self.open(Opening { id: job, name, plan, slaves, you, experiment })),
            ToSlave::Launch(launch) => self.launch(launch),
            ToSlave::Ops { job, phase, ops } => match self.jobs.find(job) {
                Ok(job) => {
                    let changed = job.clone();
                    let change = move || answer(reply, changed.ops(phase, &ops).map(FromSlave::Numbers));
                    return job.orders.push(phase, change);
                }
                Err(e) => Err(e),
            },
            ToSlave::Move { of, homes, copies } => match self.jobs.find(of.job) {
                Ok(job) => {
                    let sender = job.clone();
                    let send = move || answer(reply, moves::send(&sender, of, &homes, &copies).map(FromSlave::Sent));
                    return job.orders.start(send);
                }
                Err(e) => Err(e),
            },
            ToSlave::Settle { of, run, homes, copies } => match self.jobs.find(of.job) {
                Ok(job) if job.orders.are_left() || !job.settles_at_once() => {
                    self.settle_later(&job, of.phase, (run, homes, copies));
                    Ok(())
                }
                // At once, so that a launch behind it finds it done.
                Ok(job) => match job.runs.find(run) {
                    Some(run) => job.settle(&run, of.phase, &homes, &copies),
                    None => {
                        tokio::spawn(async move {
                            let run = job.runs.wait(run).await;
                            let settled = run.map_or(Ok(()), |run| job.settle(&run, of.phase, &homes, &copies));
                            answer(reply, settled.map(|()| FromSlave::Ok));
                        });
                        return;
                    }
                },
                Err(e) => Err(e),
            },
            ToSlave::Snapshot(message) => {
                let jobs = self.jobs.clone();
                tokio::spawn(async move { answer(reply, snapshots::hear(&jobs, message).await) });
                return;
            }
            ToSlave::CancelStage { job, run, reason } => self.jobs.find(job).map(|job| {
                let reason = Error::new(Fault::Cancelled, reason);
                match job.runs.find(run) {
                    Some(run) => run.cancel(reason),
                    // It may be launched among them.
                    None if job.orders.are_left() => {
                        let of = job.clone();
                        let cancel = move || {
                            if let Some(run) = of.runs.find(run) {
                                run.cancel(reason);
                            }
                        };
                        job.orders.push(NO_PHASE, cancel);
                    }
                    None => {}
                }
            }),
            ToSlave::Read { job, input, time, schema } => self.read(job, input, time, schema),
            ToSlave::Give { job, input, index, keep } => {
                let kept = self.jobs.find(job).and_then(|job| Ok(job.rows(input)?.give(index, keep)));
                return answer(reply, kept.map(FromSlave::Kept));
            }
            ToSlave::Facts { job, input, facts } => self.jobs.find(job).and_then(|job| job.learn(input, facts)),
            ToSlave::Close { job } => {
                self.jobs.close(job, &Error::cancelled());
                Ok(())
            }
        };
        answer(reply, result.map(|()| FromSlave::Ok));
    }

    fn plan(&self, name: &str, params: &str, plan_hash: u64) -> Result<Plan> {
        let plan = self.registry.plan(&*self.registry.job(name, params)?)?;
        if plan.hash() != plan_hash {
            return Err(Error::cluster(format!(
                "job {name} has plan {:016x} on slave {}, {plan_hash:016x} at the master; run the same build on both; a plan \
                 may depend on the job's parameters alone",
                plan.hash(),
                self.options.name
            )));
        }
        Ok(plan)
    }

    fn open(&self, opening: Opening) -> Result<()> {
        let before = self.jobs.find(opening.id);
        let job = OpenJob::new(opening, &self.links, self.registry.updates(), &self.room)?;
        self.jobs.insert(Arc::new(if let Ok(before) = before { job.after(&before) } else { job }));
        Ok(())
    }

    fn read(&self, id: JobId, input: InputId, time: u32, schema: Schema) -> Result<()> {
        let job = self.jobs.find(id)?;
        let options = reader::Options {
            room: self.cache.clone(),
            spill: self.options.spill_dir.clone(),
            ..reader::Options::new(&self.options.host)
        };
        let options = options.consumed(job.input(input)?.consumed);
        let (master, slave) = (self.master.clone(), job.member());
        let held = Arc::new(Held::new(LEAST_PART));
        let next_split = splits::asked_of(master, splits::Of { slave, job: id, input, time }, held.clone());
        let reader = Reader::start(options, schema, self.options.storage.clone(), held, next_split)?;
        let reader = Arc::new(reader);
        job.read(input, reader.clone())?;
        let (master, jobs) = (self.master.clone(), self.jobs.clone());
        tokio::spawn(async move {
            let result = reader.done().await;
            drop(reader);
            let message = ToMaster::ReadDone { slave, job: id, input, time, result };
            report(&tokio::runtime::Handle::current(), master, jobs, id, message);
        });
        Ok(())
    }

    /// Launches a stage run: at once, or behind what is left to be applied or done. The master has its answer then, so that an
    /// error is an outcome.
    fn launch(&self, message: Launch) -> Result<()> {
        let job = self.jobs.find(message.job)?;
        let at_once = !job.orders.are_left() && job.begins_at_once(&message.beside);
        let (run, phase) = (message.run, message.homes.as_ref().map_or(NO_PHASE, |_| message.phase));
        let (of, pool, log) = (job.clone(), self.pool.clone(), self.options.log.clone());
        let done = self.done(&job, run);
        let begin = move || launch(&of, &pool, message, log, done);
        if at_once {
            return begin();
        }
        let (called, failed) = (job.called(), self.done(&job, run));
        job.orders.push(phase, move || {
            if let Err(e) = begin() {
                failed(Outcome { error: Some(e.context(called)), ..Outcome::default() });
            }
        });
        Ok(())
    }

    /// A run's phase begins behind what is left to be done. The master has its answer then: an error is the run's, or where
    /// no worker here tells of it an outcome.
    fn settle_later(&self, job: &Arc<OpenJob>, phase: u64, (run, homes, copies): (StageRun, Vec<Home>, Copies)) {
        let (of, failed) = (job.clone(), self.done(job, run));
        let settle = move |of: &OpenJob, run: &Run| {
            if let Err(e) = of.settle(run, phase, &homes, &copies) {
                let e = e.context(of.called());
                run.cancel(e.clone());
                if !run.has_workers() {
                    failed(Outcome { error: Some(e), ..Outcome::default() });
                }
            }
        };
        job.orders.push(phase, move || match of.runs.find(run) {
            Some(run) => settle(&of, &run),
            None => drop(tokio::spawn(async move {
                if let Some(run) = of.runs.wait(run).await {
                    settle(&of, &run);
                }
            })),
        });
    }

    /// Tells the master how a stage run went here.
    fn done(&self, job: &OpenJob, run: StageRun) -> impl FnOnce(Outcome) + Send + 'static + use<> {
        let (master, jobs, runtime) = (self.master.clone(), self.jobs.clone(), tokio::runtime::Handle::current());
        let (slave, id) = (job.member(), job.id);
        move |outcome| report(&runtime, master, jobs, id, ToMaster::StageDone { slave, job: id, run, outcome })
    }
}
