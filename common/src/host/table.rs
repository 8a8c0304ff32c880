//! A table of the host: all values from key 0 to the last key that was written, as f64.
//!
//! Invariant: every value is one that the table's element type can hold; f64 keeps all of f32, u32 and i32 exactly, so
//! an update that goes through the element type gives the bits that the engine gives.

use crate::error::{Error, Result};
use crate::ids::Key;
use crate::plan::TableSpec;
use crate::updates::{DynUpdate, Updates};
use crate::value::{Element, Type, Values, ValuesMut};
use crate::with_values;
use std::ops::Range;
use std::sync::Arc;

/// A table and its values.
#[derive(Debug, Clone)]
pub struct HostTable {
    /// Its place in the plan, spelt out.
    pub spec: TableSpec,
    /// `width` values per key, up to the last key that was written.
    pub values: Vec<f64>,
    update: Arc<dyn DynUpdate>,
}

impl HostTable {
    /// An empty table. Fails when its update function is neither the engine's nor one of `updates`, or does not fit it.
    pub fn new(spec: TableSpec, updates: &Updates) -> Result<Self> {
        let update = updates.make(&spec)?.into_dyn();
        Ok(Self { spec, values: Vec::new(), update })
    }

    /// The values of consecutive keys, zeros behind the last one written.
    pub fn range(&self, keys: Range<Key>) -> Vec<f64> {
        let width = self.spec.width as usize;
        let range = keys.start as usize * width..keys.end as usize * width;
        range.map(|i| self.values.get(i).copied().unwrap_or(0.0)).collect()
    }

    /// Reads `keys` into `out`.
    pub(super) fn read(&self, keys: impl Iterator<Item = Key>, out: ValuesMut<'_>) -> Result<()> {
        self.check(out.kind())?;
        let width = self.spec.width as usize;
        with_values!(ValuesMut, out, out => {
            for (key, out) in keys.zip(out.chunks_exact_mut(width)) {
                let at = key as usize * width;
                match self.values.get(at..at + width) {
                    Some(values) => out.iter_mut().zip(values).for_each(|(o, v)| *o = Element::from_f64(*v)),
                    None => out.fill(Default::default()),
                }
            }
        });
        Ok(())
    }

    /// Updates `keys`, the last of which is `last`.
    pub(super) fn update(&mut self, keys: impl Iterator<Item = Key>, last: Key, values: Values<'_>) -> Result<()> {
        self.check(values.kind())?;
        let width = self.spec.width as usize;
        let needed = (last as usize + 1) * width;
        if self.values.len() < needed {
            self.values.resize(needed, 0.0);
        }
        with_values!(Values, values, values => {
            let mut row = values[..0].to_vec();
            for (key, by) in keys.zip(values.chunks_exact(width)) {
                let at = key as usize * width;
                let kept = &mut self.values[at..at + width];
                row.clear();
                kept.iter().for_each(|x| row.push(Element::from_f64(*x)));
                self.update.slice(Element::wrap_mut(&mut row), width, Element::wrap(by));
                kept.iter_mut().zip(&row).for_each(|(kept, new)| *kept = new.to_f64());
            }
        });
        Ok(())
    }

    pub(super) fn scale(&mut self, by: f64) {
        for value in &mut self.values {
            *value = match self.spec.element {
                Type::F64 => *value * by,
                Type::F32 => f64::from((*value * by) as f32),
                Type::U32 => f64::from((*value * by) as u32),
                Type::I32 => f64::from((*value * by) as i32),
            };
        }
    }

    pub(super) fn load(&mut self, values: &[f32]) {
        self.values = values.iter().map(|v| f64::from(*v)).collect();
    }

    fn check(&self, kind: Type) -> Result<()> {
        if kind == self.spec.element {
            return Ok(());
        }
        Err(Error::bug(format!("table {} holds {:?}, not {kind:?}", self.spec.name, self.spec.element)))
    }
}
