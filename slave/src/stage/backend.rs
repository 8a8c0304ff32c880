//! The engine behind one worker thread: the tables over all shards, the clock, the slave's rows.
//!
//! Invariants: every call fails once the run is cancelled, also while it waits; what a worker waited and moved is counted;
//! where the consistency model asks for announced keys, no others are read or updated; a worker sees its own updates of
//! earlier clocks, but for what a filter holds back; what it reads, waits for and updates at a clock does so after the clock
//! may begin, and after it is settled where the tables live.

use super::cached::Looked;
use super::cut::{Cutter, Item, Message};
use super::exchange::Told;
use super::filter::Filter;
use super::follow::Follow;
use super::items::{check_out, describe};
use super::link::Queue;
use super::run::Run;
use super::slow::Slow;
use crate::consistency::ENDED;
use crate::job::OpenJob;
use crate::kv::Keys;
use flexps_common::announced::Announcements;
use flexps_common::data::block::KeyMap;
use flexps_common::data::drawn::Drawn;
use flexps_common::data::{Block, Facts};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{InputId, Key, SlaveId, TableId};
use flexps_common::report::PackUse;
use flexps_common::value::{OwnedValues, Values, ValuesMut};
use flexps_common::waiting::{block_on, unless};
use flexps_common::wire::control::TableUse;
use flexps_common::wire::kv::Origin;
use flexps_common::wire::lists::Keys as OwnedKeys;
use flexps_common::worker::{Backend, Place, Pull, Push, Ticket, Touch};
use rustc_hash::FxHashMap;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a worker waited and moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Time in waits: for clocks, answers, rows.
    pub waited: Duration,
    /// Of which for the model to come.
    pub model_waited: Duration,
    /// Time that an experiment made it sleep.
    pub slept: Duration,
    /// Bytes sent to other slaves.
    pub sent: u64,
    /// Bytes received from them.
    pub received: u64,
    /// What values took of these, where a compression is asked for.
    pub packed: PackUse,
    /// Rows taken.
    pub rows: u64,
}

/// A worker's backend.
pub struct Engine {
    pub(super) job: Arc<OpenJob>,
    pub(super) run: Arc<Run>,
    pub(super) place: Place,
    scalars: Arc<BTreeMap<String, f64>>,
    pub(super) clock: u64,
    pub(super) sequence: u64,
    tickets: FxHashMap<u64, Started>,
    next_ticket: u64,
    /// Updates that were not answered yet.
    pub(super) updates: Queue,
    /// How many of them, the first ones, belong to clocks that have ended here.
    pub(super) ended: usize,
    /// By slave: updates sent to it at this clock.
    pub(super) sent: FxHashMap<SlaveId, u64>,
    /// It is not known yet whether the present clock may begin: reads at other shards may be sent, they wait there.
    put_off: bool,
    pub(super) follow: Follow,
    /// Where the consistency model asks for them.
    announced: Option<Announcements>,
    /// Keys that were updated at this clock, as far as the slave's cache may hold them.
    pub(super) updated: Vec<(TableId, OwnedKeys)>,
    /// What holds back some of its updates, if anything does.
    pub filter: Option<Box<dyn Filter>>,
    /// Whether the first keys, if any, are announced.
    started: bool,
    /// Set for a worker that an experiment slows.
    slow: Option<Slow>,
    /// What was counted so far.
    pub counters: Counters,
    /// Bytes of values read and written, by table.
    pub uses: Vec<TableUse>,
}

/// A read that was started.
struct Started {
    /// Tables, how many keys of each, and the keys where this slave serves some of them.
    items: Vec<(TableId, usize, Vec<Key>)>,
    read: Read,
    /// Where the read is of what the slave's cache did not have.
    looked: Option<Looked>,
}

/// The state of a read that is cut and partly sent.
pub(super) struct Read {
    local: Vec<(usize, Range<usize>)>,
    waiting: VecDeque<Message>,
    under_way: Queue,
}

