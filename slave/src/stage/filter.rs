//! Filters: what of a worker's updates goes to other slaves' shards at once, and what is held back.
//!
//! A filter stands between one worker and the messages of its updates. What both sides remember of key lists is none: it
//! changes how a message names its keys, not which go, serves the reads and updates of all workers of a slave at once, and
//! depends on the shard's word that it still has a list. The two meet in a message's names: where a filter leaves some keys
//! of a list that the shard has, these go as bits.
//!
//! Invariants: what is held back is added to what comes later under the same key and goes at last when the worker's function
//! ends: over a stage run nothing is lost or sent twice; of a key at most one sum is held back, and none for longer than the
//! filter may.

use super::exchange::owned;
use crate::consistency::ENDED;
use crate::kv::{Keys, Shard};
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::{Significant, TableSpec};
use flexps_common::report::FilterUse;
use flexps_common::value::{Element, OwnedValues, Type, Values};
use flexps_common::wire::lists;
use flexps_common::with_values;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// See the module. Keys rise strictly.
pub trait Filter: Send {
    /// The worker has read these values.
    fn read(&mut self, table: TableId, keys: Keys<'_>, values: Values<'_>);
    /// Takes an update made at `clock`. What goes of it now, with what was held back; none where it goes as it is.
    fn update(&mut self, clock: u64, table: TableId, keys: Keys<'_>, values: Values<'_>) -> Option<Going>;
    /// The worker is about to end `clock`, or its function ([`ENDED`]): what may wait no longer.
    fn due(&mut self, clock: u64) -> Vec<Going>;
    /// What it did so far.
    fn used(&self) -> FilterUse;
}

/// What goes to the shards of a table.
#[derive(Debug, PartialEq)]
pub struct Going {
    /// The table.
    pub table: TableId,
    /// Rising keys,
    pub keys: Vec<Key>,
    /// and what is added to their values.
    pub values: OwnedValues,
}

/// "Significant change only". A value that the worker's last read of the table did not bring, or that is zero, is changed
/// by anything.
pub struct Held {
    rule: Significant,
    /// By table; none where updates do not add up, or are no floats.
    tables: Vec<Option<Table>>,
    used: FilterUse,
}

struct Table {
    width: usize,
    element: Type,
    /// What the worker has read last.
    keys: lists::Keys,
    values: OwnedValues,
    /// Where a key's sum stands in `sums`, and since which clock it is held back.
    held: FxHashMap<Key, (u32, u64)>,
    sums: Vec<f64>,
    /// Places in `sums` that nobody has.
    free: Vec<u32>,
    /// Keys by the clock since which they are held back, if they still are.
    since: VecDeque<(u64, Vec<Key>)>,
}

/// The filter of a worker that a stage's rule asks for, if it does, before this job's tables.
pub fn of(rule: Option<Significant>, shard: &Shard) -> Option<Box<dyn Filter>> {
    rule.map(|rule| Box::new(Held::new(rule, shard.specs(), &shard.add_up())) as Box<dyn Filter>)
}

impl Held {
    /// For tables of which these add up.
    fn new(rule: Significant, specs: &[TableSpec], add_up: &[bool]) -> Self {
        let table = |(spec, add_up): (&TableSpec, &bool)| {
            let floats = matches!(spec.element, Type::F32 | Type::F64);
            (*add_up && floats).then(|| Table::new(spec))
        };
        Self { rule, tables: specs.iter().zip(add_up).map(table).collect(), used: FilterUse::default() }
    }

    fn table(&mut self, table: TableId) -> Option<&mut Table> {
        self.tables.get_mut(usize::from(table.0))?.as_mut()
    }
}

impl Filter for Held {
    fn read(&mut self, table: TableId, keys: Keys<'_>, values: Values<'_>) {
        let Some(table) = self.table(table) else { return };
        table.keys = owned(keys);
        table.values = values.into();
    }

