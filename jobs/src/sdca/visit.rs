//! The inner loop: dual steps on groups of consecutive rows in random order, with the next group's memory asked for
//! ahead.
//!
//! Blocks come in random order, in windows of limited bytes, and inside a window so do small groups of consecutive rows:
//! it converges like a full shuffle, while memory is read in runs. Invariant: in an epoch every row comes exactly once.

use super::fast::{Work, widest};
use super::loss::Loss;
use super::rows::Own;
use crate::order::{self, Grouping};
use crate::parts::Part;
use flexps_common::Result;
use flexps_common::data::Block;
use flexps_common::prefetch::{prefetch, prefetch_all};
use flexps_common::worker::Worker;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// How rows are grouped: larger groups stall on files that are sorted by label.
const GROUPING: Grouping = Grouping::Bytes(4 << 10);
/// Non-zeros of a group from which on its weights are asked for only while it is gone through.
const LONG: usize = 1024;
/// Non-zeros between asking for a weight and using it then.
const AHEAD: usize = 48;
/// Weights that the second cache holds beside the rows: no need to ask for them.
const NEAR: usize = 1 << 17;

/// Some consecutive rows: block in the window, first row, behind the last.
type Group = (u32, u32, u32);

/// What was changed since the last join, so that it can be scaled.
#[derive(Debug, Default)]
pub struct Trail {
    /// Block of the worker, rows.
    pub groups: Vec<Group>,
    /// The dual variables before, row by row.
    pub before: Vec<f32>,
}

/// The order of an epoch and where it stands.
pub struct Visit<'a> {
    part: &'a Part,
    rng: ChaCha8Rng,
    /// The worker's blocks that are still to come.
    blocks: Vec<usize>,
    window: Vec<(usize, Arc<Block>)>,
    groups: Vec<Group>,
    next: usize,
    visited: usize,
    /// The intercept, which steps move as they go; stays 0 without one.
    pub bias: f32,
    /// What the rows showed, each when it was visited.
    pub met: Met,
}

/// What visited rows showed for free.
#[derive(Debug, Clone, Copy, Default)]
pub struct Met {
    /// Sum of what the rows add to the duality gap.
    pub gap: f64,
    /// Sum of the losses of some rows, one of each group.
    pub loss: f64,
    /// Their number.
    pub sampled: u64,
}

impl Met {
    /// Adds what others showed.
    pub fn add(&mut self, other: &Self) {
        self.gap += other.gap;
        self.loss += other.loss;
        self.sampled += other.sampled;
    }
}

/// The numbers of a step.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// sigma' / (lambda n): what a dual variable's change is multiplied by in the weights, and a squared norm in the
    /// curvature.
    pub weights: f32,
    /// The square of the value that the intercept's feature has in all rows; 0 without an intercept.
    pub bias: f32,
    /// Whether a few rows' steps are taken at once.
    pub at_once: bool,
}

impl<'a> Visit<'a> {
    /// The order of a part's rows that `seed` makes for this worker and epoch.
    pub fn new(worker: &Worker<'_>, part: &'a Part, seed: u64, bias: f32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(order::stream(worker, part.number));
        let mut blocks: Vec<_> = (part.start..part.start + part.blocks()).collect();
        blocks.shuffle(&mut rng);
        let (window, groups) = Default::default();
        Self { part, rng, blocks, window, groups, next: 0, visited: 0, bias, met: Met::default() }
    }

    /// Loads the next window; false when there is none.
    fn fill(&mut self, worker: &mut Worker<'_>, own: &mut Own) -> Result<bool> {
        self.window.clear();
        self.groups.clear();
        self.next = 0;
        let mut bytes = 0;
        while bytes < self.part.window {
            let Some(i) = self.blocks.pop() else { break };
            let block = own.block(worker, self.part, i)?;
            bytes += block.bytes();
            let place = self.window.len() as u32;
            self.groups.extend(GROUPING.cut(&block).map(|(from, to)| (place, from, to)));
            self.window.push((i, block));
        }
        self.groups.shuffle(&mut self.rng);
        // The next window is read while this one is worked on.
        let next = self.blocks.iter().rev().take(self.window.len());
        next.for_each(|i| self.part.expect(worker, i - self.part.start));
        Ok(!self.window.is_empty())
    }

