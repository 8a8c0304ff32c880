//! The model folder, on a local disk or in HDFS: `model.safetensors` (tensors of f32, `weights` first of all) and
//! `model.json` ([`Description`]).
//!
//! Invariant: at the model's path there is a whole model or none: it is written to a folder beside, synced, and renamed.
//! Neither writing nor [`Reader`] ever holds more than the caller's chunk in memory.

mod local;
mod place;
mod reader;
#[cfg(feature = "hdfs")]
mod remote;
mod writer;

pub use reader::{Model, Reader};
pub use writer::{TensorSpec, Writer, check};

use crate::data::{Facts, Labels, Schema};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The tensor of one value per feature.
pub const WEIGHTS: &str = "weights";
/// The tensor of the one unpenalised constant.
pub const BIAS: &str = "bias";

const TENSORS_FILE: &str = "model.safetensors";
const DESCRIPTION_FILE: &str = "model.json";

/// What one must know to apply a model, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The flexps that wrote it, e.g. `flexps 0.1.0`.
    pub created_by: String,
    /// The job's name.
    pub job: String,
    /// The job's parameters.
    pub params: serde_json::Value,
    /// The labels of the classes, as in the input; none of a model of numbers.
    pub labels: Labels,
    /// The index of the first feature in the input.
    pub index_base: u32,
    /// Number of features, which is the length of `weights`.
    pub features: u64,
    /// What the input held.
    pub facts: Facts,
    /// The objective at the end, when the job computes one.
    pub objective: Option<f64>,
    /// Rounds that the job made.
    pub epochs: u64,
}

impl Description {
    /// Scores that a row gets: one, or one for each of more than two classes.
    pub fn outputs(&self) -> usize {
        outputs(&self.labels)
    }

    /// Refuses rows of this schema as ones to go on learning from: of another number of scores, or of features that are numbered
    /// from elsewhere.
    pub fn check_suits(&self, schema: &Schema) -> Result<()> {
        if self.outputs() != outputs(&schema.labels) {
            return Err(Error::user(format!(
                "a model of the labels {}, while the rows have {}; one to start from needs as many classes",
                self.labels, schema.labels
            )));
        }
        if self.index_base != schema.index_base {
            return Err(Error::user(format!(
                "a model of features that are numbered from {}, while those of the rows are taken to be from {}; give \
                 --index-base {} if theirs are too",
                self.index_base, schema.index_base, self.index_base
            )));
        }
        Ok(())
    }

    /// Refuses to read a tensor of so many `keys` for rows of another number of features, where it holds one class after the other:
    /// the weights of all but the first would be taken for those of other features.
    pub fn check_width(&self, keys: u64, rows: &Facts) -> Result<()> {
        let (classes, own) = (self.outputs() as u64, self.features);
        if classes == 1 || keys != classes * own || own == rows.features {
            return Ok(());
        }
        let way = if own > rows.features { format!("give --features {own}") } else { "learn without it".to_owned() };
        Err(Error::user(format!(
            "a model of {own} features for each of {classes} classes, while the rows have {}; one to start from needs as many: {way}",
            rows.features
        )))
    }
}

fn outputs(labels: &Labels) -> usize {
    match labels.all().len() {
        0..=2 => 1,
        classes => classes,
    }
}

/// Who writes models of this build.
pub fn created_by() -> String {
    concat!("flexps ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Whether these are the bytes of a description, of whatever build: other programs have files of that name too.
fn created_by_flexps(described: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Origin {
        created_by: String,
    }
    serde_json::from_slice(described).is_ok_and(|Origin { created_by }| created_by.starts_with("flexps "))
}

#[cfg(test)]
mod tests;
