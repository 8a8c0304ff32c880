//! Memory for many numbers that are gone through in no order: in large pages where the system has them, since the processor
//! else has to look up where nearly each one is.
//!
//! Invariant: a vector is empty and has the room that is asked for, whatever the system says to it.

/// Fewer bytes stay in small pages.
const LARGE: usize = 4 << 20;

/// An empty vector with room for `count`.
pub fn room<T>(count: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    advise(room.spare_capacity_mut());
    room
}

/// Empties `to`, which then has room for `count`.
pub fn clear<T>(to: &mut Vec<T>, count: usize) {
    to.clear();
    if to.capacity() < count {
        *to = room(count);
    }
}

/// Asks for large pages, before anything is written there.
#[cfg(target_os = "linux")]
fn advise<T>(room: &mut [std::mem::MaybeUninit<T>]) {
    const PAGE: usize = 4096;
    let bytes = std::mem::size_of_val(room);
    if bytes < LARGE {
        return;
    }
    let start = room.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE);
    // SAFETY: whole pages within the vector's own memory, of which only the mapping changes. Failure is no harm.
    unsafe { libc::madvise(start.add(skipped).cast(), (bytes - skipped) / PAGE * PAGE, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_few_and_for_many() {
        for count in [0, 1, 1000, LARGE / 4 + 5] {
            let mut numbers: Vec<f32> = room(count);
            assert!(numbers.is_empty() && numbers.capacity() >= count);
            numbers.resize(count, 1.0);
            clear(&mut numbers, 2 * count);
            assert!(numbers.is_empty() && numbers.capacity() >= 2 * count);
            numbers.resize(2 * count, 2.0);
            assert_eq!(numbers.iter().sum::<f32>(), 4.0 * count as f32);
        }
    }
}
