//! What an input is taken for before it is read (schema), and what it turned out to be (facts).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A path as a user gives it: local (made absolute where it is given, so that it means the same on every node),
/// `file://` or `hdfs://`; a file, a directory or a glob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DataPath(pub String);

impl FromStr for DataPath {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if s.is_empty() {
            return Err(Error::user("an empty path; give a file, a directory, a glob or an hdfs:// URL"));
        }
        if s.starts_with("hdfs://") || s.starts_with("viewfs://") {
            return Ok(Self(s.to_owned()));
        }
        if let Some((scheme, _)) = s.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            return Err(Error::user(format!("'{s}': scheme {scheme}:// is not known; use a path, file:// or hdfs://")));
        }
        let local = s.strip_prefix("file://").unwrap_or(s);
        let absolute = std::path::absolute(local).map_err(|e| crate::error::io(local, &e))?;
        Ok(Self(absolute.to_string_lossy().into_owned()))
    }
}

impl std::fmt::Display for DataPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an input's text is to be read: what the user fixed; the rest is detected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// What the report calls it, e.g. `input` or `validation`.
    pub name: String,
    /// Files, directories, globs.
    pub paths: Vec<DataPath>,
    /// 0 or 1 when given; detected otherwise.
    pub index_base: Option<u32>,
    /// Number of features when given; found otherwise.
    pub features: Option<u64>,
    /// Labels of the negative and the positive class when given; detected otherwise.
    pub labels: Option<LabelMap>,
    /// How many bad rows may be skipped before the job fails.
    pub bad_rows: u64,
    /// The input whose schema this one shares (a validation set shares the training set's).
    pub like: Option<crate::ids::InputId>,
}

impl InputSpec {
    /// An input of which all is detected and no bad row is skipped.
    pub fn new(name: &str, paths: Vec<DataPath>) -> Self {
        Self { name: name.to_owned(), paths, index_base: None, features: None, labels: None, bad_rows: 0, like: None }
    }
}

/// The file's labels of the two classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LabelMap {
    /// Becomes -1.
    pub negative: f32,
    /// Becomes +1.
    pub positive: f32,
}

impl FromStr for LabelMap {
    type Err = Error;

    /// `NEG,POS`, e.g. `1,2`.
    fn from_str(s: &str) -> Result<Self> {
        let parsed = s.split_once(',').and_then(|(n, p)| Some((n.trim().parse().ok()?, p.trim().parse().ok()?)));
        match parsed {
            Some((negative, positive)) if negative != positive => Ok(Self { negative, positive }),
            _ => Err(Error::user(format!("'{s}' is no pair of labels; give NEGATIVE,POSITIVE, e.g. 1,2"))),
        }
    }
}

/// How every reader of an input takes its rows: fixed by the master before the first byte is parsed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Subtracted from each index.
    pub index_base: u32,
    /// Whether the base was found, not given: an index that contradicts it then says how to give it.
    pub base_detected: bool,
    /// Largest allowed number of features, when given.
    pub features: Option<u64>,
    /// Which labels mean what.
    pub labels: LabelMap,
    /// Whether the labels were found, not given.
    pub labels_detected: bool,
    /// Bad rows allowed over all slaves.
    pub bad_rows: u64,
}

/// What an input turned out to hold. Merges over blocks, slaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Rows.
    pub rows: u64,
    /// Rows of the positive class.
    pub positives: u64,
    /// Non-zeros.
    pub nonzeros: u64,
    /// Largest index + 1 - base, or the number that was given.
    pub features: u64,
    /// Rows without features.
    pub empty_rows: u64,
    /// Bad rows that were skipped.
    pub bad_rows: u64,
    /// Largest squared norm of a row.
    pub max_norm2: f64,
    /// Sum of the squared norms.
    pub sum_norm2: f64,
}

impl Facts {
    /// Merges the facts of another part of the same input in.
    pub fn merge(&mut self, other: &Facts) {
        self.rows += other.rows;
        self.positives += other.positives;
        self.nonzeros += other.nonzeros;
        self.features = self.features.max(other.features);
        self.empty_rows += other.empty_rows;
        self.bad_rows += other.bad_rows;
        self.max_norm2 = self.max_norm2.max(other.max_norm2);
        self.sum_norm2 += other.sum_norm2;
    }
}
