//! What the workers of one slave have read of other slaves' shards in a stage run: one fetch of a key serves all of them,
//! for as long as [`Reuse`] allows.
//!
//! A table's keys share slots by their last bits, so that neighbours lie side by side and memory is bounded. A worker that
//! finds nothing in a slot claims it, fetches the key and fills the slot, unless the claim was taken off meanwhile. Who
//! finds another's claim waits for that fetch and takes the values of it, whatever became of the slot; where it may not
//! wait, it fetches the key too. Under BSP, where a worker may ask for its next clock's values while others are at the
//! clock before, clocks take turns at two sets of slots.
//!
//! Invariants: what a worker finds holds its own updates of ended clocks, since these empty their keys' slots behind the
//! clock's end, and reads that are sent later see them; a worker is waited for only while it does nothing but read; a
//! cache that does not pay is left for the rest of the run.

use super::gate::Gate;
use super::sync::{AtomicBool, Mutex, Ordering};
use crate::consistency::Reuse;
use crate::kv::{Keys, Placement};
use flexps_common::error::Result;
use flexps_common::experiment::Switch;
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::{Consistency, TableSpec};
use flexps_common::report::CacheUse;
use flexps_common::value::OwnedValues;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes that the slots of all tables may take.
const ROOM: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Slots that share a lock.
const SEGMENT: usize = 4096;
/// Keys that are looked up before the cache is judged, and of which one in so many must be a hit.
const TRIAL: u64 = if cfg!(test) { 1 << 12 } else { 1 << 14 };
const WORTH: u64 = 5;

/// What a slot holds: nothing, a value, or the claim of a fetch with a higher number.
const EMPTY: u32 = 0;
const FULL: u32 = 1;

/// See the module.
pub struct Cache {
    rule: Reuse,
    /// By table; none where all of it is here, or where few keys would fit.
    tables: Vec<Option<Mirror>>,
    state: Mutex<State>,
    /// Opened when a fetch need not be waited for any more.
    gate: Gate,
    off: AtomicBool,
    /// However few hits there are, it is not left.
    kept: bool,
}

struct State {
    /// Clocks that the workers here have ended together.
    ticks: u64,
    /// By worker: the fetch that others may wait for.
    under_way: Vec<Option<Arc<Flight>>>,
    last: u32,
    paid: Paid,
}

/// What the cache was worth so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paid {
    /// Keys that were not fetched,
    pub hits: u64,
    /// and those that were.
    pub misses: u64,
    /// Time that looking and keeping took.
    pub spent: Duration,
    /// Time in which workers waited for what was fetched.
    pub fetching: Duration,
}

/// A worker's read, begun.
#[derive(Clone)]
pub struct Fetch {
    flight: Arc<Flight>,
    clock: u64,
    ticks: u64,
    /// Whether it waits for others.
    waits: bool,
}

/// A fetch as others see it.
pub struct Flight {
    id: u32,
    state: Mutex<Landed>,
}

/// What a fetch brought.
enum Landed {
    /// Nothing yet.
    No,
    /// Values with this stamp.
    Brought(u64, Arc<Vec<Brought>>),
    /// Nobody need wait for it any more.
    Gone,
}

/// What was fetched of a table.
pub struct Brought {
    /// The table.
    pub table: TableId,
    /// Rising keys,
    pub keys: Vec<Key>,
    /// and their values.
    pub values: OwnedValues,
}

/// What a look found, of places in a list of keys.
#[derive(Default)]
pub struct Found {
    /// Nobody has these: keys and places.
    pub missing: (Vec<Key>, Vec<u32>),
    /// These are being fetched: places, and by which of the flights.
    pub awaited: Vec<(u32, usize)>,
    /// Fetches that were met, by number; none of those that nobody need wait for. Those of later clocks, or of other keys in
    /// the same slots, are not awaited: they may themselves wait for this reader.
    pub flights: Vec<(u32, Option<Arc<Flight>>)>,
}

impl Found {
    /// The fetches that are waited for.
    pub fn awaited_flights(&self) -> Vec<&Arc<Flight>> {
        let awaited = |at: &usize| self.awaited.iter().any(|(_, flight)| flight == at);
        (0..self.flights.len()).filter(awaited).filter_map(|at| self.flights[at].1.as_ref()).collect()
    }
}

