//! The losses' second derivative on few features as a matrix, and Newton steps by it.
//!
//! With H = X^T D X / n, of the rows of all workers, the step
//! ```text
//! argmin over d of   g.d + 1/2 d^T H d + penalty(w + d)
//! ```
//! is found without another look at rows: by Cholesky's factors if there is no L1 penalty, else by `active`. The
//! intercept is the last feature and not penalised. Invariant: all workers have the same matrix, and so make the same step.

mod active;
mod equations;
pub mod lines;
mod products;

use super::bounds::Bounds;
use super::certificate::Penalty;
use super::columns::Columns;
use super::quadratic::Way;
use super::reduce::Reduce;
use crate::pages;
use active::Active;
use equations::Equations;
use flexps_common::Result;
use flexps_common::data::Facts;
use flexps_common::widest::widest;
use flexps_common::worker::Worker;
use lines::Lines;
use products::Products;

/// Steps that are made by one matrix without an L1 penalty, whose certificate asks for no exact steps.
pub const FILLED: usize = 2;
/// Passes over the non-zeros that a step without the matrix takes, or thereabouts.
const PASSES: f64 = 16.0;
/// What the stages of such a step cost at least, in products of two non-zeros.
const MEETINGS: f64 = 2e6;
/// The same under an L1 penalty, by sweeps, each of which also writes.
const SWEPT: f64 = 40.0;
/// Curvatures below this part of the largest are taken for none where the L2 penalty holds features that are left without: of the
/// squared hinge those of most rows.
const FLAT: f64 = 1e-11;
/// Least curvature of the intercept, of the usual one.
const STIFF: f64 = 1e-12;
/// Rows are dense that have this part of all features, and their products cost this part of what others do.
const DENSE: f64 = 0.99;
const BLOCKED: f64 = 0.25;
/// What it costs to have a number summed over slaves, in products of two non-zeros.
const SENT: f64 = 8.0;

/// What the matrix is, with what it is made of.
pub struct Gram {
    /// This worker's rows.
    pub lines: Lines,
    /// Whether there is an intercept.
    bias: bool,
    /// Curvature of the intercept at least: where no row has one, the others are not to go without a step.
    pub stiff: f64,
    /// Curvatures below this part of the largest are taken for none.
    flat: f64,
    /// The curvature of each row as it is in `half`.
    bent: Vec<f64>,
    /// The lower half by this worker's rows and in their numbers, the intercept being the last.
    half: Vec<f64>,
    /// That by the rows of all.
    sums: Vec<f64>,
    /// Row by row, both halves.
    matrix: Vec<f64>,
}

/// Where row `j` of a lower half starts.
fn line(j: usize) -> usize {
    j * (j + 1) / 2
}

/// Bytes that a worker keeps for the matrix of so many features, beside it its part of a half and the sum of all, and factors.
pub fn bytes(features: u64) -> u64 {
    (features + 1).saturating_pow(2).saturating_mul(20)
}

/// Whether a worker may keep that.
pub fn fits(features: usize, memory: u64) -> bool {
    bytes(features as u64) <= memory
}

fn may_be(columns: &Columns, memory: u64) -> bool {
    columns.count() > 0 && fits(columns.count(), memory)
}

/// Whether it pays to make the matrix of so many features for a step, by the sum over rows of the square of their non-zeros, and
/// by the non-zeros.
fn pays(features: usize, [squares, nonzeros]: [f64; 2], threads: usize, slaves: usize) -> bool {
    let (threads, sent) = (threads as f64, if slaves > 1 { SENT } else { 1.0 });
    squares / 2.0 / threads + sent * (features as f64).powi(2) <= SWEPT * nonzeros / threads
}

/// Whether Newton's method on a smooth loss is to use the matrix of all features, by the facts of the rows, rather than products with it.
pub fn suits(facts: &Facts, memory: u64) -> bool {
    let without = (PASSES * facts.nonzeros as f64).max(MEETINGS);
    fits(facts.features as usize, memory) && making(facts) + solving(facts) <= without
}

/// Products of two non-zeros that the matrix of all features is made of, at least, or as much work: of dense rows they come in
/// blocks.
pub fn making(facts: &Facts) -> f64 {
    let (rows, nonzeros) = (facts.rows.max(1) as f64, facts.nonzeros as f64);
    let dense = nonzeros >= DENSE * rows * facts.features as f64;
    nonzeros.powi(2) / rows / 2.0 * if dense { BLOCKED } else { 1.0 }
}

/// Products of two numbers that its factors take.
pub fn solving(facts: &Facts) -> f64 {
    (facts.features as f64).powi(3) / 6.0
}