    fn update(&mut self, clock: u64, table: TableId, keys: Keys<'_>, values: Values<'_>) -> Option<Going> {
        let (id, share) = (table, self.rule.share);
        let table = self.table(id)?;
        let (found, held) = with_values!(Values, values, values => table.update(share, clock, keys, values));
        let (sent, size) = (found.as_ref().map_or(keys.len(), |(keys, _)| keys.len()), table.bytes());
        let used = &mut self.used;
        used.entries += keys.len() as u64;
        used.held += held;
        used.sent += sent as u64;
        // What is held back may yet go: `due` takes it off.
        used.saved_bytes += (keys.len() - sent) as u64 * size;
        found.map(|(keys, values)| Going { table: id, keys, values })
    }

    fn due(&mut self, clock: u64) -> Vec<Going> {
        let last = if clock == ENDED { Some(ENDED) } else { clock.checked_sub(u64::from(self.rule.clocks)) };
        let Some(last) = last else { return Vec::new() };
        let mut all = Vec::new();
        for (id, table) in (0..).map(TableId).zip(&mut self.tables) {
            let Some(table) = table else { continue };
            let Some((keys, values)) = table.due(last) else { continue };
            self.used.sent += keys.len() as u64;
            self.used.saved_bytes -= keys.len() as u64 * table.bytes();
            all.push(Going { table: id, keys, values });
        }
        all
    }

    fn used(&self) -> FilterUse {
        self.used
    }
}

impl Table {
    fn new(spec: &TableSpec) -> Self {
        Self {
            width: spec.width as usize,
            element: spec.element,
            keys: lists::Keys::Range(0..0),
            values: OwnedValues::zeros(spec.element, 0),
            held: FxHashMap::default(),
            sums: Vec::new(),
            free: Vec::new(),
            since: VecDeque::new(),
        }
    }

    /// Bytes of a key's values.
    fn bytes(&self) -> u64 {
        (self.width * self.element.size()) as u64
    }

    /// Takes an update: what goes of it, or none where it goes as it is; and how many keys are held back.
    fn update<T: Element>(
        &mut self,
        share: f64,
        clock: u64,
        keys: Keys<'_>,
        values: &[T],
    ) -> (Option<(Vec<Key>, OwnedValues)>, u64) {
        let known = std::mem::replace(&mut self.keys, lists::Keys::Range(0..0));
        let values_read = std::mem::replace(&mut self.values, OwnedValues::zeros(T::TYPE, 0));
        let was_read = T::disown(values_read).unwrap_or_default();
        let mut places = Places::new(&known, keys.first());
        let (mut going, mut sent, mut held, mut changed) = (Vec::new(), Vec::new(), Vec::new(), false);
        let mut sum = vec![0.0; self.width];
        for (key, update) in keys.iter().zip(values.chunks_exact(self.width)) {
            sum.iter_mut().zip(update).for_each(|(sum, value)| *sum = value.to_f64());
            let before = self.held.get(&key).copied();
            if let Some((at, _)) = before {
                changed = true;
                sum.iter_mut().zip(&self.sums[at as usize * self.width..]).for_each(|(sum, held)| *sum += held);
            }
            let read = places.of(key).and_then(|place| was_read.get(place * self.width..(place + 1) * self.width));
            if read.is_none_or(|read| counts(share, &sum, read)) {
                if let Some((at, _)) = before {
                    self.held.remove(&key);
                    self.free.push(at);
                }
                going.push(key);
                sent.extend(sum.iter().map(|sum| T::from_f64(*sum)));
                continue;
            }
            changed = true;
            let at = before.map_or_else(|| self.place(), |(at, _)| at);
            self.sums[at as usize * self.width..][..self.width].copy_from_slice(&sum);
            if before.is_none() {
                self.held.insert(key, (at, clock));
            }
            held.push(key);
        }
        self.keys = known;
        self.values = T::own(was_read);
        let count = held.len() as u64;
        if count > 0 {
            self.since.push_back((clock, held));
        }
        (changed.then(|| (going, T::own(sent))), count)
    }