struct Mirror {
    /// Bytes of a key's values.
    width: usize,
    /// One less than the number of slots of a set.
    mask: Key,
    /// Sets of slots.
    sets: usize,
    segments: OnceLock<Box<[Mutex<Option<Segment>>]>>,
}

struct Segment {
    slots: Box<[Slot]>,
    values: Box<[u8]>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    held: u32,
    /// Of a value: its stamp; of a claim: the clock of the read.
    stamp: u64,
}

impl Cache {
    /// For so many workers here; none where nothing can be reused, or where all tables are beside them.
    pub fn new(model: Consistency, workers: usize, specs: &[TableSpec], homes: &[Placement]) -> Option<Self> {
        let rule = Reuse::new(model, workers)?;
        let away = homes.iter().filter(|home| !home.is_here()).count();
        let sets = if model == Consistency::Bsp { 2 } else { 1 };
        let mirror = |(spec, home): (&TableSpec, &Placement)| {
            let width = spec.width as usize * spec.element.size();
            let slots = ROOM / away.max(1) / sets / (width + size_of::<Slot>());
            let fits = !home.is_here() && slots >= SEGMENT;
            fits.then(|| Mirror { width, mask: (1 << slots.ilog2()) - 1, sets, segments: OnceLock::new() })
        };
        let tables: Vec<_> = specs.iter().zip(homes).map(mirror).collect();
        tables.iter().any(Option::is_some).then(|| {
            let state = State { ticks: 0, under_way: vec![None; workers], last: FULL, paid: Paid::default() };
            let (state, off) = (Mutex::new(state), AtomicBool::new(false));
            Self { rule, tables, state, gate: Gate::default(), off, kept: false }
        })
    }

    /// The same as a user asks for it: one that is left where it does not pay, one that is never left, none.
    pub fn asked(
        caching: Switch,
        model: Consistency,
        workers: usize,
        specs: &[TableSpec],
        homes: &[Placement],
    ) -> Option<Self> {
        let cache = Self::new(model, workers, specs, homes).filter(|_| caching != Switch::Off)?;
        Some(Self { kept: caching == Switch::On, ..cache })
    }

    /// Whether it is used, and not left.
    pub fn is_on(&self) -> bool {
        !self.off.load(Ordering::Acquire)
    }

    /// Whether so many keys of a table may be looked for.
    pub fn holds(&self, table: TableId, keys: usize) -> bool {
        let mirror = self.tables[usize::from(table.0)].as_ref();
        self.is_on() && mirror.is_some_and(|mirror| keys <= mirror.mask as usize)
    }

    /// Begins a read at a worker's clock. Others may wait for it until [`Cache::release`].
    pub fn begin(&self, worker: usize, clock: u64) -> Fetch {
        let mut state = self.state.lock();
        let State { ticks, under_way, last, .. } = &mut *state;
        *last = last.checked_add(1).unwrap_or(FULL + 1);
        let flight = Arc::new(Flight { id: *last, state: Mutex::new(Landed::No) });
        let before = under_way[worker].replace(flight.clone());
        let fetch = Fetch { flight, clock, ticks: *ticks, waits: true };
        drop(state);
        self.leave(before);
        fetch
    }

    /// Nobody need wait for the worker's reads any more: they are done, or the worker turns to something else.
    pub fn release(&self, worker: usize) {
        let flight = self.state.lock().under_way[worker].take();
        self.leave(flight);
    }

    fn leave(&self, flight: Option<Arc<Flight>>) {
        let Some(flight) = flight else { return };
        let mut state = flight.state.lock();
        if matches!(*state, Landed::No) {
            *state = Landed::Gone;
            drop(state);
            self.gate.open();
        }
    }

