//! The blocks of one input by number, while they come and after.
//!
//! Invariant: block `at`, once given out, has the same rows each time; its indices are features until the key map is
//! made, and local numbers after. Facts are summed in block order, whatever the order of parsing, so that they repeat to
//! the bit.

use super::spill::{Extent, Spill};
use flexps_common::data::block::KeyMap;
use flexps_common::data::keys::{KeySet, Ranks};
use flexps_common::data::libsvm::{KEPT_MESSAGES, Parsed, too_many};
use flexps_common::data::{Block, Facts, Schema};
use flexps_common::error::{Error, Result};
use flexps_common::wire::control::ReadDone;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// Keeps blocks; see the module.
pub struct Store {
    schema: Schema,
    cache_memory: u64,
    folder: PathBuf,
    started: Instant,
    state: Mutex<State>,
    /// Rung at each change that somebody may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    slots: Vec<Option<Slot>>,
    /// Slots that are filled.
    filled: usize,
    /// Number of all blocks, once it is known, with what reading them took.
    all: Option<Read>,
    failed: Option<Error>,
    cached_bytes: u64,
    spilled_bytes: u64,
    bad_rows: u64,
    spill: Option<Arc<Spill>>,
    keys: Keys,
    seconds: f64,
}

struct Slot {
    place: Place,
    facts: Facts,
    bad: Vec<Error>,
}

#[derive(Clone)]
enum Place {
    Memory(Arc<Block>),
    Disk(Extent),
}

/// The state of the key map.
#[derive(Default)]
enum Keys {
    #[default]
    Unknown,
    /// Somebody makes it; blocks can't be taken.
    InWork,
    /// Made; blocks from disk are renumbered by the ranks, if there are any.
    Known(Arc<KeyMap>, Option<Arc<Ranks>>),
}

/// What the pump counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Read {
    /// Chunks of text, each of which becomes a block.
    pub chunks: usize,
    /// Splits.
    pub splits: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Of which local.
    pub local_bytes: u64,
}

impl Store {
    /// An empty store.
    pub fn new(schema: Schema, cache_memory: u64, folder: PathBuf) -> Self {
        Self { schema, cache_memory, folder, started: Instant::now(), state: Mutex::default(), changed: Notify::new() }
    }