    /// A place for a sum.
    fn place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let at = self.sums.len() / self.width;
            self.sums.resize(self.sums.len() + self.width, 0.0);
            at as u32
        })
    }

    /// What is held back since the clock `last` or longer, if anything is.
    fn due(&mut self, last: u64) -> Option<(Vec<Key>, OwnedValues)> {
        let mut found = Vec::new();
        while let Some((since, keys)) = self.since.pop_front_if(|(since, _)| *since <= last) {
            for key in keys {
                if self.held.get(&key).is_some_and(|(_, held)| *held <= since)
                    && let Some((at, _)) = self.held.remove(&key)
                {
                    found.push((key, at));
                }
            }
        }
        if found.is_empty() {
            return None;
        }
        found.sort_unstable();
        let mut values = OwnedValues::zeros(self.element, found.len() * self.width);
        with_values!(OwnedValues, &mut values, values => {
            for ((_, at), values) in found.iter().zip(values.chunks_exact_mut(self.width)) {
                let sum = &self.sums[*at as usize * self.width..];
                values.iter_mut().zip(sum).for_each(|(value, sum)| *value = Element::from_f64(*sum));
            }
        });
        self.free.extend(found.iter().map(|(_, at)| at));
        Some((found.into_iter().map(|(key, _)| key).collect(), values))
    }
}

/// Whether a change counts beside what was read: also where one of them is no number.
fn counts<T: Element>(share: f64, change: &[f64], read: &[T]) -> bool {
    let small = |(change, read): (&f64, &T)| *change == 0.0 || change.abs() < share * read.to_f64().abs();
    !change.iter().zip(read).all(small)
}

/// The places of rising keys in a list.
struct Places<'a> {
    keys: &'a lists::Keys,
    at: usize,
}

impl<'a> Places<'a> {
    fn new(keys: &'a lists::Keys, first: Option<Key>) -> Self {
        let at = match (keys, first) {
            (lists::Keys::List(keys), Some(first)) => keys.partition_point(|key| *key < first),
            _ => 0,
        };
        Self { keys, at }
    }

