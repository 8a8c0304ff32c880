//! Memory for the values of dense chunks: cut from slabs of huge pages. A table read at random spends much of its time
//! in address translation otherwise.
//!
//! Invariants: what is handed out is zero, unless who takes it overwrites all of it, and belongs to one owner alone; a slab lives as long as anything cut from it, in
//! use or given back.

use super::slabs::Slabs;
use bytemuck::Pod;
use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

/// Bytes of a huge page, and of a slab unless one chunk is larger.
const HUGE: usize = 2 << 20;
/// What is cut from a slab starts at a cache line.
const LINE: usize = 64;

/// A shard's memory.
pub(super) struct Memory {
    slabs: Arc<Slabs>,
    open: Mutex<Option<Slab>>,
    /// What was given back.
    spare: Mutex<Vec<Values<u8>>>,
}

/// A slab and how much of it is handed out.
struct Slab {
    map: Arc<Map>,
    used: usize,
    end: usize,
}

/// A mapping of the system's; given back with the last owner of a part.
struct Map {
    map: Option<MmapMut>,
    /// Its first byte, exclusive to those who own its parts.
    start: *mut u8,
    bytes: usize,
    slabs: Weak<Slabs>,
}

impl Drop for Map {
    fn drop(&mut self) {
        if let (Some(map), Some(slabs)) = (self.map.take(), self.slabs.upgrade()) {
            slabs.give(map, self.bytes);
        }
    }
}

// SAFETY: the pointer is used for disjoint parts alone, each owned by one `Values`.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

/// A slice of zeros when it is made, at a cache line.
pub(super) struct Values<T> {
    _map: Arc<Map>,
    start: *mut T,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: it owns its elements as a box would.
unsafe impl<T: Send> Send for Values<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Values<T> {}

impl Memory {
    /// Memory that comes from there, and goes there again.
    pub fn new(slabs: Arc<Slabs>) -> Self {
        Self { slabs, open: Mutex::default(), spare: Mutex::default() }
    }

    /// `len` zeros.
    pub fn zeros<T: Pod>(&self, len: usize) -> Values<T> {
        let mut values = self.cut(len);
        // Fresh memory too: pages that are read before they are written are made twice.
        values.fill(T::zeroed());
        values
    }

    /// `len` values, whatever they are.
    pub fn room<T: Pod>(&self, len: usize) -> Values<T> {
        self.cut(len)
    }

    /// `len` values that nobody has.
    fn cut<T: Pod>(&self, len: usize) -> Values<T> {
        let bytes = len * size_of::<T>();
        if let Some(spare) = self.spare(bytes) {
            return Values { _map: spare._map.clone(), start: spare.start.cast(), len, element: PhantomData };
        }
        let bytes = bytes.next_multiple_of(LINE);
        let mut open = self.open.lock();
        let slab = match open.take() {
            Some(slab) if slab.used + bytes <= slab.end => open.insert(slab),
            _ => open.insert(Slab::new(&self.slabs, bytes.max(HUGE))),
        };
        // SAFETY: the slab holds `end` bytes behind `start`, of which these are handed out once.
        let start = unsafe { slab.map.start.add(slab.used) };
        slab.used += bytes;
        Values { _map: slab.map.clone(), start: start.cast(), len, element: PhantomData }
    }
}

impl Memory {
    /// Takes values back, to hand their memory out again.
    pub fn recycle<T>(&self, values: Values<T>) {
        let len = values.len * size_of::<T>();
        self.spare.lock().push(Values { _map: values._map, start: values.start.cast(), len, element: PhantomData });
    }

    /// The same of values whose memory others need: the system has it until it is handed out again.
    pub fn lend<T>(&self, values: Values<T>) {
        #[cfg(target_os = "linux")]
        {
            let (start, bytes, page) = (values.start.cast::<u8>(), values.len * size_of::<T>(), page());
            let skip = start.align_offset(page).min(bytes);
            let len = (bytes - skip) / page * page;
            // SAFETY: whole pages of the part, which nobody uses; what they hold from now on is zeros.
            let lent = unsafe { libc::madvise(start.add(skip).cast(), len, libc::MADV_DONTNEED) };
            if lent != 0 {
                tracing::debug!(error = %std::io::Error::last_os_error(), "memory stays with a model that has left it");
            }
        }
        self.recycle(values);
    }

    /// So many bytes that were given back.
    fn spare(&self, bytes: usize) -> Option<Values<u8>> {
        let mut spare = self.spare.lock();
        let at = spare.iter().rposition(|values| values.len == bytes)?;
        Some(spare.swap_remove(at))
    }
}

impl Slab {
    fn new(slabs: &Arc<Slabs>, bytes: usize) -> Self {
        let mut map = slabs.take(bytes).unwrap_or_else(|| map(bytes));
        let start = map.as_mut_ptr();
        let skip = start.align_offset(HUGE);
        // SAFETY: fewer than HUGE bytes are skipped, and so many more were mapped.
        let start = unsafe { start.add(skip) };
        let map = Map { map: Some(map), start, bytes, slabs: Arc::downgrade(slabs) };
        Self { map: Arc::new(map), used: 0, end: bytes }
    }
}

/// Bytes of one of the system's pages.
#[cfg(target_os = "linux")]
fn page() -> usize {
    // SAFETY: the call looks up a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // No system's pages are larger.
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(64 << 10)
}

/// A mapping with room for so many bytes from a huge page's start on; what is never touched takes no memory.
fn map(bytes: usize) -> MmapMut {
    let Ok(map) = MmapMut::map_anon(bytes + HUGE) else {
        handle_alloc_error(Layout::array::<u8>(bytes + HUGE).unwrap_or(Layout::new::<u8>()))
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = map.advise(Advice::HugePage) {
        tracing::debug!(%error, "no huge pages");
    }
    map
}

impl<T> Deref for Values<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the part is this value's alone, aligned, and was zero, which is a value of every `Pod`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T> DerefMut for Values<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zero_aligned_and_apart() {
        let memory = Memory::new(Slabs::new(0));
        let mut parts: Vec<Values<f64>> =
            [1, 7, 100_000, 300_000, 3, 1_000_000, 0, 200_000].into_iter().map(|len| memory.zeros(len)).collect();
        for (i, part) in parts.iter_mut().enumerate() {
            assert!(part.iter().all(|x| *x == 0.0) && (part.as_ptr() as usize).is_multiple_of(LINE));
            part.fill(i as f64 + 1.0);
        }
        let given = parts.swap_remove(3);
        let start = given.as_ptr();
        memory.recycle(given);
        let again: Values<f64> = memory.zeros(300_000);
        assert!(
            again.as_ptr() == start && again.iter().all(|x| *x == 0.0),
            "what is given back is used again, as zeros"
        );
        memory.lend(again);
        let again: Values<f64> = memory.zeros(300_000);
        assert!(again.as_ptr() == start && again.iter().all(|x| *x == 0.0), "what is lent comes back");
        parts[3].fill(4.0);
        drop(memory);
        for (i, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|x| *x == i as f64 + 1.0), "part {i}");
        }
    }

    #[test]
    fn memory_of_a_job_that_ended_comes_to_the_next_one_as_zeros() {
        let slabs = Slabs::new(16 << 20);
        let first = Memory::new(slabs.clone());
        let mut values: Values<u32> = first.zeros(1 << 20);
        values.fill(7);
        let start = values.as_ptr();
        drop((values, first));
        let second = Memory::new(slabs);
        let values: Values<u32> = second.zeros(1 << 20);
        assert!(values.as_ptr() == start && values.iter().all(|x| *x == 0));
    }
}
