//! A model's folder in HDFS.
//!
//! Invariant: its calls wait, so they are made where a thread may.

use super::place::{Found, Place, Source, Staged};
use super::reader::described;
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::storage::{self, Aside, FileMeta, Folder, Sink, Storage};
use std::fmt;
use tokio::runtime::Handle;

/// The place.
pub(super) struct Remote {
    storage: Storage,
    runtime: Handle,
    folder: Folder,
}

struct StagedThere {
    runtime: Handle,
    aside: Aside,
    file: Option<Sink>,
}

struct RemoteFile {
    storage: Storage,
    runtime: Handle,
    meta: FileMeta,
}

impl Remote {
    pub fn new(storage: &Storage, path: &DataPath) -> Result<Self> {
        Ok(Self { storage: storage.clone(), runtime: storage.runtime()?, folder: storage.folder(&path.0)? })
    }
}

impl Place for Remote {
    fn found(&self) -> Result<Found> {
        match self.runtime.block_on(self.folder.look())? {
            storage::Found::Nothing => Ok(Found::Nothing),
            storage::Found::File => Ok(Found::Other("is no model, but a file".to_owned())),
            storage::Found::Folder(names) => Found::folder(&names, || described(self)),
        }
    }

    fn begin(&self) -> Result<Box<dyn Staged>> {
        let aside = self.runtime.block_on(self.folder.begin())?;
        Ok(Box::new(StagedThere { runtime: self.runtime.clone(), aside, file: None }))
    }

    fn open(&self, name: &str) -> Result<Box<dyn Source>> {
        let found = self.runtime.block_on(self.folder.inside(name).file());
        if let Ok(Some(meta)) = found {
            return Ok(Box::new(RemoteFile { storage: self.storage.clone(), runtime: self.runtime.clone(), meta }));
        }
        // Below a file there is nothing, which not every NameNode says in the same words.
        let url = self.folder.url();
        if self.runtime.block_on(self.folder.look())? == storage::Found::File {
            return Err(Error::user(format!("{url} is a file; a model is a folder with {name}")));
        }
        found?;
        Err(Error::user(format!("no model there: {url}/{name}: no such file or directory")))
    }
}

impl Staged for StagedThere {
    fn create(&mut self, name: &str) -> Result<()> {
        let file = self.runtime.block_on(self.aside.create(name))?;
        self.file = Some(Sink::new(self.runtime.clone(), file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.take(bytes))
    }

    fn close(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), Sink::close)
    }

    fn put(self: Box<Self>) -> Result<()> {
        let Self { runtime, aside, .. } = *self;
        runtime.block_on(aside.put())
    }
}

impl fmt::Debug for StagedThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a model for {}", self.aside.target().url())
    }
}

impl Source for RemoteFile {
    fn name(&self) -> &str {
        &self.meta.path
    }

    fn len(&self) -> u64 {
        self.meta.len
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let range = at..at + bytes.len() as u64;
        let read = self.runtime.block_on(self.storage.read_range(self.meta.listed(), range))?;
        if read.len() != bytes.len() {
            return Err(Error::data(format!("{}: it ends at byte {}", self.meta.path, at + read.len() as u64)));
        }
        bytes.copy_from_slice(&read);
        Ok(())
    }
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.meta.path)
    }
}
