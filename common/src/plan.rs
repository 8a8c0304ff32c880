//! The plan: the pure, deterministic description of a job.
//!
//! Invariant: a plan depends on the job's name and parameters alone, so the submitter, the master and every slave derive
//! the same one, and its [`Plan::hash`] proves it. Closures stay where they were made; only names and numbers travel.

use crate::data::InputSpec;
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::ids::{InputId, TableId};
use crate::metrics::Metrics;
use crate::value::{Element, Type};
use crate::worker::Worker;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// A typed handle to a table of the plan.
#[derive(Debug)]
pub struct Table<T> {
    /// Its place in the plan.
    pub id: TableId,
    /// Elements per key.
    pub width: u32,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

/// A handle to an input of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Its place in the plan.
    pub id: InputId,
}

/// How a chunk keeps its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// An array per chunk, made when the chunk is first written.
    Dense,
    /// A hash table per chunk.
    Sparse,
}

/// A table of the plan. Its keys are 0..2^32; chunks nobody touches take no memory, so no count is needed beforehand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// What the report and the model call it.
    pub name: String,
    /// Element type.
    pub element: Type,
    /// Elements per key.
    pub width: u32,
    /// Dense or sparse chunks.
    pub storage: Storage,
    /// The server function that an Add runs: `add`, `assign`, `max`, `sgd`, `adagrad` or `ftrl` (see [`crate::update`]), or
    /// one that the user registered.
    pub update: String,
    /// The function's parameters, e.g. the step size.
    pub update_params: Vec<f64>,
}

impl TableSpec {
    /// Keys of one chunk: a power of two, at most 2^16, so that a chunk takes 256 KiB or less unless one key is wider.
    pub fn chunk_keys(&self) -> u32 {
        let fits = (1 << 18) / (self.width as usize * self.element.size()).max(1);
        1 << fits.clamp(1, 1 << 16).ilog2()
    }
}

/// Which updates of others a worker must see, and how far it may run ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// Bulk synchronous: at clock c a worker sees exactly the updates of clocks below c.
    Bsp,
    /// Stale synchronous: at clock c it sees at least the updates of clocks below c - staleness.
    Ssp {
        /// Most clocks that a worker may be ahead of the slowest.
        staleness: u32,
    },
    /// Asynchronous: it never waits.
    Asp,
}

/// A stage's number of worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Threads {
    /// So many over all slaves.
    Count(u32),
    /// Every slot of every slave that the job uses.
    All,
    /// So many on each slave that holds rows of the stage's input.
    PerSlave(u32),
}

/// The function that a stage's workers run.
pub type StageFn = Arc<dyn Fn(&mut Worker<'_>) -> Result<()> + Send + Sync>;

/// The function that decides, in the master, how a repeat goes on. Pure: what it may look at is in [`Progress`].
pub type DecideFn = Arc<dyn Fn(&mut Progress) -> Result<Flow> + Send + Sync>;

/// One stage of the plan.
#[derive(Clone)]
pub struct StageSpec {
    /// Name in reports and errors.
    pub name: String,
    /// Its workers.
    pub threads: Threads,
    /// What they must see of one another.
    pub consistency: Consistency,
    /// The input whose rows it passes over; it then runs on every slave that holds rows of it.
    pub input: Option<InputId>,
    /// What each worker runs.
    pub run: StageFn,
}

/// What the servers do to whole tables, without traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TableOp {
    /// `to = from`; equal widths and types.
    Copy {
        /// Source.
        from: TableId,
        /// Destination.
        to: TableId,
    },
    /// All values 0.
    Zero {
        /// The table.
        table: TableId,
    },
    /// `table *= by`.
    Scale {
        /// The table.
        table: TableId,
        /// The factor.
        by: f64,
    },
    /// Puts the squared Euclidean norm, summed in f64 in chunk order, into a scalar.
    Norm2 {
        /// The table.
        table: TableId,
        /// Name of the scalar.
        into: String,
    },
}

/// One step of a plan.
#[derive(Clone)]
pub enum Step {
    /// Worker threads run a function.
    Stage(StageSpec),
    /// The servers change tables.
    Op(TableOp),
    /// The master fills a table from a saved model.
    Load {
        /// The table to fill.
        table: TableId,
        /// The model's folder.
        model: DataPath,
        /// The tensor's name in it.
        tensor: String,
    },
    /// The master decides how the innermost repeat goes on.
    Decide(DecideFn),
    /// The body again and again.
    Repeat {
        /// Most rounds.
        times: u64,
        /// Each round's steps.
        body: Vec<Step>,
    },
}

