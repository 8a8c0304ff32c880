//! `flexps run`: a job from its flags to its result, embedded or on a cluster.
//!
//! Invariant: what can be refused is refused before anything starts; the way above the transport is the same embedded
//! and remote.

use super::args::{RunArgs, given};
use super::client::Client;
use super::file::Whole;
use super::follow::follow;
use super::interrupt::Interrupt;
use super::node::Embedded;
use super::reach;
use super::table;
use super::terminal::{out, say, watched};
use flexps_common::error::Context;
use flexps_common::job::{DynJob, Prepare, Registry};
use flexps_common::plan::Plan;
use flexps_common::report::{Report, State};
use flexps_common::storage::is_remote;
use flexps_common::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs `job`.
pub async fn run(args: RunArgs, registry: Registry, mut job: Box<dyn DynJob>) -> Result<()> {
    let master = given(&args.master);
    if args.detach && master.is_none() {
        return Err(Error::user("--detach needs --master HOST:PORT: an embedded job ends with this process"));
    }
    if args.detach && (args.json || args.report.is_some()) {
        return Err(Error::user(
            "--detach waits for no report: leave out --json and --report; `flexps status JOB --json` shows it",
        ));
    }
    if let (Some(address), [flag, ..]) = (master, args.resources.given().as_slice()) {
        return Err(Error::user(format!(
            "{flag} is of the slave in this process, and the job goes to the master at {address}: give it to `flexps slave` \
             there, or leave out --master and FLEXPS_MASTER"
        )));
    }
    if master.is_none() && args.access.secret_file.is_some() {
        return Err(Error::user("--secret-file goes with --master HOST:PORT: a job in this process needs none"));
    }
    // Tried before the job, so that none is lost to a typing mistake.
    let file = args.report.as_deref().map(Whole::create).transpose().context(|| "--report")?;
    job.prepare(&Prepare { cache: cache_folder(), say })?;
    let plan = registry.plan(&*job)?;
    let here = match master {
        Some(address) => !reach::is_elsewhere(address).await,
        None => true,
    };
    args.report.as_deref().filter(|_| here).map_or(Ok(()), |report| check_apart(report, &plan))?;
    let mut interrupt = Interrupt::new()?;
    let (scheduling, experiment) = (args.scheduling.scheduling(), args.experiment.experiment());
    let report = match master {
        Some(address) => {
            let client = Client::connect(address, &args.access)?;
            let submitted = client.submit(&*job, args.reproducible, scheduling, experiment, args.detach);
            let own = tokio::select! {
                own = submitted => own?,
                () = interrupt.next() => {
                    say(&format!("left before {address} answered; if it took the job, `flexps jobs` lists it"));
                    return Err(Error::cancelled());
                }
            };
            if args.detach {
                return out(&format!("{}\n", own.id));
            }
            follow(&client, own, &mut interrupt).await?
        }
        None => {
            let embedded = Embedded::start(&args.resources, registry).await?;
            let client = embedded.client();
            let followed = match client.submit(&*job, args.reproducible, scheduling, experiment, false).await {
                Ok(own) => follow(&client, own, &mut interrupt).await,
                Err(e) => Err(e),
            };
            embedded.stop().await;
            followed?
        }
    };
    finish(&report, args.json, file)
}

/// Refuses a report that has the model's folder, of the same machine, above or below it: one of the two could not be put in its
/// place.
fn check_apart(report: &Path, plan: &Plan) -> Result<()> {
    let Some(model) = plan.save.as_ref().map(|save| &save.path.0).filter(|path| !is_remote(path)) else {
        return Ok(());
    };
    let (place, folder) = (resolved(report), resolved(Path::new(model)));
    if place.starts_with(&folder) || folder.starts_with(&place) {
        return Err(Error::user(format!(
            "--report {}: --model {model} needs that place; give the report another one",
            report.display()
        )));
    }
    Ok(())
}

/// A path without links, whether something is there or not.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find_map(|above| Some((above.canonicalize().ok()?, whole.strip_prefix(above).ok()?)));
    there.map(|(above, rest)| above.join(rest)).unwrap_or(whole)
}

/// Gives the report to whoever asked for it, and the job's error to the caller.
fn finish(report: &Report, json: bool, file: Option<Whole>) -> Result<()> {
    let as_json = || serde_json::to_string(report).map_err(|e| Error::bug(format!("the report as JSON: {e}")));
    // A file that can't be written keeps nobody from the result.
    let filed = file.map_or(Ok(()), |file| {
        let json = as_json()?;
        file.fill(|file| writeln!(file, "{json}"))
    });
    // Where the result does not show them, whoever watches, or looks for what went wrong, wants to know them.
    if (json && watched()) || report.state != State::Done {
        report.notes.iter().for_each(|note| say(&format!("note: {note}")));
    }
    if json {
        out(&format!("{}\n", as_json()?))?;
    } else if report.state == State::Done {
        out(&format!("{}\n{}", table::stages(&report.stages), table::result(report)))?;
    }
    let failed = match report.state {
        State::Cancelled => cancelled(report.error.as_ref()),
        State::Failed => report.error.clone().unwrap_or_else(|| Error::bug("the job failed without a reason")),
        _ => return filed.context(|| "--report"),
    };
    if let Err(error) = filed {
        say(&format!("warning: --report: {error}"));
    }
    Err(failed)
}

/// The error of a job that was cancelled. One that nobody asked to be has failed for who waited for it, by what the master says.
fn cancelled(error: Option<&Error>) -> Error {
    let asked = Error::cancelled();
    match error {
        Some(error) if !error.message.starts_with(&asked.message) => Error::cluster(error),
        Some(error) => error.clone(),
        None => asked,
    }
}

/// Where generated rows are kept between runs.
pub fn cache_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    folder.unwrap_or_else(std::env::temp_dir).join("flexps")
}
