//! Where a sweep leads, one goes on: behind it the dual objective is maximised in the plane of the sweep's way d and of the
//! way p that was gone with the sweep before, as in sequential subspace optimisation (Narkiss and Zibulevsky, 2005); on a
//! quadratic it is a conjugate gradient method whose preconditioner is the sweep.
//!
//! With w moved by W d and W p it is, per row and up to its sign and a constant,
//! ```text
//! (1/n) sum c f*(-(a + s d + t p)) + lambda/2 |w + s W d + t W p|^2
//! ```
//! of which the second part takes five products of vectors by feature, and the first one pass over what is kept by row. What
//! leaves its domain is set to its end, and the row's part of the weights with it. Sweeps over rows that ask for little beside
//! the penalty halve the gap and more; there is nothing to gain there, so the master decides by how slowly it falls.
//! Invariants: the dual objective is no lower behind it than before; weights stay those of the dual variables, but for rounding.

mod plane;
mod policy;

use super::alone::is_kinked;
use super::loss::Loss;
use super::rows::{Held, Own, targets_or_labels};
use super::visit::Visit;
use crate::logistic::add_scaled_unchecked;
use crate::parts::Part;
use crate::plane::{Curve, newton};
use flexps_common::Result;
use flexps_common::data::Facts;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::widest::widest;
use flexps_common::worker::Worker;
use plane::{Move, Points, Products, Rows, Ways, grown_norm2, norm2};
pub use policy::{begin, decide};
use std::marker::PhantomData;

/// Newton's steps to the best point of the plane, where the losses are no quadratics.
const STEPS: usize = 3;
/// ... until they are no longer than this.
const NEAR: f64 = 0.03;
/// The longest s; of t it is 1. What weights are off the dual variables', by rounding, is part of the way before, so with
/// longer ones it would grow from search to search. Where longer ones are asked for again and again it is by rounding.
const FAR: f64 = 4.0;
/// The ways lead to the same place if their determinant is this part of the product.
const FLAT: f64 = 1e-9;
/// Between searches there are steps on so many non-zeros, by row and feature: these take twice as long as a search.
const SEARCH: u64 = 8;
/// A gain of so many tolerances is one, if it is more than what comes of rounding: going after that leads astray, since of
/// what weights are off the dual variables' it makes more.
const WORTH: f64 = 1e-3;
const NOISE: f64 = 5e-8;

/// Whether there may be searches: one slave's workers make them, unless the dual is linear in many directions, where its best
/// point is one of rounding.
pub fn suits<L: Loss>(slaves: usize) -> bool {
    slaves == 1 && !is_kinked::<L>()
}

/// One worker's side of the searches of an epoch.
pub struct Subspace {
    /// The way before, by feature.
    table: Table<f32>,
    points: Points,
    bias: f64,
    bias_past: f64,
    /// The square of the value of the intercept's feature.
    bias_norm2: f64,
    lambda: f64,
    rows: f64,
    /// The least gain, beside the penalty, that is one.
    least: f64,
    /// Whether this epoch makes searches.
    on: bool,
    /// Rows between searches of a worker alone.
    between: usize,
    /// While a search is to come, how many rows had been visited when its sweep began.
    began: Option<usize>,
    /// Searches, and those that led on by ways that were not too long.
    searched: u64,
    better: u64,
}

impl Subspace {
    /// For an epoch; where that makes no searches it does nothing.
    pub fn new<L: Loss>(
        worker: &mut Worker<'_>,
        own: &mut Own,
        part: &Part,
        facts: &Facts,
        table: Table<f32>,
        tolerance: f64,
    ) -> Result<Self> {
        let is = |name| worker.scalar(name, 0.0) > 0.0;
        // All workers must come to the same end.
        let [lambda, rows] = ["lambda", "rows"].map(|name| worker.scalar(name, 1.0));
        let each = rows as u64 / worker.place.threads as u64;
        let between = SEARCH * (each + part.map.len() as u64) * facts.rows / facts.nonzeros.max(1);
        let asked = is("subspace") && !is("subspace_rests") && !is("fresh");
        let on = suits::<L>(worker.place.slaves) && asked && between <= each;
        let mut search = Self {
            table,
            points: Points::default(),
            bias: 0.0,
            bias_past: 0.0,
            bias_norm2: worker.scalar("bias_norm2", 0.0),
            lambda,
            rows,
            least: (WORTH * tolerance).max(NOISE),
            on,
            between: between as usize,
            began: None,
            searched: 0,
            better: 0,
        };
        if on {
            search.take(worker, own, part)?;
        }
        Ok(search)
    }

