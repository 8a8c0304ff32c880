//! The plane of a sweep's way d and the way before, p: how the dual objective bends in it, and what lies at s and t.
//!
//! Invariant: all of it is vector code, over one block's rows or over features.

use crate::plane::Curve;
use crate::sdca::loss::Loss;
use crate::sdca::rows::Held;
use flexps_common::widest::Work;
use std::marker::PhantomData;
use std::ops::Range;

/// Values by feature and, block by block, by row.
#[derive(Debug, Default)]
pub struct Point {
    pub weights: Vec<f32>,
    pub dual: Vec<Vec<f32>>,
}

/// What is held by feature and by row; its memory is used again.
#[derive(Debug, Default)]
pub struct Points {
    /// The way before, by feature.
    pub past: Vec<f32>,
    /// Where the sweep began.
    pub start: Point,
    /// What is tried.
    pub next: Point,
}

/// |now|^2
pub fn norm2(now: &[f32]) -> f64 {
    now.iter().map(|now| f64::from(*now) * f64::from(*now)).sum()
}

/// |next|^2 - |now|^2
pub fn grown_norm2(now: &[f32], next: &[f32]) -> f64 {
    now.iter().zip(next).map(|(now, next)| f64::from(next - now) * (f64::from(*next) + f64::from(*now))).sum()
}

/// Values that are summed side by side.
const LANES: usize = 8;

/// w.d, w.p, d.d, d.p and p.p by feature.
pub struct Products<'a> {
    pub range: Range<usize>,
    pub now: &'a [f32],
    pub search: &'a Points,
}

impl Work for Products<'_> {
    type Output = [f64; 5];

    #[inline(always)]
    fn run(self) -> [f64; 5] {
        let Self { range, now, search } = self;
        let (now, start, past) = (&now[range.clone()], &search.start.weights[range.clone()], &search.past[range]);
        let mut sums = [[0.0f64; LANES]; 5];
        let mut add = |lane: usize, now: f32, start: f32, past: f32| {
            let (w, d, p) = (f64::from(now), f64::from(now - start), f64::from(past));
            for (sums, term) in sums.iter_mut().zip([w * d, w * p, d * d, d * p, p * p]) {
                sums[lane] += term;
            }
        };
        let whole = now.len() / LANES * LANES;
        let chunks = now.chunks_exact(LANES).zip(start.chunks_exact(LANES)).zip(past.chunks_exact(LANES));
        for ((now, start), past) in chunks {
            (0..LANES).for_each(|lane| add(lane, now[lane], start[lane], past[lane]));
        }
        (whole..now.len()).for_each(|i| add(0, now[i], start[i], past[i]));
        sums.map(|lanes| lanes.iter().sum())
    }
}

/// A block's dual variables: where the sweep led, where it began, the way before; and the rows' targets, or nothing where
/// each counts 1.
#[derive(Clone, Copy)]
pub struct Ways<'a> {
    now: &'a [f32],
    start: &'a [f32],
    past: &'a [f32],
    targets: &'a [f32],
}

impl<'a> Ways<'a> {
    pub fn of(held: &'a Held, start: &'a [f32]) -> Self {
        Self { now: &held.dual, start, past: &held.way, targets: &held.targets }
    }

    /// What a row counts.
    #[inline(always)]
    fn counts(&self, row: usize) -> f32 {
        self.targets.get(row).map_or(1.0, |target| target.abs())
    }
}

/// The rows' part of the curve.
pub struct Rows<'a, L> {
    pub ways: Ways<'a>,
    pub by: [f32; 2],
    pub loss: PhantomData<L>,
}

impl<L: Loss> Work for Rows<'_, L> {
    type Output = Curve;

    #[inline(always)]
    fn run(self) -> Curve {
        let Self { ways, by: [s, t], .. } = self;
        let Ways { now, start, past, targets } = ways;
        let mut sums = [[0.0f64; LANES]; 5];
        let mut add = |lane: usize, counts: f32, now: f32, start: f32, past: f32| {
            let (d, p) = (now - start, past);
            let (slope, bend) = L::bends(now + s * d + t * p);
            let (slope, bend) = (counts * slope, counts * bend);
            for (sums, term) in sums.iter_mut().zip([slope * d, slope * p, bend * d * d, bend * d * p, bend * p * p]) {
                sums[lane] += f64::from(term);
            }
        };
        let whole = now.len() / LANES * LANES;
        let chunks = now.chunks_exact(LANES).zip(start.chunks_exact(LANES)).zip(past.chunks_exact(LANES));
        if targets.is_empty() {
            for ((now, start), past) in chunks {
                (0..LANES).for_each(|lane| add(lane, 1.0, now[lane], start[lane], past[lane]));
            }
        } else {
            for (((now, start), past), targets) in chunks.zip(targets.chunks_exact(LANES)) {
                (0..LANES).for_each(|lane| add(lane, targets[lane].abs(), now[lane], start[lane], past[lane]));
            }
        }
        (whole..now.len()).for_each(|i| add(0, ways.counts(i), now[i], start[i], past[i]));
        sums.map(|lanes| lanes.iter().sum())
    }
}

