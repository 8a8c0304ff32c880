//! One stage on the host: its workers, and the barrier that makes their clocks bulk synchronous.
//!
//! Invariants: updates wait until every worker that still runs has ended the clock, then all of them are applied in the
//! order of (worker, sequence), so that between two clocks the tables do not change; once all workers wait and none of them
//! can go on, all end with an error.

use super::rows::HostRows;
use super::table::HostTable;
use crate::announced::Announcements;
use crate::caught::caught;
use crate::data::block::KeyMap;
use crate::data::drawn::Drawn;
use crate::data::{Block, Facts};
use crate::error::{Error, Result};
use crate::ids::{InputId, Key, TableId};
use crate::metrics::Metrics;
use crate::plan::{Rights, StageSpec};
use crate::siblings::{AS_OFTEN, Siblings};
use crate::value::{OwnedValues, Type, Values, ValuesMut};
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
    let slaves = places.iter().map(|(slave, _)| slave + 1).max().unwrap_or(0);
    let barrier = Barrier {
        tables: std::mem::take(tables),
        running: places.len(),
        slaves: vec![Meeting::default(); slaves],
        ..Barrier::default()
    };
    let on = |slave| places.iter().filter(|(of, _)| *of == slave).count();
    let siblings = (0..slaves).map(|slave| Siblings::new(on(slave))).collect();
    let shared = Shared { barrier: Mutex::new(barrier), moved: Condvar::new(), siblings, inputs, scalars };
    let work = |(slave, place): (usize, Place)| {
        let mut backend = HostBackend {
            shared: &shared,
            slave,
            place: place.clone(),
            adds: Vec::new(),
            tickets: HashMap::new(),
            stage,
            rights: stage.rights(),
            announced: stage.consistency.ahead().map(|_| Announcements::default()),
        };
        let (index, mut metrics) = (place.index, Metrics::default());
        let who = || format!("worker {index}");
        let result = caught(who, || {
            let mut worker = Worker::new(place, &mut backend);
            let result = (stage.run)(&mut worker);
            metrics = worker.metrics;
            result
        });
        // A user's update function may panic, too.
        let ended = caught(who, || backend.end(result));
        ended.inspect_err(|_| shared.fail()).map(|()| metrics)
    };
    let results: Vec<Result<Metrics>> = if places.len() == 1 {
        places.into_iter().map(work).collect()
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = places.into_iter().map(|place| scope.spawn(|| work(place))).collect();
            let died = || Err(Error::bug("a worker's thread panicked"));
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
    merged.check()?;
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
    slaves: Vec<Meeting>,
    clock: u64,
    failed: bool,
}

/// What is known of a slave's workers that sum.
#[derive(Debug, Clone, Default)]
struct Meeting {
    /// Those that wait for a sibling.
    waiting: usize,
    /// Whether one has ended, so that nobody waits any more.
    ended: bool,
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
                OwnedKeys::List(keys) => table.update(keys.into_iter(), push.values.borrow())?,
                OwnedKeys::Range(keys) => table.update(keys, push.values.borrow())?,
            }
        }
        self.arrived = 0;
        self.clock += 1;
        Ok(true)
    }

    /// Whether each worker that runs waits for another one, for ever: some for the end of a clock, some for a sum.
    fn stuck(&self) -> bool {
        let summing: usize = self.slaves.iter().map(|slave| slave.waiting).sum();
        summing > 0 && self.arrived + summing == self.running
    }
}

impl Shared<'_> {
    /// Ends the stage, if nobody can go on.
    fn look(&self, barrier: &mut Barrier) -> Result<()> {
        if !barrier.stuck() || barrier.failed {
            return Ok(());
        }
        let error = Error::bug(format!(
            "no worker can go on: {} wait in clock, {} in sum_local for a sibling; {AS_OFTEN}",
            barrier.arrived,
            barrier.running - barrier.arrived
        ));
        barrier.failed = true;
        self.siblings.iter().for_each(|siblings| siblings.end(Some(error.clone())));
        self.moved.notify_all();
        Err(error)
    }

    /// Lets nobody wait any longer.
    fn fail(&self) {
        self.barrier.lock().failed = true;
        self.moved.notify_all();
    }
}

