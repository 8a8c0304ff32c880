//! The inner loop: dual steps on a few rows of one block.
//!
//! Invariant: all of the block's indices are below the number of weights; who makes [`Steps`] has checked it.

use super::loss::Loss;
use super::rests::Rests;
use flexps_common::data::Block;
use flexps_common::prefetch::prefetch;
use flexps_common::widest::Work;
use std::marker::PhantomData;

/// Non-zeros between asking for a weight and using it; of a row that comes soon, so many are asked for.
const AHEAD: usize = 48;
/// Weights that the second cache holds beside the rows: no need to ask for them.
const NEAR: usize = 1 << 17;

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
    /// What margins and curvatures are multiplied by, while only a part of the rows has spoken; else 1.
    pub lift: f32,
}

/// Rows whose steps are taken at once, where rows have little in common.
pub const LANES: usize = 16;

/// Steps on rows of one block.
pub struct Steps<'a, L> {
    /// The block.
    pub block: &'a Block,
    /// By row: what it counts, with the sign of what it should score.
    pub targets: &'a [f32],
    /// The rows.
    pub rows: &'a [u32],
    /// The rows that come behind these, and their block.
    pub following: Option<(&'a Block, &'a [u32])>,
    /// By row.
    pub dual: &'a mut [f32],
    /// By row, or none where all values are 1.
    pub norms: &'a [f32],
    /// Which rows rest.
    pub rests: &'a mut Rests,
    /// What is learnt.
    pub weights: &'a mut [f32],
    /// The intercept before.
    pub bias: f32,
    /// What steps are multiplied by.
    pub scale: Scale,
    /// f.
    pub loss: PhantomData<L>,
}

impl<L: Loss> Work for Steps<'_, L> {
    /// What the rows showed, and the intercept behind them.
    type Output = (Met, f32);

    /// A step on each of the rows.
    #[inline(always)]
    fn run(self) -> (Met, f32) {
        match (&self.block.values, self.weights.len() > NEAR) {
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
        for (at, i) in self.rows.iter().enumerate() {
            let i = *i as usize;
            let long = FAR && (self.block.offsets[i + 1] - self.block.offsets[i]) as usize > AHEAD;
            let margin = if long { self.margin::<true>(i, value) } else { self.margin::<false>(i, value) };
            let q = self.curvature(i);
            sample = margin;
            let before = self.dual[i];
            gaps += self.targets[i].abs() * L::gap(before, margin);
            let after = if q > 1.0 { L::step(before, margin, q) } else { L::short_step(before, margin, q) };
            self.take(i, before, after);
            self.ask::<FAR>(at + 1);
            self.scatter(i, after - before, value);
        }
        Met { gap: f64::from(gaps), loss: L::loss(f64::from(sample)), sampled: 1 }
    }

    /// All margins of a few rows, then all steps, then all updates: the rows don't wait for one another, and their steps
    /// share the vector units.
    #[inline(always)]
    fn at_once<const FAR: bool>(&mut self, value: impl Fn(usize) -> f32 + Copy) -> Met {
        let (mut gaps, mut sample) = (0.0f32, 0.0);
        for (chunk, rows) in self.rows.chunks(LANES).enumerate() {
            let (mut m, mut q, mut before, mut after) = ([0.0; LANES], [1.0; LANES], [0.5; LANES], [0.0; LANES]);
            for (lane, i) in rows.iter().map(|i| *i as usize).enumerate() {
                m[lane] = self.margin::<false>(i, value);
                q[lane] = self.curvature(i);
                before[lane] = self.dual[i];
            }
            sample = m[0];
            let mut met = [0.0f32; LANES];
            for lane in 0..LANES {
                after[lane] = L::step(before[lane], m[lane], q[lane]);
                met[lane] = L::gap(before[lane], m[lane]);
            }
            for (lane, i) in rows.iter().map(|i| *i as usize).enumerate() {
                self.take(i, before[lane], after[lane]);
                gaps += self.targets[i].abs() * met[lane];
                self.ask::<FAR>((chunk + 1) * LANES + lane);
                self.scatter(i, after[lane] - before[lane], value);
            }
        }
        Met { gap: f64::from(gaps), loss: L::loss(f64::from(sample)), sampled: 1 }
    }

    /// Asks for the first weights of the row that comes at this place, among these rows or behind them. Where rows are short
    /// that is all of them, a few rows ahead: what is asked for much earlier has left the nearest cache again, and while
    /// margins are summed the processor's reads of memory are busy as it is.
    #[inline(always)]
    fn ask<const FAR: bool>(&self, at: usize) {
        if !FAR {
            return;
        }
        let found = match self.rows.get(at) {
            Some(row) => Some((self.block, *row)),
            None => self.following.and_then(|(block, rows)| Some((block, *rows.get(at - self.rows.len())?))),
        };
        let Some((block, row)) = found else { return };
        let (from, to) = (block.offsets[row as usize] as usize, block.offsets[row as usize + 1] as usize);
        for index in &block.indices[from..to.min(from + AHEAD)] {
            prefetch(self.weights.as_ptr().wrapping_add(*index as usize));
        }
    }

    /// Row `i` goes from one value of its dual variable to another one.
    #[inline(always)]
    fn take(&mut self, i: usize, before: f32, after: f32) {
        self.dual[i] = after;
        if !L::ENDS.is_empty() {
            self.rests.found(i, after == before && L::ENDS.contains(&after));
        }
    }

    #[inline(always)]
    fn curvature(&self, i: usize) -> f32 {
        let ones = (self.block.offsets[i + 1] - self.block.offsets[i]) as f32;
        let norm2 = self.norms.get(i).copied().unwrap_or(ones) + self.scale.bias;
        self.scale.lift * self.scale.weights * self.targets[i].abs() * norm2
    }

    /// The margin of row `i`, whose weights are asked for on the way where it is long.
    #[inline(always)]
    fn margin<const LONG: bool>(&self, i: usize, value: impl Fn(usize) -> f32 + Copy) -> f32 {
        let (indices, weights) = (&self.block.indices[..], &*self.weights);
        let (from, to) = (self.block.offsets[i] as usize, self.block.offsets[i + 1] as usize);
        // What follows the row in memory may be asked for in vain.
        let last = indices.len().saturating_sub(1);
        // SAFETY: `at` and `last` are among the indices, and these were checked when the steps were made.
        let term = |at: usize| unsafe {
            if LONG {
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
        ((sums[0] + sums[1]) + (sums[2] + sums[3]) + self.bias) * (self.scale.lift * self.targets[i].signum())
    }

    /// Adds what `change` of the dual variable of row `i` adds to the weights.
    #[inline(always)]
    fn scatter(&mut self, i: usize, change: f32, value: impl Fn(usize) -> f32 + Copy) {
        let by = self.scale.weights * change * self.targets[i];
        if by == 0.0 {
            return;
        }
        self.bias += by * self.scale.bias;
        let block = self.block;
        let (indices, weights) = (&block.indices[..], &mut *self.weights);
        for at in block.offsets[i] as usize..block.offsets[i + 1] as usize {
            // SAFETY: as in `margin`.
            unsafe { *weights.get_unchecked_mut(*indices.get_unchecked(at) as usize) += by * value(at) };
        }
    }
}
