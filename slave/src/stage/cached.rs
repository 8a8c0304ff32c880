//! A worker's reads through its slave's cache.
//!
//! Invariants: a worker waits for its siblings' fetches only when its own is done and its own updates of ended clocks have
//! their answers, so that no two wait for one another; what none of them brought, it fetches itself.

use super::backend::{Engine, Read};
use super::cache::{Brought, Cache, Fetch, Found, Paid, copy};
use super::cut::Item;
use super::exchange::{owned, view};
use crate::kv::Keys;
use flexps_common::error::Result;
use flexps_common::ids::Key;
use flexps_common::value::{OwnedValues, ValuesMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A read that was looked for in the cache.
pub(super) struct Looked {
    fetch: Fetch,
    parts: Vec<Part>,
    /// Time that it took.
    took: Duration,
}

/// What was found of an item.
struct Part {
    /// Bytes of a key's values.
    width: usize,
    /// Places of the keys that other shards serve,
    away: Vec<Range<usize>>,
    /// and of those that this one does.
    here: Vec<Range<usize>>,
    /// Values of the former, as far as they are known.
    values: OwnedValues,
    found: Found,
}

impl Looked {
    /// What is to be fetched of each item.
    pub(super) fn missing<'a>(&'a self, items: &[Item<'a>]) -> Vec<Item<'a>> {
        missing(&self.parts, items)
    }
}

impl Engine {
    /// Looks for the keys of a read in the slave's cache; none where that is no use.
    pub(super) fn look(&self, items: &[Item<'_>]) -> Option<Looked> {
        let held = |cache: &&Cache| items.iter().any(|item| cache.holds(item.table, item.keys.len()));
        let cache = self.run.cache().filter(held)?;
        let start = Instant::now();
        let fetch = cache.begin(self.place.local_index, self.clock);
        let parts = items.iter().map(|item| Part::look(cache, &fetch, item)).collect();
        Some(Looked { fetch, parts, took: start.elapsed() })
    }

    /// Takes the values of a read that was looked for: those that were found, that `read` fetches, that siblings fetch.
    pub(super) fn fetch(
        &mut self,
        looked: Looked,
        read: Read,
        items: &[Item<'_>],
        out: &mut [ValuesMut<'_>],
    ) -> Result<()> {
        let (run, Looked { fetch, mut parts, took }) = (self.run.clone(), looked);
        let Some(cache) = run.cache() else { return Ok(()) };
        let here =
            |(at, part): (usize, &Part)| part.here.iter().map(move |places| (at, places.clone())).collect::<Vec<_>>();
        let here: Vec<_> = parts.iter().enumerate().flat_map(here).collect();
        self.read_local(items, &here, out)?;
        let mut paid = Paid { spent: took, ..Paid::default() };
        self.bring(cache, &fetch, &mut parts, read, items, &mut paid)?;
        self.release();
        if parts.iter().any(|part| !part.found.awaited.is_empty()) {
            self.settle_ended()?;
            let start = Instant::now();
            let landed: Result<Vec<_>> =
                parts.iter().map(|part| cache.wait(&fetch, &part.found, || run.check())).collect();
            self.counters.waited += start.elapsed();
            for ((part, item), landed) in parts.iter_mut().zip(items).zip(landed?) {
                part.take(item, &landed);
            }
            self.look_again(cache, &fetch.alone(), &mut parts, items, &mut paid)?;
        }
        let (mut keys, start) = (0, Instant::now());
        for (part, out) in parts.iter().zip(out) {
            let (values, out) = (part.values.borrow().bytes(), out.bytes_mut());
            for places in &part.away {
                keys += places.len();
                let bytes = places.start * part.width..places.end * part.width;
                out[bytes.clone()].copy_from_slice(&values[bytes]);
            }
        }
        paid.hits = keys as u64 - paid.misses;
        paid.spent += start.elapsed();
        cache.count(paid);
        Ok(())
    }

    /// Looks for the keys that siblings were fetching and did not bring, and fetches what is left.
    fn look_again(
        &mut self,
        cache: &Cache,
        fetch: &Fetch,
        parts: &mut [Part],
        items: &[Item<'_>],
        paid: &mut Paid,
    ) -> Result<()> {
        let awaited = |(part, item): (&Part, &Item<'_>)| -> Vec<Key> {
            let Keys::List(keys) = item.keys else { return Vec::new() };
            part.found.awaited.iter().map(|(place, _)| keys[*place as usize]).collect()
        };
        let keys: Vec<_> = parts.iter().zip(items).map(awaited).collect();
        if keys.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let items: Vec<_> =
            items.iter().zip(&keys).map(|(item, keys)| Item { keys: Keys::List(keys), ..*item }).collect();
        let mut again: Vec<_> = items.iter().map(|item| Part::look(cache, fetch, item)).collect();
        let read = self.begin_read(&missing(&again, &items))?;
        self.bring(cache, fetch, &mut again, read, &items, paid)?;
        for (part, again) in parts.iter_mut().zip(&again) {
            let places: Vec<_> = part.found.awaited.iter().map(|(place, _)| *place).collect();
            part.put(&places, again.values.borrow().bytes());
        }
        Ok(())
    }

    /// Takes what is fetched of some parts, for this read and for others.
    fn bring(
        &mut self,
        cache: &Cache,
        fetch: &Fetch,
        parts: &mut [Part],
        read: Read,
        items: &[Item<'_>],
        paid: &mut Paid,
    ) -> Result<()> {
        let fetched = missing(parts, items);
        paid.misses += fetched.iter().map(|item| item.keys.len() as u64).sum::<u64>();
        let zeros = |item: &Item<'_>| OwnedValues::zeros(item.spec.element, item.keys.len() * item.spec.width as usize);
        let mut values: Vec<_> = fetched.iter().map(zeros).collect();
        let mut out: Vec<_> = values.iter_mut().map(OwnedValues::borrow_mut).collect();
        let start = Instant::now();
        let shown = self.end_read(read, &fetched, &mut out)?;
        drop(out);
        let landed = Instant::now();
        paid.fetching += landed - start;
        let mut brought = Vec::new();
        for ((part, item), values) in parts.iter_mut().zip(items).zip(values) {
            let (keys, places) = std::mem::take(&mut part.found.missing);
            part.put(&places, values.borrow().bytes());
            brought.push(Brought { table: item.table, keys, values });
        }
        cache.land(fetch, Arc::new(brought), shown);
        paid.spent += landed.elapsed();
        Ok(())
    }

    /// The keys of an update, which must not be found as they were before when its clock has ended.
    pub(super) fn remember(&mut self, items: &[Item<'_>]) {
        let on = |cache: &Cache| cache.is_on() && self.run.keeps_none();
        if !self.run.cache().is_some_and(on) {
            return;
        }
        let away = items.iter().filter(|item| !item.home.is_here());
        self.updated.extend(away.map(|item| (item.table, owned(item.keys))));
    }

    /// A clock has ended.
    pub(super) fn forget_updated(&mut self) {
        if let Some(cache) = self.run.cache().filter(|cache| cache.is_on()) {
            cache.ended(self.updated.iter().map(|(table, keys)| (*table, view(keys))));
        }
        self.updated.clear();
    }
}

impl Part {
    fn look(cache: &Cache, fetch: &Fetch, item: &Item<'_>) -> Self {
        let (width, mut here, mut away) = (item.spec.width as usize, Vec::new(), Vec::<Range<usize>>::new());
        let (mut at, mut rest) = (0, item.keys);
        while let Some((chunk, run, next)) = rest.split_run(item.spec.chunk_keys().ilog2()) {
            let places = at..at + run.len();
            (at, rest) = (places.end, next);
            let list = if item.home.owner(chunk) == item.home.index { &mut here } else { &mut away };
            match list.last_mut() {
                Some(last) if last.end == places.start => last.end = places.end,
                _ => list.push(places),
            }
        }
        let mut values = OwnedValues::zeros(item.spec.element, if away.is_empty() { 0 } else { at * width });
        let mut found = Found::default();
        if let Keys::List(keys) = item.keys {
            let mut values = values.borrow_mut();
            for places in &away {
                cache.look(fetch, item.table, &keys[places.clone()], places.start, values.bytes_mut(), &mut found);
            }
        }
        Self { width: width * item.spec.element.size(), away, here, values, found }
    }

    /// Takes what siblings brought of the awaited keys, by flight; what they did not is still awaited then.
    fn take(&mut self, item: &Item<'_>, landed: &[Option<Arc<Vec<Brought>>>]) {
        let Keys::List(keys) = item.keys else { return };
        let (width, mut values) = (self.width, self.values.borrow_mut());
        let to = values.bytes_mut();
        self.found.awaited.retain(|(place, flight)| {
            let place = *place as usize;
            let all = landed[*flight].iter().flat_map(|all| &**all);
            for brought in all.filter(|brought| brought.table == item.table) {
                if let Ok(at) = brought.keys.binary_search(&keys[place]) {
                    copy(width, &brought.values.borrow().bytes()[at * width..], &mut to[place * width..]);
                    return false;
                }
            }
            true
        });
    }

    /// Puts the values of keys at these places.
    fn put(&mut self, places: &[u32], from: &[u8]) {
        let (width, mut values) = (self.width, self.values.borrow_mut());
        let to = values.bytes_mut();
        for (at, place) in places.iter().enumerate() {
            copy(width, &from[at * width..], &mut to[*place as usize * width..]);
        }
    }
}

fn missing<'a>(parts: &'a [Part], items: &[Item<'a>]) -> Vec<Item<'a>> {
    let missing = |(part, item): (&'a Part, &Item<'a>)| Item { keys: Keys::List(&part.found.missing.0), ..*item };
    parts.iter().zip(items).map(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Placement;
    use flexps_common::home::Home;
    use flexps_common::ids::TableId;
    use flexps_common::plan::{Consistency, Storage, TableSpec};
    use flexps_common::value::Type;

    #[test]
    fn a_fetch_at_a_later_clock_that_is_met_in_a_slot_is_not_waited_for() {
        let spec = TableSpec {
            name: "weights".to_owned(),
            element: Type::F32,
            width: 1,
            storage: Storage::Dense,
            update: "add".to_owned(),
            update_params: Vec::new(),
        };
        let (specs, homes) = ([spec], [Placement::new(0, &Home::All, 2)]);
        let cache = Cache::new(Consistency::Ssp { staleness: 1 }, 2, &specs, &homes).unwrap();
        let look = |worker, clock, keys: &[Key]| {
            let (fetch, mut found) = (cache.begin(worker, clock), Found::default());
            cache.look(&fetch, TableId(0), keys, 0, &mut vec![0; 4 * keys.len()], &mut found);
            (fetch, found)
        };
        // The first worker is ahead, and may wait at its shard for the second one's clock.
        look(0, 7, &[5, 9]);
        let (fetch, found) = look(1, 6, &[5, 9]);
        assert_eq!((&found.missing.0, found.awaited_flights().len()), (&vec![5, 9], 0));
        assert!(cache.wait(&fetch, &found, || Ok(())).unwrap().iter().all(Option::is_none));
        // At the same clock it is.
        look(0, 6, &[7]);
        assert_eq!(look(1, 6, &[7]).1.awaited_flights().len(), 1);
    }
}
