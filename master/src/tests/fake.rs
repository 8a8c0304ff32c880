//! Scripted slaves, a job for them, and a client.

use crate::http;
use crate::node::{Handle, Options, start};
use crate::scheduler::policy;
use bytes::Bytes;
use clap::Args;
use flexps_common::data::{Facts, InputSpec, schema::DataPath};
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::{Metric, Metrics};
use flexps_common::model::WEIGHTS;
use flexps_common::pace::Pace;
use flexps_common::plan::{Flow, Plan, SaveSpec, SaveTensor, Threads};
use flexps_common::report::{CacheUse, DiskUse, FilterUse, PackUse, Report, SumUse};
use flexps_common::scheduling::Scheduling;
use flexps_common::storage::Storage;
use flexps_common::transport::{Channel, Connection, Listener, Network, Packet, Service};
use flexps_common::value::Type;
use flexps_common::wire::api::{Answer, JobNews, Request};
use flexps_common::wire::control::*;
use flexps_common::wire::kv::{FromShard, KeyList, ToShard};
use flexps_common::wire::slaves::{Member, Registration};
use flexps_common::{Error, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Nothing here may take longer.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Features of every input that the scripted slaves "read".
pub const FEATURES: u64 = 100_000;

/// A job of so many rounds of one stage.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct Rounds {
    #[arg(long, default_value_t = 1)]
    pub rounds: u64,
    #[arg(long, default_value_t = 0)]
    pub threads: u32,
    #[arg(long)]
    pub input: Option<String>,
    #[arg(long)]
    pub model: Option<String>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { rounds: 1, threads: 1, input: None, model: None }
    }
}

impl Job for Rounds {
    const NAME: &'static str = "rounds";
    const ABOUT: &'static str = "rounds of one stage";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let table = plan.table::<f32>("w", 1);
        let mut rows = None;
        if let Some(input) = &self.input {
            rows = Some(plan.input(InputSpec::new("input", vec![DataPath(input.clone())]))?);
        }
        let threads = Threads::Count(self.threads);
        plan.body.repeat(self.rounds, |epoch| {
            let stage = epoch.stage("work", |_| Ok(())).threads(threads);
            if let Some(rows) = rows {
                stage.input(rows);
            }
            epoch.decide(|p| {
                p.objective = Some(p.metric("work", "loss")?);
                p.set("nan", f64::NAN);
                Ok(Flow::Next)
            });
        });
        if let (Some(model), Some(rows)) = (&self.model, rows) {
            let tensors = vec![SaveTensor { name: WEIGHTS.to_owned(), table: table.id, keys: None, by_class: false }];
            plan.save(SaveSpec { path: DataPath(model.clone()), overwrite: false, tensors, input: rows.id });
        }
        Ok(())
    }
}

/// What a scripted slave does with a message: its answer, and what it tells the master afterwards.
pub type Reaction = (Result<FromSlave>, Vec<ToMaster>);
type Script = Arc<dyn Fn(Member, &ToSlave) -> Reaction + Send + Sync>;

/// A slave that does all it is told.
pub fn obey(me: Member, message: &ToSlave) -> Reaction {
    match message {
        ToSlave::Move { .. } => (Ok(FromSlave::Sent(Vec::new())), Vec::new()),
        ToSlave::Ops { ops, .. } => (Ok(FromSlave::Numbers(vec![Vec::new(); ops.len()])), Vec::new()),
        ToSlave::Launch(launch) if launch.workers.iter().any(|(id, _)| *id == me.id) => {
            (Ok(FromSlave::Ok), vec![done(me, launch, None)])
        }
        ToSlave::Read { job, input, time, .. } => {
            let facts = Facts { rows: 10, positives: 5, features: FEATURES, ..Facts::default() };
            let part = ReadDone { facts, bytes: 100, local_bytes: 90, ..ReadDone::default() };
            (
                Ok(FromSlave::Ok),
                vec![ToMaster::ReadDone { slave: me, job: *job, input: *input, time: *time, result: Ok(part) }],
            )
        }
        _ => (Ok(FromSlave::Ok), Vec::new()),
    }
}

/// The same, but that the workers of the jobs that are `held` end when they are told to, and not before.
pub fn until_cancelled(held: impl Fn(JobId) -> bool) -> impl Fn(Member, &ToSlave) -> Reaction {
    move |me, message| match message {
        ToSlave::Launch(launch) if held(launch.job) => (Ok(FromSlave::Ok), Vec::new()),
        ToSlave::CancelStage { job, run, .. } => {
            let launch = Launch {
                job: *job,
                run: *run,
                stage: 0,
                epoch: 0,
                workers: vec![(me.id, 1)],
                scalars: Default::default(),
                phase: 1,
                homes: Some(Vec::new()),
                beside: Vec::new(),
            };
            (Ok(FromSlave::Ok), vec![done(me, &launch, Some(Error::cancelled()))])
        }
        other => obey(me, other),
    }
}

