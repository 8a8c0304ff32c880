//! The flags that say when a job is to run, and those of a master that weigh them.

use super::resources::size;
use crate::flags::seconds;
use clap::Args;
use flexps_common::checkpoint::Checkpoint;
use flexps_common::data::schema::DataPath;
use flexps_common::ids::JobId;
use flexps_common::scheduling::Scheduling;

/// When a job is to run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Scheduling")]
pub struct SchedulingArgs {
    /// Jobs of a higher one go first: under the policies prioritized and backfill, and under fair within a share
    #[arg(long, global = true, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub priority: i32,
    /// Queue whose share it counts against under `fair` [default: the user's own]
    #[arg(long, global = true, value_name = "NAME")]
    pub queue: Option<String>,
    /// Who it is run for
    #[arg(long, global = true, env = "USER", default_value = "", value_name = "NAME", hide_env_values = true)]
    pub user: String,
    /// Start when this job is done, fail when it fails; may be given again
    #[arg(long, global = true, value_name = "JOB")]
    pub after: Vec<JobId>,
    /// Time after its submission by which it should be done, seconds, or 90s, 10m, 2h; reported, not enforced
    #[arg(long, global = true, value_name = "TIME", value_parser = seconds)]
    pub deadline: Option<f64>,
    /// Start over when a slave is lost after the rows are read, this many times at most, on the slaves that are there then;
    /// while rows are read the others read what it had, without starting over
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub restarts: u32,
    /// Folder for a checkpoint, on a disk of the master's machine or at an hdfs:// URL, to go on from when the same command is
    /// given again, or by --restarts; it goes when the job is done. All jobs but lr --solver ftrl write one between epochs or
    /// rounds
    #[arg(long, global = true, value_name = "DIR")]
    pub checkpoint: Option<DataPath>,
    /// Least time between two checkpoints, seconds, or 90s, 10m, 2h; never less than nine times as long as one takes
    /// [default: 60s]
    #[arg(long, global = true, value_name = "TIME", requires = "checkpoint", value_parser = spaced)]
    pub checkpoint_every: Option<f64>,
    /// Use no more slaves than N: a few threads of a stage over rows, which would else be spread over as many slaves, are then
    /// beside one another
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slaves: Option<u32>,
    /// Memory that each of its stages needs on each slave where it has threads, e.g. 8GiB: it waits until so much of what
    /// slaves offer (`flexps slave --memory`) is not asked for [default: what the job says, mostly nothing]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub stage_memory: Option<u64>,
}

impl SchedulingArgs {
    /// As it goes to the master.
    pub fn scheduling(&self) -> Scheduling {
        Scheduling {
            priority: self.priority,
            user: self.user.clone(),
            queue: self.queue.clone(),
            after: self.after.clone(),
            deadline: self.deadline,
            memory: self.stage_memory,
            restarts: self.restarts,
            slaves: self.slaves,
            checkpoint: self
                .checkpoint
                .clone()
                .map(|folder| Checkpoint { folder, every: self.checkpoint_every.unwrap_or_else(Checkpoint::usually) }),
        }
    }
}

/// A time between two checkpoints.
fn spaced(text: &str) -> Result<f64, String> {
    Checkpoint::spaced(seconds(text)?).map_err(|e| e.message)
}

/// `NAME=WEIGHT`.
pub fn weight(text: &str) -> Result<(String, f64), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let weight = parts.and_then(|(name, weight)| Some((name.to_owned(), weight.parse::<f64>().ok()?)));
    match weight {
        Some((name, weight)) if weight > 0.0 && weight.is_finite() => Ok((name, weight)),
        _ => Err(format!("'{text}' is no share; give NAME=WEIGHT with a weight above 0, e.g. ann=2")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_between_two_checkpoints_is_one_that_a_clock_can_show() {
        assert_eq!((spaced("10s"), spaced("300d")), (Ok(10.0), Ok(300.0 * 86_400.0)));
        for bad in ["300000000000000d", "-1", "never", "0"] {
            assert!(spaced(bad).is_err(), "{bad}");
        }
        assert!(spaced("300000000000000d").is_err_and(|e| e.contains("give seconds of 0 to 3153600000")));
    }

    #[test]
    fn a_weight_is_a_number_above_zero() {
        assert_eq!(weight("ann=2.5"), Ok(("ann".to_owned(), 2.5)));
        for bad in ["ann", "=2", "ann=", "ann=0", "ann=-1", "ann=inf", "ann=NaN"] {
            assert!(weight(bad).is_err_and(|e| e.contains(bad)), "{bad}");
        }
    }
}
