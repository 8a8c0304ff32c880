//! Where a shard's dense chunks are: in memory, or in a file once the slave's models take more than they may. The one
//! that leaves is found by a clock: a hand goes round those of all jobs, and takes the first that nobody used since it came
//! by. So a job gets what it uses again and again, whatever the others hold.
//!
//! Invariants: nobody waits for a chunk, or for the disk, under the ring's lock; what is locked stays in memory; a chunk that
//! reads back otherwise than it was written is an error; the file has no name from its first byte on, so it is gone with the
//! shard, however that ends.

use super::memory::Memory;
use super::slabs::Slabs;
use crate::unnamed;
use flexps_common::error::{Error, Result, io};
use flexps_common::report::DiskUse;
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// What the models of all of a slave's jobs may take, and take.
pub struct Room {
    limit: u64,
    used: AtomicU64,
    folder: PathBuf,
    slabs: Arc<Slabs>,
    ring: Mutex<Ring>,
}

/// Memory of jobs that have ended that is kept for the next.
const KEPT: usize = 256 << 20;

impl Room {
    /// Room for `limit` bytes of values; what exceeds it goes to a file in `folder`.
    pub fn new(limit: u64, folder: &Path) -> Arc<Self> {
        // Where memory is counted, none is kept beside it.
        let slabs = Slabs::new(if limit == u64::MAX { KEPT } else { 0 });
        Arc::new(Self { limit, used: AtomicU64::new(0), folder: folder.to_owned(), slabs, ring: Mutex::default() })
    }

    /// Room for whatever comes.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, Path::new(""))
    }

    /// Returns memory to the system that no job has asked for lately. To be called now and then.
    pub fn trim(&self) {
        self.slabs.trim();
    }

    /// Lets residents leave for something of `by` that takes so many bytes while too much is used. Those in use stay: then so
    /// many bytes more are used for a while.
    fn shrink(&self, by: &Tier, mut wanted: u64) -> Result<()> {
        // Twice round: the first time all may turn out to have been used.
        let mut left = 2 * self.ring.lock().residents.len() + 1;
        while self.used.load(Ordering::Relaxed) > self.limit {
            let Some(candidate) = self.ring.lock().next(&mut left) else { return Ok(()) };
            // One whose shard is gone is gone with it.
            let Some(tier) = candidate.tier.upgrade() else { continue };
            let own = std::ptr::eq(&*tier, by);
            let result = candidate.resident.leave(&tier, if own { wanted } else { 0 });
            match result {
                Ok(bytes @ 1..) => {
                    tier.give_back(bytes);
                    // One is enough: of others that leave nothing would be used.
                    if own && bytes == wanted {
                        wanted = 0;
                    }
                }
                Ok(_) | Err(_) => self.ring.lock().residents.push(candidate),
            }
            result?;
        }
        Ok(())
    }
}

/// Something that takes memory and can be put on disk.
pub(super) trait Resident: Send + Sync {
    /// Whether it was used since this was asked last.
    fn was_used(&self) -> bool;
    /// Puts it on disk, unless somebody uses it just now; the bytes of memory that it took, or 0 when it stays. The system
    /// gets them, unless they are just as many as are `wanted`, which the same shard is about to use.
    fn leave(&self, tier: &Tier, wanted: u64) -> Result<u64>;
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
    /// Itself, for those that come to the ring.
    me: Weak<Tier>,
    written: AtomicU64,
    read: AtomicU64,
}

/// What is in memory and may leave it.
#[derive(Default)]
struct Ring {
    residents: Vec<Placed>,
    hand: usize,
}

/// A resident, and where it goes when it leaves.
struct Placed {
    tier: Weak<Tier>,
    resident: Arc<dyn Resident>,
}

impl Ring {
    /// Takes out the next one that was not used since the hand came by it, of the next `left`.
    fn next(&mut self, left: &mut usize) -> Option<Placed> {
        while *left > 0 {
            *left -= 1;
            if self.hand >= self.residents.len() {
                self.hand = 0;
            }
            if !self.residents.get(self.hand)?.resident.was_used() {
                return Some(self.residents.swap_remove(self.hand));
            }
            self.hand += 1;
        }
        None
    }
}

impl Tier {
    pub fn new(room: Arc<Room>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            memory: Memory::new(room.slabs.clone()),
            room,
            file: Mutex::default(),
            end: AtomicU64::new(0),
            own: AtomicU64::new(0),
            me: me.clone(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
        })
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
            let result = self.room.shrink(self, bytes);
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
            self.room.ring.lock().residents.push(Placed { tier: self.me.clone(), resident });
        }
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
        let is_own = |placed: &mut Placed| std::ptr::eq(placed.tier.as_ptr(), self);
        // Their memory is given back behind the lock.
        let own: Vec<_> = self.room.ring.lock().residents.extract_if(.., is_own).collect();
        drop(own);
    }
}
