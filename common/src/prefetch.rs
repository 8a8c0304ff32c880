//! Asking the processor for memory before it is used.

/// Values between one that is worked on and one that is asked for, where they lie anywhere: enough to keep all of the
/// processor's reads of memory busy.
pub const AHEAD: usize = 128;

/// Asks for a cache line.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Most lines that are asked for at once: of what is longer the processor itself sees the run.
const LINES: usize = 24;

/// Asks for the lines of a slice, or the first of them.
#[inline(always)]
pub fn prefetch_all<T>(slice: &[T]) {
    for line in 0..=(std::mem::size_of_val(slice) / 64).min(LINES) {
        prefetch(slice.as_ptr().cast::<u8>().wrapping_add(64 * line));
    }
}
