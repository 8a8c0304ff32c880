//! What is asked for, and what is answered.
//!
//! Invariants: an answer comes within [`ANSWER_WITHIN`] or is an error; a body is read up to [`BODY`] bytes within
//! [`BODY_WITHIN`], and only where one is wanted.

use super::answer::{self, Answer};
use super::feed::Feed;
use super::guard::Guard;
use super::metrics;
use crate::event::Event;
use crate::job::driver::panic_text;
use crate::master::overview::Overview;
use flexps_common::ids::JobId;
use flexps_common::job::Registry;
use flexps_common::scheduling::Scheduling;
use flexps_common::transport::Connection;
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_common::{Error, Result};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long the master may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a body.
const BODY: usize = 64 << 10;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("page.html");

/// See the module.
pub struct Api {
    pub registry: Registry,
    pub events: mpsc::UnboundedSender<Event>,
    pub feed: Feed,
    pub guard: Guard,
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
    #[serde(default)]
    scheduling: Scheduling,
    /// Splits are assigned in a fixed order.
    #[serde(default)]
    reproducible: bool,
    /// A number that the client made up: the same one again is the same job.
    #[serde(default = "rand::random")]
    token: u64,
}

impl Api {
    /// The answer to a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(refusal) = self.guard.refuses(request.method(), request.headers()) {
            return refusal;
        }
        match timeout(ANSWER_WITHIN + BODY_WITHIN, self.route(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => answer::failure(&e),
            Err(_) => answer::refusal(StatusCode::GATEWAY_TIMEOUT, "the master did not answer in time"),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ok = StatusCode::OK;
        let allowed = match (&method, parts.as_slice()) {
            (&Method::GET, [""]) => return Ok(page()),
            (&Method::GET, ["metrics"]) => {
                return Ok(answer::text(ok, metrics::KIND, metrics::text(&self.look().await?)));
            }
            (&Method::GET, ["api", "v1", "overview"]) => return Ok(answer::json(ok, &self.look().await?)),
            (&Method::GET, ["api", "v1", "events"]) => return Ok(self.feed.listen(&self.look().await?)),
            (&Method::GET, ["api", "v1", "jobs"]) => return Ok(answer::json(ok, &self.look().await?.jobs)),
            (&Method::GET, ["api", "v1", "slaves"]) => return Ok(answer::json(ok, &self.look().await?.slaves)),
            (&Method::GET, ["api", "v1", "queue"]) => return Ok(answer::json(ok, &self.look().await?.queue)),
            (&Method::GET, ["api", "v1", "kinds"]) => return Ok(answer::json(ok, &self.kinds())),
            (&Method::GET, ["api", "v1", "history"]) => return self.history(&query).await,
            (&Method::GET, ["api", "v1", "jobs", id]) => match id.parse() {
                Ok(id) => return self.job(id).await,
                Err(_) => "",
            },
            (&Method::POST, ["api", "v1", "jobs"]) => {
                let body = body(request.into_body()).await?;
                return self.submit(&body).await;
            }
            (&Method::POST, ["api", "v1", "jobs", id, "cancel"]) => match id.parse() {
                Ok(id) => return self.cancel(id).await,
                Err(_) => "",
            },
            (_, ["api", "v1", "jobs"]) => "GET, POST",
            (_, ["api", "v1", "jobs", _, "cancel"]) => "POST",
            (
                _,
                [""] | ["metrics"] | ["api", "v1", "overview" | "events" | "slaves" | "queue" | "kinds" | "history"],
            )
            | (_, ["api", "v1", "jobs", _]) => "GET",
            _ => "",
        };
        if allowed.is_empty() {
            return Ok(answer::refusal(StatusCode::NOT_FOUND, "there is nothing here; see / and /api/v1/overview"));
        }
        let why = format!("{method} is not allowed here, only {allowed}");
        let mut refusal = answer::refusal(StatusCode::METHOD_NOT_ALLOWED, &why);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        Ok(refusal)
    }

    /// The whole master at this moment.
    async fn look(&self) -> Result<Overview> {
        let (reply, overview) = oneshot::channel();
        self.events.send(Event::Look(reply)).map_err(|_| ending())?;
        overview.await.map_err(|_| ending())
    }

    /// A client's message.
    async fn ask(&self, message: ToMaster) -> Result<FromMaster> {
        let (reply, answer) = oneshot::channel();
        // Connections are told apart for slaves alone, which don't come this way.
        self.events.send(Event::Request(Connection(u64::MAX), Box::new(message), reply)).map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// The jobs that can be submitted.
    fn kinds(&self) -> Vec<Value> {
        self.registry.kinds().map(|kind| serde_json::json!({ "name": kind.name, "about": kind.about })).collect()
    }

    async fn job(&self, job: JobId) -> Result<Answer> {
        let news = match self.ask(ToMaster::Watch { job, seen: 0, wait_ms: 0 }).await {
            Ok(FromMaster::Progress(news)) => news,
            Ok(other) => return Err(unexpected(&other)),
            Err(e) => return Ok(answer::refusal(StatusCode::NOT_FOUND, &e.message)),
        };
        let report = RawValue::from_string(news.report).map_err(|e| Error::bug(format!("a report: {e}")))?;
        let stage = news
            .stage
            .map(|(name, threads, epoch)| serde_json::json!({ "name": name, "threads": threads, "epoch": epoch }));
        #[derive(serde::Serialize)]
        struct News<'a> {
            version: u64,
            waiting: Option<&'a str>,
            stage: Option<Value>,
            reading: bool,
            report: &'a RawValue,
        }
        let waiting = news.waiting.as_deref();
        let (version, reading) = (news.version, news.reading);
        Ok(answer::json(StatusCode::OK, &News { version, waiting, stage, reading, report: &report }))
    }

    /// Records from number `from` on, or the last ones.
    async fn history(&self, query: &str) -> Result<Answer> {
        let number = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.map(|text| text.parse::<u64>().map_err(|_| Error::user(format!("{name}={text} is no number"))))
        };
        let from = match (number("from").transpose()?, number("last").transpose()?) {
            (Some(from), _) => from,
            (None, Some(last)) => self.look().await?.next_record.saturating_sub(last),
            (None, None) => 0,
        };
        match self.ask(ToMaster::History { from }).await? {
            FromMaster::History { lines, next } => {
                let body = format!("{{\"next\":{next},\"records\":[{}]}}", lines.join(","));
                Ok(answer::text(StatusCode::OK, "application/json", body))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn submit(&self, body: &[u8]) -> Result<Answer> {
        let submitted: Submitted =
            serde_json::from_slice(body).map_err(|e| Error::user(format!("the body is no submission: {e}")))?;
        let kind = *self.registry.kind(&submitted.job)?;
        let derive = || {
            let job = kind.from_flags(&submitted.params)?;
            Ok::<_, Error>((job.params()?, self.registry.plan(&*job)?.hash()))
        };
        let (params, plan_hash) = catch_unwind(AssertUnwindSafe(derive)).unwrap_or_else(|panic| {
            Err(Error::bug(format!("the plan of {} panicked: {}", kind.name, panic_text(&*panic))))
        })?;
        let Submitted { scheduling, reproducible, token, .. } = submitted;
        let (name, experiment) = (kind.name.to_owned(), Default::default());
        let message = ToMaster::Submit { name, params, plan_hash, reproducible, token, scheduling, experiment };
        match self.ask(message).await? {
            FromMaster::Submitted(id) => Ok(answer::json(StatusCode::CREATED, &serde_json::json!({ "id": id }))),
            other => Err(unexpected(&other)),
        }
    }

    async fn cancel(&self, job: JobId) -> Result<Answer> {
        match self.ask(ToMaster::Cancel { job }).await {
            Ok(_) => Ok(answer::json(StatusCode::ACCEPTED, &serde_json::json!({ "id": job }))),
            Err(e) => Ok(answer::refusal(StatusCode::NOT_FOUND, &e.message)),
        }
    }
}

/// The page. Its script and style are its own: a number that is never used twice tells them from what else might get in.
fn page() -> Answer {
    let once = format!("{:032x}", rand::random::<u128>());
    let mut page = answer::text(StatusCode::OK, "text/html; charset=utf-8", PAGE.replace("{once}", &once));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{once}'; style-src 'nonce-{once}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    page
}

async fn body(body: Incoming) -> Result<Vec<u8>> {
    let read = timeout(BODY_WITHIN, Limited::new(body, BODY).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(e)) => Err(Error::user(format!("the body can't be read, at most {BODY} bytes are taken: {e}"))),
        Err(_) => Err(Error::user(format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()))),
    }
}

fn ending() -> Error {
    Error::cluster("the master is ending").retryable()
}

fn unexpected(answer: &FromMaster) -> Error {
    Error::bug(format!("the master answered with {answer:?}"))
}
