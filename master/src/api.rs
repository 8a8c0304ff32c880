//! The API below `/api/v1`: what is asked for, and what is answered, for whoever asks: a browser or script over HTTP, the
//! `flexps` command over its connection.
//!
//! Invariants: an answer comes within [`ANSWER_WITHIN`] or is an error; no request changes the master's state but through
//! its loop's events.

use crate::event::{Event, Waiter};
use crate::history::{Page, Start};
use crate::master::overview::Overview;
use crate::misplaced;
use flexps_common::checkpoint::Checkpoint;
use flexps_common::error::Fault;
use flexps_common::ids::JobId;
use flexps_common::job::Registry;
use flexps_common::scheduling::Scheduling;
use flexps_common::transport::Connection;
use flexps_common::wire::api::{Answer, BODY, JobNews, Request};
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_common::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long the master may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest that one request may wait for news of a job.
const LONGEST_WATCH: Duration = Duration::from_secs(5);

/// See the module.
pub struct Api {
    registry: Registry,
    events: mpsc::UnboundedSender<Event>,
}

/// A job that a client submits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submitted {
    /// Its name in the registry.
    job: String,
    /// Its parameters, named like its flags.
    #[serde(default)]
    params: serde_json::Map<String, Value>,
    /// When it is to run.
    #[serde(default, deserialize_with = "when")]
    scheduling: Scheduling,
    /// Splits are assigned in a fixed order.
    #[serde(default)]
    reproducible: bool,
    /// A number that the client made up: the same one again is the same job.
    #[serde(default = "rand::random")]
    token: u64,
}

/// When it is to run: what is not named is as on the command line, and what that refuses is refused here.
fn when<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Scheduling, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct When {
        priority: i32,
        user: String,
        queue: Option<String>,
        after: Vec<JobId>,
        deadline: Option<f64>,
        memory: Option<u64>,
        restarts: u32,
        slaves: Option<u32>,
        checkpoint: Option<Checkpoint>,
    }
    let When { priority, user, queue, after, deadline, memory, restarts, slaves, checkpoint } =
        When::deserialize(from)?;
    if let Some(time) = deadline.filter(|time| Duration::try_from_secs_f64(*time).is_err()) {
        return Err(D::Error::custom(format!("a deadline of {time} s; give seconds of 0 or more")));
    }
    if memory == Some(0) {
        return Err(D::Error::custom("no bytes of memory; give 1 or more, or null"));
    }
    let checkpoint = checkpoint.map(checked).transpose().map_err(D::Error::custom)?;
    if slaves == Some(0) {
        return Err(D::Error::custom("no slaves; give 1 or more, or null"));
    }
    Ok(Scheduling { priority, user, queue, after, deadline, memory, restarts, slaves, checkpoint })
}

/// A checkpoint as the command line takes it.
fn checked(wanted: Checkpoint) -> Result<Checkpoint> {
    let Checkpoint { folder, every } = wanted;
    let every = Checkpoint::spaced(every)?;
    let folder = folder.0.parse().map_err(|e: Error| e.context("the checkpoint's folder"))?;
    Ok(Checkpoint { folder, every })
}

/// Another policy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    policy: String,
}

impl Api {
    /// The API of a master whose loop takes these events.
    pub fn new(registry: Registry, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { registry, events }
    }

    /// The answer to a request.
    pub async fn answer(&self, request: &Request) -> Answer {
        match timeout(ANSWER_WITHIN, self.route(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => failure(&e),
            Err(_) => refusal(504, "the master did not answer in time"),
        }
    }

    async fn route(&self, request: &Request) -> Result<Answer> {
        let Request { method, path, body } = request;
        if body.len() > BODY {
            return Err(Error::user(format!("a body of {} bytes, at most {BODY} bytes are taken", body.len())));
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["overview"]) => Ok(json(200, &self.look().await?)),
            ("GET", ["jobs"]) => Ok(json(200, &self.ask(Event::Jobs).await?)),
            ("GET", ["slaves"]) => Ok(json(200, &self.ask(Event::Slaves).await?)),
            ("GET", ["queue"]) => Ok(json(200, &self.ask(Event::Queue).await?)),
            ("GET", ["kinds"]) => Ok(json(200, &self.kinds())),
            ("GET", ["history"]) => self.history(query).await,
            ("GET", ["jobs", id]) if let Ok(id) = id.parse() => self.job(id, query).await,
            ("POST", ["jobs"]) => self.submit(body).await,
            ("POST", ["jobs", id, "cancel"]) if let Ok(id) = id.parse() => self.cancel(id, query).await,
            ("POST", ["policy"]) => self.set_policy(body).await,
            _ => Ok(match allowed(path) {
                "" => refusal(404, "there is nothing here; see / and /api/v1/overview"),
                allowed => refused(method, allowed),
            }),
        }
    }

    /// The whole master at this moment.
    pub async fn look(&self) -> Result<Overview> {
        self.ask(Event::Look).await
    }

