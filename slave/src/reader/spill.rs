//! Blocks on disk: an unnamed file, each block under a checksum.
//!
//! Invariant: the file has no name from its first byte on, so it is gone when the process is, however it ends; a block that
//! reads back otherwise than it was written is an error. Nobody reads a block while it is written over.

use crate::unnamed;
use bytemuck::Pod;
use flexps_common::data::Block;
use flexps_common::error::{Error, Result, io};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// A file of blocks.
#[derive(Debug)]
pub struct Spill {
    file: File,
    /// The folder that it lies in, for errors.
    folder: PathBuf,
    end: AtomicU64,
}

/// Where a block lies in the file.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    start: u64,
    rows: usize,
    nonzeros: usize,
    values: bool,
    checksum: u64,
}

impl Extent {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        4 * (2 * self.rows + 1 + self.nonzeros * (1 + usize::from(self.values))) as u64
    }
}

impl Spill {
    /// An empty file in `folder`, which is made if need be.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = unnamed::file(folder, "rows").map_err(|e| explained(folder, &e))?;
        Ok(Self::on(file, folder))
    }

    fn on(file: File, folder: &Path) -> Self {
        Self { file, folder: folder.to_owned(), end: AtomicU64::new(0) }
    }

    /// Writes a block. Threads may write at the same time.
    pub fn write(&self, block: &Block) -> Result<Extent> {
        let mut extent = Extent {
            start: 0,
            rows: block.rows(),
            nonzeros: block.nonzeros(),
            values: block.values.is_some(),
            checksum: checksum(block),
        };
        extent.start = self.end.fetch_add(extent.bytes(), Ordering::Relaxed);
        self.put(&extent, block)?;
        Ok(extent)
    }

    /// Writes a block of the same size over one.
    pub fn rewrite(&self, extent: &mut Extent, block: &Block) -> Result<()> {
        extent.checksum = checksum(block);
        self.put(extent, block)
    }

    /// Gives the disk back what a block takes that nobody reads any more, if the file system can.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "files have no holes there"))]
    pub fn forget(&self, extent: &Extent) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let (start, bytes) = (extent.start as libc::off64_t, extent.bytes() as libc::off64_t);
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: the file is open as long as it is borrowed; no memory is touched. Nothing hangs on whether it works.
            unsafe { libc::fallocate64(self.file.as_raw_fd(), how, start, bytes) };
        }
    }

    fn put(&self, extent: &Extent, block: &Block) -> Result<()> {
        let mut at = extent.start;
        for part in parts(block) {
            self.file.write_all_at(part, at).map_err(|e| explained(&self.folder, &e))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Reads a block back, into the memory of `spare`: pages that are there already need not be made and cleared.
    pub fn read(&self, extent: &Extent, spare: Option<Block>) -> Result<Block> {
        let spare = spare.unwrap_or_default();
        let mut block = Block {
            labels: sized(spare.labels, extent.rows),
            offsets: sized(spare.offsets, extent.rows + 1),
            indices: sized(spare.indices, extent.nonzeros),
            values: extent.values.then(|| sized(spare.values.unwrap_or_default(), extent.nonzeros)),
        };
        let mut at = extent.start;
        let Block { labels, offsets, indices, values } = &mut block;
        let mut read = |part: &mut [u8]| {
            self.file.read_exact_at(part, at).map_err(|e| explained(&self.folder, &e))?;
            at += part.len() as u64;
            Ok::<_, Error>(())
        };
        read(bytemuck::cast_slice_mut(labels))?;
        read(bytemuck::cast_slice_mut(offsets))?;
        read(bytemuck::cast_slice_mut(indices))?;
        if let Some(values) = values {
            read(bytemuck::cast_slice_mut(values))?;
        }
        if checksum(&block) != extent.checksum {
            return Err(Error::cluster(format!(
                "{}: cached rows read back with a wrong checksum; check the disk, or give more --cache-memory",
                self.folder.display()
            )));
        }
        Ok(block)
    }
}

/// So many elements, whatever they are.
fn sized<T: Pod>(mut spare: Vec<T>, len: usize) -> Vec<T> {
    if spare.is_empty() {
        return vec![T::zeroed(); len];
    }
    spare.resize(len, T::zeroed());
    spare
}

fn explained(folder: &Path, error: &std::io::Error) -> Error {
    io(format!("the row cache in {}", folder.display()), error)
}

fn parts(block: &Block) -> impl Iterator<Item = &[u8]> {
    let fixed: [&[u8]; 3] = [
        bytemuck::cast_slice(&block.labels),
        bytemuck::cast_slice(&block.offsets),
        bytemuck::cast_slice(&block.indices),
    ];
    fixed.into_iter().chain(block.values.as_ref().map(|v| bytemuck::cast_slice(v)))
}

fn checksum(block: &Block) -> u64 {
    let mut hasher = Xxh3::new();
    parts(block).for_each(|part| hasher.update(part));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(values: bool) -> Block {
        Block {
            labels: [1.0, -1.0].into(),
            offsets: [0, 1, 3].into(),
            indices: [7, 1, 9].into(),
            values: values.then(|| [0.5, 2.0, -1.0].into()),
        }
    }

    #[test]
    fn blocks_read_back_as_they_were_written_and_the_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::create(&folder.path().join("new")).unwrap();
        let extents = [true, false, true].map(|values| spill.write(&block(values)).unwrap());
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
        assert_eq!(extents[0].bytes(), block(true).bytes() as u64);
        assert_eq!(extents.map(|e| spill.read(&e, Some(block(false))).unwrap()), [true, false, true].map(block));
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let spill = Spill::create(&std::env::temp_dir()).unwrap();
        let extent = spill.write(&block(true)).unwrap();
        let mut byte = [0];
        spill.file.read_exact_at(&mut byte, 13).unwrap();
        spill.file.write_all_at(&[byte[0] ^ 4], 13).unwrap();
        assert!(spill.read(&extent, None).unwrap_err().message.contains("wrong checksum"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_disk_gets_back_what_a_block_took_and_others_stay() {
        use std::os::unix::fs::MetadataExt;
        let spill = Spill::create(&std::env::temp_dir()).unwrap();
        let long = |label| Block { labels: vec![label; 1 << 18], offsets: vec![0; (1 << 18) + 1], ..Block::default() };
        let extents = [1.0, 2.0, 3.0].map(|label| spill.write(&long(label)).unwrap());
        let taken = || spill.file.metadata().unwrap().blocks();
        let before = taken();
        spill.forget(&extents[1]);
        assert!(taken() < before * 3 / 4, "{before} blocks of the disk were taken, now {}", taken());
        assert_eq!([0, 2].map(|at| spill.read(&extents[at], None).unwrap()), [1.0, 3.0].map(long));
    }

    #[test]
    fn a_full_disk_and_a_folder_that_cant_be_made_are_told_in_plain_words() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let message = Spill::on(full, Path::new("/cache")).write(&block(true)).unwrap_err().message;
        assert_eq!(message, "the row cache in /cache: the disk is full; free some space and run again");
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = Spill::create(&file.path().join("below")).unwrap_err().message;
        assert!(message.starts_with("the row cache in /"), "{message}");
    }
}
