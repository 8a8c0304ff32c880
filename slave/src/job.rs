//! A job as one of its slaves has it open: plan, shard, links to the other slaves, rows, columns.
//!
//! Invariant: a stage run is finished when another begins that it does not go on beside: nothing of it is pending any more.
//! Homes change only while no run uses them.

use crate::draw;
use crate::kv::{Room, Shard};
use crate::orders::Orders;
use crate::reader::Reader;
use crate::runs::Runs;
use crate::scratch::Scratch;
use crate::stage::exchange::Told;
use crate::stage::link::Link;
use crate::stage::run::Run;
use crate::stage::staging::Staging;
use crate::stage::telling::Telling;
use flexps_common::data::Facts;
use flexps_common::data::drawn::Drawn;
use flexps_common::error::{Error, Result};
use flexps_common::experiment::Experiment;
use flexps_common::home::Home;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::plan::{Consistency, Plan, StageSpec, TableOp};
use flexps_common::transport::Network;
use flexps_common::updates::Updates;
use flexps_common::value::OwnedValues;
use flexps_common::wire::announced::Announced;
use flexps_common::wire::control::{Launch, Partials};
use flexps_common::wire::kv::ToShard;
use flexps_common::wire::moved::Copies;
use flexps_common::wire::slaves::{Member, Peer};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OnceCell, watch};

/// What a slave is told when a job begins.
pub struct Opening {
    /// The job.
    pub id: JobId,
    /// Its name in the registry.
    pub name: String,
    /// Its plan, derived here.
    pub plan: Plan,
    /// Its slaves, in shard order.
    pub slaves: Vec<Peer>,
    /// Which of them this is.
    pub you: Member,
    /// How it is to run, to see what comes of it.
    pub experiment: Experiment,
}

/// An open job.
pub struct OpenJob {
    /// Which.
    pub id: JobId,
    /// Its name in the registry.
    pub name: String,
    /// Its shard here.
    pub shard: Arc<Shard>,
    /// Chunks that came for it and are not taken over yet.
    pub staging: Staging,
    stages: Vec<StageSpec>,
    inputs: Vec<Input>,
    /// How it is to run, to see what comes of it.
    pub experiment: Experiment,
    slaves: Vec<Peer>,
    you: Member,
    /// By shard; none for this slave's own.
    links: Vec<Option<Link>>,
    /// Its stage runs.
    pub runs: Runs,
    /// What it is told to do beside the node's loop.
    pub orders: Orders,
    /// The stage of the last run, and its round from 1.
    pub launched: Mutex<(String, u64)>,
    telling: Telling,
    columns: Mutex<FxHashMap<(InputId, usize, String), OwnedValues>>,
    /// What workers left for later ones.
    pub scratch: Scratch,
}

/// One input of an open job.
pub struct Input {
    rows: OnceLock<Arc<Reader>>,
    facts: watch::Sender<Option<Facts>>,
    /// What the stages that draw from it get, and the share that they are to have.
    drawn: OnceCell<Arc<Drawn>>,
    share: Option<f64>,
    /// Whether a stage consumes the rows.
    pub consumed: bool,
    /// Which block of consumed rows is the next worker's.
    next: AtomicUsize,
}

impl Input {
    /// The block that is whoever asks for it; of consumed rows.
    pub fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Facts of the whole input; waits until every slave has read its part.
    pub async fn facts(&self) -> Result<Facts> {
        let mut facts = self.facts.subscribe();
        let known = facts.wait_for(Option::is_some).await.ok().and_then(|facts| facts.clone());
        known.ok_or_else(Error::cancelled)
    }
}

impl OpenJob {
    /// Opens a job with an empty shard.
    pub fn new(opening: Opening, network: &Network, updates: &Updates, room: &Arc<Room>) -> Result<Self> {
        let Opening { id, name, plan, slaves, you, experiment } = opening;
        let index = slaves.iter().position(|peer| peer.id == you.id);
        let index = index.ok_or_else(|| Error::bug(format!("slave {} is none of job {id}'s slaves", you.id)))?;
        let shard = Arc::new(Shard::new(&plan.tables, index as u32, slaves.len(), updates, room)?);
        let before = Run::new(StageRun(0), Consistency::Asp, shard.clone(), 0, []);
        before.settle(false);
        let delay = experiment.delays(&slaves[index].name);
        let (own, compress) = (&slaves[index].bulk, plan.compressed(experiment.compress)?);
        let link = |peer: &Peer| (peer.id != you.id).then(|| Link::new(network, peer, delay, compress, own));
        let stages: Vec<_> = plan.stages().into_iter().cloned().collect();
        let share =
            |input| stages.iter().filter_map(move |s| s.draws.filter(|(of, _)| *of == input)).map(|(_, share)| share);
        let input = |input| {
            let share = share(InputId(input)).reduce(f64::max);
            let consumed = stages.iter().any(|stage| stage.consumes && stage.input == Some(InputId(input)));
            Input {
                rows: OnceLock::new(),
                facts: watch::Sender::new(None),
                drawn: OnceCell::new(),
                share,
                consumed,
                next: AtomicUsize::new(0),
            }
        };
        Ok(Self {
            id,
            name,
            staging: Staging::default(),
            inputs: (0..plan.inputs.len() as u16).map(input).collect(),
            stages,
            links: slaves.iter().map(link).collect(),
            experiment,
            slaves,
            you,
            shard,
            runs: Runs::new(Arc::new(before)),
            orders: Orders::default(),
            launched: Mutex::default(),
            telling: Telling::start(),
            columns: Mutex::default(),
            scratch: Scratch::default(),
        })
    }

