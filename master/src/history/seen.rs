//! The slaves that records tell of, as the cluster of a trace or a replay.
//!
//! Invariant: a slave that went and came back is one slave, by its name, as large as it was when it was there last or was
//! used; one that went and that no played job had is none.

use crate::simulate::Cluster;
use flexps_common::ids::SlaveId;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Default)]
pub(super) struct Seen {
    slaves: BTreeMap<SlaveId, One>,
    /// The identity that a name had last.
    last: BTreeMap<String, SlaveId>,
}

struct One {
    name: String,
    slots: u32,
    memory: u64,
    live: bool,
}

impl Seen {
    pub fn joined(&mut self, id: SlaveId, name: &str, slots: u32, memory: Option<u64>) {
        if let Some(before) = self.last.insert(name.to_owned(), id) {
            self.gone(before);
        }
        let memory = memory.unwrap_or(u64::MAX);
        self.slaves.insert(id, One { name: name.to_owned(), slots, memory, live: true });
    }

    pub fn gone(&mut self, id: SlaveId) {
        if let Some(one) = self.slaves.get_mut(&id) {
            one.live = false;
        }
    }

    /// How many are there now.
    pub fn live(&self) -> usize {
        self.last.values().filter(|id| self.slaves.get(id).is_some_and(|one| one.live)).count()
    }

    /// Those that are there and those that were `used`, in order of the identities that they had last; and the place of each
    /// identity.
    pub fn cluster(&self, used: impl Iterator<Item = SlaveId>) -> (Cluster, BTreeMap<SlaveId, usize>) {
        let used: BTreeSet<SlaveId> = used.collect();
        // How large it must be for what ran there, and is now: it may have come back smaller.
        let mut sizes: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
        for (_, one) in self.slaves.iter().filter(|(id, one)| one.live || used.contains(id)) {
            let (slots, memory) = sizes.entry(&one.name).or_default();
            (*slots, *memory) = ((*slots).max(one.slots), (*memory).max(one.memory));
        }
        let mut all: Vec<(&SlaveId, &String)> = self.last.iter().map(|(name, id)| (id, name)).collect();
        all.sort_unstable();
        let mut cluster = Cluster::default();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, name) in all {
            let Some((slots, memory)) = sizes.get(name.as_str()).copied() else { continue };
            places.insert(name, cluster.names.len());
            cluster.names.push(name.clone());
            cluster.slots.push(slots);
            cluster.memory.push(memory);
        }
        let place = |(id, one): (&SlaveId, &One)| Some((*id, *places.get(one.name.as_str())?));
        let places = self.slaves.iter().filter_map(place).collect();
        (cluster, places)
    }
}
