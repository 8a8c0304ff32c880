//! The `flexps` command, the one place where master, slave and jobs meet.
//!
//! Invariant: stdout is data, stderr is talk; every error ends as one `error: …` line and the exit code of its
//! [`Fault`](flexps_common::error::Fault); no panic reaches the user as more than one line.

mod args;
mod clashes;
mod client;
mod convert;
mod curve;
mod doctor;
mod evaluate;
mod experiment;
mod export;
mod file;
mod follow;
mod generate;
mod info;
mod interrupt;
mod log;
mod model;
mod node;
mod outputs;
mod predict;
mod progress;
mod query;
mod reach;
mod resources;
mod rows;
mod run;
mod scheduling;
mod scoring;
mod serve;
mod snapshot;
mod svg;
mod table;
mod terminal;
mod tips;
mod watch;
mod workload;

use args::{Cli, Command, DataCommand, ModelCommand};
use clap::{ArgMatches, FromArgMatches};
use flexps_common::job::{DynJob, Prepare, Registry};
use flexps_common::tail::Tail;
use flexps_common::{Error, Result};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;
use terminal::out;
use tokio::runtime::{Builder, Runtime};

/// Runs the command line of this process with the jobs of `registry`. A user's own crate calls it from its `main` with
/// its own registry and gets the whole command.
pub fn main(registry: Registry) -> ExitCode {
    terminal::report_panics_in_one_line();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| start(registry)));
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            terminal::error(&error);
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(1),
    }
}

fn start(registry: Registry) -> Result<()> {
    registry.check()?;
    let mut grammar = args::command(&registry);
    clashes::check(&grammar)?;
    let line: Vec<OsString> = std::env::args_os().collect();
    let matches = match grammar.try_get_matches_from_mut(&line) {
        Ok(matches) => matches,
        // Clap prints to the right stream and picks 0 for help, 2 for mistakes.
        Err(e) => tips::with_jobs(e, &mut grammar, &registry, &line).exit(),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.format(&mut grammar).exit(),
    };
    // Of a slave the last lines go to the master, when a worker fails.
    let tail = matches!(cli.command, Command::Slave(_)).then(Tail::default);
    log::to_stderr(&cli.log, tail.clone())?;
    match cli.command {
        Command::Run(args) => {
            let job = job(&registry, &matches)?;
            block_on(run::run(args, registry, job))
        }
        Command::Plan(_) => {
            let mut job = job(&registry, &matches)?;
            job.prepare(&Prepare { cache: run::cache_folder(), say: terminal::say })?;
            out(&registry.plan(&*job)?.describe())
        }
        Command::Master(args) => block_on(serve::master(args, registry)),
        Command::Slave(args) => block_on(serve::slave(args, registry, tail.unwrap_or_default())),
        Command::Token(args) => serve::token(&args.access),
        Command::Jobs(args) => block_on(query::jobs(args)),
        Command::Status(args) => block_on(query::status(args)),
        Command::Snapshot(args) => block_on(snapshot::snapshot(args)),
        Command::Cancel(args) => block_on(query::cancel(args)),
        Command::Slaves(args) => block_on(query::slaves(args)),
        Command::Data { command: DataCommand::Generate(args) } => {
            file::interruptible(|runtime| generate::generate(runtime, &args))
        }
        Command::Data { command: DataCommand::Convert(args) } => {
            file::interruptible(|runtime| convert::convert(runtime, &args))
        }
        Command::Data { command: DataCommand::Info(args) } => file::interruptible(|runtime| info::info(runtime, &args)),
        Command::Predict(args) => file::interruptible(|runtime| predict::predict(runtime, &args)),
        Command::Evaluate(args) => file::interruptible(|runtime| evaluate::evaluate(runtime, &args)),
        Command::Model { command: ModelCommand::Show { model, json } } => model::show(&model, json),
        Command::Model { command: ModelCommand::Export { model, format, output } } => {
            file::interruptible(|_| export::export(&model, format, &output))
        }
        Command::Workload { command } => workload::workload(command, registry),
        Command::History { command } => workload::history(command),
        Command::Doctor(args) => block_on(doctor::doctor(args)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut grammar, "flexps", &mut script);
            out(&String::from_utf8_lossy(&script))
        }
    }
}

/// The job that stands behind `run` or `plan`, with its flags.
fn job(registry: &Registry, matches: &ArgMatches) -> Result<Box<dyn DynJob>> {
    let chosen = matches.subcommand().and_then(|(_, below)| below.subcommand());
    let (name, flags) = chosen.ok_or_else(|| Error::user("no job given; `flexps run --help` lists them"))?;
    let kind = registry.kinds().find(|kind| kind.name == name);
    (kind.ok_or_else(|| Error::bug(format!("the grammar knows {name}, the registry does not")))?.from_matches)(flags)
}

/// Two threads carry the control plane: workers, readers and parsers bring their own.
fn runtime() -> Result<Runtime> {
    let built = Builder::new_multi_thread().worker_threads(2).thread_name("flexps-runtime").enable_all().build();
    built.map_err(|e| Error::cluster(format!("the runtime can't start: {e}")))
}

/// Runs a command's future.
fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = runtime()?;
    let done = runtime.block_on(command);
    // What a stalled connection still holds must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    done
}
