//! Where a job's tables live, and where they are to live for the next stage.
//!
//! A stage may reach a table where it is, over the network, or have it brought beside its workers first. What is compared
//! is bytes through the busiest slave: those of the reads and updates of all stages that use the table, or what is copied
//! from it, as their last runs had them, and those of the chunks that would move: once, if the table then stays; twice, if
//! it goes back for the other stages. Of a table that a stage only reads, each slave may also get a copy, while the table
//! stays where it is. Pure: no clock, no messages. Invariant: the homes are those of the last launch or operation that was
//! sent.

use flexps_common::home::{self, Home};
use flexps_common::ids::TableId;
use flexps_common::plan::TableOp;
use flexps_common::report::{Access, ModelReport};
use flexps_common::wire::control::Outcome;
use std::collections::BTreeMap;

/// Bytes of a job's tables that a slave is to hold at most when they live on fewer than all of them: what the whole job's
/// slaves have room for, one of them may not.
const MOST_ON_FEW: u64 = 2 << 30;

/// A job's tables and what is known of them.
#[derive(Debug)]
pub struct Homes {
    shards: usize,
    homes: Vec<Home>,
    tables: Vec<Known>,
    /// By stage and table: what its workers did with it in its last run.
    uses: BTreeMap<u32, Vec<Vec<Use>>>,
}

/// A shard, and the bytes of values that the workers beside it read and write.
type Use = (u32, f64);

/// What is known of one table.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Bytes of its values, and how many of them each shard told last.
    bytes: u64,
    held: Vec<u64>,
    /// Whether it was filled, from a model or a checkpoint, before any stage told of its bytes.
    filled: bool,
    /// The phase in which it was changed last.
    changed: u64,
    /// Homes that it left, and the phase in which it did: their chunks are still there.
    left: Vec<(Home, u64)>,
    /// Tables that were copied from it: they live where it does.
    copies: Vec<usize>,
    /// The shards that got a copy of it to read last, and the phase in which they did.
    read_at: (Vec<u32>, u64),
}

/// What a stage is to find.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Where the tables are to live.
    pub homes: Vec<Home>,
    /// Which of them live elsewhere now.
    pub moved: Vec<usize>,
    /// Of which of the others the stage's slaves get copies to read.
    pub copied: Vec<usize>,
    /// Bytes through the busiest slave on this way, and on the way over all shards.
    pub busiest: [f64; 2],
    /// Bytes that are expected to move.
    pub moving: f64,
}

impl Choice {
    /// All tables stay where they are.
    pub fn staying(homes: &[Home]) -> Self {
        Self { homes: homes.to_vec(), moved: Vec::new(), copied: Vec::new(), busiest: [0.0; 2], moving: 0.0 }
    }
}

impl Homes {
    /// Of `tables` empty tables on all of `shards` slaves.
    pub fn new(tables: usize, shards: usize) -> Self {
        Self { shards, homes: vec![Home::All; tables], tables: vec![Known::default(); tables], uses: BTreeMap::new() }
    }

