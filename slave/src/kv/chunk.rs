//! One chunk's values, dense or sparse.
//!
//! Invariant: a key that was never written reads as zeros in both forms, and both give the same answers.

use super::function::Apply;
use super::kept::Kept;
use super::memory::{Memory, Values};
use super::racing::Raced;
use super::tier::{Extent, Resident, Tier};
use flexps_common::error::{Error, Result};
use flexps_common::ids::Key;
use flexps_common::plan::Storage;
use flexps_common::prefetch::{AHEAD, prefetch};
use flexps_common::value::Element;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The form of a table's chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blank {
    pub(super) storage: Storage,
    /// Keys of a chunk.
    pub(super) keys: usize,
    /// Elements per key.
    pub(super) width: usize,
}

impl Blank {
    /// A chunk's values before anybody wrote to it.
    pub(super) fn zeros<T: Element>(self, memory: &Memory) -> Data<T> {
        match self.storage {
            Storage::Dense => Data::Dense(memory.zeros(self.keys * self.width)),
            Storage::Sparse => Data::Sparse { places: FxHashMap::default(), values: Vec::new() },
        }
    }

    /// Room for a chunk's values, which may be anything where they are dense.
    fn room<T: Element>(self, memory: &Memory) -> Data<T> {
        match self.storage {
            Storage::Dense => Data::Dense(memory.room(self.keys * self.width)),
            Storage::Sparse => self.zeros(memory),
        }
    }

    /// Bytes that count against the slave's memory for models. What a sparse chunk takes is not counted.
    fn bytes<T>(self) -> u64 {
        match self.storage {
            Storage::Dense => (self.keys * self.width * size_of::<T>()) as u64,
            Storage::Sparse => 0,
        }
    }
}

/// A chunk of a table on this shard: served here, or left from when it was.
pub(super) struct Chunk<T> {
    /// Address of a dense chunk's first value, to be asked for without the lock; 0 for a sparse one.
    start: AtomicUsize,
    held: Mutex<Held<T>>,
    /// Whether it was opened since the clock's hand came by.
    used: AtomicBool,
    /// The phase in which it was last changed, wherever it lived then; 0 for zeros that nobody wrote.
    pub(super) version: AtomicU64,
}

/// A chunk's values, for one thread at a time.
pub(super) type Open<'a, T> = MappedMutexGuard<'a, Data<T>>;

/// What a chunk's lock guards.
struct Held<T> {
    /// The values; none while they are on disk, or nobody needs the zeros yet.
    data: Option<Data<T>>,
    /// Where they lie on disk, as they were when they left last.
    extent: Option<Extent>,
    /// Whether they may differ from what lies there, or from zeros.
    changed: bool,
    /// What a snapshot needs of before they were changed.
    kept: Kept<T>,
}