    /// The same job as it was open here `before`, with another list of slaves: the rows stay and are read on, runs count on.
    pub fn after(mut self, before: &Self) -> Self {
        for (input, read) in self.inputs.iter_mut().zip(&before.inputs) {
            input.rows.clone_from(&read.rows);
        }
        self.runs = self.runs.after(before.runs.last());
        before.runs.close(&Error::cancelled());
        self
    }

    /// The name of this slave.
    pub fn here(&self) -> &str {
        &self.slaves[self.shard.index() as usize].name
    }

    /// What errors call this slave.
    pub fn called(&self) -> String {
        self.slaves[self.shard.index() as usize].called()
    }

    /// The identity of this slave.
    pub fn you(&self) -> SlaveId {
        self.you.id
    }

    /// The same, as its master knows it.
    pub fn member(&self) -> Member {
        self.you
    }

    /// How many slaves it has.
    pub fn slaves(&self) -> usize {
        self.slaves.len()
    }

    /// A stage of the plan.
    pub fn stage(&self, stage: u32) -> Result<&StageSpec> {
        let stages = self.stages.len();
        let found = self.stages.get(stage as usize);
        found.ok_or_else(|| Error::bug(format!("stage {stage} of a plan of {stages} stages")))
    }

    /// The way to another slave's shard.
    pub fn link(&self, shard: u32) -> Result<&Link> {
        let link = self.links.get(shard as usize).and_then(Option::as_ref);
        link.ok_or_else(|| Error::bug(format!("no link to shard {shard} of job {}", self.id)))
    }

    /// Whether a stage run that goes on beside `beside` can begin at once: nothing is left to be applied before.
    pub fn begins_at_once(&self, beside: &[StageRun]) -> bool {
        let at_once = |run: &Arc<Run>| if beside.contains(&run.id) { !run.holds_back() } else { run.rests() };
        self.runs.all().iter().all(at_once)
    }

    /// Whether a run's phase can begin at once.
    pub fn settles_at_once(&self) -> bool {
        !self.runs.all().iter().any(|run| run.holds_back())
    }

    /// Begins a stage run: finishes those that it does not go on beside, which may take long. Where a move is under way,
    /// [`OpenJob::settle`] follows.
    pub fn begin(&self, launch: &Launch) -> Result<Arc<Run>> {
        let spec = self.stage(launch.stage)?;
        let own = launch.workers.iter().filter(|(slave, _)| *slave == self.you.id).map(|(_, n)| *n as usize).sum();
        let mut first = 0;
        let others = launch.workers.iter().map(|(slave, n)| {
            first += n;
            (*slave, first - n..first)
        });
        let others = others.filter(|(slave, _)| *slave != self.you.id);
        let last = self.runs.last();
        if launch.run <= last {
            return Err(Error::bug(format!("stage run {} follows {last}", launch.run)));
        }
        self.runs.check_open()?;
        self.runs.over(&launch.beside).iter().try_for_each(|run| self.finish(run))?;
        let run = Run::new(launch.run, spec.consistency, self.shard.clone(), own, others);
        let Experiment { slave_cache, sum_updates, .. } = self.experiment;
        let run = Arc::new(run.with(spec.rights(), slave_cache, sum_updates));
        *self.launched.lock() = (spec.name.clone(), launch.epoch + 1);
        self.runs.begin(run.clone(), &launch.beside)?;
        if let Some(homes) = &launch.homes {
            self.settle(&run, launch.phase, homes, &Copies::default())?;
        }
        Ok(run)
    }

    /// A run's phase begins, with the tables at `homes` and copies of some: its workers may use them. A move that is still
    /// under way is over.
    pub fn settle(&self, run: &Run, phase: u64, homes: &[Home], copies: &Copies) -> Result<()> {
        if run.check().is_err() {
            // Its error is on its way, and is the one that counts.
            return Ok(());
        }
        let copies = copies.at(self.shard.index());
        if let Some(table) = copies.iter().find(|table| !run.rights.reads.contains(table)) {
            return Err(Error::bug(format!("a copy of table {table} for a stage that may update it")));
        }
        self.staging.begin(&self.shard, phase, homes, copies)?;
        // There is no boundary of clocks for a snapshot any more that would be one of all that run.
        self.runs.all().iter().filter(|other| other.id != run.id).for_each(|other| other.give_up_mark());
        run.settle(self.experiment.races(run.consistency));
        Ok(())
    }