impl Gram {
    /// The matrix of the features of `columns`, for steps under an L1 penalty, to be filled; none where coordinate descent on the
    /// columns costs less.
    pub fn of(
        worker: &mut Worker<'_>,
        reduce: &mut Reduce,
        columns: &Columns,
        (rows, bias): (usize, bool),
        memory: u64,
    ) -> Result<Option<Self>> {
        let features = columns.count();
        if !may_be(columns, memory) {
            return Ok(None);
        }
        let counts = Lines::counts(columns, rows);
        let squares: f64 = counts.iter().map(|count| f64::from(*count).powi(2)).sum();
        let mut sums = vec![squares, columns.nonzeros() as f64];
        reduce.sum(worker, &mut sums)?;
        if !pays(features, [sums[0], sums[1]], worker.place.threads, worker.place.slaves) {
            return Ok(None);
        }
        Ok(Some(Self::new(Lines::of_columns(columns, &counts), bias, 0.0)))
    }

    /// The same whatever it costs; none where a worker can't keep it.
    pub fn that_fits(columns: &Columns, (rows, bias): (usize, bool), memory: u64) -> Option<Self> {
        let lines = || Lines::of_columns(columns, &Lines::counts(columns, rows));
        may_be(columns, memory).then(|| Self::new(lines(), bias, 0.0))
    }

    /// The matrix of all features that these rows have, where the L2 penalty holds them, to be filled.
    pub fn whole(lines: Lines, bias: bool) -> Self {
        Self::new(lines, bias, FLAT)
    }

    fn new(lines: Lines, bias: bool, flat: f64) -> Self {
        let bent = vec![0.0; lines.count()];
        let [half, sums, matrix] = [const { Vec::new() }; 3];
        Self { lines, bias, stiff: STIFF, flat, bent, half, sums, matrix }
    }

    /// Features, and the intercept if there is one.
    fn size(&self) -> usize {
        self.lines.features() + usize::from(self.bias)
    }

    /// Numbers that the workers sum for the matrix of so many features or fewer, at most.
    pub fn numbers(features: usize, memory: u64) -> usize {
        line(features.min((memory / 20).isqrt() as usize) + 1)
    }

    /// Fills it, `bends` being slope and curvature of each of this worker's rows, over n.
    pub fn fill(&mut self, worker: &mut Worker<'_>, reduce: &mut Reduce, bends: &[[f64; 2]]) -> Result<()> {
        self.fill_half(worker, bends)?;
        let (size, locals, features) = (self.size(), self.lines.locals(), self.lines.features());
        pages::clear(&mut self.sums, line(size));
        if locals == features {
            self.sums.extend_from_slice(&self.half);
        } else {
            self.sums.resize(line(size), 0.0);
            let places = (0..locals).map(|local| self.lines.place(local)).chain([features]);
            let places: Vec<usize> = places.take(locals + usize::from(self.bias)).collect();
            for (j, place) in places.iter().enumerate() {
                for (k, other) in places[..=j].iter().enumerate() {
                    self.sums[line(*place) + other] = self.half[line(j) + k];
                }
            }
        }
        reduce.sum(worker, &mut self.sums)?;
        self.matrix.resize(size * size, 0.0);
        for j in 0..size {
            for k in 0..=j {
                let value = self.sums[line(j) + k];
                (self.matrix[j * size + k], self.matrix[k * size + j]) = (value, value);
            }
        }
        Ok(())
    }

    /// This worker's part: anew, or, where the curvature of fewer rows has changed than there are that have one, by what changed.
    fn fill_half(&mut self, worker: &mut Worker<'_>, bends: &[[f64; 2]]) -> Result<()> {
        let Self { lines, bias, flat, bent, half, .. } = self;
        let (locals, bias) = (lines.locals(), *bias);
        let flat = *flat * bends.iter().fold(0.0, |most: f64, [_, by]| most.max(*by));
        let of = |by: f64| if by > flat { by } else { 0.0 };
        let (mut changed, mut all) = (0, 0);
        for (before, [_, by]) in bent.iter().zip(bends) {
            changed += usize::from(of(*by) != *before);
            all += usize::from(of(*by) != 0.0);
        }
        let size = line(locals + usize::from(bias));
        if changed >= all {
            bent.fill(0.0);
            pages::clear(half, size);
        }
        half.resize(size, 0.0);
        lines.each(worker, |block, rows| {
            let changes = bent[rows.clone()].iter_mut().zip(&bends[rows]);
            let changes: Vec<f64> =
                changes.map(|(before, [_, by])| of(*by) - std::mem::replace(before, of(*by))).collect();
            widest(Products { block, changes: &changes, bias: bias.then_some(locals), half });
        })
    }

