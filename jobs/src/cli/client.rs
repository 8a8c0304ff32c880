//! The client's half of the conversation with a master, remote or in this process: what it asks and steers is the API below
//! `/api/v1`, carried over the connection.
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
use flexps_common::wire::api::{self, HistoryPage, JobNews, Request};
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_common::wire::snapshot::{Moment, Wanted};
use flexps_common::{Error, Result};
use flexps_master::Overview;
use flexps_master::history::Record;
use serde_json::json;
use std::time::Duration;

/// How long a master may take to answer, beside what it is told to wait.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to save a model.
const SAVE_DEADLINE: Duration = Duration::from_secs(600);

/// A job that this client submitted. With its token it is told from one of the same identity that a later master may have.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// Its identity.
    pub id: JobId,
    /// What the client made up for it.
    pub token: u64,
}

/// A job to be submitted. However often it is, the master makes one job of it, which its token tells it.
#[derive(Debug)]
pub struct Submission {
    token: u64,
    request: ToMaster,
}

impl Submission {
    /// Of this job, with a token of its own.
    pub fn new(
        job: &dyn DynJob,
        reproducible: bool,
        scheduling: Scheduling,
        experiment: Experiment,
        detached: bool,
    ) -> Result<Self> {
        let token = rand::random();
        let request = ToMaster::Submit {
            name: job.name().to_owned(),
            params: job.params()?,
            plan_hash: job.plan()?.hash(),
            reproducible,
            token,
            scheduling,
            experiment,
            detached,
        };
        Ok(Self { token, request })
    }
}

/// A way to a master.
pub struct Client {
    channel: Channel,
    address: String,
}

/// What a master recorded: of its slaves all, of jobs and stage runs the newest.
#[derive(Debug, Default)]
pub struct History {
    /// A line of JSON each.
    lines: Vec<String>,
    /// Older records of jobs and stage runs, which are not in its memory any more.
    pub missing: u64,
}

impl History {
    /// As in a file.
    pub fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
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

    /// Submits a job, to be followed or left to the master.
    pub async fn submit(
        &self,
        job: &dyn DynJob,
        reproducible: bool,
        scheduling: Scheduling,
        experiment: Experiment,
        detached: bool,
    ) -> Result<Own> {
        self.hand_in(&Submission::new(job, reproducible, scheduling, experiment, detached)?).await
    }

    /// Hands a submission in, also one that may have reached the master before.
    pub async fn hand_in(&self, submission: &Submission) -> Result<Own> {
        match self.ask(&submission.request, DEADLINE).await? {
            FromMaster::Submitted(id) => Ok(Own { id, token: submission.token }),
            other => Err(unexpected("a submission", &other)),
        }
    }

    /// News of a job of this client: as soon as there are some after version `seen`, or it has ended, or after `wait`.
    pub async fn watch(&self, job: Own, seen: u64, wait: Duration) -> Result<JobNews> {
        let Own { id, token } = job;
        let path = format!("jobs/{id}?token={token}&seen={seen}&wait_ms={}", wait.as_millis());
        api::read(&self.api(Request::get(path)).await?)
    }

    /// Saves the model of a running job; gives the moment that it is of.
    pub async fn snapshot(&self, job: JobId, path: &DataPath, overwrite: bool) -> Result<Moment> {
        let request = ToMaster::Snapshot(Wanted { job, path: path.0.clone(), overwrite });
        match self.ask(&request, SAVE_DEADLINE).await? {
            FromMaster::Snapshot(moment) => Ok(moment),
            other => Err(unexpected("a snapshot", &other)),
        }
    }

    /// Asks for a job's end; with a token only of the one that was submitted with it.
    pub async fn cancel(&self, job: JobId, token: Option<u64>) -> Result<()> {
        let query = token.map_or_else(String::new, |token| format!("?token={token}"));
        self.api(Request::post(format!("jobs/{job}/cancel{query}"), &json!({}))?).await?;
        Ok(())
    }

    /// A document of the API as the master wrote it.
    pub async fn document(&self, path: &str) -> Result<String> {
        self.api(Request::get(path)).await
    }

    /// The whole master at this moment.
    pub async fn overview(&self) -> Result<Overview> {
        api::read(&self.document("overview").await?)
    }

    /// Lets another policy decide from now on.
    pub async fn set_policy(&self, policy: &str) -> Result<()> {
        self.api(Request::post("policy", &json!({ "policy": policy }))?).await?;
        Ok(())
    }

    /// What the master had recorded when it was asked, and little more: it may record as fast as it is read.
    pub async fn history(&self) -> Result<History> {
        let (mut history, mut from, mut end) = (History::default(), 0, None);
        loop {
            let page: HistoryPage = api::read(&self.document(&format!("history?from={from}")).await?)?;
            history.missing += page.first.saturating_sub(from);
            history.lines.extend(page.records.iter().map(|record| record.get().to_owned()));
            if page.next == from || page.next >= *end.get_or_insert(page.end) {
                return Ok(history);
            }
            from = page.next;
        }
    }

    /// The records of a history.
    pub fn read(&self, history: &History) -> Result<Vec<Record>> {
        let name = format!("the history of {}", self.address);
        Ok(flexps_master::history::read(&name, history.text().as_bytes())?.0)
    }

    /// The document that the API answers with.
    async fn api(&self, request: Request) -> Result<String> {
        match self.ask(&ToMaster::Api(request), DEADLINE).await? {
            FromMaster::Api(answer) => answer.document(),
            other => Err(unexpected("a request of the API", &other)),
        }
    }

    async fn ask(&self, request: &ToMaster, deadline: Duration) -> Result<FromMaster> {
        self.channel.ask(request, deadline).await
    }
}

fn unexpected(request: &str, answer: &FromMaster) -> Error {
    Error::bug(format!("the master answered {request} with {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::transport::{Connection, Packet, Service};
    use flexps_common::wire::api::Answer;
    use std::pin::Pin;
    use std::sync::Arc;

    /// A master of three records that answers with one of them, and records another one meanwhile.
    struct Busy;

    impl Service for Busy {
        fn call(
            &self,
            _: Connection,
            request: Packet,
        ) -> Pin<Box<dyn Future<Output = Result<Packet>> + Send + 'static>> {
            Box::pin(async move {
                let ToMaster::Api(request) = request.message()? else { return Err(Error::bug("no request")) };
                let from: u64 = request.path.rsplit('=').next().and_then(|from| from.parse().ok()).unwrap_or(0);
                let [next, end] = [1, 3].map(|more| from + more);
                let body = format!(r#"{{"first":0,"next":{next},"end":{end},"records":[{from}]}}"#);
                Packet::control(&FromMaster::Api(Answer { status: 200, body }))
            })
        }
    }

    #[tokio::test]
    async fn a_history_that_grows_as_fast_as_it_is_read_is_read_as_it_was_when_it_was_asked_for() {
        let network = Network::in_process();
        let _listener = network.listen("master", Arc::new(Busy)).await.unwrap();
        let read = Client::new(&network, "master");
        let read = tokio::time::timeout(DEADLINE, read.history()).await.expect("it ends").unwrap();
        assert_eq!((read.text().as_str(), read.missing), ("0\n1\n2\n", 0));
    }
}