    /// What the master's loop answers to an event.
    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T> {
        let ending = || Error::cluster("the master is ending").retryable();
        let (reply, answer) = oneshot::channel();
        self.events.send(event(reply)).map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    /// The jobs that can be submitted.
    fn kinds(&self) -> Vec<Value> {
        self.registry.kinds().map(|kind| serde_json::json!({ "name": kind.name, "about": kind.about })).collect()
    }

    /// News of a job: at once, or as soon as there are some after version `seen`, or it has ended, or `wait_ms` are over. With a
    /// `token` only of the job that was submitted with it.
    async fn job(&self, job: JobId, query: &str) -> Result<Answer> {
        let seen = number(query, "seen")?.unwrap_or(0);
        let token = number(query, "token")?;
        let wait = Duration::from_millis(number(query, "wait_ms")?.unwrap_or(0)).min(LONGEST_WATCH);
        let news: Result<JobNews> = self.ask(|reply| Event::Watch(Waiter { job, token, seen, wait, reply })).await?;
        Ok(news.map_or_else(|e| refusal(404, &e.message), |news| json(200, &news)))
    }

    /// Records from number `from` on, or the last ones.
    async fn history(&self, query: &str) -> Result<Answer> {
        let start = match (number(query, "from")?, number(query, "last")?) {
            (None, Some(last)) => Start::Last(last),
            (from, _) => Start::At(from.unwrap_or(0)),
        };
        let Page { first, next, end, lines } = self.ask(|reply| Event::History(start, reply)).await?;
        let lines = lines.join(",");
        let body = format!("{{\"first\":{first},\"next\":{next},\"end\":{end},\"records\":[{lines}]}}");
        Ok(Answer { status: 200, body })
    }

    async fn submit(&self, body: &str) -> Result<Answer> {
        let submitted: Submitted =
            serde_json::from_str(body).map_err(|e| Error::user(format!("the body is no submission: {e}")))?;
        let kind = *self.registry.kind(&submitted.job)?;
        misplaced::check(&kind, &self.registry, submitted.params.keys())?;
        let job = kind.from_flags(&submitted.params)?;
        let (params, plan_hash) = (job.params()?, self.registry.plan(&*job)?.hash());
        let Submitted { scheduling, reproducible, token, .. } = submitted;
        let (name, experiment) = (kind.name.to_owned(), Default::default());
        let message =
            ToMaster::Submit { name, params, plan_hash, reproducible, token, scheduling, experiment, detached: true };
        // Connections are told apart for slaves alone, which don't come this way.
        let client = Connection(u64::MAX);
        match self.ask(|reply| Event::Request(client, Box::new(message), reply)).await?? {
            FromMaster::Submitted(id) => Ok(json(201, &serde_json::json!({ "id": id }))),
            other => Err(Error::bug(format!("the master answered a submission with {other:?}"))),
        }
    }

    async fn cancel(&self, job: JobId, query: &str) -> Result<Answer> {
        let token = number(query, "token")?;
        let known: Result<Option<String>> = self.ask(|reply| Event::Cancel(job, token, reply)).await?;
        Ok(match known {
            Ok(None) => json(202, &serde_json::json!({ "id": job })),
            Ok(Some(ended)) => refusal(409, &ended),
            Err(e) => refusal(404, &e.message),
        })
    }

    async fn set_policy(&self, body: &str) -> Result<Answer> {
        let Policy { policy } =
            serde_json::from_str(body).map_err(|e| Error::user(format!("the body names no policy: {e}")))?;
        let name = policy.clone();
        self.ask(|reply| Event::SetPolicy(name, reply)).await??;
        Ok(json(200, &serde_json::json!({ "policy": policy })))
    }
}

/// The methods that a path takes; none where there is nothing.
pub fn allowed(path: &str) -> &'static str {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["jobs"] => "GET, POST",
        ["policy"] => "POST",
        ["jobs", id, "cancel"] if JobId::from_str(id).is_ok() => "POST",
        ["overview" | "slaves" | "queue" | "kinds" | "history"] => "GET",
        ["jobs", id] if JobId::from_str(id).is_ok() => "GET",
        _ => "",
    }
}

/// A number of a query.
fn number(query: &str, name: &str) -> Result<Option<u64>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(|text| text.parse().map_err(|_| Error::user(format!("{name}={text} is no number")))).transpose()
}

/// A document.
fn json(status: u16, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => Answer { status, body },
        Err(e) => refusal(500, &format!("an answer as JSON: {e}")),
    }
}

/// Why a request is not carried out.
fn refusal(status: u16, why: &str) -> Answer {
    Answer { status, body: serde_json::json!({ "error": why }).to_string() }
}

/// The same, of a method.
pub fn refused(method: &str, allowed: &str) -> Answer {
    refusal(405, &format!("{method} is not allowed here, only {allowed}"))
}

/// The same, of an error.
pub fn failure(error: &Error) -> Answer {
    let status = match error.fault {
        Fault::User | Fault::Data => 400,
        _ if error.retry => 503,
        _ => 500,
    };
    refusal(status, &error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::misplaced::SCHEDULING;

    #[test]
    fn what_is_said_to_belong_into_scheduling_is_what_is_taken_there() {
        let error =
            serde_json::from_str::<Submitted>(r#"{"job":"x","scheduling":{"no":0}}"#).err().unwrap().to_string();
        let taken: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(taken, SCHEDULING, "{error}");
    }
}
