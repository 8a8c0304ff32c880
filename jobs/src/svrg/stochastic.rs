//! The narrow stage: every worker takes stochastic steps over its rows on a private replica, and merges it with the
//! others' a few times an epoch.
//!
//! Invariant: what a worker pushes is its own way since it last read the weights, never the state; so pushes add up
//! under every consistency model, and where no worker moves nothing changes.

use super::replica::{Replica, Values};
use crate::order::{self, Grouping, Order};
use crate::parts::{Part, Parts, Rows};
use crate::shares::{self, Share};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// A cache line's neighbours come for free, but not for ever: 4 KiB is a page.
const GROUP: Grouping = Grouping::Bytes(4 << 10, 32);

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Stochastic {
    /// Rows.
    pub rows: Rows,
    /// What is learned.
    pub weights: Vector,
    /// Where `sums` was made.
    pub anchor: Vector,
    /// Sum of the losses' gradients at the anchor.
    pub sums: Vector,
    /// Rows per feature, filled when several workers run.
    pub counts: Table<f32>,
    /// Passes over the rows.
    pub inner: f64,
    /// Merges per epoch; 0: 1 for one worker, 4 for several.
    pub joins: u32,
    /// Seed of the order.
    pub seed: u64,
    /// Whether it draws rows on one slave, instead of passing over each slave's own.
    pub draws: bool,
}

impl Stochastic {
    /// The stage function.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        if self.draws {
            let drawn = worker.draw(self.rows.input)?;
            return self.learn(worker, &Part::drawn(&drawn, worker), 1);
        }
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            self.learn(worker, &part, parts.count())?;
        }
        Ok(())
    }

    /// Takes the steps of an epoch that belong to one of the worker's parts.
    fn learn(&self, worker: &mut Worker<'_>, part: &Part, parts: usize) -> Result<()> {
        let Scratch { mut fresh, mut sums, replica } = worker.take_scratch();
        let map = &part.map;
        let (eta, lambda, all_rows) =
            (worker.scalar("step", 0.0), worker.scalar("lambda", 0.0), worker.scalar("rows", 1.0));
        let alone = worker.place.threads == 1 && (part.is_all() || self.draws);
        let joins = match self.joins {
            0 if alone => 1,
            0 => 4,
            n => n,
        };
        let joins = joins.div_ceil(parts as u32);
        let workers = worker.place.threads;
        // Of `of` rows that the workers share.
        let (rows, of, share) = if alone && !(self.draws && matches!(**map, KeyMap::Identity(_))) {
            // Who is alone has all rows, unless it has drawn some.
            let rows = part.rows().map_or(all_rows, |rows| rows as f64);
            (rows, rows, None)
        } else if self.draws {
            // Also of one that is alone, where the map has features that no drawn row has: the mean alone must not move them.
            let (share, totals, of) = Share::drawn(worker, part)?;
            (share.rows as f64, of, Some(share.weights(totals, workers, of, parts)))
        } else {
            let (share, mut totals) = (Share::recall(worker, self.rows, part)?, Vec::new());
            worker.get_mapped(self.counts, map, &mut totals)?;
            (share.rows as f64, all_rows, Some(share.weights(totals, workers, all_rows, parts)))
        };
        let bias_weight = shares::weight(rows as f32, of as f32, worker.place.threads, parts);

        let mut bias = self.anchor.get(worker, map, &mut fresh)?;
        let bias_sum = self.sums.get(worker, map, &mut sums)?;
        let (start, mean) = (Values { features: &fresh, bias }, Values { features: &sums, bias: bias_sum });
        let mut replica = replica.anew(start, mean, all_rows, self.weights.bias.is_some(), eta, lambda);
        let weights = share.map(|share| {
            if let Some(densities) = &share.densities {
                replica.densities(densities, (self.inner * rows / f64::from(joins)).ceil() as u64);
            }
            share.weights
        });

        let stream = order::stream(worker, part.number);
        let mut visits = Visits { order: None, part, seed: self.seed, stream };
        for join in 0..joins {
            // One that is alone stands at the anchor already.
            if !alone || join > 0 {
                bias = self.weights.get(worker, map, &mut fresh)?;
                replica.restart(Values { features: &fresh, bias });
            }
            let (from, to) = (f64::from(join) / f64::from(joins), f64::from(join + 1) / f64::from(joins));
            let budget = (self.inner * rows * to).round() - (self.inner * rows * from).round();
            visits.take(worker, &mut replica, budget as u64)?;
            replica.settle();
            replica.deltas(&mut fresh, weights.as_deref());
            let bias_way = bias_weight * (replica.bias() - bias);
            self.weights.add(worker, map, &fresh, bias_way)?;
            worker.clock()?;
        }
        worker.put_scratch(Scratch { fresh, sums, replica });
        Ok(())
    }
}

/// What a worker needs by feature, in memory that serves again at the next part and the next epoch: to have it cleared anew
/// would take longer than the steps.
#[derive(Default)]
struct Scratch {
    fresh: Vec<f32>,
    sums: Vec<f32>,
    replica: Replica,
}

/// The rows of a part, pass after pass.
struct Visits<'a> {
    order: Option<Order>,
    part: &'a Part,
    seed: u64,
    stream: u64,
}

impl Visits<'_> {
    /// Takes about `budget` steps: whole groups of rows.
    fn take(&mut self, worker: &mut Worker<'_>, replica: &mut Replica, budget: u64) -> Result<()> {
        let mut taken = 0;
        while taken < budget {
            let order = self.order.get_or_insert_with(|| Order::new(self.part, GROUP, self.seed, self.stream));
            let Some(group) = order.next(worker, self.part)? else {
                self.order = None;
                self.stream += 1 << 52;
                continue;
            };
            // SAFETY: the order gives blocks only whose indices are below the length of the part's map.
            unsafe { replica.visit(&group.block, group.from, group.to) };
            taken += (group.to - group.from) as u64;
        }
        Ok(())
    }
}
