//! `flexps snapshot`: the model of a running job, saved while it runs.

use super::args::Remote;
use super::client::Client;
use super::query::json;
use super::terminal::out;
use clap::Args;
use flexps_common::Result;
use flexps_common::data::schema::DataPath;
use flexps_common::ids::JobId;
use flexps_common::wire::snapshot::Moment;

/// `flexps snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The job, e.g. j7; it must have been submitted with --model
    pub job: JobId,
    /// The folder that the model goes to, on the master's machine or hdfs://
    #[arg(long, value_name = "DIR")]
    pub model: DataPath,
    /// Replace a model that is there
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The master.
    #[command(flatten)]
    pub remote: Remote,
}

/// Asks for it, and says of which moment it is.
pub async fn snapshot(args: SnapshotArgs) -> Result<()> {
    let moment = Client::remote(&args.remote)?.snapshot(args.job, &args.model, args.overwrite).await?;
    let Moment { stage, epoch, clock, .. } = &moment;
    if args.json {
        return json(&serde_json::json!({ "stage": stage, "epoch": epoch, "clock": clock }));
    }
    let clock = clock.map_or(String::new(), |clock| format!(", clock {clock}"));
    out(&format!("{}: model of {} at stage {stage}, epoch {epoch}{clock}\n", args.model, args.job))
}
