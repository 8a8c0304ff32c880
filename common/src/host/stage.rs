//! One stage on the host: its workers, and the barrier that makes their clocks bulk synchronous.
//!
//! Invariant: updates wait until every worker that still runs has ended the clock, then all of them are applied in the
//! order of (worker, sequence); so between two clocks the tables do not change.

use super::rows::HostRows;
use super::table::HostTable;
use crate::announced::Announcements;
use crate::data::block::KeyMap;
use crate::data::drawn::Drawn;
use crate::data::{Block, Facts};
use crate::error::{Error, Result};
use crate::ids::{InputId, Key, TableId};
use crate::metrics::Metrics;
use crate::plan::{Rights, StageSpec};
use crate::siblings::Siblings;
use crate::value::{OwnedValues, Values, ValuesMut};
use crate::worker::{Backend, Place, Pull, Push, Ticket, Touch, Worker};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Runs all workers of a stage and merges what they report, in their order.
pub fn run(
    stage: &StageSpec,
    places: Vec<(usize, Place)>,
    tables: &mut Vec<HostTable>,
    inputs: &[HostRows],
    scalars: &BTreeMap<String, f64>,
) -> Result<Metrics> {
    let barrier = Barrier { tables: std::mem::take(tables), running: places.len(), ..Barrier::default() };
    let slaves = places.iter().map(|(slave, _)| slave + 1).max().unwrap_or(0);
    let on = |slave| places.iter().filter(|(of, _)| *of == slave).count();
    let siblings = (0..slaves).map(|slave| Siblings::new(on(slave))).collect();
    let shared = Shared { barrier: Mutex::new(barrier), moved: Condvar::new(), siblings, inputs, scalars };
    let work = |(slave, place): (usize, Place)| {
        let mut backend = HostBackend {
            shared: &shared,
            slave,
            worker: place.index,
            local_index: place.local_index,
            adds: Vec::new(),
            tickets: HashMap::new(),
            stage,
            rights: stage.rights(),
            announced: stage.consistency.ahead().map(|_| Announcements::default()),
            failed: true,
        };
        let mut worker = Worker::new(place, &mut backend);
        let result = (stage.run)(&mut worker);
        let metrics = std::mem::take(&mut worker.metrics);
        backend.failed = result.is_err();
        result.map(|()| metrics)
    };
    let results: Vec<Result<Metrics>> = if places.len() == 1 {
        places.into_iter().map(work).collect()
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = places.into_iter().map(|place| scope.spawn(|| work(place))).collect();
            let died = || Err(Error::bug("a worker panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
        })
    };
    *tables = shared.barrier.into_inner().tables;
    let mut merged = Metrics::default();
    // The cause first: siblings of a failed worker end as cancelled.
    let cause = |e: &Error| e.fault != crate::error::Fault::Cancelled;
    if let Some(error) = results.iter().filter_map(|r| r.as_ref().err()).max_by_key(|e| cause(e)) {
        return Err(error.clone());
    }
    for metrics in results.into_iter().flatten() {
        merged.merge(&metrics);
    }
    Ok(merged)
}

struct Shared<'s> {
    barrier: Mutex<Barrier>,
    moved: Condvar,
    /// By slave.
    siblings: Vec<Siblings>,
    inputs: &'s [HostRows],
    scalars: &'s BTreeMap<String, f64>,
}

#[derive(Default)]
struct Barrier {
    tables: Vec<HostTable>,
    /// What workers that ended this clock want applied.
    adds: Vec<(usize, Vec<OwnedPush>)>,
    arrived: usize,
    running: usize,
    clock: u64,
    failed: bool,
}

/// An update that waits for its clock's end.
struct OwnedPush {
    table: TableId,
    keys: OwnedKeys,
    values: OwnedValues,
}

enum OwnedKeys {
    List(Vec<Key>),
    Range(Range<Key>),
}

impl Barrier {
    /// Ends the clock when every running worker has.
    fn turn(&mut self) -> Result<bool> {
        if self.arrived < self.running {
            return Ok(false);
        }
        let mut adds = std::mem::take(&mut self.adds);
        adds.sort_by_key(|(worker, _)| *worker);
        for push in adds.into_iter().flat_map(|(_, pushes)| pushes) {
            let table = &mut self.tables[push.table.0 as usize];
            match push.keys {
                OwnedKeys::List(keys) => {
                    if let Some(last) = keys.last().copied() {
                        table.update(keys.into_iter(), last, push.values.borrow())?;
                    }
                }
                OwnedKeys::Range(keys) if !keys.is_empty() => {
                    table.update(keys.clone(), keys.end - 1, push.values.borrow())?;
                }
                OwnedKeys::Range(_) => {}
            }
        }
        self.arrived = 0;
        self.clock += 1;
        Ok(true)
    }
}

