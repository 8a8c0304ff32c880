//! A client of a master's pages that says exactly what a test wants said.

use super::wait;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No answer may take longer.
pub const WITHIN: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a JSON body.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON: {e}\n{self:?}"))
    }
}

/// A connection to `HOST:PORT` on which no read waits for long.
#[track_caller]
pub fn connect(pages: &str) -> TcpStream {
    let stream = TcpStream::connect(pages).unwrap_or_else(|e| panic!("{pages}: {e}"));
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.set_write_timeout(Some(WITHIN)).unwrap();
    stream
}

/// Says `request` and reads all that comes; nothing when the connection was closed without a word.
#[track_caller]
pub fn say(pages: &str, request: &[u8]) -> Option<Answer> {
    let mut stream = connect(pages);
    // One that is refused early may be closed before all was written.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A request with these header lines beside `Host`.
#[track_caller]
pub fn request(pages: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {pages}\r\n{headers}{length}\r\n{body}");
    say(pages, text.as_bytes()).unwrap_or_else(|| panic!("{method} {path}: no answer"))
}

#[track_caller]
pub fn get(pages: &str, path: &str) -> Answer {
    request(pages, "GET", path, &[], "")
}

/// A JSON body.
#[track_caller]
pub fn post(pages: &str, path: &str, body: &Value) -> Answer {
    request(pages, "POST", path, &["Content-Type: application/json"], &body.to_string())
}

/// Submits a job and gives its id.
#[track_caller]
pub fn submit(pages: &str, job: &str, params: Value) -> u64 {
    let answer = post(pages, "/api/v1/jobs", &serde_json::json!({ "job": job, "params": params }));
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_u64().unwrap()
}

/// Waits until a job has ended and gives its report.
#[track_caller]
pub fn report(pages: &str, job: u64) -> Value {
    wait::until(&format!("the end of j{job}"), Duration::from_secs(60), || {
        let report = get(pages, &format!("/api/v1/jobs/j{job}")).json()["report"].clone();
        (!["queued", "running"].contains(&report["state"].as_str()?)).then_some(report)
    })
}

/// The overviews that the events bring, until the server ends them.
pub fn events(pages: &str) -> impl Iterator<Item = Value> + use<> {
    let mut stream = connect(pages);
    stream.write_all(format!("GET /api/v1/events HTTP/1.1\r\nHost: {pages}\r\n\r\n").as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}
