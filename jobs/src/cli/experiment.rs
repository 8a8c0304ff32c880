//! The flags by which a run is tried under conditions that are put in.

use clap::Args;
use flexps_common::experiment::{Experiment, Injection};
use flexps_common::home::Transfer;

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
    /// that costs less; `kv`, it stays on all slaves, and each stage reaches it over the network
    #[arg(long, global = true, value_name = "direct|kv", default_value_t)]
    pub transfer: Transfer,
}

impl ExperimentArgs {
    /// As it goes to the master.
    pub fn experiment(&self) -> Experiment {
        Experiment { inject: self.inject.clone(), transfer: self.transfer }
    }
}