    fn of(&mut self, key: Key) -> Option<usize> {
        match self.keys {
            lists::Keys::Range(range) => {
                range.contains(&u64::from(key)).then(|| (u64::from(key) - range.start) as usize)
            }
            lists::Keys::List(keys) => {
                self.at += keys[self.at..].iter().take_while(|known| **known < key).count();
                (keys.get(self.at) == Some(&key)).then_some(self.at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::plan::Storage;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TABLE: TableId = TableId(0);

    fn filter(share: f64, clocks: u32, width: u32) -> Held {
        let spec = |element| TableSpec {
            name: "weights".to_owned(),
            element,
            width,
            storage: Storage::Dense,
            update: "add".to_owned(),
            update_params: Vec::new(),
        };
        let specs = [spec(Type::F32), spec(Type::F64), spec(Type::I32), spec(Type::F32)];
        Held::new(Significant { share, clocks }, &specs, &[true, true, true, false])
    }

    /// An update of f32 values: what goes of it.
    fn update(filter: &mut Held, clock: u64, keys: &[Key], values: &[f32]) -> (Vec<Key>, Vec<f32>) {
        match filter.update(clock, TABLE, Keys::List(keys), Values::F32(values)) {
            None => (keys.to_vec(), values.to_vec()),
            Some(going) => taken(going),
        }
    }

    fn taken(going: Going) -> (Vec<Key>, Vec<f32>) {
        let OwnedValues::F32(values) = going.values else { panic!("{going:?}") };
        (going.keys, values)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_sent_twice_and_nothing_waits_longer_than_it_may(
            share in 0.0f64..3.0, clocks in 1u32..5, width in 1u32..4, of_range in any::<bool>(),
            updates in proptest::collection::vec(proptest::collection::btree_map(0u32..20, -4i8..5, 0..12), 1..16)
        ) {
            let mut filter = filter(share, clocks, width);
            let read: Vec<Key> = if of_range { (3..13).collect() } else { (0..20).step_by(2).collect() };
            let keys = if of_range { Keys::Range { start: 3, count: 10 } } else { Keys::List(&read) };
            filter.read(TABLE, keys, Values::F32(&vec![1.0; 10 * width as usize]));
            let (mut made, mut sent) = (BTreeMap::new(), BTreeMap::new());
            // By key: the first clock of which something is missing at the shards.
            let mut missing: BTreeMap<Key, u64> = BTreeMap::new();
            let all = |value: f32| vec![value; width as usize];
            let mut take = |missing: &mut BTreeMap<Key, u64>, (keys, values): (Vec<Key>, Vec<f32>)| {
                assert!(keys.is_sorted_by(|a, b| a < b) && keys.len() * width as usize == values.len());
                for (key, values) in keys.iter().zip(values.chunks(width as usize)) {
                    assert!(values.iter().all(|value| *value == values[0]));
                    *sent.entry(*key).or_insert(0.0) += values[0];
                    missing.remove(key);
                }
            };
            let entries = updates.iter().map(BTreeMap::len).sum::<usize>() as u64;
            for (clock, update_of) in (0..).zip(&updates) {
                let keys: Vec<Key> = update_of.keys().copied().collect();
                let values: Vec<f32> = update_of.values().flat_map(|value| all(f32::from(*value))).collect();
                for (key, value) in update_of {
                    *made.entry(*key).or_insert(0.0) += f32::from(*value);
                    missing.entry(*key).or_insert(clock);
                }
                take(&mut missing, update(&mut filter, clock, &keys, &values));
                filter.due(clock).into_iter().for_each(|going| take(&mut missing, taken(going)));
                prop_assert!(missing.values().all(|since| clock < since + u64::from(clocks)), "{:?} at {}", missing, clock);
                prop_assert!(missing.keys().all(|key| read.contains(key)), "{:?} was never read", missing);
            }
            filter.due(ENDED).into_iter().for_each(|going| take(&mut missing, taken(going)));
            prop_assert!(missing.is_empty() && filter.due(ENDED).is_empty());
            made.retain(|_, value| *value != 0.0);
            sent.retain(|_, value| *value != 0.0);
            prop_assert_eq!(made, sent);
            let used = filter.used();
            prop_assert_eq!(used.entries, entries);
            prop_assert_eq!(used.saved_bytes, (entries - used.sent) * 4 * u64::from(width));
        }
    }

    #[test]
    fn a_change_goes_when_with_what_was_held_back_it_counts_for_the_value() {
        let mut filter = filter(0.1, 100, 1);
        filter.read(TABLE, Keys::List(&[3, 5, 7]), Values::F32(&[10.0, -10.0, 0.0]));
        let mut add = |clock, keys: &[Key], values: &[f32]| update(&mut filter, clock, keys, values);
        assert_eq!(add(0, &[3, 5, 7, 9], &[0.75, -1.0, 1e-9, 1e-9]), (vec![5, 7, 9], vec![-1.0, 1e-9, 1e-9]));
        assert_eq!(add(1, &[3], &[-0.5]), (vec![], vec![]));
        assert_eq!(add(2, &[3], &[0.75]), (vec![3], vec![1.0]));
        assert_eq!(add(3, &[3], &[0.75]), (vec![], vec![]));
        // What is no number is told at once.
        assert_eq!(add(4, &[3], &[f32::INFINITY]), (vec![3], vec![f32::INFINITY]));
        assert!(add(5, &[3], &[f32::NAN]).1[0].is_nan());
        assert_eq!(filter.used(), FilterUse { entries: 9, held: 3, sent: 6, saved_bytes: 12 });
    }

    #[test]
    fn what_does_not_add_up_and_integers_go_as_they_are() {
        let mut filter = filter(1e9, 1, 1);
        filter.read(TableId(1), Keys::List(&[3]), Values::F64(&[1.0]));
        filter.read(TableId(2), Keys::List(&[3]), Values::I32(&[1]));
        filter.read(TableId(3), Keys::List(&[3]), Values::F32(&[1.0]));
        assert!(filter.update(0, TableId(1), Keys::List(&[3]), Values::F64(&[0.5])).is_some());
        assert!(filter.update(0, TableId(2), Keys::List(&[3]), Values::I32(&[1])).is_none());
        assert!(filter.update(0, TableId(3), Keys::List(&[3]), Values::F32(&[0.5])).is_none());
        let due = filter.due(ENDED);
        assert_eq!(due, [Going { table: TableId(1), keys: vec![3], values: OwnedValues::F64(vec![0.5]) }]);
    }
}
