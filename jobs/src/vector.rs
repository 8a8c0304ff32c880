//! A vector of the model's shape over tables: one value per feature, and one for the bias when there is one.
//!
//! Invariant: features and bias are always changed together, so copies, sums and saved models never mix two states.

use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::data::schema::DataPath;
use flexps_common::plan::{Input, Plan, Progress, SaveTensor, StageBuilder, Steps, Table};
use flexps_common::worker::Worker;

/// A vector over tables.
#[derive(Debug, Clone, Copy)]
pub struct Vector {
    /// One value per feature.
    pub features: Table<f32>,
    /// One value, at key 0. Apart from the features, so that their norm leaves it out.
    pub bias: Option<Table<f32>>,
}

impl Vector {
    /// A vector of zeros.
    pub fn new(plan: &mut Plan, name: &str, bias: bool) -> Self {
        Self {
            features: plan.table(name, 1),
            bias: bias
                .then(|| plan.table(&if name == "weights" { "bias".to_owned() } else { format!("{name}-bias") }, 1)),
        }
    }

    /// Plans that a stage only reads this vector.
    pub fn only_read(self, stage: StageBuilder<'_>) -> StageBuilder<'_> {
        let stage = stage.reads(self.features);
        match self.bias {
            Some(bias) => stage.reads(bias),
            None => stage,
        }
    }

    /// Plans that a stage may read and update this vector rounded.
    pub fn may_round(self, stage: StageBuilder<'_>) -> StageBuilder<'_> {
        let stage = stage.may_round(self.features);
        match self.bias {
            Some(bias) => stage.may_round(bias),
            None => stage,
        }
    }

    /// Plans that this vector becomes zero.
    pub fn zero(self, steps: &mut Steps) {
        steps.zero(self.features);
        if let Some(bias) = self.bias {
            steps.zero(bias);
        }
    }

    /// Plans that this vector is read from a model for the rows of `input`.
    pub fn load(self, steps: &mut Steps, model: &DataPath, input: Input) {
        steps.load(self.features, model, "weights", input);
        if let Some(bias) = self.bias {
            steps.load(bias, model, "bias", input);
        }
    }

    /// Orders, in a decision, that `to` becomes this vector.
    pub fn copy(self, progress: &mut Progress, to: Vector) {
        progress.copy(self.features, to.features);
        if let (Some(from), Some(to)) = (self.bias, to.bias) {
            progress.copy(from, to);
        }
    }

    /// The tensors of a saved model.
    pub fn tensors(self) -> Vec<SaveTensor> {
        let weights = SaveTensor { name: "weights".to_owned(), table: self.features.id, keys: None, by_class: true };
        let bias =
            self.bias.map(|bias| SaveTensor { name: "bias".to_owned(), table: bias.id, keys: Some(1), by_class: true });
        std::iter::once(weights).chain(bias).collect()
    }

    /// Reads the values of all local features, and gives the bias, 0 when there is none.
    pub fn get(self, worker: &mut Worker<'_>, map: &KeyMap, out: &mut Vec<f32>) -> Result<f32> {
        worker.get_mapped(self.features, map, out)?;
        self.get_bias(worker)
    }

    /// The bias, 0 when there is none.
    pub fn get_bias(self, worker: &mut Worker<'_>) -> Result<f32> {
        let Some(table) = self.bias else { return Ok(0.0) };
        let mut bias = Vec::new();
        worker.get(table, &[0], &mut bias)?;
        Ok(bias[0])
    }

    /// Adds to the values of all local features, and to the bias when there is one.
    pub fn add(self, worker: &mut Worker<'_>, map: &KeyMap, values: &[f32], bias: f32) -> Result<()> {
        worker.add_mapped(self.features, map, values)?;
        self.add_bias(worker, bias)
    }

    /// Adds to the bias when there is one.
    pub fn add_bias(self, worker: &mut Worker<'_>, bias: f32) -> Result<()> {
        self.bias.map_or(Ok(()), |table| worker.add(table, &[0], &[bias]))
    }
}