/// The end of a slave's workers.
pub fn done(me: Member, launch: &Launch, error: Option<Error>) -> ToMaster {
    let mut metrics = Metrics::default();
    metrics.add("loss", Metric::Sum(0.25));
    let outcome = Outcome {
        raced: false,
        error,
        metrics,
        worker_seconds: 0.1,
        wait_seconds: 0.0,
        model_wait_seconds: 0.0,
        bytes_sent: 1,
        bytes_received: 2,
        rows: 3,
        pace: Pace::default(),
        tables: Vec::new(),
        model_disk: DiskUse::default(),
        cache: CacheUse::default(),
        sums: SumUse::default(),
        filter: FilterUse::default(),
        packed: PackUse::default(),
        log: Vec::new(),
        peak_memory_bytes: 1 << 40,
    };
    ToMaster::StageDone { slave: me, job: launch.job, run: launch.run, outcome }
}

struct Control {
    id: Arc<OnceLock<Member>>,
    master: Channel,
    script: Script,
    seen: Arc<Mutex<Vec<ToSlave>>>,
}

impl Service for Control {
    fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let message: ToSlave = request.message().unwrap();
        // A job may be opened before the answer to the registration is here.
        let me = match &message {
            ToSlave::Open { you, .. } => *self.id.get_or_init(|| *you),
            _ => *self.id.get().expect("a job was opened or the registration answered"),
        };
        let (answer, then) = (self.script)(me, &message);
        self.seen.lock().push(message);
        for message in then {
            let pending = self.master.start(Packet::control(&message).unwrap(), DEADLINE);
            tokio::spawn(pending.answer());
        }
        Box::pin(async move { Packet::control(&answer?) })
    }
}

/// Shards whose every value is `0.5`.
struct Shard(f32);

impl Service for Shard {
    fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let value = self.0;
        Box::pin(async move {
            let ToShard::Get { sections, peek: true, .. } = request.message()? else {
                return Err(Error::bug("not a range"));
            };
            let KeyList::Range { count, .. } = sections[0].keys else { return Err(Error::bug("not a range")) };
            assert_eq!(sections[0].element, Type::F32);
            let count = (count as usize).next_multiple_of(2);
            let values = vec![value; count];
            Packet::bulk(
                &FromShard::Values { shown: 0, packings: Vec::new() },
                Bytes::copy_from_slice(bytemuck::cast_slice(&values)),
            )
        })
    }
}

/// A scripted slave. When it is dropped, its connections break.
pub struct Fake {
    pub id: SlaveId,
    /// The same, as it calls itself to its master.
    pub me: Member,
    pub seen: Arc<Mutex<Vec<ToSlave>>>,
    _listeners: [Listener; 2],
    heart: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

impl Fake {
    /// Its heart stops, its connections stay.
    pub fn fall_silent(&self) {
        self.heart.abort();
    }

    /// Whether it was told something.
    pub fn saw(&self, what: impl Fn(&ToSlave) -> bool) -> bool {
        self.seen.lock().iter().any(what)
    }
}

/// A master and what reaches it.
pub struct Cluster {
    pub network: Network,
    pub master: Handle,
    pub client: Channel,
}

impl Cluster {
    pub async fn new() -> Self {
        Self::serving(None).await
    }

    /// One whose master serves pages.
    pub async fn serving(http: Option<http::Options>) -> Self {
        let network = Network::in_process();
        let options = Options {
            bind: "master".to_owned(),
            policy: policy("greedy").unwrap(),
            storage: Storage::default(),
            shares: Default::default(),
            searches: None,
            history: None,
            http,
        };
        let master = start(network.clone(), Registry::new().with::<Rounds>(), options).await.unwrap();
        let client = network.channel(master.address(), "the master");
        Self { network, master, client }
    }

    pub async fn ask(&self, message: ToMaster) -> Result<FromMaster> {
        tokio::time::timeout(DEADLINE, self.client.ask(&message, DEADLINE)).await.expect("the master answers in time")
    }

    pub fn registration(name: &str, slots: u32, incarnation: u64) -> Registration {
        Registration {
            name: name.to_owned(),
            host: name.to_owned(),
            slots,
            cores: slots,
            own_cores: true,
            memory: None,
            control: format!("{name}-control"),
            bulk: format!("{name}-bulk"),
            pid: incarnation as u32,
            incarnation,
        }
    }