struct HostBackend<'s> {
    shared: &'s Shared<'s>,
    slave: usize,
    place: Place,
    adds: Vec<OwnedPush>,
    tickets: HashMap<u64, Vec<(TableId, Vec<Key>)>>,
    stage: &'s StageSpec,
    rights: Rights,
    /// Where the model asks for them.
    announced: Option<Announcements>,
}

impl HostBackend<'_> {
    /// The worker's function has ended so: its last updates are applied, and nobody waits for it any more.
    fn end(&mut self, result: Result<()>) -> Result<()> {
        self.shared.siblings[self.slave].end(result.is_err().then(Error::cancelled));
        let mut barrier = self.shared.barrier.lock();
        barrier.adds.push((self.place.index, std::mem::take(&mut self.adds)));
        barrier.running -= 1;
        barrier.slaves[self.slave] = Meeting { waiting: 0, ended: true };
        result?;
        if !barrier.failed {
            barrier.turn()?;
            // It is the others' error: they are told.
            drop(self.shared.look(&mut barrier));
        }
        self.shared.moved.notify_all();
        Ok(())
    }

    /// Rows that the stage may pass over.
    fn passed(&self, input: InputId) -> Result<&HostRows> {
        self.rights.pass(input)?;
        self.rows(input)
    }

    fn rows(&self, input: InputId) -> Result<&HostRows> {
        self.shared.inputs.get(input.0 as usize).ok_or_else(|| Error::bug(format!("no input {input}")))
    }

    fn sized(&self, table: TableId, keys: usize, (values, kind): (usize, Type)) -> Result<()> {
        let barrier = self.shared.barrier.lock();
        let found = barrier.tables.get(table.0 as usize).ok_or_else(|| Error::bug(format!("no table {table}")))?;
        let spec = &found.spec;
        if values != keys * spec.width as usize {
            return Err(Error::bug(format!(
                "table {}: {keys} keys of width {} with {values} values",
                spec.name, spec.width
            )));
        }
        found.check(kind)
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
        self.sized(table, keys.len(), (out.len(), out.kind()))?;
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
            self.sized(push.table, push.keys.len(), (push.values.len(), push.values.kind()))?;
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
        self.sized(table, keys.len(), (values.len(), values.kind()))?;
        let keys = OwnedKeys::Range(keys);
        self.adds.push(OwnedPush { table, keys, values: OwnedValues::from(values) });
        self.check()
    }

    fn clock(&mut self) -> Result<()> {
        let mut barrier = self.shared.barrier.lock();
        let clock = barrier.clock;
        barrier.adds.push((self.place.index, std::mem::take(&mut self.adds)));
        barrier.arrived += 1;
        if barrier.turn()? {
            self.shared.moved.notify_all();
        }
        self.shared.look(&mut barrier)?;
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
        self.passed(input)?.block(self.slave, at)
    }

    fn turn(&mut self, input: InputId, at: usize) -> Result<usize> {
        Ok(self.passed(input)?.turn(self.slave, at, self.place.local_threads))
    }

    fn key_map(&mut self, input: InputId) -> Result<Arc<KeyMap>> {
        self.passed(input)?.key_map(self.slave)
    }

    fn draw(&mut self, input: InputId) -> Result<Arc<Drawn>> {
        self.rights.draw(input)?;
        self.rows(input)?.draw(input)
    }

    fn facts(&mut self, input: InputId) -> Result<Facts> {
        Ok(self.rows(input)?.facts.clone())
    }

    fn blocks(&mut self, input: InputId) -> Result<usize> {
        Ok(self.passed(input)?.blocks(self.slave))
    }

    fn sum_local(&mut self, values: ValuesMut<'_>) -> Result<()> {
        self.check()?;
        {
            let mut barrier = self.shared.barrier.lock();
            let all = self.place.local_threads;
            let slave = &mut barrier.slaves[self.slave];
            // The last one lets all of them go on.
            slave.waiting = if slave.ended || slave.waiting + 1 == all { 0 } else { slave.waiting + 1 };
            self.shared.look(&mut barrier)?;
        }
        let sum = self.shared.siblings[self.slave].sum(self.place.local_index, values);
        sum.inspect_err(|_| self.shared.barrier.lock().slaves[self.slave].waiting = 0)
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
