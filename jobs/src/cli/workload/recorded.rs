//! `flexps workload replay` and `flexps history export`: what a master recorded.

use super::args::{CompareArgs, ExportArgs, ReplayArgs};
use super::picture;
use super::show::{self, Comparison, Outcome};
use crate::cli::client::Client;
use crate::cli::file::Whole;
use crate::cli::table::count;
use crate::cli::terminal::{out, say};
use flexps_common::{Error, Result};
use flexps_master::history::{Last, Record, known, last, read, trace, workload};
use flexps_master::scheduler::policy;
use flexps_master::simulate::{bounds, measure, simulate};
use std::collections::BTreeMap;
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
    let lines = Client::remote(&args.remote)?.history().await?;
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    match &args.output {
        None => out(&text),
        Some(path) => Whole::create(path)?.fill(|file| file.write_all(text.as_bytes())),
    }
}
