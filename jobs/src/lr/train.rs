//! The stage that learns: mini-batch after mini-batch, weights in, changes out.
//!
//! Invariants: a batch ends with a clock, so the consistency model says how old the weights of the next one may be; where
//! it asks for keys ahead, so many further batches are chosen beforehand, and their keys announced.

use super::Optimizer;
use super::batch::{Batch, Bias, Dealt, Rule};
use crate::order::{self, Group, Grouping, Order};
use crate::parts::{Part, Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::indexer::Indexer;
use flexps_common::ids::Key;
use flexps_common::plan::{Input, Table};
use flexps_common::value::{Element, ValuesMut};
use flexps_common::worker::{Pull, Push, Ticket, Touch, Worker};
use std::collections::VecDeque;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// Rows.
    pub rows: Rows,
    /// What is learned.
    pub weights: Vector,
    /// How a gradient becomes an update.
    pub optimizer: Optimizer,
    /// What the optimizer remembers: sums of squared gradients, or of the rows' gradients when they were last visited;
    /// SGD remembers nothing.
    pub state: Option<Vector>,
    /// Rows per feature.
    pub counts: Table<f32>,
    /// Rows of a batch.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
}

/// Of each row: its slope when it was last visited.
pub const SLOPES: &str = "slopes";

/// The batches of a worker's next clocks.
#[derive(Default)]
struct Queue {
    indexer: Indexer,
    next: VecDeque<(Group, Batch)>,
    /// Memory of batches that were taken.
    spare: Vec<Batch>,
}

