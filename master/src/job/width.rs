//! How many slaves of a machine a job uses whose stages are given no number of threads, and what its report says of it.
//!
//! Workers that stand still while others have their cores only make stages wait, and each process more has its part of the
//! rows to itself and talks by messages. Invariants: of slaves that share cores at least one is left; a plan with a stage that
//! is to have more threads than the rest of the slaves has, or all of them, loses none.

use super::admission::Candidate;
use crate::size::size;
use flexps_common::ids::SlaveId;
use flexps_common::plan::{Consistency, Plan, Threads};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The slaves that are left where those of a machine have, by [`Threads::Cores`], more threads than it has cores, or where the
/// `bytes` of the input's files are worth no more of them; none where that is all of them. Of one machine's those are first
/// that have free slots, then those with more of the input on their host.
pub fn sharing(plan: &Plan, candidates: &[Candidate], bytes: u64) -> Option<Vec<Candidate>> {
    let stages = plan.stages();
    if stages.iter().all(|stage| stage.threads != Threads::Cores) {
        return None;
    }
    let machines = candidates.iter().map(|c| &*c.machine).collect::<BTreeSet<_>>().len();
    if machines == candidates.len() {
        return None;
    }
    // How many slaves of a machine the input is worth.
    let worth = match plan.slave_bytes {
        0 => u64::MAX,
        each => (bytes / each / machines.max(1) as u64).max(1),
    };
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by(|a, b| rank(a).cmp(&rank(b)));
    // By machine: threads and slaves.
    let mut taken: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    let mut few = Vec::new();
    for c in sorted {
        let (threads, slaves) = taken.entry(&*c.machine).or_default();
        if *slaves == 0 || *slaves < worth && *threads + c.with_cores() <= c.cores {
            (*threads, *slaves) = (*threads + c.with_cores(), *slaves + 1);
            few.push(c.clone());
        }
    }
    let threads: u32 = few.iter().map(Candidate::with_cores).sum();
    let wants_more = |threads_of: Threads| match threads_of {
        Threads::All | Threads::Auto | Threads::Offline => true,
        Threads::Count(most) | Threads::Range(_, most) => most > threads,
        Threads::Cores | Threads::PerSlave(_) | Threads::OneSlave(_) | Threads::Visit(_) => false,
    };
    (few.len() < candidates.len() && !stages.iter().any(|stage| wants_more(stage.threads))).then_some(few)
}

/// The order in which slaves of a machine are taken.
fn rank(c: &Candidate) -> impl Ord {
    (c.free == 0, Reverse((c.local_bytes, c.free)), &*c.name)
}

/// The machines of slaves, each given with its cores, and how many these are: of those on one machine they are the same.
pub fn machines<'a>(slaves: impl IntoIterator<Item = (&'a str, u32)>) -> BTreeMap<&'a str, u32> {
    let mut machines = BTreeMap::new();
    for (machine, cores) in slaves {
        let most = machines.entry(machine).or_default();
        *most = cores.max(*most);
    }
    machines
}

fn many(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What the report says of a job that is to repeat its bits, but has stages on so many slaves under models that don't: of one
/// slave's workers those that consume rows come one by one, as long as one is enough.
pub fn unrepeatable(plan: &Plan, slaves: usize) -> Option<String> {
    let stages = plan.stages().into_iter();
    let mut loose = stages.filter(|stage| stage.consistency != Consistency::Bsp && (slaves > 1 || !stage.consumes));
    let stage = loose.next()?;
    Some(format!(
        "with --reproducible the rows of each worker are the same, but under {} stage {} sees updates as they come, so its last \
         bits may be others each time",
        stage.consistency, stage.name
    ))
}

/// Which stage holds a plan to so few slaves that could use more of them: it passes over rows, so that it has a worker on each, and
/// is to begin with few.
fn held_back(plan: &Plan, slaves: usize) -> Option<String> {
    plan.stages().into_iter().filter(|stage| stage.input.is_some()).find_map(|stage| match stage.threads {
        Threads::Range(least, most) if least as usize == slaves && most > least => Some(format!(
            "stage {} passes over rows on each of them and may begin with {}; a least number of one for each slave gives it all",
            stage.name,
            many(least.into(), "thread"),
        )),
        _ => None,
    })
}

/// What the report says of a job that has `chosen` of the `candidates`, and there as many threads as there are cores: how
/// many, why, and what changes it. Nothing where it has all slots.
pub fn note(plan: &Plan, candidates: &[Candidate], chosen: &[SlaveId], bytes: u64) -> Option<String> {
    let own: Vec<&Candidate> = candidates.iter().filter(|c| chosen.contains(&c.id)).collect();
    let machines = machines(own.iter().map(|c| (&*c.machine, c.cores)));
    let (threads, slots): (u32, u32) = own.iter().fold((0, 0), |(t, s), c| (t + c.with_cores(), s + c.slots));
    let (live, used) = (candidates.len(), own.len());
    let left = |bytes| sharing(plan, candidates, bytes).map_or(live, |few| few.len());
    let few = used < live && left(bytes) == used;
    if !few && used < live {
        let allowed = (plan.most_slaves == Some(used as u32)).then(|| "--slaves allows no more".to_owned());
        let why = allowed.or_else(|| held_back(plan, used)).unwrap_or_else(|| "no stage can use more".to_owned());
        return Some(format!("runs on {used} of {live} slaves, since {why}"));
    }
    let by_cores = plan.stages().iter().any(|stage| stage.threads == Threads::Cores) && threads < slots;
    if !few && !by_cores {
        return None;
    }
    let has = format!("{} on {used} of {}", many(threads.into(), "thread"), many(live as u64, "slave"));
    let why = if few && left(u64::MAX) > used {
        format!("{} of input are worth no more slaves of a machine", size(bytes))
    } else {
        let cores = many(machines.values().map(|n| u64::from(*n)).sum(), "core");
        let of = if machines.len() > 1 { "machines have" } else { "machine has" };
        format!("the slaves' {of} {cores}")
    };
    Some(format!("{has}: {why}; --threads (of svrg --wide) gives another number"))
}
