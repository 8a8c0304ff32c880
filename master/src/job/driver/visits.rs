//! Which slaves those stages have run on that visit one after the other.
//!
//! Invariant: a stage's list never holds all slaves of its job: whoever has visited all begins anew.

use super::Driver;
use flexps_common::ids::SlaveId;
use flexps_common::plan::Threads;
use std::collections::BTreeMap;

impl Driver {
    /// The slaves that a stage must not run on next, since it has visited them.
    pub fn visited(&self, stage: u32) -> &[SlaveId] {
        self.visited.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// A stage is launched on these slaves.
    pub(super) fn visit(&mut self, stage: u32, workers: &[(SlaveId, u32)]) {
        if !matches!(self.program.stages[stage as usize].threads, Threads::Visit(_)) {
            return;
        }
        let visited = self.visited.entry(stage).or_default();
        visited.extend(workers.iter().map(|(id, _)| *id));
        if visited.len() >= self.slaves.len() {
            visited.clear();
        }
    }

    /// The slaves that stages have visited, by name.
    pub(super) fn visits(&self) -> BTreeMap<u32, Vec<String>> {
        let named = |ids: &Vec<SlaveId>| ids.iter().map(|id| self.name(*id).to_owned()).collect();
        self.visited.iter().map(|(stage, ids)| (*stage, named(ids))).collect()
    }

    /// Stages have visited slaves of these names.
    pub(super) fn have_visited(&mut self, visits: &BTreeMap<u32, Vec<String>>) {
        let found = |names: &Vec<String>| -> Vec<SlaveId> {
            self.slaves.iter().copied().filter(|id| names.iter().any(|name| name == self.name(*id))).collect()
        };
        let visited = visits.iter().map(|(stage, names)| (*stage, found(names)));
        self.visited = visited.filter(|(_, ids)| ids.len() < self.slaves.len()).collect();
    }
}
