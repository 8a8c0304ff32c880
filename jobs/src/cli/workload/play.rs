//! The jobs of a workload under one policy: submitted at their times, and followed to their ends.
//!
//! Invariant: nothing here holds up who asks to end; a master that is silent is waited for no longer than [`PATIENCE`].

use super::file::WorkFile;
use crate::cli::client::{Client, Own};
use crate::cli::interrupt::Interrupt;
use crate::cli::terminal::say;
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

/// What `asked` gives, unless somebody asks to end before that.
pub async fn unless_interrupted<T>(interrupt: &mut Interrupt, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        got = asked => got,
        () = interrupt.next() => Err(Error::cancelled()),
    }
}

/// Cancels jobs and gives the master its policy back, as far as it answers; who asks to end once more leaves at once. The error
/// that ended it all, if one did, is the one to tell, so that this has none of its own.
pub async fn leave(client: &Arc<Client>, jobs: &[Own], policy: &str, interrupt: &mut Interrupt) {
    if !jobs.is_empty() {
        say("cancelling the jobs; Ctrl-C leaves at once");
    }
    let asked = async {
        cancel(client, jobs).await?;
        client.set_policy(policy).await
    };
    if let Err(e) = unless_interrupted(interrupt, asked).await {
        let address = client.address();
        let run = match jobs {
            [] => String::new(),
            _ => format!("jobs may still run there, which `flexps jobs --master {address}` lists, and "),
        };
        say(&format!("warning: {address}: {e}: {run}another policy than {policy} may decide there"));
    }
}

/// Cancels all at the same time, until the master is silent.
async fn cancel(client: &Arc<Client>, jobs: &[Own]) -> Result<()> {
    let mut asked = JoinSet::new();
    for job in jobs.iter().copied() {
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

/// Submits all jobs at their times and waits for their ends. What was submitted stands in `submitted` until then.
pub async fn play(
    client: &Client,
    policy: &str,
    file: &WorkFile,
    jobs: &[Box<dyn DynJob>],
    submitted: &mut Vec<Own>,
) -> Result<Played> {
    client.set_policy(policy).await?;
    say(&format!("{policy}: running {} jobs", jobs.len()));
    let specs = &file.workload.jobs;
    let begin = Instant::now();
    let mut ids: BTreeMap<usize, JobId> = BTreeMap::new();
    for at in order(specs) {
        let spec = &specs[at];
        tokio::time::sleep(spec.arrival.saturating_sub(begin.elapsed())).await;
        let mut after: Vec<JobId> = spec.after.iter().filter_map(|first| ids.get(first).copied()).collect();
        if !after.is_empty() {
            // One that is no longer listed has ended long ago.
            let listed = listed(client).await?;
            after.retain(|first| listed.iter().any(|job| job.id == *first));
        }
        let scheduling = Scheduling {
            priority: spec.priority,
            user: spec.owner.clone(),
            after,
            deadline: spec.deadline.map(|d| d.as_secs_f64()),
            memory: file.real[at].as_ref().and_then(|real| real.memory),
            ..Scheduling::default()
        };
        let own = client.submit(&*jobs[at], false, scheduling, Default::default(), false).await?;
        submitted.push(own);
        ids.insert(at, own.id);
    }
    loop {
        let listed = listed(client).await?;
        let running = |id: &JobId| listed.iter().any(|j| j.id == *id && !j.state.ended());
        if !ids.values().any(running) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    submitted.clear();
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

#[cfg(test)]
mod tests {
    use super::super::recorded::tests::job;
    use super::*;

    #[test]
    fn a_job_of_which_nothing_is_recorded_any_more_is_missed() {
        let names = |ids: &[u64]| ids.iter().map(|id| (JobId(*id), format!("n{id}"))).collect::<BTreeMap<_, _>>();
        // That of others is there too.
        let records = [job(1), job(2), job(9)];
        whole(&names(&[1, 2]), &records, "m:1").unwrap();
        let error = whole(&names(&[1, 3]), &records, "m:1").unwrap_err();
        assert!(error.exit_code() == 1 && error.message.contains("at m:1 has no record of job n3 any more"), "{error}");
        let error = whole(&names(&[2, 3, 4, 5]), &records, "m:1").unwrap_err();
        assert!(error.message.contains("of job n3 and 2 more any more"), "{error}");
    }

    #[test]
    fn jobs_are_ordered_by_those_that_they_wait_for_however_many_ways_lead_there() {
        // Layers of which each job waits for all of the one above: there are more ways than can be counted.
        let (layers, each) = (40, 30);
        let job = |at: usize| {
            let above = at / each;
            let after = if above == 0 { Vec::new() } else { ((above - 1) * each..above * each).collect() };
            // The last are to come first.
            JobSpec { after, arrival: Duration::from_secs((layers - above) as u64), ..JobSpec::default() }
        };
        let jobs: Vec<JobSpec> = (0..layers * each).map(job).collect();
        assert_eq!(order(&jobs), (0..layers * each).collect::<Vec<_>>());
        // A chain that is longer than a stack is deep.
        let long = 100_000;
        let after = |at: usize| if at + 1 < long { vec![at + 1] } else { Vec::new() };
        let jobs: Vec<JobSpec> = (0..long).map(|at| JobSpec { after: after(at), ..JobSpec::default() }).collect();
        assert_eq!(order(&jobs), (0..long).rev().collect::<Vec<_>>());
    }
}
