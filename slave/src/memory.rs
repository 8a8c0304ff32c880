//! How this process gives memory back to the system.
//!
//! Invariant: what took a large piece of memory returns it as soon as it is freed, whatever was freed before. The C
//! library would else raise its own limit with each such piece, and keep the next ones for good.

/// Pieces of so many bytes are mapped one by one.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 1 << 20;

/// Free bytes at the heap's end that are kept for the next small pieces: giving them back and taking them again costs.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 32 << 20;

/// Makes freed memory go back to the system. For the whole process; once is enough.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers are set under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
