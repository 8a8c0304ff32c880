//! Files for the user, written to the side and renamed.
//!
//! Invariant: at the path there is the old file or the whole new one; a file that is dropped unfinished leaves nothing.

use flexps_common::Result;
use flexps_common::error::io;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file that is being written.
pub struct Whole {
    path: PathBuf,
    side: PathBuf,
    file: BufWriter<File>,
}

impl Whole {
    /// Begins to write what shall stand at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let mut side = path.as_os_str().to_owned();
        side.push(".part");
        let side = PathBuf::from(side);
        let file = File::create(&side).map_err(|e| io(path.display(), &e))?;
        Ok(Self { path: path.to_owned(), side, file: BufWriter::new(file) })
    }

    /// Writes what `fill` writes, and puts the file at its path.
    pub fn fill(mut self, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
        fill(&mut self.file)
            .and_then(|()| self.file.flush())
            .and_then(|()| std::fs::rename(&self.side, &self.path))
            .map_err(|e| io(self.path.display(), &e))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // Gone already when the file was finished.
        let _ = std::fs::remove_file(&self.side);
    }
}
