//! The plan: the pure, deterministic description of a job.
//!
//! Invariant: a plan depends on the job's name and parameters alone, so the submitter, the master and every slave derive
//! the same one, and its [`Plan::hash`] proves it. Closures stay where they were made; only names and numbers travel.

mod compression;
mod consistency;
mod consumed;
mod describe;
mod filter;
mod group;
mod progress;
mod rights;
mod sound;
mod stage;
mod steps;
mod tables;

pub use compression::Compression;
pub use consistency::Consistency;
pub use filter::Significant;
pub use group::{Group, predecessors};
pub use progress::{DecideFn, Flow, NO_MODEL, Progress};
pub use rights::Rights;
pub use sound::WIDEST;
pub use stage::{StageBuilder, StageFn, StageSpec, Threads};
pub use steps::{Step, Steps};
pub use tables::{Storage, Table, TableOp, TableSpec};

use crate::data::InputSpec;
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::ids::{InputId, TableId};
use crate::value::Element;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A handle to an input of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Its place in the plan.
    pub id: InputId,
}

/// A table that is filled from a saved model.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSpec {
    /// The table to fill.
    pub table: TableId,
    /// The model's folder.
    pub model: DataPath,
    /// The tensor's name in it.
    pub tensor: String,
    /// The input whose rows the model must suit.
    pub input: InputId,
}

/// What is kept of a finished job. A job without an input can't save a model: nobody would know which rows it is for.
///
/// The values are saved as f32, whatever the tables' type. `flexps model`, `predict`, `evaluate` and `--init-model` take models
/// with a tensor `weights` of one value per feature, and maybe `bias`, of one; other programs read any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaveSpec {
    /// The model's folder.
    pub path: DataPath,
    /// Whether an existing one may be replaced.
    pub overwrite: bool,
    /// Tensors, each with a name of its own: one value per feature of `input`, or one in all for a table without features.
    pub tensors: Vec<SaveTensor>,
    /// The input whose labels, index base and feature count describe the model.
    pub input: InputId,
}

/// One tensor of a saved model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaveTensor {
    /// Its name in the file.
    pub name: String,
    /// Where its values come from.
    pub table: TableId,
    /// Number of keys; the input's number of features when none is given.
    pub keys: Option<u32>,
    /// Whether there are so many for each class, if there are more than two: those of class 0, then those of class 1, ...
    pub by_class: bool,
}

/// A column that goes with a job's checkpoints, see [`Plan::keep_column`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Of which rows.
    pub input: InputId,
    /// Its name.
    pub name: String,
}

/// A job's plan, built by [`crate::job::Job::plan`].
#[derive(Clone, Default)]
pub struct Plan {
    /// Tables by [`TableId`].
    pub tables: Vec<TableSpec>,
    /// Inputs by [`InputId`].
    pub inputs: Vec<InputSpec>,
    /// What of rows goes with checkpoints.
    pub columns: Vec<ColumnSpec>,
    /// Scalars at the start.
    pub scalars: BTreeMap<String, f64>,
    /// How values go between slaves.
    pub compression: Compression,
    /// Bytes of input files that are worth a further slave of a machine, where stages of [`Threads::Cores`] leave it to the
    /// engine how many there are; 0 where any are.
    pub slave_bytes: u64,
    /// The most slaves that it may use, if a user says so.
    pub most_slaves: Option<u32>,
    /// Whether the report tells a metric or a scalar of this name; if none, all.
    pub tells: Option<fn(&str) -> bool>,
    /// What is kept.
    pub save: Option<SaveSpec>,
    /// What is done.
    pub body: Steps,
}

impl Plan {
    /// Adds a dense table of `width` elements per key that starts at zero and whose updates add. Keys are 32 bits: see
    /// [`TableSpec`].
    pub fn table<T: Element>(&mut self, name: &str, width: u32) -> Table<T> {
        self.table_with(TableSpec {
            name: name.to_owned(),
            element: T::TYPE,
            width,
            storage: Storage::Dense,
            update: "add".to_owned(),
            update_params: Vec::new(),
        })
    }

    /// Adds a table as described. `spec.element` must be `T`'s type.
    pub fn table_with<T: Element>(&mut self, mut spec: TableSpec) -> Table<T> {
        spec.element = T::TYPE;
        let table = Table::new(TableId(place(self.tables.len())), spec.width);
        self.tables.push(spec);
        table
    }

    /// Adds an input.
    pub fn input(&mut self, spec: InputSpec) -> Result<Input> {
        if spec.paths.is_empty() {
            return Err(Error::user(format!("no --{} given", spec.name)));
        }
        let id = InputId(place(self.inputs.len()));
        self.inputs.push(spec);
        Ok(Input { id })
    }

    /// Has a column of `input` ([`crate::worker::Worker::put_column`]) go with checkpoints: one of which a round of a
    /// [`Steps::resumable`] repeat needs what those before left. It holds a value for each row of its block, or as many for each;
    /// where it was not put yet there is none to go. Where the job goes on it is there before the first stage, on whatever slaves
    /// have the rows then.
    pub fn keep_column(&mut self, input: Input, name: &str) {
        self.columns.push(ColumnSpec { input: input.id, name: name.to_owned() });
    }

    /// What `build` plans, at least one step, is done only if `scalar` has this value when its turn comes. Its tables and
    /// inputs are there in any case.
    pub fn when(&mut self, scalar: &str, value: f64, build: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = std::mem::take(&mut self.body);
        let built = build(self);
        let body = std::mem::replace(&mut self.body, before).0;
        self.body.0.push(Step::When { scalar: scalar.to_owned(), value, body });
        built
    }

