//! One table's chunks on this shard, and the way from a key to its chunk.
//!
//! Invariant: the directory only grows; a chunk's address never changes, so finding one takes no lock.

use super::chunk::{Blank, Chunk, Open};
use super::function::Apply;
use super::placement::{Keys, Placement};
use super::tier::Tier;
use flexps_common::error::{Error, Result};
use flexps_common::plan::{TableSpec, WIDEST};
use flexps_common::prefetch::AHEAD;
use flexps_common::value::Element;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

type Page<T> = Box<[OnceLock<Arc<Chunk<T>>>]>;

/// A table's part on one shard.
pub(super) struct Table<T> {
    name: String,
    /// A key's chunk is `key >> shift`.
    shift: u32,
    width: usize,
    blank: Blank,
    placement: RwLock<Placement>,
    /// Whether all of it can be read here, what lives elsewhere in copies.
    copied: AtomicBool,
    /// The phase of the job: a number for each time in which chunks stay where they are.
    phase: Arc<AtomicU64>,
    /// The snapshot that is taken; 0 when there is none.
    snapshot: Arc<AtomicU64>,
    function: Box<dyn Apply<T>>,
    tier: Arc<Tier>,
    /// Two levels of equal size, since a table with wide keys has up to 2^32 chunks of which few live.
    pages: Box<[OnceLock<Page<T>>]>,
    /// A chunk's page is `chunk >> page_shift`.
    page_shift: u32,
}

