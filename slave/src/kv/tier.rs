//! Where a shard's dense chunks are: in memory, or in a file once the slave's models take more than they may. The one
//! that leaves is found by a clock: a hand goes round, and takes the first that nobody used since it came by.
//!
//! Invariants: what is locked stays in memory; a chunk that reads back otherwise than it was written is an error; the file
//! has no name from its first byte on, so it is gone with the shard, however that ends.

use super::memory::Memory;
use super::slabs::Slabs;
use crate::unnamed;
use flexps_common::error::{Error, Result, io};
use flexps_common::report::DiskUse;
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// What the models of all of a slave's jobs may take, and take.
pub struct Room {
    limit: u64,
    used: AtomicU64,
    folder: PathBuf,
    slabs: Arc<Slabs>,
}

/// Memory of jobs that have ended that is kept for the next.
const KEPT: usize = 256 << 20;

impl Room {
    /// Room for `limit` bytes of values; what exceeds it goes to a file in `folder`.
    pub fn new(limit: u64, folder: &Path) -> Arc<Self> {
        // Where memory is counted, none is kept beside it.
        let slabs = Slabs::new(if limit == u64::MAX { KEPT } else { 0 });
        Arc::new(Self { limit, used: AtomicU64::new(0), folder: folder.to_owned(), slabs })
    }

    /// Room for whatever comes.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, Path::new(""))
    }

    /// Returns memory to the system that no job has asked for lately. To be called now and then.
    pub fn trim(&self) {
        self.slabs.trim();
    }
}

/// Something that takes memory and can be put on disk.
pub(super) trait Resident: Send + Sync {
    /// Whether it was used since this was asked last.
    fn was_used(&self) -> bool;
    /// Puts it on disk, unless somebody uses it just now; the bytes of memory that it took, or 0 when it stays.
    fn leave(&self, tier: &Tier) -> Result<u64>;
}

/// A place in the file.
pub(super) struct Extent {
    start: u64,
    checksum: u64,
}

/// A shard's memory and file.
pub(super) struct Tier {
    room: Arc<Room>,
    /// Where values are when they are in memory.
    pub memory: Memory,
    file: Mutex<Option<Arc<File>>>,
    end: AtomicU64,
    /// What this shard has of the room that is used.
    own: AtomicU64,
    ring: Mutex<Ring>,
    written: AtomicU64,
    read: AtomicU64,
}

#[derive(Default)]
struct Ring {
    residents: Vec<Arc<dyn Resident>>,
    hand: usize,
}

impl Tier {
    pub fn new(room: Arc<Room>) -> Self {
        Self {
            memory: Memory::new(room.slabs.clone()),
            room,
            file: Mutex::default(),
            end: AtomicU64::new(0),
            own: AtomicU64::new(0),
            ring: Mutex::default(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
        }
    }

    /// Whether anything may have to leave.
    pub fn is_limited(&self) -> bool {
        self.room.limit != u64::MAX
    }

    /// Bytes of the file.
    #[cfg(test)]
    pub fn file_bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// What went to and from disk since this was asked last.
    pub fn take_use(&self) -> DiskUse {
        DiskUse {
            written_bytes: self.written.swap(0, Ordering::Relaxed),
            read_bytes: self.read.swap(0, Ordering::Relaxed),
        }
    }

    /// Makes room for so many bytes, as far as others can leave, and counts them. What comes is added by
    /// [`Tier::came`].
    pub fn make_room(&self, bytes: u64) -> Result<()> {
        let used = self.room.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.own.fetch_add(bytes, Ordering::Relaxed);
        if used > self.room.limit {
            let result = self.shrink();
            if result.is_err() {
                self.give_back(bytes);
            }
            return result;
        }
        Ok(())
    }

    /// Something that room was made for is in memory.
    pub fn came(&self, resident: Arc<dyn Resident>) {
        if self.is_limited() {
            self.ring.lock().residents.push(resident);
        }
    }

    /// Lets residents leave while too much is used. Those in use stay: then so many bytes more are used for a while.
    fn shrink(&self) -> Result<()> {
        // Twice round: the first time all may turn out to have been used.
        let mut left = 2 * self.ring.lock().residents.len() + 1;
        while left > 0 && self.room.used.load(Ordering::Relaxed) > self.room.limit {
            left -= 1;
            let candidate = {
                let mut ring = self.ring.lock();
                if ring.hand >= ring.residents.len() {
                    ring.hand = 0;
                }
                let hand = ring.hand;
                match ring.residents.get(hand) {
                    None => return Ok(()),
                    Some(resident) if resident.was_used() => {
                        ring.hand += 1;
                        continue;
                    }
                    Some(_) => ring.residents.swap_remove(hand),
                }
            };
            match candidate.leave(self) {
                Ok(0) => self.ring.lock().residents.push(candidate),
                Ok(bytes) => self.give_back(bytes),
                Err(error) => {
                    self.ring.lock().residents.push(candidate);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.room.used.fetch_sub(bytes, Ordering::Relaxed);
        self.own.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Writes values, over those that were written before, if there are some.
    pub fn write(&self, bytes: &[u8], before: Option<Extent>) -> Result<Extent> {
        let file = self.file()?;
        let len = bytes.len() as u64;
        let start = before.map_or_else(|| self.end.fetch_add(len, Ordering::Relaxed), |extent| extent.start);
        file.write_all_at(bytes, start).map_err(|e| self.explained(&e))?;
        self.written.fetch_add(len, Ordering::Relaxed);
        Ok(Extent { start, checksum: xxh3_64(bytes) })
    }

    /// Reads values back.
    pub fn read(&self, extent: &Extent, bytes: &mut [u8]) -> Result<()> {
        self.file()?.read_exact_at(bytes, extent.start).map_err(|e| self.explained(&e))?;
        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if xxh3_64(bytes) == extent.checksum {
            return Ok(());
        }
        Err(Error::cluster(format!(
            "{}: a part of the model read back with a wrong checksum; check the disk, or give more --model-memory",
            self.room.folder.display()
        )))
    }

    fn file(&self) -> Result<Arc<File>> {
        let mut file = self.file.lock();
        match &*file {
            Some(file) => Ok(file.clone()),
            None => {
                let made = unnamed::file(&self.room.folder, "model").map_err(|e| self.explained(&e))?;
                Ok(file.insert(Arc::new(made)).clone())
            }
        }
    }

    fn explained(&self, error: &std::io::Error) -> Error {
        io(format!("the part of the model that exceeds --model-memory, in {}", self.room.folder.display()), error)
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.own.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