    pub async fn slave(&self, name: &str, slots: u32) -> Fake {
        self.scripted(name, slots, 0.5, obey).await
    }

    pub async fn scripted(
        &self,
        name: &str,
        slots: u32,
        value: f32,
        script: impl Fn(Member, &ToSlave) -> Reaction + Send + Sync + 'static,
    ) -> Fake {
        self.registered(Self::registration(name, slots, 1), value, script).await
    }

    /// One that registers so.
    pub async fn registered(
        &self,
        registration: Registration,
        value: f32,
        script: impl Fn(Member, &ToSlave) -> Reaction + Send + Sync + 'static,
    ) -> Fake {
        let name = registration.name.clone();
        let (id, seen) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(Vec::new())));
        let master = self.network.channel(self.master.address(), "the master");
        let (script, control) = (Arc::new(script), master.clone());
        let service = Control { id: id.clone(), master: control, script, seen: seen.clone() };
        let control = self.network.listen(&format!("{name}-control"), Arc::new(service)).await.unwrap();
        let bulk = self.network.listen(&format!("{name}-bulk"), Arc::new(Shard(value))).await.unwrap();
        let answer = self.ask(ToMaster::Register(registration)).await;
        let Ok(FromMaster::Registered { slave }) = answer else { panic!("{answer:?}") };
        assert_eq!(*id.get_or_init(|| slave), slave);
        let heart = tokio::spawn(async move {
            loop {
                let beat = ToMaster::Heartbeat { slave, incarnation: 1 };
                let _: Result<FromMaster> = master.ask(&beat, DEADLINE).await;
                tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
            }
        });
        Fake { id: slave.id, me: slave, seen, _listeners: [control, bulk], heart }
    }

    pub async fn submit(&self, job: Rounds) -> Result<JobId> {
        self.submit_scheduled(job, Scheduling::default()).await
    }

    pub async fn submit_scheduled(&self, job: Rounds, scheduling: Scheduling) -> Result<JobId> {
        self.send(job, new_token(), scheduling).await
    }

    /// With the token of an earlier submission: a repeat of it.
    pub async fn submit_with(&self, job: Rounds, token: u64) -> Result<JobId> {
        self.send(job, token, Scheduling::default()).await
    }

    async fn send(&self, job: Rounds, token: u64, scheduling: Scheduling) -> Result<JobId> {
        let params = serde_json::to_string(&job).unwrap();
        let mut plan = Plan::default();
        Job::plan(&job, &mut plan).unwrap();
        let (name, plan_hash) = (Rounds::NAME.to_owned(), plan.hash());
        let experiment = Default::default();
        let submit = ToMaster::Submit {
            name,
            params,
            plan_hash,
            reproducible: false,
            token,
            scheduling,
            experiment,
            detached: false,
        };
        match self.ask(submit).await? {
            FromMaster::Submitted(id) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    /// What the API answers.
    pub async fn api(&self, request: Request) -> Answer {
        match self.ask(ToMaster::Api(request)).await.unwrap() {
            FromMaster::Api(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// A document of the API.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.api(Request::get(path)).await.read()
    }

    /// A request of the API that changes something.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Result<String> {
        self.api(Request::post(path, body)?).await.document()
    }

    /// Asks for a job's end.
    pub async fn cancel(&self, job: JobId) {
        self.post(&format!("jobs/{job}/cancel"), &serde_json::json!({})).await.unwrap();
    }

    /// Waits for news that are as wanted.
    pub async fn until(&self, job: JobId, wanted: impl Fn(&JobNews, &Report) -> bool) -> Report {
        let found = async {
            let mut seen = 0;
            loop {
                let news: JobNews = self.get(&format!("jobs/{job}?seen={seen}&wait_ms=1000")).await.unwrap();
                let report = &news.report;
                if wanted(&news, report) {
                    return news.report;
                }
                assert!(!report.state.ended(), "{report:?}");
                seen = news.version;
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("the job gets there in time")
    }

    /// The report of the job's end.
    pub async fn end(&self, job: JobId) -> Report {
        self.until(job, |_, report| report.state.ended()).await
    }
}

/// One that no other submission of this process has.
pub fn new_token() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A file of two rows.
pub fn rows(dir: &tempfile::TempDir) -> String {
    let path = dir.path().join("rows.libsvm");
    std::fs::write(&path, "+1 1:1 3:0.5\n-1 2:1\n").unwrap();
    path.to_string_lossy().into_owned()
}
