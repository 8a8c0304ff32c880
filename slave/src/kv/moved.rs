//! Whole chunks on their way from one shard to another.
//!
//! Invariants: between two phases a chunk of one version has the same values wherever it lies; a chunk that comes changes
//! nothing until it is taken over; whoever takes a table over has of it exactly what was offered, and zeros elsewhere.

use super::chunk::Data;
use super::table::Table;
use super::{Shard, with_table};
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::{Key, TableId};
use flexps_common::value::{Element, Type, Values};
use flexps_common::wire::body::{BodyReader, BodyWriter, ReceivedValues};
use flexps_common::wire::moved::{ChunkHead, ChunkId, Offered};
use rustc_hash::FxHashMap;
use std::sync::atomic::Ordering;

/// A chunk's values that came from another shard, until they are taken over.
pub struct Staged(Form);

pub(super) enum Form {
    F32(Data<f32>),
    F64(Data<f64>),
    U32(Data<u32>),
    I32(Data<i32>),
}

/// An element type whose chunks can be staged.
pub(super) trait Stage: Element {
    fn stage(data: Data<Self>) -> Form;
    fn unstage(form: Form) -> Option<Data<Self>>;
    fn values(received: &ReceivedValues) -> Option<&[Self]>;
}

macro_rules! stage {
    ($t:ty, $variant:ident) => {
        impl Stage for $t {
            fn stage(data: Data<Self>) -> Form {
                Form::$variant(data)
            }
            fn unstage(form: Form) -> Option<Data<Self>> {
                if let Form::$variant(data) = form { Some(data) } else { None }
            }
            fn values(received: &ReceivedValues) -> Option<&[Self]> {
                if let Values::$variant(values) = received.get() { Some(values) } else { None }
            }
        }
    };
}

stage!(f32, F32);
stage!(f64, F64);
stage!(u32, U32);
stage!(i32, I32);

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

    /// Whether a chunk lies here in just this version.
    pub fn has(&self, offered: &Offered) -> Result<bool> {
        let ChunkId { table, chunk } = offered.id;
        Ok(with_table!(self.table(table)?, t => {
            t.find_checked(chunk)?.is_some_and(|held| held.version.load(Ordering::Relaxed) == offered.version)
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
        let keys = with_table!(self.table(table)?, t => t.export(chunk, body)?);
        Ok(ChunkHead { id: offered.id, version: offered.version, element, keys })
    }

    /// Reads a chunk from a message, without taking it over.
    pub fn stage(&self, head: &ChunkHead, body: &mut BodyReader) -> Result<Staged> {
        let ChunkId { table, chunk } = head.id;
        if self.spec(table)?.element != head.element {
            return Err(self.wrong_type(table, head.element));
        }
        Ok(Staged(with_table!(self.table(table)?, t => t.stage(chunk, head, body)?)))
    }

    /// From now on the tables live at `homes`. What this shard serves from then on and did not before is taken from
    /// `staged`, or is here already in the version of `current`, or else is zero.
    pub fn settle(
        &self,
        homes: &[Home],
        mut staged: FxHashMap<ChunkId, (u64, Staged)>,
        current: &FxHashMap<ChunkId, u64>,
    ) -> Result<()> {
        let mut old = self.homes.lock();
        if homes.len() != old.len() || !homes.iter().all(|home| home.is_valid(self.shards)) {
            let (got, tables) = (homes.len(), old.len());
            return Err(Error::bug(format!("{got} homes for {tables} tables on {} shards: {homes:?}", self.shards)));
        }
        for (table, (old, new)) in (0..).map(TableId).zip(old.iter_mut().zip(homes)) {
            if old == new {
                continue;
            }
            let placement = self.placement(new);
            let mut came = FxHashMap::default();
            for (id, chunk) in staged.extract_if(|id, _| id.table == table) {
                came.insert(id.chunk, chunk);
            }
            with_table!(self.table(table)?, t => t.take_over(placement, came, |chunk, version| {
                current.get(&ChunkId { table, chunk }) == Some(&version)
            })?);
            *old = new.clone();
        }
        Ok(())
    }
}

impl<T: Stage> Table<T> {
    fn export(&self, chunk: u32, body: &mut BodyWriter) -> Result<Option<u32>> {
        let held = self.find(chunk).ok_or_else(|| Error::bug(format!("chunk {chunk} is offered and not here")))?;
        match &*self.open(held)? {
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

    fn stage(&self, chunk: u32, head: &ChunkHead, body: &mut BodyReader) -> Result<Form> {
        self.find_checked(chunk)?;
        let wrong = || Error::cluster(format!("a chunk of table {} came that does not fit it", self.name()));
        let mut data = self.zeros();
        match (&mut data, head.keys) {
            (Data::Dense(to), None) => {
                let values = body.values(T::TYPE, to.len())?;
                to.copy_from_slice(T::values(&values).ok_or_else(wrong)?);
            }
            (Data::Sparse { places, values }, Some(count)) => {
                let keys = body.values(Type::U32, count as usize)?;
                let keys = u32::values(&keys).ok_or_else(wrong)?;
                if keys.len() as u64 > self.chunk_keys() || keys.iter().any(|key| u64::from(*key) >= self.chunk_keys())
                {
                    return Err(wrong());
                }
                places.extend(keys.iter().enumerate().map(|(i, key)| (*key, i * self.width())));
                let came = body.values(T::TYPE, keys.len() * self.width())?;
                values.extend_from_slice(T::values(&came).ok_or_else(wrong)?);
            }
            _ => return Err(wrong()),
        }
        Ok(T::stage(data))
    }

    fn take_over(
        &self,
        to: super::Placement,
        came: FxHashMap<u32, (u64, Staged)>,
        is_current: impl Fn(u32, u64) -> bool,
    ) -> Result<()> {
        let before = self.placement();
        for (number, held) in self.chunks() {
            let version = held.version.load(Ordering::Relaxed);
            if to.owns(number) && !before.owns(number) && !came.contains_key(&number) && !is_current(number, version) {
                self.change(held)?.zero();
                held.version.store(0, Ordering::Relaxed);
            }
        }
        for (number, (version, Staged(form))) in came {
            if to.owns(number) {
                let held = self.made(number);
                let data = T::unstage(form).ok_or_else(|| Error::bug("a chunk came of another type"))?;
                self.replace(held, version, data)?;
            }
        }
        self.place(to);
        Ok(())
    }
}
