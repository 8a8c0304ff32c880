//! A linear model applied to rows.
//!
//! Invariant: a score is summed in f64 in the order of the row's features; features beyond the model's count nothing.

use super::args::Applied;
use super::model::load;
use super::rows::Files;
use flexps_common::data::libsvm::without_flags;
use flexps_common::data::schema::DataPath;
use flexps_common::data::{Labels, Row, Schema};
use flexps_common::model::Model;
use flexps_common::{Error, Result};
use tokio::runtime::Handle;

/// A model and the rows that it is applied to.
pub struct Scoring {
    model: Model,
    files: Files,
    schema: Schema,
}

impl Scoring {
    /// Opens both; `list` says in which order the files come.
    pub fn open(runtime: &Handle, applied: &Applied, list: fn(&Handle, &[DataPath]) -> Result<Files>) -> Result<Self> {
        let model = load(&applied.model)?;
        if let Some((other, _)) = model.others.first_key_value() {
            return Err(Error::user(format!(
                "{} is no linear model: it holds a tensor {other} beside its weights",
                applied.model.display()
            )));
        }
        let files = list(runtime, &applied.input)?;
        let schema = Schema {
            index_base: model.description.index_base,
            base_detected: false,
            features: None,
            labels: model.description.labels.clone(),
            labels_detected: false,
            bad_rows: 0,
        };
        Ok(Self { model, files, schema })
    }

    /// Takes rows whose labels are not the model's, such as the placeholders of rows whose label nobody knows yet.
    pub fn ignore_labels(&mut self) {
        self.schema.labels = Labels::numbers();
    }

    /// The job that made the model.
    pub fn job(&self) -> &str {
        &self.model.description.job
    }

    /// What the model's labels mean.
    pub fn labels(&self) -> &Labels {
        &self.model.description.labels
    }

    /// Calls `each` with the label, as [`Labels::code`] gives it, and the scores of every row, in order: one score, or one
    /// for each of more than two classes.
    pub fn each(&self, mut each: impl FnMut(f32, &[f64]) -> Result<()>) -> Result<()> {
        let mut scores = vec![0.0; self.model.description.outputs()];
        let done = self.files.each(&self.schema, |parsed| {
            (0..parsed.block.rows()).map(|i| parsed.block.row(i)).try_for_each(|row| {
                scores.iter_mut().enumerate().for_each(|(output, score)| *score = self.score(row, output));
                each(row.label, &scores)
            })
        });
        done.map_err(without_flags)
    }

    fn score(&self, row: Row<'_>, output: usize) -> f64 {
        let features = self.model.description.features as usize;
        let weights = &self.model.weights[output * features..(output + 1) * features];
        let weight = |index: u32| weights.get(index as usize).map_or(0.0, |w| f64::from(*w));
        let sum: f64 = match row.values {
            Some(values) => row.indices.iter().zip(values).map(|(i, v)| weight(*i) * f64::from(*v)).sum(),
            None => row.indices.iter().map(|i| weight(*i)).sum(),
        };
        sum + self.model.bias.get(output).copied().map_or(0.0, f64::from)
    }
}

/// The output with the highest score; the first of equals.
pub fn highest(scores: &[f64]) -> usize {
    let better = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (1..scores.len()).fold(0, better)
}
