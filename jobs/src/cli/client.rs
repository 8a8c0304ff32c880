//! The client's half of the conversation with a master, remote or in this process.
//!
//! Invariant: every wait has a deadline, and an error names the master's address.

use super::args::{Access, Remote};
use super::node;
use flexps_common::data::schema::DataPath;
use flexps_common::experiment::Experiment;
use flexps_common::ids::JobId;
use flexps_common::job::DynJob;
use flexps_common::scheduling::Scheduling;
use flexps_common::transport::{Channel, Network};
use flexps_common::wire::control::{FromMaster, JobLine, JobProgress, ToMaster};
use flexps_common::wire::slaves::SlaveLine;
use flexps_common::wire::snapshot::{Moment, Wanted};
use flexps_common::{Error, Result};
use flexps_master::history::Record;
use std::time::Duration;

/// How long a master may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to save a model.
const SAVE_DEADLINE: Duration = Duration::from_secs(600);

/// A way to a master.
pub struct Client {
    channel: Channel,
    address: String,
}

impl Client {
    /// The master at `address` of `network`.
    pub fn new(network: &Network, address: &str) -> Self {
        Self { channel: network.channel(address, "the master"), address: address.to_owned() }
    }

    /// The master at `address`, over sockets.
    pub fn connect(address: &str, access: &Access) -> Result<Self> {
        Ok(Self::new(&node::network(access, "client")?, address))
    }

    /// The master that the flags name.
    pub fn remote(remote: &Remote) -> Result<Self> {
        Self::connect(&remote.master, &remote.access)
    }

    /// Where the master listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Submits a job. A repeated message is recognised by its token, so one call makes one job.
    pub async fn submit(
        &self,
        job: &dyn DynJob,
        reproducible: bool,
        scheduling: Scheduling,
        experiment: Experiment,
    ) -> Result<JobId> {
        let request = ToMaster::Submit {
            name: job.name().to_owned(),
            params: job.params()?,
            plan_hash: job.plan()?.hash(),
            reproducible,
            token: rand::random(),
            scheduling,
            experiment,
        };
        match self.ask(&request, DEADLINE).await? {
            FromMaster::Submitted(id) => Ok(id),
            other => Err(unexpected("a submission", &other)),
        }
    }

    /// News of a job: as soon as there are some after version `seen`, or it has ended, or after `wait`.
    pub async fn watch(&self, job: JobId, seen: u64, wait: Duration) -> Result<JobProgress> {
        let request = ToMaster::Watch { job, seen, wait_ms: wait.as_millis() as u64 };
        match self.ask(&request, wait + DEADLINE).await? {
            FromMaster::Progress(progress) => Ok(*progress),
            other => Err(unexpected("a question for news", &other)),
        }
    }

    /// Saves the model of a running job; gives the moment that it is of.
    pub async fn snapshot(&self, job: JobId, path: &DataPath, overwrite: bool) -> Result<Moment> {
        let request = ToMaster::Snapshot(Wanted { job, path: path.0.clone(), overwrite });
        match self.ask(&request, SAVE_DEADLINE).await? {
            FromMaster::Snapshot(moment) => Ok(moment),
            other => Err(unexpected("a snapshot", &other)),
        }
    }

    /// Asks for a job's end.
    pub async fn cancel(&self, job: JobId) -> Result<()> {
        match self.ask(&ToMaster::Cancel { job }, DEADLINE).await? {
            FromMaster::Ok => Ok(()),
            other => Err(unexpected("a cancellation", &other)),
        }
    }

    /// All jobs, newest last.
    pub async fn jobs(&self) -> Result<Vec<JobLine>> {
        match self.ask(&ToMaster::Jobs, DEADLINE).await? {
            FromMaster::Jobs(jobs) => Ok(jobs),
            other => Err(unexpected("a question for jobs", &other)),
        }
    }

    /// All live slaves.
    pub async fn slaves(&self) -> Result<Vec<SlaveLine>> {
        match self.ask(&ToMaster::Slaves, DEADLINE).await? {
            FromMaster::Slaves(slaves) => Ok(slaves),
            other => Err(unexpected("a question for slaves", &other)),
        }
    }

    /// Lets another policy decide from now on.
    pub async fn set_policy(&self, policy: &str) -> Result<()> {
        match self.ask(&ToMaster::SetPolicy { policy: policy.to_owned() }, DEADLINE).await? {
            FromMaster::Ok => Ok(()),
            other => Err(unexpected("another policy", &other)),
        }
    }

    /// What the master recorded, a line of JSON each: of its slaves all, of jobs and stage runs the newest.
    pub async fn history(&self) -> Result<Vec<String>> {
        let (mut lines, mut from) = (Vec::new(), 0);
        loop {
            match self.ask(&ToMaster::History { from }, DEADLINE).await? {
                FromMaster::History { next, .. } if next == from && from > 0 => return Ok(lines),
                FromMaster::History { lines: more, next } => {
                    lines.extend(more);
                    if next == from {
                        return Ok(lines);
                    }
                    from = next;
                }
                other => return Err(unexpected("a question for the history", &other)),
            }
        }
    }

    /// The same, read.
    pub async fn records(&self) -> Result<Vec<Record>> {
        let lines = self.history().await?;
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        Ok(flexps_master::history::read(&format!("the history of {}", self.address), &text)?.0)
    }

    async fn ask(&self, request: &ToMaster, deadline: Duration) -> Result<FromMaster> {
        self.channel.ask(request, deadline).await
    }
}

fn unexpected(request: &str, answer: &FromMaster) -> Error {
    Error::bug(format!("the master answered {request} with {answer:?}"))
}