/// How a repeat goes on after a decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Flow {
    /// With the next step.
    Next,
    /// With the round's first step; the round is not counted.
    Again,
    /// Behind the repeat; the text says why, for the report.
    Stop(String),
}

/// What a decision sees and may change.
#[derive(Debug)]
pub struct Progress {
    /// The round of the innermost repeat, from 0.
    pub epoch: u64,
    /// Since the job started its first step.
    pub elapsed: Duration,
    /// Named numbers of the job: decisions and norms set them, workers read them.
    pub scalars: BTreeMap<String, f64>,
    /// The last run of each stage, by name.
    pub metrics: BTreeMap<String, Metrics>,
    /// Facts of each input that was read whole, by input.
    pub facts: Vec<Option<crate::data::Facts>>,
    /// Operations that the decision orders; they run before the flow goes on.
    pub ops: Vec<TableOp>,
    /// Objective of the round that just ended, for the report and the progress line.
    pub objective: Option<f64>,
    /// Further numbers of the round for the report, e.g. validation loss.
    pub epoch_metrics: BTreeMap<String, f64>,
}

impl Progress {
    /// A scalar, or `default` when nobody set it.
    pub fn scalar(&self, name: &str, default: f64) -> f64 {
        self.scalars.get(name).copied().unwrap_or(default)
    }

    /// Sets a scalar.
    pub fn set(&mut self, name: &str, value: f64) {
        self.scalars.insert(name.to_owned(), value);
    }

    /// A metric of the last run of `stage`; an error of ours when the stage did not report it.
    pub fn metric(&self, stage: &str, name: &str) -> Result<f64> {
        let found = self.metrics.get(stage).and_then(|m| m.value(name));
        found.ok_or_else(|| Error::bug(format!("stage {stage} reported no {name}")))
    }

    /// Orders a copy inside the servers.
    pub fn copy<T>(&mut self, from: Table<T>, to: Table<T>) {
        self.ops.push(TableOp::Copy { from: from.id, to: to.id });
    }
}

/// What is kept of a finished job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaveSpec {
    /// The model's folder.
    pub path: DataPath,
    /// Whether an existing one may be replaced.
    pub overwrite: bool,
    /// Tensors: name, table; one value per feature of `input`, or one in all for a table without features.
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
}

/// A job's plan, built by [`crate::job::Job::plan`].
#[derive(Clone, Default)]
pub struct Plan {
    /// Tables by [`TableId`].
    pub tables: Vec<TableSpec>,
    /// Inputs by [`InputId`].
    pub inputs: Vec<InputSpec>,
    /// Scalars at the start.
    pub scalars: BTreeMap<String, f64>,
    /// What is kept.
    pub save: Option<SaveSpec>,
    /// What is done.
    pub body: Steps,
}

/// A sequence of steps under construction.
#[derive(Clone, Default)]
pub struct Steps(pub Vec<Step>);

/// Refines the stage that was just added.
pub struct StageBuilder<'a>(&'a mut StageSpec);

