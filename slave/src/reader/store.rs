//! The blocks of one input by number, while they come and after.
//!
//! Invariant: block `at`, once given out, has the same rows each time; its indices are features until the key map is
//! made, and local numbers after, on disk too. Facts are summed in block order, whatever the order of parsing, so that they
//! repeat to the bit. Consumed rows are given out once.

use super::ahead::{Ahead, Found};
use super::backlog::Backlog;
use super::numbering::{self, Keys};
use super::pump::Read;
use super::slot::{Place, Slot};
use super::spill::{Extent, Spill};
use super::takers::Takers;
use super::{CacheRoom, Options};
use flexps_common::data::block::KeyMap;
use flexps_common::data::libsvm::{KEPT_MESSAGES, Parsed, too_many};
use flexps_common::data::{Block, Facts, Occurring, Schema};
use flexps_common::error::{Error, Result};
use flexps_common::wire::control::{ReadBlock, ReadDone};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long reading pauses for who consumes rows before it is looked at what they do.
const PATIENCE: Duration = Duration::from_millis(10);

/// Keeps blocks; see the module.
pub struct Store {
    schema: Schema,
    room: Arc<CacheRoom>,
    folder: PathBuf,
    consumed: bool,
    patient: bool,
    started: Instant,
    state: Mutex<State>,
    /// Rung at each change that somebody may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    slots: Vec<Option<Slot>>,
    backlog: Backlog,
    takers: Takers,
    /// Number of all blocks, once it is known, with what reading them took.
    all: Option<Read>,
    failed: Option<Error>,
    cached_bytes: u64,
    spilled_bytes: u64,
    bad_rows: u64,
    spill: Option<Arc<Spill>>,
    ahead: Ahead,
    /// Reads from disk that are under way.
    reading: usize,
    keys: Keys,
    /// Features of all blocks so far.
    occurring: Occurring,
    seconds: f64,
}

impl Store {
    /// An empty store.
    pub fn new(schema: Schema, options: &Options) -> Self {
        let Options { room, spill: folder, consumed, patient, .. } = options.clone();
        let (started, state, changed) = (Instant::now(), Mutex::default(), Notify::new());
        Self { schema, room, folder, consumed, patient, started, state, changed }
    }

    /// Waits while many blocks are there that nobody has asked for, so that those who consume them give memory back
    /// before more is needed: for a while only, unless those that wait are many, see [`Backlog`].
    pub async fn room(&self) -> Result<()> {
        if !self.consumed {
            return Ok(());
        }
        self.state.lock().takers.wait(Instant::now());
        let room = loop {
            let room = self.wait(|state| state.backlog.has_room(state.takers.count()).then_some(()));
            match tokio::time::timeout(PATIENCE, room).await {
                Ok(room) => break room,
                Err(_) if !self.patient && self.state.lock().backlog.may_grow(Instant::now()) => break Ok(()),
                Err(_) => self.look(),
            }
        };
        self.state.lock().takers.go_on(Instant::now());
        self.look();
        room
    }

    /// Sees to it that what was read is consumed, once all is.
    pub async fn rest(&self) -> Result<()> {
        if !self.consumed {
            return Ok(());
        }
        self.wait(State::complete).await?;
        self.state.lock().takers.wait(Instant::now());
        loop {
            let gone = self.wait(|state| state.all_gone().then_some(()));
            match tokio::time::timeout(PATIENCE, gone).await {
                Ok(gone) => return gone,
                Err(_) => self.look(),
            }
        }
    }

    /// Has one more worker take blocks, if it is time to.
    fn look(&self) {
        if self.state.lock().takers.look(Instant::now()) {
            self.changed.notify_waiters();
        }
    }

    /// How many workers take consumed rows, or are about to.
    pub fn takers(&self) -> usize {
        self.state.lock().takers.count()
    }

    /// Waits until a worker may take a block of consumed rows, or none is left.
    pub async fn admit(&self, worker: usize) -> Result<()> {
        if self.state.lock().takers.come(worker, Instant::now()) {
            self.changed.notify_waiters();
        }
        self.wait(|state| (state.takers.has(worker) || state.all_gone()).then_some(())).await
    }

