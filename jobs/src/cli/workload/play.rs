//! The jobs of a workload under one policy: submitted at their times, and followed to their ends.
//!
//! Invariant: nothing here holds up who asks to end, and what a master may have of it is known at any moment; a master that is
//! silent is waited for no longer than [`PATIENCE`].

use super::file::WorkFile;
use crate::cli::client::{Client, Own, Submission};
use crate::cli::interrupt::Interrupt;
use crate::cli::terminal::say;
use flexps_common::error::Fault;
use flexps_common::ids::JobId;
use flexps_common::job::DynJob;
use flexps_common::scheduling::Scheduling;
use flexps_common::wire::api::{self, JobLine};
use flexps_common::{Error, Result};
use flexps_master::history::Record;
use flexps_master::simulate::{JobSpec, in_turn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[cfg(test)]
mod tests;

/// How often the jobs are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a master may be out of reach before its jobs are given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries to reach it.
const RETRY: Duration = Duration::from_millis(500);

/// What was played.
pub struct Played {
    /// Under which policy.
    pub policy: String,
    /// The jobs' names in the file.
    pub names: BTreeMap<JobId, String>,
    /// What the master recorded, of these jobs all.
    pub records: Vec<Record>,
}

/// What a master has of a workload, as far as it is not known to have ended.
#[derive(Debug, Default)]
pub struct Submitted {
    /// Jobs that it took.
    jobs: Vec<Own>,
    /// What it was asked for and has not answered: it may have taken it or not.
    pending: Option<Submission>,
}

impl Submitted {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.pending.is_none()
    }
}

/// What `asked` gives, unless somebody asks to end before that.
pub async fn unless_interrupted<T>(interrupt: &mut Interrupt, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        got = asked => got,
        () = interrupt.next() => Err(Error::cancelled()),
    }
}

/// Cancels jobs and gives the master its policy back, as far as it answers; who asks to end once more leaves at once. The error
/// that ended it all, if one did, is the one to tell, so that this has none of its own.
pub async fn leave(client: &Arc<Client>, submitted: &Submitted, policy: &str, interrupt: &mut Interrupt) {
    if !submitted.is_empty() {
        say("cancelling the jobs; Ctrl-C leaves at once");
    }
    let asked = async {
        cancel(client, submitted).await?;
        client.set_policy(policy).await
    };
    if let Err(e) = unless_interrupted(interrupt, asked).await {
        let address = client.address();
        let run = match submitted.is_empty() {
            true => String::new(),
            false => format!("jobs may still run there, which `flexps jobs --master {address}` lists, and "),
        };
        say(&format!("warning: {address}: {e}: {run}another policy than {policy} may decide there"));
    }
}

/// Cancels all at the same time, until the master is silent.
async fn cancel(client: &Arc<Client>, submitted: &Submitted) -> Result<()> {
    let mut jobs = submitted.jobs.clone();
    if let Some(pending) = &submitted.pending {
        // Which job it is, the master alone knows.
        match client.hand_in(pending).await {
            Ok(own) => jobs.push(own),
            Err(e) if e.retry => return Err(e),
            // It is none.
            Err(_) => {}
        }
    }
    let mut asked = JoinSet::new();
    for job in jobs {
        let client = client.clone();
        asked.spawn(async move { client.cancel(job.id, Some(job.token)).await });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Err(e)) if e.retry => return Err(e),
            // One that has ended meanwhile.
            _ => {}
        }
    }
    Ok(())
}

/// What the master answers, asked again while it can't be reached, but not for ever.
async fn patient<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    let mut lost: Option<Instant> = None;
    loop {
        match ask().await {
            Err(e) if e.retry => {
                let since = *lost.get_or_insert_with(|| {
                    say(&format!("warning: {e}; trying for {} s", PATIENCE.as_secs()));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(e.context("gave up following the jobs"));
                }
                tokio::time::sleep(RETRY).await;
            }
            answer => {
                if lost.is_some() {
                    say("the master is back");
                }
                return answer;
            }
        }
    }
}

/// The jobs that the master lists.
async fn listed(client: &Client) -> Result<Vec<JobLine>> {
    patient(|| async { api::read(&client.document("jobs").await?) }).await
}

