//! How this process gives memory back to the system, and what it took at most.
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

/// The largest resident set of this process so far, or since [`forget_peak`], in bytes; 0 where the system does not tell.
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// From here on [`peak`] is of what follows, where the system allows that.
pub fn forget_peak() {
    // As the system's manual says of this file: 5 resets the peak.
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!(%error, "the peak of the resident memory can't be reset");
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_of_what_followed_when_it_was_forgotten() {
        let large = vec![1u8; 256 << 20];
        assert!(large.iter().step_by(4096).map(|x| usize::from(*x)).sum::<usize>() > 0 && peak() > 256 << 20);
        give_back();
        drop(large);
        forget_peak();
        assert!(peak() < 256 << 20, "{}", peak());
    }
}