struct HostBackend<'s> {
    shared: &'s Shared<'s>,
    slave: usize,
    worker: usize,
    local_index: usize,
    adds: Vec<OwnedPush>,
    tickets: HashMap<u64, Vec<(TableId, Vec<Key>)>>,
    stage: &'s StageSpec,
    rights: Rights,
    /// Where the model asks for them.
    announced: Option<Announcements>,
    /// Until the worker's function returned well: a panic must not leave its siblings waiting.
    failed: bool,
}

impl Drop for HostBackend<'_> {
    fn drop(&mut self) {
        self.shared.siblings[self.slave].end(self.failed.then(Error::cancelled));
        let mut barrier = self.shared.barrier.lock();
        barrier.adds.push((self.worker, std::mem::take(&mut self.adds)));
        barrier.running -= 1;
        barrier.failed |= self.failed || barrier.turn().is_err();
        self.shared.moved.notify_all();
    }
}

impl HostBackend<'_> {
    /// Rows that the stage may pass over.
    fn passed(&self, input: InputId) -> Result<&HostRows> {
        self.rights.pass(input)?;
        self.rows(input)
    }

    fn rows(&self, input: InputId) -> Result<&HostRows> {
        self.shared.inputs.get(input.0 as usize).ok_or_else(|| Error::bug(format!("no input {input}")))
    }

    fn sized(&self, table: TableId, keys: usize, values: usize) -> Result<()> {
        let barrier = self.shared.barrier.lock();
        let spec = &barrier.tables.get(table.0 as usize).ok_or_else(|| Error::bug(format!("no table {table}")))?.spec;
        if values != keys * spec.width as usize {
            return Err(Error::bug(format!(
                "table {}: {keys} keys of width {} with {values} values",
                spec.name, spec.width
            )));
        }
        Ok(())
    }

    fn name(&self, table: TableId) -> String {
        let barrier = self.shared.barrier.lock();
        barrier.tables.get(table.0 as usize).map_or_else(|| table.to_string(), |table| table.spec.name.clone())
    }

    fn updatable(&self, table: TableId) -> Result<()> {
        self.rights.update(table, || self.name(table))
    }

    /// An error unless the keys were announced, where that is asked for.
    fn expected(&self, table: TableId, keys: &[Key]) -> Result<()> {
        rising(keys)?;
        let Some(announced) = &self.announced else { return Ok(()) };
        announced.check(table, &self.name(table), keys)
    }

    fn expected_range(&self, table: TableId, keys: &Range<Key>) -> Result<()> {
        let Some(announced) = &self.announced else { return Ok(()) };
        announced.check_range(table, &self.name(table), keys.start.into()..keys.end.into())
    }

    fn read(&self, table: TableId, keys: impl ExactSizeIterator<Item = Key>, out: ValuesMut<'_>) -> Result<()> {
        self.rights.read(table, || self.name(table))?;
        self.sized(table, keys.len(), out.len())?;
        self.shared.barrier.lock().tables[table.0 as usize].read(keys, out)
    }
}

fn rising(keys: &[Key]) -> Result<()> {
    match keys.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(Error::bug(format!("keys must rise: {} is followed by {}", pair[0], pair[1]))),
        None => Ok(()),
    }
}

