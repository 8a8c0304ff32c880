//! Answers, with the headers that every one of them has.
//!
//! Invariant: a browser that shows an answer runs and loads nothing but what the page brings itself, and no other page may
//! frame or read it.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;

/// A body: at once, or piece by piece.
type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;
/// An answer.
pub type Answer = Response<Body>;

/// An answer of this kind.
pub fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let length = body.len();
    let mut answer = streamed(kind, stream::once(std::future::ready(body)).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    answer
}

/// An answer that comes piece by piece.
pub fn streamed(kind: &'static str, pieces: BoxStream<'static, Bytes>) -> Answer {
    let mut answer = Response::new(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))).boxed()));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A value as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => text(status, "application/json", body),
        Err(e) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("an answer as JSON: {e}")),
    }
}

/// Why a request is not carried out.
pub fn refusal(status: StatusCode, why: &str) -> Answer {
    json(status, &serde_json::json!({ "error": why }))
}
