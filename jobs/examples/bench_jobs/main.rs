//! Jobs that measure the engine, for `scripts/bench`: a user's own crate in miniature, with the whole `flexps` command.
//!
//! `empty` runs stages whose workers do nothing; `read` fills the slaves' memory with rows; `store` reads and updates
//! random keys as fast as they go; `clocks` ends clocks in which nothing happens; `meet` touches keys that meet those of
//! others as often as it is told; `transfer` wants a model whole on one slave; `shapes` repeats a stage whose
//! time depends on its threads. Each reports its figures as metrics, so `--json` holds them.

mod clocks;
mod meet;
mod shapes;
mod store;
mod transfer;

use clocks::Clocks;
use flexps_common::data::schema::{DataPath, InputSpec};
use flexps_common::error::Result;
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Plan, Threads};
use meet::Meet;
use serde::{Deserialize, Serialize};
use shapes::Shapes;
use std::process::ExitCode;
use store::Store;
use transfer::Transfer;

/// Stages whose workers return at once.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
struct Empty {
    /// Stage runs.
    #[arg(long, default_value_t = 2000)]
    runs: u64,
    /// Workers of each.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

impl Job for Empty {
    const NAME: &'static str = "empty";
    const ABOUT: &'static str = "Runs stages that do nothing";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let threads = Threads::Count(self.threads);
        plan.body.repeat(self.runs, |round| {
            round.stage("nothing", |_| Ok(())).threads(threads);
        });
        Ok(())
    }
}

/// Rows read into the slaves' memory, and nothing else.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
struct Read {
    /// Rows in libsvm format
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<DataPath>,
}

impl Job for Read {
    const NAME: &'static str = "read";
    const ABOUT: &'static str = "Reads rows into memory";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let rows = plan.input(InputSpec::new("input", self.input.clone()))?;
        plan.body.stage("wait", move |worker| worker.facts(rows).map(drop)).threads(Threads::PerSlave(1)).input(rows);
        Ok(())
    }
}

fn main() -> ExitCode {
    flexps_jobs::cli::main(
        Registry::new()
            .with::<Empty>()
            .with::<Read>()
            .with::<Store>()
            .with::<Clocks>()
            .with::<Meet>()
            .with::<Transfer>()
            .with::<Shapes>(),
    )
}
