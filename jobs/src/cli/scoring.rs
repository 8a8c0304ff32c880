//! A linear model applied to rows.
//!
//! Invariant: a score is summed in f64 in the order of the row's features; features beyond the model's count nothing.

use super::args::Applied;
use super::model::load;
use super::rows::Files;
use flexps_common::data::libsvm::{Parser, Place};
use flexps_common::data::{LabelMap, Row, Schema};
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
    /// Opens both.
    pub fn open(runtime: &Handle, applied: &Applied) -> Result<Self> {
        let model = load(&applied.model)?;
        if let Some((other, _)) = model.others.first_key_value() {
            return Err(Error::user(format!(
                "{} is no linear model: it holds a tensor {other} beside its weights",
                applied.model.display()
            )));
        }
        let files = Files::list(runtime, &applied.input)?;
        let schema = Schema {
            index_base: model.description.index_base,
            base_detected: false,
            features: None,
            labels: model.description.labels,
            labels_detected: false,
            bad_rows: 0,
        };
        Ok(Self { model, files, schema })
    }

    /// Takes rows whose labels are not the model's, such as the placeholders of rows whose label nobody knows yet.
    pub fn ignore_labels(&mut self) -> Result<()> {
        for sample in self.files.samples()? {
            let place = Place { path: &sample.path, offset: 0, line: Some(1) };
            if Parser::new(self.schema.clone()).parse(&sample.text, &place).is_err() {
                if let Ok(found) = self.files.detect() {
                    self.schema.labels = found.labels;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// The labels of the model's classes.
    pub fn labels(&self) -> LabelMap {
        self.model.description.labels
    }

    /// Calls `each` with the label (-1 or +1) and the score of every row, in order.
    pub fn each(&self, mut each: impl FnMut(f32, f64) -> Result<()>) -> Result<()> {
        self.files.each(&self.schema, |parsed| {
            (0..parsed.block.rows()).map(|i| parsed.block.row(i)).try_for_each(|row| each(row.label, self.score(row)))
        })
    }

    fn score(&self, row: Row<'_>) -> f64 {
        let weight = |index: u32| self.model.weights.get(index as usize).map_or(0.0, |w| f64::from(*w));
        let sum: f64 = match row.values {
            Some(values) => row.indices.iter().zip(values).map(|(i, v)| weight(*i) * f64::from(*v)).sum(),
            None => row.indices.iter().map(|i| weight(*i)).sum(),
        };
        sum + f64::from(self.model.bias.unwrap_or(0.0))
    }
}
