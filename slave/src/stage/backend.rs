//! The engine behind one worker thread: the tables over all shards, the clock, the slave's rows.
//!
//! Invariants: every call fails once the run is cancelled, also while it waits; at most `WINDOW` bytes of a worker's
//! reads, and of its updates, are under way at once; what a worker waited and moved is counted; where the consistency
//! model asks for announced keys, no others are read or updated.

use super::cut::{self, Cutter, Item, Message};
use super::items::{check_len, check_out, describe};
use super::link::{Queue, UnderWay};
use super::run::{Run, Source, Update};
use super::slices;
use super::slow::Slow;
use super::wait::block_on;
use crate::consistency::News;
use crate::job::OpenJob;
use crate::kv::Keys;
use flexps_common::announced::Announcements;
use flexps_common::data::block::KeyMap;
use flexps_common::data::drawn::Drawn;
use flexps_common::data::{Block, Facts};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{InputId, Key, TableId};
use flexps_common::transport::Packet;
use flexps_common::value::{OwnedValues, Values, ValuesMut};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::control::TableUse;
use flexps_common::wire::kv::Origin;
use flexps_common::wire::lists;
use flexps_common::worker::{Backend, Place, Pull, Push, Ticket, Touch};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of values under way in each direction of one worker: enough to keep a network busy.
const WINDOW: usize = 16 << 20;

/// What a worker waited and moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Time in waits: for clocks, answers, rows.
    pub waited: Duration,
    /// Bytes sent to other slaves.
    pub sent: u64,
    /// Bytes received from them.
    pub received: u64,
    /// Rows taken.
    pub rows: u64,
}

/// A worker's backend.
pub struct Engine {
    job: Arc<OpenJob>,
    run: Arc<Run>,
    place: Place,
    scalars: Arc<BTreeMap<String, f64>>,
    clock: u64,
    sequence: u64,
    tickets: FxHashMap<u64, Started>,
    next_ticket: u64,
    updates: Queue,
    /// Where the consistency model asks for them.
    announced: Option<Announcements>,
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
}

/// The state of a read that is cut and partly sent.
struct Read {
    local: Vec<(usize, Range<usize>)>,
    waiting: VecDeque<Message>,
    under_way: Queue,
}

