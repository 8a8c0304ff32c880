//! The tables of a request: found, and checked against the stage's rights and the values that come with it.
//!
//! Invariant: what passes here fits its tables to the last value, so a wrong length never shifts the values of others.

use super::cut::Item;
use super::run::Run;
use crate::job::OpenJob;
use crate::kv::Keys;
use flexps_common::error::{Error, Result};
use flexps_common::ids::TableId;
use flexps_common::value::{Type, ValuesMut};

/// The tables and homes of a request's keys.
pub fn describe<'a>(job: &'a OpenJob, run: &'a Run, items: &[(TableId, Keys<'a>)]) -> Result<Vec<Item<'a>>> {
    let item = |(table, keys): &(TableId, Keys<'a>)| {
        let spec = job.shard.spec(*table)?;
        run.rights.read(*table, || spec.name.clone())?;
        Ok(Item { table: *table, spec, keys: *keys, home: run.settled.home(*table)? })
    };
    items.iter().map(item).collect()
}

/// Whether there is a slice of the right type and length for each table of a read.
pub fn check_out(items: &[Item<'_>], out: &[ValuesMut<'_>]) -> Result<()> {
    if out.len() != items.len() {
        return Err(Error::bug(format!("{} slices for a read of {} tables", out.len(), items.len())));
    }
    items.iter().zip(out).try_for_each(|(item, out)| check_len(item, out.len(), out.kind()))
}

/// Whether so many values of this type are those of an item's keys.
pub fn check_len(item: &Item<'_>, len: usize, kind: Type) -> Result<()> {
    let spec = item.spec;
    if len == item.keys.len() * spec.width as usize && kind == spec.element {
        return Ok(());
    }
    Err(Error::bug(format!(
        "{len} values of {kind:?} for {} keys of table {}, which has {} of {:?} per key",
        item.keys.len(),
        spec.name,
        spec.width,
        spec.element
    )))
}
