//! The one-thread host: runs a job's whole plan inside the calling process, with no cluster, so that a job can be
//! unit-tested, and so that the engine has something plain to be compared with.
//!
//! Invariant: every stage runs under BSP, which satisfies the weaker models too, and updates are applied in the order of
//! (clock, worker, sequence); so the same plan on the same rows gives the same bits. With one slave of one slot, as
//! [`Host::new`] makes it, no thread is started; more workers ([`Host::cluster`]) are one OS thread each.

mod rows;
mod stage;
mod table;

pub use table::HostTable;

use crate::caught::caught;
use crate::data::{Block, Facts, Labels};
use crate::error::{Error, Result};
use crate::ids::InputId;
use crate::plan::{Flow, LoadSpec, Plan, Progress, StageSpec, Step, TableOp, Threads};
use crate::report::EpochReport;
use crate::updates::Updates;
use crate::worker::Place;
use rows::{HostRows, Uses};
use std::collections::BTreeMap;
use std::time::Instant;

/// Rows and models that plans may name, and how many workers to play.
///
/// ```
/// use flexps_common::{data::Block, host::Host, plan::Plan};
/// let mut plan = Plan::default();
/// let table = plan.table::<f32>("t", 1);
/// plan.body.stage("fill", move |worker| worker.add(table, &[3], &[1.5]));
/// let outcome = Host::new().rows(vec![Block::default()]).run(&plan)?;
/// assert_eq!(outcome.table("t", 2..5), [0.0, 1.5, 0.0]);
/// # Ok::<(), flexps_common::Error>(())
/// ```
#[derive(Clone)]
pub struct Host {
    slaves: usize,
    slots: usize,
    inputs: Vec<Vec<Block>>,
    tensors: BTreeMap<(String, String), Vec<f32>>,
    updates: Updates,
}

/// What is left when a plan has ended.
#[derive(Debug)]
pub struct Outcome {
    /// Tables by their place in the plan.
    pub tables: Vec<HostTable>,
    /// Scalars, last metrics and objective.
    pub progress: Progress,
    /// The rounds of the outermost repeats.
    pub epochs: Vec<EpochReport>,
    /// Name and round (from 0) of each stage run, in order.
    pub stages: Vec<(String, u64)>,
    /// Why a decision stopped the outermost repeat.
    pub stopped: Option<String>,
}

