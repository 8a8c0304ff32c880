//! Tables of numbers by feature that only a job's own stages read: where one slave has all rows, those of the features that
//! rows have lie one behind the other, in the slave's order. Hashed features are mostly such as no row has, and their
//! pages would be made and cleared for nothing.
//!
//! Invariant: where a feature's numbers are depends on the input and on the slaves alone, so all stages agree. A checkpoint may be
//! read by other slaves, so none brings such numbers back: they are made anew.

use crate::parts::{Part, Parts, Rows};
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use std::sync::Arc;

/// The features that rows have, where this slave has all rows and keeps values by feature; none where all may matter.
pub fn occurring(worker: &mut Worker<'_>, rows: Rows) -> Result<Option<Arc<KeyMap>>> {
    if worker.place.slaves > 1 {
        return Ok(None);
    }
    Ok(Parts::new(worker, rows)?.whole(worker)?.map(|part| part.map).filter(|map| matches!(**map, KeyMap::Sorted(_))))
}

/// Adds values of all local features of a part.
pub fn add(worker: &mut Worker<'_>, table: Table<f64>, part: &Part, values: &[f64]) -> Result<()> {
    if worker.place.slaves > 1 || !part.is_all() {
        return worker.add_mapped(table, &part.map, values);
    }
    worker.add_range(table, 0..part.map.len() as u32, values)
}

/// Reads those of the features `keys`, which rise; of others than those that rows have, what is there does not count.
pub fn get(worker: &mut Worker<'_>, rows: Rows, table: Table<f64>, keys: &[Key], to: &mut Vec<f64>) -> Result<()> {
    match occurring(worker, rows)? {
        Some(map) => {
            let places = locals(&map, keys);
            if places.contains(&NONE) {
                return Err(Error::bug("a feature that no row has is watched"));
            }
            worker.get(table, &places, to)
        }
        None => worker.get(table, keys, to),
    }
}

/// A feature that is not there.
pub const NONE: u32 = u32::MAX;

/// The local number of each of `keys`, which rise; [`NONE`] of those that are not in the map.
pub fn locals(map: &KeyMap, keys: &[Key]) -> Vec<u32> {
    match map {
        KeyMap::Identity(n) => keys.iter().map(|key| if key < n { *key } else { NONE }).collect(),
        KeyMap::Sorted(held) => {
            let mut from = 0;
            let local = |key: &Key| {
                from += held[from..].partition_point(|held| held < key);
                if held.get(from) == Some(key) { from as u32 } else { NONE }
            };
            keys.iter().map(local).collect()
        }
    }
}
