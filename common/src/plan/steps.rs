//! The steps of a plan, and how a job writes them down.

use super::{Consistency, DecideFn, Flow, LoadSpec, Progress, StageBuilder, StageSpec, Table, TableOp, Threads};
use crate::data::schema::DataPath;
use crate::error::Result;
use crate::worker::Worker;
use std::sync::Arc;

/// One step of a plan.
#[derive(Clone)]
pub enum Step {
    /// Worker threads run a function.
    Stage(StageSpec),
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
    },
}

/// A sequence of steps under construction.
#[derive(Clone, Default)]
pub struct Steps(pub Vec<Step>);

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
            draws: None,
            on: None,
            reads: Vec::new(),
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
        self.0.push(Step::Load(LoadSpec { table: table.id, model: model.clone(), tensor: tensor.to_owned() }));
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