/// A block's dual variables at s and t, kept in their domain. Which of them were set back, and by how much, is added to
/// `ended`, with the block's number.
pub struct Move<'a, L> {
    pub ways: Ways<'a>,
    pub next: &'a mut [f32],
    pub by: [f32; 2],
    pub block: usize,
    pub ended: &'a mut Vec<(usize, u32, f32)>,
    pub loss: PhantomData<L>,
}

impl<L: Loss> Work for Move<'_, L> {
    /// By how much the conjugates grew.
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Self { ways, next, by: [s, t], block, ended, .. } = self;
        let Ways { now, start, past, .. } = ways;
        let to = |now: f32, start: f32, past: f32| now + s * (now - start) + t * past;
        let mut left = false;
        for (((next, now), start), past) in next.iter_mut().zip(now).zip(start).zip(past) {
            let at = to(*now, *start, *past);
            *next = L::inside(at, *now);
            left |= *next != at;
        }
        if left {
            for (row, next) in next.iter().enumerate() {
                let at = to(now[row], start[row], past[row]);
                if at != *next {
                    ended.push((block, row as u32, next - at));
                }
            }
        }
        let mut grown = [0.0f64; LANES];
        let mut add = |lane: usize, counts: f32, now: f32, next: f32| {
            grown[lane] += f64::from(counts) * (L::conjugate(f64::from(next)) - L::conjugate(f64::from(now)));
        };
        let whole = next.len() / LANES * LANES;
        for (i, (now, next)) in now.chunks_exact(LANES).zip(next.chunks_exact(LANES)).enumerate() {
            (0..LANES).for_each(|lane| add(lane, ways.counts(i * LANES + lane), now[lane], next[lane]));
        }
        (whole..next.len()).for_each(|i| add(0, ways.counts(i), now[i], next[i]));
        grown.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::FLAT;
    use super::*;
    use crate::plane::newton;
    use crate::sdca::loss::{Hinge, Logistic, Squared, SquaredHinge};
    use proptest::prelude::*;

    /// -D times the number of rows, written down again, for weights of one feature that all rows have with the value 1.
    fn objective<L: Loss>(ways: Ways<'_>, by: [f64; 2], lambda_n: f64) -> f64 {
        let (mut sum, mut weight) = (0.0, 0.0);
        for i in 0..ways.now.len() {
            let (now, start, past) = (f64::from(ways.now[i]), f64::from(ways.start[i]), f64::from(ways.past[i]));
            let a = now + by[0] * (now - start) + by[1] * past;
            sum += f64::from(ways.targets[i]).abs() * L::conjugate(a);
            weight += f64::from(ways.targets[i]) * a / lambda_n;
        }
        sum + 0.5 * lambda_n * weight * weight
    }

    /// Checks the rows' derivatives at `by` against differences, and that of a quadratic a step leads to the best point.
    fn check_curve<L: Loss>(ways: Ways<'_>, by: [f64; 2], lambda_n: f64) -> Result<(), TestCaseError> {
        let curve = |by: [f64; 2]| {
            let signed = |value: &dyn Fn(usize) -> f64| {
                (0..ways.now.len()).map(|i| f64::from(ways.targets[i]) * value(i)).sum::<f64>() / lambda_n
            };
            let wd = signed(&|i| f64::from(ways.now[i] - ways.start[i]));
            let wp = signed(&|i| f64::from(ways.past[i]));
            let w = signed(&|i| f64::from(ways.now[i])) + by[0] * wd + by[1] * wp;
            let mut curve = Rows::<L> { ways, by: by.map(|by| by as f32), loss: PhantomData }.run();
            let of_weights = [w * wd, w * wp, wd * wd, wd * wp, wp * wp];
            curve.iter_mut().zip(of_weights).for_each(|(all, own)| *all += lambda_n * own);
            curve
        };
        let at = |s: f64, t: f64| objective::<L>(ways, [by[0] + s, by[1] + t], lambda_n);
        let h = 1e-2;
        let middle = at(0.0, 0.0);
        let differences = [
            (at(h, 0.0) - at(-h, 0.0)) / (2.0 * h),
            (at(0.0, h) - at(0.0, -h)) / (2.0 * h),
            (at(h, 0.0) - 2.0 * middle + at(-h, 0.0)) / (h * h),
            (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4.0 * h * h),
            (at(0.0, h) - 2.0 * middle + at(0.0, -h)) / (h * h),
        ];
        let found = curve(by);
        let size = found.iter().fold(1.0, |size: f64, value| size.max(value.abs()));
        for (found, difference) in found.iter().zip(differences) {
            prop_assert!((found - difference).abs() < 1e-3 * size, "{found} by formula, {difference} by differences");
        }
        if L::QUADRATIC {
            let step = newton(found, FLAT);
            let [ds, dt, ..] = curve([by[0] + step[0], by[1] + step[1]]);
            let far = step.iter().fold(1.0, |far: f64, step| far.max(step.abs()));
            prop_assert!(ds.abs().max(dt.abs()) < 1e-4 * size * far, "slopes {ds} and {dt} at the best point");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_search_knows_how_the_dual_objective_bends(
            rows in prop::collection::vec((0.3..0.7f32, 0.3..0.7f32, -0.2..0.2f32, prop_oneof![-3.0..-0.2f32, 0.2..3.0f32]), 3..40),
            by in (-0.2..0.2f64, -0.2..0.2f64),
            lambda_n in 0.3..30.0f64,
        ) {
            let column = |at: fn(&(f32, f32, f32, f32)) -> f32| rows.iter().map(at).collect::<Vec<f32>>();
            let (now, start, past, targets) = (column(|r| r.0), column(|r| r.1), column(|r| r.2), column(|r| r.3));
            let (ways, by) = (Ways { now: &now, start: &start, past: &past, targets: &targets }, [by.0, by.1]);
            check_curve::<Logistic>(ways, by, lambda_n)?;
            check_curve::<SquaredHinge>(ways, by, lambda_n)?;
            check_curve::<Squared>(ways, by, lambda_n)?;
        }

        #[test]
        fn what_leaves_the_domain_is_set_back_and_told(
            rows in prop::collection::vec((0.01..0.99f32, 0.01..0.99f32, -0.9..0.9f32), 1..40),
            by in (-2.0..2.0f32, -1.0..1.0f32),
        ) {
            fn check<L: Loss>(rows: &[(f32, f32, f32)], (s, t): (f32, f32)) -> Result<(), TestCaseError> {
                let column = |at: fn(&(f32, f32, f32)) -> f32| rows.iter().map(at).collect::<Vec<f32>>();
                let (now, start, past) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
                let ways = Ways { now: &now, start: &start, past: &past, targets: &[] };
                let (mut next, mut ended) = (vec![0.0; rows.len()], vec![]);
                let by = [s, t];
                let grown = Move::<L> { ways, next: &mut next, by, block: 3, ended: &mut ended, loss: PhantomData }.run();
                let mut sum = 0.0;
                for (i, next) in next.iter().enumerate() {
                    let at = now[i] + s * (now[i] - start[i]) + t * past[i];
                    let back: f32 = ended.iter().filter(|(block, row, _)| (*block, *row) == (3, i as u32)).map(|e| e.2).sum();
                    prop_assert!((at + back - next).abs() < 1e-6, "{at} and {back} make no {next}");
                    sum += L::conjugate(f64::from(*next)) - L::conjugate(f64::from(now[i]));
                    prop_assert!(L::conjugate(f64::from(*next)).is_finite() && L::inside(*next, now[i]) == *next);
                }
                prop_assert!((grown - sum).abs() < 1e-9 * (1.0 + sum.abs()));
                Ok(())
            }
            check::<Logistic>(&rows, by)?;
            check::<Hinge>(&rows, by)?;
            check::<SquaredHinge>(&rows, by)?;
            check::<Squared>(&rows, by)?;
        }
    }
}
