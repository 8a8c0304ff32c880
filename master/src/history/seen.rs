//! The slaves that records tell of, as the cluster of a replay.
//!
//! Invariant: a slave that went and came back is one slave, by its name; one that went and that no played job had is none.

use crate::simulate::Cluster;
use flexps_common::ids::SlaveId;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Default)]
pub(super) struct Seen {
    slaves: BTreeMap<String, One>,
    names: BTreeMap<SlaveId, String>,
}

struct One {
    /// The one that it had last.
    id: SlaveId,
    slots: u32,
    memory: u64,
    live: bool,
}

impl Seen {
    pub fn joined(&mut self, id: SlaveId, name: &str, slots: u32, memory: Option<u64>) {
        let memory = memory.unwrap_or(u64::MAX);
        self.slaves.insert(name.to_owned(), One { id, slots, memory, live: true });
        self.names.insert(id, name.to_owned());
    }

    pub fn gone(&mut self, id: SlaveId) {
        let one = self.names.get(&id).and_then(|name| self.slaves.get_mut(name));
        one.into_iter().filter(|one| one.id == id).for_each(|one| one.live = false);
    }

    /// How many are there now.
    pub fn live(&self) -> usize {
        self.slaves.values().filter(|one| one.live).count()
    }

    /// Those that are there and those that were `used`, in order of identity.
    pub fn cluster(&self, used: impl Iterator<Item = SlaveId>) -> Cluster {
        let used: BTreeSet<&str> = used.filter_map(|id| self.names.get(&id)).map(String::as_str).collect();
        let mut all: Vec<(&String, &One)> =
            self.slaves.iter().filter(|(name, one)| one.live || used.contains(name.as_str())).collect();
        all.sort_by_key(|(_, one)| one.id);
        Cluster {
            names: all.iter().map(|(name, _)| (*name).clone()).collect(),
            slots: all.iter().map(|(_, one)| one.slots).collect(),
            memory: all.iter().map(|(_, one)| one.memory).collect(),
            ..Cluster::default()
        }
    }

    /// The places of slaves in that cluster.
    pub fn places(&self, cluster: &Cluster, slaves: &[SlaveId]) -> Vec<usize> {
        let place = |id: &SlaveId| cluster.names.iter().position(|name| Some(name) == self.names.get(id));
        slaves.iter().filter_map(place).collect()
    }
}