    /// Takes the block of chunk `at`.
    pub fn put(&self, at: usize, parsed: Parsed) -> Result<()> {
        let bytes = parsed.block.bytes() as u64;
        let spill = {
            let mut state = self.state.lock();
            state.bad_rows += parsed.facts.bad_rows;
            if state.bad_rows > self.schema.bad_rows {
                return Err(too_many(&parsed.bad, state.bad_rows, self.schema.bad_rows));
            }
            if state.cached_bytes + bytes <= self.cache_memory {
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
        state.filled += 1;
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
        let found = self.wait(|state| {
            let ranks = match &state.keys {
                Keys::Unknown => None,
                Keys::InWork => return None,
                Keys::Known(_, ranks) => ranks.clone(),
            };
            match state.slots.get(at) {
                Some(Some(slot)) => Some(Some((slot.place.clone(), state.spill.clone(), ranks))),
                _ if state.all.is_some_and(|all| at >= all.chunks) => Some(None),
                _ => None,
            }
        });
        let Some((place, spill, ranks)) = found.await? else { return Ok(None) };
        let mut block = match place {
            Place::Memory(block) => return Ok(Some(block)),
            Place::Disk(extent) => read_back(spill.as_deref(), &extent)?,
        };
        if let Some(ranks) = ranks {
            ranks.renumber(&mut block.indices);
        }
        Ok(Some(Arc::new(block)))
    }

    /// See [`super::Reader::forget`].
    pub fn forget(&self, at: usize) {
        let mut state = self.state.lock();
        let Some(Some(slot)) = state.slots.get_mut(at) else { return };
        if let Place::Memory(block) = std::mem::replace(&mut slot.place, Place::Memory(Arc::default())) {
            state.cached_bytes -= block.bytes() as u64;
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
            let all = state.all?;
            let facts = state.facts();
            let bad: Vec<_> = state.slots.iter().flatten().flat_map(|s| &s.bad).take(KEPT_MESSAGES).collect();
            let mut notes = Vec::new();
            if facts.bad_rows > 0 {
                notes.push(format!("{} bad rows were skipped, the first of them:", facts.bad_rows));
                notes.extend(bad.iter().map(|e| e.message.clone()));
            }
            Some(ReadDone {
                facts,
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
    pub async fn key_map(&self) -> Result<Arc<KeyMap>> {
        enum Found {
            Map(Arc<KeyMap>),
            Work(Vec<Place>, Option<Arc<Spill>>),
        }
        let found = self.wait(|state| {
            state.complete()?;
            match &state.keys {
                Keys::InWork => None,
                Keys::Known(map, _) => Some(Found::Map(map.clone())),
                Keys::Unknown => {
                    state.keys = Keys::InWork;
                    // Taken out, not cloned: what nobody else holds can be renumbered in place.
                    let empty = || Place::Memory(Arc::default());
                    let places = state.slots.iter_mut().flatten().map(|s| std::mem::replace(&mut s.place, empty()));
                    Some(Found::Work(places.collect(), state.spill.clone()))
                }
            }
        });
        let (mut places, spill) = match found.await? {
            Found::Map(map) => return Ok(map),
            Found::Work(places, spill) => (places, spill),
        };
        let features = self.state.lock().facts().features;
        let made = make_map(&mut places, spill.as_deref(), features);
        let mut state = self.state.lock();
        for (slot, place) in state.slots.iter_mut().flatten().zip(places) {
            slot.place = place;
        }
        let made = made.map(|(map, ranks)| {
            let map = Arc::new(map);
            state.keys = Keys::Known(map.clone(), ranks);
            map
        });
        if let Err(error) = &made {
            state.failed.get_or_insert(error.clone());
        }
        drop(state);
        self.changed.notify_waiters();
        made
    }
}

impl State {
    /// The number of blocks, when all are there.
    fn complete(&mut self) -> Option<usize> {
        self.all.map(|all| all.chunks).filter(|chunks| self.filled == *chunks)
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        self.slots.iter().flatten().for_each(|slot| facts.merge(&slot.facts));
        facts
    }
}

fn read_back(spill: Option<&Spill>, extent: &Extent) -> Result<Block> {
    spill.ok_or_else(|| Error::bug("a block on disk without a file"))?.read(extent)
}

/// The key map of all blocks; renumbers those in memory if it is not the identity, and returns the ranks for the others.
fn make_map(places: &mut [Place], spill: Option<&Spill>, features: u64) -> Result<(KeyMap, Option<Arc<Ranks>>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, places.len().max(1));
    let next = AtomicUsize::new(0);
    let places_seen: &[Place] = places;
    let collect = || {
        let mut set = KeySet::default();
        while let Some(place) = places_seen.get(next.fetch_add(1, Ordering::Relaxed)) {
            match place {
                Place::Memory(block) => set.insert(&block.indices),
                Place::Disk(extent) => set.insert(&read_back(spill, extent)?.indices),
            }
        }
        Ok(set)
    };
    let mut set = KeySet::default();
    for part in in_threads(threads, |_| collect())? {
        set.merge(&part?);
    }
    let ranks = Arc::new(set.into_ranks());
    let map = ranks.map(features);
    if matches!(map, KeyMap::Identity(_)) {
        return Ok((map, None));
    }
    let share = places.len().div_ceil(threads).max(1);
    let shares: Vec<_> = places.chunks_mut(share).map(Mutex::new).collect();
    in_threads(shares.len(), |i| {
        for place in shares[i].lock().iter_mut() {
            if let Place::Memory(block) = place {
                // A copy if a worker still holds the block: it goes on with features.
                ranks.renumber(&mut Arc::make_mut(block).indices);
            }
        }
    })?;
    // Only rows on disk are renumbered again.
    Ok((map, spill.map(|_| ranks)))
}

/// Runs `work` on so many threads, and returns what each gave.
fn in_threads<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        let ended = running.into_iter().map(|t| t.join());
        ended.map(|r| r.map_err(|_| Error::bug("a thread that numbers features panicked"))).collect()
    })
}
