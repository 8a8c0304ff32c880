//! A checkpoint's folder on a local disk.
//!
//! Invariant: the job that is here holds the folder's lock, so that nobody else writes there, and what others left there may go.

use super::store::{NAME, Staged, Store, taken};
use flexps_common::data::schema::DataPath;
use flexps_common::error::io;
use flexps_common::side::{Side, sweep_beside};
use flexps_common::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// The folder.
#[derive(Debug)]
pub(super) struct Local {
    folder: PathBuf,
    /// The folder, open and locked.
    _lock: File,
    /// Whether it is: where its file system has no locks it is only open.
    locked: bool,
}

struct StagedHere {
    target: PathBuf,
    side: Side,
    file: BufWriter<File>,
}

impl Local {
    pub fn open(path: &DataPath) -> Result<Self> {
        let folder = PathBuf::from(&path.0);
        let failed = |e: &std::io::Error| io(format!("{} can't be a folder for checkpoints", folder.display()), e);
        fs::create_dir_all(&folder).map_err(|e| failed(&e))?;
        let lock = File::open(&folder).map_err(|e| failed(&e))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(taken(folder.display())),
            locked => locked.is_ok(),
        };
        let local = Self { folder, _lock: lock, locked };
        // Tells now what would else be told when there is something to lose.
        local.beside()?;
        Ok(local)
    }

    fn target(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// A hidden file beside the checkpoint's.
    fn beside(&self) -> Result<StagedHere> {
        let target = self.target();
        let made = Side::file(&target).map_err(|e| io(format!("{} can't be written", target.display()), &e))?;
        let (side, file) = made.ok_or_else(|| Error::bug(format!("{} names no file", target.display())))?;
        Ok(StagedHere { target, side, file: BufWriter::new(file) })
    }
}

impl Store for Local {
    fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    fn file(&self) -> String {
        self.target().display().to_string()
    }

    fn look(&self) -> Result<bool> {
        match fs::symlink_metadata(self.target()) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io(self.file(), &e)),
        }
    }

    fn sweep(&self) {
        // Their processes' ids may be others' by now.
        if self.locked {
            sweep_beside(&self.target());
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead>> {
        let file = File::open(self.target()).map_err(|e| io(self.file(), &e))?;
        Ok(Box::new(BufReader::new(file)))
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn Staged>> {
        fs::create_dir_all(&self.folder).map_err(|e| io(self.folder.display(), &e))?;
        Ok(Box::new(self.beside()?))
    }

    fn remove(&self) -> Result<()> {
        match fs::remove_file(self.target()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(io(self.file(), &e)),
            // What else somebody keeps there stays, and the folder with it.
            _ => {
                let _ = fs::remove_dir(&self.folder);
                Ok(())
            }
        }
    }
}

impl StagedHere {
    fn failed(&self, error: &std::io::Error) -> Error {
        io(self.target.display(), error)
    }
}

impl Staged for StagedHere {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.failed(&e))
    }

    fn put(mut self: Box<Self>) -> Result<()> {
        let put = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        put.and_then(|()| self.side.put(&self.target)).map_err(|e| self.failed(&e))
    }
}
