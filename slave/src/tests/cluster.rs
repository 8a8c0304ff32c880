//! Some slaves and a master that does what a test tells it.

use super::master::{Master, member};
use crate::node::{Handle, start};
use crate::options::Options;
use flexps_common::data::Schema;
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::home::{self, Home};
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun, TableId};
use flexps_common::job::Registry;
use flexps_common::plan::{Plan, TableOp};
use flexps_common::storage::Storage;
use flexps_common::transport::{Channel, Listener, Network, Packet};
use flexps_common::value::{Type, Values};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::control::{FromSlave, Launch, Outcome, ReadDone, Split, ToSlave};
use flexps_common::wire::kv::{KeyList, Origin, Section, Seen, ToShard};
use flexps_common::wire::moved::{Copies, MoveId, Sent};
use flexps_common::wire::packing::Packing;
use flexps_common::wire::slaves::Peer;
use flexps_common::wire::snapshot::{Boundary, Marked, ToKeeper};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// No wait of a test is longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Slaves with one job open.
pub struct Cluster {
    pub peers: Vec<Peer>,
    pub handles: Vec<Handle>,
    plan: Plan,
    control: Vec<Channel>,
    bulk: Vec<Channel>,
    done: mpsc::UnboundedReceiver<(SlaveId, StageRun, Outcome)>,
    read: mpsc::UnboundedReceiver<Result<ReadDone>>,
    runs: u64,
    /// Counts runs and operations.
    pub phase: std::sync::atomic::AtomicU64,
    /// Where the tables live, by table.
    pub homes: Mutex<Vec<Home>>,
    /// Whether a move was ordered that no launch has taken over.
    moved: AtomicBool,
    /// The copies that were ordered with it.
    pub copies: Mutex<Copies>,
    pub master: Arc<Master>,
    listener: Option<Listener>,
    network: Network,
}

const JOB: JobId = JobId(1);

impl Cluster {
    /// `slaves` slaves that have opened the job `name` with `params`.
    pub async fn open(registry: Registry, slaves: usize, name: &str, params: &str) -> Self {
        Self::open_with(registry, slaves, name, params, Experiment::default()).await
    }