impl Engine {
    /// The backend of the worker at `place`, whose updates go through this filter.
    pub fn new(
        job: Arc<OpenJob>,
        run: Arc<Run>,
        place: Place,
        scalars: Arc<BTreeMap<String, f64>>,
        filter: Option<Box<dyn Filter>>,
    ) -> Self {
        let announced = run.consistency.ahead().map(|_| Announcements::default());
        let uses = vec![TableUse::default(); job.shard.specs().len()];
        Self {
            started: announced.is_none(),
            announced,
            slow: job.experiment.slows(place.index).map(Slow::new),
            job,
            run,
            place,
            scalars,
            clock: 0,
            sequence: 0,
            tickets: FxHashMap::default(),
            next_ticket: 0,
            updates: Queue::default(),
            ended: 0,
            sent: FxHashMap::default(),
            put_off: false,
            follow: Follow::default(),
            updated: Vec::new(),
            filter,
            counters: Counters::default(),
            uses,
        }
    }

    /// Waits until all updates are at their shards, and takes this worker out of the clock table.
    pub fn end(&mut self) -> Result<()> {
        self.release();
        self.lag()?;
        self.settled()?;
        self.start();
        // The last clock counts as begun under every model.
        self.begin()?;
        self.send_due(ENDED)?;
        self.send_sums(true)?;
        self.settle(0)?;
        let sent: Vec<_> = self.sent.drain().collect();
        let (told, woken) = self.run.end(&self.place, &sent);
        self.tell(told);
        self.job.flush();
        drop(woken);
        Ok(())
    }

