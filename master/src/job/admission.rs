//! Which slaves a job uses, and whether its stages can ever fit on them.
//!
//! Invariant: on the chosen slaves every stage of the plan fits once all their slots and memory are free; what can never
//! fit is an error with the numbers.

use super::width::sharing;
use crate::scheduler::Want;
use crate::size::size;
use flexps_common::ids::SlaveId;
use flexps_common::plan::{Plan, StageSpec, Threads};
use flexps_common::wire::slaves::SlaveLine;
use flexps_common::{Error, Result};
use std::cmp::Reverse;
use std::sync::Arc;

/// A slave that a job may use.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its identity.
    pub id: SlaveId,
    /// Its name: the order of shards, so that the same slaves give the same order after a restart too.
    pub name: Arc<str>,
    /// Slots that it lends.
    pub slots: u32,
    /// Of which free.
    pub free: u32,
    /// Bytes of memory that stages may ask for.
    pub memory: u64,
    /// Of which none that runs asked for.
    pub memory_left: u64,
    /// Bytes of the job's input on its host.
    pub local_bytes: u64,
    /// What it shares its cores on, and how many there are.
    pub machine: Arc<str>,
    /// See above.
    pub cores: u32,
}

impl Candidate {
    /// Of its slots as many as it has cores for.
    pub fn with_cores(&self) -> u32 {
        self.slots.min(self.cores)
    }
}

/// What a stage wants of its job's slaves, where the engine chooses with so many threads, or with as few as `least`: others
/// may take some of those that were free. One that has an input needs a worker beside each slave's rows; one whose bits must
/// not depend on what is free gets the least of its range.
pub fn want(stage: &StageSpec, (least, chosen): (u32, u32), reproducible: bool) -> Want {
    let each = u32::from(stage.input.is_some());
    match stage.threads {
        Threads::All => Want::All,
        Threads::Cores => Want::Cores,
        Threads::PerSlave(n) => Want::PerSlave(n),
        Threads::OneSlave(n) | Threads::Visit(n) => Want::OneSlave(n),
        Threads::Range(least, _) if reproducible => Want::Spread { threads: least, each },
        Threads::Range(least, most) => Want::Range { least, most, each },
        Threads::Count(threads) => Want::Spread { threads, each },
        Threads::Auto | Threads::Offline if reproducible => Want::Spread { threads: chosen, each },
        Threads::Auto | Threads::Offline => Want::Range { least: least.min(chosen), most: chosen, each },
    }
}

/// The slaves for a job, in shard order: all, but no more than its user allows, than its widest stage has threads, nor than
/// any stage with an input has, and none that has too little for a stage that runs on each of them; of those that share cores
/// no more than [`sharing`] leaves, where all stages fit on these. There must be at least one candidate; `bytes` are those of
/// the input's files, as many as can be where they are not known yet.
pub fn choose(plan: &Plan, candidates: &[Candidate], bytes: u64) -> Result<Vec<SlaveId>> {
    let few = sharing(plan, candidates, bytes).map(|few| choose_of(plan, &few));
    few.and_then(Result::ok).map_or_else(|| choose_of(plan, candidates), Ok)
}

/// Refuses a plan that can never fit on the slaves that a master lists, as that would; without any it refuses nothing.
pub fn check(plan: &Plan, slaves: &[SlaveLine]) -> Result<()> {
    let candidate = |slave: &SlaveLine| {
        let (name, memory): (Arc<str>, _) = (slave.name.as_str().into(), slave.memory.unwrap_or(u64::MAX));
        Candidate {
            id: slave.id,
            name: name.clone(),
            slots: slave.slots,
            free: slave.slots,
            memory,
            memory_left: memory,
            local_bytes: 0,
            // Who shares cores is left out where it would not fit, so nothing hangs on it here.
            machine: name,
            cores: slave.slots,
        }
    };
    let candidates: Vec<Candidate> = slaves.iter().map(candidate).collect();
    if candidates.is_empty() { Ok(()) } else { choose(plan, &candidates, u64::MAX).map(drop) }
}

