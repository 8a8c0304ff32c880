//! The API of a master below `/api/v1`: requests and answers as a client's connection carries them, and what their JSON holds.
//!
//! Invariant: whoever asks, over HTTP or over a connection of the cluster, gets the same document from the same router.

use crate::error::{Error, Result};
use crate::ids::JobId;
use crate::report::{Report, State};
use crate::scheduling::Scheduling;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes of a request's body.
pub const BODY: usize = 64 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// The path from `/api/v1/` on, with the query.
    pub path: String,
    /// JSON; at most [`BODY`] bytes, empty where none is wanted.
    pub body: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status that HTTP gives it.
    pub status: u16,
    /// JSON: a document, or an object whose `error` says why there is none.
    pub body: String,
}

impl Request {
    /// A question.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET".to_owned(), path: path.into(), body: String::new() }
    }

    /// A request that changes something.
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_string(body).map_err(|e| Error::bug(format!("a body as JSON: {e}")))?;
        Ok(Self { method: "POST".to_owned(), path: path.into(), body })
    }
}

impl Answer {
    /// Its document as it came. What is refused is the user's mistake below status 500, above it the master's, which may pass
    /// where the master said so.
    pub fn document(self) -> Result<String> {
        if self.status < 300 {
            return Ok(self.body);
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let Refusal { error } = read(&self.body)?;
        Err(match self.status {
            400..500 => Error::user(error),
            503 | 504 => Error::cluster(error).retryable(),
            _ => Error::cluster(error),
        })
    }

    /// The same, read.
    pub fn read<T: DeserializeOwned>(self) -> Result<T> {
        read(&self.document()?)
    }
}

/// Reads a document.
pub fn read<T: DeserializeOwned>(document: &str) -> Result<T> {
    serde_json::from_str(document).map_err(|e| {
        Error::cluster(format!("the master's answer can't be read: {e}; use the same build of flexps on both sides"))
    })
}

/// A job in a list: `jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobLine {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Seconds since its submission, until its end.
    pub seconds: f64,
    /// Its last objective.
    pub objective: Option<f64>,
    /// Why it waits or failed.
    pub note: Option<String>,
    /// When it is to run.
    pub scheduling: Scheduling,
}

/// What one who follows a job sees: `jobs/j3`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobNews {
    /// Counts changes.
    pub version: u64,
    /// Why it waits, when it does, e.g. `needs 12 slots, most free is 8`.
    pub waiting: Option<String>,
    /// What runs now.
    pub stage: Option<RunningStage>,
    /// Whether rows are being read.
    pub reading: bool,
    /// Where it stands and all that is known of it so far.
    pub report: Report,
}

/// A stage that runs, or several side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStage {
    /// Its name, or their names.
    pub name: String,
    /// Its workers.
    pub threads: u32,
    /// The round, from 1.
    pub epoch: u64,
}

/// Records of the history: `history`.
#[derive(Debug, Clone, Deserialize)]
pub struct HistoryPage {
    /// The number of the oldest record of a job or run that is still there.
    pub first: u64,
    /// The number of the next record; the same as was asked for when there are no more.
    pub next: u64,
    /// The number that the next record will have that happens.
    pub end: u64,
    /// As the master wrote them.
    pub records: Vec<Box<RawValue>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_error_whose_fault_is_told_by_its_status() {
        let of = |status| Answer { status, body: r#"{"error":"no"}"#.to_owned() }.document().unwrap_err();
        for (status, code, retry) in
            [(400, 2, false), (404, 2, false), (405, 2, false), (500, 1, false), (503, 1, true), (504, 1, true)]
        {
            let error = of(status);
            assert_eq!((error.exit_code(), error.retry, error.message.as_str()), (code, retry, "no"), "{status}");
        }
        let garbled = Answer { status: 200, body: "{".to_owned() }.read::<JobLine>().unwrap_err();
        assert!(garbled.exit_code() == 1 && garbled.message.contains("the same build"), "{garbled}");
    }
}
