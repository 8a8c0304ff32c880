//! Whole chunks on their way from one shard to another.
//!
//! Invariants: between two phases a chunk of one version has the same values wherever it lies; a chunk is written here for
//! later only while another shard serves it, and has no version while it is; whoever takes a table over, or reads a copy of
//! it, has of it exactly what was offered, and zeros elsewhere.

use super::Placement;
use super::chunk::{Chunk, Data, Open};
use super::table::Table;
use super::{Any, Shard, with_table};
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::{Key, TableId};
use flexps_common::value::{Element, Type};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::moved::{ChunkHead, ChunkId, Offered};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The version of a chunk that is being written, or was written in part.
pub(super) const BROKEN: u64 = u64::MAX;

/// The versions that chunks must have when their table is taken over.
pub type Expected = FxHashMap<ChunkId, u64>;

impl Shard {
    /// The chunks of `table` that this shard serves now and `to` places elsewhere, by the shard that is to have them.
    pub fn leaving(&self, table: TableId, to: &Home) -> Result<FxHashMap<u32, Vec<Offered>>> {
        let to = self.placement(to);
        let mut leaving: FxHashMap<u32, Vec<Offered>> = FxHashMap::default();
        with_table!(self.table(table)?, t => for (chunk, held) in t.own_chunks() {
            let version = held.version.load(Ordering::Relaxed);
            if !to.owns(chunk) && version > 0 {
                let offered = Offered { id: ChunkId { table, chunk }, version };
                leaving.entry(to.owner(chunk)).or_default().push(offered);
            }
        });
        Ok(leaving)
    }

    /// The chunks of `table` that this shard serves.
    pub fn served(&self, table: TableId) -> Result<Vec<Offered>> {
        Ok(with_table!(self.table(table)?, t => {
            let versions = t.own_chunks().map(|(chunk, held)| (chunk, held.version.load(Ordering::Relaxed)));
            let written = versions.filter(|(_, version)| *version > 0);
            written.map(|(chunk, version)| Offered { id: ChunkId { table, chunk }, version }).collect()
        }))
    }

    /// How many shards serve `table`.
    pub fn servers(&self, table: TableId) -> Result<usize> {
        Ok(with_table!(self.table(table)?, t => t.placement().members().len()))
    }

    /// Whether a chunk lies here in just this version.
    pub fn has(&self, offered: &Offered) -> Result<bool> {
        let ChunkId { table, chunk } = offered.id;
        Ok(with_table!(self.table(table)?, t => {
            t.find_checked(chunk)?.is_some_and(|held| held.version.load(Ordering::Acquire) == offered.version)
        }))
    }

    /// Bytes of the values of this shard's own chunks of `table`.
    pub fn bytes(&self, table: TableId) -> Result<u64> {
        Ok(with_table!(self.table(table)?, t => {
            t.own_chunks().filter(|(_, held)| held.version.load(Ordering::Relaxed) > 0).count() as u64 * t.chunk_bytes()
        }))
    }

    /// Appends a chunk to a message.
    pub fn export(&self, offered: &Offered, body: &mut BodyWriter) -> Result<ChunkHead> {
        let ChunkId { table, chunk } = offered.id;
        let element = self.spec(table)?.element;
        let keys = with_table!(self.table(table)?, t => t.export(chunk, offered.version, body)?);
        Ok(ChunkHead { id: offered.id, version: offered.version, element, keys })
    }

    /// Writes a chunk from a message; nobody reads it here before its table is taken over.
    pub fn import(&self, head: &ChunkHead, body: &mut BodyReader) -> Result<()> {
        with_table!(self.named(head)?, t => t.import(head.id.chunk, head, body))
    }

    /// Writes a chunk that this shard serves from a message: its values are then those, of the phase that has begun.
    pub fn restore(&self, head: &ChunkHead, body: &mut BodyReader) -> Result<()> {
        with_table!(self.named(head)?, t => t.restore(head.id.chunk, head, body))
    }

    /// The table of a chunk in a message; an error where its values are of another type.
    fn named(&self, head: &ChunkHead) -> Result<&Any> {
        let table = head.id.table;
        if self.spec(table)?.element != head.element {
            return Err(self.wrong_type(table, head.element));
        }
        self.table(table)
    }

    /// From now on the tables live at `homes`, and those of `copies` can be read here as a whole. What this shard serves from
    /// then on and did not before, and what it copies, must be here as `expected`; what is not expected is zero.
    pub fn settle(&self, homes: &[Home], copies: &[TableId], expected: &Expected) -> Result<()> {
        let mut old = self.homes.lock();
        if homes.len() != old.len() || !homes.iter().all(|home| home.is_valid(self.shards)) {
            let (got, tables) = (homes.len(), old.len());
            return Err(Error::bug(format!("{got} homes for {tables} tables on {} shards: {homes:?}", self.shards)));
        }
        for (table, (old, new)) in (0..).map(TableId).zip(old.iter_mut().zip(homes)) {
            let copied = copies.contains(&table);
            with_table!(self.table(table)?, t => t.set_copied(false));
            if old == new && !copied {
                continue;
            }
            let placement = self.placement(new);
            // Who copies has what it would if it served all of it.
            let has = if copied { placement.here() } else { placement.clone() };
            let expected =
                expected.iter().filter(|(id, _)| id.table == table).map(|(id, version)| (id.chunk, *version));
            with_table!(self.table(table)?, t => {
                t.take_over(&has, &expected.collect())?;
                t.place(placement);
                t.set_copied(copied);
            });
            *old = new.clone();
        }
        Ok(())
    }
}

