//! The flags by which a run is tried under conditions that are put in.

use clap::Args;
use flexps_common::curve::Optimize;
use flexps_common::experiment::{Experiment, Injection, Splits, Switch};
use flexps_common::home::Transfer;
use flexps_common::plan::Compression;
use flexps_common::report::Access;

/// What is tried with a job.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Experiments")]
pub struct ExperimentArgs {
    /// Put in slowness: `slow:worker=3,factor=4`, that worker of each stage (counted from 0) takes so many times as long
    /// for what it computes between two clocks; `delay:slave=h2,ms=5`, what this slave sends to others of the job arrives
    /// so much later. May be given again
    #[arg(long, global = true, value_name = "WHAT")]
    pub inject: Vec<Injection>,

    /// How the model goes from stage to stage: `direct`, from slave to slave to where the next stage's workers are, where
    /// that costs less; `messages`, the same, but never read straight from the memory of a slave on the same machine; `kv`,
    /// it stays on all slaves, and each stage reaches it over the network
    #[arg(long, global = true, value_name = "direct|messages|kv", default_value_t)]
    pub transfer: Transfer,

    /// How workers reach the model, instead of what costs least: `own` and `shared`, brought beside the workers of a stage
    /// on one slave, in one copy with a lock for each chunk; `racing`, the same without locks under any model but bsp, so
    /// that of two updates of a value at once one may be lost (dense tables that fit memory); `shards`, on all slaves
    #[arg(long, global = true, value_name = "own|shared|racing|shards")]
    pub model_access: Option<Access>,

    /// Workers of every stage, whatever the job would give each
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub fixed_threads: Option<u32>,

    /// Which slave reads which split of the input: `near`, one on whose host it lies, as far as that keeps all of them
    /// busy; `random`, by lot, to compare
    #[arg(long, global = true, value_name = "near|random", default_value_t)]
    pub splits: Splits,

    /// Whether the workers of a slave share what they read of other slaves' shards, as long as the consistency model
    /// allows: where enough of it is shared, always, or never
    #[arg(long, global = true, value_name = "auto|on|off", default_value_t)]
    pub slave_cache: Switch,

    /// Sum what the workers of a slave add to other slaves' shards at a clock before it is sent (under bsp): fewer messages
    /// and values, but keys that no read has named before
    #[arg(long, global = true)]
    pub sum_updates: bool,

    /// How values go from slave to slave: `none`, as they are; `lz4`, compressed without loss; `auto`, like lz4 on links between
    /// hosts where that is measured to take less time; `f16`, rounded to 16-bit floats where the job lets them be. As the plan
    /// says if not given: as they are, mostly
    #[arg(long, global = true, value_name = "none|lz4|auto|f16")]
    pub compress: Option<Compression>,

    /// What the threads of stages that are given `auto` or `offline` are to make least: the time of a run, `elapsed`; that
    /// time by the threads, `worker-time`; or both, with this weight, 0 to 1, of the latter
    #[arg(long, global = true, value_name = "elapsed|worker-time|WEIGHT", default_value_t)]
    pub optimize: Optimize,
}

impl ExperimentArgs {
    /// As it goes to the master.
    pub fn experiment(&self) -> Experiment {
        let Self { inject, transfer, model_access: access, fixed_threads, .. } = self.clone();
        let Self { splits, slave_cache, sum_updates, compress, optimize, .. } = *self;
        Experiment { inject, transfer, access, fixed_threads, splits, slave_cache, sum_updates, compress, optimize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::experiment::FLAGS;

    #[test]
    fn those_who_are_told_where_experiments_belong_know_all_of_them() {
        let command = ExperimentArgs::augment_args(clap::Command::new("run"));
        assert!(command.get_arguments().filter_map(clap::Arg::get_long).eq(FLAGS));
    }
}