    /// Memory for a block: of one that was consumed.
    pub fn spare(&self) -> Option<Block> {
        if self.consumed { self.state.lock().ahead.spare() } else { None }
    }

    /// Takes the block of chunk `at`, on which a parser began then.
    pub fn put(&self, at: usize, mut parsed: Parsed, began: Instant) -> Result<()> {
        if !self.consumed {
            parsed.block.fit();
        }
        let bytes = parsed.block.bytes() as u64;
        let mut occurring = Occurring::default();
        occurring.note(&parsed.block.indices);
        let spill = {
            let mut state = self.state.lock();
            state.occurring.merge(&occurring);
            state.bad_rows += parsed.facts.bad_rows;
            if state.bad_rows > self.schema.bad_rows {
                // Of what was read until now.
                let (before, behind) = state.slots.split_at(at.min(state.slots.len()));
                let of = |slots: &[Option<Slot>]| slots.iter().flatten().flat_map(|slot| &slot.bad).next().cloned();
                let first = of(before).or(parsed.bad.first().cloned()).or(of(behind));
                return Err(too_many(first.as_slice(), state.bad_rows, self.schema.bad_rows));
            }
            if self.room.take(bytes) {
                state.cached_bytes += bytes;
                None
            } else {
                if state.spill.is_none() {
                    tracing::info!(folder = %self.folder.display(), "rows beyond the cache memory go to disk");
                    state.spill = Some(Arc::new(Spill::create(&self.folder)?));
                }
                state.spilled_bytes += bytes;
                state.spill.clone()
            }
        };
        let place = match spill {
            None => Place::Memory(Arc::new(parsed.block)),
            Some(spill) => Place::Disk(spill.write(&parsed.block)?),
        };
        let mut state = self.state.lock();
        if state.slots.len() <= at {
            state.slots.resize_with(at + 1, || None);
        }
        state.slots[at] = Some(Slot { place, facts: parsed.facts, bad: parsed.bad });
        state.backlog.put(bytes, Instant::now());
        state.takers.parsed(began.elapsed());
        state.seconds = self.started.elapsed().as_secs_f64();
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Says how many blocks there will have been.
    pub fn end(&self, read: Read) {
        self.state.lock().all = Some(read);
        self.changed.notify_waiters();
    }

    /// Ends all waits, now and later, with `error`, unless there is an earlier one.
    pub fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// Whether reading failed or was cancelled.
    pub fn failed(&self) -> bool {
        self.state.lock().failed.is_some()
    }

    /// Bad rows so far.
    pub fn bad_rows(&self) -> u64 {
        self.state.lock().bad_rows
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: a change in between must not be missed.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if let Some(found) = look(&mut state) {
                    return Ok(found);
                }
            }
            changed.await;
        }
    }

    /// See [`super::Reader::block`].
    pub async fn block(&self, at: usize) -> Result<Option<Arc<Block>>> {
        enum Where {
            None,
            Here(Result<Arc<Block>>),
            Disk(Reading),
        }
        let mut left = None;
        let _asking = self.consumed.then(|| Asking::new(self));
        let found = self.wait(|state| {
            if matches!(state.keys, Keys::InWork) {
                return None;
            }
            match state.ahead.take(at) {
                Found::Ready(block) => {
                    left = self.consume(state, at);
                    return Some(Where::Here(block));
                }
                Found::Soon => return None,
                Found::No => {}
            }
            match state.slots.get(at) {
                Some(Some(Slot { place: Place::Memory(block), .. })) => {
                    let block = block.clone();
                    left = self.consume(state, at);
                    Some(Where::Here(Ok(block)))
                }
                Some(Some(Slot { place: Place::Gone, .. })) => Some(Where::Here(Err(consumed(at)))),
                Some(Some(_)) => {
                    let reading = state.reading(at);
                    left = self.consume(state, at);
                    reading.map(Where::Disk)
                }
                _ if state.all.as_ref().is_some_and(|all| at >= all.chunks.len()) => Some(Where::None),
                _ => None,
            }
        });
        let block = match found.await? {
            Where::None => return Ok(None),
            Where::Here(block) => block,
            Where::Disk(reading) => self.read_back(reading, |_, block| block.clone()),
        };
        // Not before: what was read ahead and not fetched is read again.
        if let Some((spill, extent)) = left {
            spill.forget(&extent);
        }
        block.map(Some)
    }

    /// See [`super::Reader::expect`].
    pub fn expect(self: &Arc<Self>, at: usize) {
        let mut state = self.state.lock();
        if state.complete().is_none() || matches!(state.keys, Keys::InWork) {
            return;
        }
        if let Some(Some(Slot { place: Place::Disk(extent), .. })) = state.slots.get(at) {
            let bytes = extent.bytes();
            state.ahead.expect(self, at, bytes);
        }
    }

    /// Reads block `at` for who will ask for it.
    pub fn read_ahead(&self, at: usize) {
        let mut state = self.state.lock();
        if !state.ahead.wants(at) {
            return;
        }
        let Some(reading) = state.reading(at) else {
            return state.ahead.put(at, Err(Error::bug(format!("block {at} is expected, but not on disk"))));
        };
        drop(state);
        self.read_back(reading, |state, block| state.ahead.put(at, block.clone()));
    }

    /// Reads a block from disk, and does with it what is to be done before others look.
    fn read_back<T>(&self, reading: Reading, done: impl FnOnce(&mut State, &Result<Arc<Block>>) -> T) -> T {
        let block = reading.spill.read(&reading.extent, reading.spare).map(Arc::new);
        let mut state = self.state.lock();
        state.reading -= 1;
        if let Ok(block) = &block {
            state.ahead.give(block);
        }
        let done = done(&mut state, &block);
        drop(state);
        self.changed.notify_waiters();
        done
    }

    /// Block `at` is given out: if rows are consumed, it is not kept. Where it was on disk, if it was.
    fn consume(&self, state: &mut State, at: usize) -> Option<(Arc<Spill>, Extent)> {
        let Some(Some(slot)) = state.slots.get_mut(at).filter(|_| self.consumed) else { return None };
        let place = std::mem::replace(&mut slot.place, Place::Gone);
        let bytes = place.bytes();
        state.backlog.take(bytes, Instant::now());
        state.takers.took();
        self.changed.notify_waiters();
        match place {
            Place::Memory(block) => {
                state.cached_bytes -= bytes;
                self.room.give(bytes);
                state.ahead.give(&block);
                None
            }
            Place::Disk(extent) => state.spill.clone().map(|spill| (spill, extent)),
            Place::Gone => None,
        }
    }

    /// See [`super::Reader::blocks`].
    pub async fn blocks(&self) -> Result<usize> {
        self.wait(State::complete).await
    }

    /// See [`super::Reader::done`].
    pub async fn done(&self) -> Result<ReadDone> {
        self.wait(|state| {
            state.complete()?;
            let (facts, blocks) = (state.facts(), if self.consumed { Vec::new() } else { state.blocks() });
            let all = state.all.as_ref()?;
            let bad: Vec<_> = state.slots.iter().flatten().flat_map(|s| &s.bad).take(KEPT_MESSAGES).collect();
            let mut notes = Vec::new();
            if facts.bad_rows > 0 {
                notes.push(match facts.bad_rows {
                    1 => "1 bad row was skipped:".to_owned(),
                    n => format!("{n} bad rows were skipped, the first of them:"),
                });
                notes.extend(bad.iter().map(|e| e.message.clone()));
            }
            Some(ReadDone {
                facts,
                occurring: state.occurring.clone(),
                blocks,
                splits: all.splits,
                bytes: all.bytes,
                local_bytes: all.local_bytes,
                seconds: state.seconds,
                cached_bytes: state.cached_bytes,
                spilled_bytes: state.spilled_bytes,
                notes,
            })
        })
        .await
    }

    /// See [`super::Reader::key_map`].
    pub async fn key_map(self: &Arc<Self>) -> Result<Arc<KeyMap>> {
        enum Made {
            Map(Arc<KeyMap>),
            Work(Vec<Place>, Option<Arc<Spill>>),
        }
        if self.consumed {
            return Err(Error::bug(
                "the features of rows that a stage consumes are not numbered: its blocks hold features",
            ));
        }
        let found = self.wait(|state| {
            state.complete()?;
            match &state.keys {
                Keys::InWork => None,
                Keys::Known(map) => Some(Made::Map(map.clone())),
                // Blocks on disk are about to be written over.
                Keys::Unknown if state.reading > 0 => None,
                Keys::Unknown => {
                    state.keys = Keys::InWork;
                    state.ahead.clear();
                    // Taken out, not cloned: what nobody else holds can be renumbered in place.
                    let empty = || Place::Memory(Arc::default());
                    let places = state.slots.iter_mut().flatten().map(|s| std::mem::replace(&mut s.place, empty()));
                    Some(Made::Work(places.collect(), state.spill.clone()))
                }
            }
        });
        let (mut places, spill) = match found.await? {
            Made::Map(map) => return Ok(map),
            Made::Work(places, spill) => (places, spill),
        };
        let (store, features) = (self.clone(), self.state.lock().facts().features);
        let made = numbering::aside(move || {
            let made = numbering::make(&mut places, spill.as_deref(), features);
            store.numbered(places, made)
        });
        // Whatever it was, the blocks may be lost.
        made.await.inspect_err(|e| self.fail(e.clone()))
    }

    /// Takes the blocks back.
    fn numbered(&self, places: Vec<Place>, made: Result<KeyMap>) -> Result<Arc<KeyMap>> {
        let map = Arc::new(made.inspect_err(|e| self.fail(e.clone()))?);
        let mut state = self.state.lock();
        for (slot, place) in state.slots.iter_mut().flatten().zip(places) {
            slot.place = place;
        }
        state.keys = Keys::Known(map.clone());
        drop(state);
        self.changed.notify_waiters();
        Ok(map)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.room.give(self.state.get_mut().cached_bytes);
    }
}