    /// Applies what is left of a run that is over everywhere.
    fn finish(&self, run: &Run) -> Result<()> {
        if !run.settled.is_settled() {
            // One that was cancelled as it began has changed nothing here.
            if run.check().is_err() {
                return Ok(());
            }
            return Err(Error::bug(format!("stage run {} of job {} is over and never began", run.id, self.id)));
        }
        run.finish()
    }

    /// Applies what is left of all stage runs, behind all that the job was told to do.
    pub async fn finish_all(&self) -> Result<()> {
        self.orders.done().await;
        self.runs.finish()
    }

    /// Stage run `id`; waits until it is settled here.
    pub async fn run(&self, id: StageRun) -> Result<Arc<Run>> {
        let run = self.runs.wait(id).await;
        let run = run.ok_or_else(|| Error::cluster(format!("stage run {id} of job {} is over", self.id)))?;
        run.settled.wait().await?;
        Ok(run)
    }

    /// Tells this slave's news to all other slaves that must hear it.
    pub fn tell(&self, run: &Arc<Run>, told: &Told) {
        let keys = told.news.keys.iter().map(|(clock, touches)| Announced::encode(*clock, touches));
        let announced: Result<Vec<_>> = keys.collect();
        for link in self.links.iter().flatten().filter(|link| run.is_heard_by(link.slave)) {
            let updates = told.updates.iter().find(|(slave, _)| *slave == link.slave).map_or(0, |(_, count)| *count);
            let (job, run_id, slave, clock) = (self.id, run.id, self.you.id, told.news.clock);
            let message = announced.clone().and_then(|announced| {
                link.tell(&ToShard::Clock { job, run: run_id, slave, clock, updates, announced })
            });
            match message {
                Ok((bytes, pending)) => {
                    run.told(bytes);
                    self.telling.push(run, pending);
                }
                Err(e) => run.cancel(e),
            }
        }
    }

    /// What was told and asked for leaves now. Not to be called within a runtime.
    pub fn flush(&self) {
        // One does it for all.
        if let Some(link) = self.links.iter().flatten().next() {
            link.flush();
        }
    }

    /// Runs table operations behind everything pending; the numbers of each.
    pub fn ops(&self, phase: u64, ops: &[TableOp]) -> Result<Vec<Partials>> {
        self.runs.all().iter().try_for_each(|run| self.finish(run))?;
        self.staging.begin_ops(&self.shard, phase);
        let numbers = self.shard.ops(ops)?;
        self.staging.end_ops();
        Ok(numbers)
    }

    /// One of the plan's inputs.
    pub fn input(&self, input: InputId) -> Result<&Input> {
        let found = self.inputs.get(usize::from(input.0));
        found.ok_or_else(|| Error::bug(format!("input {input} of a plan with {}", self.inputs.len())))
    }

    /// The rows of an input on this slave.
    pub fn rows(&self, input: InputId) -> Result<&Arc<Reader>> {
        let rows = self.input(input)?.rows.get();
        rows.ok_or_else(|| Error::bug(format!("input {input} of job {} is not being read", self.id)))
    }

    /// The rows for the stages that draw from an input; waits until they are here.
    pub async fn draw(&self, input: InputId) -> Result<Arc<Drawn>> {
        let of = self.input(input)?;
        let share = of.share.ok_or_else(|| Error::bug(format!("no stage draws from input {input}")))?;
        let drawn = of.drawn.get_or_try_init(|| async { draw::draw(self, input, share).await.map(Arc::new) });
        drawn.await.cloned()
    }

    /// From now on the input's rows are `rows`. An error when it has some.
    pub fn read(&self, input: InputId, rows: Arc<Reader>) -> Result<()> {
        let set = self.input(input)?.rows.set(rows);
        set.map_err(|_| Error::bug(format!("input {input} of job {} is read twice", self.id)))
    }

    /// The facts of a whole input are known.
    pub fn learn(&self, input: InputId, facts: Facts) -> Result<()> {
        self.input(input)?.facts.send_replace(Some(facts));
        Ok(())
    }

    /// Takes a column out of the slave's keeping.
    pub fn take_column(&self, input: InputId, at: usize, name: &str) -> Option<OwnedValues> {
        self.columns.lock().remove(&(input, at, name.to_owned()))
    }

    /// Puts a column into the slave's keeping.
    pub fn put_column(&self, input: InputId, at: usize, name: &str, column: OwnedValues) {
        self.columns.lock().insert((input, at, name.to_owned()), column);
    }

    /// Fails its stage runs in which nobody can go on any more.
    pub fn untangle(&self) {
        self.runs.all().iter().for_each(|run| run.untangle());
    }

    /// The job ended: workers and readers stop.
    pub fn close(&self, reason: &Error) {
        self.runs.close(reason);
        self.inputs.iter().filter_map(|input| input.rows.get()).for_each(|rows| rows.cancel(reason.clone()));
    }
}
