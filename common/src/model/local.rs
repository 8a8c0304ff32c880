//! A model's folder on a local disk.
//!
//! Invariant: until it is put in its place, everything is in a hidden folder beside it.

use super::place::{Found, Place, Source, Staged};
use super::reader::described;
use crate::data::schema::DataPath;
use crate::error::{Context, Error, Result, io};
use crate::side::{Side, keep_mode};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The place.
pub(super) struct Local {
    folder: PathBuf,
}

#[derive(Debug)]
struct StagedHere {
    target: PathBuf,
    /// Once put in its place it holds the one that was replaced, if there was any.
    side: Side,
    file: Option<BufWriter<File>>,
}

#[derive(Debug)]
struct LocalFile {
    name: String,
    file: File,
    len: u64,
}

impl Local {
    pub fn new(path: &DataPath) -> Self {
        Self { folder: PathBuf::from(&path.0) }
    }
}

impl Place for Local {
    fn found(&self) -> Result<Found> {
        if fs::symlink_metadata(&self.folder).is_err() {
            return Ok(Found::Nothing);
        }
        if !self.folder.is_dir() {
            return Ok(Found::Other("is no model, but a file".to_owned()));
        }
        let entries = fs::read_dir(&self.folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(|e| io(self.folder.display(), &e))?;
        let names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        Found::folder(&names, || described(self))
    }

    fn begin(&self) -> Result<Box<dyn Staged>> {
        let target = &self.folder;
        let nowhere = || Error::user(format!("{} can't be a model's folder; give another path", target.display()));
        let parent = target.parent().filter(|_| target.file_name().is_some()).ok_or_else(nowhere)?;
        fs::create_dir_all(parent).map_err(|e| not_made(target, &e))?;
        let side = Side::folder(target).map_err(|e| not_made(target, &e))?.ok_or_else(nowhere)?;
        Ok(Box::new(StagedHere { target: target.clone(), side, file: None }))
    }

    fn open(&self, name: &str) -> Result<Box<dyn Source>> {
        let folder = &self.folder;
        if folder.is_file() {
            return Err(Error::user(format!("{} is a file; a model is a folder with {name}", folder.display())));
        }
        let path = folder.join(name);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|e| io(path.display(), &e)).context(|| "no model there")?;
        Ok(Box::new(LocalFile { name: path.display().to_string(), file, len }))
    }
}

/// The error of a folder that can't be made for a model at `target`, which alone the user knows by name.
fn not_made(target: &Path, error: &std::io::Error) -> Error {
    let file = target.ancestors().skip(1).find(|above| above.exists() && !above.is_dir());
    match file {
        Some(file) => Error::user(format!(
            "{} can't be a model's folder, since {} is a file; give another path",
            target.display(),
            file.display()
        )),
        None => io(format!("{} can't be made", target.display()), error),
    }
}

impl StagedHere {
    fn failed(&self, error: &std::io::Error) -> Error {
        io(self.target.display(), error)
    }
}

impl Staged for StagedHere {
    fn create(&mut self, name: &str) -> Result<()> {
        let path = self.side.path().join(name);
        let file = File::create(&path).map_err(|e| not_made(&self.target, &e))?;
        keep_mode(&self.target.join(name), &path).map_err(|e| self.failed(&e))?;
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|e| self.failed(&e))
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|e| self.failed(&e))
    }

    fn put(self: Box<Self>) -> Result<()> {
        self.side.put(&self.target).map_err(|e| self.failed(&e))
    }
}

impl Source for LocalFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|e| io(&self.name, &e))
    }
}
