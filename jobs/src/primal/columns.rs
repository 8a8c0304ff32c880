//! A worker's rows by column: the non-zeros of a few features, as coordinate descent goes through them.
//!
//! Invariant: a column's rows rise, and every row is below the number of the worker's rows.

use super::gradient::{block, dot_at};
use crate::parts::{Parts, Rows};
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// A feature that has no column.
const NONE: u32 = u32::MAX;

/// The columns of some features.
#[derive(Debug, Default)]
pub struct Columns {
    /// Where each one starts; one more than there are columns.
    starts: Vec<usize>,
    rows: Vec<u32>,
    /// None when all are 1.
    values: Option<Vec<f32>>,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Its rows, rising.
    pub rows: &'a [u32],
    /// Their values; none when all are 1.
    pub values: Option<&'a [f32]>,
}

impl Column<'_> {
    /// Sum over the column's rows of x times `by`.
    #[inline(always)]
    pub fn dot(&self, by: &[f64]) -> f64 {
        // SAFETY: a column's rows are below the number of rows, which all vectors by row have.
        unsafe { dot_at(self.rows, self.values, by) }
    }

    /// Calls `each` with the row and the value of each non-zero.
    #[inline(always)]
    pub fn each(&self, mut each: impl FnMut(usize, f64)) {
        match self.values {
            Some(values) => self.rows.iter().zip(values).for_each(|(row, x)| each(*row as usize, f64::from(*x))),
            None => self.rows.iter().for_each(|row| each(*row as usize, 1.0)),
        }
    }
}

impl Columns {
    /// The columns of the features `keys`, which rise, in this worker's rows.
    pub fn take(worker: &mut Worker<'_>, rows: Rows, keys: &[Key]) -> Result<Self> {
        let mut counts = vec![0usize; keys.len()];
        let (mut plain, mut slots) = (true, Vec::new());
        let mut parts = Parts::new(worker, rows)?;
        while let Some(part) = parts.next(worker)? {
            number(&part.map, keys, &mut slots);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                plain &= block.values.is_none();
                for index in &block.indices {
                    let slot = slots[*index as usize];
                    if slot != NONE {
                        counts[slot as usize] += 1;
                    }
                }
            }
        }
        let mut starts = Vec::with_capacity(keys.len() + 1);
        let mut total = 0;
        for count in &mut counts {
            starts.push(total);
            total += std::mem::replace(count, total);
        }
        starts.push(total);
        let mut made = Self { starts, rows: vec![0; total], values: (!plain).then(|| vec![1.0; total]) };
        let mut next = counts;
        let mut first_row = 0u64;
        let mut parts = Parts::new(worker, rows)?;
        while let Some(part) = parts.next(worker)? {
            number(&part.map, keys, &mut slots);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                if first_row + block.rows() as u64 > u64::from(u32::MAX) {
                    return Err(Error::user("a worker has more than 2^32 rows; use more threads or slaves"));
                }
                for i in 0..block.rows() {
                    let row = block.row(i);
                    let number = first_row as u32 + i as u32;
                    for (at, index) in row.indices.iter().enumerate() {
                        let slot = slots[*index as usize];
                        if slot == NONE {
                            continue;
                        }
                        let place = &mut next[slot as usize];
                        made.rows[*place] = number;
                        if let (Some(to), Some(from)) = (&mut made.values, row.values) {
                            to[*place] = from[at];
                        }
                        *place += 1;
                    }
                }
                first_row += block.rows() as u64;
            }
        }
        Ok(made)
    }

    /// Column `at`.
    #[inline(always)]
    pub fn column(&self, at: usize) -> Column<'_> {
        let range = self.starts[at]..self.starts[at + 1];
        Column { rows: &self.rows[range.clone()], values: self.values.as_ref().map(|v| &v[range]) }
    }
}

/// Fills `slots` with each local feature's place in `keys`.
fn number(map: &KeyMap, keys: &[Key], slots: &mut Vec<u32>) {
    slots.clear();
    slots.resize(map.len(), NONE);
    match map {
        KeyMap::Identity(n) => {
            for (at, key) in keys.iter().enumerate().filter(|(_, key)| **key < *n) {
                slots[*key as usize] = at as u32;
            }
        }
        KeyMap::Sorted(held) => {
            let mut local = 0;
            for (at, key) in keys.iter().enumerate() {
                while local < held.len() && held[local] < *key {
                    local += 1;
                }
                if held.get(local) == Some(key) {
                    slots[local] = at as u32;
                }
            }
        }
    }
}