impl Outcome {
    /// The values of consecutive keys of the table called `name`, as f64; zeros for what nobody wrote.
    /// Panics when the plan has no such table.
    pub fn table(&self, name: &str, keys: std::ops::Range<u32>) -> Vec<f64> {
        let table = self.tables.iter().find(|t| t.spec.name == name);
        table.unwrap_or_else(|| panic!("the plan has no table {name}")).range(keys)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// One worker, on the calling thread.
    pub fn new() -> Self {
        Self::cluster(1, 1)
    }

    /// Plays so many slaves of so many slots each.
    pub fn cluster(slaves: usize, slots: usize) -> Self {
        Self {
            slaves: slaves.max(1),
            slots: slots.max(1),
            inputs: Vec::new(),
            tensors: BTreeMap::new(),
            updates: Updates::new(),
        }
    }

    /// Gives the rows of the plan's next input; slave s of S gets the blocks s, s+S, s+2S and so on.
    #[must_use]
    pub fn rows(mut self, blocks: Vec<Block>) -> Self {
        self.inputs.push(blocks);
        self
    }

    /// Gives a tensor that the plan may load from a model.
    #[must_use]
    pub fn tensor(mut self, model: &str, name: &str, values: Vec<f32>) -> Self {
        self.tensors.insert((model.to_owned(), name.to_owned()), values);
        self
    }

    /// Gives update functions of a user's own.
    #[must_use]
    pub fn updates(self, updates: Updates) -> Self {
        Self { updates, ..self }
    }

    /// Runs the plan to its end. A model is not saved: read the tables of the outcome.
    pub fn run(&self, plan: &Plan) -> Result<Outcome> {
        plan.check()?;
        if self.inputs.len() < plan.inputs.len() {
            return Err(Error::user(format!(
                "the plan has {} inputs, the host was given rows for {}",
                plan.inputs.len(),
                self.inputs.len()
            )));
        }
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, blocks)| {
                let given = plan.inputs.get(i).and_then(|spec| spec.features);
                HostRows::new(blocks, self.slaves, given.unwrap_or(0), uses(plan, i))
            })
            .collect();
        let facts = inputs.iter().map(|rows| Some(rows.facts.clone())).collect();
        let mut run = Run {
            host: self,
            plan,
            inputs,
            tables: plan
                .tables
                .iter()
                .map(|spec| HostTable::new(spec.clone(), &self.updates))
                .collect::<Result<_>>()?,
            progress: Progress { scalars: plan.scalars.clone(), facts, ..Progress::default() },
            epochs: Vec::new(),
            stages: Vec::new(),
            stopped: None,
            started: Instant::now(),
        };
        match run.steps(&plan.body.0, 0)? {
            Flow::Again => return Err(Error::bug("a decision outside of any repeat asked for the round again")),
            Flow::Stop(why) => run.stopped = Some(why),
            Flow::Next => {}
        }
        let Run { tables, progress, epochs, stages, stopped, .. } = run;
        Ok(Outcome { tables, progress, epochs, stages, stopped })
    }

    /// The workers of a stage of so many threads, spread evenly; never more than there are slots, nor fewer than one
    /// on each slave when rows are passed over. Slaves have no names here: a stage that names one runs on the first.
    fn places(&self, stage: &StageSpec, epoch: u64) -> Vec<(usize, Place)> {
        let (threads, with_rows) = (stage.threads, stage.input.is_some());
        let slots = self.slaves * self.slots;
        let wanted = match threads {
            Threads::All | Threads::Cores => slots,
            Threads::PerSlave(n) => n as usize * self.slaves,
            Threads::Count(n) | Threads::OneSlave(n) | Threads::Visit(n) | Threads::Range(_, n) => n as usize,
            // Where an engine tries some counts, all take turns here.
            Threads::Auto | Threads::Offline => slots - epoch as usize % slots,
        };
        let visits = matches!(threads, Threads::Visit(_));
        let one = visits || stage.on.is_some() || matches!(threads, Threads::OneSlave(_));
        let most = if one { self.slots } else { slots };
        let threads = wanted.clamp(if with_rows && !one { self.slaves } else { 1 }, most);
        let slaves = if one { 1 } else { self.slaves.min(threads) };
        let first = if visits && stage.on.is_none() { epoch as usize % self.slaves } else { 0 };
        let mut places = Vec::with_capacity(threads);
        for slave in 0..slaves {
            let local_threads = threads / slaves + usize::from(slave < threads % slaves);
            for local_index in 0..local_threads {
                let index = places.len();
                places.push((first + slave, Place { index, threads, local_index, local_threads, slaves, epoch }));
            }
        }
        places
    }
}

/// A plan under way.
struct Run<'h> {
    host: &'h Host,
    plan: &'h Plan,
    inputs: Vec<HostRows>,
    tables: Vec<HostTable>,
    progress: Progress,
    epochs: Vec<EpochReport>,
    stages: Vec<(String, u64)>,
    stopped: Option<String>,
    started: Instant,
}