    /// Whether it makes any.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Takes up the way that the epoch before left, if all of the slave's workers have it.
    fn take(&mut self, worker: &mut Worker<'_>, own: &mut Own, part: &Part) -> Result<()> {
        let mut lacks = [f32::from(u8::from(own.blocks.iter().any(|held| held.way.len() != held.dual.len())))];
        worker.sum_local(&mut lacks)?;
        let mut points: Points = worker.take_scratch();
        let past = &mut points.past;
        past.clear();
        if lacks[0] > 0.0 {
            past.resize(part.map.len(), 0.0);
            own.blocks.iter_mut().for_each(|held| held.way = vec![0.0; held.dual.len()]);
        } else {
            worker.get_mapped(self.table, &part.map, past)?;
        }
        if self.bias_norm2 > 0.0 {
            // Behind a checkpoint no targets are known before their rows are.
            for i in part.start..part.start + part.blocks() {
                if own.blocks[i].targets.is_empty() {
                    own.block(worker, part, i)?;
                }
            }
        }
        let mut sum = [own.blocks.iter().map(|held| signed(held, &held.way)).sum::<f64>()];
        worker.sum_local(&mut sum)?;
        self.bias_past = sum[0] * self.bias_norm2 / (self.lambda * self.rows);
        for point in [&mut points.start, &mut points.next] {
            point.dual.resize_with(own.blocks.len(), Vec::new);
        }
        self.points = points;
        Ok(())
    }

    /// Before a sweep.
    pub fn start(&mut self, own: &Own, weights: &[f32], visit: &Visit<'_>) {
        if !self.on || self.began.is_some() {
            return;
        }
        self.began = Some(visit.visited);
        let start = &mut self.points.start;
        weights.clone_into(&mut start.weights);
        own.blocks.iter().zip(&mut start.dual).for_each(|(held, dual)| held.dual.clone_into(dual));
        self.bias = f64::from(visit.bias);
    }

    /// Behind it: goes on from where it led, if that raises the dual objective. Where few rows were visited, another sweep comes
    /// first.
    pub fn go_on<L: Loss>(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        part: &Part,
        weights: &mut Vec<f32>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let Some(began) = self.began else { return Ok(()) };
        if worker.place.threads == 1 && visit.visited - began < self.between {
            return Ok(());
        }
        self.began = None;
        let bias = &mut visit.bias;
        let (best, sound) = self.search::<L>(worker, own, weights, f64::from(*bias))?;
        self.searched += 1;
        if best != [0.0; 2] && self.is_better::<L>(worker, own, part, weights, bias, best)? {
            self.better += u64::from(sound);
            let next = &mut self.points.next;
            std::mem::swap(weights, &mut next.weights);
            own.blocks.iter_mut().zip(&mut next.dual).for_each(|(held, next)| std::mem::swap(&mut held.dual, next));
        }
        let Points { past, start, .. } = &mut self.points;
        for (held, start) in own.blocks.iter_mut().zip(&start.dual) {
            held.way.iter_mut().zip(&held.dual).zip(start).for_each(|((way, now), start)| *way = now - start);
        }
        past.iter_mut().zip(&*weights).zip(&start.weights).for_each(|((way, now), start)| *way = now - start);
        self.bias_past = f64::from(*bias) - self.bias;
        Ok(())
    }

    /// The best s and t, from where the sweep led, or what may be gone of it, and whether that is as far as it is right to go.
    fn search<L: Loss>(
        &self,
        worker: &mut Worker<'_>,
        own: &Own,
        weights: &[f32],
        bias: f64,
    ) -> Result<([f64; 2], bool)> {
        let mut products =
            widest(Products { range: worker.place.local_share(weights.len()), now: weights, search: &self.points });
        worker.sum_local(&mut products)?;
        let by = self.lambda * self.rows;
        let mut products = products.map(|product| by * product);
        if self.bias_norm2 > 0.0 {
            let (now, d, p) = (bias, bias - self.bias, self.bias_past);
            let of_bias = [now * d, now * p, d * d, d * p, p * p];
            products.iter_mut().zip(of_bias).for_each(|(all, own)| *all += by * own / self.bias_norm2);
        }
        let mut at = [0.0; 2];
        for _ in 0..if L::QUADRATIC { 1 } else { STEPS } {
            let mut curve = Curve::default();
            for (held, start) in own.blocks.iter().zip(&self.points.start.dual) {
                let of_rows =
                    widest(Rows::<L> { ways: Ways::of(held, start), by: at.map(|by| by as f32), loss: PhantomData });
                curve.iter_mut().zip(of_rows).for_each(|(all, own)| *all += own);
            }
            worker.sum_local(&mut curve)?;
            let [wd, wp, dd, dp, pp] = products;
            let of_weights = [wd + at[0] * dd + at[1] * dp, wp + at[0] * dp + at[1] * pp, dd, dp, pp];
            curve.iter_mut().zip(of_weights).for_each(|(all, own)| *all += own);
            let step = newton(curve, FLAT);
            at.iter_mut().zip(step).for_each(|(at, step)| *at += step);
            if step.iter().all(|step| step.abs() < NEAR) {
                break;
            }
        }
        // A quadratic whose best point is far away is one of rounding.
        let t = at[1].abs();
        let far = (at[0].abs() / FAR).max(t).max(1.0);
        Ok(if far.is_finite() { (at.map(|by| by / far), t <= 1.0) } else { ([0.0; 2], false) })
    }

