//! The stage that learns: mini-batch after mini-batch, weights in, changes out.
//!
//! Invariants: a batch ends with a clock, so the consistency model says how old the weights of the next one may be; where
//! it asks for keys ahead, so many further batches are chosen beforehand, and their keys announced.

use super::batch::{Batch, Bias, Penalty, Rule};
use crate::order::{self, Group, Grouping, Order};
use crate::parts::{Part, Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::indexer::Indexer;
use flexps_common::ids::Key;
use flexps_common::plan::Table;
use flexps_common::value::{Element, ValuesMut};
use flexps_common::worker::{Pull, Push, Touch, Worker};
use std::collections::VecDeque;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// Rows.
    pub rows: Rows,
    /// What is learned.
    pub weights: Vector,
    /// Sums of squared gradients; SGD has none.
    pub squares: Option<Vector>,
    /// Rows per feature.
    pub counts: Table<f32>,
    /// Rows of a batch.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
}

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
        let mut penalty = Vec::new();
        worker.peek_mapped(self.counts, &part.map, &mut penalty)?;
        let dealt = |count: &mut f32| *count = (all_rows * lambda) as f32 / count.max(1.0);
        penalty.iter_mut().for_each(dealt);
        let penalty = Penalty(penalty);

        let mut order = Order::new(part, Grouping::Rows(self.batch), self.seed, order::stream(worker, part.number));
        let share = 1.0 / self.batch as f32;
        let rule = if self.squares.is_some() { Rule::Adagrad(step as f32) } else { Rule::Sgd(step as f32) };
        let ahead = worker.ahead();
        loop {
            while queue.next.len() <= ahead.unwrap_or(0) as usize
                && let Some(group) = order.next(worker, part)?
            {
                let mut batch = queue.spare.pop().unwrap_or_default();
                batch.index(&mut queue.indexer, &group, &part.map, &penalty);
                if ahead.is_some() {
                    self.announce(worker, worker.clocks() + queue.next.len() as u64, &batch.keys)?;
                }
                queue.next.push_back((group, batch));
            }
            let Some((group, mut batch)) = queue.next.pop_front() else { return Ok(()) };
            let bias = self.fetch(worker, &mut batch)?;
            let bias = batch.learn(&group, share, bias, rule);
            self.push(worker, &batch, bias)?;
            queue.spare.push(batch);
            worker.clock()?;
        }
    }

    /// Says which keys a batch will touch.
    fn announce(&self, worker: &mut Worker<'_>, clock: u64, keys: &[Key]) -> Result<()> {
        let [weights, squares, biases @ ..] = self.tables().map(|table| table.map(|table| table.id));
        let features: Vec<_> = weights.into_iter().chain(squares).collect();
        let biases: Vec<_> = biases.into_iter().flatten().collect();
        let touches = [Touch { tables: &features, keys }, Touch { tables: &biases, keys: &[0] }];
        worker.announce(clock, if biases.is_empty() { &touches[..1] } else { &touches })
    }

    /// Reads what the batch needs, in one message per shard.
    fn fetch(&self, worker: &mut Worker<'_>, batch: &mut Batch) -> Result<Bias> {
        let mut bias = Bias::default();
        let Batch { keys, weights, squares, .. } = batch;
        if self.squares.is_none() && self.weights.bias.is_none() {
            worker.get(self.weights.features, keys, weights)?;
            return Ok(bias);
        }
        let (mut value, mut square) = ([0.0f32], [0.0f32]);
        let tables = self.tables();
        let mut pulls = [Pull { table: self.weights.features.id, keys }; 4];
        let mut out =
            [f32::wrap_mut(weights), f32::wrap_mut(squares), f32::wrap_mut(&mut value), f32::wrap_mut(&mut square)];
        let mut count = 0;
        for (i, table) in tables.into_iter().enumerate() {
            let Some(table) = table else { continue };
            pulls[count] = Pull { table: table.id, keys: if i < 2 { keys } else { &[0] } };
            out.swap(count, i);
            count += 1;
        }
        let ticket = worker.start_get(&pulls[..count])?;
        worker.finish_get(ticket, &mut out[..count] as &mut [ValuesMut<'_>])?;
        (bias.value, bias.square) = (value[0], square[0]);
        Ok(bias)
    }

    /// Pushes what the batch changes, in one message per shard.
    fn push(&self, worker: &mut Worker<'_>, batch: &Batch, bias: Bias) -> Result<()> {
        let (value, square) = ([bias.value], [bias.square]);
        let values: [&[f32]; 4] = [&batch.change, &batch.squares_change, &value, &square];
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

    /// Weights, squares, and both of the bias.
    fn tables(&self) -> [Option<Table<f32>>; 4] {
        let squares = self.squares;
        [Some(self.weights.features), squares.map(|s| s.features), self.weights.bias, squares.and_then(|s| s.bias)]
    }
}
