//! The command line's grammar: one definition per flag gives parsing, help and completions.
//!
//! Invariant: parsing validates and never acts. A job's own flags come from the registry; the engine's flags are global
//! to `run`, so they may stand before or after them.

use super::convert::ConvertArgs;
use super::experiment::ExperimentArgs;
use super::resources::Resources;
use super::scheduling::{SchedulingArgs, weight};
use super::snapshot::SnapshotArgs;
use super::workload::args::{HistoryCommand, WorkloadCommand};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use flexps_common::data::schema::DataPath;
use flexps_common::ids::JobId;
use flexps_common::job::Registry;
use flexps_master::scheduler::POLICIES;
use std::path::PathBuf;

/// Where a master listens unless told otherwise.
pub const DEFAULT_BIND: &str = "127.0.0.1:7070";

/// Where its pages are when `--http` has no value.
const DEFAULT_HTTP: &str = "127.0.0.1:7071";

/// Multi-stage parameter-server jobs: on this machine with one command, or on a cluster.
#[derive(Debug, Parser)]
#[command(name = "flexps", version, max_term_width = 110)]
pub struct Cli {
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as `flexps_slave=debug`
    #[arg(
        long,
        global = true,
        env = "FLEXPS_LOG",
        default_value = "warn,progress=info",
        value_name = "FILTER",
        hide_env_values = true
    )]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job: in this process, or on a cluster with --master
    Run(RunArgs),
    /// Show the tables and stages of a job; runs nothing
    Plan(PlanArgs),
    /// Start a master
    Master(MasterArgs),
    /// Start a slave, which lends threads to a master's jobs
    Slave(SlaveArgs),
    /// Print the token that opens a master's pages, made of the cluster's secret
    Token(TokenArgs),
    /// List the jobs of a master
    Jobs(ListArgs),
    /// Show a master, or one of its jobs
    Status(StatusArgs),
    /// Save the model of a running job as it is now
    Snapshot(SnapshotArgs),
    /// End a job
    Cancel(CancelArgs),
    /// List the slaves of a master
    Slaves(ListArgs),
    /// Generate rows, convert them, or describe them
    Data {
        /// What to do.
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Compare scheduling policies on a list of jobs
    Workload {
        /// What to do.
        #[command(subcommand)]
        command: WorkloadCommand,
    },
    /// What a master recorded
    History {
        /// What to do.
        #[command(subcommand)]
        command: HistoryCommand,
    },
    /// Print a saved model's label or probability for each row
    Predict(PredictArgs),
    /// Print a saved model's accuracy, log loss and AUC on rows
    Evaluate(EvaluateArgs),
    /// Show or export a saved model
    Model {
        /// What to do.
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Check HDFS, WebHDFS, ports, the secret and the slots; each line passes or says what to do
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Who this process talks to, and how it proves that it may.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Membership")]
pub struct Access {
    /// File that holds the cluster's secret; FLEXPS_SECRET holds the secret itself
    #[arg(long, global = true, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Name of the cluster; nodes of another name are refused
    #[arg(
        long,
        global = true,
        env = "FLEXPS_CLUSTER",
        default_value = "flexps",
        value_name = "NAME",
        hide_env_values = true
    )]
    pub cluster: String,
}

/// `flexps run`.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Run",
    subcommand_value_name = "JOB",
    subcommand_help_heading = "Jobs",
    after_help = "`flexps run JOB --help` lists the flags of a job. The options above may stand before or after them."
)]
pub struct RunArgs {
    /// Submit to the master at HOST:PORT and follow the job there
    #[arg(long, global = true, env = "FLEXPS_MASTER", value_name = "HOST:PORT", hide_env_values = true)]
    pub master: Option<String>,
    /// Print the job's id and don't wait for its end; needs --master
    #[arg(long, global = true)]
    pub detach: bool,
    /// Print the whole report as one JSON object on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Write the whole report, as JSON, to FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Assign rows in a fixed order, so that a second run gives the same bits (under BSP)
    #[arg(long, global = true)]
    pub reproducible: bool,
    /// When it is to run.
    #[command(flatten)]
    pub scheduling: SchedulingArgs,
    /// What is tried with it.
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// What the embedded slave may use.
    #[command(flatten)]
    pub resources: Resources,
    /// How to reach a master.
    #[command(flatten)]
    pub access: Access,
}

/// `flexps plan`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub struct PlanArgs {}

/// `flexps master`.
#[derive(Debug, Args)]
pub struct MasterArgs {
    /// Address to listen at; port 0 takes a free one. Any but a loopback address needs a secret
    #[arg(long, default_value = DEFAULT_BIND, value_name = "HOST:PORT")]
    pub bind: String,
    /// Which stage starts where: `greedy` takes each that fits in order of submission, `sequential` one job at a time,
    /// `prioritized` by priority and age, with a reservation for those that were passed over too often, `backfill`
    /// holds slots for the first and lets others in before it if they end in time, `fair` gives each user or queue its
    /// share
    #[arg(long, default_value = "greedy", value_parser = POLICIES, hide_possible_values = true)]
    pub policy: String,
    /// Weight of a user's or queue's share under `fair`, 1 unless given; may be given again
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = weight)]
    pub share: Vec<(String, f64)>,
    /// Append what happens to FILE, for `flexps workload replay`
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Serve a page for browsers, a JSON API below /api/v1 and /metrics at this address [default: nowhere; without a value
    /// 127.0.0.1:7071]. With a secret, every request must show the token that `flexps token` prints
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = DEFAULT_HTTP)]
    pub http: Option<String>,
    /// Proof of membership.
    #[command(flatten)]
    pub access: Access,
}

