//! A table of the host: the chunks that were written, as f64.
//!
//! Invariant: every value is one that the table's element type can hold; f64 keeps all of f32, u32 and i32 exactly, so
//! an update that goes through the element type gives the bits that the engine gives.

use crate::error::{Error, Result};
use crate::ids::Key;
use crate::plan::{Storage, TableSpec};
use crate::updates::{DynUpdate, Updates};
use crate::value::{Element, Type, Values, ValuesMut};
use crate::with_values;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A table and its values.
#[derive(Debug, Clone)]
pub struct HostTable {
    /// Its place in the plan, spelt out.
    pub spec: TableSpec,
    /// By number: `width` values for each key of a chunk.
    chunks: BTreeMap<Key, Vec<f64>>,
    /// A key's chunk is `key >> shift`.
    shift: u32,
    update: Arc<dyn DynUpdate>,
}

impl HostTable {
    /// An empty table. Fails when its update function is neither the engine's nor one of `updates`, or does not fit it.
    pub fn new(spec: TableSpec, updates: &Updates) -> Result<Self> {
        let update = updates.make(&spec)?.into_dyn();
        // Keys of a sparse table may be anywhere, so that each is kept alone.
        let shift = if spec.storage == Storage::Sparse { 0 } else { spec.chunk_keys().ilog2() };
        Ok(Self { spec, chunks: BTreeMap::new(), shift, update })
    }

    /// The values of consecutive keys, zeros for what nobody wrote.
    pub fn range(&self, keys: Range<Key>) -> Vec<f64> {
        let zeros = vec![0.0; self.spec.width as usize];
        keys.flat_map(|key| self.find(key).unwrap_or(&zeros).iter().copied()).collect()
    }

    fn find(&self, key: Key) -> Option<&[f64]> {
        self.chunks.get(&(key >> self.shift)).map(|chunk| &chunk[self.places(key)])
    }

    /// The values of a key, made when they are first asked for.
    fn made(&mut self, key: Key) -> &mut [f64] {
        let (places, len) = (self.places(key), (self.spec.width as usize) << self.shift);
        &mut self.chunks.entry(key >> self.shift).or_insert_with(|| vec![0.0; len])[places]
    }

    /// Where a key's values stand in its chunk.
    fn places(&self, key: Key) -> Range<usize> {
        let (at, width) = ((key & ((1 << self.shift) - 1)) as usize, self.spec.width as usize);
        at * width..(at + 1) * width
    }

    /// Reads `keys` into `out`.
    pub(super) fn read(&self, keys: impl Iterator<Item = Key>, out: ValuesMut<'_>) -> Result<()> {
        self.check(out.kind())?;
        with_values!(ValuesMut, out, out => {
            for (key, out) in keys.zip(out.chunks_exact_mut(self.spec.width as usize)) {
                match self.find(key) {
                    Some(values) => out.iter_mut().zip(values).for_each(|(o, v)| *o = Element::from_f64(*v)),
                    None => out.fill(Default::default()),
                }
            }
        });
        Ok(())
    }

    /// Updates `keys`.
    pub(super) fn update(&mut self, keys: impl Iterator<Item = Key>, values: Values<'_>) -> Result<()> {
        self.check(values.kind())?;
        let (width, update) = (self.spec.width as usize, self.update.clone());
        with_values!(Values, values, values => {
            let mut row = values[..0].to_vec();
            for (key, by) in keys.zip(values.chunks_exact(width)) {
                let kept = self.made(key);
                row.clear();
                kept.iter().for_each(|x| row.push(Element::from_f64(*x)));
                update.slice(Element::wrap_mut(&mut row), width, Element::wrap(by));
                kept.iter_mut().zip(&row).for_each(|(kept, new)| *kept = new.to_f64());
            }
        });
        Ok(())
    }

    /// Takes over all values of `from`, which is as wide and of the same type.
    pub(super) fn copy(&mut self, from: &Self) {
        if self.shift == from.shift {
            self.chunks.clone_from(&from.chunks);
            return;
        }
        self.zero();
        for (number, chunk) in &from.chunks {
            let keys = number << from.shift..=Key::MAX;
            for (key, values) in keys.zip(chunk.chunks_exact(self.spec.width as usize)) {
                if values.iter().any(|value| *value != 0.0) {
                    self.made(key).copy_from_slice(values);
                }
            }
        }
    }

    pub(super) fn zero(&mut self) {
        self.chunks.clear();
    }

    pub(super) fn scale(&mut self, by: f64) {
        for value in self.chunks.values_mut().flatten() {
            *value = match self.spec.element {
                Type::F64 => *value * by,
                Type::F32 => f64::from((*value * by) as f32),
                Type::U32 => f64::from((*value * by) as u32),
                Type::I32 => f64::from((*value * by) as i32),
            };
        }
    }

    pub(super) fn norm2(&self) -> f64 {
        self.chunks.values().flatten().map(|v| v * v).sum()
    }

    /// Fills the keys from 0 on.
    pub(super) fn load(&mut self, values: &[f32]) -> Result<()> {
        let width = self.spec.width as usize;
        if !values.len().is_multiple_of(width) {
            return Err(Error::user(format!(
                "{} values don't fit table {} with {width} per key",
                values.len(),
                self.spec.name
            )));
        }
        let element = self.spec.element;
        self.zero();
        for (key, values) in (0..=Key::MAX).zip(values.chunks_exact(width)) {
            for (kept, value) in self.made(key).iter_mut().zip(values) {
                *kept = match element {
                    Type::F32 | Type::F64 => f64::from(*value),
                    Type::U32 => f64::from(*value as u32),
                    Type::I32 => f64::from(*value as i32),
                };
            }
        }
        Ok(())
    }

    /// An error unless its elements are of this type.
    pub(super) fn check(&self, kind: Type) -> Result<()> {
        if kind == self.spec.element {
            return Ok(());
        }
        Err(Error::bug(format!("table {} holds {}, not {kind}", self.spec.name, self.spec.element)))
    }
}