    /// Bytes of all tables, as far as stages told of them.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|known| known.bytes).sum()
    }

    /// By table.
    pub fn now(&self) -> &[Home] {
        &self.homes
    }

    /// Where a stage with workers on these slaves, which rise, is to find the tables, of which it only reads those in `reads`:
    /// where it costs least, unless an access is `wanted` that they can have.
    pub fn choose(&self, stage: u32, workers: &[u32], reads: &[TableId], wanted: Option<Access>) -> Choice {
        let near = Home::on(workers, self.shards);
        let forced = match wanted {
            Some(Access::Shards) => Some(Home::All),
            Some(_) if workers.len() == 1 => Some(near.clone()),
            _ => None,
        };
        let mut choice = Choice::staying(&self.homes);
        let (mut loads, mut shard_loads) = (vec![0.0; self.shards], vec![0.0; self.shards]);
        // Then the others, which are empty yet, will be as large as that one.
        let unsure = forced.is_none() && self.tables.iter().any(|known| known.filled && known.bytes == 0);
        for (table, now) in self.homes.iter().enumerate() {
            if unsure && self.tables[table].bytes == 0 {
                continue;
            }
            let uses = self.used(stage, table, workers);
            let others = self.others(stage, table);
            add(&mut shard_loads, &self.over_network(&Home::All, &uses));
            let may_copy = workers.len() > 1 && wanted.is_none() && reads.contains(&TableId(table as u16));
            let copying = may_copy.then(|| self.copying(table, now, workers));
            let best = || self.best(table, now, &near, &uses, &others, copying.as_deref());
            let Some(to) = forced.clone().or_else(best) else {
                let copying = copying.unwrap_or_default();
                choice.moving += copying.iter().sum::<f64>() / 2.0;
                add(&mut loads, &copying);
                choice.copied.push(table);
                continue;
            };
            add(&mut loads, &self.over_network(&to, &uses));
            if to != *now {
                let moving = self.transfer(table, now, &to);
                choice.moving += moving.iter().sum::<f64>() / 2.0;
                add(&mut loads, &moving);
                choice.moved.push(table);
                choice.homes[table] = to;
            }
        }
        choice.busiest = [most(&loads), most(&shard_loads)];
        choice
    }

    /// The home of a table that costs least, this stage and those that follow taken together; of those that cost the same,
    /// the one on the fewest slaves. None when it is to stay, and to be read in copies, whose way loads slaves as `copying`.
    fn best(
        &self,
        table: usize,
        now: &Home,
        near: &Home,
        uses: &[Use],
        others: &[Vec<Use>],
        copying: Option<&[f64]>,
    ) -> Option<Home> {
        let all = self.bytes();
        let fits = |home: &Home| *home == Home::All || all / home.members(self.shards).len() as u64 <= MOST_ON_FEW;
        let mut homes = vec![now.clone()];
        let of_others = others.iter().map(|uses| {
            let shards: Vec<u32> = uses.iter().map(|(shard, _)| *shard).collect();
            Home::on(&shards, self.shards)
        });
        for home in std::iter::once(near.clone()).chain(of_others) {
            if !homes.contains(&home) && fits(&home) {
                homes.push(home);
            }
        }
        let cost = |home: &Home, uses: &[Use]| most(&self.over_network(home, uses));
        let later: Vec<f64> = homes.iter().map(|home| others.iter().map(|uses| cost(home, uses)).sum()).collect();
        let moved = |from: &Home, to: &Home| if from == to { 0.0 } else { most(&self.transfer(table, from, to)) };
        let whole = |home: &Home| {
            // The others find it there too, or it goes to where they want it, and comes back.
            let follows = homes.iter().zip(&later).map(|(next, later)| {
                let first = if next == now { 0.0 } else { moved(now, home) };
                later + first + moved(home, next) + moved(next, home)
            });
            cost(home, uses) + follows.fold(f64::INFINITY, f64::min)
        };
        let mut best = (whole(now), now);
        for home in &homes[1..] {
            let whole = whole(home);
            let (gain, same) = (best.0 - whole, 1e-6 * best.0.max(whole));
            let fewer = home.members(self.shards).len() < best.1.members(self.shards).len();
            if gain > same || gain >= -same && fewer {
                best = (whole, home);
            }
        }
        let read_here = copying.filter(|_| all <= MOST_ON_FEW);
        let copied = read_here.map(|copying| whole(now) - cost(now, uses) + most(copying));
        let copies = copied.is_some_and(|copied| best.0 - copied > 1e-6 * best.0);
        (!copies).then(|| best.1.clone())
    }

    /// Bytes through each slave when those with workers get copies of a table: who serves a chunk sends it once, to one of
    /// them, who passes it on to the others.
    fn copying(&self, table: usize, now: &Home, workers: &[u32]) -> Vec<f64> {
        let mut loads = vec![0.0; self.shards];
        let known = &self.tables[table];
        let (read_at, phase) = &known.read_at;
        if known.changed < *phase && workers.iter().all(|worker| read_at.contains(worker)) {
            return loads;
        }
        let members = now.members(self.shards);
        let part = known.bytes as f64 / members.len().max(1) as f64;
        for member in &members {
            let others = || workers.iter().filter(|worker| *worker != member);
            let count = others().count();
            loads[*member as usize] += if count > 0 { part } else { 0.0 };
            others().for_each(|other| loads[*other as usize] += part * (1.0 + (count - 1) as f64 / count as f64));
        }
        loads
    }

    /// What a stage's workers read and write; what is not known yet is taken to be all of the table, once. A worker's slave
    /// that the stage's last run did not have is taken to do what the average of the others did.
    fn used(&self, stage: u32, table: usize, workers: &[u32]) -> Vec<Use> {
        let bytes = self.tables[table].bytes as f64;
        let Some(known) = self.uses.get(&stage) else { return workers.iter().map(|w| (*w, 2.0 * bytes)).collect() };
        let average = known[table].iter().map(|(_, bytes)| bytes).sum::<f64>() / known[table].len().max(1) as f64;
        let of =
            |worker: u32| known[table].iter().find(|(shard, _)| *shard == worker).map_or(average, |(_, bytes)| *bytes);
        workers.iter().map(|worker| (*worker, of(*worker))).collect()
    }

    /// What the workers of each other stage do with a table and with those that are copied from it.
    fn others(&self, stage: u32, table: usize) -> Vec<Vec<Use>> {
        let tables = || [table].into_iter().chain(self.tables[table].copies.iter().copied());
        let sum = |uses: &Vec<Vec<Use>>| {
            let mut sums = uses[table].clone();
            for ((_, sum), at) in sums.iter_mut().zip(0..) {
                *sum = tables().map(|table| uses[table][at].1).sum();
            }
            sums
        };
        let others = self.uses.iter().filter(|(other, _)| **other != stage).map(|(_, uses)| sum(uses));
        others.filter(|uses| uses.iter().any(|(_, bytes)| *bytes > 0.0)).collect()
    }

    /// Bytes through each slave for these reads and updates of a table at `home`.
    fn over_network(&self, home: &Home, uses: &[Use]) -> Vec<f64> {
        let (mut loads, members) = (vec![0.0; self.shards], home.members(self.shards));
        let part = 1.0 / members.len().max(1) as f64;
        let all: f64 = uses.iter().map(|(_, used)| used).sum();
        for member in &members {
            loads[*member as usize] += part * all;
        }
        for (worker, used) in uses {
            // What it has beside it goes over no network, neither from it nor to it.
            let beside = members.binary_search(worker).is_ok();
            loads[*worker as usize] += used * if beside { 1.0 - 2.0 * part } else { 1.0 };
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
        for (ends, others) in [(&from, &to), (&to, &from)] {
            for end in ends {
                let away = others.len() - usize::from(others.binary_search(end).is_ok());
                loads[*end as usize] += part * away as f64;
            }
        }
        loads
    }

    /// A phase begins with the tables as they were chosen for a stage with workers on these slaves.
    pub fn begin(&mut self, phase: u64, choice: Choice, workers: &[u32]) {
        let Choice { homes, copied, .. } = choice;
        for table in copied {
            self.tables[table].read_at = (workers.to_vec(), phase);
        }
        for ((old, new), known) in self.homes.iter().zip(&homes).zip(&mut self.tables) {
            if old != new {
                known.held.clear();
                known.left.retain(|(home, _)| home != old && home != new);
                known.left.push((old.clone(), phase));
            }
        }
        self.homes = homes;
    }

    /// A table was filled, of all if none is named, with nobody knows how many bytes: until a stage tells, nothing that may
    /// be large moves.
    pub fn filled(&mut self, only: Option<TableId>) {
        let tables = self.tables.iter_mut().enumerate();
        let named = tables.filter(|(at, _)| only.is_none_or(|table| usize::from(table.0) == *at));
        named.for_each(|(_, known)| known.filled = true);
    }

    /// A run of `stage` in `phase` ended; its outcomes by shard.
    pub fn ended<'a>(&mut self, stage: u32, phase: u64, outcomes: impl Iterator<Item = (u32, &'a Outcome)>) {
        let mut uses = vec![Vec::new(); self.homes.len()];
        for (shard, outcome) in outcomes {
            for (table, uses) in uses.iter_mut().enumerate() {
                let used = outcome.tables.get(table).copied().unwrap_or_default();
                uses.push((shard, (used.read_bytes + used.written_bytes) as f64));
                let known = &mut self.tables[table];
                if used.written_bytes > 0 {
                    known.changed = phase;
                }
                if known.held.len() < self.shards {
                    known.held.resize(self.shards, 0);
                }
                known.held[shard as usize] = used.held_bytes;
                // A shard without workers does not tell; what it told last may be of another home: a bound from below.
                known.bytes = known.bytes.max(known.held.iter().sum());
            }
        }
        self.uses.insert(stage, uses);
    }

    /// Operations were ordered in `phase`.
    pub fn operated(&mut self, phase: u64, ops: &[TableOp]) {
        for op in ops {
            let changed = match op {
                TableOp::Copy { from, to } => {
                    let from = self.tables.get_mut(usize::from(from.0));
                    let bytes = from.map_or(0, |known| {
                        let to = usize::from(to.0);
                        if !known.copies.contains(&to) {
                            known.copies.push(to);
                        }
                        known.bytes
                    });
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

    /// How the last run of a stage, which had `threads` workers, reached the tables.
    pub fn access(&self, stage: u32, threads: u32) -> ModelReport {
        let Some(uses) = self.uses.get(&stage) else { return ModelReport::default() };
        let used = |table: &usize| uses[*table].iter().any(|(_, bytes)| *bytes > 0.0);
        let living = self.living(&(0..uses.len()).filter(used).collect::<Vec<_>>());
        let workers = uses.first().map_or(0, Vec::len);
        let (access, why) = match (living.as_slice(), uses.first().map(Vec::as_slice)) {
            ([], _) => (Access::None, String::new()),
            ([home], Some([(slave, _)])) if home == slave && threads == 1 => {
                (Access::Own, "one worker, and all that it uses lives beside it".to_owned())
            }
            ([home], Some([(slave, _)])) if home == slave => {
                (Access::Shared, format!("{threads} workers on one slave, and all that they use lives beside them"))
            }
            _ => (Access::Shards, format!("workers on {workers} slaves, what they use lives on {}", living.len())),
        };
        ModelReport { access, why }
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
