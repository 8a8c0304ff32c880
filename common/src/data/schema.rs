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
    /// Labels of the classes, the negative one of two first, when given; detected otherwise.
    pub labels: Option<Labels>,
    /// What labels are for.
    pub wanted: Wanted,
    /// How many bad rows may be skipped before the job fails.
    pub bad_rows: u64,
    /// The input whose schema this one shares (a validation set shares the training set's).
    pub like: Option<crate::ids::InputId>,
}

impl InputSpec {
    /// An input of which all is detected and no bad row is skipped.
    pub fn new(name: &str, paths: Vec<DataPath>) -> Self {
        Self {
            name: name.to_owned(),
            paths,
            index_base: None,
            features: None,
            labels: None,
            wanted: Wanted::Two,
            bad_rows: 0,
            like: None,
        }
    }
}

/// What the labels of an input mean: the file's labels of two classes, the negative one first; those of more classes,
/// rising; or none where labels are numbers that a model is to meet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Labels(Vec<f32>);

/// From here on f32 leaves numbers out.
pub const DENSE: f32 = 16_777_216.0;

/// Whether the label of a class is written as `text` is: of large ones f32 leaves some out, and another would stand for them.
pub fn is_exact(text: &str, label: f32) -> bool {
    if label.abs() < DENSE || !label.is_finite() {
        return true;
    }
    let shown = label.to_string();
    match (text.parse::<i128>(), shown.parse::<i128>()) {
        (Ok(text), Ok(shown)) => text == shown,
        _ => text.parse::<f64>() == shown.parse(),
    }
}

/// What a user is told of the quoted label of a class that is not [`is_exact`].
pub fn too_large(label: &str) -> String {
    format!(
        "label {label} is too large for a class: above {DENSE} not all whole numbers are told apart; renumber the classes"
    )
}

/// What labels are taken for unless the user gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// Those of two classes.
    #[default]
    Two,
    /// Those of two or more classes.
    Classes,
    /// Numbers.
    Numbers,
}

impl Labels {
    /// Those of two classes.
    pub fn two(negative: f32, positive: f32) -> Self {
        Self(vec![negative, positive])
    }

    /// Those of so many classes, at least two and no two the same.
    pub fn classes(labels: Vec<f32>) -> Self {
        Self(labels)
    }

    /// Any numbers.
    pub fn numbers() -> Self {
        Self(Vec::new())
    }

    /// The file's labels: by class, or none where they are numbers.
    pub fn all(&self) -> &[f32] {
        &self.0
    }

    /// The file's label for what a row holds.
    pub fn of(&self, code: f32) -> f32 {
        match self.0[..] {
            [negative, positive] => {
                if code > 0.0 {
                    positive
                } else {
                    negative
                }
            }
            [] => code,
            ref all => all.get(code as usize).copied().unwrap_or(code),
        }
    }

    /// What a row holds for the file's `label`: -1 or +1 of two classes, the place among more, the number itself; none
    /// for a label of no class, or no number.
    #[inline]
    pub fn code(&self, label: f32) -> Option<f32> {
        match self.0[..] {
            [negative, positive] => {
                let known = label == positive || label == negative;
                known.then_some(if label == positive { 1.0 } else { -1.0 })
            }
            [] => label.is_finite().then_some(label),
            ref all => all.iter().position(|one| *one == label).map(|at| at as f32),
        }
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.split_last() {
            None => f.write_str("numbers"),
            Some((last, others)) => {
                let others: Vec<_> = others.iter().map(f32::to_string).collect();
                write!(f, "{} and {last}", others.join(", "))
            }
        }
    }
}

impl FromStr for Labels {
    type Err = Error;

    /// `NEG,POS`, e.g. `1,2`, or more classes, e.g. `1,2,3`.
    fn from_str(s: &str) -> Result<Self> {
        let rounded = |one: &&str| one.parse().is_ok_and(|label| !is_exact(one, label));
        if let Some(one) = s.split(',').map(str::trim).find(rounded) {
            return Err(Error::user(too_large(&format!("'{one}'"))));
        }
        let parsed: Option<Vec<f32>> = s.split(',').map(|one| one.trim().parse().ok()).collect();
        let distinct = |all: &[f32]| all.iter().enumerate().all(|(i, one)| one.is_finite() && !all[..i].contains(one));
        match parsed {
            Some(all) if all.len() >= 2 && distinct(&all) => Ok(Self(all)),
            _ => Err(Error::user(format!("'{s}' are no labels of classes; give NEGATIVE,POSITIVE, e.g. 1,2, or more"))),
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
    pub labels: Labels,
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
    /// What its labels mean.
    pub labels: Labels,
    /// Rows of the positive class, of two.
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
    /// Features that occur, about: hardly more than this. 0 where it is not known; of a whole input alone.
    #[serde(default)]
    pub occurring: u64,
}

impl Facts {
    /// Merges the facts of another part of the same input in.
    pub fn merge(&mut self, other: &Facts) {
        self.rows += other.rows;
        if self.labels.all().is_empty() {
            self.labels.clone_from(&other.labels);
        }
        self.positives += other.positives;
        self.nonzeros += other.nonzeros;
        self.features = self.features.max(other.features);
        self.empty_rows += other.empty_rows;
        self.bad_rows += other.bad_rows;
        self.max_norm2 = self.max_norm2.max(other.max_norm2);
        self.sum_norm2 += other.sum_norm2;
    }
}