impl Engine {
    /// The backend of the worker at `place`.
    pub fn new(job: Arc<OpenJob>, run: Arc<Run>, place: Place, scalars: Arc<BTreeMap<String, f64>>) -> Self {
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
            counters: Counters::default(),
            uses,
        }
    }

    /// Waits until all updates are at their shards, and takes this worker out of the clock table.
    pub fn end(&mut self) -> Result<()> {
        self.lag()?;
        self.start();
        self.settle(0)?;
        let (news, woken) = self.run.end(&self.place);
        self.tell(news);
        drop(woken);
        Ok(())
    }

    /// The worker has announced its first keys, if it ever will: the others must hear them before a clock ends.
    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let news = self.run.start();
            self.tell(news);
        }
    }

    /// Before others hear of this worker: sleeps for as long as it is to be slower.
    fn lag(&mut self) -> Result<()> {
        match &mut self.slow {
            Some(slow) => slow.lag(self.counters.waited, || self.run.check()),
            None => Ok(()),
        }
    }

    fn tell(&self, news: Option<News>) {
        if let Some(news) = news {
            self.job.tell(&self.run, &news);
        }
    }

    /// An error unless the keys were announced for this clock, where that is asked for.
    fn touch(&mut self, items: &[Item<'_>]) -> Result<()> {
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

    fn count(&mut self, items: &[Item<'_>], of: fn(&mut TableUse) -> &mut u64) {
        for Item { table, spec, keys, .. } in items {
            let bytes = keys.len() * spec.width as usize * spec.element.size();
            *of(&mut self.uses[usize::from(table.0)]) += bytes as u64;
        }
    }

    fn origin(&self) -> Origin {
        Origin { job: self.job.id, run: self.run.id, worker: self.place.index as u32, clock: self.clock }
    }

    /// Sends messages of a read while there is room.
    fn send(&mut self, peek: bool, queue: &mut Queue, mut more: impl FnMut() -> Option<Message>) -> Result<()> {
        while queue.bytes < WINDOW
            && let Some(message) = more()
        {
            let under_way = self.job.link(message.shard)?.get(self.origin(), peek, message)?;
            self.counters.sent += under_way.bytes() as u64;
            queue.push(under_way);
        }
        Ok(())
    }

    /// Takes the answers of a read, sending on as they come.
    fn receive(
        &mut self,
        peek: bool,
        mut queue: Queue,
        mut more: impl FnMut() -> Option<Message>,
        out: &mut [ValuesMut<'_>],
    ) -> Result<()> {
        let job = self.job.clone();
        loop {
            self.send(peek, &mut queue, &mut more)?;
            let Some(mut first) = queue.pop() else { return Ok(()) };
            let answer = self.answer(&mut first)?;
            let link = job.link(first.shard())?;
            if let Some(again) = first.read(link, answer, out)? {
                self.counters.sent += again.bytes() as u64;
                queue.push(again);
            }
        }
    }

    /// Reads this slave's own part.
    fn read_local(&self, items: &[Item<'_>], local: &[(usize, Range<usize>)], out: &mut [ValuesMut<'_>]) -> Result<()> {
        for (item, places) in local {
            let Item { table, spec, keys, .. } = items[*item];
            let width = spec.width as usize;
            let to = slices::part_mut(&mut out[*item], places.start * width..places.end * width);
            self.job.shard.get(table, cut::part(keys, places.clone()), to)?;
        }
        Ok(())
    }

    fn read(&mut self, table: TableId, keys: Keys<'_>, peek: bool, mut out: ValuesMut<'_>) -> Result<()> {
        self.run.check()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, &[(table, keys)])?;
        if !peek {
            self.touch(&items)?;
        }
        check_out(&items, std::slice::from_ref(&out))?;
        self.count(&items, |used| &mut used.read_bytes);
        let out = std::slice::from_mut(&mut out);
        let mut cutter = Cutter::new(&items)?;
        let mut queue = Queue::default();
        // The others work while this slave's part is read, unless there is more than fits the window.
        self.send(peek, &mut queue, || cutter.message())?;
        self.read_local(&items, &std::mem::take(&mut cutter.local), out)?;
        self.receive(peek, queue, || cutter.message(), out)?;
        self.read_local(&items, &cutter.local, out)
    }

    fn update(&mut self, items: &[(TableId, Keys<'_>)], values: &[Values<'_>]) -> Result<()> {
        self.run.check()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, items)?;
        self.touch(&items)?;
        for (item, values) in items.iter().zip(values) {
            // All of it, not only the part of this shard: a wrong length must not shift the values of others.
            check_len(item, values.len(), values.kind())?;
        }
        self.count(&items, |used| &mut used.written_bytes);
        let mut cutter = Cutter::new(&items)?;
        while let Some(message) = cutter.message() {
            self.settle(WINDOW)?;
            // One of its own for each: a shard takes two of the same number for the same message.
            let (origin, sequence) = (self.origin(), self.next_sequence());
            let under_way = job.link(message.shard)?.add(origin, sequence, message, values)?;
            self.counters.sent += under_way.bytes() as u64;
            self.updates.push(under_way);
        }
        let mut kept = Vec::new();
        for (item, places) in cutter.local {
            let (values, Item { table, spec, keys, .. }) = (values[item], items[item]);
            let width = spec.width as usize;
            let values = slices::part(values, places.start * width..places.end * width);
            let keys = cut::part(keys, places);
            if self.run.keeps_none() {
                self.job.shard.add(table, keys, values)?;
            } else {
                kept.push(keep(table, keys, values)?);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let (clock, worker) = (self.clock, self.place.index as u32);
        let sequence = self.next_sequence();
        self.run.add(Source { clock, worker, sequence }, kept)
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Waits until fewer than `room` bytes of updates, or none, are under way.
    fn settle(&mut self, room: usize) -> Result<()> {
        while self.updates.bytes >= room
            && let Some(mut first) = self.updates.pop()
        {
            let answer = self.answer(&mut first)?;
            let job = self.job.clone();
            let link = job.link(first.shard())?;
            if let Some(again) = first.added(link, &answer)? {
                self.counters.sent += again.bytes() as u64;
                self.updates.push(again);
            }
        }
        Ok(())
    }

    fn answer(&mut self, under_way: &mut UnderWay) -> Result<Packet> {
        let pending = under_way.pending().ok_or_else(|| Error::bug("an answer was taken twice"))?;
        let answer = self.wait_for(pending.answer())??;
        self.counters.received += answer.len() as u64;
        Ok(answer)
    }

    fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Result<T> {
        let start = Instant::now();
        let result = block_on(future, || self.run.check());
        self.counters.waited += start.elapsed();
        result
    }
}

/// A copy of an update that its shard keeps.
fn keep(table: TableId, keys: Keys<'_>, values: Values<'_>) -> Result<Update> {
    let mut body = BodyWriter::with_capacity(values.bytes().len());
    body.values(values);
    let values = BodyReader::new(body.finish()).values(values.kind(), values.len())?;
    let keys = match keys {
        Keys::List(keys) => lists::Keys::List(Arc::new(keys.to_vec())),
        Keys::Range { start, count } => lists::Keys::Range(u64::from(start)..u64::from(start) + u64::from(count)),
    };
    Ok(Update { table, keys, values })
}

impl Backend for Engine {
    fn start_get(&mut self, pulls: &[Pull<'_>]) -> Result<Ticket> {
        self.run.check()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items: Vec<_> = pulls.iter().map(|pull| (pull.table, Keys::List(pull.keys))).collect();
        let items = describe(&job, &run, &items)?;
        self.touch(&items)?;
        let mut cutter = Cutter::new(&items)?;
        let mut under_way = Queue::default();
        self.send(false, &mut under_way, || cutter.message())?;
        let waiting = std::iter::from_fn(|| cutter.message()).collect();
        let read = Read { local: cutter.local, waiting, under_way };
        // The keys of messages are in these; a large read need not copy them again.
        let keys = |at: usize| if read.local.iter().any(|(item, _)| *item == at) { pulls[at].keys } else { &[] };
        let items = pulls.iter().enumerate().map(|(at, pull)| (pull.table, pull.keys.len(), keys(at).to_vec()));
        let items = items.collect();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, Started { items, read });
        Ok(Ticket(ticket))
    }

    fn finish_get(&mut self, ticket: Ticket, out: &mut [ValuesMut<'_>]) -> Result<()> {
        self.run.check()?;
        let found = self.tickets.remove(&ticket.0);
        let Started { items, read } = found.ok_or_else(|| Error::bug("a ticket that this worker does not hold"))?;
        let items = items.iter().map(|(table, count, keys)| match keys.len() == *count {
            true => (*table, Keys::List(keys)),
            false => (*table, Keys::Range { start: 0, count: *count as u32 }),
        });
        let items: Vec<_> = items.collect();
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, &items)?;
        check_out(&items, out)?;
        self.count(&items, |used| &mut used.read_bytes);
        let Read { local, mut waiting, under_way } = read;
        self.read_local(&items, &local, out)?;
        self.receive(false, under_way, || waiting.pop_front(), out)
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
        self.lag()?;
        self.start();
        self.settle(0)?;
        self.clock += 1;
        self.announced.iter_mut().for_each(Announcements::tick);
        // The other slaves hear of it first: they have the longer way.
        let (news, woken) = self.run.tick(&self.place);
        self.tell(news);
        drop(woken);
        let start = Instant::now();
        let result = self.run.wait(&self.place);
        self.counters.waited += start.elapsed();
        result
    }

    fn block(&mut self, input: InputId, at: usize) -> Result<Option<Arc<Block>>> {
        let job = self.job.clone();
        let block = self.wait_for(job.rows(input)?.block(at))??;
        self.counters.rows += block.as_ref().map_or(0, |block| block.rows() as u64);
        Ok(block)
    }

    fn key_map(&mut self, input: InputId) -> Result<Arc<KeyMap>> {
        let job = self.job.clone();
        self.wait_for(job.rows(input)?.key_map())?
    }

    fn draw(&mut self, input: InputId) -> Result<Arc<Drawn>> {
        let job = self.job.clone();
        self.wait_for(job.draw(input))?
    }

    fn facts(&mut self, input: InputId) -> Result<Facts> {
        let job = self.job.clone();
        self.wait_for(job.input(input)?.facts())?
    }

    fn blocks(&mut self, input: InputId) -> Result<usize> {
        let job = self.job.clone();
        self.wait_for(job.rows(input)?.blocks())?
    }

    fn sum_local(&mut self, values: ValuesMut<'_>) -> Result<()> {
        self.run.check()?;
        self.lag()?;
        let start = Instant::now();
        let result = self.run.siblings.sum(self.place.local_index, values);
        self.counters.waited += start.elapsed();
        result
    }

    fn take_column(&mut self, input: InputId, at: usize, name: &str) -> Result<Option<OwnedValues>> {
        self.run.check()?;
        Ok(self.job.take_column(input, at, name))
    }

    fn put_column(&mut self, input: InputId, at: usize, name: &str, column: OwnedValues) -> Result<()> {
        self.run.check()?;
        self.job.put_column(input, at, name, column);
        Ok(())
    }

    fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.get(name).copied()
    }

    fn check(&mut self) -> Result<()> {
        self.run.check()
    }
}
