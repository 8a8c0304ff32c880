//! The memory of another process of this machine, read straight: one copy, where a message takes four.
//!
//! Invariants: nothing is read of a process that has not proven that it lends its memory: a block in it, which starts with a
//! mark that only slaves make, holds the secret that it told. So nobody learns what other processes hold by asking a slave to
//! compare. What can't be read (another machine, container or user, a system that forbids it or has no such call) is an
//! error, and nothing else.

use flexps_common::error::{Error, Result, io};
use flexps_common::wire::moved::Proof;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Words of the mark, and of the secret behind it.
const MARK: usize = 4;
const SECRET: usize = 2;
const BLOCK: usize = MARK + SECRET;

/// A word of the mark. Made when it is needed, so that it stands in no process but in front of a secret.
fn mark(word: usize) -> u64 {
    xxh3_64_with_seed(b"memory of a flexps slave that others may read", word as u64)
}

/// What tells others that a block of memory is this process's.
pub fn proof() -> Proof {
    static BLOCK_HERE: OnceLock<[u64; BLOCK]> = OnceLock::new();
    let block = BLOCK_HERE.get_or_init(|| {
        // Each state has keys of its own, drawn by the system.
        let drawn = || RandomState::new().hash_one(std::process::id());
        std::array::from_fn(|word| if word < MARK { mark(word) } else { drawn() })
    });
    Proof { process: std::process::id(), address: block.as_ptr().addr() as u64, secret: [block[MARK], block[MARK + 1]] }
}

/// Whether the memory that a proof speaks of can be read, and holds the secret.
pub fn holds(proof: &Proof) -> bool {
    let mut block = [0u64; BLOCK];
    match read(proof.process, proof.address, bytemuck::cast_slice_mut(&mut block)) {
        Ok(()) => (0..MARK).all(|word| block[word] == mark(word)) && block[MARK..] == proof.secret,
        Err(error) => {
            tracing::debug!(process = proof.process, %error, "another slave's memory can't be read");
            false
        }
    }
}

/// Fills `into` with what stands at `address` in the memory of `process`, which may change meanwhile.
pub fn read(process: u32, address: u64, into: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        let from = address.wrapping_add(done as u64);
        match read_some(process, from, &mut into[done..]) {
            Ok(0) => {
                return Err(Error::cluster(format!("the memory of process {process} ends at {from:#x}")).retryable());
            }
            Ok(bytes) => done += bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(format!("the memory of process {process} at {from:#x}"), &e).retryable()),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn read_some(process: u32, address: u64, into: &mut [u8]) -> std::io::Result<usize> {
    let here = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: into.len() };
    // SAFETY: the system writes at most `into.len()` bytes to `into`, borrowed alone; it checks the other address itself.
    let bytes = unsafe { libc::process_vm_readv(process as libc::pid_t, &here, 1, &there, 1, 0) };
    usize::try_from(bytes).map_err(|_| std::io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
fn read_some(_: u32, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn who_can_read_a_process_finds_its_proof_and_nothing_else_is_taken_for_one() {
        let own = proof();
        assert!(holds(&own) && proof() == own);
        assert!(!holds(&Proof { secret: [own.secret[0], !own.secret[1]], ..own }), "another secret");
        assert!(!holds(&Proof { address: own.address + 8, ..own }), "another place");
        assert!(!holds(&Proof { address: 8, ..own }), "no memory");
        assert!(!holds(&Proof { process: i32::MAX as u32, ..own }), "no process");
        // What anybody may know stands somewhere, without the mark.
        let known = [1u64, 2, 3, 4, 5, 6];
        let address = known.as_ptr().expose_provenance() as u64;
        assert!(!holds(&Proof { address, secret: [5, 6], ..own }), "no mark");
    }

    #[test]
    fn memory_is_read_as_it_stands_and_what_is_no_memory_is_an_error() {
        let values: Vec<u64> = (0..100_000).collect();
        let (mut read_back, address) = (vec![0u64; values.len()], values.as_ptr().expose_provenance() as u64);
        read(std::process::id(), address, bytemuck::cast_slice_mut(&mut read_back)).unwrap();
        assert!(read_back == values);
        // Nothing is ever mapped there.
        let gone = read(std::process::id(), 8, &mut [0; 64]).unwrap_err();
        assert!(gone.retry && gone.message.contains("the memory of process"), "{gone}");
    }
}