impl Run<'_> {
    /// Walks `steps`; ends early when a decision says something else than [`Flow::Next`].
    fn steps(&mut self, steps: &[Step], depth: usize) -> Result<Flow> {
        for step in steps {
            match step {
                Step::Stage(stage) => self.stage(stage)?,
                // In the order in which they stand each comes after those that it names.
                Step::Together(stages) => stages.iter().try_for_each(|stage| self.stage(stage))?,
                Step::Op(op) => self.op(op)?,
                Step::Load(LoadSpec { table, model, tensor, .. }) => {
                    let values = self.host.tensors.get(&(model.0.clone(), tensor.clone()));
                    let values =
                        values.ok_or_else(|| Error::user(format!("{model}: no tensor {tensor}; see Host::tensor")))?;
                    self.tables[table.0 as usize]
                        .load(values)
                        .map_err(|e| e.context(format!("{model}: tensor {tensor}")))?;
                }
                Step::Decide(decide) => {
                    self.progress.elapsed = self.started.elapsed();
                    let flow = caught(|| "a decision of the plan".to_owned(), || decide(&mut self.progress))?;
                    for op in std::mem::take(&mut self.progress.ops) {
                        self.op(&op)?;
                    }
                    if flow != Flow::Next {
                        return Ok(flow);
                    }
                }
                Step::Repeat { times, body, .. } => self.repeat(*times, body, depth)?,
                Step::Rebuilt(body) => self.steps(body, depth)?.must_be_next()?,
                Step::When { scalar, value, body } => {
                    if self.progress.scalars.get(scalar) == Some(value) {
                        let flow = self.steps(body, depth)?;
                        if flow != Flow::Next {
                            return Ok(flow);
                        }
                    }
                }
            }
        }
        Ok(Flow::Next)
    }

    fn stage(&mut self, stage: &StageSpec) -> Result<()> {
        let epoch = self.progress.epoch;
        let places = self.host.places(stage, epoch);
        let metrics = stage::run(stage, places, &mut self.tables, &self.inputs, &self.progress.scalars)
            .map_err(|e| e.context(format!("epoch {} stage {}", epoch + 1, stage.name)))?;
        self.progress.metrics.insert(stage.name.clone(), metrics);
        self.stages.push((stage.name.clone(), epoch));
        Ok(())
    }

    fn repeat(&mut self, times: u64, body: &[Step], depth: usize) -> Result<()> {
        let outer = self.progress.epoch;
        let mut round = 0;
        while round < times {
            self.progress.epoch = round;
            let flow = self.steps(body, depth + 1)?;
            if flow == Flow::Again {
                continue;
            }
            round += 1;
            if depth == 0 {
                self.epochs.push(EpochReport {
                    epoch: round,
                    seconds: self.started.elapsed().as_secs_f64(),
                    objective: self.progress.objective,
                    metrics: std::mem::take(&mut self.progress.epoch_metrics),
                });
            }
            if let Flow::Stop(why) = flow {
                if depth == 0 {
                    self.stopped = Some(why);
                }
                break;
            }
        }
        self.progress.epoch = outer;
        Ok(())
    }

    fn op(&mut self, op: &TableOp) -> Result<()> {
        // A decision's were not seen before.
        self.plan.check_op(op)?;
        match op {
            TableOp::Copy { from, to } if from == to => {}
            TableOp::Copy { from, to } => {
                let from = self.tables[from.0 as usize].clone();
                self.tables[to.0 as usize].copy(&from);
            }
            TableOp::Zero { table } => self.tables[table.0 as usize].zero(),
            TableOp::Scale { table, by } => self.tables[table.0 as usize].scale(*by),
            TableOp::Norm2 { table, into } => {
                let norm2 = self.tables[table.0 as usize].norm2();
                self.progress.scalars.insert(into.clone(), norm2);
            }
        }
        Ok(())
    }
}

/// What the stages of a plan do with the rows of this input.
fn uses(plan: &Plan, input: usize) -> Uses {
    let (id, stages) = (|id: InputId| usize::from(id.0) == input, plan.stages());
    Uses {
        consumed: stages.iter().any(|stage| stage.consumes && stage.input.is_some_and(id)),
        drawn: stages.iter().any(|stage| stage.draws.is_some_and(|(of, _)| id(of))),
    }
}

/// The facts of `blocks`; at least `features` features. Labels beyond 1 are taken for the places of classes, those
/// between whole numbers for numbers.
pub fn facts(blocks: &[Block], features: u64) -> Facts {
    let mut facts = Facts { features, ..Facts::default() };
    let (mut most, mut numbers) = (1.0f32, false);
    for block in blocks {
        for i in 0..block.rows() {
            let row = block.row(i);
            let norm2 = row.norm2();
            facts.rows += 1;
            most = most.max(row.label);
            numbers |= row.label.fract() != 0.0;
            facts.positives += u64::from(row.label > 0.0);
            facts.nonzeros += row.indices.len() as u64;
            facts.features = facts.features.max(row.indices.last().map_or(0, |k| u64::from(*k) + 1));
            facts.empty_rows += u64::from(row.indices.is_empty());
            facts.max_norm2 = facts.max_norm2.max(norm2);
            facts.sum_norm2 += norm2;
        }
    }
    facts.labels = match most {
        _ if numbers => Labels::numbers(),
        most if most > 1.0 => Labels::classes((0..=most as u32).map(|class| class as f32).collect()),
        _ => Labels::two(-1.0, 1.0),
    };
    facts
}

#[cfg(test)]
mod limits;
#[cfg(test)]
mod tests;
