//! One chunk's values, dense or sparse.
//!
//! Invariant: a key that was never written reads as zeros in both forms, and both give the same answers.

use super::function::Apply;
use super::memory::{Memory, Values};
use flexps_common::ids::Key;
use flexps_common::plan::Storage;
use flexps_common::value::Element;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// Values of `keys` keys, `width` elements each.
pub(super) enum Data<T> {
    /// All of them, in key order.
    Dense(Values<T>),
    /// Those that were written.
    Sparse {
        /// Where a key's values start.
        places: FxHashMap<Key, usize>,
        /// In order of first writing.
        values: Vec<T>,
    },
}

impl<T: Element> Data<T> {
    pub(super) fn new(storage: Storage, keys: usize, width: usize, memory: &Memory) -> Self {
        match storage {
            Storage::Dense => Data::Dense(memory.zeros(keys * width)),
            Storage::Sparse => Data::Sparse { places: FxHashMap::default(), values: Vec::new() },
        }
    }

    /// Reads keys of this chunk; `mask` takes a key to its place.
    #[inline]
    pub(super) fn get(&self, mask: Key, width: usize, keys: &[Key], out: &mut [T]) {
        match self {
            Data::Dense(data) if width == 1 => {
                // The length is a function of the mask, so that no index needs a check.
                let data = &data[..=mask as usize];
                for (out, key) in out.iter_mut().zip(keys) {
                    *out = data[(key & mask) as usize];
                }
            }
            Data::Dense(data) => {
                for (out, key) in out.chunks_exact_mut(width).zip(keys) {
                    let at = (key & mask) as usize * width;
                    out.copy_from_slice(&data[at..at + width]);
                }
            }
            Data::Sparse { places, values } => {
                for (out, key) in out.chunks_exact_mut(width).zip(keys) {
                    match places.get(&(key & mask)) {
                        Some(at) => out.copy_from_slice(&values[*at..*at + width]),
                        None => out.fill(T::default()),
                    }
                }
            }
        }
    }

    /// Updates keys of this chunk.
    #[inline]
    pub(super) fn add(&mut self, mask: Key, width: usize, keys: &[Key], update: &[T], function: &dyn Apply<T>) {
        match self {
            Data::Dense(data) => function.scatter(data, mask, width, keys, update),
            Data::Sparse { places, values } => {
                for (key, update) in keys.iter().zip(update.chunks_exact(width)) {
                    function.slice(place(places, values, key & mask, width), width, update);
                }
            }
        }
    }

    /// Reads consecutive places.
    pub(super) fn get_range(&self, at: Range<usize>, width: usize, out: &mut [T]) {
        match self {
            Data::Dense(data) => out.copy_from_slice(&data[at.start * width..at.end * width]),
            Data::Sparse { places, values } => {
                for (out, key) in out.chunks_exact_mut(width).zip(at) {
                    match places.get(&(key as Key)) {
                        Some(at) => out.copy_from_slice(&values[*at..*at + width]),
                        None => out.fill(T::default()),
                    }
                }
            }
        }
    }

    /// Updates consecutive places.
    pub(super) fn add_range(&mut self, at: Range<usize>, width: usize, update: &[T], function: &dyn Apply<T>) {
        match self {
            Data::Dense(data) => function.slice(&mut data[at.start * width..at.end * width], width, update),
            Data::Sparse { places, values } => {
                for (key, update) in at.zip(update.chunks_exact(width)) {
                    function.slice(place(places, values, key as Key, width), width, update);
                }
            }
        }
    }

    /// All values to zero.
    pub(super) fn zero(&mut self) {
        match self {
            Data::Dense(data) => data.fill(T::default()),
            Data::Sparse { places, values } => {
                places.clear();
                values.clear();
            }
        }
    }

    /// All values times `by`.
    pub(super) fn scale(&mut self, by: f64) {
        let values = match self {
            Data::Dense(data) => &mut data[..],
            Data::Sparse { values, .. } => values,
        };
        for value in values {
            *value = T::from_f64(value.to_f64() * by);
        }
    }

    /// The sum of the squares, always in the same order.
    pub(super) fn norm2(&self, width: usize) -> f64 {
        match self {
            Data::Dense(data) => norm2(data),
            Data::Sparse { places, values } => {
                let mut order: Vec<_> = places.iter().collect();
                order.sort_unstable();
                order.into_iter().map(|(_, at)| norm2(&values[*at..*at + width])).sum()
            }
        }
    }

    /// Takes over all values of `from`, which is as wide.
    pub(super) fn copy(&mut self, from: &Self, width: usize) {
        match (&mut *self, from) {
            (Data::Dense(to), Data::Dense(from)) => to.copy_from_slice(from),
            (Data::Sparse { places, values }, Data::Sparse { places: from_places, values: from }) => {
                places.clone_from(from_places);
                values.clone_from(from);
            }
            (Data::Dense(to), Data::Sparse { places, values }) => {
                to.fill(T::default());
                for (key, at) in places {
                    to[*key as usize * width..][..width].copy_from_slice(&values[*at..*at + width]);
                }
            }
            (Data::Sparse { places, values }, Data::Dense(from)) => {
                places.clear();
                values.clear();
                for (key, from) in from.chunks_exact(width).enumerate() {
                    if from.iter().any(|x| *x != T::default()) {
                        place(places, values, key as Key, width).copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// The values of `key`, made when there are none.
fn place<'a, T: Element>(
    places: &mut FxHashMap<Key, usize>,
    values: &'a mut Vec<T>,
    key: Key,
    width: usize,
) -> &'a mut [T] {
    let at = *places.entry(key).or_insert_with(|| {
        let at = values.len();
        values.resize(at + width, T::default());
        at
    });
    &mut values[at..at + width]
}

/// The sum of squares in eight interleaved parts: the compiler may use vectors without changing the order.
fn norm2<T: Element>(values: &[T]) -> f64 {
    let mut parts = [0.0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (part, value) in parts.iter_mut().zip(block) {
            let x = value.to_f64();
            *part += x * x;
        }
    }
    for (part, value) in parts.iter_mut().zip(rest) {
        let x = value.to_f64();
        *part += x * x;
    }
    parts.iter().sum()
}
