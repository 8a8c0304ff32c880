//! A plan's steps laid out flat, so that a driver's place in them is a number and a stack of loops.
//!
//! Invariant: every [`Code::Enter`] has its [`Code::Close`], each names the other's place, and loops nest.

use flexps_common::ids::TableId;
use flexps_common::plan::{DecideFn, LoadSpec, Plan, StageSpec, Step, TableOp, predecessors};
use std::ops::Range;

/// One instruction.
#[derive(Clone)]
pub enum Code {
    /// Run stages, by their places in [`Plan::stages`], each behind those that stand at these places of this list.
    Stages(Vec<(u32, Vec<usize>)>),
    /// Change tables.
    Op(TableOp),
    /// Fill a table, which is zero, from a model.
    Load(LoadSpec),
    /// Ask the plan how to go on.
    Decide(DecideFn),
    /// Begin a repeat.
    Enter {
        /// Most rounds.
        times: u64,
        /// Where its [`Code::Close`] is.
        close: usize,
        /// Whether a job may go on from the begin of a round.
        resumable: bool,
    },
    /// Go on behind a body, unless a scalar has this value.
    Unless {
        /// The scalar's name.
        scalar: String,
        /// The value.
        value: f64,
        /// Where the plan goes on.
        behind: usize,
    },
    /// A round has ended.
    Close {
        /// Where its [`Code::Enter`] is.
        enter: usize,
    },
}

/// A plan's steps and stages.
pub struct Program {
    /// The instructions.
    pub code: Vec<Code>,
    /// The stages, by their place in the plan.
    pub stages: Vec<StageSpec>,
    /// What is done once more where the job goes on from behind it, in order.
    rebuilt: Vec<Range<usize>>,
}

impl Program {
    /// The program of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut program = Self { code: Vec::new(), stages: Vec::new(), rebuilt: Vec::new() };
        program.lay_out(&plan.body.0);
        program
    }

    /// Whether a job may go on from a round of any repeat.
    pub fn is_resumable(&self) -> bool {
        self.code.iter().any(|code| matches!(code, Code::Enter { resumable: true, .. }))
    }

    /// What is done once more where the job goes on from this place in the code, in order.
    pub fn rebuilt(&self, at: usize) -> impl Iterator<Item = &Range<usize>> {
        self.rebuilt.iter().filter(move |range| range.end <= at)
    }

    /// The tables that are made anew by that.
    pub fn remade(&self, at: usize) -> Vec<TableId> {
        let code = self.rebuilt(at).flat_map(|range| &self.code[range.clone()]);
        let stages = code.filter_map(|code| if let Code::Stages(stages) = code { Some(stages) } else { None });
        let stages = stages.flatten().map(|(place, _)| &self.stages[*place as usize]);
        stages.flat_map(|stage| stage.updates.iter().copied()).collect()
    }

    fn lay_out(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Stage(stage) => {
                    self.code.push(Code::Stages(vec![(self.stages.len() as u32, Vec::new())]));
                    self.stages.push(stage.clone());
                }
                Step::Together(stages) if stages.is_empty() => {}
                Step::Together(stages) => {
                    let places = self.stages.len() as u32..;
                    self.code.push(Code::Stages(places.zip(predecessors(stages)).collect()));
                    self.stages.extend(stages.iter().cloned());
                }
                Step::Op(op) => self.code.push(Code::Op(op.clone())),
                Step::Load(load) => {
                    // The values are added, so the table must be zero first.
                    self.code.push(Code::Op(TableOp::Zero { table: load.table }));
                    self.code.push(Code::Load(load.clone()));
                }
                Step::Decide(decide) => self.code.push(Code::Decide(decide.clone())),
                Step::Rebuilt(body) => {
                    let from = self.code.len();
                    self.lay_out(body);
                    self.rebuilt.push(from..self.code.len());
                }
                Step::Repeat { times, body, resumable } => {
                    let enter = self.code.len();
                    self.code.push(Code::Close { enter });
                    self.lay_out(body);
                    let close = self.code.len();
                    self.code.push(Code::Close { enter });
                    self.code[enter] = Code::Enter { times: *times, close, resumable: *resumable };
                }
                Step::When { scalar, value, body } => {
                    let at = self.code.len();
                    let code = |behind| Code::Unless { scalar: scalar.clone(), value: *value, behind };
                    self.code.push(code(at));
                    self.lay_out(body);
                    self.code[at] = code(self.code.len());
                }
            }
        }
    }
}
