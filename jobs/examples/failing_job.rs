//! A job that goes wrong, or takes its time, where its flags say: what the command makes of such a job of a user's own is
//! tested.

use flexps_common::error::{Error, Result};
use flexps_common::job::Job;
use flexps_common::plan::{Plan, Threads};
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Rounds of clocks; one worker may break one of them.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
struct Failing {
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Workers of each
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// The round in which the last worker panics
    #[arg(long)]
    panic_in: Option<u64>,
    /// The round in which the last worker returns an error
    #[arg(long)]
    error_in: Option<u64>,
    /// Workers go on when this file is there
    #[arg(long)]
    until: Option<PathBuf>,
}

impl Job for Failing {
    const NAME: &'static str = "failing";
    const ABOUT: &'static str = "Fails when it is told to";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let job = self.clone();
        plan.body.repeat(self.rounds, |round| {
            round.stage("work", move |worker| job.work(worker)).threads(Threads::Count(self.threads));
        });
        Ok(())
    }
}

impl Failing {
    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        while self.until.as_ref().is_some_and(|file| !file.exists()) {
            std::thread::sleep(Duration::from_millis(20));
            worker.clock()?;
        }
        let round = Some(worker.place.epoch + 1);
        let last = worker.place.index + 1 == worker.place.threads;
        if last && round == self.error_in {
            return Err(Error::data("a value that makes no sense"));
        }
        assert!(!last || round != self.panic_in, "out of ideas");
        // Siblings wait here, until they are told that nobody comes.
        worker.clock()
    }
}

fn main() -> ExitCode {
    flexps_jobs::cli::main(flexps_jobs::registry().with::<Failing>())
}
