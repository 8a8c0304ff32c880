//! Where a job's tables live, and where they are to live for the next stage.
//!
//! A stage may reach a table where it is, over the network, or have it brought beside its workers first. What is compared
//! is the bytes through the busiest slave: those of the stage's reads and updates, as its last run had them, and those of
//! the chunks that would move, twice where the stage changes them, since they will be wanted elsewhere again. Pure: no
//! clock, no messages. Invariant: the homes are those of the last launch or operation that was sent.

use flexps_common::home::{self, Home};
use flexps_common::plan::TableOp;
use flexps_common::wire::control::{Outcome, TableUse};
use std::collections::BTreeMap;

/// A job's tables and what is known of them.
#[derive(Debug)]
pub struct Homes {
    shards: usize,
    homes: Vec<Home>,
    tables: Vec<Known>,
    /// By stage, table and shard: what its workers there read and wrote in its last run.
    uses: BTreeMap<u32, Vec<Vec<TableUse>>>,
}

/// What is known of one table.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Bytes of its values.
    bytes: u64,
    /// The phase in which it was changed last.
    changed: u64,
    /// Homes that it left, and the phase in which it did: their chunks are still there.
    left: Vec<(Home, u64)>,
}

/// What a stage is to find.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Where the tables are to live.
    pub homes: Vec<Home>,
    /// Which of them live elsewhere now.
    pub moved: Vec<usize>,
    /// Bytes through the busiest slave on this way, and on the way over all shards.
    pub busiest: [f64; 2],
    /// Bytes that are expected to move.
    pub moving: f64,
}

impl Homes {
    /// Of `tables` empty tables on all of `shards` slaves.
    pub fn new(tables: usize, shards: usize) -> Self {
        Self { shards, homes: vec![Home::All; tables], tables: vec![Known::default(); tables], uses: BTreeMap::new() }
    }

    /// By table.
    pub fn now(&self) -> &[Home] {
        &self.homes
    }

    /// Where a stage with workers on these slaves, which rise, is to find the tables.
    pub fn choose(&self, stage: u32, workers: &[u32]) -> Choice {
        let near = Home::on(workers, self.shards);
        let mut choice = Choice { homes: self.homes.clone(), moved: Vec::new(), busiest: [0.0; 2], moving: 0.0 };
        let (mut loads, mut shard_loads) = (vec![0.0; self.shards], vec![0.0; self.shards]);
        for (table, now) in self.homes.iter().enumerate() {
            let uses = self.used(stage, table, workers);
            let stays = self.over_network(now, &uses);
            let mut comes = self.over_network(&near, &uses);
            let moving = self.transfer(table, now, &near);
            let again = if uses.iter().any(|(_, used)| used.written_bytes > 0) { 2.0 } else { 1.0 };
            comes.iter_mut().zip(&moving).for_each(|(load, moved)| *load += again * moved);
            let (stay, come) = (most(&stays), most(&comes));
            add(&mut shard_loads, &self.over_network(&Home::All, &uses));
            // On a tie the model goes to one slave, where nothing is shared, but not to many.
            if near != *now && (come < stay || come == stay && workers.len() == 1) {
                choice.homes[table] = near.clone();
                choice.moved.push(table);
                choice.moving += moving.iter().sum::<f64>() / 2.0;
                add(&mut loads, &comes);
            } else {
                add(&mut loads, &stays);
            }
        }
        choice.busiest = [most(&loads), most(&shard_loads)];
        choice
    }

    /// What the stage's workers read and write; what is not known yet is taken to be all of the table, once.
    fn used(&self, stage: u32, table: usize, workers: &[u32]) -> Vec<(u32, TableUse)> {
        let all = self.tables[table].bytes;
        let unknown = TableUse { read_bytes: all, written_bytes: all, held_bytes: 0 };
        let known = self.uses.get(&stage);
        let of = |shard: u32| known.map_or(unknown, |uses| uses[table][shard as usize]);
        workers.iter().map(|shard| (*shard, of(*shard))).collect()
    }

