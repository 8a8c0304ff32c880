//! Where a model's folder is: on a local disk or in HDFS.
//!
//! Invariant: what is in the way of a new model is replaced only if it is asked for, and if it is a model and nothing more, or an
//! empty folder.

use super::local;
#[cfg(feature = "hdfs")]
use super::remote;
use super::{DESCRIPTION_FILE, TENSORS_FILE, created_by_flexps};
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::storage::{Storage, is_remote};
use std::fmt::Debug;

/// The place of a model.
pub(super) trait Place {
    /// What is there.
    fn found(&self) -> Result<Found>;
    /// Begins a folder that will take the place.
    fn begin(&self) -> Result<Box<dyn Staged>>;
    /// Opens a file of the model that is there.
    fn open(&self, name: &str) -> Result<Box<dyn Source>>;
}

/// What may be in the way of a new model.
pub(super) enum Found {
    /// Nothing is.
    Nothing,
    /// A model, or an empty folder.
    Model,
    /// Something else; says what.
    Other(String),
}

impl Found {
    /// What a folder with entries of these names is, of whose description `read` gives the bytes.
    pub fn folder(names: &[String], read: impl FnOnce() -> Result<Vec<u8>>) -> Result<Self> {
        let ours = [DESCRIPTION_FILE, TENSORS_FILE];
        if names.is_empty() {
            return Ok(Self::Model);
        }
        if let Some(lacks) = ours.into_iter().find(|file| !names.iter().any(|name| name == file)) {
            return Ok(Self::Other(format!("is no model, since it lacks {lacks}")));
        }
        if !created_by_flexps(&read()?) {
            return Ok(Self::Other(format!("is no model of flexps, as its {DESCRIPTION_FILE} shows")));
        }
        let mut more: Vec<&str> = names.iter().map(String::as_str).filter(|name| !ours.contains(name)).collect();
        more.sort_unstable();
        Ok(match more[..] {
            [] => Self::Model,
            [name] => Self::Other(format!("holds more than a model: {name}")),
            [name, ..] => Self::Other(format!("holds more than a model: {name} and {} more", more.len() - 1)),
        })
    }
}

/// A folder that is being written, which goes when this is dropped before it was put in its place.
pub(super) trait Staged: Debug + Send {
    /// Begins a file.
    fn create(&mut self, name: &str) -> Result<()>;
    /// The next bytes of that file.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Ends that file: after this it is stored, whole.
    fn close(&mut self) -> Result<()>;
    /// Puts the folder in its place, where something may be that it replaces.
    fn put(self: Box<Self>) -> Result<()>;
}

/// A file to be read anywhere.
pub(super) trait Source: Debug + Send + Sync {
    /// Its path, for errors.
    fn name(&self) -> &str;
    /// Its bytes.
    fn len(&self) -> u64;
    /// Fills `bytes` with those from `at` on.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()>;
}

/// The place that a path names.
#[cfg_attr(not(feature = "hdfs"), expect(unused_variables, reason = "local disks need none"))]
pub(super) fn place(storage: &Storage, path: &DataPath) -> Result<Box<dyn Place>> {
    if is_remote(&path.0) {
        #[cfg(feature = "hdfs")]
        return Ok(Box::new(remote::Remote::new(storage, path)?));
        #[cfg(not(feature = "hdfs"))]
        return Err(crate::storage::no_hdfs(&path.0));
    }
    if path.0.contains("://") {
        return Err(Error::user(format!(
            "{path}: a model is a folder on a local disk or in HDFS; give the path of one"
        )));
    }
    Ok(Box::new(local::Local::new(path)))
}

/// The place that a path names, where a model may be put.
pub(super) fn place_for(storage: &Storage, path: &DataPath, overwrite: bool) -> Result<Box<dyn Place>> {
    let place = place(storage, path)?;
    check(&*place, path, overwrite)?;
    Ok(place)
}

/// Refuses a place where no model may be put.
pub(super) fn check(place: &dyn Place, path: &DataPath, overwrite: bool) -> Result<()> {
    match place.found()? {
        Found::Nothing => Ok(()),
        Found::Model if overwrite => Ok(()),
        Found::Model => Err(Error::user(format!("{path} exists; give --overwrite to replace it, or another path"))),
        // Replacing removes the whole folder, so it must be one of ours.
        Found::Other(what) => {
            Err(Error::user(format!("{path} exists and {what}, so it is not replaced; give another path")))
        }
    }
}
