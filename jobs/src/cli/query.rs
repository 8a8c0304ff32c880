//! Questions to a running master: its jobs, its slaves, one job, and the request to end one.
//!
//! Invariant: what `--json` prints of jobs and slaves is what the master's API answered, byte for byte.

use super::args::{CancelArgs, ListArgs, StatusArgs};
use super::client::Client;
use super::curve;
use super::table::{self, lines, number, seconds, table};
use super::terminal::{out, say};
use flexps_common::report::State;
use flexps_common::wire::api::{self, JobLine, JobNews, RunningStage};
use flexps_common::wire::slaves::SlaveLine;
use flexps_common::{Error, Result};
use flexps_master::Overview;
use serde::Deserialize;
use serde_json::value::RawValue;

/// `flexps jobs`.
pub async fn jobs(args: ListArgs) -> Result<()> {
    let document = Client::remote(&args.remote)?.document("jobs").await?;
    if args.json {
        return out(&(document + "\n"));
    }
    let jobs: Vec<JobLine> = api::read(&document)?;
    let mut shown = table(["id", "job", "state", "objective", "seconds", "note"], 3..5);
    for job in &jobs {
        let state = state(job.state);
        // One that was cancelled has no more to say.
        let note = job.note.as_deref().filter(|note| *note != state).unwrap_or_default();
        shown.add_row([
            job.id.to_string(),
            job.name.clone(),
            state.to_owned(),
            job.objective.map_or(String::from("-"), number),
            format!("{:.1}", job.seconds),
            note.to_owned(),
        ]);
    }
    out(&lines(&shown))
}

/// `flexps slaves`.
pub async fn slaves(args: ListArgs) -> Result<()> {
    let document = Client::remote(&args.remote)?.document("slaves").await?;
    if args.json {
        return out(&(document + "\n"));
    }
    let slaves: Vec<SlaveLine> = api::read(&document)?;
    let mut shown = table(["id", "name", "host", "slots", "busy", "memory", "asked", "last heard", "pid"], 3..9);
    for slave in &slaves {
        shown.add_row([
            slave.id.to_string(),
            slave.name.clone(),
            slave.host.clone(),
            slave.slots.to_string(),
            slave.busy.to_string(),
            table::memory(slave.memory),
            table::memory(Some(slave.memory_asked)),
            seconds(slave.silent),
            slave.pid.to_string(),
        ]);
    }
    out(&lines(&shown))
}

/// `flexps status`.
pub async fn status(args: StatusArgs) -> Result<()> {
    let client = Client::remote(&args.remote)?;
    if args.watch {
        return super::watch::watch(&client).await;
    }
    if let Some(job) = args.job {
        let document = client.document(&format!("jobs/{job}")).await?;
        let news: JobNews = api::read(&document)?;
        if let Some(file) = &args.curve {
            curve::write(file, &news.report)?;
        }
        return if args.json { out(&(report(&document)? + "\n")) } else { out(&one_job(&news)) };
    }
    let Overview { jobs, slaves, .. } = client.overview().await?;
    let count = |wanted| jobs.iter().filter(|job| job.state == wanted).count();
    let (slots, busy) = slaves.iter().fold((0, 0), |(slots, busy), s| (slots + s.slots, busy + s.busy));
    if args.json {
        return json(&serde_json::json!({
            "master": args.remote.master,
            "slaves": slaves.len(),
            "slots": slots,
            "busy": busy,
            "running": count(State::Running),
            "queued": count(State::Queued),
            "jobs": jobs.len(),
        }));
    }
    out(&format!(
        "master at {}: {}, {busy} of {slots} slots busy; jobs: {} running, {} queued, {} ended\n",
        args.remote.master,
        table::count(slaves.len() as u64, "slave"),
        count(State::Running),
        count(State::Queued),
        jobs.iter().filter(|job| job.state.ended()).count(),
    ))
}

/// `flexps cancel`.
pub async fn cancel(args: CancelArgs) -> Result<()> {
    Client::remote(&args.remote)?.cancel(args.job, None).await?;
    say(&format!("{} is told to end; `flexps status {}` shows when it has", args.job, args.job));
    Ok(())
}

/// The report in a job's document, as the master wrote it.
fn report(document: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Holds<'a> {
        #[serde(borrow)]
        report: &'a RawValue,
    }
    let holds: Holds<'_> = serde_json::from_str(document).map_err(Error::bug)?;
    Ok(holds.report.get().to_owned())
}

fn one_job(news: &JobNews) -> String {
    let report = &news.report;
    let mut text = format!("{} {}: {}", report.id, report.job, state(report.state));
    if let Some(waiting) = news.waiting.as_ref().filter(|_| !report.state.ended()) {
        text.push_str(&format!(", {waiting}"));
    }
    if let Some(RunningStage { name: stage, threads, epoch }) = &news.stage {
        text.push_str(&format!(", stage {stage} of epoch {epoch} on {threads} threads"));
    }
    // That one was cancelled is said already.
    if let Some(error) = report.error.as_ref().filter(|_| report.state == State::Failed) {
        text.push_str(&format!(": {error}"));
    }
    text.push('\n');
    if !report.stages.is_empty() {
        text.push_str(&table::stages(&report.stages));
    }
    text + &table::result(report)
}

pub fn state(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::bug(format!("an answer as JSON: {e}")))?;
    out(&(text + "\n"))
}
