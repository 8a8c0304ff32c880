//! Why a stage waits, in words, with the numbers.
//!
//! Invariant: what is said is of the same moment as the decision that did not place it.

use crate::scheduler::{Ready, Reservation, Slots, Want};
use crate::size::size;
use flexps_common::ids::SlaveId;

/// The slots that a stage takes.
pub fn needs(want: Want, slaves: &[SlaveId], of: impl Fn(SlaveId) -> Option<Slots>) -> u32 {
    let sum = |threads: fn(&Slots) -> u32| slaves.iter().filter_map(|id| of(*id)).map(|slave| threads(&slave)).sum();
    match want {
        Want::Spread { threads, .. } => threads,
        Want::Range { least, .. } => least,
        Want::OneSlave(n) => n,
        Want::PerSlave(n) => n * slaves.len() as u32,
        Want::All => sum(|slave| slave.slots),
        Want::Cores => sum(Slots::with_cores),
    }
}

/// Why a stage was not placed.
pub fn why(ready: &Ready, slots: &[Slots], reserved: Option<&Reservation>) -> String {
    // Slots are in order of identity.
    let of = |id: &SlaveId| slots.binary_search_by_key(id, |s| s.id).ok().map(|at| &slots[at]);
    let own: Vec<&Slots> = ready.slaves.iter().filter_map(of).collect();
    let text = for_memory(ready, &own).unwrap_or_else(|| for_slots(ready, &own));
    match reserved {
        Some(r) => format!("{text}; {} slots are held for it", r.workers.iter().map(|w| w.1).sum::<u32>()),
        None => text,
    }
}

/// What it lacks when it does not lack memory.
fn for_slots(ready: &Ready, own: &[&Slots]) -> String {
    let (free, all): (u32, u32) = (own.iter().map(|s| s.free).sum(), own.iter().map(|s| s.slots).sum());
    let most = own.iter().map(|s| s.free).max().unwrap_or(0);
    let needs = needs(ready.want, &ready.slaves, |id| own.iter().find(|s| s.id == id).map(|s| **s));
    match ready.want {
        Want::OneSlave(n) if n > most => format!("needs {n} slots on one slave, most free is {most}"),
        Want::PerSlave(n) if own.iter().any(|s| s.free < n) => {
            let least = own.iter().map(|s| s.free).min().unwrap_or(0);
            format!("needs {n} slots on each of {} slaves, least free is {least}", ready.slaves.len())
        }
        _ if needs > free => format!("needs {needs} slots, {free} of {all} are free"),
        _ => format!("waits for its turn; needs {needs} slots, {free} of {all} are free"),
    }
}

/// The memory that it lacks, if it does.
fn for_memory(ready: &Ready, own: &[&Slots]) -> Option<String> {
    let memory = ready.memory;
    let enough: Vec<&&Slots> = own.iter().filter(|s| s.memory >= memory).collect();
    if enough.len() == own.len() {
        return None;
    }
    let (least, most) = own.iter().fold((u64::MAX, 0), |(least, most), s| (s.memory.min(least), s.memory.max(most)));
    let (there, free) = (enough.len(), enough.iter().map(|s| s.free).sum::<u32>());
    let (memory, slaves) = (size(memory), own.len());
    match ready.want {
        Want::PerSlave(_)
        | Want::All
        | Want::Cores
        | Want::Spread { each: 1.., .. }
        | Want::Range { each: 1.., .. } => {
            Some(format!("needs {memory} of memory on each of {slaves} slaves, least free is {}", size(least)))
        }
        _ if there == 0 => Some(format!("needs {memory} of memory on one slave, most free is {}", size(most))),
        Want::OneSlave(n) if enough.iter().all(|s| s.free < n) => {
            Some(format!("needs {n} slots and {memory} of memory on one slave, no slave has both free"))
        }
        Want::Spread { threads: n, .. } | Want::Range { least: n, .. } if n > free => Some(format!(
            "needs {n} slots where {memory} of memory are free, there are {free} on {there} of {slaves} slaves"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::JobId;
    use std::time::Duration;

    /// Two slaves of four slots: one with 2 GiB and all slots free, one with 8 GiB and a slot.
    fn says(want: Want, gib: u64) -> String {
        let slot = |id, free, gib: u64| Slots { id: SlaveId(id), slots: 4, free, cores: 4, memory: gib << 30 };
        let ready = Ready {
            job: JobId(1),
            stage: 0,
            priority: 0,
            owner: 0,
            since: Duration::ZERO,
            passed_over: 0,
            want,
            memory: gib << 30,
            slaves: [SlaveId(1), SlaveId(2)].into(),
            near: None,
            estimate: None,
        };
        why(&ready, &[slot(1, 4, 2), slot(2, 1, 8)], None)
    }

    #[test]
    fn a_stage_that_lacks_memory_says_how_much_and_where() {
        let spread = |threads, each| Want::Spread { threads, each };
        assert_eq!(says(Want::OneSlave(1), 9), "needs 9.0 GiB of memory on one slave, most free is 8.0 GiB");
        assert_eq!(says(spread(1, 0), 9), "needs 9.0 GiB of memory on one slave, most free is 8.0 GiB");
        let both = "needs 2 slots and 4.0 GiB of memory on one slave, no slave has both free";
        assert_eq!(says(Want::OneSlave(2), 4), both);
        let few = "needs 3 slots where 4.0 GiB of memory are free, there are 1 on 1 of 2 slaves";
        assert_eq!(says(spread(3, 0), 4), few);
        assert_eq!(says(Want::Range { least: 3, most: 9, each: 0 }, 4), few);
        let each = "needs 4.0 GiB of memory on each of 2 slaves, least free is 2.0 GiB";
        for want in [Want::All, Want::PerSlave(1), spread(2, 1), Want::Range { least: 2, most: 9, each: 1 }] {
            assert_eq!(says(want, 4), each);
        }
    }

    #[test]
    fn one_whose_memory_is_free_says_which_slots_it_lacks() {
        assert_eq!(says(Want::OneSlave(5), 2), "needs 5 slots on one slave, most free is 4");
        assert_eq!(says(Want::PerSlave(2), 0), "needs 2 slots on each of 2 slaves, least free is 1");
        assert_eq!(says(Want::Spread { threads: 6, each: 0 }, 1), "needs 6 slots, 5 of 8 are free");
        let turn = "waits for its turn; needs 1 slots, 5 of 8 are free";
        assert_eq!(says(Want::Spread { threads: 1, each: 0 }, 4), turn);
    }
}
