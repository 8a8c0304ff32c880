//! How many stages a live master runs: 200 slaves of one slot in this process, each with real sockets to and from the master,
//! whose workers end at once; 200 jobs of 500 empty stages each. Prints a line of JSON per round of 100,000 stages: stages a
//! second, and the process's resident memory at its end, in MiB.
//!
//! Usage: `stages [POLICY [ROUNDS [SLAVES]]]` (prioritized, 3 rounds, 200 slaves).

use clap::Args;
use flexps_common::ids::JobId;
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Plan, Threads};
use flexps_common::scheduling::Scheduling;
use flexps_common::storage::Storage;
use flexps_common::transport::{Channel, Connection, Listener, Network, Options, Packet, Service};
use flexps_common::wire::api::{JobLine, Request};
use flexps_common::wire::control::*;
use flexps_common::wire::slaves::{Member, Registration};
use flexps_common::{Error, Result};
use flexps_master::scheduler::policy;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const JOBS: u64 = 200;
const STAGES: u64 = 500;
const DEADLINE: Duration = Duration::from_secs(60);

/// So many empty stages.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
struct Empty {
    #[arg(long)]
    stages: u64,
}

impl Job for Empty {
    const NAME: &'static str = "empty";
    const ABOUT: &'static str = "empty stages";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        plan.body.repeat(self.stages, |epoch| {
            epoch.stage("empty", |_| Ok(())).threads(Threads::Count(1));
        });
        Ok(())
    }
}

/// A slave whose workers end as soon as they are launched.
struct Idle {
    id: OnceLock<Member>,
    master: Channel,
}

impl Service for Idle {
    fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let answer = self.answer(request);
        Box::pin(async move { Packet::control(&answer?) })
    }
}

impl Idle {
    fn answer(&self, request: Packet) -> Result<FromSlave> {
        match request.message()? {
            ToSlave::Open { you, .. } => {
                self.id.get_or_init(|| you);
            }
            ToSlave::Launch(launch) => {
                let slave = *self.id.get().ok_or_else(|| Error::bug("launched before it was opened"))?;
                let outcome = Outcome::default();
                let done = ToMaster::StageDone { slave, job: launch.job, run: launch.run, outcome };
                tokio::spawn(self.master.tell(Packet::control(&done)?, DEADLINE).answer());
            }
            ToSlave::Ops { ops, .. } => return Ok(FromSlave::Numbers(vec![Vec::new(); ops.len()])),
            ToSlave::Move { .. } => return Ok(FromSlave::Sent(Vec::new())),
            _ => {}
        }
        Ok(FromSlave::Ok)
    }
}

fn network(role: &'static str) -> Network {
    Network::zeromq(Options::new(role))
}

/// A slave; it lives as long as its listener.
async fn slave(name: String, master: &str) -> Result<Listener> {
    let network = network("slave");
    let master = network.channel(master, "the master");
    let service = Idle { id: OnceLock::new(), master: master.clone() };
    let control = network.listen("127.0.0.1:0", Arc::new(service)).await?;
    let address = control.address().to_owned();
    let registration = Registration {
        host: name.clone(),
        name,
        slots: 1,
        cores: 1,
        own_cores: true,
        memory: None,
        control: address.clone(),
        bulk: address,
        pid: std::process::id(),
        incarnation: 1,
    };
    let FromMaster::Registered { slave } = master.ask(&ToMaster::Register(registration), DEADLINE).await? else {
        return Err(Error::bug("not registered"));
    };
    tokio::spawn(async move {
        let beat = ToMaster::Heartbeat { slave, incarnation: 1 };
        loop {
            // A master that does not answer has ended.
            let _: Result<FromMaster> = master.ask(&beat, DEADLINE).await;
            tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
        }
    });
    Ok(control)
}

async fn submit(client: &Channel, token: u64) -> Result<JobId> {
    let job = Empty { stages: STAGES };
    let mut plan = Plan::default();
    job.plan(&mut plan)?;
    let params = serde_json::to_string(&job).map_err(|e| Error::bug(e.to_string()))?;
    let submit = ToMaster::Submit {
        name: Empty::NAME.to_owned(),
        params,
        plan_hash: plan.hash(),
        reproducible: false,
        token,
        scheduling: Scheduling::default(),
        experiment: Default::default(),
        detached: false,
    };
    match client.ask(&submit, DEADLINE).await? {
        FromMaster::Submitted(id) => Ok(id),
        other => Err(Error::bug(format!("{other:?}"))),
    }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (name, rounds, slaves) =
        (arguments.first().map_or("prioritized", String::as_str), number(1, 3), number(2, 200));
    let options = flexps_master::Options {
        bind: "127.0.0.1:0".to_owned(),
        policy: policy(name)?,
        storage: Storage::default(),
        shares: Default::default(),
        history: None,
        searches: None,
        http: None,
    };
    let master = flexps_master::start(network("master"), Registry::new().with::<Empty>(), options).await?;
    let mut listeners = Vec::new();
    for i in 0..slaves {
        listeners.push(slave(format!("h{i}"), master.address()).await?);
    }
    let client = network("client").channel(master.address(), "the master");
    for round in 0..rounds {
        let since = Instant::now();
        let mut jobs = Vec::new();
        for i in 0..JOBS {
            jobs.push(submit(&client, round as u64 * JOBS + i + 1).await?);
        }
        loop {
            let FromMaster::Api(answer) = client.ask(&ToMaster::Api(Request::get("jobs")), DEADLINE).await? else {
                return Err(Error::bug("no list of jobs"));
            };
            let lines: Vec<JobLine> = answer.read()?;
            let of_round = || lines.iter().filter(|line| jobs.contains(&line.id));
            if let Some(failed) = of_round().find(|line| line.state.ended() && line.note.is_some()) {
                return Err(Error::bug(format!("{failed:?}")));
            }
            // Those that are no longer listed have ended long ago.
            if of_round().all(|line| line.state.ended()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rate = (JOBS * STAGES) as f64 / since.elapsed().as_secs_f64();
        println!(
            r#"{{"policy": "{name}", "slaves": {slaves}, "stages_a_second": {rate:.0}, "resident_mib": {:.1}}}"#,
            resident_mib()
        );
    }
    Ok(())
}
