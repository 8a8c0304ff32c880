//! What rows add to a lower half: the products of each two of their values.
//!
//! Rows that have the same features side by side, as dense ones do, are taken some at a time, and some lines of the half at a
//! time: else each would have the whole half pass through the caches.

use super::line;
use flexps_common::data::{Block, Row};
use flexps_common::widest::Work;
use std::ops::Range;

/// Dense rows that are taken together.
const TOGETHER: usize = 4;
/// Least features of a row for which that pays.
const DENSE: usize = 16;
/// Lines of the half that stay in the nearer caches meanwhile.
const LINES: usize = 64;

/// Products of the values of rows, added to a lower half, each row's times by how much its curvature changes.
pub struct Products<'a> {
    /// Rows whose local features are fewer than the half has lines.
    pub block: &'a Block,
    /// By row.
    pub changes: &'a [f64],
    /// The number of the intercept, if there is one.
    pub bias: Option<usize>,
    /// The half.
    pub half: &'a mut [f64],
}

/// A row, and by how much its curvature changes.
type Changed<'a> = (Row<'a>, f64);

impl Work for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { block, changes, bias, half } = self;
        let mut dense: Vec<Changed<'_>> = Vec::new();
        for (row, by) in block.iter().zip(changes).filter(|(_, by)| **by != 0.0) {
            if let Some(last) = bias {
                let own = &mut half[line(last)..=line(last) + last];
                let value = |at: usize| row.values.map_or(1.0, |values| f64::from(values[at]));
                row.indices.iter().enumerate().for_each(|(at, k)| own[*k as usize] += by * value(at));
                own[last] += by;
            }
            match row.values {
                Some(_) if row.indices.len() >= DENSE && span(&row).len() == row.indices.len() => {
                    dense.push((row, *by))
                }
                values => sparse(row.indices, values, *by, half),
            }
        }
        let mut groups: Vec<&[Changed<'_>]> = Vec::new();
        for alike in dense.chunk_by(|(a, _), (b, _)| span(a) == span(b)) {
            groups.extend(alike.chunks(TOGETHER));
        }
        let all = dense.iter().map(|(row, _)| span(row).end).max().unwrap_or(0);
        let mut values = Vec::new();
        for first in (0..all).step_by(LINES) {
            groups.iter().for_each(|group| side_by_side(group, first..first + LINES, &mut values, half));
        }
    }
}

/// From a row's first feature to its last.
fn span(row: &Row<'_>) -> Range<usize> {
    match row.indices {
        [] => 0..0,
        [first, .., last] | [first @ last] => *first as usize..*last as usize + 1,
    }
}

#[inline(always)]
fn sparse(indices: &[u32], values: Option<&[f32]>, by: f64, half: &mut [f64]) {
    for (at, j) in indices.iter().enumerate() {
        let own = &mut half[line(*j as usize)..line(*j as usize + 1)];
        match values {
            Some(values) => {
                let by = by * f64::from(values[at]);
                for (k, x) in indices[..=at].iter().zip(values) {
                    // SAFETY: indices rise, so those before are below the line's length, which is one more than its own.
                    unsafe { *own.get_unchecked_mut(*k as usize) += by * f64::from(*x) };
                }
            }
            None => {
                for k in &indices[..=at] {
                    // SAFETY: as above.
                    unsafe { *own.get_unchecked_mut(*k as usize) += by };
                }
            }
        }
    }
}

/// Adds what some rows of one span have in these lines; `values` is room for theirs.
#[inline(always)]
fn side_by_side(rows: &[Changed<'_>], lines: Range<usize>, values: &mut Vec<f64>, half: &mut [f64]) {
    let Some(span) = rows.first().map(|(row, _)| span(row)) else { return };
    let lines = lines.start.max(span.start)..lines.end.min(span.end);
    if lines.is_empty() {
        return;
    }
    // The rows that are missing are zeros.
    let len = lines.end - span.start;
    values.clear();
    values.resize(TOGETHER * len, 0.0);
    let mut times = [0.0; TOGETHER];
    for ((row, by), (own, times)) in rows.iter().zip(values.chunks_exact_mut(len).zip(&mut times)) {
        *times = *by;
        own.iter_mut().zip(row.values.unwrap_or(&[])).for_each(|(to, x)| *to = f64::from(*x));
    }
    let (a, rest) = values.split_at(len);
    let (b, rest) = rest.split_at(len);
    let (c, d) = rest.split_at(len);
    for j in lines {
        let own = &mut half[line(j) + span.start..=line(j) + j];
        let at = j - span.start;
        let by = [a, b, c, d].map(|values| values[at]);
        let by: [f64; TOGETHER] = std::array::from_fn(|row| by[row] * times[row]);
        let (a, b, c, d) = (&a[..=at], &b[..=at], &c[..=at], &d[..=at]);
        for k in 0..own.len() {
            own[k] += (by[0] * a[k] + by[1] * b[k]) + (by[2] * c[k] + by[3] * d[k]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::widest::widest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_of_any_shape_add_the_products_of_their_values(
            rows in prop::collection::vec((0..3usize, 0..100usize, 1..150usize, -1.0..1.0f64), 1..14),
            bias in any::<bool>(),
        ) {
            let mut block = Block { values: Some(Vec::new()), offsets: vec![0], ..Block::default() };
            for (at, (gap, first, count, _)) in rows.iter().enumerate() {
                let count = if *gap == 2 { 0 } else { *count };
                block.indices.extend((0..count).map(|j| (first + j * (gap + 1)) as u32));
                let values = (0..count).map(|j| ((j * 7 + at) as f32).sin());
                block.values.iter_mut().for_each(|all| all.extend(values.clone()));
                block.offsets.push(block.indices.len() as u32);
                block.labels.push(0.0);
            }
            let features = 400;
            let size = features + usize::from(bias);
            let changes: Vec<f64> = rows.iter().map(|(.., by)| if *by < -0.8 { 0.0 } else { *by }).collect();
            let mut expected = vec![0.0; line(size)];
            for (row, by) in block.iter().zip(&changes) {
                let values = row.values.unwrap_or(&[]);
                let mut all: Vec<(usize, f64)> =
                    row.indices.iter().zip(values).map(|(j, x)| (*j as usize, f64::from(*x))).collect();
                all.extend(bias.then_some((features, 1.0)));
                for (at, (j, x)) in all.iter().enumerate() {
                    all[..=at].iter().for_each(|(k, y)| expected[line(*j) + k] += by * x * y);
                }
            }
            let mut half = vec![0.0; line(size)];
            widest(Products { block: &block, changes: &changes, bias: bias.then_some(features), half: &mut half });
            for (at, (a, b)) in half.iter().zip(&expected).enumerate() {
                prop_assert!((a - b).abs() < 1e-12, "at {}: {} is not {}", at, a, b);
            }
        }
    }
}