/// Leaves those away that the master lists no longer: they have ended long ago.
async fn retain_listed(client: &Client, jobs: &mut Vec<JobId>) -> Result<()> {
    if !jobs.is_empty() {
        let listed = listed(client).await?;
        jobs.retain(|first| listed.iter().any(|job| job.id == *first));
    }
    Ok(())
}

/// Submits a job; until the master has answered, it is pending in `submitted`.
async fn submit(
    client: &Client,
    job: &dyn DynJob,
    mut scheduling: Scheduling,
    submitted: &mut Submitted,
) -> Result<Own> {
    retain_listed(client, &mut scheduling.after).await?;
    loop {
        let submission = Submission::new(job, false, scheduling.clone(), Default::default(), false)?;
        let pending: &Submission = submitted.pending.insert(submission);
        let answer = patient(|| client.hand_in(pending)).await;
        let error = match answer {
            Ok(own) => {
                submitted.pending = None;
                submitted.jobs.push(own);
                return Ok(own);
            }
            // Nobody knows what became of it.
            Err(e) if e.retry => return Err(e),
            Err(e) => e,
        };
        submitted.pending = None;
        let known = scheduling.after.len();
        if error.fault == Fault::User {
            // One that it was to follow may have been forgotten since it was listed.
            retain_listed(client, &mut scheduling.after).await?;
        }
        if scheduling.after.len() == known {
            return Err(error);
        }
    }
}

/// Submits all jobs at their times and waits for their ends. What the master has of them stands in `submitted` until then.
pub async fn play(
    client: &Client,
    policy: &str,
    file: &WorkFile,
    jobs: &[Box<dyn DynJob>],
    submitted: &mut Submitted,
) -> Result<Played> {
    client.set_policy(policy).await?;
    say(&format!("{policy}: running {} jobs", jobs.len()));
    let specs = &file.workload.jobs;
    let begin = Instant::now();
    let mut ids: BTreeMap<usize, JobId> = BTreeMap::new();
    for at in order(specs) {
        let spec = &specs[at];
        tokio::time::sleep(spec.arrival.saturating_sub(begin.elapsed())).await;
        let scheduling = Scheduling {
            priority: spec.priority,
            user: spec.owner.clone(),
            after: spec.after.iter().filter_map(|first| ids.get(first).copied()).collect(),
            deadline: spec.deadline.map(|d| d.as_secs_f64()),
            memory: file.real[at].as_ref().and_then(|real| real.memory),
            ..Scheduling::default()
        };
        ids.insert(at, submit(client, &*jobs[at], scheduling, submitted).await?.id);
    }
    loop {
        let listed = listed(client).await?;
        let running = |id: &JobId| listed.iter().any(|j| j.id == *id && !j.state.ended());
        if !ids.values().any(running) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    submitted.jobs.clear();
    let names = ids.into_iter().map(|(at, id)| (id, specs[at].name.clone())).collect();
    let records = client.read(&patient(|| client.history()).await?)?;
    whole(&names, &records, client.address())?;
    Ok(Played { policy: policy.to_owned(), names, records })
}

/// Refuses records that lack one of the jobs: what is made of the others would look as if it were all.
fn whole(names: &BTreeMap<JobId, String>, records: &[Record], address: &str) -> Result<()> {
    let told: BTreeSet<JobId> =
        records.iter().filter_map(|r| if let Record::Job { job, .. } = r { Some(*job) } else { None }).collect();
    let mut lost = names.iter().filter(|(id, _)| !told.contains(id)).map(|(_, name)| name);
    let Some(name) = lost.next() else { return Ok(()) };
    let more = match lost.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Err(Error::cluster(format!(
        "the master at {address} has no record of job {name}{more} any more: it was started anew, or so many stages ran that it forgot \
         the oldest; run fewer rounds or jobs at a time"
    )))
}

/// When each job can be submitted: a job that waits for others is known to the master after them.
fn order(jobs: &[JobSpec]) -> Vec<usize> {
    let mut known = vec![(Duration::ZERO, 0); jobs.len()];
    for at in in_turn(jobs) {
        let first = jobs[at].after.iter().map(|first| known[*first]).max();
        let (after, depth) = first.map_or((Duration::ZERO, 0), |(at, depth)| (at, depth + 1));
        known[at] = (after.max(jobs[at].arrival), depth);
    }
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_unstable_by_key(|at| (known[*at], *at));
    order
}
