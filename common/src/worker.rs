//! What a stage's function sees: a worker among its siblings, its rows, and the tables.
//!
//! Plain synchronous calls; each returns [`crate::error::Fault::Cancelled`] once the stage is cancelled, so a function
//! that passes errors on stops at its next call. The engine behind is a [`Backend`]: the cluster's in the slave, the
//! one-thread host's in [`crate::host`].

use crate::data::block::KeyMap;
use crate::data::drawn::Drawn;
use crate::data::{Block, Facts};
use crate::error::Result;
use crate::ids::{InputId, Key, TableId};
use crate::metrics::{Metric, Metrics};
use crate::plan::{Input, Table};
use crate::value::{Element, OwnedValues, Values, ValuesMut};
use std::any::{Any, TypeId};
use std::ops::Range;
use std::sync::Arc;

/// Where a worker stands. Fixed for a stage's run.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// This worker among all of the stage, from 0; workers of one slave are consecutive.
    pub index: usize,
    /// All workers of the stage.
    pub threads: usize,
    /// This worker among those of its slave, from 0.
    pub local_index: usize,
    /// Workers on its slave.
    pub local_threads: usize,
    /// Slaves of the stage.
    pub slaves: usize,
    /// The round of the innermost repeat, from 0.
    pub epoch: u64,
}

impl Place {
    /// This worker's part of `count` things of which each worker of the stage takes as many: parts follow one another and are all.
    pub fn share(&self, count: usize) -> Range<usize> {
        count * self.index / self.threads..count * (self.index + 1) / self.threads
    }

    /// The same among the workers of its slave.
    pub fn local_share(&self, count: usize) -> Range<usize> {
        count * self.local_index / self.local_threads..count * (self.local_index + 1) / self.local_threads
    }
}

/// Keys of one table to read.
#[derive(Debug, Clone, Copy)]
pub struct Pull<'a> {
    /// The table.
    pub table: TableId,
    /// Strictly rising keys.
    pub keys: &'a [Key],
}

/// Keys and values of one table to update.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    /// The table.
    pub table: TableId,
    /// Strictly rising keys.
    pub keys: &'a [Key],
    /// `width` values per key.
    pub values: Values<'a>,
}

/// Keys that a worker will read or update at a clock.
#[derive(Debug, Clone, Copy)]
pub struct Touch<'a> {
    /// In each of these tables.
    pub tables: &'a [TableId],
    /// Strictly rising keys.
    pub keys: &'a [Key],
}

/// An asynchronous read under way.
#[derive(Debug)]
pub struct Ticket(pub u64);