    /// Looks for rising keys, which stand at `first` and behind in their list; values that are there go to their places in
    /// `out`, which holds those of the list.
    pub fn look(&self, fetch: &Fetch, table: TableId, keys: &[Key], first: usize, out: &mut [u8], found: &mut Found) {
        let Some(mirror) = &self.tables[usize::from(table.0)] else {
            found.missing.0.extend_from_slice(keys);
            return found.missing.1.extend((first..first + keys.len()).map(|place| place as u32));
        };
        mirror.segment_by_segment(fetch.clock, keys, |segment, part| {
            let Segment { slots, values } = segment.get_or_insert_with(|| Segment::new(mirror.width));
            for at in part {
                let (key, place) = (keys[at], first + at);
                let slot = key as usize % SEGMENT;
                let Slot { key: held_key, held, stamp } = slots[slot];
                if held == FULL && held_key == key && self.rule.serves(stamp, fetch.clock, fetch.ticks) {
                    copy(mirror.width, &values[slot * mirror.width..], &mut out[place * mirror.width..]);
                    continue;
                }
                // Nobody fills a slot, and then lands, while this segment is locked: who has not landed will.
                let flight = if held > FULL && fetch.waits { self.flight(held, found) } else { None };
                match flight {
                    Some(flight) if held_key == key && self.rule.waits(fetch.clock, stamp) => {
                        found.awaited.push((place as u32, flight));
                        continue;
                    }
                    Some(_) => {}
                    None => slots[slot] = Slot { key, held: fetch.flight.id, stamp: fetch.clock },
                }
                found.missing.0.push(key);
                found.missing.1.push(place as u32);
            }
        });
    }

    /// The place in `found` of a fetch that may be waited for.
    fn flight(&self, id: u32, found: &mut Found) -> Option<usize> {
        let known = found.flights.iter().position(|(known, _)| *known == id);
        let at = known.unwrap_or_else(|| {
            let state = self.state.lock();
            let flight = state.under_way.iter().flatten().find(|flight| flight.id == id);
            found.flights.push((id, flight.cloned()));
            found.flights.len() - 1
        });
        found.flights[at].1.is_some().then_some(at)
    }

    /// What a read has fetched, with values that show all updates of clocks below `shown`: for its siblings, now and later.
    pub fn land(&self, fetch: &Fetch, brought: Arc<Vec<Brought>>, shown: u64) {
        let stamp = self.rule.stamp(shown, fetch.ticks);
        for Brought { table, keys, values } in &*brought {
            let Some(mirror) = &self.tables[usize::from(table.0)] else { continue };
            let values = values.borrow().bytes();
            mirror.segment_by_segment(fetch.clock, keys, |segment, part| {
                let Some(Segment { slots, values: held }) = segment else { return };
                for at in part {
                    let slot = keys[at] as usize % SEGMENT;
                    if slots[slot].held == fetch.flight.id && slots[slot].key == keys[at] {
                        slots[slot] = Slot { held: FULL, stamp, ..slots[slot] };
                        copy(mirror.width, &values[at * mirror.width..], &mut held[slot * mirror.width..]);
                    }
                }
            });
        }
        let mut state = fetch.flight.state.lock();
        if matches!(*state, Landed::No) {
            *state = Landed::Brought(stamp, brought);
            drop(state);
            self.gate.open();
        }
    }

    /// Waits until none of the awaited flights need be waited for, or `check` fails; [`Cache::wake`] makes it look again.
    /// What each of the flights brought, if that serves the reader.
    pub fn wait(
        &self,
        fetch: &Fetch,
        found: &Found,
        check: impl Fn() -> Result<()>,
    ) -> Result<Vec<Option<Arc<Vec<Brought>>>>> {
        let awaited = found.awaited_flights();
        let flying = |flight: &&Arc<Flight>| matches!(*flight.state.lock(), Landed::No);
        let landed = || !awaited.iter().any(flying);
        self.gate.wait(|| match check() {
            Ok(()) => landed().then_some(Ok(())),
            cancelled => Some(cancelled),
        })?;
        let brought = |(_, flight): &(u32, Option<Arc<Flight>>)| match &*flight.as_ref()?.state.lock() {
            Landed::Brought(stamp, all) if self.rule.serves(*stamp, fetch.clock, fetch.ticks) => Some(all.clone()),
            _ => None,
        };
        Ok(found.flights.iter().map(brought).collect())
    }

    /// Lets all that wait look again.
    pub fn wake(&self) {
        self.gate.open();
    }

