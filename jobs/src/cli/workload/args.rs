//! The grammar of `flexps workload` and `flexps history`.

use crate::cli::args::{Access, Remote};
use clap::{Args, Subcommand};
use flexps_master::scheduler::POLICIES;
use flexps_master::simulate::Breakdowns;
use std::path::PathBuf;

/// `flexps workload …`.
#[derive(Debug, Subcommand)]
pub enum WorkloadCommand {
    /// Play a workload file in virtual time, once per policy
    Simulate(SimulateArgs),
    /// Run a workload file on a live cluster, once per policy; jobs that are only models sleep
    Run(RunArgs),
    /// Play what a master recorded again, under other policies, in virtual time
    Replay(ReplayArgs),
}

/// `flexps history …`.
#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Write what a master recorded of its slaves, jobs and stage runs, a line of JSON each
    Export(ExportArgs),
}

/// The policies to compare, and what is made of the comparison.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Policies to compare, by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "sequential,greedy,prioritized,backfill,fair",
        value_parser = POLICIES,
        hide_possible_values = true,
        value_name = "NAMES"
    )]
    pub policies: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a picture, all policies on one time axis: FILE.svg, or FILE.html with details where the mouse is
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
}

/// `flexps workload simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The workload (TOML)
    pub file: PathBuf,
    /// Slaves of the cluster [default: the file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub slaves: Option<u32>,
    /// Slots of each slave [default: the file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// When slaves break down and for how long, in seconds: exponential:MEAN:REPAIR or weibull:SCALE:SHAPE:REPAIR; what
    /// runs on one runs again [default: the file's]
    #[arg(long, value_name = "DISTRIBUTION")]
    pub breakdowns: Option<Breakdowns>,
    /// Seed of jitter, stragglers, failures and breakdowns
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What to compare.
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// `flexps workload run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workload (TOML)
    pub file: PathBuf,
    /// The cluster's master; its policy is changed for each run
    #[arg(long, env = "FLEXPS_MASTER", value_name = "HOST:PORT", hide_env_values = true)]
    pub master: Option<String>,
    /// Slaves of a cluster in this process [default: the file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub slaves: Option<u32>,
    /// Slots of each slave [default: the file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Divide all times of the file by this
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = speed)]
    pub speed: f64,
    /// Seed of jitter, stragglers and failures of jobs that are only models
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What to compare.
    #[command(flatten)]
    pub compare: CompareArgs,
    /// Proof of membership.
    #[command(flatten)]
    pub access: Access,
}

/// `flexps workload replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The history: of `flexps history export`, or of a master's --history, where of several masters the last one that ended
    /// a job is played
    pub file: PathBuf,
    /// What to compare.
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// `flexps history export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// File to write [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (1e-3..=1e6).contains(&x) => Ok(x),
        _ => Err(format!("'{text}' is not in 0.001..=1000000")),
    }
}
