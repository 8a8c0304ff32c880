//! What HTTP alone serves, the page, metrics and events, and the way to the API.
//!
//! Invariants: nothing is done for a request that the guard refuses; a body is read up to [`BODY`] bytes within
//! [`BODY_WITHIN`], and only where one is wanted.

use super::answer::{self, Answer};
use super::feed::Feed;
use super::guard::Guard;
use super::metrics;
use crate::api::{self, ANSWER_WITHIN, Api};
use flexps_common::wire::api::{self as wire, BODY};
use flexps_common::{Error, Result};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("page.html");

/// See the module.
pub struct Pages {
    pub api: Arc<Api>,
    pub feed: Feed,
    pub guard: Guard,
}

impl Pages {
    /// The answer to a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(refusal) = self.guard.refuses(request.method(), request.headers()) {
            return refusal;
        }
        match timeout(ANSWER_WITHIN + BODY_WITHIN, self.route(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => of_api(api::failure(&e), ""),
            Err(_) => answer::refusal(StatusCode::GATEWAY_TIMEOUT, "the master did not answer in time"),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer> {
        let (asked, uri) = (request.method().clone(), request.uri().clone());
        // The head of an answer is that of the whole one; the server leaves the rest away.
        let method = if asked == Method::HEAD { Method::GET } else { asked.clone() };
        let path = uri.path().trim_matches('/');
        let text = |kind, text| Ok(answer::text(StatusCode::OK, kind, text));
        match (&method, path) {
            (&Method::GET, "") => Ok(page()),
            (&Method::GET, "metrics") => text(metrics::KIND, metrics::text(&self.api.look().await?)),
            (&Method::GET, "api/v1/events") => Ok(self.feed.listen(&self.api.look().await?)),
            (_, "" | "metrics" | "api/v1/events") => Ok(of_api(api::refused(asked.as_str(), "GET"), "GET")),
            (_, path) => {
                // There is nothing else.
                let path = path.strip_prefix("api/v1/").unwrap_or_default();
                let allowed = api::allowed(path);
                let wanted = method == Method::POST && allowed.contains("POST");
                let body = if wanted { body(request.into_body()).await? } else { String::new() };
                let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
                let request = wire::Request { method: method.to_string(), path, body };
                Ok(of_api(self.api.answer(&request).await, allowed))
            }
        }
    }
}

/// What the API answers, as HTTP says it of a path that takes these methods.
fn of_api(answer: wire::Answer, allowed: &'static str) -> Answer {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer::text(status, "application/json", answer.body);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    answer
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

async fn body(body: Incoming) -> Result<String> {
    let read = timeout(BODY_WITHIN, Limited::new(body, BODY).collect()).await;
    match read {
        Ok(Ok(body)) => {
            String::from_utf8(body.to_bytes().to_vec()).map_err(|e| Error::user(format!("the body is no JSON: {e}")))
        }
        Ok(Err(e)) => Err(Error::user(format!("the body can't be read, at most {BODY} bytes are taken: {e}"))),
        Err(_) => Err(Error::user(format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()))),
    }
}