fn choose_of(plan: &Plan, candidates: &[Candidate]) -> Result<Vec<SlaveId>> {
    let stages = plan.stages();
    let mut named: Vec<&str> = stages.iter().filter_map(|s| s.on.as_deref()).collect();
    named.sort_unstable();
    named.dedup();
    if named.len() > allowed(plan) {
        return Err(Error::user(format!(
            "stages are to run on {}, but the job may use no more than {} of them (--slaves); allow more",
            named.join(", "),
            allowed(plan)
        )));
    }
    let mut fitting = usable(&stages, candidates)?;
    // A stage on one slave needs no second one, but needs one that is large enough.
    let slaves = |s: &&StageSpec| match s.threads {
        Threads::OneSlave(_) => 1,
        _ if s.on.is_some() => 1,
        Threads::Range(_, most) if s.input.is_none() => most as usize,
        _ => count(s).map_or(usize::MAX, |n| n as usize),
    };
    let widest = stages.iter().map(slaves).max().unwrap_or(1);
    let narrowest =
        stages.iter().filter(|s| s.input.is_some()).filter_map(|s| Some((count(s)? as usize, s.name.as_str()))).min();
    let most = narrowest.map_or(usize::MAX, |(n, _)| n).min(fitting.len()).min(allowed(plan)).max(named.len()).max(1);
    let limit = widest.min(most).max(named.len()).max(1);
    if limit < fitting.len() {
        let other = |c: &Candidate| !named.contains(&&*c.name);
        let asked = stages.iter().map(|s| s.memory).max().unwrap_or(0);
        let busy = |c: &Candidate| c.free == 0 || c.memory_left < asked;
        fitting.sort_by_key(|c| (other(c), busy(c), Reverse((c.local_bytes, c.free)), c.name.clone()));
        if !stages.iter().all(|s| fits(s, &fitting[..limit])) {
            let serves = |c: &Candidate| stages.iter().filter(|s| able(s, c)).count();
            fitting.sort_by_key(|c| (other(c), Reverse((serves(c), c.slots)), c.name.clone()));
        }
        // Where no slave is large enough for all stages, some of them need slaves of their own.
        let enough = stages.iter().all(|s| fits(s, &fitting[..limit]));
        fitting.truncate(if enough { limit } else { most });
    }
    if let Some(stage) = stages.iter().find(|s| !fits(s, &fitting)) {
        return Err(too_large(stage, candidates, &fitting, narrowest, plan.most_slaves));
    }
    fitting.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    Ok(fitting.into_iter().map(|c| c.id).collect())
}

/// As many slaves as its user allows.
fn allowed(plan: &Plan) -> usize {
    plan.most_slaves.map_or(usize::MAX, |most| most as usize)
}

/// The fewest threads of a stage that may be anywhere.
fn count(stage: &StageSpec) -> Option<u32> {
    if let Threads::Count(n) | Threads::Range(n, _) = stage.threads { Some(n) } else { None }
}

/// Whether a stage runs on every slave of its job, be it one after the other.
fn everywhere(stage: &StageSpec) -> bool {
    match stage.threads {
        _ if stage.on.is_some() => false,
        Threads::PerSlave(_) | Threads::Visit(_) | Threads::All | Threads::Cores => true,
        Threads::OneSlave(_) => false,
        _ => stage.input.is_some(),
    }
}

/// Whether a slave that is idle can hold workers of a stage: all of them, where they are to be on one slave.
fn able(stage: &StageSpec, slave: &Candidate) -> bool {
    slave.memory >= stage.memory && !matches!(stage.threads, Threads::OneSlave(n) if n > slave.slots)
}

/// Whether a stage fits on these slaves when they are idle, as far as it may be anywhere on them.
fn fits(stage: &StageSpec, slaves: &[Candidate]) -> bool {
    let able = slaves.iter().filter(|c| able(stage, c));
    match count(stage) {
        _ if stage.on.is_some() => true,
        Some(n) => able.map(|c| u64::from(c.slots)).sum::<u64>() >= u64::from(n),
        None => able.count() > 0,
    }
}

