//! Writes a model folder value by value.
//!
//! Invariant: until [`Writer::finish`] has put it in its place, everything is in a hidden folder beside the model's path,
//! which goes when the writer is dropped.

use super::place::{self, Place, Staged, place_for};
use super::{DESCRIPTION_FILE, Description, TENSORS_FILE};
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::storage::Storage;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// A tensor to be written: its name and its number of f32 values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its number of values.
    pub len: u64,
}

/// Writes one model; see the module.
pub struct Writer {
    place: Box<dyn Place>,
    path: DataPath,
    staged: Box<dyn Staged>,
    overwrite: bool,
    tensors: Vec<TensorSpec>,
    /// Values written so far, over all tensors.
    written: u64,
}

/// Whether a model could be written to `path` now: nothing is in the way, and the folder above can be written to.
pub fn check(storage: &Storage, path: &DataPath, overwrite: bool) -> Result<()> {
    place_for(storage, path, overwrite)?.begin().map(drop)
}

impl Writer {
    /// Begins a model at `path` with these tensors; their values follow, in this order.
    pub fn create(storage: &Storage, path: &DataPath, overwrite: bool, tensors: Vec<TensorSpec>) -> Result<Self> {
        let place = place_for(storage, path, overwrite)?;
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
        let mut staged = place.begin()?;
        staged.create(TENSORS_FILE)?;
        let mut writer = Self { place, path: path.clone(), staged, overwrite, tensors, written: 0 };
        // The values start at a multiple of eight bytes, so that a mapped file can be read in place.
        let padding = (8 - header.len() % 8) % 8;
        writer.staged.write(&((header.len() + padding) as u64).to_le_bytes())?;
        writer.staged.write(&header)?;
        writer.staged.write(&b"        "[..padding])?;
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
        self.staged.write(bytemuck::cast_slice(values))
    }

    /// Ends the model: after this it is there, whole, and on the disk.
    pub fn finish(mut self, description: &Description) -> Result<()> {
        let total: u64 = self.tensors.iter().map(|t| t.len).sum();
        if self.written != total {
            return Err(Error::bug(format!("{} values for a model of {total}", self.written)));
        }
        self.staged.close()?;
        let mut json = serde_json::to_vec_pretty(description)
            .map_err(|e| Error::bug(format!("the description of a model: {e}")))?;
        json.push(b'\n');
        self.staged.create(DESCRIPTION_FILE)?;
        self.staged.write(&json)?;
        self.staged.close()?;
        place::check(&*self.place, &self.path, self.overwrite)?;
        self.staged.put()
    }
}
