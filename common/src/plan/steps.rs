//! The steps of a plan, and how a job writes them down.

use super::{DecideFn, Flow, Group, Input, LoadSpec, Progress, StageBuilder, StageSpec, Table, TableOp};
use crate::data::schema::DataPath;
use crate::error::Result;
use crate::worker::Worker;
use std::sync::Arc;

/// One step of a plan.
#[derive(Clone)]
pub enum Step {
    /// Worker threads run a function.
    Stage(StageSpec),
    /// Stages that may run side by side, each after those that it names; see [`Steps::together`].
    Together(Vec<StageSpec>),
    /// The servers change tables.
    Op(TableOp),
    /// The master fills a table from a saved model.
    Load(LoadSpec),
    /// The master decides how the innermost repeat goes on.
    Decide(DecideFn),
    /// The body again and again.
    Repeat {
        /// Most rounds.
        times: u64,
        /// Each round's steps.
        body: Vec<Step>,
        /// Whether a job may go on from the begin of a round; see [`Steps::resumable`].
        resumable: bool,
    },
    /// The body, which is done once more where the job goes on from a checkpoint; see [`Steps::rebuilt`].
    Rebuilt(Vec<Step>),
    /// The body, if the scalar has this value when its turn comes; a decision has set it.
    When {
        /// The scalar's name.
        scalar: String,
        /// The value.
        value: f64,
        /// What is then done.
        body: Vec<Step>,
    },
}

/// A sequence of steps under construction.
#[derive(Clone, Default)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    /// Adds a stage on as many slots as there are cores ([`super::Threads::Cores`]), under BSP; refine it with the builder.
    pub fn stage(
        &mut self,
        name: &str,
        run: impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> StageBuilder<'_> {
        self.0.push(Step::Stage(StageSpec::new(name, run)));
        match self.0.last_mut() {
            Some(Step::Stage(spec)) => StageBuilder(spec),
            _ => unreachable!("a stage was just pushed"),
        }
    }

    /// Adds the stages that `build` makes, which depend on one another as [`StageBuilder::after`] says and not as they
    /// follow one another: those that wait for none of them begin at once, and run side by side where slots are free. The
    /// next step begins when all have ended. While they run, tables stay where they are.
    pub fn together(&mut self, build: impl FnOnce(&mut Group<'_>)) -> &mut Self {
        let mut stages = Vec::new();
        build(&mut Group(&mut stages));
        self.0.push(Step::Together(stages));
        self
    }

    /// `to = from`, inside the servers.
    pub fn copy<T>(&mut self, from: Table<T>, to: Table<T>) -> &mut Self {
        self.op(TableOp::Copy { from: from.id, to: to.id })
    }

    /// All values of `table` to zero.
    pub fn zero<T>(&mut self, table: Table<T>) -> &mut Self {
        self.op(TableOp::Zero { table: table.id })
    }

    /// `table *= by`; integers as [`TableOp::Scale`] says.
    pub fn scale<T>(&mut self, table: Table<T>, by: f64) -> &mut Self {
        self.op(TableOp::Scale { table: table.id, by })
    }

    /// Puts the squared norm of `table` into the scalar `into`.
    pub fn norm2<T>(&mut self, table: Table<T>, into: &str) -> &mut Self {
        self.op(TableOp::Norm2 { table: table.id, into: into.to_owned() })
    }

    /// Fills `table`, whose updates must add or assign, from a tensor of a saved model, which must be one for rows such as
    /// those of `input`.
    pub fn load<T>(&mut self, table: Table<T>, model: &DataPath, tensor: &str, input: Input) -> &mut Self {
        let (model, tensor) = (model.clone(), tensor.to_owned());
        self.0.push(Step::Load(LoadSpec { table: table.id, model, tensor, input: input.id }));
        self
    }

    /// Lets the master decide how the innermost repeat goes on. The master decides for the jobs of all users one after the
    /// other, so `decide` must be quick, and look at nothing but its [`Progress`]: no files, no clock, no waiting.
    /// [`Flow::Again`] outside of any repeat is an error, [`Flow::Stop`] there ends the plan.
    pub fn decide(&mut self, decide: impl Fn(&mut Progress) -> Result<Flow> + Send + Sync + 'static) -> &mut Self {
        self.0.push(Step::Decide(Arc::new(decide)));
        self
    }

    /// Repeats what `build` adds, at most `times` times; it must add something.
    pub fn repeat(&mut self, times: u64, build: impl FnOnce(&mut Steps)) -> &mut Self {
        self.repeated(times, build, false)
    }

    /// The same, where all that a round needs of what was before it is in tables, scalars and columns that the plan keeps
    /// ([`super::Plan::keep_column`]), but for what [`Steps::rebuilt`] makes. A checkpoint ([`crate::checkpoint::Checkpoint`]) may then be written between
    /// two rounds, from which the job goes on, maybe on other slaves.
    pub fn resumable(&mut self, times: u64, build: impl FnOnce(&mut Steps)) -> &mut Self {
        self.repeated(times, build, true)
    }

    fn repeated(&mut self, times: u64, build: impl FnOnce(&mut Steps), resumable: bool) -> &mut Self {
        let mut body = Steps::default();
        build(&mut body);
        self.0.push(Step::Repeat { times, body: body.0, resumable });
        self
    }

    /// What `build` adds, outside of any repeat, is done once more where the job goes on from a checkpoint: for what belongs to
    /// slaves and their rows. It holds stages, operations, and decisions for the next step, which find the scalars there that the
    /// round has. Tables that its stages declare to update ([`StageBuilder::updates`]) are in no checkpoint, and zero
    /// when it begins.
    pub fn rebuilt(&mut self, build: impl FnOnce(&mut Steps)) -> &mut Self {
        let mut body = Steps::default();
        build(&mut body);
        self.0.push(Step::Rebuilt(body.0));
        self
    }

    /// What `build` adds, which must be something, is done only if `scalar` has this value when its turn comes.
    pub fn when(&mut self, scalar: &str, value: f64, build: impl FnOnce(&mut Steps)) -> &mut Self {
        let mut body = Steps::default();
        build(&mut body);
        self.0.push(Step::When { scalar: scalar.to_owned(), value, body: body.0 });
        self
    }

    fn op(&mut self, op: TableOp) -> &mut Self {
        self.0.push(Step::Op(op));
        self
    }
}