    /// The same under an experiment.
    pub async fn open_with(
        registry: Registry,
        slaves: usize,
        name: &str,
        params: &str,
        experiment: Experiment,
    ) -> Self {
        let network = Network::in_process();
        let (send, done) = mpsc::unbounded_channel();
        let (send_read, read) = mpsc::unbounded_channel();
        let master = Arc::new(Master::new(send, send_read));
        let listener = network.listen("master", master.clone()).await.unwrap();
        let (mut peers, mut control, mut bulk, mut handles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for i in 1..=slaves {
            let options = Options {
                name: format!("h{i}"),
                host: format!("h{i}"),
                slots: 4,
                memory: None,
                cache_memory: 1 << 30,
                model_memory: None,
                cores: None,
                spill_dir: std::env::temp_dir(),
                master: "master".into(),
                control: format!("h{i} control"),
                bulk: format!("h{i} bulk"),
                storage: Storage::default(),
                log: Default::default(),
            };
            let handle = start(network.clone(), registry.clone(), options).await.unwrap();
            let id = handle.registered().await.unwrap();
            let registration = master.slaves.lock()[i - 1].clone();
            control.push(network.channel(&registration.control, &registration.name));
            bulk.push(network.channel(&registration.bulk, &registration.name));
            peers.push(Peer { id, name: registration.name, bulk: registration.bulk });
            handles.push(handle);
        }
        let plan = registry.job(name, params).unwrap().plan().unwrap();
        let listener = Some(listener);
        let homes = Mutex::new(vec![Home::All; plan.tables.len()]);
        let phase = AtomicU64::new(0);
        let cluster = Self {
            peers,
            handles,
            plan,
            control,
            bulk,
            done,
            read,
            runs: 0,
            phase,
            homes,
            moved: AtomicBool::new(false),
            copies: Mutex::default(),
            master,
            listener,
            network,
        };
        cluster.open_job(name, params, experiment).await;
        cluster
    }

    async fn open_job(&self, name: &str, params: &str, experiment: Experiment) {
        for (channel, peer) in self.control.iter().zip(&self.peers) {
            let open = ToSlave::Open {
                job: JOB,
                name: name.into(),
                params: params.into(),
                plan_hash: self.plan.hash(),
                slaves: self.peers.clone(),
                you: member(peer.id),
                experiment: experiment.clone(),
            };
            let _: FromSlave = channel.ask(&open, LIMIT).await.unwrap();
        }
    }

    /// The last slave is gone: the others open the job again. The splits that it had taken.
    pub async fn open_without_last(&mut self, name: &str, params: &str) -> Vec<Split> {
        let (Some(gone), Some(handle)) = (self.peers.pop(), self.handles.pop()) else { panic!("there is no slave") };
        self.control.pop();
        self.bulk.pop();
        let lost = self.master.lose(gone.id);
        handle.stop();
        handle.wait().await.unwrap();
        self.open_job(name, params, Experiment::default()).await;
        lost
    }

    /// Sends a message to each slave.
    pub async fn tell(&self, message: &ToSlave) -> Vec<Result<FromSlave>> {
        let asked: Vec<_> = self.control.iter().map(|c| c.start(Packet::control(message).unwrap(), LIMIT)).collect();
        let mut answers = Vec::new();
        for pending in asked {
            answers.push(pending.answer().await.and_then(|packet| packet.message()));
        }
        answers
    }

    /// Launches a stage with so many workers on each slave; settles the move before it, if there was one.
    pub async fn launch(&mut self, stage: u32, workers: &[u32]) -> StageRun {
        if self.moved.swap(false, Ordering::Relaxed) {
            let run = self.launch_open(stage, workers).await;
            self.settle(run).await;
            *self.copies.lock() = Copies::default();
            return run;
        }
        let launch = self.next_launch(stage, workers);
        self.tell(&ToSlave::Launch(launch)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
        StageRun(self.runs)
    }

    /// Launches a stage beside runs that go on, in the same phase.
    pub async fn launch_beside(&mut self, stage: u32, workers: &[u32], beside: &[StageRun]) -> StageRun {
        let phase = self.phase.load(Ordering::Relaxed);
        let launch = Launch { phase, beside: beside.to_vec(), ..self.next_launch(stage, workers) };
        self.tell(&ToSlave::Launch(launch)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
        StageRun(self.runs)
    }

    /// Launches a stage to which the model is still on its way: [`Cluster::settle`] follows.
    pub async fn launch_open(&mut self, stage: u32, workers: &[u32]) -> StageRun {
        let launch = Launch { homes: None, ..self.next_launch(stage, workers) };
        self.tell(&ToSlave::Launch(launch)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
        StageRun(self.runs)
    }

    /// The tables live where [`Cluster::homes`] says from now on.
    pub async fn settle(&self, run: StageRun) {
        let of = MoveId { job: JOB, phase: self.phase.load(Ordering::Relaxed) };
        let (homes, copies) = (self.homes.lock().clone(), self.copies.lock().clone());
        let message = ToSlave::Settle { of, run, homes, copies };
        self.tell(&message).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    }

    /// Like [`Cluster::launch`], one slave after the other with `pause` in between.
    pub async fn launch_in_turn(&mut self, stage: u32, workers: &[u32], pause: Duration) -> StageRun {
        let launch = ToSlave::Launch(self.next_launch(stage, workers));
        for channel in &self.control {
            let _: FromSlave = channel.ask(&launch, LIMIT).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        StageRun(self.runs)
    }

    fn next_phase(&self) -> u64 {
        self.phase.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn next_launch(&mut self, stage: u32, workers: &[u32]) -> Launch {
        self.runs += 1;
        let placed = self.peers.iter().zip(workers).filter(|(_, n)| **n > 0).map(|(peer, n)| (peer.id, *n));
        Launch {
            job: JOB,
            run: StageRun(self.runs),
            stage,
            epoch: 2,
            workers: placed.collect(),
            scalars: BTreeMap::from([("half".to_owned(), 0.5)]),
            phase: self.next_phase(),
            homes: Some(self.homes.lock().clone()),
            beside: Vec::new(),
        }
    }

    /// Like [`Cluster::settle`], one slave after the other with `pause` in between.
    pub async fn settle_in_turn(&self, run: StageRun, order: &[usize], pause: Duration) {
        let of = MoveId { job: JOB, phase: self.phase.load(Ordering::Relaxed) };
        let (homes, copies) = (self.homes.lock().clone(), self.copies.lock().clone());
        let message = ToSlave::Settle { of, run, homes, copies };
        for slave in order {
            let _: FromSlave = self.control[*slave].ask(&message, LIMIT).await.unwrap();
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks all slaves to keep their tables for a snapshot; what each did.
    pub async fn mark(&self, snapshot: u64, at: Option<Boundary>) -> Vec<Result<Marked>> {
        let answers = self.tell(&ToSlave::Snapshot(ToKeeper::Mark { job: JOB, snapshot, at })).await.into_iter();
        let marked = |answer| match answer {
            FromSlave::Marked(marked) => marked,
            other => panic!("{other:?}"),
        };
        answers.map(|answer: Result<FromSlave>| answer.map(marked)).collect()
    }

    /// Nobody reads the snapshot any more.
    pub async fn release(&self, snapshot: u64) {
        let message = ToSlave::Snapshot(ToKeeper::Release { job: JOB, snapshot });
        self.tell(&message).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    }

    /// Reads f32 values of a snapshot.
    pub async fn kept(&self, shard: u32, snapshot: u64, table: TableId, keys: Range<u32>) -> Result<Vec<f32>> {
        let (start, count) = (keys.start, keys.len() as u32);
        let request = Packet::control(&ToShard::Kept { job: JOB, snapshot, table, start, count }).unwrap();
        let answer = self.ask_shard(shard as usize, request).await?;
        let count = keys.len() * self.plan.tables[usize::from(table.0)].width as usize;
        let values = BodyReader::new(answer.body).values(Type::F32, count)?;
        let Values::F32(values) = values.get() else { panic!("no f32") };
        Ok(values.to_vec())
    }

    /// The outcome on each slave that has workers, by slave.
    pub async fn outcomes(&mut self, run: StageRun, workers: &[u32]) -> Vec<Outcome> {
        let mut found = BTreeMap::new();
        for _ in workers.iter().filter(|n| **n > 0) {
            let (slave, outcome) = self.next(run).await;
            assert!(found.insert(slave, outcome).is_none(), "{slave} ended twice");
        }
        found.into_values().collect()
    }

    /// The next outcome of any slave.
    pub async fn next_outcome(&mut self, run: StageRun) -> Outcome {
        self.next(run).await.1
    }

    async fn next(&mut self, run: StageRun) -> (SlaveId, Outcome) {
        let (slave, _, outcome) = self.next_of(&[run]).await;
        (slave, outcome)
    }

    /// The next outcome of any slave, which must be of one of these runs.
    pub async fn next_of(&mut self, runs: &[StageRun]) -> (SlaveId, StageRun, Outcome) {
        let next = tokio::time::timeout(LIMIT, self.done.recv()).await;
        let (slave, run, outcome) = next.expect("a stage hangs").unwrap();
        assert!(runs.contains(&run), "{run} ended");
        (slave, run, outcome)
    }

    /// Runs a stage; it must end well.
    pub async fn run(&mut self, stage: u32, workers: &[u32]) -> Vec<Outcome> {
        let run = self.launch(stage, workers).await;
        let outcomes = self.outcomes(run, workers).await;
        for outcome in &outcomes {
            assert_eq!(outcome.error, None);
        }
        outcomes
    }

    /// Cancels a stage run.
    pub async fn cancel(&self, run: StageRun) {
        self.tell(&ToSlave::CancelStage { job: JOB, run, reason: "cancelled by the test".into() }).await;
    }

    /// Runs table operations; the sum of each one's numbers.
    pub async fn ops(&self, ops: &[TableOp]) -> Vec<f64> {
        let mut sums = vec![0.0; ops.len()];
        let phase = self.next_phase();
        ops.iter().for_each(|op| home::after(&mut self.homes.lock(), op));
        for answer in self.tell(&ToSlave::Ops { job: JOB, phase, ops: ops.to_vec() }).await {
            let FromSlave::Numbers(numbers) = answer.unwrap() else { panic!("no numbers") };
            for (sum, parts) in sums.iter_mut().zip(numbers) {
                *sum += parts.into_iter().map(|(_, part)| part).sum::<f64>();
            }
        }
        sums
    }

    /// Moves the tables, to be taken over by the next launch; what each slave sent.
    pub async fn move_to(&self, homes: &[Home]) -> Vec<Result<Vec<Sent>>> {
        self.moved.store(true, Ordering::Relaxed);
        self.move_in(self.phase.load(Ordering::Relaxed) + 1, homes).await
    }

    /// Moves the tables to the stage that was launched without them.
    pub async fn move_behind(&self, homes: &[Home]) -> Vec<Result<Vec<Sent>>> {
        self.move_in(self.phase.load(Ordering::Relaxed), homes).await
    }

    /// Copies tables to these shards, for the next launch; what each slave sent.
    pub async fn copy_to(&self, tables: &[TableId], to: &[u32]) -> Vec<Result<Vec<Sent>>> {
        *self.copies.lock() = Copies { tables: tables.to_vec(), to: to.to_vec() };
        let homes = self.homes.lock().clone();
        self.move_to(&homes).await
    }

    async fn move_in(&self, phase: u64, homes: &[Home]) -> Vec<Result<Vec<Sent>>> {
        let of = MoveId { job: JOB, phase };
        let (mut sent, copies) = (Vec::new(), self.copies.lock().clone());
        for answer in self.tell(&ToSlave::Move { of, homes: homes.to_vec(), copies }).await {
            sent.push(answer.map(|answer| match answer {
                FromSlave::Sent(sent) => sent,
                other => panic!("{other:?}"),
            }));
        }
        if sent.iter().all(Result::is_ok) {
            *self.homes.lock() = homes.to_vec();
        }
        sent
    }

    /// Lets all slaves read an input; the splits come by [`Cluster::give`].
    pub async fn start_reading(&self, schema: Schema) {
        let read = ToSlave::Read { job: JOB, input: InputId(0), time: 1, schema };
        self.tell(&read).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    }

    /// Gives these splits out, and no others.
    pub fn give(&self, splits: Vec<Split>) {
        self.master.give(splits, true);
    }

    /// What the next slave that has read its part reports.
    pub async fn read_done(&mut self) -> Result<ReadDone> {
        tokio::time::timeout(LIMIT, self.read.recv()).await.expect("a reader hangs").unwrap()
    }

    /// The master is gone until [`Cluster::restart_master`].
    pub fn kill_master(&mut self) {
        self.listener = None;
    }

    /// The master is back.
    pub async fn restart_master(&mut self) {
        self.listener = Some(self.network.listen("master", self.master.clone()).await.unwrap());
    }

    pub async fn close(&self) {
        self.tell(&ToSlave::Close { job: JOB }).await;
    }

    /// Reads f32 values as the master does when it saves a model: chunk by chunk from the shard that serves it.
    pub async fn read(&self, table: TableId, keys: Range<u32>) -> Vec<f32> {
        let spec = &self.plan.tables[table.0 as usize];
        let (mut out, mut start) = (Vec::new(), keys.start);
        while start < keys.end {
            let chunk = start / spec.chunk_keys();
            let end = keys.end.min((chunk + 1) * spec.chunk_keys());
            let owner = self.homes.lock()[usize::from(table.0)].owner(chunk.into(), self.peers.len());
            out.extend(self.read_at(owner, table, start..end).await);
            start = end;
        }
        out
    }

    /// The same of one shard.
    pub async fn read_at(&self, shard: u32, table: TableId, keys: Range<u32>) -> Vec<f32> {
        let spec = &self.plan.tables[table.0 as usize];
        let range = KeyList::Range { start: keys.start, count: keys.len() as u32 };
        let (request, _) = self.master_request(table, range, keys.start / spec.chunk_keys(), None);
        let answer = self.bulk[shard as usize].call(request, LIMIT).await.unwrap();
        let mut body = BodyReader::new(answer.body);
        let values = body.values(Type::F32, keys.len() * spec.width as usize).unwrap();
        let Values::F32(values) = values.get() else { panic!("no f32") };
        values.to_vec()
    }

    /// Adds f32 values as the master does when it loads a model; the keys lie in one chunk.
    pub async fn load(&self, table: TableId, start: u32, values: &[f32]) -> Result<Packet> {
        let spec = &self.plan.tables[table.0 as usize];
        let range = KeyList::Range { start, count: values.len() as u32 / spec.width };
        let (request, shard) = self.master_request(table, range, start / spec.chunk_keys(), Some(values));
        self.bulk[shard].call(request, LIMIT).await
    }

    /// The master's request for keys of a chunk, and the shard that serves it.
    pub fn master_request(&self, table: TableId, keys: KeyList, chunk: u32, values: Option<&[f32]>) -> (Packet, usize) {
        let origin = Origin { job: JOB, run: StageRun(0), worker: 0, clock: 0 };
        let sections = vec![Section { table, element: Type::F32, keys, packing: Packing::Raw }];
        let mut body = BodyWriter::default();
        let request = match values {
            None => ToShard::Get { origin, sections, seen: Seen::default(), peek: true, packs: Vec::new() },
            Some(values) => {
                body.values(Values::F32(values));
                ToShard::Add { origin, sequence: 0, sections }
            }
        };
        let owner = self.homes.lock()[usize::from(table.0)].owner(chunk.into(), self.peers.len());
        (Packet::bulk(&request, body.finish()).unwrap(), owner as usize)
    }

    /// Sends a request to a shard.
    pub async fn ask_shard(&self, shard: usize, request: Packet) -> Result<Packet> {
        self.bulk[shard].call(request, LIMIT).await
    }
}