    /// The step from `weights` where the losses' gradient is `gradient`, and `slope` in the intercept.
    /// Under an L1 penalty it goes no further than the bounds say.
    pub fn step(&self, (weights, bounds): (&[f64], &Bounds), gradient: &[f64], slope: f64, penalty: Penalty) -> Way {
        let with_last = |values: &[f64], last: f64| -> Vec<f64> {
            values.iter().copied().chain(self.bias.then_some(last)).collect()
        };
        let (weights, gradient) = (with_last(weights, 0.0), with_last(gradient, slope));
        let exact = if penalty.l1 > 0.0 { None } else { self.solve(&weights, &gradient, penalty.l2) };
        let mut step = exact.unwrap_or_else(|| Active::new(self, (&weights, bounds), &gradient, penalty).solve());
        let bias = step.get(self.lines.features()).copied().unwrap_or(0.0);
        step.truncate(self.lines.features());
        Way { step, bias }
    }

    /// What is added to a feature's diagonal.
    fn ridge(&self, j: usize, l2: f64) -> f64 {
        match j < self.lines.features() {
            true => l2,
            false => (self.stiff - self.matrix[j * self.size() + j]).max(0.0),
        }
    }

    /// The step without an L1 penalty, by Cholesky's factors; none where the matrix has no inverse.
    fn solve(&self, weights: &[f64], gradient: &[f64], l2: f64) -> Option<Vec<f64>> {
        let all: Vec<usize> = (0..self.size()).collect();
        let aims = all.iter().map(|j| -(gradient[*j] + self.ridge(*j, l2) * weights[*j])).collect();
        self.solve_for(&all, aims, |j| self.ridge(j, l2))
    }

    /// The solution of the equations of the features `held`, with `ridge` on the diagonal; none where these have no inverse.
    fn solve_for(&self, held: &[usize], aims: Vec<f64>, ridge: impl Fn(usize) -> f64) -> Option<Vec<f64>> {
        let mut factor: Vec<f64> = Vec::with_capacity(line(held.len()));
        for (at, j) in held.iter().enumerate() {
            let from = &self.matrix[j * self.size()..][..self.size()];
            factor.extend(held[..=at].iter().map(|k| from[*k]));
            factor[line(at) + at] += ridge(*j);
        }
        widest(Equations { factor, found: aims })
    }
}

#[cfg(test)]
mod tests {
    use super::equations::dot;
    use super::*;
    use proptest::prelude::*;

    /// The matrix of rows, each with a weight, of `features` values.
    fn of(rows: &[(f64, Vec<f64>)], features: usize, bias: bool) -> Gram {
        let size = features + usize::from(bias);
        let mut matrix = vec![0.0; size * size];
        for (by, row) in rows {
            let value = |j: usize| row.get(j).copied().unwrap_or(1.0);
            (0..size * size).for_each(|at| matrix[at] += by * value(at / size) * value(at % size));
        }
        Gram { matrix, ..Gram::new(Lines::none(features), bias, 0.0) }
    }

    /// By how much a step misses what makes it the best: the sum over features.
    fn missed(gram: &Gram, weights: &[f64], gradient: &[f64], slope: f64, penalty: Penalty, way: &Way) -> f64 {
        let all: Vec<f64> = way.step.iter().copied().chain([way.bias]).collect();
        let mut sum = 0.0;
        for j in 0..gram.size() {
            let own = &gram.matrix[j * gram.size()..][..gram.size()];
            let moved: f64 = own.iter().zip(&all).map(|(h, d)| h * d).sum();
            if j == gram.lines.features() {
                sum += (slope + moved).abs();
                continue;
            }
            let at = weights[j] + way.step[j];
            let along = gradient[j] + moved + penalty.l2 * at;
            sum +=
                if at == 0.0 { (along.abs() - penalty.l1).max(0.0) } else { (along + at.signum() * penalty.l1).abs() };
        }
        sum
    }