impl Train {
    /// The stage function.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut queue = Queue::default();
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            self.learn(worker, &part, &mut queue)?;
        }
        Ok(())
    }

    /// Takes the batches of one of the worker's parts.
    fn learn(&self, worker: &mut Worker<'_>, part: &Part, queue: &mut Queue) -> Result<()> {
        let (step, lambda, all_rows) =
            (worker.scalar("step", 0.0), worker.scalar("lambda", 0.0), worker.scalar("rows", 1.0));
        let mut dealt = Vec::new();
        worker.peek_mapped(self.counts, &part.map, &mut dealt)?;
        dealt.iter_mut().for_each(|count| *count = all_rows as f32 / count.max(1.0));
        let dealt = Dealt(dealt);

        let mut order = Order::new(part, Grouping::Rows(self.batch), self.seed, order::stream(worker, part.number));
        let rule = Rule {
            optimizer: self.optimizer,
            step: step as f32,
            lambda: lambda as f32,
            rows: all_rows as f32,
            // No batch holds more than all rows.
            share: 1.0 / (self.batch as f64).min(all_rows) as f32,
        };
        let mut slopes = Slopes::new(self, part);
        let (ahead, announces) = (worker.ahead().unwrap_or(0) as usize, worker.ahead().is_some());
        // The batches of the present clock and of so many behind it are known before its weights are asked for, one more
        // while they are under way.
        let mut fill = |worker: &mut Worker<'_>, queue: &mut Queue, from: u64, count: usize| -> Result<()> {
            while queue.next.len() < count
                && let Some(group) = order.next(worker, part)?
            {
                let mut batch = queue.spare.pop().unwrap_or_default();
                batch.index(&mut queue.indexer, &group, &part.map, &dealt);
                if announces {
                    self.announce(worker, from + queue.next.len() as u64, &batch.keys)?;
                }
                queue.next.push_back((group, batch));
            }
            Ok(())
        };
        let first = worker.clocks();
        fill(worker, queue, first, ahead + 1)?;
        while let Some((group, mut batch)) = queue.next.pop_front() {
            let next = worker.clocks() + 1;
            let ticket = self.ask(worker, &batch)?;
            fill(worker, queue, next, ahead.max(1))?;
            let bias = self.take(worker, ticket, &mut batch)?;
            let bias = batch.learn(&group, bias, rule, slopes.of(worker, &group)?);
            self.push(worker, &batch, bias)?;
            queue.spare.push(batch);
            worker.clock()?;
        }
        slopes.keep(worker)
    }

    /// Says which keys a batch will touch.
    fn announce(&self, worker: &mut Worker<'_>, clock: u64, keys: &[Key]) -> Result<()> {
        let [weights, state, biases @ ..] = self.tables().map(|table| table.map(|table| table.id));
        let features: Vec<_> = weights.into_iter().chain(state).collect();
        let biases: Vec<_> = biases.into_iter().flatten().collect();
        let touches = [Touch { tables: &features, keys }, Touch { tables: &biases, keys: &[0] }];
        worker.announce(clock, if biases.is_empty() { &touches[..1] } else { &touches })
    }

    /// Asks for what the batch needs, in one message per shard.
    fn ask(&self, worker: &mut Worker<'_>, batch: &Batch) -> Result<Ticket> {
        let mut pulls = [Pull { table: self.weights.features.id, keys: &[] }; 4];
        let mut count = 0;
        for (i, table) in self.tables().into_iter().enumerate() {
            let Some(table) = table else { continue };
            pulls[count] = Pull { table: table.id, keys: if i < 2 { &batch.keys } else { &[0] } };
            count += 1;
        }
        worker.start_get(&pulls[..count])
    }

    /// Takes what was asked for.
    fn take(&self, worker: &mut Worker<'_>, ticket: Ticket, batch: &mut Batch) -> Result<Bias> {
        let (mut value, mut state) = ([0.0f32], [0.0f32]);
        let Batch { weights, state: states, .. } = batch;
        let mut out =
            [f32::wrap_mut(weights), f32::wrap_mut(states), f32::wrap_mut(&mut value), f32::wrap_mut(&mut state)];
        let mut count = 0;
        for (i, table) in self.tables().into_iter().enumerate() {
            if table.is_some() {
                out.swap(count, i);
                count += 1;
            }
        }
        worker.finish_get(ticket, &mut out[..count] as &mut [ValuesMut<'_>])?;
        Ok(Bias { value: value[0], state: state[0] })
    }

    /// Pushes what the batch changes, in one message per shard.
    fn push(&self, worker: &mut Worker<'_>, batch: &Batch, bias: Bias) -> Result<()> {
        let (value, bias_state) = ([bias.value], [bias.state]);
        let values: [&[f32]; 4] = [&batch.change, &batch.state_change, &value, &bias_state];
        let mut pushes = [Push { table: self.weights.features.id, keys: &[], values: f32::wrap(&[]) }; 4];
        let mut count = 0;
        for (i, (table, values)) in self.tables().into_iter().zip(values).enumerate() {
            let Some(table) = table else { continue };
            let keys = if i < 2 { &batch.keys[..] } else { &[0] };
            pushes[count] = Push { table: table.id, keys, values: f32::wrap(values) };
            count += 1;
        }
        worker.add_many(&pushes[..count])
    }

    /// Weights, the optimizer's state, and both of the bias.
    fn tables(&self) -> [Option<Table<f32>>; 4] {
        let state = self.state;
        [Some(self.weights.features), state.map(|s| s.features), self.weights.bias, state.and_then(|s| s.bias)]
    }
}

/// What a worker remembers of each row of a part, if the optimizer asks for it.
struct Slopes<'a> {
    input: Input,
    part: &'a Part,
    /// By block of the part; none before its first batch. Nothing when they are not asked for.
    blocks: Vec<Option<Vec<f32>>>,
}

impl<'a> Slopes<'a> {
    fn new(train: &Train, part: &'a Part) -> Self {
        let blocks = if train.optimizer == Optimizer::Saga { part.blocks() } else { 0 };
        Self { input: train.rows.input, part, blocks: vec![None; blocks] }
    }

    /// Those of the group's block.
    fn of(&mut self, worker: &mut Worker<'_>, group: &Group) -> Result<Option<&mut [f32]>> {
        let Some(held) = self.blocks.get_mut(group.at) else { return Ok(None) };
        if held.is_none() {
            *held = Some(worker.take_column(self.input, self.part.number_of(group.at), SLOPES, group.block.rows())?);
        }
        Ok(held.as_deref_mut())
    }

    /// Keeps them for the next epoch.
    fn keep(self, worker: &mut Worker<'_>) -> Result<()> {
        for (at, held) in self.blocks.into_iter().enumerate() {
            if let Some(slopes) = held {
                worker.put_column(self.input, self.part.number_of(at), SLOPES, slopes)?;
            }
        }
        Ok(())
    }
}