    /// Makes what lies at s and t, and tells whether the dual objective is higher there.
    fn is_better<L: Loss>(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        part: &Part,
        weights: &[f32],
        bias: &mut f32,
        by: [f64; 2],
    ) -> Result<bool> {
        let [s, t] = by.map(|by| by as f32);
        let (mut conjugates, mut ended) = (0.0, vec![]);
        let Points { past, start, next: tried } = &mut self.points;
        for (i, (held, start)) in own.blocks.iter().zip(&start.dual).enumerate() {
            let next = &mut tried.dual[i];
            next.resize(held.dual.len(), 0.0);
            let (ways, by, ended) = (Ways::of(held, start), [s, t], &mut ended);
            conjugates += widest(Move::<L> { ways, next, by, block: i, ended, loss: PhantomData });
        }
        tried.weights.clear();
        let ways = weights.iter().zip(&start.weights).zip(&*past);
        tried.weights.extend(ways.map(|((now, start), past)| now + s * (now - start) + t * past));
        let mut back = [ended.len() as f64, 0.0];
        let mut moved = Vec::new();
        worker.sum_local(&mut back)?;
        if back[0] > 0.0 {
            moved.resize(weights.len(), 0.0);
            back[1] = self.put_back(worker, own, part, &ended, &mut moved)?;
            worker.sum_local(&mut moved)?;
            worker.sum_local(&mut back[1..])?;
            self.points.next.weights.iter_mut().zip(&moved).for_each(|(next, moved)| *next += moved);
        }
        let all = self.lambda * self.rows;
        let to = f64::from(*bias)
            + by[0] * (f64::from(*bias) - self.bias)
            + by[1] * self.bias_past
            + back[1] * self.bias_norm2 / all;
        let range = worker.place.local_share(weights.len());
        let (now, next) = (&weights[range.clone()], &self.points.next.weights[range]);
        let mut grown = [conjugates + 0.5 * all * grown_norm2(now, next), 0.5 * all * norm2(now)];
        worker.sum_local(&mut grown)?;
        if self.bias_norm2 > 0.0 {
            grown[0] += 0.5 * all * (to * to - f64::from(*bias).powi(2)) / self.bias_norm2;
        }
        let better = -grown[0] > self.least * grown[1];
        if better && self.bias_norm2 > 0.0 {
            *bias = to as f32;
        }
        Ok(better)
    }

    /// What rows whose dual variables end where their domain does leave out of the weights; the sum of that, with the signs of
    /// the rows' targets.
    fn put_back(
        &self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        part: &Part,
        ended: &[(usize, u32, f32)],
        moved: &mut [f32],
    ) -> Result<f64> {
        let (by, mut sum) = (1.0 / (self.lambda * self.rows), 0.0);
        for of_block in ended.chunk_by(|one, other| one.0 == other.0) {
            let i = of_block[0].0;
            let block = own.block(worker, part, i)?;
            let held = &own.blocks[i];
            let targets = targets_or_labels(&held.targets, &block);
            for (_, row, back) in of_block {
                let back = targets[*row as usize] * back;
                sum += f64::from(back);
                // SAFETY: `Own::block` checked the indices.
                unsafe { add_scaled_unchecked(&block.row(*row as usize), by as f32 * back, moved) };
            }
        }
        Ok(sum)
    }

    /// Leaves the last way for the next epoch, and reports what was found.
    pub fn end(mut self, worker: &mut Worker<'_>, part: &Part) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        if worker.place.local_index == 0 {
            let Points { past, start, .. } = &mut self.points;
            let kept = &mut start.weights;
            worker.get_mapped(self.table, &part.map, kept)?;
            kept.iter_mut().zip(past).for_each(|(kept, past)| *kept = *past - *kept);
            worker.add_mapped(self.table, &part.map, kept)?;
            worker.report("searched", Metric::Count(self.searched));
            worker.report("better", Metric::Count(self.better));
        }
        worker.put_scratch(self.points);
        Ok(())
    }
}

/// The sum of values by row, with what the rows count and the signs of their targets; of rows without targets none is needed.
fn signed(held: &Held, values: &[f32]) -> f64 {
    held.targets.iter().zip(values).map(|(target, value)| f64::from(*target) * f64::from(*value)).sum()
}
