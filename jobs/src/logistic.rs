//! The logistic loss on sparse rows: formulas, dot products, and sums over a block.
//!
//! The loss of a row with label y in {-1, +1} at margin m = y (w.x + b) is log(1 + exp(-m)); its derivative in w.x is
//! -y s(-m) with s the sigmoid. Invariant: every formula is finite for every finite margin; products are f32, sums over
//! rows f64.

use crate::objective::is_right;
use flexps_common::data::{Block, block::Row};
use flexps_common::metrics::{Metric, Scores};
use flexps_common::worker::Worker;

/// log(1 + exp(-m)), without overflow.
#[inline]
pub fn loss(margin: f32) -> f64 {
    let m = f64::from(margin);
    (-m).max(0.0) + (-m.abs()).exp().ln_1p()
}

/// 1 / (1 + exp(-x)), without overflow.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    // exp(-x) may become infinite; 1/inf is the 0 that is meant.
    1.0 / (1.0 + (-x).exp())
}

/// Derivative of a row's loss in w.x, where y is the row's label and m its margin.
#[inline]
pub fn slope(label: f32, margin: f32) -> f32 {
    -label * sigmoid(-margin)
}

/// A row's loss and its derivative in w.x, by one exponential.
#[inline]
pub fn loss_and_slope(label: f32, margin: f32) -> (f64, f32) {
    let m = f64::from(margin);
    let small = (-m.abs()).exp();
    let wrong = if m >= 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
    ((-m).max(0.0) + small.ln_1p(), -label * wrong as f32)
}

