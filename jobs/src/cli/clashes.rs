//! Flags of a job of one's own that are taken: clap looks for them in debug builds alone, and would set both.

use clap::{Arg, Command};
use flexps_common::{Error, Result};
use std::collections::BTreeSet;

/// Refuses jobs below `run` and `plan` two of whose flags, with those that all jobs have, are called the same.
pub fn check(grammar: &Command) -> Result<()> {
    for parent in grammar.get_subcommands().filter(|parent| ["run", "plan"].contains(&parent.get_name())) {
        for job in parent.get_subcommands() {
            // Those of all jobs are not propagated before a line is parsed.
            let common =
                [grammar, parent].into_iter().flat_map(|above| above.get_arguments().filter(|arg| arg.is_global_set()));
            let mut seen = BTreeSet::new();
            for name in common.chain(job.get_arguments()).filter_map(Arg::get_long) {
                if !seen.insert(name) {
                    return Err(Error::bug(format!(
                        "the flag --{name} of the job {} is taken, by another of its parameters or for all jobs; call it otherwise",
                        job.get_name()
                    )));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::cli::args;
    use clap::Args;
    use flexps_common::Result;
    use flexps_common::job::{Job, Registry};
    use flexps_common::plan::Plan;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, Args)]
    struct Queued {
        /// Taken.
        #[arg(id = "own-queue", long = "queue")]
        queue: Option<String>,
    }

    impl Job for Queued {
        const NAME: &'static str = "queued";
        const ABOUT: &'static str = "has a flag that is taken";

        fn plan(&self, _: &mut Plan) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flag_that_is_taken_is_refused_and_the_jobs_here_have_none() {
        super::check(&args::command(&crate::registry())).unwrap();
        let error = super::check(&args::command(&Registry::new().with::<Queued>())).unwrap_err();
        assert!(error.message.starts_with("the flag --queue of the job queued is taken"), "{error}");
    }
}