/// `flexps token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Proof of membership.
    #[command(flatten)]
    pub access: Access,
}

/// `flexps slave`.
#[derive(Debug, Args)]
pub struct SlaveArgs {
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
    /// The host whose HDFS blocks are local to this slave [default: this machine's name]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub host: Option<String>,
    /// Name in reports and errors, unique among the master's slaves [default: the host's]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Address that the master and other slaves reach this one at; takes free ports of it [default: that by which this
    /// machine reaches the master]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,
    /// What it lends.
    #[command(flatten)]
    pub resources: Resources,
}

/// A master to ask.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// The master's address
    #[arg(
        long,
        env = "FLEXPS_MASTER",
        default_value = DEFAULT_BIND,
        value_name = "HOST:PORT",
        hide_env_values = true,
        value_parser = master
    )]
    pub master: String,
    /// Proof of membership.
    #[command(flatten)]
    pub access: Access,
}

/// `flexps jobs` and `flexps slaves`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
}

/// `flexps status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The job, e.g. j7; the master itself when none is given
    pub job: Option<JobId>,
    /// Show the master again every second: who runs, who waits and why, which slots are taken
    #[arg(long, conflicts_with_all = ["job", "json"])]
    pub watch: bool,
    /// Draw how long its stages take by their threads, where these were `auto` or `offline`: an SVG
    #[arg(long, requires = "job", value_name = "FILE")]
    pub curve: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
}

/// `flexps cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The job, e.g. j7
    pub job: JobId,
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
}

/// `flexps data …`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Write rows of a known shape; the same flags give the same bytes on every machine
    Generate(GenerateArgs),
    /// Turn rows into a dataset file, which jobs read without parsing
    Convert(ConvertArgs),
    /// Read rows and describe them: rows, features, non-zeros, labels, index base, blocks and hosts
    Info(InfoArgs),
}

/// The shape of generated rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Like webspam's trigrams: long rows of norm 1, labels -1 and +1
    Webspam,
    /// Like kdd12: short rows of ones, very many features, labels 0 and 1
    Kdd,
}

/// `flexps data generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Shape of the rows
    pub shape: Shape,
    /// Rows to write
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Number of features [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub features: Option<u32>,
    /// Mean number of non-zeros of a row [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nonzeros: Option<u32>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// File to write; or folder, which ends with / or is for several files; local or hdfs://; - is stdout
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// Number of files
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub files: u64,
}

/// `flexps data info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Files, directories, globs or hdfs:// URLs
    #[arg(required = true, value_name = "PATH")]
    pub input: Vec<DataPath>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `flexps predict` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// The label with the highest score, as it stands in the training file; of a model of numbers the number
    Label,
    /// The probability of the positive label; of more than two, of each
    Probability,
}

/// A model and rows.
#[derive(Debug, Clone, Args)]
pub struct Applied {
    /// Folder of the model, local or hdfs://
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Files, directories, globs or hdfs:// URLs of rows
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub input: Vec<DataPath>,
}

/// `flexps predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// What to apply to what.
    #[command(flatten)]
    pub applied: Applied,
    /// What to print for each row, in the order of the paths as they are given; of a directory or glob in that of names
    #[arg(long, value_enum, default_value_t = Output::Label)]
    pub output: Output,
}

/// `flexps evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// What to apply to what.
    #[command(flatten)]
    pub applied: Applied,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `flexps model …`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Describe a model: job, objective, labels, features, non-zero weights
    Show {
        /// Folder of the model, local or hdfs://
        model: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a model for other programs
    Export {
        /// Folder of the model, local or hdfs://
        model: PathBuf,
        /// The file's format
        #[arg(long, value_enum)]
        format: Format,
        /// File to write
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// A format that models are exported to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// liblinear's model file
    Liblinear,
    /// A line `index weight` for each weight that is not zero, of several classes `class index weight`; indices as in the
    /// training file; `bias` last
    Text,
    /// A NumPy array of f32, one weight a feature, of several classes one class after the other; the biases, if any, last
    Npy,
}

/// `flexps doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// HDFS to check, e.g. hdfs://namenode:8020 [default: what the Hadoop configuration names]
    #[arg(long, value_name = "URL")]
    pub hdfs: Option<String>,
    /// Master to check; without one, whether a master could listen at the default address
    #[arg(long, env = "FLEXPS_MASTER", value_name = "HOST:PORT", hide_env_values = true)]
    pub master: Option<String>,
    /// What a slave here would use.
    #[command(flatten)]
    pub resources: Resources,
    /// Proof of membership.
    #[command(flatten)]
    pub access: Access,
}

/// The whole grammar, with the registry's jobs below `run` and `plan`.
pub fn command(registry: &Registry) -> clap::Command {
    let with_jobs = |mut parent: clap::Command| {
        for kind in registry.kinds() {
            // Last: what stands above a job's parameters is for those who read its code.
            parent = parent.subcommand((kind.augment)(clap::Command::new(kind.name)).about(kind.about));
        }
        parent.subcommand_required(true).arg_required_else_help(true).disable_help_subcommand(true)
    };
    Cli::command().mut_subcommand("run", with_jobs).mut_subcommand("plan", with_jobs)
}

/// The master that was given: an empty FLEXPS_MASTER is how a script unsets it.
pub fn given(master: &Option<String>) -> Option<&str> {
    master.as_deref().filter(|address| !address.is_empty())
}

/// A master's address; the usual one when a script left FLEXPS_MASTER empty.
fn master(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(if text.is_empty() { DEFAULT_BIND } else { text }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        command(&Registry::new()).debug_assert();
    }
}
