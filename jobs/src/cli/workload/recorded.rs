//! `flexps workload replay` and `flexps history export`: what a master recorded.

use super::args::{CompareArgs, ExportArgs, ReplayArgs};
use super::picture;
use super::show::{self, Comparison, Outcome};
use crate::cli::client::Client;
use crate::cli::file::{Whole, end_when_told};
use crate::cli::interrupt::Interrupt;
use crate::cli::table::count;
use crate::cli::terminal::{out, say};
use flexps_common::{Error, Result};
use flexps_master::history::{Last, Record, known, last, read, trace, workload};
use flexps_master::scheduler::policy;
use flexps_master::simulate::{bounds, measure, simulate};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write};

/// Plays a history again under other policies.
pub fn replay(args: &ReplayArgs) -> Result<()> {
    picture::check(args.compare.picture.as_deref())?;
    let name = args.file.display().to_string();
    let file = std::fs::File::open(&args.file).map_err(|e| flexps_common::error::io(&name, &e))?;
    let (records, remark) = read(&name, BufReader::new(file))?;
    if let Some(remark) = remark {
        say(&format!("warning: {remark}"));
    }
    let none = || Error::user(format!("{name} holds no job that has ended, so there is nothing to play"));
    // Between masters the slaves were gone, and jobs did not go on.
    let Last { earlier, records, jobs, masters } = last(&records).ok_or_else(none)?;
    if jobs > 0 {
        say(&format!(
            "note: {name}: the last master that ended a job is played, without {} of {}",
            count(jobs as u64, "job"),
            count(masters as u64, "earlier master")
        ));
    }
    let names = BTreeMap::new();
    let stem = args.file.file_stem().map_or_else(|| name.clone(), |s| s.to_string_lossy().into_owned());
    let (mut workload, cluster) = workload(&stem, records, &names, |_| true);
    // It had learnt from those before it how long stages take.
    workload.known = known(earlier);
    let unended = unended(records);
    if unended > 0 {
        let jobs = count(unended as u64, "job");
        say(&format!("note: {name}: {jobs} had not ended: left out, as if the slots that they held had been free"));
    }
    let bounds = bounds(&workload, &cluster, 0);
    let ended: Vec<_> =
        records.iter().filter_map(|r| if let Record::End { job, .. } = r { Some(*job) } else { None }).collect();
    let live = trace(records, &names, |id| ended.contains(&id));
    let mut outcomes = vec![Outcome { policy: "recorded".to_owned(), measures: measure(&live, &bounds), trace: live }];
    for name in &args.compare.policies {
        let trace = simulate(&workload, &cluster, &*policy(name)?, 0)?;
        outcomes.push(Outcome { policy: name.clone(), measures: measure(&trace, &bounds), trace });
    }
    let comparison =
        Comparison { workload: workload.name, how: "replayed".to_owned(), bound: bounds.makespan, outcomes };
    finish(&args.compare, &comparison)
}

/// How many jobs had not ended.
fn unended(records: &[Record]) -> usize {
    let mut jobs = BTreeSet::new();
    for record in records {
        match record {
            Record::Job { job, .. } => _ = jobs.insert(*job),
            Record::End { job, .. } => _ = jobs.remove(job),
            _ => {}
        }
    }
    jobs.len()
}

/// Shows a comparison in the ways that were asked for.
pub fn finish(args: &CompareArgs, comparison: &Comparison) -> Result<()> {
    if let Some(path) = &args.picture {
        picture::write(path, comparison)?;
        say(&format!("picture in {}", path.display()));
    }
    show::print(comparison, args.json)
}

/// Writes what a master recorded.
pub async fn export(args: ExportArgs) -> Result<()> {
    tokio::spawn(end_when_told(Interrupt::new()?));
    // Tried before the master is asked.
    let file = args.output.as_deref().map(Whole::create).transpose()?;
    let history = Client::remote(&args.remote)?.history().await?;
    let text = history.text();
    match file {
        None => out(&text)?,
        Some(file) => file.fill(|file| file.write_all(text.as_bytes()))?,
    }
    if history.missing > 0 {
        say(&format!(
            "note: without {} of jobs and stage runs: the master keeps the newest in memory, and all of them in FILE if it is started with \
             --history FILE",
            count(history.missing, "older record")
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flexps_common::ids::JobId;
    use flexps_common::report::State;
    use flexps_common::scheduling::Scheduling;

    /// That a job was submitted.
    pub fn job(id: u64) -> Record {
        let (name, scheduling) = ("sleep".to_owned(), Scheduling::default());
        Record::Job { at: 0.0, job: JobId(id), name, scheduling, token: None, detached: None }
    }

    #[test]
    fn jobs_that_had_not_ended_are_counted_also_those_that_were_queued_again() {
        let end = |id| Record::End { at: 1.0, job: JobId(id), state: State::Done, error: None };
        assert_eq!(unended(&[job(1), job(2), end(1), job(3), end(2)]), 1);
        assert_eq!(unended(&[job(1), end(1), job(1), job(2), end(2)]), 1);
        // Of one whose begin is forgotten there is an end alone.
        assert_eq!(unended(&[end(7), job(8), end(8)]), 0);
    }
}