    /// Says which tables are kept as a model.
    pub fn save(&mut self, save: SaveSpec) {
        self.save = Some(save);
    }

    /// Refuses a plan that speaks of what it lacks or asks for what can't be, or whose stages contradict themselves or one
    /// another, with their names.
    pub fn check(&self) -> Result<()> {
        sound::check(self)?;
        let table = |id: TableId| self.table_name(id);
        let input = |id: InputId| self.input_name(id);
        for StageSpec { name, consistency, filter, reads, updates, together, after, .. } in self.stages() {
            if let (Some(filter), Consistency::SparseSsp { .. }) = (filter, consistency) {
                return Err(Error::user(format!(
                    "stage {name} can't hold back small updates (filter {filter}) under sparse-ssp, which promises others \
                     all updates of a key before they go on; leave the filter out, or take bsp, ssp or asp"
                )));
            }
            if let Some(both) = updates.iter().find(|id| reads.contains(id)) {
                let both = table(*both);
                return Err(Error::user(format!(
                    "stage {name} says that it only reads table {both}, and that it updates it"
                )));
            }
            if let Some(first) = after.first().filter(|_| !together) {
                let text =
                    format!("stage {name} is to come after {first}, but stands alone: all before it has ended anyway");
                return Err(Error::user(text));
            }
        }
        self.compressed(None)?;
        fn walk(steps: &[Step], check: &impl Fn(&[StageSpec]) -> Result<()>) -> Result<()> {
            steps.iter().try_for_each(|step| match step {
                Step::Together(stages) => check(stages),
                Step::Repeat { body, .. } | Step::When { body, .. } | Step::Rebuilt(body) => walk(body, check),
                _ => Ok(()),
            })
        }
        consumed::check(&self.body.0, input)?;
        walk(&self.body.0, &|stages| group::check(stages, table, input))
    }

    /// A digest of all that nodes must agree on: every name, number and order of the plan, but not its closures.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.describe().as_bytes())
    }

    /// Gives every stage so many workers: on one slave where it is one slave's, over all of them else. The hash is then
    /// another one.
    pub fn fix_threads(&mut self, workers: u32) {
        fn fix(stage: &mut StageSpec, workers: u32) {
            stage.threads = match stage.threads {
                Threads::OneSlave(_) => Threads::OneSlave(workers),
                Threads::Visit(_) => Threads::Visit(workers),
                _ => Threads::Count(workers),
            };
        }
        self.change(&mut |stage| fix(stage, workers));
    }

    /// Gives every stage so many bytes of memory on each slave where it has workers. The hash is then another one.
    pub fn fix_memory(&mut self, bytes: u64) {
        self.change(&mut |stage| stage.memory = bytes);
    }

    fn change(&mut self, stage: &mut dyn FnMut(&mut StageSpec)) {
        fn walk(steps: &mut [Step], change: &mut dyn FnMut(&mut StageSpec)) {
            for step in steps {
                match step {
                    Step::Stage(stage) => change(stage),
                    Step::Together(stages) => stages.iter_mut().for_each(&mut *change),
                    Step::Repeat { body, .. } | Step::When { body, .. } | Step::Rebuilt(body) => walk(body, change),
                    _ => {}
                }
            }
        }
        walk(&mut self.body.0, stage);
    }

    /// A stage by its place among all.
    pub fn stage(&self, place: u32) -> Option<&StageSpec> {
        fn walk<'a>(steps: &'a [Step], left: &mut usize) -> Option<&'a StageSpec> {
            steps.iter().find_map(|step| {
                let stages = match step {
                    Step::Stage(stage) => std::slice::from_ref(stage),
                    Step::Together(stages) => stages,
                    Step::Repeat { body, .. } | Step::When { body, .. } | Step::Rebuilt(body) => {
                        return walk(body, left);
                    }
                    _ => &[],
                };
                let found = stages.get(*left);
                *left = left.saturating_sub(stages.len());
                found
            })
        }
        walk(&self.body.0, &mut (place as usize))
    }

    /// All stages, in order, each once.
    pub fn stages(&self) -> Vec<&StageSpec> {
        fn walk<'a>(steps: &'a [Step], found: &mut Vec<&'a StageSpec>) {
            for step in steps {
                match step {
                    Step::Stage(stage) => found.push(stage),
                    Step::Together(stages) => found.extend(stages),
                    Step::Repeat { body, .. } | Step::When { body, .. } | Step::Rebuilt(body) => walk(body, found),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.body.0, &mut found);
        found
    }
}

/// The number of what comes behind `count` others; [`Plan::check`] refuses a plan where it is not its own.
fn place(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_found_by_its_place_wherever_it_stands() {
        let mut plan = Plan::default();
        plan.body.stage("a", |_| Ok(()));
        plan.body.repeat(3, |round| {
            round.stage("b", |_| Ok(()));
            round.together(|group| {
                group.stage("c", |_| Ok(()));
                group.stage("d", |_| Ok(()));
            });
            round.repeat(2, |_| {});
        });
        plan.body.stage("e", |_| Ok(()));
        let all: Vec<&str> = plan.stages().iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(all, ["a", "b", "c", "d", "e"]);
        for (place, name) in (0..).zip(all) {
            assert_eq!(plan.stage(place).map(|stage| stage.name.as_str()), Some(name));
        }
        assert!(plan.stage(5).is_none());
    }
}