impl Plan {
    /// Adds a dense table of `width` elements per key that starts at zero and whose updates add.
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
        let table = Table { id: TableId(self.tables.len() as u16), width: spec.width, element: PhantomData };
        self.tables.push(spec);
        table
    }

    /// Adds an input.
    pub fn input(&mut self, spec: InputSpec) -> Result<Input> {
        if spec.paths.is_empty() {
            return Err(Error::user(format!("no --{} given", spec.name)));
        }
        let id = InputId(self.inputs.len() as u16);
        self.inputs.push(spec);
        Ok(Input { id })
    }

    /// Says which tables are kept as a model.
    pub fn save(&mut self, save: SaveSpec) {
        self.save = Some(save);
    }

    /// A digest of all that nodes must agree on: every name, number and order of the plan, but not its closures.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.describe().as_bytes())
    }

    /// The plan as text: tables, inputs, then the steps, indented by repeat.
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        for t in &self.tables {
            let _ = writeln!(
                out,
                "table {}: {:?} x {}, {:?}, {}{}",
                t.name,
                t.element,
                t.width,
                t.storage,
                t.update,
                if t.update_params.is_empty() { String::new() } else { format!(" {:?}", t.update_params) }
            );
        }
        for i in &self.inputs {
            let paths: Vec<_> = i.paths.iter().map(|p| p.0.as_str()).collect();
            let _ = writeln!(out, "input {}: {}", i.name, paths.join(" "));
        }
        for (name, value) in &self.scalars {
            let _ = writeln!(out, "scalar {name} = {value}");
        }
        self.describe_steps(&self.body.0, 0, &mut out);
        if let Some(save) = &self.save {
            let names: Vec<_> = save.tensors.iter().map(|t| t.name.as_str()).collect();
            let _ = writeln!(out, "save {} to {}", names.join(", "), save.path);
        }
        out
    }

    fn describe_steps(&self, steps: &[Step], depth: usize, out: &mut String) {
        use std::fmt::Write;
        let name = |id: &TableId| self.tables[id.0 as usize].name.as_str();
        for step in steps {
            let _ = write!(out, "{:1$}", "", 2 * depth);
            let _ = match step {
                Step::Stage(s) => {
                    let input =
                        s.input.map_or(String::new(), |i| format!(", rows of {}", self.inputs[i.0 as usize].name));
                    writeln!(out, "stage {}: threads {:?}, {:?}{input}", s.name, s.threads, s.consistency)
                }
                Step::Op(TableOp::Copy { from, to }) => writeln!(out, "copy {} to {}", name(from), name(to)),
                Step::Op(TableOp::Zero { table }) => writeln!(out, "zero {}", name(table)),
                Step::Op(TableOp::Scale { table, by }) => writeln!(out, "scale {} by {by}", name(table)),
                Step::Op(TableOp::Norm2 { table, into }) => writeln!(out, "norm2 of {} into {into}", name(table)),
                Step::Load { table, model, tensor } => {
                    writeln!(out, "load {} from {tensor} of {model}", name(table))
                }
                Step::Decide(_) => writeln!(out, "decide"),
                Step::Repeat { times, body } => {
                    let _ = writeln!(out, "repeat at most {times} times");
                    self.describe_steps(body, depth + 1, out);
                    Ok(())
                }
            };
        }
    }

    /// All stages, in order, each once.
    pub fn stages(&self) -> Vec<&StageSpec> {
        fn walk<'a>(steps: &'a [Step], found: &mut Vec<&'a StageSpec>) {
            for step in steps {
                match step {
                    Step::Stage(stage) => found.push(stage),
                    Step::Repeat { body, .. } => walk(body, found),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.body.0, &mut found);
        found
    }
}

impl Steps {
    /// Adds a stage on every slot under BSP; refine it with the builder.
    pub fn stage(
        &mut self,
        name: &str,
        run: impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> StageBuilder<'_> {
        self.0.push(Step::Stage(StageSpec {
            name: name.to_owned(),
            threads: Threads::All,
            consistency: Consistency::Bsp,
            input: None,
            run: Arc::new(run),
        }));
        match self.0.last_mut() {
            Some(Step::Stage(spec)) => StageBuilder(spec),
            _ => unreachable!("a stage was just pushed"),
        }
    }

    /// `to = from`, inside the servers.
    pub fn copy<T>(&mut self, from: Table<T>, to: Table<T>) -> &mut Self {
        self.op(TableOp::Copy { from: from.id, to: to.id })
    }

    /// All values of `table` to zero.
    pub fn zero<T>(&mut self, table: Table<T>) -> &mut Self {
        self.op(TableOp::Zero { table: table.id })
    }

    /// `table *= by`.
    pub fn scale<T>(&mut self, table: Table<T>, by: f64) -> &mut Self {
        self.op(TableOp::Scale { table: table.id, by })
    }

    /// Puts the squared norm of `table` into the scalar `into`.
    pub fn norm2<T>(&mut self, table: Table<T>, into: &str) -> &mut Self {
        self.op(TableOp::Norm2 { table: table.id, into: into.to_owned() })
    }

    /// Fills `table` from a tensor of a saved model.
    pub fn load<T>(&mut self, table: Table<T>, model: &DataPath, tensor: &str) -> &mut Self {
        self.0.push(Step::Load { table: table.id, model: model.clone(), tensor: tensor.to_owned() });
        self
    }

    /// Lets the master decide how the innermost repeat goes on.
    pub fn decide(&mut self, decide: impl Fn(&mut Progress) -> Result<Flow> + Send + Sync + 'static) -> &mut Self {
        self.0.push(Step::Decide(Arc::new(decide)));
        self
    }

    /// Repeats what `build` adds, at most `times` times.
    pub fn repeat(&mut self, times: u64, build: impl FnOnce(&mut Steps)) -> &mut Self {
        let mut body = Steps::default();
        build(&mut body);
        self.0.push(Step::Repeat { times, body: body.0 });
        self
    }

    fn op(&mut self, op: TableOp) -> &mut Self {
        self.0.push(Step::Op(op));
        self
    }
}

impl StageBuilder<'_> {
    /// Its number of workers.
    pub fn threads(self, threads: Threads) -> Self {
        self.0.threads = threads;
        self
    }

    /// Its consistency model.
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.0.consistency = consistency;
        self
    }

    /// The input whose rows it passes over.
    pub fn input(self, input: Input) -> Self {
        self.0.input = Some(input.id);
        self
    }
}
