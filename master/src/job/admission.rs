//! Which slaves a job uses, and whether its stages can ever fit on them.
//!
//! Invariant: on the chosen slaves every stage of the plan fits once all their slots are free; what can never fit is an
//! error with the numbers.

use crate::scheduler::Want;
use flexps_common::ids::SlaveId;
use flexps_common::plan::{Plan, StageSpec, Threads};
use flexps_common::{Error, Result};
use std::cmp::Reverse;

/// A slave that a job may use.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its identity.
    pub id: SlaveId,
    /// Its name: the order of shards, so that the same slaves give the same order after a restart too.
    pub name: String,
    /// Slots that it lends.
    pub slots: u32,
    /// Of which free.
    pub free: u32,
    /// Bytes of the job's input on its host.
    pub local_bytes: u64,
}

/// What a stage wants of its job's slaves, with so many threads where the engine chooses. One that has an input needs a
/// worker beside each slave's rows.
pub fn want(stage: &StageSpec, chosen: u32) -> Want {
    let each = u32::from(stage.input.is_some());
    match stage.threads {
        Threads::All => Want::All,
        Threads::PerSlave(n) => Want::PerSlave(n),
        Threads::OneSlave(n) | Threads::Visit(n) => Want::OneSlave(n),
        Threads::Range(least, most) if stage.input.is_none() => Want::Range { least, most },
        Threads::Count(threads) | Threads::Range(threads, _) => Want::Spread { threads, each },
        Threads::Auto | Threads::Offline => Want::Spread { threads: chosen, each },
    }
}

/// Stages that ask for no thread at all are refused whatever the cluster is.
pub fn check(plan: &Plan) -> Result<()> {
    for stage in plan.stages() {
        if matches!(
            stage.threads,
            Threads::Count(0) | Threads::PerSlave(0) | Threads::OneSlave(0) | Threads::Visit(0) | Threads::Range(0, _)
        ) {
            return Err(Error::user(format!("stage {} asks for 0 threads; give at least 1", stage.name)));
        }
        if let Some(slave) = stage.on.as_ref().filter(|_| stage.input.is_some()) {
            return Err(Error::user(format!(
                "stage {} is to run on {slave} alone, but passes over rows, which lie on all slaves of its job",
                stage.name
            )));
        }
    }
    Ok(())
}

/// The slaves for a job, in shard order: all, but no more than its widest stage has threads, nor than any stage with an
/// input has. There must be at least one candidate.
pub fn choose(plan: &Plan, candidates: &[Candidate]) -> Result<Vec<SlaveId>> {
    let stages = plan.stages();
    let per_slave =
        |s: &&StageSpec| if let Threads::PerSlave(n) | Threads::Visit(n) = s.threads { Some(n) } else { None };
    let one_slave = |s: &&StageSpec| if let Threads::OneSlave(n) = s.threads { Some(n) } else { None };
    let mut fitting = candidates.to_vec();
    let each = stages.iter().filter_map(per_slave).max().unwrap_or(0);
    fitting.retain(|c| c.slots >= each);
    let mut named: Vec<&str> = stages.iter().filter_map(|s| s.on.as_deref()).collect();
    named.sort_unstable();
    named.dedup();
    for stage in &stages {
        fits_named(stage, candidates, &fitting)?;
    }
    let most = candidates.iter().map(|c| c.slots).max().unwrap_or(0);
    for stage in &stages {
        let (n, where_to) = match stage.threads {
            Threads::PerSlave(n) | Threads::Visit(n) => (n, "each slave"),
            Threads::OneSlave(n) => (n, "one slave"),
            _ => continue,
        };
        if n > most {
            return Err(Error::user(format!(
                "stage {} needs {n} slots on {where_to}, the largest slave has {most}; give it at most {most} threads",
                stage.name
            )));
        }
    }
    let count = |s: &&StageSpec| match s.threads {
        Threads::Count(n) | Threads::Range(n, _) => Some(n as usize),
        _ => None,
    };
    // A stage on one slave needs no second one, but needs one that is large enough.
    let alone = |s: &&StageSpec| s.on.is_some() || one_slave(s).is_some();
    let slaves = |s: &&StageSpec| match s.threads {
        _ if alone(s) => 1,
        Threads::Range(_, most) if s.input.is_none() => most as usize,
        _ => count(s).unwrap_or(usize::MAX),
    };
    let widest = stages.iter().map(slaves).max().unwrap_or(1);
    let narrowest =
        stages.iter().filter(|s| s.input.is_some()).filter_map(|s| Some((count(s)?, s.name.as_str()))).min();
    let limit = widest.min(narrowest.map_or(usize::MAX, |(n, _)| n)).min(fitting.len()).max(named.len()).max(1);
    if limit < fitting.len() {
        let other = |c: &Candidate| !named.contains(&c.name.as_str());
        fitting.sort_by_key(|c| (other(c), c.free == 0, Reverse((c.local_bytes, c.free)), c.name.clone()));
        let total = |chosen: &[Candidate]| chosen.iter().map(|c| u64::from(c.slots)).sum::<u64>();
        let needed = stages.iter().filter_map(count).max().unwrap_or(0) as u64;
        let largest = stages.iter().filter_map(one_slave).max().unwrap_or(0);
        let fits_one = fitting[..limit].iter().any(|c| c.slots >= largest);
        if total(&fitting[..limit]) < needed || !fits_one {
            fitting.sort_by_key(|c| (other(c), Reverse(c.slots), c.name.clone()));
        }
        fitting.truncate(limit);
    }
    let slots: u64 = fitting.iter().map(|c| u64::from(c.slots)).sum();
    for stage in &stages {
        let Some(needs) = count(stage).filter(|n| *n as u64 > slots) else { continue };
        let all: u64 = candidates.iter().map(|c| u64::from(c.slots)).sum();
        return Err(Error::user(match narrowest {
            Some((n, narrow)) if needs as u64 <= all => format!(
                "stage {} needs {needs} slots, but stage {narrow} with {n} threads passes over rows and so limits the job \
                 to {limit} of {} slaves, which have {slots} slots; give {narrow} at least one thread for each slave",
                stage.name,
                candidates.len()
            ),
            _ => format!(
                "stage {} needs {needs} slots, the cluster has {all}; give it at most {all} threads",
                stage.name
            ),
        }));
    }
    fitting.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    Ok(fitting.into_iter().map(|c| c.id).collect())
}

/// Whether the slave that a stage names, if it does, is there and large enough.
fn fits_named(stage: &StageSpec, candidates: &[Candidate], fitting: &[Candidate]) -> Result<()> {
    let Some(name) = &stage.on else { return Ok(()) };
    let Some(slave) = candidates.iter().find(|c| c.name == *name) else {
        let mut known: Vec<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
        known.sort_unstable();
        return Err(Error::user(format!(
            "stage {} is to run on {name}, but no slave is called so; there are {}",
            stage.name,
            known.join(", ")
        )));
    };
    let needs = match stage.threads {
        Threads::Count(n) | Threads::Range(n, _) | Threads::OneSlave(n) | Threads::PerSlave(n) | Threads::Visit(n) => n,
        Threads::All | Threads::Auto | Threads::Offline => 1,
    };
    if needs > slave.slots || !fitting.iter().any(|c| c.id == slave.id) {
        return Err(Error::user(format!(
            "stage {} is to run on {name}, whose {} slots are too few for it, or for what others of the job's stages want on \
             each slave",
            stage.name, slave.slots
        )));
    }
    Ok(())
}