/// w.x over the row's own non-zeros.
///
/// # Safety
/// Every index of the row must be below `weights.len()`.
#[inline]
pub unsafe fn dot_unchecked(row: &Row<'_>, weights: &[f32]) -> f32 {
    // Four sums: the gathers, not the additions, then set the speed.
    let mut sums = [0.0f32; 4];
    // SAFETY: the caller vouches for the indices.
    let weight = |index: u32| unsafe { *weights.get_unchecked(index as usize) };
    match row.values {
        Some(values) => {
            let (index4, value4) = (row.indices.chunks_exact(4), values.chunks_exact(4));
            let rest = index4.remainder().iter().zip(value4.remainder());
            let rest: f32 = rest.map(|(i, v)| v * weight(*i)).sum();
            for (i, v) in index4.zip(value4) {
                for lane in 0..4 {
                    sums[lane] += v[lane] * weight(i[lane]);
                }
            }
            sums[0] += rest;
        }
        None => {
            let index4 = row.indices.chunks_exact(4);
            let rest: f32 = index4.remainder().iter().map(|i| weight(*i)).sum();
            for i in index4 {
                for lane in 0..4 {
                    sums[lane] += weight(i[lane]);
                }
            }
            sums[0] += rest;
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// w.x over the row's own non-zeros, summed in f64.
///
/// # Safety
/// Every index of the row must be below `weights.len()`.
#[inline]
pub unsafe fn dot_wide_unchecked(row: &Row<'_>, weights: &[f32]) -> f64 {
    let mut sums = [0.0f64; 4];
    // SAFETY: the caller vouches for the indices.
    let weight = |index: u32| unsafe { f64::from(*weights.get_unchecked(index as usize)) };
    let index4 = row.indices.chunks_exact(4);
    let mut rest = 0.0;
    match row.values {
        Some(values) => {
            let value4 = values.chunks_exact(4);
            for (i, v) in index4.remainder().iter().zip(value4.remainder()) {
                rest += f64::from(*v) * weight(*i);
            }
            for (i, v) in index4.zip(value4) {
                sums[0] += f64::from(v[0]) * weight(i[0]);
                sums[1] += f64::from(v[1]) * weight(i[1]);
                sums[2] += f64::from(v[2]) * weight(i[2]);
                sums[3] += f64::from(v[3]) * weight(i[3]);
            }
        }
        None => {
            index4.remainder().iter().for_each(|i| rest += weight(*i));
            for i in index4 {
                sums[0] += weight(i[0]);
                sums[1] += weight(i[1]);
                sums[2] += weight(i[2]);
                sums[3] += weight(i[3]);
            }
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// sums += by * x over the row's own non-zeros.
///
/// # Safety
/// Every index of the row must be below `sums.len()`.
#[inline]
pub unsafe fn add_scaled_unchecked(row: &Row<'_>, by: f32, sums: &mut [f32]) {
    match row.values {
        Some(values) => {
            for (index, value) in row.indices.iter().zip(values) {
                // SAFETY: the caller vouches for the indices.
                unsafe { *sums.get_unchecked_mut(*index as usize) += by * value };
            }
        }
        None => {
            for index in row.indices {
                // SAFETY: as above.
                unsafe { *sums.get_unchecked_mut(*index as usize) += by };
            }
        }
    }
}

/// One more than the largest index of a block: what a slice that it indexes must hold at least.
pub fn needed_len(block: &Block) -> usize {
    // Indices rise inside a row, so its last one is its largest.
    block.iter().map(|row| row.indices.last().map_or(0, |k| *k as usize + 1)).max().unwrap_or(0)
}

/// What a model makes of rows, summed.
#[derive(Debug, Default)]
pub struct Judged {
    /// Sum of the losses.
    pub loss: f64,
    /// Rows whose sign is right.
    pub right: u64,
    /// Rows.
    pub rows: u64,
    /// Scores by class, when they are wanted.
    pub scores: Option<Scores>,
}

impl Judged {
    /// Counts a block's rows. Every index must be below `weights.len()`.
    pub fn add(&mut self, block: &Block, weights: &[f32], bias: f32) {
        assert!(needed_len(block) <= weights.len(), "a row's feature is not in its key map");
        for i in 0..block.rows() {
            let row = block.row(i);
            // SAFETY: just asserted.
            let score = bias + unsafe { dot_unchecked(&row, weights) };
            self.loss += loss(row.label * score);
            self.count(score, row.label);
        }
    }

    /// Counts a row, but for its loss.
    #[inline]
    pub fn count(&mut self, score: f32, label: f32) {
        self.right += u64::from(is_right(f64::from(label), f64::from(score)));
        self.rows += 1;
        if let Some(scores) = &mut self.scores {
            scores.add(score, label > 0.0);
        }
    }

    /// Reports the sums as `loss`, `right`, `rows` and, of the scores, `auc`.
    pub fn report(self, worker: &mut Worker<'_>) {
        worker.report("loss", Metric::Sum(self.loss));
        worker.report("right", Metric::Count(self.right));
        worker.report("rows", Metric::Count(self.rows));
        if let Some(scores) = self.scores {
            worker.report("auc", Metric::Auc(scores.into_sketch()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_slope_are_finite_and_exact_at_the_ends() {
        for margin in [-1e30f32, -1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4, 1e30] {
            assert!(loss(margin).is_finite());
            let slope = slope(1.0, margin);
            assert!((-1.0..=0.0).contains(&slope), "{margin}: {slope}");
            let both = loss_and_slope(1.0, margin);
            assert!(both.0 == loss(margin) && (both.1 - slope).abs() < 1e-6, "{margin}");
        }
        assert_eq!(loss(0.0), std::f64::consts::LN_2);
        assert_eq!(loss(-1e30), f64::from(1e30f32));
        assert!((loss(20.0) / (-20f64).exp() - 1.0).abs() < 1e-8);
    }

    #[test]
    fn the_slope_is_the_derivative_of_the_loss() {
        for margin in [-3.0f32, -0.5, 0.0, 0.25, 4.0] {
            let h = 1e-2f32;
            let numeric = (loss(margin + h) - loss(margin - h)) / f64::from((margin + h) - (margin - h));
            assert!((numeric - f64::from(slope(1.0, margin))).abs() < 1e-4, "{margin}");
        }
    }

    #[test]
    fn products_with_and_without_values_agree() {
        let weights: Vec<f32> = (0..40).map(|i| (i as f32).sin()).collect();
        for len in 0..=9u32 {
            let indices: Vec<u32> = (0..len).map(|i| 4 * i + 1).collect();
            let ones = vec![1.0; len as usize];
            let with = Row { label: 1.0, indices: &indices, values: Some(&ones) };
            let without = Row { values: None, ..with };
            // SAFETY: the largest index is 33.
            let products = unsafe { (dot_unchecked(&with, &weights), dot_unchecked(&without, &weights)) };
            let plain: f32 = indices.iter().map(|i| weights[*i as usize]).sum();
            assert_eq!(products.0, products.1);
            assert!((products.0 - plain).abs() < 1e-5);
            let mut sums = (vec![0.0; 40], vec![0.0; 40]);
            // SAFETY: as above.
            unsafe {
                add_scaled_unchecked(&with, 0.5, &mut sums.0);
                add_scaled_unchecked(&without, 0.5, &mut sums.1);
            }
            assert_eq!(sums.0, sums.1);
            assert_eq!(sums.0.iter().sum::<f32>(), 0.5 * len as f32);
        }
    }
}