    proptest! {
        #[test]
        fn a_step_is_the_best_of_the_quadratic_under_each_penalty(
            rows in prop::collection::vec((0.01..1.0f64, prop::collection::vec(-1.0..1.0f64, 6)), 3..12),
            weights in prop::collection::vec(prop_oneof![Just(0.0), -1.0..1.0f64], 6),
            gradient in prop::collection::vec(-1.0..1.0f64, 6),
            bias in any::<bool>(),
        ) {
            let gram = of(&rows, 6, bias);
            for (l1, l2) in [(0.3, 0.02), (0.2, 0.1), (0.0, 0.05)] {
                let (penalty, slope) = (Penalty { l1, l2 }, if bias { 0.4 } else { 0.0 });
                let none = Way { step: vec![0.0; 6], bias: 0.0 };
                let way = gram.step((&weights, &Bounds::of(None)), &gradient, slope, penalty);
                let [before, after] =
                    [&none, &way].map(|way| missed(&gram, &weights, &gradient, slope, penalty, way));
                let enough = if l1 == 0.0 { 1e-9 } else { 0.02 };
                prop_assert!(after <= enough * before + 1e-12, "l1 {l1} l2 {l2}: {after:e} of {before:e}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_step_within_bounds_is_the_best_of_those(
            rows in prop::collection::vec((0.01..1.0f64, prop::collection::vec(-1.0..1.0f64, 6)), 3..12),
            weights in prop::collection::vec(prop_oneof![Just(0.0), -1.0..1.0f64], 6),
            gradient in prop::collection::vec(-1.0..1.0f64, 6),
            limits in prop::collection::vec(0.05..2.0f64, 6),
        ) {
            let gram = of(&rows, 6, false);
            let (penalty, bounds) = (Penalty { l1: 0.1, l2: 0.05 }, Bounds::of(Some(limits.clone())));
            let step = gram.step((&weights, &bounds), &gradient, 0.0, penalty).step;
            for j in 0..6 {
                prop_assert!(step[j].abs() <= limits[j] * (1.0 + 1e-12), "{} of {}", step[j], limits[j]);
                let moved = dot(&gram.matrix[j * 6..][..6], &step);
                let along = gradient[j] + moved + penalty.l2 * (weights[j] + step[j]);
                // Where a little less or a little more leads, unless it may not go there.
                for way in [-1.0, 1.0].into_iter().filter(|way| step[j] * way < limits[j] * (1.0 - 1e-9)) {
                    let at = weights[j] + step[j];
                    let rise = way * along + penalty.l1 * if at == 0.0 { 1.0 } else { way * at.signum() };
                    prop_assert!(rise > -1e-3, "feature {j}, from {at}: {rise:e}");
                }
            }
        }
    }

    #[test]
    fn features_of_groups_that_always_add_up_to_the_same_reach_the_best_step_too() {
        // Three groups of four, one feature of each in every row: no matrix of all has an inverse.
        let row = |i: usize| {
            let of =
                |group: usize, j: usize| if (i / 4usize.pow(group as u32) + i * group) % 4 == j { 1.0 } else { 0.0 };
            (1.0 / 64.0, (0..12).map(|j| of(j / 4, j % 4)).collect::<Vec<f64>>())
        };
        let gram = of(&(0..64).map(row).collect::<Vec<_>>(), 12, false);
        let wanted: Vec<f64> = (0..12).map(|j| f64::from(j as u32 * 7 % 5) - 2.0).collect();
        let gradient: Vec<f64> = (0..12).map(|j| -dot(&gram.matrix[j * 12..][..12], &wanted)).collect();
        let penalty = Penalty { l1: 1e-4, l2: 0.0 };
        let way = gram.step((&[0.0; 12], &Bounds::of(None)), &gradient, 0.0, penalty);
        let none = Way { step: vec![0.0; 12], bias: 0.0 };
        let [before, after] = [&none, &way].map(|way| missed(&gram, &[0.0; 12], &gradient, 0.0, penalty, way));
        assert!(after <= 1e-6 * before && after < 1e-6, "{after:e} of {before:e}");
        assert!(gram.solve(&[0.0; 12], &gradient, 0.0).is_none());
    }

    #[test]
    fn the_matrix_pays_where_rows_have_few_of_the_features_and_these_are_few() {
        // a9a's rows; 1200 of the features of 200,000 rows; tf-idf rows, which have hundreds of those that are worked on.
        assert!(pays(123, [32_561.0 * 196.0, 451_592.0], 2, 1));
        assert!(pays(1200, [200_000.0 * 70.0, 1_400_000.0], 2, 1));
        assert!(pays(1900, [200_000.0 * 70.0, 1_400_000.0], 2, 1));
        assert!(!pays(1900, [200_000.0 * 70.0, 1_400_000.0], 2, 3));
        assert!(!pays(2000, [20_000.0 * 300.0 * 300.0, 20_000.0 * 300.0], 2, 1));
        let facts = |rows, features, nonzeros| Facts { rows, features, nonzeros, ..Facts::default() };
        assert!(suits(&facts(32_561, 123, 451_592), 40 << 20) && suits(&facts(569, 30, 17_070), 40 << 20));
        assert!(suits(&facts(50_000, 100, 5_000_000), 40 << 20) && !suits(&facts(50_000, 100, 4_000_000), 40 << 20));
        assert!(!suits(&facts(32_561, 123, 451_592), 1 << 16), "no memory for it");
        assert!(!suits(&facts(4143, 54_877, 817_141), 40 << 20));
    }
}
