//! Reads a model folder, whole or value by value.
//!
//! Invariant: a truncated file, another type of element or a length that contradicts the header is an error that names
//! the file, before any value is given out.

use super::place::{Place, Source, place};
use super::{BIAS, DESCRIPTION_FILE, Description, TENSORS_FILE, WEIGHTS};
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::storage::Storage;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;

/// Most bytes of a header: thousands of tensors.
const MAX_HEADER: u64 = 1 << 20;
/// Most bytes of a description.
const MAX_DESCRIPTION: u64 = 64 << 20;

/// An open model: values are read where they are asked for.
#[derive(Debug)]
pub struct Reader {
    /// What it is.
    pub description: Description,
    file: Box<dyn Source>,
    /// First byte and number of values, by name.
    tensors: BTreeMap<String, (u64, u64)>,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What it is.
    pub description: Description,
    /// One value per feature; of more than two classes those of the first, then those of the second, ...
    pub weights: Vec<f32>,
    /// The constant, when the model has one; of more than two classes one for each.
    pub bias: Vec<f32>,
    /// All other tensors, by name.
    pub others: BTreeMap<String, Vec<f32>>,
}

impl Reader {
    /// Opens the model in the folder `path` and checks its header.
    pub fn open(storage: &Storage, path: &DataPath) -> Result<Self> {
        let place = place(storage, path)?;
        let described = place.open(DESCRIPTION_FILE)?;
        let json = description(&*described)?;
        let description = serde_json::from_slice(&json).map_err(|e| no_description(&*described, e))?;
        let file = place.open(TENSORS_FILE)?;
        let tensors = header(&*file)?;
        Ok(Self { description, file, tensors })
    }

    /// Names and lengths of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tensors.iter().map(|(name, (_, len))| (name.as_str(), *len))
    }

    /// Number of values of `tensor`.
    pub fn len(&self, tensor: &str) -> Result<u64> {
        self.find(tensor).map(|(_, len)| len)
    }

    /// Fills `out` with the values of `tensor` from number `start` on.
    pub fn read(&self, tensor: &str, start: u64, out: &mut [f32]) -> Result<()> {
        let (at, len) = self.find(tensor)?;
        if start + out.len() as u64 > len {
            let end = start + out.len() as u64;
            return Err(Error::bug(format!("values {start}..{end} of tensor {tensor}, which holds {len}")));
        }
        let bytes = bytemuck::cast_slice_mut(out);
        self.file.read(bytes, at + 4 * start)
    }

    /// All values of `tensor`.
    pub fn whole(&self, tensor: &str) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.len(tensor)? as usize];
        self.read(tensor, 0, &mut values)?;
        Ok(values)
    }

    fn find(&self, tensor: &str) -> Result<(u64, u64)> {
        self.tensors.get(tensor).copied().ok_or_else(|| {
            let known: Vec<_> = self.tensors.keys().map(String::as_str).collect();
            Error::data(format!("{} holds no tensor {tensor}; it holds {}", self.file.name(), known.join(", ")))
        })
    }
}

/// The bytes of the description that `place` holds.
pub(super) fn described(place: &dyn Place) -> Result<Vec<u8>> {
    description(&*place.open(DESCRIPTION_FILE)?)
}

fn description(file: &dyn Source) -> Result<Vec<u8>> {
    if file.len() > MAX_DESCRIPTION {
        return Err(no_description(file, format!("it has {} bytes", file.len())));
    }
    let mut json = vec![0; file.len() as usize];
    file.read(&mut json, 0)?;
    Ok(json)
}

fn no_description(file: &dyn Source, why: impl std::fmt::Display) -> Error {
    Error::data(format!("{}: not the description of a model: {why}", file.name()))
}

fn header(file: &dyn Source) -> Result<BTreeMap<String, (u64, u64)>> {
    let bad = |what: String| Error::data(format!("{}: {what}", file.name()));
    let len = file.len();
    let mut head = [0; 8];
    if len < 8 {
        return Err(bad(format!("{len} bytes are no safetensors file; it is truncated")));
    }
    file.read(&mut head, 0)?;
    let header = u64::from_le_bytes(head);
    if header > MAX_HEADER || header > len - 8 {
        return Err(bad(format!(
            "a header of {header} bytes in a file of {len}; it is truncated or no safetensors file"
        )));
    }
    let mut json = vec![0; header as usize];
    file.read(&mut json, 8)?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|e| bad(format!("not the header of a safetensors file: {e}")))?;
    let expected = 8 + header + metadata.data_len() as u64;
    if len != expected {
        return Err(bad(format!("{len} bytes, its header says {expected}; it is truncated or was changed")));
    }
    let mut tensors = BTreeMap::new();
    for (tensor, info) in metadata.tensors() {
        if info.dtype != Dtype::F32 {
            return Err(bad(format!("tensor {tensor} is of type {:?}; models hold F32", info.dtype)));
        }
        let (start, end) = info.data_offsets;
        tensors.insert(tensor, (8 + header + start as u64, ((end - start) / 4) as u64));
    }
    Ok(tensors)
}

impl Model {
    /// Reads the model in the folder `path`.
    pub fn load(storage: &Storage, path: &DataPath) -> Result<Self> {
        let reader = Reader::open(storage, path)?;
        let weights = reader.whole(WEIGHTS)?;
        let outputs = reader.description.outputs();
        if weights.len() as u64 != reader.description.features * outputs as u64 {
            return Err(Error::data(format!(
                "{path}: {} weights for {} features and {outputs} scores; the two files are not of one model",
                weights.len(),
                reader.description.features
            )));
        }
        let mut others = BTreeMap::new();
        for (name, _) in reader.tensors().filter(|(name, _)| *name != WEIGHTS) {
            others.insert(name.to_owned(), reader.whole(name)?);
        }
        let bias = others.remove(BIAS).unwrap_or_default();
        if !bias.is_empty() && bias.len() != outputs {
            return Err(Error::data(format!("{path}: {} constants for {outputs} scores", bias.len())));
        }
        if let Some(bad) = weights.iter().chain(&bias).find(|value| !value.is_finite()) {
            return Err(Error::data(format!(
                "{path}: the model holds the value {bad}: it was changed; train it again"
            )));
        }
        Ok(Self { description: reader.description, weights, bias, others })
    }
}