    /// Bytes through each slave for these reads and updates of a table at `home`.
    fn over_network(&self, home: &Home, uses: &[(u32, TableUse)]) -> Vec<f64> {
        let (mut loads, members) = (vec![0.0; self.shards], home.members(self.shards));
        let part = 1.0 / members.len().max(1) as f64;
        for (worker, used) in uses {
            let bytes = (used.read_bytes + used.written_bytes) as f64 * part;
            for member in members.iter().filter(|member| *member != worker) {
                loads[*member as usize] += bytes;
                loads[*worker as usize] += bytes;
            }
        }
        loads
    }

    /// Bytes through each slave when a table moves.
    fn transfer(&self, table: usize, from: &Home, to: &Home) -> Vec<f64> {
        let mut loads = vec![0.0; self.shards];
        let known = &self.tables[table];
        if known.left.iter().any(|(home, phase)| home == to && known.changed < *phase) {
            return loads;
        }
        let (from, to) = (from.members(self.shards), to.members(self.shards));
        let part = known.bytes as f64 / (from.len() * to.len()).max(1) as f64;
        for sender in &from {
            for receiver in to.iter().filter(|receiver| *receiver != sender) {
                loads[*sender as usize] += part;
                loads[*receiver as usize] += part;
            }
        }
        loads
    }

    /// A phase begins with the tables at `homes`.
    pub fn begin(&mut self, phase: u64, homes: Vec<Home>) {
        for ((old, new), known) in self.homes.iter().zip(&homes).zip(&mut self.tables) {
            if old != new {
                known.left.retain(|(home, _)| home != old && home != new);
                known.left.push((old.clone(), phase));
            }
        }
        self.homes = homes;
    }

    /// A run of `stage` in `phase` ended; its outcomes by shard.
    pub fn ended<'a>(&mut self, stage: u32, phase: u64, outcomes: impl Iterator<Item = (u32, &'a Outcome)>) {
        let mut uses = vec![vec![TableUse::default(); self.shards]; self.homes.len()];
        let mut held = vec![None; self.homes.len()];
        for (shard, outcome) in outcomes {
            for (table, used) in outcome.tables.iter().enumerate().take(self.homes.len()) {
                if let Some(place) = uses[table].get_mut(shard as usize) {
                    *place = *used;
                }
                let sum: &mut Option<u64> = &mut held[table];
                *sum = Some(sum.unwrap_or(0) + used.held_bytes);
            }
        }
        for (table, known) in self.tables.iter_mut().enumerate() {
            if uses[table].iter().any(|used| used.written_bytes > 0) {
                known.changed = phase;
            }
            // Shards without workers don't tell: what a part of them holds is a bound from below.
            known.bytes = known.bytes.max(held[table].unwrap_or(0));
        }
        self.uses.insert(stage, uses);
    }

    /// Operations were ordered in `phase`.
    pub fn operated(&mut self, phase: u64, ops: &[TableOp]) {
        for op in ops {
            let changed = match op {
                TableOp::Copy { from, to } => {
                    let bytes = self.tables.get(usize::from(from.0)).map_or(0, |known| known.bytes);
                    if let Some(known) = self.tables.get_mut(usize::from(to.0)) {
                        known.bytes = known.bytes.max(bytes);
                        // Its old chunks are of no use wherever they are.
                        known.left.clear();
                    }
                    to
                }
                TableOp::Zero { table } | TableOp::Scale { table, .. } => table,
                TableOp::Norm2 { .. } => continue,
            };
            if let Some(known) = self.tables.get_mut(usize::from(changed.0)) {
                known.changed = phase;
            }
            home::after(&mut self.homes, op);
        }
    }

    /// The shards among which these tables live now.
    pub fn living(&self, tables: &[usize]) -> Vec<u32> {
        let mut members: Vec<u32> = tables.iter().flat_map(|table| self.homes[*table].members(self.shards)).collect();
        members.sort_unstable();
        members.dedup();
        members
    }
}

fn most(loads: &[f64]) -> f64 {
    loads.iter().copied().fold(0.0, f64::max)
}

fn add(sums: &mut [f64], loads: &[f64]) {
    sums.iter_mut().zip(loads).for_each(|(sum, load)| *sum += load);
}
