//! Reads and updates without locks, for workers on one slave that race for the same values (Hogwild, Recht et al. 2011).
//!
//! Invariants: every value is read and written whole; of two updates of a value at the same time one may be lost, and of
//! a key of several values parts of both may stay. While workers race nobody takes a chunk's lock but to make it, and its
//! memory stays where it is.

use super::table::Table;
use super::{Keys, Shard, with_values};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::Storage;
use flexps_common::prefetch::{AHEAD, prefetch};
use flexps_common::updates::Update;
use flexps_common::value::{Element, Values, ValuesMut};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The values of a dense chunk, shared by whoever races for them.
#[derive(Clone, Copy)]
pub(super) struct Raced<'a, T> {
    start: *const T,
    len: usize,
    chunk: PhantomData<&'a [T]>,
}

impl<T: Element> Raced<'_, T> {
    /// # Safety
    /// `start` must be that of `len` values, aligned, that live as long as this and that nobody accesses in another way.
    pub(super) unsafe fn new(start: *const T, len: usize) -> Self {
        Self { start, len, chunk: PhantomData }
    }

    #[inline]
    fn at(self, at: usize) -> *const T {
        assert!(at < self.len, "place {at} of a chunk of {}", self.len);
        self.start.wrapping_add(at)
    }

    #[inline]
    fn load(self, at: usize) -> T {
        let at = self.at(at);
        // SAFETY: inside the chunk; atomics have the size and the alignment of what they stand for.
        unsafe {
            match size_of::<T>() {
                4 => {
                    bytemuck::pod_read_unaligned(bytemuck::bytes_of(&(*at.cast::<AtomicU32>()).load(Ordering::Relaxed)))
                }
                _ => {
                    bytemuck::pod_read_unaligned(bytemuck::bytes_of(&(*at.cast::<AtomicU64>()).load(Ordering::Relaxed)))
                }
            }
        }
    }

    #[inline]
    fn store(self, at: usize, value: T) {
        let (at, bytes) = (self.at(at), bytemuck::bytes_of(&value));
        // SAFETY: as above.
        unsafe {
            match size_of::<T>() {
                4 => (*at.cast::<AtomicU32>()).store(bytemuck::pod_read_unaligned(bytes), Ordering::Relaxed),
                _ => (*at.cast::<AtomicU64>()).store(bytemuck::pod_read_unaligned(bytes), Ordering::Relaxed),
            }
        }
    }

    /// Reads the values of keys, `width` each.
    fn get(self, mask: Key, width: usize, keys: Keys<'_>, out: &mut [T]) {
        each(
            keys,
            mask,
            |ahead| prefetch(self.start.wrapping_add(ahead * width)),
            |number, at| {
                for i in 0..width {
                    out[number * width + i] = self.load(at * width + i);
                }
            },
        );
    }

    /// Runs an update function on the values of keys, `width` each.
    #[inline]
    pub(super) fn update<U: Update>(self, function: &U, mask: Key, width: usize, keys: Keys<'_>, update: &[T]) {
        let mut current = vec![T::default(); width];
        each(
            keys,
            mask,
            |ahead| prefetch(self.start.wrapping_add(ahead * width)),
            |number, at| {
                (0..width).for_each(|i| current[i] = self.load(at * width + i));
                function.apply(&mut current, &update[number * width..][..width]);
                (0..width).for_each(|i| self.store(at * width + i, current[i]));
            },
        );
    }
}

/// Calls `take` with each key's number and place, `ask` with that of one further on.
#[inline]
fn each(keys: Keys<'_>, mask: Key, ask: impl Fn(usize), mut take: impl FnMut(usize, usize)) {
    match keys {
        Keys::List(keys) => {
            for (number, key) in keys.iter().enumerate() {
                if let Some(next) = keys.get(number + AHEAD) {
                    ask((next & mask) as usize);
                }
                take(number, (key & mask) as usize);
            }
        }
        Keys::Range { start, count } => {
            let first = (start & mask) as usize;
            (0..count as usize).for_each(|number| take(number, first + number));
        }
    }
}

impl Shard {
    /// Whether workers here may race: all tables live here, and no chunk leaves memory.
    pub fn may_race(&self) -> bool {
        !self.tier.is_limited() && self.placements().iter().all(|placement| placement.is_here())
    }

    /// As [`Shard::get`], while workers race.
    pub fn race_get(&self, table: TableId, keys: Keys<'_>, out: ValuesMut<'_>) -> Result<()> {
        with_values!(self, table, ValuesMut(out), t, values => t.race_get(keys, values))
    }

    /// As [`Shard::add`], while workers race.
    pub fn race_add(&self, table: TableId, keys: Keys<'_>, values: Values<'_>) -> Result<()> {
        with_values!(self, table, Values(values), t, values => t.race_add(keys, values))
    }
}

