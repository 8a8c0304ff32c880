//! `flexps workload`: the same jobs under several policies, compared by numbers and in a picture.
//!
//! Invariant: everything that can be refused is refused before anything runs; tables and pictures are made of traces, so
//! they look alike whether the runs were simulated, replayed or live.

pub mod args;
mod file;
mod lanes;
mod live;
mod picture;
mod play;
mod recorded;
mod show;
mod text;

#[cfg(test)]
mod tests;

use args::{HistoryCommand, SimulateArgs, WorkloadCommand};
use flexps_common::job::Registry;
use flexps_common::{Error, Result};
use flexps_master::scheduler::policy;
use flexps_master::simulate::{Cluster, bounds, measure, simulate};
use show::{Comparison, Outcome};

/// Runs a command.
pub fn workload(command: WorkloadCommand, registry: Registry) -> Result<()> {
    match command {
        WorkloadCommand::Simulate(args) => simulated(args, &registry),
        WorkloadCommand::Run(args) => super::block_on(live::run(args, registry)),
        WorkloadCommand::Replay(args) => recorded::replay(&args),
    }
}

/// Runs a command.
pub fn history(command: HistoryCommand) -> Result<()> {
    match command {
        HistoryCommand::Export(args) => super::block_on(recorded::export(args)),
    }
}

fn simulated(args: SimulateArgs, registry: &Registry) -> Result<()> {
    picture::check(args.compare.picture.as_deref())?;
    let mut file = file::read(&args.file, registry)?;
    file.workload.luck.breakdowns = args.breakdowns.or(file.workload.luck.breakdowns);
    let (slaves, slots) = file.size(args.slaves, args.slots);
    let (Some(slaves), Some(slots)) = (slaves, slots) else {
        let name = args.file.display();
        return Err(Error::user(format!("{name} names no cluster; give --slaves N --slots M")));
    };
    let cluster = Cluster { weights: file.cluster.weights, ..Cluster::equal(slaves, slots).with_memory(file.memory) };
    let mut jobs = file.workload.jobs.iter().zip(&file.real);
    if let Some((job, Some(real))) = jobs.find(|(job, _)| job.stages.is_empty()) {
        return Err(Error::user(format!(
            "job {} runs {} and has no [[job.stage]] to simulate it by; `flexps workload run` runs it",
            job.name, real.name
        )));
    }
    let bounds = bounds(&file.workload, &cluster, args.seed);
    let mut outcomes = Vec::new();
    for name in &args.compare.policies {
        let trace = simulate(&file.workload, &cluster, &*policy(name)?, args.seed)?;
        outcomes.push(Outcome { policy: name.clone(), measures: measure(&trace, &bounds), trace });
    }
    let what = format!("simulated, seed {}", args.seed);
    let comparison = Comparison { workload: file.workload.name, how: what, bound: bounds.makespan, outcomes };
    recorded::finish(&args.compare, &comparison)
}
