//! The cluster that a workload runs on in virtual time, and what can never run on it.
//!
//! Invariant: of what fits every stage can be placed once nothing else runs.

use super::Workload;
use crate::scheduler::Want;
use crate::size::size;
use flexps_common::{Error, Result};
use std::collections::BTreeMap;

/// The cluster to simulate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// The slots of each slave.
    pub slots: Vec<u32>,
    /// Their names; they are numbered when there are none.
    pub names: Vec<String>,
    /// Bytes of memory of each; none when it does not matter.
    pub memory: Vec<u64>,
    /// Weights of shares; the others weigh 1.
    pub weights: BTreeMap<String, f64>,
}

impl Cluster {
    /// So many slaves of so many slots.
    pub fn equal(slaves: u32, slots: u32) -> Self {
        Self { slots: vec![slots; slaves as usize], ..Self::default() }
    }

    /// The same slaves with so much memory each.
    #[must_use]
    pub fn with_memory(self, each: Option<u64>) -> Self {
        let memory = each.map_or_else(Vec::new, |bytes| vec![bytes; self.slots.len()]);
        Self { memory, ..self }
    }

    /// The memory of a slave, by place.
    pub fn memory_of(&self, slave: usize) -> u64 {
        self.memory.get(slave).copied().unwrap_or(u64::MAX)
    }

    /// All slots.
    pub fn total(&self) -> u32 {
        self.slots.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// Refuses what can never run, with the numbers.
pub(super) fn fits(workload: &Workload, cluster: &Cluster) -> Result<()> {
    let all = cluster.total();
    if all == 0 || cluster.slots.contains(&0) {
        return Err(Error::user(format!("a cluster of {} slaves with {all} slots runs nothing", cluster.slots.len())));
    }
    for job in &workload.jobs {
        for stage in &job.stages {
            let called = format!("stage {} of job {}", stage.name, job.name);
            let refused = |text: String| Err(Error::user(format!("{called} needs {text}")));
            let own = job.slaves_of(stage);
            let slaves = || {
                let places =
                    cluster.slots.iter().enumerate().filter(|(place, _)| own.is_empty() || own.contains(place));
                places.map(|(place, slots)| (*slots, cluster.memory_of(place)))
            };
            let able = || slaves().filter(|(_, memory)| *memory >= stage.memory);
            let (memory, least) = (size(stage.memory), job.limits(stage, cluster).0);
            match stage.threads.want() {
                Want::PerSlave(_) | Want::All | Want::Spread { each: 1.., .. } | Want::Range { each: 1.., .. }
                    if able().count() < slaves().count() =>
                {
                    let has = slaves().map(|(_, memory)| memory).min().unwrap_or(0);
                    return refused(format!("{memory} of memory on each slave, the smallest has {}", size(has)));
                }
                _ if able().count() == 0 => {
                    let has = slaves().map(|(_, memory)| memory).max().unwrap_or(0);
                    return refused(format!("{memory} of memory on one slave, the largest has {}", size(has)));
                }
                _ => {}
            }
            let (smallest, largest) = able().fold((u32::MAX, 0), |(s, l), (n, _)| (s.min(n), l.max(n)));
            let has = able().fold(0u32, |sum, (n, _)| sum.saturating_add(n));
            let there = if stage.memory > 0 { format!(" where {memory} of memory are") } else { String::new() };
            match stage.threads.want() {
                Want::OneSlave(n) if n > largest => {
                    return refused(format!("{n} slots on one slave{there}, the largest has {largest}"));
                }
                Want::PerSlave(n) if n > smallest => {
                    return refused(format!("{n} slots on each slave, the smallest has {smallest}"));
                }
                _ if least > has => return refused(format!("{least} slots{there}, the cluster has {has}")),
                _ => {}
            }
        }
    }
    Ok(())
}