/// The slaves that are large enough for the stages that run on each slave of the job; an error where no slave is large enough
/// for some stage.
fn usable(stages: &[&StageSpec], candidates: &[Candidate]) -> Result<Vec<Candidate>> {
    let on_each =
        |s: &&StageSpec| if let Threads::PerSlave(n) | Threads::Visit(n) = s.threads { Some(n) } else { None };
    let each = stages.iter().filter_map(on_each).max().unwrap_or(0);
    let memory = stages.iter().filter(|s| everywhere(s)).map(|s| s.memory).max().unwrap_or(0);
    let mut fitting = candidates.to_vec();
    fitting.retain(|c| c.slots >= each && c.memory >= memory);
    for stage in stages {
        fits_named(stage, candidates, &fitting)?;
    }
    let most = candidates.iter().map(|c| c.slots).max().unwrap_or(0);
    let most_memory = candidates.iter().map(|c| c.memory).max().unwrap_or(0);
    for stage in stages {
        let StageSpec { name, threads, memory, .. } = stage;
        let (n, where_to) = match threads {
            Threads::PerSlave(n) | Threads::Visit(n) => (*n, "each slave"),
            Threads::OneSlave(n) => (*n, "one slave"),
            _ => (0, if everywhere(stage) { "each slave" } else { "one slave" }),
        };
        if n > most {
            return Err(Error::user(format!(
                "stage {name} needs {n} slots on {where_to}, the largest slave has {most}; give it at most {most} threads"
            )));
        }
        if *memory > most_memory {
            let (memory, most) = (size(*memory), size(most_memory));
            return Err(Error::user(format!(
                "stage {name} needs {memory} of memory on {where_to}, the largest slave has {most}; ask for at most {most}"
            )));
        }
    }
    if fitting.is_empty() {
        return Err(Error::user(format!(
            "no slave has both the {each} slots and the {} of memory that the job's stages need on each slave",
            size(memory)
        )));
    }
    Ok(fitting)
}

/// Why a stage does not fit on the slaves that its job may use.
fn too_large(
    stage: &StageSpec,
    candidates: &[Candidate],
    fitting: &[Candidate],
    narrowest: Option<(usize, &str)>,
    allowed: Option<u32>,
) -> Error {
    let StageSpec { name, memory, .. } = stage;
    let sum = |slaves: &[Candidate]| slaves.iter().filter(|c| able(stage, c)).map(|c| u64::from(c.slots)).sum::<u64>();
    let (slots, all, asked) = (sum(fitting), sum(candidates), size(*memory));
    if let (Some(needs), Some(most)) = (count(stage).filter(|needs| u64::from(*needs) <= all), allowed)
        && fitting.len() == most as usize
    {
        return Error::user(format!(
            "stage {name} needs {needs} slots, but the job may use no more than {most} of {} slaves (--slaves), which have \
             {slots} slots; allow more of them, or give it at most {slots} threads",
            candidates.len()
        ));
    }
    Error::user(match (count(stage), narrowest) {
        (None, _) => {
            let n = if let Threads::OneSlave(n) = stage.threads { n } else { 1 };
            format!("stage {name} needs {n} slots and {asked} of memory on one slave, no slave of the job has both")
        }
        (Some(needs), Some((n, narrow))) if u64::from(needs) <= all => format!(
            "stage {name} needs {needs} slots, but stage {narrow} with {n} threads passes over rows and so limits the job \
             to {} of {} slaves, which have {slots} slots; give {narrow} at least one thread for each slave",
            fitting.len(),
            candidates.len()
        ),
        (Some(needs), _) if *memory > 0 || u64::from(needs) <= all => format!(
            "stage {name} needs {needs} slots and {asked} of memory on each of its slaves; those that have it, and room for the \
             job's other stages, have {slots} slots; give it at most {slots} threads"
        ),
        (Some(needs), _) => {
            format!("stage {name} needs {needs} slots, the cluster has {all}; give it at most {all} threads")
        }
    })
}

/// Whether the slave that a stage names, if it does, is there and large enough.
fn fits_named(stage: &StageSpec, candidates: &[Candidate], fitting: &[Candidate]) -> Result<()> {
    let Some(name) = &stage.on else { return Ok(()) };
    let Some(slave) = candidates.iter().find(|c| *c.name == **name) else {
        let mut known: Vec<&str> = candidates.iter().map(|c| &*c.name).collect();
        known.sort_unstable();
        return Err(Error::user(format!(
            "stage {} is to run on {name}, but no slave is called so; there are {}",
            stage.name,
            known.join(", ")
        )));
    };
    let needs = match stage.threads {
        Threads::Count(n) | Threads::Range(n, _) | Threads::OneSlave(n) | Threads::PerSlave(n) | Threads::Visit(n) => n,
        Threads::All | Threads::Cores | Threads::Auto | Threads::Offline => 1,
    };
    if stage.memory > slave.memory {
        let (needs, has) = (size(stage.memory), size(slave.memory));
        return Err(Error::user(format!(
            "stage {} is to run on {name} and needs {needs} of memory, it has {has}",
            stage.name
        )));
    }
    if needs > slave.slots || !fitting.iter().any(|c| c.id == slave.id) {
        return Err(Error::user(format!(
            "stage {} is to run on {name}, whose {} slots are too few for it, or they or its memory for what others of the \
             job's stages want on each slave",
            stage.name, slave.slots
        )));
    }
    Ok(())
}