impl<T: Element> Table<T> {
    /// A chunk that was offered in this version.
    pub(super) fn offered(&self, chunk: u32, version: u64) -> Result<Open<'_, T>> {
        let held = self.find(chunk).ok_or_else(|| Error::bug(format!("chunk {chunk} is offered and not here")))?;
        let data = self.open(held)?;
        if held.version.load(Ordering::Relaxed) != version {
            return Err(Error::cluster(format!("chunk {chunk} of table {} changed while it was sent", self.name())));
        }
        Ok(data)
    }

    /// A chunk that is to be written from what another shard sends.
    pub(super) fn coming(&self, chunk: u32) -> Result<&Arc<Chunk<T>>> {
        self.find_checked(chunk)?;
        if self.placement().owns(chunk) {
            return Err(Error::bug(format!("chunk {chunk} of table {} came to the shard that serves it", self.name())));
        }
        Ok(self.made(chunk))
    }

    /// What came is no chunk of this table.
    pub(super) fn unfit(&self) -> Error {
        Error::cluster(format!("a chunk of table {} came that does not fit it", self.name()))
    }

    fn export(&self, chunk: u32, version: u64, body: &mut BodyWriter) -> Result<Option<u32>> {
        match &*self.offered(chunk, version)? {
            Data::Dense(values) => {
                body.pad();
                body.values(T::wrap(values));
                Ok(None)
            }
            Data::Sparse { places, values } => {
                let mut keys: Vec<_> = places.iter().map(|(key, at)| (*key, *at)).collect();
                keys.sort_unstable();
                let list: Vec<Key> = keys.iter().map(|(key, _)| *key).collect();
                body.pad();
                body.values(u32::wrap(&list));
                body.pad();
                for (_, at) in keys {
                    body.values(T::wrap(&values[at..at + self.width()]));
                }
                Ok(Some(list.len() as u32))
            }
        }
    }

    fn import(&self, chunk: u32, head: &ChunkHead, body: &mut BodyReader) -> Result<()> {
        let held = self.coming(chunk)?;
        self.fill(&mut *self.rewrite(held, BROKEN)?, head.keys, body)?;
        held.version.store(head.version, Ordering::Release);
        Ok(())
    }

    fn restore(&self, chunk: u32, head: &ChunkHead, body: &mut BodyReader) -> Result<()> {
        self.find_checked(chunk)?;
        self.check_owner(&self.placement(), chunk)?;
        self.fill(&mut *self.change(self.made(chunk))?, head.keys, body)
    }

    /// Makes a chunk's values those in a message: all of a dense one, of a sparse one those of so many `keys`.
    fn fill(&self, data: &mut Data<T>, keys: Option<u32>, body: &mut BodyReader) -> Result<()> {
        let wrong = || self.unfit();
        match (data, keys) {
            (Data::Dense(to), None) => {
                let values = body.values(T::TYPE, to.len())?;
                to.copy_from_slice(values.typed().ok_or_else(wrong)?);
            }
            (Data::Sparse { places, values }, Some(count)) => {
                let keys = body.values(Type::U32, count as usize)?;
                let keys: &[u32] = keys.typed().ok_or_else(wrong)?;
                let most = self.chunk_keys();
                if keys.len() as u64 > most || keys.iter().any(|key| u64::from(*key) >= most) {
                    return Err(wrong());
                }
                let came = body.values(T::TYPE, keys.len() * self.width())?;
                places.clear();
                places.extend(keys.iter().enumerate().map(|(i, key)| (*key, i * self.width())));
                values.clear();
                values.extend_from_slice(came.typed().ok_or_else(wrong)?);
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Makes what this shard is to have and did not serve be as expected.
    fn take_over(&self, to: &Placement, expected: &FxHashMap<u32, u64>) -> Result<()> {
        let before = self.placement();
        for (chunk, version) in expected {
            let held = self.find(*chunk).map(|held| held.version.load(Ordering::Acquire));
            if to.owns(*chunk) && held != Some(*version) {
                return Err(Error::bug(format!("chunk {chunk} of table {} was offered and did not come", self.name())));
            }
        }
        for (number, held) in self.chunks() {
            if to.owns(number) && !before.owns(number) && !expected.contains_key(&number) {
                self.rewrite(held, 0)?.zero();
            }
        }
        Ok(())
    }
}