    /// The worker has announced its first keys, if it ever will: the others must hear them before a clock ends.
    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let told = self.run.start();
            self.tell(told);
        }
    }

    /// Before others hear of this worker: sleeps for as long as it is to be slower.
    fn lag(&mut self) -> Result<()> {
        if let Some(slow) = &mut self.slow {
            self.counters.slept += slow.lag(self.counters.waited, self.run.cancelled())?;
        }
        Ok(())
    }

    fn tell(&self, told: Option<Told>) {
        if let Some(told) = told {
            self.job.tell(&self.run, &told);
        }
    }

    /// Waits until the present clock may begin.
    pub(super) fn begin(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.put_off, false) {
            return Ok(());
        }
        self.settle(0)?;
        self.job.flush();
        let start = Instant::now();
        let result = self.run.wait(&self.place);
        self.counters.waited += start.elapsed();
        result
    }

    /// An error unless the keys were announced for this clock, where that is asked for.
    pub(super) fn touch(&mut self, items: &[Item<'_>]) -> Result<()> {
        self.start();
        let Some(announced) = &self.announced else { return Ok(()) };
        items.iter().try_for_each(|item| match item.keys {
            Keys::List(keys) => announced.check(item.table, &item.spec.name, keys),
            Keys::Range { start, count } => {
                let start = u64::from(start);
                announced.check_range(item.table, &item.spec.name, start..start + u64::from(count))
            }
        })
    }

    pub(super) fn count(&mut self, items: &[Item<'_>], of: fn(&mut TableUse) -> &mut u64) {
        for item in items {
            *of(&mut self.uses[usize::from(item.table.0)]) += item.bytes() as u64;
        }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { job: self.job.id, run: self.run.id, worker: self.place.index as u32, clock: self.clock }
    }

    /// Waits until the model is where it stays during this run.
    pub(super) fn settled(&mut self) -> Result<()> {
        if self.run.settled.is_settled() {
            return Ok(());
        }
        let (run, start) = (self.run.clone(), Instant::now());
        let result = self.wait_for(run.settled.wait());
        self.counters.model_waited += start.elapsed();
        result?
    }

    /// Cuts a read and sends what may be sent of it.
    pub(super) fn begin_read(&mut self, items: &[Item<'_>]) -> Result<Read> {
        let (mut cutter, mut under_way) = (Cutter::new(items)?, Queue::default());
        self.send(false, &mut under_way, || cutter.message())?;
        let waiting = std::iter::from_fn(|| cutter.message()).collect();
        Ok(Read { local: cutter.local, waiting, under_way })
    }

    /// Takes the values of a read. All of them show the updates of clocks below the number that comes back.
    pub(super) fn end_read(&mut self, read: Read, items: &[Item<'_>], out: &mut [ValuesMut<'_>]) -> Result<u64> {
        let Read { local, mut waiting, under_way } = read;
        self.read_local(items, &local, out)?;
        self.receive(false, under_way, || waiting.pop_front(), out)
    }

    /// Before waits for others, or for rows: nobody need wait for this worker's reads.
    pub(super) fn release(&self) {
        self.run.cache().into_iter().for_each(|cache| cache.release(self.place.local_index));
    }

    pub(super) fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Result<T> {
        self.job.flush();
        let start = Instant::now();
        let result = block_on(unless(future, self.run.cancelled()));
        self.counters.waited += start.elapsed();
        result
    }
}

impl Backend for Engine {
    fn start_get(&mut self, pulls: &[Pull<'_>]) -> Result<Ticket> {
        self.run.check()?;
        self.follow.read(Instant::now());
        self.settled()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items: Vec<_> = pulls.iter().map(|pull| (pull.table, Keys::List(pull.keys))).collect();
        let items = describe(&job, &run, &items)?;
        self.prepare(&items, false)?;
        let looked = self.look(&items);
        let read = match &looked {
            None => self.begin_read(&items)?,
            Some(looked) => self.begin_read(&looked.missing(&items))?,
        };
        self.job.flush();
        // The keys of messages are in these; a large read need not copy them again, unless a filter asks for them.
        let keys = |at: usize| match &looked {
            None if self.filter.is_none() && !read.local.iter().any(|(item, _)| *item == at) => &[],
            _ => pulls[at].keys,
        };
        let items = pulls.iter().enumerate().map(|(at, pull)| (pull.table, pull.keys.len(), keys(at).to_vec()));
        let items = items.collect();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, Started { items, read, looked });
        Ok(Ticket(ticket))
    }

    fn finish_get(&mut self, ticket: Ticket, out: &mut [ValuesMut<'_>]) -> Result<()> {
        self.run.check()?;
        let found = self.tickets.remove(&ticket.0);
        let Started { items, read, looked } =
            found.ok_or_else(|| Error::bug("a ticket that this worker does not hold"))?;
        let items = items.iter().map(|(table, count, keys)| match keys.len() == *count {
            true => (*table, Keys::List(keys)),
            false => (*table, Keys::Range { start: 0, count: *count as u32 }),
        });
        let items: Vec<_> = items.collect();
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, &items)?;
        check_out(&items, out)?;
        self.count(&items, |used| &mut used.read_bytes);
        self.begin()?;
        match looked {
            None => self.end_read(read, &items, out).map(drop)?,
            Some(looked) => self.fetch(looked, read, &items, out)?,
        }
        self.have_read(&items, out);
        Ok(())
    }

    fn get(&mut self, pull: Pull<'_>, out: ValuesMut<'_>) -> Result<()> {
        self.read(pull.table, Keys::List(pull.keys), false, out)
    }

    fn peek(&mut self, pull: Pull<'_>, out: ValuesMut<'_>) -> Result<()> {
        self.read(pull.table, Keys::List(pull.keys), true, out)
    }

    fn peek_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()> {
        self.read(table, Keys::range(&keys), true, out)
    }

    fn announce(&mut self, clock: u64, touches: &[Touch<'_>]) -> Result<()> {
        let Some(announced) = &mut self.announced else { return Ok(()) };
        let touches = announced.announce(clock, touches)?;
        self.run.announce(&self.place, clock, touches);
        Ok(())
    }

    fn ahead(&self) -> Option<u32> {
        self.run.consistency.ahead()
    }

    fn add(&mut self, pushes: &[Push<'_>]) -> Result<()> {
        if let [push] = pushes {
            return self.update(&[(push.table, Keys::List(push.keys))], &[push.values]);
        }
        let items: Vec<_> = pushes.iter().map(|push| (push.table, Keys::List(push.keys))).collect();
        let values: Vec<_> = pushes.iter().map(|push| push.values).collect();
        self.update(&items, &values)
    }

    fn get_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()> {
        self.read(table, Keys::range(&keys), false, out)
    }

    fn add_range(&mut self, table: TableId, keys: Range<Key>, values: Values<'_>) -> Result<()> {
        self.update(&[(table, Keys::range(&keys))], &[values])
    }

    fn clock(&mut self) -> Result<()> {
        self.run.check()?;
        self.release();
        self.lag()?;
        self.settled()?;
        self.start();
        self.begin()?;
        self.settle_answered()?;
        self.send_due(self.clock)?;
        self.send_sums(false)?;
        self.clock += 1;
        self.announced.iter_mut().for_each(Announcements::tick);
        self.ended = self.updates.len();
        let sent: Vec<_> = self.sent.drain().collect();
        // The other slaves hear of it first: they have the longer way.
        let (told, woken) = self.run.tick(&self.place, &sent);
        self.tell(told);
        drop(woken);
        if !self.follow.follows() {
            self.job.flush();
        }
        self.follow.clock(Instant::now());
        self.forget_updated();
        self.put_off = !self.run.goes_on(&self.place);
        if self.run.reads_early() { Ok(()) } else { self.begin() }
    }

    fn block(&mut self, input: InputId, at: usize) -> Result<Option<Arc<Block>>> {
        self.run.rights.pass(input)?;
        self.release();
        let job = self.job.clone();
        let block = self.wait_for(job.rows(input)?.block(at))??;
        self.counters.rows += block.as_ref().map_or(0, |block| block.rows() as u64);
        Ok(block)
    }

    fn turn(&mut self, input: InputId, at: usize) -> Result<usize> {
        let job = self.job.clone();
        let of = job.input(input)?;
        if !of.consumed {
            return Ok(at);
        }
        self.release();
        self.wait_for(job.rows(input)?.admit(self.place.local_index))??;
        Ok(of.turn())
    }

    fn takers(&self, input: InputId) -> usize {
        self.job.rows(input).map_or(1, |rows| rows.takers())
    }

    fn expect(&mut self, input: InputId, at: usize) {
        if let Ok(rows) = self.job.rows(input) {
            rows.expect(at);
        }
    }

    fn key_map(&mut self, input: InputId) -> Result<Arc<KeyMap>> {
        self.run.rights.pass(input)?;
        self.release();
        let job = self.job.clone();
        self.wait_for(job.rows(input)?.key_map())?
    }

    fn draw(&mut self, input: InputId) -> Result<Arc<Drawn>> {
        self.run.rights.draw(input)?;
        self.release();
        let job = self.job.clone();
        self.wait_for(job.draw(input))?
    }

    fn facts(&mut self, input: InputId) -> Result<Facts> {
        self.release();
        let job = self.job.clone();
        self.wait_for(job.input(input)?.facts())?
    }

    fn blocks(&mut self, input: InputId) -> Result<usize> {
        self.run.rights.pass(input)?;
        self.release();
        let job = self.job.clone();
        self.wait_for(job.rows(input)?.blocks())?
    }

    fn sum_local(&mut self, values: ValuesMut<'_>) -> Result<()> {
        self.run.check()?;
        self.release();
        self.lag()?;
        self.begin()?;
        // A sibling may wait for who has yet to hear of this worker's clock.
        self.settle_ended()?;
        let start = Instant::now();
        let result = self.run.siblings.sum(self.place.local_index, values);
        self.counters.waited += start.elapsed();
        result
    }

    fn take_column(&mut self, input: InputId, at: usize, name: &str) -> Result<Option<OwnedValues>> {
        self.run.check()?;
        self.run.rights.pass(input)?;
        Ok(self.job.take_column(input, at, name))
    }

    fn put_column(&mut self, input: InputId, at: usize, name: &str, column: OwnedValues) -> Result<()> {
        self.run.check()?;
        self.run.rights.pass(input)?;
        self.job.put_column(input, at, name, column);
        Ok(())
    }

    fn take_scratch(&mut self, of: TypeId) -> Option<Box<dyn Any + Send>> {
        self.job.scratch.take(of)
    }

    fn put_scratch(&mut self, scratch: Box<dyn Any + Send>) {
        self.job.scratch.put(scratch);
    }

    fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.get(name).copied()
    }

    fn check(&mut self) -> Result<()> {
        self.run.check()
    }
}
