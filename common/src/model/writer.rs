//! Writes a model folder value by value.
//!
//! Invariant: until [`Writer::finish`] has put it in its place, everything is in a hidden folder beside the model's path,
//! which goes when the writer is dropped.

use super::{DESCRIPTION_FILE, Description, TENSORS_FILE, local};
use crate::data::schema::DataPath;
use crate::error::{Error, Result, io};
use crate::side::Side;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A tensor to be written: its name and its number of f32 values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its number of values.
    pub len: u64,
}

/// Writes one model; see the module.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    /// Of a model that is finished it holds the one that was replaced, if there was any.
    staging: Side,
    overwrite: bool,
    file: BufWriter<File>,
    tensors: Vec<TensorSpec>,
    /// Values written so far, over all tensors.
    written: u64,
}

/// Whether a model could be written to `path` now: nothing is in the way, and the folder above can be written to.
pub fn check(path: &DataPath, overwrite: bool) -> Result<()> {
    let target = local(path)?;
    in_the_way(&target, overwrite)?;
    staging(&target).map(drop)
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

fn in_the_way(target: &Path, overwrite: bool) -> Result<()> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    if !overwrite {
        return Err(Error::user(format!(
            "{} exists; give --overwrite to replace it, or another path",
            target.display()
        )));
    }
    // Replacing removes the whole folder, so it must be one of ours.
    let empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if empty || target.join(DESCRIPTION_FILE).is_file() {
        return Ok(());
    }
    Err(Error::user(format!("{} exists and is no model, so it is not replaced; give another path", target.display())))
}

/// Makes a new hidden folder beside `target`.
fn staging(target: &Path) -> Result<Side> {
    let nowhere = || Error::user(format!("{} can't be a model's folder; give another path", target.display()));
    let parent = target.parent().filter(|_| target.file_name().is_some()).ok_or_else(nowhere)?;
    fs::create_dir_all(parent).map_err(|e| not_made(target, &e))?;
    Side::folder(target).map_err(|e| not_made(target, &e))?.ok_or_else(nowhere)
}

impl Writer {
    /// Begins a model at `path` with these tensors; their values follow, in this order.
    pub fn create(path: &DataPath, overwrite: bool, tensors: Vec<TensorSpec>) -> Result<Self> {
        let target = local(path)?;
        in_the_way(&target, overwrite)?;
        let mut offset = 0usize;
        let mut infos = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let len = tensor.len as usize;
            let data_offsets = (offset, offset + 4 * len);
            offset = data_offsets.1;
            infos.push((tensor.name.clone(), TensorInfo { dtype: Dtype::F32, shape: vec![len], data_offsets }));
        }
        let header = Metadata::new(None, infos)
            .map_err(|e| Error::bug(format!("tensors of a model: {e}")))
            .and_then(|m| serde_json::to_vec(&m).map_err(|e| Error::bug(format!("tensors of a model: {e}"))))?;
        let staging = staging(&target)?;
        let file = File::create(staging.path().join(TENSORS_FILE)).map_err(|e| not_made(&target, &e))?;
        let mut writer = Self { target, staging, overwrite, file: BufWriter::new(file), tensors, written: 0 };
        // The values start at a multiple of eight bytes, so that a mapped file can be read in place.
        let padding = (8 - header.len() % 8) % 8;
        writer.put(&((header.len() + padding) as u64).to_le_bytes())?;
        writer.put(&header)?;
        writer.put(&b"        "[..padding])?;
        Ok(writer)
    }

    /// The next values.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        let total: u64 = self.tensors.iter().map(|t| t.len).sum();
        self.written += values.len() as u64;
        if self.written > total {
            return Err(Error::bug(format!("{} values for a model of {total}", self.written)));
        }
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return Err(Error::user(format!(
                "the model diverged: it holds the value {bad}; nothing was written; try a smaller step, or scale the features"
            )));
        }
        self.put(bytemuck::cast_slice(values))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| io(self.target.display(), &e))
    }

    /// Ends the model: after this it is there, whole, and on the disk.
    pub fn finish(mut self, description: &Description) -> Result<()> {
        let total: u64 = self.tensors.iter().map(|t| t.len).sum();
        if self.written != total {
            return Err(Error::bug(format!("{} values for a model of {total}", self.written)));
        }
        let failed = |e: std::io::Error| io(self.target.display(), &e);
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_all().map_err(failed)?;
        let mut json = serde_json::to_vec_pretty(description)
            .map_err(|e| Error::bug(format!("the description of a model: {e}")))?;
        json.push(b'\n');
        let name = self.staging.path().join(DESCRIPTION_FILE);
        fs::write(&name, json).map_err(failed)?;
        File::open(&name).and_then(|file| file.sync_all()).map_err(failed)?;
        in_the_way(&self.target, self.overwrite)?;
        self.staging.put(&self.target).map_err(failed)
    }
}
