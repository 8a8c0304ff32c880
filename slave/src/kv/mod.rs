//! The key-value store: the chunks of a job's tables that this slave serves.
//!
//! Invariant: a chunk is changed under its own lock only, unless workers are to race for it, and only chunks of this shard
//! ever come to life; a chunk that nobody wrote takes no memory and reads as zeros.

mod chunk;
mod function;
mod kept;
mod lying;
mod memory;
mod moved;
mod ops;
pub mod placement;
mod racing;
mod slabs;
mod snapshot;
mod table;
mod tier;

pub use moved::Expected;
pub use placement::{Keys, Placement};
pub use tier::Room;

use flexps_common::caught::caught;
use flexps_common::error::{Error, Result};
use flexps_common::home::{self, Home};
use flexps_common::ids::TableId;
use flexps_common::plan::{TableOp, TableSpec};
use flexps_common::report::DiskUse;
use flexps_common::updates::Updates;
use flexps_common::value::{Type, Values, ValuesMut};
use flexps_common::wire::control::Partials;
use function::Made;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use table::Table;
use tier::Tier;

/// The shard of one job on one slave.
pub struct Shard {
    specs: Vec<TableSpec>,
    tables: Vec<Any>,
    tier: Arc<Tier>,
    /// This shard's number, and how many the job has.
    index: u32,
    shards: usize,
    homes: Mutex<Vec<Home>>,
    phase: Arc<AtomicU64>,
    /// Counts snapshots; 0 while none is taken.
    snapshot: Arc<AtomicU64>,
    /// What the one that is taken is called, and how many were.
    named: Mutex<(Option<u64>, u64)>,
}

/// A table of one of the four element types.
enum Any {
    F32(Table<f32>),
    F64(Table<f64>),
    U32(Table<u32>),
    I32(Table<i32>),
}

/// Runs `$body` with `$table` bound to the typed table inside an [`Any`].
macro_rules! with_table {
    ($any:expr, $table:ident => $body:expr) => {
        match $any {
            $crate::kv::Any::F32($table) => $body,
            $crate::kv::Any::F64($table) => $body,
            $crate::kv::Any::U32($table) => $body,
            $crate::kv::Any::I32($table) => $body,
        }
    };
}
use with_table;

/// Runs `$body` with `$table` bound to the typed table and `$slice` to values of its type; an error when they are of another.
macro_rules! with_values {
    ($shard:expr, $id:expr, $kind:ident($values:expr), $table:ident, $slice:ident => $body:expr) => {
        match ($shard.table($id)?, $values) {
            ($crate::kv::Any::F32($table), $kind::F32($slice)) => $body,
            ($crate::kv::Any::F64($table), $kind::F64($slice)) => $body,
            ($crate::kv::Any::U32($table), $kind::U32($slice)) => $body,
            ($crate::kv::Any::I32($table), $kind::I32($slice)) => $body,
            (_, other) => Err($shard.wrong_type($id, other.kind())),
        }
    };
}
use with_values;

impl Shard {
    /// The empty shard number `index` of `shards`, of tables as described, which live on all of them.
    pub fn new(specs: &[TableSpec], index: u32, shards: usize, updates: &Updates, room: &Arc<Room>) -> Result<Self> {
        let tier = Tier::new(room.clone());
        let [phase, snapshot] = [1, 0].map(|first| Arc::new(AtomicU64::new(first)));
        let placement = Placement::new(index, &Home::All, shards);
        let make = |spec: &TableSpec| -> Result<Any> {
            let (tier, placement, phase) = (tier.clone(), placement.clone(), [phase.clone(), snapshot.clone()]);
            let function = Made::new(spec, updates)?;
            Ok(match spec.element {
                Type::F32 => Any::F32(Table::new(spec, placement, phase, function.f32, tier)?),
                Type::F64 => Any::F64(Table::new(spec, placement, phase, function.f64, tier)?),
                Type::U32 => Any::U32(Table::new(spec, placement, phase, function.u32, tier)?),
                Type::I32 => Any::I32(Table::new(spec, placement, phase, function.i32, tier)?),
            })
        };
        let tables = specs.iter().map(make).collect::<Result<_>>()?;
        let homes = Mutex::new(vec![Home::All; specs.len()]);
        Ok(Self { specs: specs.to_vec(), tables, tier, index, shards, homes, phase, snapshot, named: Mutex::default() })
    }

    /// What went to disk and came back since this was asked last.
    pub fn take_disk_use(&self) -> DiskUse {
        self.tier.take_use()
    }

    /// This shard's number among those of the job.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Where the tables live, by [`TableId`]: here, if there is a copy of what lives elsewhere.
    pub fn placements(&self) -> Vec<Placement> {
        let placement =
            |any: &Any| with_table!(any, t => if t.is_copied() { t.placement().here() } else { t.placement() });
        self.tables.iter().map(placement).collect()
    }

    /// By table: whether a sum of updates does what they do one after the other.
    pub fn add_up(&self) -> Vec<bool> {
        self.tables.iter().map(|any| with_table!(any, t => t.function().adds_up())).collect()
    }

    /// `home` as this shard sees it.
    fn placement(&self, home: &Home) -> Placement {
        Placement::new(self.index, home, self.shards)
    }

    /// A new phase of the job begins: what is changed from now on is newer than all before.
    pub fn begin_phase(&self, phase: u64) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Runs operations in order; the numbers of each.
    pub fn ops(&self, ops: &[TableOp]) -> Result<Vec<Partials>> {
        ops.iter()
            .map(|op| {
                let number = self.op(op)?;
                home::after(&mut self.homes.lock(), op);
                Ok(number)
            })
            .collect()
    }

    /// What the tables are, by [`TableId`].
    pub fn specs(&self) -> &[TableSpec] {
        &self.specs
    }

    /// What `table` is.
    pub fn spec(&self, table: TableId) -> Result<&TableSpec> {
        self.specs.get(usize::from(table.0)).ok_or_else(|| no_table(table, self.specs.len()))
    }

    /// Reads `width` values per key into `out`.
    pub fn get(&self, table: TableId, keys: Keys<'_>, out: ValuesMut<'_>) -> Result<()> {
        with_values!(self, table, ValuesMut(out), t, values => t.get(keys, values))
    }

    /// Runs the table's update function on `width` values per key. A panic of a user's own function is an error.
    pub fn add(&self, table: TableId, keys: Keys<'_>, values: Values<'_>) -> Result<()> {
        let name = || self.spec(table).map_or_else(|_| table.to_string(), |spec| spec.name.clone());
        caught(
            || format!("the update function of table {}", name()),
            || with_values!(self, table, Values(values), t, values => t.add(keys, values)),
        )
    }

    /// Checks an update that is kept for later, so that it can't fail then.
    pub fn check(&self, table: TableId, keys: Keys<'_>, element: Type, len: usize) -> Result<()> {
        let any = self.table(table)?;
        if self.spec(table)?.element != element {
            return Err(self.wrong_type(table, element));
        }
        with_table!(any, t => t.check(keys, len))
    }

    fn table(&self, table: TableId) -> Result<&Any> {
        self.tables.get(usize::from(table.0)).ok_or_else(|| no_table(table, self.tables.len()))
    }

    fn wrong_type(&self, table: TableId, asked: Type) -> Error {
        let spec = &self.specs[usize::from(table.0)];
        Error::bug(format!("table {} holds {}, not {asked}", spec.name, spec.element))
    }
}

fn no_table(table: TableId, tables: usize) -> Error {
    Error::bug(format!("table {table} of a plan with {tables} tables"))
}

#[cfg(test)]
mod tests;
