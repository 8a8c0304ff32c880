//! One table's chunks on this shard, and the way from a key to its chunk.
//!
//! Invariant: the directory only grows; a chunk's address never changes, so finding one takes no lock.

use super::chunk::Data;
use super::function::Apply;
use super::memory::Memory;
use super::placement::{Keys, Placement};
use flexps_common::error::{Error, Result};
use flexps_common::plan::{Storage, TableSpec};
use flexps_common::value::Element;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// Most elements per key: one key's values still fit a message.
const WIDEST: u32 = 1 << 20;

type Chunk<T> = Mutex<Data<T>>;
type Page<T> = Box<[OnceLock<Box<Chunk<T>>>]>;

/// A table's part on one shard.
pub(super) struct Table<T> {
    name: String,
    /// A key's chunk is `key >> shift`.
    shift: u32,
    width: usize,
    storage: Storage,
    placement: Placement,
    function: Box<dyn Apply<T>>,
    memory: Arc<Memory>,
    /// Two levels of equal size, since a table with wide keys has up to 2^32 chunks of which few live.
    pages: Box<[OnceLock<Page<T>>]>,
    /// A chunk's page is `chunk >> page_shift`.
    page_shift: u32,
}

impl<T: Element> Table<T> {
    pub(super) fn new(
        spec: &TableSpec,
        placement: Placement,
        function: Box<dyn Apply<T>>,
        memory: Arc<Memory>,
    ) -> Result<Self> {
        if spec.width == 0 || spec.width > WIDEST {
            return Err(Error::user(format!(
                "table {} has {} elements per key; 1 to {WIDEST} are allowed",
                spec.name, spec.width
            )));
        }
        let shift = spec.chunk_keys().ilog2();
        let page_shift = (32 - shift) / 2;
        Ok(Self {
            name: spec.name.clone(),
            shift,
            width: spec.width as usize,
            storage: spec.storage,
            placement,
            function,
            memory,
            pages: (0..1usize << (32 - shift - page_shift)).map(|_| OnceLock::new()).collect(),
            page_shift,
        })
    }

    /// Reads `width` values per key.
    pub(super) fn get(&self, keys: Keys<'_>, mut out: &mut [T]) -> Result<()> {
        self.check_len(keys, out.len())?;
        let mask = self.mask();
        let mut rest = keys;
        while let Some((chunk, run, next)) = rest.split_run(self.shift) {
            self.check_owner(chunk)?;
            let (part, after) = out.split_at_mut(run.len() * self.width);
            match (self.find(chunk), run) {
                (None, _) => part.fill(T::default()),
                (Some(chunk), Keys::List(keys)) => chunk.lock().get(mask, self.width, keys, part),
                (Some(chunk), Keys::Range { start, count }) => {
                    let at = (start & mask) as usize;
                    chunk.lock().get_range(at..at + count as usize, self.width, part);
                }
            }
            (rest, out) = (next, after);
        }
        Ok(())
    }

    /// Updates `width` values per key: all of them or, with an error, none.
    pub(super) fn add(&self, keys: Keys<'_>, mut values: &[T]) -> Result<()> {
        self.check(keys, values.len())?;
        let (mask, function) = (self.mask(), self.function.as_ref());
        let mut rest = keys;
        while let Some((chunk, run, next)) = rest.split_run(self.shift) {
            let (part, after) = values.split_at(run.len() * self.width);
            let mut data = self.made(chunk).lock();
            match run {
                Keys::List(keys) => data.add(mask, self.width, keys, part, function),
                Keys::Range { start, count } => {
                    let at = (start & mask) as usize;
                    data.add_range(at..at + count as usize, self.width, part, function);
                }
            }
            (rest, values) = (next, after);
        }
        Ok(())
    }

    /// Whether a request for `keys` with `len` values can be served.
    pub(super) fn check(&self, keys: Keys<'_>, len: usize) -> Result<()> {
        self.check_len(keys, len)?;
        if self.placement.shards == 1 {
            return Ok(());
        }
        let mut rest = keys;
        while let Some((chunk, _, next)) = rest.split_run(self.shift) {
            self.check_owner(chunk)?;
            rest = next;
        }
        Ok(())
    }

    /// The living chunks with their numbers, in order.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (u32, &Chunk<T>)> {
        let pages = self.pages.iter().enumerate().filter_map(|(i, page)| Some((i, page.get()?)));
        pages.flat_map(move |(i, page)| {
            let living = page.iter().enumerate().filter_map(|(j, slot)| Some((j, slot.get()?)));
            living.map(move |(j, chunk)| (((i << self.page_shift) + j) as u32, chunk.as_ref()))
        })
    }

    /// Chunk `chunk`, if it lives.
    pub(super) fn find(&self, chunk: u32) -> Option<&Chunk<T>> {
        let page = self.pages[(chunk >> self.page_shift) as usize].get()?;
        page[self.in_page(chunk)].get().map(Box::as_ref)
    }

    /// Chunk `chunk`, made when nobody has written to it yet.
    pub(super) fn made(&self, chunk: u32) -> &Chunk<T> {
        let page = self.pages[(chunk >> self.page_shift) as usize]
            .get_or_init(|| (0..1usize << self.page_shift).map(|_| OnceLock::new()).collect());
        page[self.in_page(chunk)]
            .get_or_init(|| Box::new(Mutex::new(Data::new(self.storage, 1 << self.shift, self.width, &self.memory))))
    }

    fn in_page(&self, chunk: u32) -> usize {
        (chunk & ((1 << self.page_shift) - 1)) as usize
    }

    /// Elements per key.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    fn mask(&self) -> u32 {
        ((1u64 << self.shift) - 1) as u32
    }

    fn check_len(&self, keys: Keys<'_>, len: usize) -> Result<()> {
        if len == keys.len() * self.width {
            return Ok(());
        }
        let (name, width) = (&self.name, self.width);
        Err(Error::bug(format!("{len} values for {} keys of table {name}, which has {width} per key", keys.len())))
    }

    fn check_owner(&self, chunk: u32) -> Result<()> {
        if self.placement.owns(chunk) {
            return Ok(());
        }
        Err(Error::bug(format!(
            "chunk {chunk} of table {} is served by shard {} of {}, not by {}",
            self.name,
            self.placement.owner(chunk),
            self.placement.shards,
            self.placement.index
        )))
    }
}
