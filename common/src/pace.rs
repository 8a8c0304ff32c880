//! How the workers of a stage kept in step: what its report says of waiting, leads, conflicts and control messages.

use serde::{Deserialize, Serialize};

/// Leads that have a count of their own; larger ones are counted together.
const LEADS: usize = 64;

/// How the workers of one stage run kept in step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// Seconds that each worker waited, in worker order: for clocks, reads, rows.
    pub worker_waits: Vec<f64>,
    /// Seconds that an experiment made each of them sleep, to be slower.
    pub worker_slept: Vec<f64>,
    /// `lead[i]`: how many clocks were begun i clocks ahead of the slowest worker, as far as the slave that began them had
    /// heard of it, so never less than really; the one of 64 counts all from there on. A worker's first clock does not
    /// count.
    pub lead: Vec<u64>,
    /// The largest lead.
    pub most_lead: u64,
    /// How often a worker at one clock met the keys of an unfinished one of a slower worker, or slower slave, and waited.
    pub conflicts: u64,
    /// Messages that slaves sent one another to tell of clocks and their keys: one to each for a clock, however many
    /// workers they have.
    pub control_messages: u64,
    /// Bytes of these messages.
    pub control_bytes: u64,
}

impl Pace {
    /// A worker began a clock, so far ahead of the slowest.
    pub fn began(&mut self, lead: u64) {
        let place = lead.min(LEADS as u64) as usize;
        if self.lead.len() <= place {
            self.lead.resize(place + 1, 0);
        }
        self.lead[place] += 1;
        self.most_lead = self.most_lead.max(lead);
    }

    /// Adds another slave's, whose workers come behind.
    pub fn merge(&mut self, other: &Self) {
        self.worker_waits.extend_from_slice(&other.worker_waits);
        self.worker_slept.extend_from_slice(&other.worker_slept);
        if self.lead.len() < other.lead.len() {
            self.lead.resize(other.lead.len(), 0);
        }
        self.lead.iter_mut().zip(&other.lead).for_each(|(sum, count)| *sum += count);
        self.most_lead = self.most_lead.max(other.most_lead);
        self.conflicts += other.conflicts;
        self.control_messages += other.control_messages;
        self.control_bytes += other.control_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_of_all_slaves_are_counted_and_the_largest_is_kept() {
        let (mut one, mut other) = (Pace::default(), Pace { worker_waits: vec![0.5], conflicts: 2, ..Pace::default() });
        [0, 0, 2].into_iter().for_each(|lead| one.began(lead));
        [1, 64, 1_000_000].into_iter().for_each(|lead| other.began(lead));
        one.merge(&other);
        assert_eq!(one.lead[..3], [2, 1, 1]);
        assert_eq!((one.lead.len(), one.lead[64], one.most_lead), (65, 2, 1_000_000));
        assert_eq!((one.worker_waits.len(), one.conflicts), (1, 2));
    }
}