impl Backend for HostBackend<'_> {
    fn start_get(&mut self, pulls: &[Pull<'_>]) -> Result<Ticket> {
        for pull in pulls {
            self.expected(pull.table, pull.keys)?;
        }
        let ticket = self.tickets.keys().max().map_or(0, |t| t + 1);
        self.tickets.insert(ticket, pulls.iter().map(|p| (p.table, p.keys.to_vec())).collect());
        Ok(Ticket(ticket))
    }

    fn finish_get(&mut self, ticket: Ticket, out: &mut [ValuesMut<'_>]) -> Result<()> {
        let pulls = self.tickets.remove(&ticket.0).ok_or_else(|| Error::bug("a ticket was used twice"))?;
        if pulls.len() != out.len() {
            return Err(Error::bug(format!("{} reads were started, {} are fetched", pulls.len(), out.len())));
        }
        for ((table, keys), out) in pulls.into_iter().zip(out) {
            let out = match out {
                ValuesMut::F32(o) => ValuesMut::F32(o),
                ValuesMut::F64(o) => ValuesMut::F64(o),
                ValuesMut::U32(o) => ValuesMut::U32(o),
                ValuesMut::I32(o) => ValuesMut::I32(o),
            };
            self.read(table, keys.into_iter(), out)?;
        }
        Ok(())
    }

    fn peek(&mut self, pull: Pull<'_>, out: ValuesMut<'_>) -> Result<()> {
        rising(pull.keys)?;
        self.read(pull.table, pull.keys.iter().copied(), out)
    }

    fn peek_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()> {
        self.read(table, keys, out)
    }

    fn announce(&mut self, clock: u64, touches: &[Touch<'_>]) -> Result<()> {
        self.announced.as_mut().map_or(Ok(()), |announced| announced.announce(clock, touches).map(drop))
    }

    fn ahead(&self) -> Option<u32> {
        self.stage.consistency.ahead()
    }

    fn add(&mut self, pushes: &[Push<'_>]) -> Result<()> {
        for push in pushes {
            self.updatable(push.table)?;
            self.expected(push.table, push.keys)?;
            self.sized(push.table, push.keys.len(), push.values.len())?;
            let keys = OwnedKeys::List(push.keys.to_vec());
            self.adds.push(OwnedPush { table: push.table, keys, values: OwnedValues::from(push.values) });
        }
        self.check()
    }

    fn get_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()> {
        self.expected_range(table, &keys)?;
        self.read(table, keys, out)
    }

    fn add_range(&mut self, table: TableId, keys: Range<Key>, values: Values<'_>) -> Result<()> {
        self.updatable(table)?;
        self.expected_range(table, &keys)?;
        self.sized(table, keys.len(), values.len())?;
        let keys = OwnedKeys::Range(keys);
        self.adds.push(OwnedPush { table, keys, values: OwnedValues::from(values) });
        self.check()
    }

    fn clock(&mut self) -> Result<()> {
        let mut barrier = self.shared.barrier.lock();
        let clock = barrier.clock;
        barrier.adds.push((self.worker, std::mem::take(&mut self.adds)));
        barrier.arrived += 1;
        if barrier.turn()? {
            self.shared.moved.notify_all();
        }
        while barrier.clock == clock && !barrier.failed {
            self.shared.moved.wait(&mut barrier);
        }
        if barrier.failed {
            return Err(Error::cancelled());
        }
        self.announced.iter_mut().for_each(Announcements::tick);
        Ok(())
    }

    fn block(&mut self, input: InputId, at: usize) -> Result<Option<Arc<Block>>> {
        Ok(self.passed(input)?.block(self.slave, at))
    }

    fn key_map(&mut self, input: InputId) -> Result<Arc<KeyMap>> {
        Ok(self.passed(input)?.key_map(self.slave))
    }

    fn draw(&mut self, input: InputId) -> Result<Arc<Drawn>> {
        self.rights.draw(input)?;
        Ok(self.rows(input)?.draw())
    }

    fn facts(&mut self, input: InputId) -> Result<Facts> {
        Ok(self.rows(input)?.facts.clone())
    }

    fn blocks(&mut self, input: InputId) -> Result<usize> {
        Ok(self.passed(input)?.blocks(self.slave))
    }

    fn sum_local(&mut self, values: ValuesMut<'_>) -> Result<()> {
        self.shared.siblings[self.slave].sum(self.local_index, values)
    }

    fn take_column(&mut self, input: InputId, at: usize, name: &str) -> Result<Option<OwnedValues>> {
        Ok(self.passed(input)?.take_column(self.slave, at, name))
    }

    fn put_column(&mut self, input: InputId, at: usize, name: &str, column: OwnedValues) -> Result<()> {
        self.passed(input)?.put_column(self.slave, at, name, column);
        Ok(())
    }

    fn scalar(&self, name: &str) -> Option<f64> {
        self.shared.scalars.get(name).copied()
    }

    fn check(&mut self) -> Result<()> {
        if self.shared.barrier.lock().failed { Err(Error::cancelled()) } else { Ok(()) }
    }
}