impl<T: Element> Table<T> {
    fn race_get(&self, keys: Keys<'_>, mut out: &mut [T]) -> Result<()> {
        // A sparse table has no place for a value before it is written.
        if self.blank().storage == Storage::Sparse {
            return self.get(keys, out);
        }
        self.check_len(keys, out.len())?;
        let runs = self.runs(keys)?;
        let (mut next, mut ahead) = (runs.iter(), 0);
        for (chunk, run) in &runs {
            self.ask(&mut next, &mut ahead, run.len());
            let (part, after) = out.split_at_mut(run.len() * self.width());
            match self.find(*chunk).and_then(|chunk| chunk.raced(self.blank())) {
                None => part.fill(T::default()),
                Some(raced) => raced.get(self.mask(), self.width(), *run, part),
            }
            out = after;
        }
        Ok(())
    }

    fn race_add(&self, keys: Keys<'_>, mut values: &[T]) -> Result<()> {
        if self.blank().storage == Storage::Sparse {
            return self.add(keys, values);
        }
        self.check_len(keys, values.len())?;
        let runs = self.runs(keys)?;
        let (mut next, mut ahead) = (runs.iter(), 0);
        for (chunk, run) in &runs {
            self.ask(&mut next, &mut ahead, run.len());
            let (part, after) = values.split_at(run.len() * self.width());
            let chunk = self.made(*chunk);
            let raced = match chunk.raced(self.blank()) {
                Some(raced) if self.is_changed(chunk) => raced,
                _ => {
                    // Makes it, and says that it changes in this phase.
                    drop(self.change(chunk)?);
                    chunk.raced(self.blank()).ok_or_else(|| Error::bug("a chunk without values"))?
                }
            };
            self.function().race(raced, self.mask(), self.width(), *run, part);
            values = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tier::Room;
    use super::*;
    use flexps_common::plan::TableSpec;
    use flexps_common::value::Type;
    use std::sync::Arc;

    const TABLE: TableId = TableId(0);

    fn shard(element: Type, width: u32, storage: Storage, update: &str) -> Shard {
        let spec =
            TableSpec { name: "t".into(), element, width, storage, update: update.into(), update_params: Vec::new() };
        Shard::new(&[spec], 0, 1, &Default::default(), &Room::unlimited()).unwrap()
    }

    #[test]
    fn one_that_races_alone_does_what_one_with_locks_does() {
        let keys: Vec<Key> = (0..400).map(|i| i * 997).collect();
        let values: Vec<f64> = (0..1200).map(f64::from).collect();
        for storage in [Storage::Dense, Storage::Sparse] {
            for update in ["add", "max"] {
                let [locked, raced] = [(); 2].map(|()| shard(Type::F64, 3, storage, update));
                for keys in [Keys::List(&keys), Keys::Range { start: 65_400, count: 400 }] {
                    locked.add(TABLE, keys, Values::F64(&values)).unwrap();
                    raced.race_add(TABLE, keys, Values::F64(&values)).unwrap();
                }
                let all = Keys::Range { start: 0, count: 500_000 };
                let mut out = [vec![0.0; 1_500_000], vec![1.0; 1_500_000], vec![2.0; 1_500_000]];
                let [a, b, c] = &mut out;
                locked.get(TABLE, all, ValuesMut::F64(a)).unwrap();
                raced.get(TABLE, all, ValuesMut::F64(b)).unwrap();
                raced.race_get(TABLE, all, ValuesMut::F64(c)).unwrap();
                assert!(out[0] == out[1] && out[0] == out[2]);
            }
        }
    }

    #[test]
    fn no_value_is_torn_and_none_is_lost_that_nobody_else_touches() {
        let shard = Arc::new(shard(Type::F64, 1, Storage::Dense, "assign"));
        let sums = Arc::new(self::shard(Type::U32, 1, Storage::Dense, "add"));
        let work = |worker: u32| {
            let (shard, sums) = (shard.clone(), sums.clone());
            move || {
                // Halves of the two patterns would be neither.
                let pattern = f64::from_bits([0x1111_1111_1111_1111, 0x2222_2222_2222_2222][worker as usize]);
                for _ in 0..3000 {
                    shard.race_add(TABLE, Keys::List(&[5, 70_000]), Values::F64(&[pattern; 2])).unwrap();
                    sums.race_add(TABLE, Keys::List(&[9 + worker, 70_000]), Values::U32(&[1, 1])).unwrap();
                    let mut read = [0.0; 2];
                    shard.race_get(TABLE, Keys::List(&[5, 70_000]), ValuesMut::F64(&mut read)).unwrap();
                    for value in read {
                        assert!([0x1111_1111_1111_1111, 0x2222_2222_2222_2222].contains(&value.to_bits()));
                    }
                }
            }
        };
        let threads = [0, 1].map(|worker| std::thread::spawn(work(worker)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut read = [0; 3];
        sums.get(TABLE, Keys::List(&[9, 10, 70_000]), ValuesMut::U32(&mut read)).unwrap();
        assert_eq!(read[..2], [3000, 3000]);
        assert!((3000..=6000).contains(&read[2]), "{read:?}");
    }
}