impl<T: Element> Chunk<T> {
    /// A chunk of zeros.
    pub(super) fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            held: Mutex::new(Held { data: None, extent: None, changed: false, kept: Kept::default() }),
            used: AtomicBool::new(false),
            version: AtomicU64::new(0),
        }
    }

    /// The chunk's values, brought to memory if need be.
    pub(super) fn open(self: &Arc<Self>, tier: &Tier, blank: Blank) -> Result<Open<'_, T>> {
        self.open_to(tier, blank, None)
    }

    /// The chunk's values, which are going to be changed, brought to memory if need be; they are kept as they are if
    /// `snapshot` names one that needs them.
    #[inline]
    pub(super) fn change(self: &Arc<Self>, tier: &Tier, blank: Blank, snapshot: &AtomicU64) -> Result<Open<'_, T>> {
        self.open_to(tier, blank, Some(snapshot))
    }

    /// Takes memory for values of which nothing was written and all is going to be: whatever stands in it.
    pub(super) fn make_room(self: &Arc<Self>, tier: &Tier, blank: Blank, snapshot: &AtomicU64) -> Result<()> {
        let mut held = self.held.lock();
        // A snapshot that is taken may need the zeros.
        if held.data.is_none() && held.extent.is_none() && snapshot.load(Ordering::Acquire) == 0 {
            tier.make_room(blank.bytes::<T>())?;
            self.hold(&mut held, tier, blank.room(&tier.memory));
        }
        Ok(())
    }

    /// Calls `read` with the values as they were when the snapshot was taken. What is on disk stays there.
    pub(super) fn at_snapshot(
        &self,
        tier: &Tier,
        blank: Blank,
        snapshot: u64,
        mut read: impl FnMut(&Data<T>),
    ) -> Result<()> {
        let held = self.held.lock();
        if held.kept.read(snapshot, tier, blank, &mut read)? {
            return Ok(());
        }
        match &held.data {
            Some(data) => read(data),
            None => {
                let data = Data::load(held.extent.as_ref(), tier, blank)?;
                read(&data);
                data.recycle(tier);
            }
        }
        Ok(())
    }

    /// No snapshot needs what was kept.
    pub(super) fn release(&self, tier: &Tier) {
        self.held.lock().kept.release(tier);
    }

    #[inline]
    fn open_to(self: &Arc<Self>, tier: &Tier, blank: Blank, change: Option<&AtomicU64>) -> Result<Open<'_, T>> {
        let mut held = self.held.lock();
        if tier.is_limited() {
            self.used.store(true, Ordering::Relaxed);
        }
        held.changed |= change.is_some();
        if held.data.is_none() {
            self.bring(&mut held, tier, blank)?;
        }
        // Looked for under the lock: who has read a part of the chunk finds the rest of it as it was.
        if let Some(snapshot @ 1..) = change.map(|taken| taken.load(Ordering::Acquire))
            && let Held { data: Some(data), kept, .. } = &mut *held
        {
            kept.keep(snapshot, data, tier, blank);
        }
        MutexGuard::try_map(held, |held| held.data.as_mut()).map_err(|_| Error::bug("a chunk without values"))
    }

    #[cold]
    fn bring(self: &Arc<Self>, held: &mut Held<T>, tier: &Tier, blank: Blank) -> Result<()> {
        // First, so that the memory of what leaves is there for this one.
        tier.make_room(blank.bytes::<T>())?;
        let data = Data::load(held.extent.as_ref(), tier, blank)?;
        self.hold(held, tier, data);
        Ok(())
    }

    /// Takes values for which there is room.
    fn hold(self: &Arc<Self>, held: &mut Held<T>, tier: &Tier, data: Data<T>) {
        self.start.store(data.start(), Ordering::Release);
        if let Data::Dense(_) = data {
            tier.came(self.clone());
        }
        held.data = Some(data);
    }

    /// The chunk's values for those who race for them: none while it has none in memory, or is sparse.
    #[inline]
    pub(super) fn raced(&self, blank: Blank) -> Option<Raced<'_, T>> {
        let start = self.start.load(Ordering::Acquire);
        // SAFETY: while workers race, a dense chunk's memory stays, and nobody reads or writes it in another way.
        (start != 0).then(|| unsafe { Raced::new(std::ptr::with_exposed_provenance(start), blank.keys * blank.width) })
    }

    /// Asks for the values of keys of this chunk that are worked on next; of many, the first ones.
    #[inline]
    pub(super) fn ask(&self, mask: Key, width: usize, keys: &[Key]) {
        let start = self.start.load(Ordering::Relaxed);
        if start != 0 {
            for key in keys.iter().take(AHEAD) {
                prefetch((start + (key & mask) as usize * width * size_of::<T>()) as *const T);
            }
        }
    }
}

impl<T: Element> Resident for Chunk<T> {
    fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn leave(&self, tier: &Tier, wanted: u64) -> Result<u64> {
        let Some(mut held) = self.held.try_lock() else { return Ok(0) };
        let Held { data, extent, changed, .. } = &mut *held;
        let Some(Data::Dense(values)) = data else { return Ok(0) };
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        let len = bytes.len() as u64;
        if *changed {
            *extent = Some(tier.write(bytes, extent.take())?);
            *changed = false;
        }
        self.start.store(0, Ordering::Relaxed);
        match data.take() {
            Some(Data::Dense(values)) if len != wanted => tier.memory.lend(values),
            left => left.into_iter().for_each(|data| data.recycle(tier)),
        }
        Ok(len)
    }
}

/// Values of `keys` keys, `width` elements each.
pub(super) enum Data<T> {
    /// All of them, in key order.
    Dense(Values<T>),
    /// Those that were written.
    Sparse {
        /// Where a key's values start.
        places: FxHashMap<Key, usize>,
        /// In order of first writing.
        values: Vec<T>,
    },
}

impl<T: Element> Data<T> {
    /// What lies there on disk; zeros if nothing does.
    pub(super) fn load(extent: Option<&Extent>, tier: &Tier, blank: Blank) -> Result<Self> {
        let mut data = blank.zeros(&tier.memory);
        if let (Some(extent), Data::Dense(values)) = (extent, &mut data) {
            tier.read(extent, bytemuck::cast_slice_mut::<T, u8>(values))?;
        }
        Ok(data)
    }

    /// Its memory is for others.
    pub(super) fn recycle(self, tier: &Tier) {
        if let Data::Dense(values) = self {
            tier.memory.recycle(values);
        }
    }

    /// The address of the first value of a dense chunk, else 0.
    fn start(&self) -> usize {
        match self {
            Data::Dense(values) => values.as_ptr().expose_provenance(),
            Data::Sparse { .. } => 0,
        }
    }