impl<T: Element> Table<T> {
    pub(super) fn new(
        spec: &TableSpec,
        placement: Placement,
        [phase, snapshot]: [Arc<AtomicU64>; 2],
        function: Box<dyn Apply<T>>,
        tier: Arc<Tier>,
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
            blank: Blank { storage: spec.storage, keys: 1 << shift, width: spec.width as usize },
            placement: RwLock::new(placement),
            copied: AtomicBool::new(false),
            phase,
            snapshot,
            function,
            tier,
            pages: (0..1usize << (32 - shift - page_shift)).map(|_| OnceLock::new()).collect(),
            page_shift,
        })
    }

    /// Reads `width` values per key.
    pub(super) fn get(&self, keys: Keys<'_>, mut out: &mut [T]) -> Result<()> {
        self.check_len(keys, out.len())?;
        let mask = self.mask();
        let runs = self.runs_to_read(keys)?;
        let mut next = runs.iter();
        let mut ahead = 0;
        for (chunk, run) in &runs {
            self.ask(&mut next, &mut ahead, run.len());
            let (part, after) = out.split_at_mut(run.len() * self.width);
            match (self.find(*chunk), *run) {
                (None, _) => part.fill(T::default()),
                (Some(chunk), Keys::List(keys)) => self.open(chunk)?.get(mask, self.width, keys, part),
                (Some(chunk), Keys::Range { start, count }) => {
                    let at = (start & mask) as usize;
                    self.open(chunk)?.get_range(at..at + count as usize, self.width, part);
                }
            }
            out = after;
        }
        Ok(())
    }

    /// Updates `width` values per key: all of them or, with an error, none.
    pub(super) fn add(&self, keys: Keys<'_>, mut values: &[T]) -> Result<()> {
        self.check_len(keys, values.len())?;
        let (mask, function) = (self.mask(), self.function.as_ref());
        let runs = self.runs(keys)?;
        let mut next = runs.iter();
        let mut ahead = 0;
        for (chunk, run) in &runs {
            self.ask(&mut next, &mut ahead, run.len());
            let (part, after) = values.split_at(run.len() * self.width);
            let chunk = self.made(*chunk);
            let mut data = self.change(chunk)?;
            match *run {
                Keys::List(keys) => data.add(mask, self.width, keys, part, function),
                Keys::Range { start, count } => {
                    let at = (start & mask) as usize;
                    data.add_range(at..at + count as usize, self.width, part, function);
                }
            }
            values = after;
        }
        Ok(())
    }

    /// A request's runs of keys, each of one chunk; an error when a chunk is served elsewhere.
    pub(super) fn runs<'a>(&self, keys: Keys<'a>) -> Result<Vec<(u32, Keys<'a>)>> {
        let placement = self.placement();
        let (mut runs, mut rest) = (Vec::new(), keys);
        while let Some((chunk, run, next)) = rest.split_run(self.shift) {
            self.check_owner(&placement, chunk)?;
            runs.push((chunk, run));
            rest = next;
        }
        Ok(runs)
    }

    /// The same of a read, which copies serve too.
    fn runs_to_read<'a>(&self, keys: Keys<'a>) -> Result<Vec<(u32, Keys<'a>)>> {
        if !self.is_copied() {
            return self.runs(keys);
        }
        let (mut runs, mut rest) = (Vec::new(), keys);
        while let Some((chunk, run, next)) = rest.split_run(self.shift) {
            runs.push((chunk, run));
            rest = next;
        }
        Ok(runs)
    }

    /// Whether all of it can be read here, what lives elsewhere in copies.
    pub(super) fn is_copied(&self) -> bool {
        self.copied.load(Ordering::Acquire)
    }

    /// From now on it can, or what lives elsewhere is to be read there.
    pub(super) fn set_copied(&self, copied: bool) {
        self.copied.store(copied, Ordering::Release);
    }

    /// Before a run of `len` keys is worked on: asks for the values of so many of the `next` runs that [`AHEAD`] keys
    /// behind it are on their way. `ahead` counts those that are asked for and not worked on.
    pub(super) fn ask<'a>(&self, next: &mut impl Iterator<Item = &'a (u32, Keys<'a>)>, ahead: &mut usize, len: usize) {
        while *ahead < len + AHEAD
            && let Some((chunk, run)) = next.next()
        {
            if let (Keys::List(keys), Some(chunk)) = (run, self.find(*chunk)) {
                chunk.ask(self.mask(), self.width, keys);
            }
            *ahead += run.len();
        }
        *ahead -= len;
    }

    /// Whether a request for `keys` with `len` values can be served.
    pub(super) fn check(&self, keys: Keys<'_>, len: usize) -> Result<()> {
        self.check_len(keys, len)?;
        let placement = self.placement();
        if placement.is_here() {
            return Ok(());
        }
        let mut rest = keys;
        while let Some((chunk, _, next)) = rest.split_run(self.shift) {
            self.check_owner(&placement, chunk)?;
            rest = next;
        }
        Ok(())
    }

    /// The chunks that live here and are served here, with their numbers, in order.
    pub(super) fn own_chunks(&self) -> impl Iterator<Item = (u32, &Arc<Chunk<T>>)> {
        let placement = self.placement();
        self.chunks().filter(move |(number, _)| placement.owns(*number))
    }

    /// All chunks that live here, those among them that other shards serve now.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (u32, &Arc<Chunk<T>>)> {
        let pages = self.pages.iter().enumerate().filter_map(|(i, page)| Some((i, page.get()?)));
        pages.flat_map(move |(i, page)| {
            let living = page.iter().enumerate().filter_map(|(j, slot)| Some((j, slot.get()?)));
            living.map(move |(j, chunk)| (((i << self.page_shift) + j) as u32, chunk))
        })
    }

    /// Chunk `chunk`, if it lives.
    pub(super) fn find(&self, chunk: u32) -> Option<&Arc<Chunk<T>>> {
        let page = self.pages[(chunk >> self.page_shift) as usize].get()?;
        page[self.in_page(chunk)].get()
    }

    /// Chunk `chunk`, made when nobody has written to it yet.
    pub(super) fn made(&self, chunk: u32) -> &Arc<Chunk<T>> {
        let page = self.pages[(chunk >> self.page_shift) as usize]
            .get_or_init(|| (0..1usize << self.page_shift).map(|_| OnceLock::new()).collect());
        page[self.in_page(chunk)].get_or_init(|| Arc::new(Chunk::new()))
    }

    /// A chunk's values.
    #[inline]
    pub(super) fn open<'a>(&self, chunk: &'a Arc<Chunk<T>>) -> Result<Open<'a, T>> {
        chunk.open(&self.tier, self.blank)
    }

    /// A chunk's values, which are changed now.
    #[inline]
    pub(super) fn change<'a>(&self, chunk: &'a Arc<Chunk<T>>) -> Result<Open<'a, T>> {
        self.rewrite(chunk, self.phase.load(Ordering::Relaxed))
    }

    /// Whether a chunk was changed in this phase.
    pub(super) fn is_changed(&self, chunk: &Chunk<T>) -> bool {
        chunk.version.load(Ordering::Relaxed) == self.phase.load(Ordering::Relaxed)
    }

    /// The form of its chunks.
    pub(super) fn blank(&self) -> Blank {
        self.blank
    }

    /// Where chunks go that memory has no room for.
    pub(super) fn tier(&self) -> &Tier {
        &self.tier
    }

    /// What an update does.
    pub(super) fn function(&self) -> &dyn Apply<T> {
        self.function.as_ref()
    }

    /// A chunk's values, to be made those of this version.
    pub(super) fn rewrite<'a>(&self, chunk: &'a Arc<Chunk<T>>, version: u64) -> Result<Open<'a, T>> {
        let open = chunk.change(&self.tier, self.blank, &self.snapshot)?;
        chunk.version.store(version, Ordering::Relaxed);
        Ok(open)
    }

    /// The same for values that are all written anew: before, they may be anything.
    pub(super) fn overwrite<'a>(&self, chunk: &'a Arc<Chunk<T>>, version: u64) -> Result<Open<'a, T>> {
        chunk.make_room(&self.tier, self.blank, &self.snapshot)?;
        self.rewrite(chunk, version)
    }

    /// Where the table lives.
    pub(super) fn placement(&self) -> Placement {
        self.placement.read().clone()
    }

    /// From now on it lives there.
    pub(super) fn place(&self, placement: Placement) {
        *self.placement.write() = placement;
    }

    fn in_page(&self, chunk: u32) -> usize {
        (chunk & ((1 << self.page_shift) - 1)) as usize
    }

    /// Chunk `chunk`, if it lives; an error when the table has no such chunk.
    pub(super) fn find_checked(&self, chunk: u32) -> Result<Option<&Arc<Chunk<T>>>> {
        if u64::from(chunk) << self.shift > u64::from(u32::MAX) {
            return Err(Error::bug(format!("table {} has no chunk {chunk}", self.name)));
        }
        Ok(self.find(chunk))
    }

    /// What the plan calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Keys of a chunk.
    pub(super) fn chunk_keys(&self) -> u64 {
        1 << self.shift
    }

    /// Bytes of a dense chunk's values.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.chunk_keys() * (self.width * size_of::<T>()) as u64
    }

    /// Elements per key.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn mask(&self) -> u32 {
        ((1u64 << self.shift) - 1) as u32
    }

    pub(super) fn check_len(&self, keys: Keys<'_>, len: usize) -> Result<()> {
        if len == keys.len() * self.width {
            return Ok(());
        }
        let (name, width) = (&self.name, self.width);
        Err(Error::bug(format!("{len} values for {} keys of table {name}, which has {width} per key", keys.len())))
    }

    pub(super) fn check_owner(&self, placement: &Placement, chunk: u32) -> Result<()> {
        if placement.owns(chunk) {
            return Ok(());
        }
        let (name, owner, here) = (&self.name, placement.owner(chunk), placement.index);
        Err(Error::bug(format!("chunk {chunk} of table {name} is served by shard {owner}, not by {here}")))
    }
}