/// A block that is about to be read from disk.
struct Reading {
    extent: Extent,
    spill: Arc<Spill>,
    spare: Option<Block>,
}

impl State {
    /// Begins to read block `at` from disk, if it is there.
    fn reading(&mut self, at: usize) -> Option<Reading> {
        let Some(Some(Slot { place: Place::Disk(extent), .. })) = self.slots.get(at) else { return None };
        let (extent, spill) = (*extent, self.spill.clone()?);
        self.reading += 1;
        Some(Reading { extent, spill, spare: self.ahead.spare() })
    }

    /// The number of blocks, when all are there.
    fn complete(&mut self) -> Option<usize> {
        self.all.as_ref().map(|all| all.chunks.len()).filter(|chunks| self.backlog.filled == *chunks)
    }

    /// Whether all blocks were consumed.
    fn all_gone(&self) -> bool {
        self.all.as_ref().is_some_and(|all| self.backlog.gone >= all.chunks.len())
    }

    /// Where blocks come from.
    fn blocks(&self) -> Vec<ReadBlock> {
        let chunks = self.all.iter().flat_map(|all| &all.chunks);
        let rows = |slot: &Slot| slot.facts.rows as u32;
        let slots = self.slots.iter().flatten().zip(chunks);
        slots.map(|(slot, (split, offset))| ReadBlock { split: *split, offset: *offset, rows: rows(slot) }).collect()
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        self.slots.iter().flatten().for_each(|slot| facts.merge(&slot.facts));
        facts
    }
}

/// Counts one who asks for a block, as long as it lives.
struct Asking<'a>(&'a Store);

impl<'a> Asking<'a> {
    fn new(store: &'a Store) -> Self {
        store.state.lock().backlog.asking += 1;
        store.changed.notify_waiters();
        Self(store)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.state.lock().backlog.asking -= 1;
    }
}

fn consumed(at: usize) -> Error {
    Error::bug(format!("block {at} was asked for again, but its stage consumes the rows: each is there once"))
}