    /// Reads keys of this chunk; `mask` takes a key to its place.
    #[inline]
    pub(super) fn get(&self, mask: Key, width: usize, keys: &[Key], out: &mut [T]) {
        match self {
            Data::Dense(data) if width == 1 => {
                // The length is a function of the mask, so that no index needs a check.
                let data = &data[..=mask as usize];
                let (ready, last) = keys.split_at(keys.len().saturating_sub(AHEAD));
                let (out, last_out) = out.split_at_mut(ready.len());
                for ((out, key), next) in out.iter_mut().zip(ready).zip(keys.iter().skip(AHEAD)) {
                    prefetch(&data[(next & mask) as usize]);
                    *out = data[(key & mask) as usize];
                }
                for (out, key) in last_out.iter_mut().zip(last) {
                    *out = data[(key & mask) as usize];
                }
            }
            Data::Dense(data) => {
                for (out, key) in out.chunks_exact_mut(width).zip(keys) {
                    let at = (key & mask) as usize * width;
                    out.copy_from_slice(&data[at..at + width]);
                }
            }
            Data::Sparse { places, values } => {
                for (out, key) in out.chunks_exact_mut(width).zip(keys) {
                    match places.get(&(key & mask)) {
                        Some(at) => out.copy_from_slice(&values[*at..*at + width]),
                        None => out.fill(T::default()),
                    }
                }
            }
        }
    }

    /// Updates keys of this chunk.
    #[inline]
    pub(super) fn add(&mut self, mask: Key, width: usize, keys: &[Key], update: &[T], function: &dyn Apply<T>) {
        match self {
            Data::Dense(data) => function.scatter(data, mask, width, keys, update),
            Data::Sparse { places, values } => {
                for (key, update) in keys.iter().zip(update.chunks_exact(width)) {
                    function.slice(place(places, values, key & mask, width), width, update);
                }
            }
        }
    }

    /// Reads consecutive places.
    pub(super) fn get_range(&self, at: Range<usize>, width: usize, out: &mut [T]) {
        match self {
            Data::Dense(data) => out.copy_from_slice(&data[at.start * width..at.end * width]),
            Data::Sparse { places, values } => {
                for (out, key) in out.chunks_exact_mut(width).zip(at) {
                    match places.get(&(key as Key)) {
                        Some(at) => out.copy_from_slice(&values[*at..*at + width]),
                        None => out.fill(T::default()),
                    }
                }
            }
        }
    }

    /// Updates consecutive places.
    pub(super) fn add_range(&mut self, at: Range<usize>, width: usize, update: &[T], function: &dyn Apply<T>) {
        match self {
            Data::Dense(data) => function.slice(&mut data[at.start * width..at.end * width], width, update),
            Data::Sparse { places, values } => {
                for (key, update) in at.zip(update.chunks_exact(width)) {
                    function.slice(place(places, values, key as Key, width), width, update);
                }
            }
        }
    }

    /// All values to zero.
    pub(super) fn zero(&mut self) {
        match self {
            Data::Dense(data) => data.fill(T::default()),
            Data::Sparse { places, values } => {
                places.clear();
                values.clear();
            }
        }
    }

    /// All values times `by`.
    pub(super) fn scale(&mut self, by: f64) {
        let values = match self {
            Data::Dense(data) => &mut data[..],
            Data::Sparse { values, .. } => values,
        };
        for value in values {
            *value = T::from_f64(value.to_f64() * by);
        }
    }

    /// The sum of the squares, always in the same order.
    pub(super) fn norm2(&self, width: usize) -> f64 {
        match self {
            Data::Dense(data) => norm2(data),
            Data::Sparse { places, values } => {
                let mut order: Vec<_> = places.iter().collect();
                order.sort_unstable();
                order.into_iter().map(|(_, at)| norm2(&values[*at..*at + width])).sum()
            }
        }
    }

    /// Takes over all values of `from`, which is as wide.
    pub(super) fn copy(&mut self, from: &Self, width: usize) {
        match (&mut *self, from) {
            (Data::Dense(to), Data::Dense(from)) => to.copy_from_slice(from),
            (Data::Sparse { places, values }, Data::Sparse { places: from_places, values: from }) => {
                places.clone_from(from_places);
                values.clone_from(from);
            }
            (Data::Dense(to), Data::Sparse { places, values }) => {
                to.fill(T::default());
                for (key, at) in places {
                    to[*key as usize * width..][..width].copy_from_slice(&values[*at..*at + width]);
                }
            }
            (Data::Sparse { places, values }, Data::Dense(from)) => {
                places.clear();
                values.clear();
                for (key, from) in from.chunks_exact(width).enumerate() {
                    if from.iter().any(|x| *x != T::default()) {
                        place(places, values, key as Key, width).copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// The values of `key`, made when there are none.
fn place<'a, T: Element>(
    places: &mut FxHashMap<Key, usize>,
    values: &'a mut Vec<T>,
    key: Key,
    width: usize,
) -> &'a mut [T] {
    let at = *places.entry(key).or_insert_with(|| {
        let at = values.len();
        values.resize(at + width, T::default());
        at
    });
    &mut values[at..at + width]
}

/// The sum of squares in eight interleaved parts: the compiler may use vectors without changing the order.
fn norm2<T: Element>(values: &[T]) -> f64 {
    let mut parts = [0.0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (part, value) in parts.iter_mut().zip(block) {
            let x = value.to_f64();
            *part += x * x;
        }
    }
    for (part, value) in parts.iter_mut().zip(rest) {
        let x = value.to_f64();
        *part += x * x;
    }
    parts.iter().sum()
}