    /// Steps on until about `goal` rows of the part were visited. What changes is noted in `trail`, if there is one.
    pub fn go<L: Loss>(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        weights: &mut [f32],
        scale: Scale,
        goal: usize,
        mut trail: Option<&mut Trail>,
    ) -> Result<()> {
        while self.visited < goal {
            if self.next == self.groups.len() && !self.fill(worker, own)? {
                return Ok(());
            }
            let (place, from, to) = self.groups[self.next];
            self.next += 1;
            self.ask(own, weights);
            let (i, block) = &self.window[place as usize];
            let held = &mut own.blocks[*i];
            let rows = from as usize..to as usize;
            if let Some(trail) = &mut trail {
                trail.groups.push((*i as u32, from, to));
                trail.before.extend_from_slice(&held.dual[rows.clone()]);
            }
            self.visited += rows.len();
            let (end, dual, norms) = (block.offsets[rows.end] as usize, &mut held.dual[..], &held.norms[..]);
            let targets = if held.targets.is_empty() { &block.labels[..] } else { &held.targets[..] };
            let bias = self.bias;
            // `Own::block` checked the indices.
            let steps = Steps::<L> { block, targets, rows, end, dual, norms, weights, bias, scale, loss: PhantomData };
            let (met, bias) = widest(steps);
            self.met.add(&met);
            self.bias = bias;
        }
        Ok(())
    }

    /// Asks for what the next groups need: what is needed to find something else, one group earlier than that.
    #[inline]
    fn ask(&self, own: &Own, weights: &[f32]) {
        let group = |ahead: usize| {
            let (place, from, to) = *self.groups.get(self.next + ahead)?;
            let (i, block) = &self.window[place as usize];
            Some((*i, block, from as usize, to as usize))
        };
        if let Some((i, block, from, to)) = group(2) {
            prefetch_all(&block.offsets[from..=to]);
            let held = &own.blocks[i];
            prefetch_all(held.targets.get(from..to).unwrap_or(&block.labels[from..to]));
            prefetch_all(&held.dual[from..to]);
            if let Some(norms) = held.norms.get(from..to) {
                prefetch_all(norms);
            }
        }
        if let Some((_, block, from, to)) = group(1) {
            let range = block.offsets[from] as usize..block.offsets[to] as usize;
            prefetch_all(&block.indices[range.clone()]);
            if let Some(values) = &block.values {
                prefetch_all(&values[range]);
            }
        }
        if weights.len() > NEAR
            && let Some((_, block, from, to)) = group(0)
        {
            // Of long rows the first ones; the others are asked for while the row is gone through.
            let (start, end) = (block.offsets[from] as usize, block.offsets[to] as usize);
            let many = if end - start > LONG { AHEAD } else { end - start };
            for index in &block.indices[start..start + many] {
                prefetch(weights.as_ptr().wrapping_add(*index as usize));
            }
        }
    }
}

/// Rows whose steps are taken at once, where rows have little in common.
pub const LANES: usize = 8;

/// Steps on rows of one block.
///
/// Invariant: all of the block's indices are below `weights.len()`.
struct Steps<'a, L> {
    block: &'a Block,
    /// By row: what it counts, with the sign of what it should score.
    targets: &'a [f32],
    rows: Range<usize>,
    /// Behind the last row's non-zeros.
    end: usize,
    dual: &'a mut [f32],
    norms: &'a [f32],
    weights: &'a mut [f32],
    bias: f32,
    scale: Scale,
    loss: PhantomData<L>,
}

impl<L: Loss> Work for Steps<'_, L> {
    /// What the rows showed, and the intercept behind them.
    type Output = (Met, f32);

    /// A step on each of the rows.
    #[inline(always)]
    fn run(self) -> (Met, f32) {
        let far = self.weights.len() > NEAR && self.end - self.block.offsets[self.rows.start] as usize > LONG;
        match (&self.block.values, far) {
            // SAFETY: a place among the block's non-zeros is one among its values.
            (Some(v), true) => self.all::<true>(|at| unsafe { *v.get_unchecked(at) }),
            // SAFETY: as above.
            (Some(v), false) => self.all::<false>(|at| unsafe { *v.get_unchecked(at) }),
            (None, true) => self.all::<true>(|_| 1.0),
            (None, false) => self.all::<false>(|_| 1.0),
        }
    }
}