/// The engine behind a worker. All keys rise strictly; all value slices hold `width` elements per key.
pub trait Backend {
    /// Starts a read of several tables, in one message per shard.
    fn start_get(&mut self, pulls: &[Pull<'_>]) -> Result<Ticket>;
    /// Waits for a read and fills one slice per pull, in the same order.
    fn finish_get(&mut self, ticket: Ticket, out: &mut [ValuesMut<'_>]) -> Result<()>;
    /// Reads one table; the short way of the two above for a shard that is beside the worker.
    fn get(&mut self, pull: Pull<'_>, out: ValuesMut<'_>) -> Result<()> {
        let ticket = self.start_get(&[pull])?;
        self.finish_get(ticket, &mut [out])
    }
    /// Like [`Backend::get`] without the clock check: whatever the shards hold now.
    fn peek(&mut self, pull: Pull<'_>, out: ValuesMut<'_>) -> Result<()>;
    /// Like [`Backend::get_range`] without the clock check.
    fn peek_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()>;
    /// Takes all keys that the worker will touch at `clock`, where the consistency model asks for them.
    fn announce(&mut self, clock: u64, touches: &[Touch<'_>]) -> Result<()>;
    /// As [`crate::plan::Consistency::ahead`].
    fn ahead(&self) -> Option<u32>;
    /// Updates several tables, in one message per shard. Reads behind the next [`Backend::clock`] see it: this worker's
    /// own, and those of others as the consistency model says.
    fn add(&mut self, pushes: &[Push<'_>]) -> Result<()>;
    /// Reads consecutive keys; keys that nobody wrote are zero.
    fn get_range(&mut self, table: TableId, keys: Range<Key>, out: ValuesMut<'_>) -> Result<()>;
    /// Updates consecutive keys.
    fn add_range(&mut self, table: TableId, keys: Range<Key>, values: Values<'_>) -> Result<()>;
    /// Ends an iteration; the next one's calls wait as far as the consistency model asks.
    fn clock(&mut self) -> Result<()>;
    /// Block `at` of the slave's rows of `input`; waits while it is still being read. None behind the last one.
    fn block(&mut self, input: InputId, at: usize) -> Result<Option<Arc<Block>>>;
    /// The place of the block that comes next in a pass where it is `at`'s turn: another one where workers take rows that
    /// their stage consumes as they come to them, for which it may wait.
    fn turn(&mut self, _input: InputId, at: usize) -> Result<usize> {
        Ok(at)
    }
    /// As [`Worker::takers`]; at most as many count as the slave has.
    fn takers(&self, _input: InputId) -> usize {
        usize::MAX
    }
    /// Block `at` will be asked for soon; changes nothing but the time that takes.
    fn expect(&mut self, _input: InputId, _at: usize) {}
    /// The features of the slave's rows; waits until all are read, and renumbers the rows at the first call: blocks
    /// taken later hold local numbers.
    fn key_map(&mut self, input: InputId) -> Result<Arc<KeyMap>>;
    /// Facts of the whole input; waits until every slave has read its part.
    fn facts(&mut self, input: InputId) -> Result<Facts>;
    /// The rows that the slave has for a stage that draws, one numbering for all of its workers; waits until they are here.
    fn draw(&mut self, input: InputId) -> Result<Arc<Drawn>>;
    /// Number of blocks on this slave; waits until all are read.
    fn blocks(&mut self, input: InputId) -> Result<usize>;
    /// Replaces `values` by the sum over the stage's workers on this slave; waits for all of them.
    fn sum_local(&mut self, values: ValuesMut<'_>) -> Result<()>;
    /// Takes the column `name` of block `at` out of the slave's keeping; None when nobody put one.
    fn take_column(&mut self, input: InputId, at: usize, name: &str) -> Result<Option<OwnedValues>>;
    /// Puts a column into the slave's keeping; it lasts as long as the job.
    fn put_column(&mut self, input: InputId, at: usize, name: &str, column: OwnedValues) -> Result<()>;
    /// Something of this type that a worker of the job left on the slave, if it is still there.
    fn take_scratch(&mut self, _of: TypeId) -> Option<Box<dyn Any + Send>> {
        None
    }
    /// Leaves something for workers of the job on the slave; nobody may count on finding it.
    fn put_scratch(&mut self, _scratch: Box<dyn Any + Send>) {}
    /// A scalar of the job.
    fn scalar(&self, name: &str) -> Option<f64>;
    /// Fails once the stage is cancelled.
    fn check(&mut self) -> Result<()>;
}

/// A worker: one thread of one stage on one slave.
pub struct Worker<'a> {
    /// Where it stands.
    pub place: Place,
    /// What it reported so far.
    pub metrics: Metrics,
    clocks: u64,
    backend: &'a mut dyn Backend,
}

impl<'a> Worker<'a> {
    /// A worker on `backend`.
    pub fn new(place: Place, backend: &'a mut dyn Backend) -> Self {
        Self { place, metrics: Metrics::default(), clocks: 0, backend }
    }

    /// The round of the innermost repeat, from 0.
    pub fn epoch(&self) -> u64 {
        self.place.epoch
    }

    /// Reads `keys` (strictly rising) into `out`, which is resized to `width` values per key.
    pub fn get<T: Element>(&mut self, table: Table<T>, keys: &[Key], out: &mut Vec<T>) -> Result<()> {
        out.resize(keys.len() * table.width as usize, T::default());
        self.backend.get(Pull { table: table.id, keys }, T::wrap_mut(out))
    }

    /// Reads without the clock check.
    pub fn peek<T: Element>(&mut self, table: Table<T>, keys: &[Key], out: &mut Vec<T>) -> Result<()> {
        out.resize(keys.len() * table.width as usize, T::default());
        self.backend.peek(Pull { table: table.id, keys }, T::wrap_mut(out))
    }

    /// Starts a read of several tables in one message per shard; end it with [`Worker::finish_get`].
    pub fn start_get(&mut self, pulls: &[Pull<'_>]) -> Result<Ticket> {
        self.backend.start_get(pulls)
    }

    /// Waits for a read; one slice per pull, in the same order, each of `width` values per key.
    pub fn finish_get(&mut self, ticket: Ticket, out: &mut [ValuesMut<'_>]) -> Result<()> {
        self.backend.finish_get(ticket, out)
    }

    /// Updates `keys` (strictly rising) by the table's update function. This worker's reads behind the next clock see it (under
    /// ASP at once, where it is applied beside the worker), those of others as the consistency model says; what comes behind the
    /// last clock is applied when the stage ends.
    pub fn add<T: Element>(&mut self, table: Table<T>, keys: &[Key], values: &[T]) -> Result<()> {
        self.backend.add(&[Push { table: table.id, keys, values: T::wrap(values) }])
    }

    /// Updates several tables in one message per shard.
    pub fn add_many(&mut self, pushes: &[Push<'_>]) -> Result<()> {
        self.backend.add(pushes)
    }

    /// Reads consecutive keys; `out` is resized to `width` values per key, to none for an empty range. A range can't reach the
    /// last key, 2^32 - 1; [`Worker::get`] can.
    pub fn get_range<T: Element>(&mut self, table: Table<T>, keys: Range<Key>, out: &mut Vec<T>) -> Result<()> {
        out.resize(keys.len() * table.width as usize, T::default());
        self.backend.get_range(table.id, keys, T::wrap_mut(out))
    }

    /// Updates consecutive keys; the last one, 2^32 - 1, only [`Worker::add`] can.
    pub fn add_range<T: Element>(&mut self, table: Table<T>, keys: Range<Key>, values: &[T]) -> Result<()> {
        self.backend.add_range(table.id, keys, T::wrap(values))
    }

    /// Reads the values of all local features, in local order.
    pub fn get_mapped<T: Element>(&mut self, table: Table<T>, map: &KeyMap, out: &mut Vec<T>) -> Result<()> {
        match map {
            KeyMap::Identity(n) => self.get_range(table, 0..*n, out),
            KeyMap::Sorted(keys) => self.get(table, keys, out),
        }
    }

    /// Updates the values of all local features.
    pub fn add_mapped<T: Element>(&mut self, table: Table<T>, map: &KeyMap, values: &[T]) -> Result<()> {
        match map {
            KeyMap::Identity(n) => self.add_range(table, 0..*n, values),
            KeyMap::Sorted(keys) => self.add(table, keys, values),
        }
    }

    /// Reads the values of all local features without the clock check: right for tables that the stage does not change.
    pub fn peek_mapped<T: Element>(&mut self, table: Table<T>, map: &KeyMap, out: &mut Vec<T>) -> Result<()> {
        match map {
            KeyMap::Identity(n) => {
                out.resize(*n as usize * table.width as usize, T::default());
                self.backend.peek_range(table.id, 0..*n, T::wrap_mut(out))
            }
            KeyMap::Sorted(keys) => self.peek(table, keys, out),
        }
    }

    /// How many clocks ahead of its present one this worker is to announce keys; none where nobody asks for them.
    pub fn ahead(&self) -> Option<u32> {
        self.backend.ahead()
    }

    /// Says which keys this worker will read and update at `clock`: all of them, once, before the clock begins or at its
    /// begin. Costs nothing where [`Worker::ahead`] is none. Elsewhere a get or add of any other key is an error, only
    /// peeks are free; who announces [`Worker::ahead`] clocks ahead lets others, whose keys don't meet these, go on, and
    /// goes on itself where its keys don't meet theirs.
    pub fn announce(&mut self, clock: u64, touches: &[Touch<'_>]) -> Result<()> {
        self.backend.announce(clock, touches)
    }

    /// How many iterations this worker has ended: the number of its present clock.
    pub fn clocks(&self) -> u64 {
        self.clocks
    }

    /// Ends an iteration. Workers of a stage may end unlike numbers of them: who has returned holds nobody up.
    pub fn clock(&mut self) -> Result<()> {
        self.backend.clock()?;
        self.clocks += 1;
        Ok(())
    }

    /// Starts a pass over this worker's share of the slave's rows; `next` gives block after block, those that are
    /// still being read as they come. Their indices are features until a worker of this stage or one before asks for
    /// [`Worker::key_map`], or draws rows of the input, and numbers of that map behind it. Of rows that the stage consumes a worker's share is what it comes to first, and a
    /// slave's first worker has all as long as it keeps up with the reading; the blocks are in order, and a second pass
    /// gives only what the first one has left.
    pub fn pass(&self, input: Input) -> Pass {
        Pass { input: input.id, at: self.place.local_index, step: self.place.local_threads.max(1) }
    }

    /// How many of the slave's workers get rows that the stage consumes: one that is not needed gets none. It counts from a
    /// block before its first one on, so that others can leave for it in tables what it needs to know.
    pub fn takers(&self, input: Input) -> usize {
        self.backend.takers(input.id).min(self.place.local_threads)
    }

    /// The places of this worker's blocks among the slave's; waits until all rows are read.
    pub fn own_blocks(&mut self, input: Input) -> Result<Vec<usize>> {
        let blocks = self.backend.blocks(input.id)?;
        Ok((self.place.local_index..blocks).step_by(self.place.local_threads.max(1)).collect())
    }

    /// Block `at` of the slave's rows.
    pub fn block(&mut self, input: Input, at: usize) -> Result<Option<Arc<Block>>> {
        self.backend.block(input.id, at)
    }

    /// Says that block `at` will be asked for soon: one that is on disk is read meanwhile. A pass says so by itself.
    pub fn expect(&mut self, input: Input, at: usize) {
        self.backend.expect(input.id, at);
    }

    /// The features of the slave's rows; from the first call on, and as long as the job lasts, blocks hold local numbers: in
    /// the stages behind as well, which must ask for the map to know what they mean. Call it before taking blocks, in every
    /// worker of the stage or in none.
    pub fn key_map(&mut self, input: Input) -> Result<Arc<KeyMap>> {
        self.backend.key_map(input.id)
    }

    /// The rows that this slave has for a stage that draws ([`crate::plan::StageBuilder::draws`]): its own and those that
    /// it fetched from others, the same for all workers here and in each run. Waits until they are there. Their indices are
    /// numbers of a map of their own; those of the slave's rows are numbers of [`Worker::key_map`] from then on.
    pub fn draw(&mut self, input: Input) -> Result<Arc<Drawn>> {
        self.backend.draw(input.id)
    }

    /// Facts of the whole input; waits until it is read.
    pub fn facts(&mut self, input: Input) -> Result<Facts> {
        self.backend.facts(input.id)
    }

    /// Takes a column of block `at`: `len` values, zeros when nobody put one. Put it back to keep it; neither copies.
    pub fn take_column<T: Element>(&mut self, input: Input, at: usize, name: &str, len: usize) -> Result<Vec<T>> {
        let Some(column) = self.find_column(input, at, name)? else { return Ok(vec![T::default(); len]) };
        if column.len() == len {
            return Ok(column);
        }
        Err(crate::Error::bug(format!("column {name} of block {at} holds {} values, not {len}", column.len())))
    }

    /// Takes a column of block `at`, of whatever length, if somebody put one.
    pub fn find_column<T: Element>(&mut self, input: Input, at: usize, name: &str) -> Result<Option<Vec<T>>> {
        let Some(column) = self.backend.take_column(input.id, at, name)? else { return Ok(None) };
        let other = |column: OwnedValues| {
            let (found, asked) = (column.borrow().kind(), T::TYPE);
            crate::Error::bug(format!("column {name} of block {at} holds {found:?}, not {asked:?}"))
        };
        T::disown(column).map(Some).map_err(other)
    }

    /// Puts a column of block `at` into the slave's keeping.
    pub fn put_column<T: Element>(&mut self, input: Input, at: usize, name: &str, column: Vec<T>) -> Result<()> {
        self.backend.put_column(input.id, at, name, T::own(column))
    }

    /// Takes what a worker of this job left here by [`Worker::put_scratch`], or makes it anew: for memory that each run of a
    /// stage would else ask the system for again. What it holds is whatever was in it, so no result may depend on it.
    pub fn take_scratch<T: Any + Send + Default>(&mut self) -> T {
        let left = self.backend.take_scratch(TypeId::of::<T>());
        left.and_then(|left| left.downcast().ok()).map_or_else(T::default, |left| *left)
    }

    /// Leaves `scratch` for the next worker of this job here that takes one of its type; it goes with the job at the latest.
    pub fn put_scratch<T: Any + Send>(&mut self, scratch: T) {
        self.backend.put_scratch(Box::new(scratch));
    }

    /// Replaces `values` by their sum over the stage's workers on this slave, in the order of the workers. All of these
    /// must call it, each as often as the others and with as many values, between the same clocks. No message is sent.
    pub fn sum_local<T: Element>(&mut self, values: &mut [T]) -> Result<()> {
        if self.place.local_threads <= 1 { Ok(()) } else { self.backend.sum_local(T::wrap_mut(values)) }
    }

    /// A scalar of the job, or `default` when nobody set it.
    pub fn scalar(&self, name: &str, default: f64) -> f64 {
        self.backend.scalar(name).unwrap_or(default)
    }

    /// Reports a value; values of the same name merge over workers. They must be of one kind, else the stage fails with an
    /// error that names the metric.
    pub fn report(&mut self, name: &str, metric: Metric) {
        self.metrics.add(name, metric);
    }

    /// Fails once the stage is cancelled; for long loops that make no other call.
    pub fn check(&mut self) -> Result<()> {
        self.backend.check()
    }
}

/// A pass over a worker's share of the rows.
#[derive(Debug)]
pub struct Pass {
    input: InputId,
    at: usize,
    step: usize,
}

impl Pass {
    /// The next block and its place among the slave's, or None behind the last.
    pub fn next(&mut self, worker: &mut Worker<'_>) -> Result<Option<(usize, Arc<Block>)>> {
        let at = worker.backend.turn(self.input, self.at)?;
        self.at += self.step;
        // Of consumed rows this is another worker's, whoever takes it.
        worker.backend.expect(self.input, at + self.step);
        let block = worker.backend.block(self.input, at)?;
        Ok(block.map(|b| (at, b)))
    }
}
