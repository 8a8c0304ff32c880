//! What the servers do to whole tables, without traffic.
//!
//! Invariant: an operation depends on the values alone, never on which chunks happen to live or in which order they came
//! to life, so equal tables give equal bits.

use super::chunk::Data;
use super::table::Table;
use super::{Any, Shard, with_table};
use flexps_common::error::{Error, Result};
use flexps_common::plan::TableOp;
use flexps_common::value::Element;
use flexps_common::wire::control::Partials;

impl Shard {
    /// Runs `op` on this shard's part.
    pub(super) fn op(&self, op: &TableOp) -> Result<Partials> {
        match op {
            TableOp::Copy { from, to } => {
                let (source, target) = (self.spec(*from)?, self.spec(*to)?);
                if (source.element, source.width) != (target.element, target.width) {
                    return Err(Error::user(format!(
                        "table {} ({:?} x {}) can't be copied to {} ({:?} x {}): both must be alike",
                        source.name, source.element, source.width, target.name, target.element, target.width
                    )));
                }
                if from != to {
                    match (self.table(*from)?, self.table(*to)?) {
                        (Any::F32(from), Any::F32(to)) => to.copy(from)?,
                        (Any::F64(from), Any::F64(to)) => to.copy(from)?,
                        (Any::U32(from), Any::U32(to)) => to.copy(from)?,
                        (Any::I32(from), Any::I32(to)) => to.copy(from)?,
                        _ => {}
                    }
                }
                Ok(Vec::new())
            }
            TableOp::Zero { table } => {
                with_table!(self.table(*table)?, t => t.change_all(|data| data.zero())?);
                Ok(Vec::new())
            }
            TableOp::Scale { table, by } => {
                with_table!(self.table(*table)?, t => t.change_all(|data| data.scale(*by))?);
                Ok(Vec::new())
            }
            TableOp::Norm2 { table, .. } => Ok(with_table!(self.table(*table)?, t => {
                let norm = |(number, chunk)| Ok((number, t.open(chunk)?.norm2(t.width())));
                t.own_chunks().map(norm).collect::<Result<_>>()?
            })),
        }
    }
}

impl<T: Element> Table<T> {
    fn change_all(&self, mut change: impl FnMut(&mut Data<T>)) -> Result<()> {
        for (_, chunk) in self.own_chunks() {
            change(&mut *self.change(chunk)?);
        }
        Ok(())
    }

    /// Takes over all values of `from`, which is as wide, and lives where it does from then on.
    fn copy(&self, from: &Table<T>) -> Result<()> {
        self.place(from.placement());
        for (number, chunk) in self.own_chunks() {
            if from.find(number).is_none() {
                self.change(chunk)?.zero();
            }
        }
        for (number, chunk) in from.own_chunks() {
            let target = self.made(number);
            // The two tables differ, and nobody else ever holds two chunks: no order of locks is needed.
            let source = from.open(chunk)?;
            self.change(target)?.copy(&source, self.width());
        }
        Ok(())
    }
}
