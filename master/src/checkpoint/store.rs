//! Where a checkpoint is kept: in a folder on a local disk of the master's machine, or in HDFS.
//!
//! Invariant: what is there is whole: the next one takes its place in one step, or not at all.

use super::local::Local;
use super::remote::Remote;
use flexps_common::data::schema::DataPath;
use flexps_common::storage::{Storage, is_remote};
use flexps_common::{Error, Result};
use std::fmt::{Debug, Display};
use std::io::BufRead;
use std::sync::Arc;

/// The file's name.
pub const NAME: &str = "checkpoint.bin";

/// A folder that a live job holds as long as this is there. What it does waits for disks and networks.
pub(super) trait Store: Debug + Send + Sync {
    /// Its name, for users.
    fn folder(&self) -> String;
    /// That of the file, for errors.
    fn file(&self) -> String;
    /// Whether a checkpoint is there. It may be another job's, unless [`Self::own`] follows.
    fn look(&self) -> Result<bool>;
    /// What was looked at is this job's, or damaged: the next one may take its place.
    fn own(&self) {}
    /// What was looked at is this job's, or nothing was there: what dead writers left goes.
    fn sweep(&self);
    /// Opens what was looked at, or what this job wrote since.
    fn open(&self) -> Result<Box<dyn BufRead>>;
    /// Begins the next one, in a folder that is made if it went.
    fn begin(self: Arc<Self>) -> Result<Box<dyn Staged>>;
    /// Removes this job's own, and the folder if nothing else is in it.
    fn remove(&self) -> Result<()>;
}

/// A file that is being written, which goes when this is dropped before it was put in its place.
pub(super) trait Staged {
    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Puts it in its place: after this it is there, whole and stored.
    fn put(self: Box<Self>) -> Result<()>;
}

/// The folder that a path names, made if need be; an error when none can be there, or another live job is known to hold it.
pub(super) fn open(storage: &Storage, path: &DataPath) -> Result<Arc<dyn Store>> {
    if is_remote(&path.0) {
        return Ok(Arc::new(Remote::open(storage, path)?));
    }
    if path.0.contains("://") {
        return Err(Error::user(format!(
            "{path}: a checkpoint is kept in a folder on a local disk or in HDFS; give the path of one"
        )));
    }
    Ok(Arc::new(Local::open(path)?))
}

/// The error of a folder that another job uses.
pub(super) fn taken(folder: impl Display) -> Error {
    Error::user(format!(
        "{folder}: another job keeps its checkpoint there; give another folder, or wait until that one has ended"
    ))
}
