//! By how much a step moves the rows' scores, beside the rows' curvatures, as coordinate descent reads and changes it: both in
//! one place, and in single precision, so that much of it stays near the processor. What is lost by that is a part of the step,
//! which gets shorter with each one.
//!
//! Invariant: the numbers of rows that are given are below that of all rows.

use super::gradient::dot_at;

/// Of each row by how much the step moves its score, and its curvature, over n.
pub type Moved = [[f32; 2]];

/// The slope that the step adds to that of the column of these rows and values, all 1 where none are given.
///
/// # Safety
/// Every row must be below `moved.len()`.
#[inline(always)]
pub unsafe fn slope(moved: &Moved, rows: &[u32], values: Option<&[f32]>) -> f64 {
    dot_at(rows, values, |row| {
        // SAFETY: the caller vouches for the rows.
        let [moved, curvature] = unsafe { *moved.get_unchecked(row) };
        f64::from(moved * curvature)
    })
}

/// Moves the scores of the column's rows by `by` times its values.
///
/// # Safety
/// As [`slope`].
#[inline(always)]
pub unsafe fn go(moved: &mut Moved, rows: &[u32], values: Option<&[f32]>, by: f64) {
    let by = by as f32;
    // SAFETY: the caller vouches for the rows.
    let mut add = |row: &u32, x: f32| unsafe { moved.get_unchecked_mut(*row as usize)[0] += by * x };
    match values {
        Some(values) => rows.iter().zip(values).for_each(|(row, x)| add(row, *x)),
        None => rows.iter().for_each(|row| add(row, 1.0)),
    }
}

/// The slope that the step adds to that of the intercept.
pub fn slope_of_all(moved: &Moved) -> f64 {
    moved.iter().map(|[moved, curvature]| f64::from(moved * curvature)).sum()
}