    /// A worker has ended a clock, in which it updated these keys: no more of what was read before is found under them.
    /// From now on reads must be sent with what [`super::run::Run::seen`] says of that clock.
    pub fn ended<'a>(&self, updated: impl IntoIterator<Item = (TableId, Keys<'a>)>) {
        self.state.lock().ticks += 1;
        for (table, keys) in updated {
            let mirror = self.tables[usize::from(table.0)].as_ref();
            match (mirror.filter(|mirror| mirror.segments.get().is_some()), keys) {
                (None, _) => {}
                (Some(mirror), Keys::List(keys)) => mirror.empty(keys),
                (Some(mirror), Keys::Range { start, count }) => mirror.empty_range(start, count),
            }
        }
    }

    /// Counts a read; leaves the cache where it does not pay.
    pub fn count(&self, read: Paid) {
        let mut state = self.state.lock();
        let paid = &mut state.paid;
        paid.hits += read.hits;
        paid.misses += read.misses;
        paid.spent += read.spent;
        paid.fetching += read.fetching;
        if !self.kept && paid.hits + paid.misses >= TRIAL && !paid.enough() {
            self.off.store(true, Ordering::Release);
        }
    }

    /// Keys so far, and whether it was left.
    pub fn used(&self) -> CacheUse {
        let Paid { hits, misses, .. } = self.state.lock().paid;
        CacheUse { hits, misses, off: u64::from(!self.is_on()) }
    }
}

impl Paid {
    /// Whether there were enough hits, and to fetch these too would have taken longer than all that the cache took.
    fn enough(self) -> bool {
        let saved = self.fetching.as_secs_f64() * self.hits as f64;
        self.hits * WORTH >= self.hits + self.misses && saved >= self.spent.as_secs_f64() * self.misses as f64
    }
}

impl Fetch {
    /// The same, which waits for no others.
    pub fn alone(self) -> Self {
        Self { waits: false, ..self }
    }
}

impl Mirror {
    fn segments(&self) -> &[Mutex<Option<Segment>>] {
        let count = (self.mask as usize + 1) / SEGMENT;
        self.segments.get_or_init(|| (0..count * self.sets).map(|_| Mutex::new(None)).collect())
    }

    /// Calls `each` with the segments of rising keys at a clock, locked, and the places of the keys in it.
    fn segment_by_segment(&self, clock: u64, keys: &[Key], mut each: impl FnMut(&mut Option<Segment>, Range<usize>)) {
        let (segments, mut at) = (self.segments(), 0);
        let set = segments.len() / self.sets;
        let segments = &segments[clock as usize % self.sets * set..][..set];
        while let Some(first) = keys.get(at) {
            let block = first / SEGMENT as Key;
            let end = at + keys[at..].iter().take_while(|key| **key / SEGMENT as Key == block).count();
            each(&mut segments[block as usize % segments.len()].lock(), at..end);
            at = end;
        }
    }

    /// Empties the slots of rising keys; there is one set of them.
    fn empty(&self, keys: &[Key]) {
        self.segment_by_segment(0, keys, |segment, part| {
            let Some(Segment { slots, .. }) = segment else { return };
            for key in &keys[part] {
                let slot = &mut slots[*key as usize % SEGMENT];
                if slot.key == *key {
                    slot.held = EMPTY;
                }
            }
        });
    }

    /// The same of consecutive keys.
    fn empty_range(&self, start: Key, count: u32) {
        let keys = u64::from(start)..u64::from(start) + u64::from(count);
        let (segments, blocks) = (self.segments(), keys.start / SEGMENT as u64..keys.end.div_ceil(SEGMENT as u64));
        for block in blocks.take(segments.len()) {
            if let Some(Segment { slots, .. }) = &mut *segments[block as usize % segments.len()].lock() {
                slots.iter_mut().filter(|slot| keys.contains(&slot.key.into())).for_each(|slot| slot.held = EMPTY);
            }
        }
    }
}

impl Segment {
    fn new(width: usize) -> Self {
        Self { slots: vec![Slot::default(); SEGMENT].into(), values: vec![0; SEGMENT * width].into() }
    }
}

/// Copies a key's values, which are nearly always few.
#[inline]
pub fn copy(width: usize, from: &[u8], to: &mut [u8]) {
    match width {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        width => to[..width].copy_from_slice(&from[..width]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_pays_while_its_hits_are_enough_and_would_have_taken_longer_to_fetch() {
        let paid = |hits, misses, spent, fetching| {
            let [spent, fetching] = [spent, fetching].map(Duration::from_millis);
            Paid { hits, misses, spent, fetching }.enough()
        };
        // 100 keys in 10 ms: 50 in 5.
        assert!(paid(50, 100, 5, 10) && !paid(50, 100, 6, 10));
        assert!(paid(100, 0, 5, 0));
        assert!(paid(25, 100, 1, 1000) && !paid(24, 100, 1, 1000));
    }
}
