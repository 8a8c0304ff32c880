//! Questions to a running master: its jobs, its slaves, one job, and the request to end one.

use super::args::{CancelArgs, ListArgs, StatusArgs};
use super::client::Client;
use super::curve;
use super::table::{self, lines, number, seconds, table};
use super::terminal::{out, say};
use flexps_common::report::{Report, State};
use flexps_common::wire::control::JobProgress;
use flexps_common::{Error, Result};
use std::time::Duration;

/// `flexps jobs`.
pub async fn jobs(args: ListArgs) -> Result<()> {
    let jobs = Client::remote(&args.remote)?.jobs().await?;
    if args.json {
        return json(&jobs);
    }
    let mut shown = table(["id", "job", "state", "objective", "seconds", "note"], 3..5);
    for job in &jobs {
        shown.add_row([
            job.id.to_string(),
            job.name.clone(),
            state(job.state).to_owned(),
            job.objective.map_or(String::from("-"), number),
            format!("{:.1}", job.seconds),
            job.note.clone().unwrap_or_default(),
        ]);
    }
    out(&lines(&shown))
}

/// `flexps slaves`.
pub async fn slaves(args: ListArgs) -> Result<()> {
    let slaves = Client::remote(&args.remote)?.slaves().await?;
    if args.json {
        return json(&slaves);
    }
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
        let news = client.watch(job, 0, Duration::ZERO).await?;
        let report = news.report()?;
        if let Some(file) = &args.curve {
            curve::write(file, &report)?;
        }
        return if args.json { json(&report) } else { out(&one_job(&news, &report)) };
    }
    let (jobs, slaves) = (client.jobs().await?, client.slaves().await?);
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
    Client::remote(&args.remote)?.cancel(args.job).await?;
    say(&format!("{} is told to end; `flexps status {}` shows when it has", args.job, args.job));
    Ok(())
}

fn one_job(news: &JobProgress, report: &Report) -> String {
    let mut text = format!("{} {}: {}", report.id, report.job, state(report.state));
    if let Some(waiting) = news.waiting.as_ref().filter(|_| !report.state.ended()) {
        text.push_str(&format!(", {waiting}"));
    }
    if let Some((stage, threads, epoch)) = &news.stage {
        text.push_str(&format!(", stage {stage} of epoch {epoch} on {threads} threads"));
    }
    if let Some(error) = &report.error {
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