impl<L: Loss> Steps<'_, L> {
    #[inline(always)]
    fn all<const FAR: bool>(mut self, value: impl Fn(usize) -> f32 + Copy) -> (Met, f32) {
        let met = if self.scale.at_once { self.at_once::<FAR>(value) } else { self.one_by_one::<FAR>(value) };
        (met, self.bias)
    }

    #[inline(always)]
    fn one_by_one<const FAR: bool>(&mut self, value: impl Fn(usize) -> f32 + Copy) -> Met {
        let (mut gaps, mut sample) = (0.0f32, 0.0);
        for i in self.rows.clone() {
            let (margin, q) = (self.margin::<FAR>(i, value), self.curvature(i));
            sample = margin;
            let before = self.dual[i];
            gaps += self.targets[i].abs() * L::gap(before, margin);
            let after = if q > 1.0 { L::step(before, margin, q) } else { L::short_step(before, margin, q) };
            self.dual[i] = after;
            self.scatter(i, after - before, value);
        }
        Met { gap: f64::from(gaps), loss: L::loss(f64::from(sample)), sampled: 1 }
    }

    /// All margins of a few rows, then all steps, then all updates: the rows don't wait for one another, and their steps
    /// share the vector units.
    #[inline(always)]
    fn at_once<const FAR: bool>(&mut self, value: impl Fn(usize) -> f32 + Copy) -> Met {
        let (mut gaps, mut sample) = (0.0f32, 0.0);
        let Range { start, end } = self.rows.clone();
        for first in (start..end).step_by(LANES) {
            let rows = first..end.min(first + LANES);
            let (mut m, mut q, mut before, mut after) = ([0.0; LANES], [1.0; LANES], [0.5; LANES], [0.0; LANES]);
            for (lane, i) in rows.clone().enumerate() {
                m[lane] = self.margin::<FAR>(i, value);
                q[lane] = self.curvature(i);
                before[lane] = self.dual[i];
            }
            sample = m[0];
            let mut met = [0.0f32; LANES];
            for lane in 0..LANES {
                after[lane] = L::step(before[lane], m[lane], q[lane]);
                met[lane] = L::gap(before[lane], m[lane]);
            }
            for (lane, i) in rows.enumerate() {
                self.dual[i] = after[lane];
                gaps += self.targets[i].abs() * met[lane];
                self.scatter(i, after[lane] - before[lane], value);
            }
        }
        Met { gap: f64::from(gaps), loss: L::loss(f64::from(sample)), sampled: 1 }
    }

    #[inline(always)]
    fn curvature(&self, i: usize) -> f32 {
        let ones = (self.block.offsets[i + 1] - self.block.offsets[i]) as f32;
        let norm2 = self.norms.get(i).copied().unwrap_or(ones) + self.scale.bias;
        self.scale.weights * self.targets[i].abs() * norm2
    }

    /// The margin of row `i`.
    #[inline(always)]
    fn margin<const FAR: bool>(&self, i: usize, value: impl Fn(usize) -> f32 + Copy) -> f32 {
        let (indices, weights) = (&self.block.indices[..], &*self.weights);
        let (from, to) = (self.block.offsets[i] as usize, self.block.offsets[i + 1] as usize);
        let last = self.end.saturating_sub(1);
        // SAFETY: `at` and `last` are among the indices, and these were checked when the steps were made.
        let term = |at: usize| unsafe {
            if FAR {
                prefetch(weights.as_ptr().wrapping_add(*indices.get_unchecked(last.min(at + AHEAD)) as usize));
            }
            value(at) * *weights.get_unchecked(*indices.get_unchecked(at) as usize)
        };
        let mut sums = [0.0f32; 4];
        let mut at = from;
        while at + 4 <= to {
            // By hand: as a loop it is not always unrolled.
            sums[0] += term(at);
            sums[1] += term(at + 1);
            sums[2] += term(at + 2);
            sums[3] += term(at + 3);
            at += 4;
        }
        while at < to {
            sums[0] += term(at);
            at += 1;
        }
        ((sums[0] + sums[1]) + (sums[2] + sums[3]) + self.bias) * self.targets[i].signum()
    }

    /// Adds what `change` of the dual variable of row `i` adds to the weights.
    #[inline(always)]
    fn scatter(&mut self, i: usize, change: f32, value: impl Fn(usize) -> f32 + Copy) {
        let by = self.scale.weights * change * self.targets[i];
        if by == 0.0 {
            return;
        }
        self.bias += by * self.scale.bias;
        for at in self.block.offsets[i] as usize..self.block.offsets[i + 1] as usize {
            // SAFETY: as in `margin`.
            unsafe {
                let weight = self.weights.get_unchecked_mut(*self.block.indices.get_unchecked(at) as usize);
                *weight += by * value(at);
            }
        }
    }
}
