//! Following a job to its end.
//!
//! Invariant: a first Ctrl-C cancels the job and waits for its end, a second one leaves at once; a master that is silent
//! is waited for no longer than [`PATIENCE`].

use super::client::{Client, Own};
use super::interrupt::Interrupt;
use super::progress::Lines;
use flexps_common::error::Fault;
use flexps_common::report::Report;
use flexps_common::wire::api::JobNews;
use flexps_common::{Error, Result};
use std::time::{Duration, Instant};

/// How long a master may be out of reach before the client gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries to reach it.
const RETRY: Duration = Duration::from_millis(500);
/// More news than that, nobody can read; the job's end is answered at once all the same.
const BETWEEN_NEWS: Duration = Duration::from_millis(100);
/// As many as a log needs.
const BETWEEN_SILENT: Duration = Duration::from_secs(1);

/// Has the job cancelled, also by a master that is slow to answer.
async fn cancel(client: &Client, job: Own) -> Result<()> {
    let id = job.id;
    let asked = Instant::now();
    loop {
        match client.cancel(id, Some(job.token)).await {
            Ok(()) => return Ok(()),
            // One that has ended meanwhile says how when it is watched.
            Err(e) if e.fault == Fault::User => return Ok(()),
            Err(e) if e.retry && asked.elapsed() < PATIENCE => tokio::time::sleep(RETRY).await,
            Err(e) => {
                return Err(Error { message: format!("{e}; {id} may still run: `flexps cancel {id}` ends it"), ..e });
            }
        }
    }
}

/// Follows `job` and returns its report once it has ended, however it ended.
pub async fn follow(client: &Client, job: Own, interrupt: &mut Interrupt) -> Result<Report> {
    let id = job.id;
    let mut lines = Lines::new();
    let pause = if lines.shown() { BETWEEN_NEWS } else { BETWEEN_SILENT };
    let mut lost: Option<Instant> = None;
    let mut cancelled = false;
    loop {
        // No version is newer than the last number, so the answer comes after the pause, or at the end.
        let news = tokio::select! {
            news = client.watch(job, u64::MAX, pause) => news,
            () = interrupt.next() => {
                if cancelled {
                    return Err(Error::cancelled());
                }
                cancelled = true;
                lines.say(&format!("cancelling {id}; Ctrl-C again leaves at once"));
                tokio::select! {
                    told = cancel(client, job) => told?,
                    () = interrupt.next() => return Err(Error::cancelled()),
                }
                continue;
            }
        };
        match news {
            Ok(news) => {
                if lost.take().is_some() {
                    lines.say("the master is back");
                }
                if let Some(report) = ended(news, &mut lines) {
                    return Ok(report);
                }
            }
            Err(e) if e.retry => {
                let since = *lost.get_or_insert_with(|| {
                    lines.say(&format!("warning: {e}; trying for {} s", PATIENCE.as_secs()));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(e.context(format!("gave up following {id}")));
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = interrupt.next() => return Err(Error::cancelled()),
                }
            }
            // The job was there.
            Err(e) if e.fault == Fault::User => {
                return Err(Error::cluster(format!(
                    "the master at {} does not know {id} any more: it was started anew, or many jobs have ended since the last answer; \
                     `flexps jobs` lists those that it knows",
                    client.address()
                )));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Shows the news; gives the report when they are the last.
fn ended(news: JobNews, lines: &mut Lines) -> Option<Report> {
    if news.report.state.ended() {
        lines.clear();
        return Some(news.report);
    }
    lines.update(&news);
    None
}
