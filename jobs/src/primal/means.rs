//! By what Newton steps under an L1 penalty are found: the matrix, the columns dealt out over a slave's workers, or each worker's
//! own, whose steps are joined.
//!
//! Invariant: all workers have the same means, and change them at the same step.

use super::bounds::Bounds;
use super::columns::Columns;
use super::gram::Gram;
use super::inner::{Own, Shared, Values};
use super::split::Split;
use flexps_common::Result;
use flexps_common::worker::Worker;

/// Joined steps in a row that did not halve the gap before the matrix is to find the others: where features go together on the
/// rows of several workers, steps of each worker's own lead nowhere.
const POOR: usize = 3;

/// See the module.
pub struct Means {
    /// What finds steps.
    pub by: By,
    /// How far they may go.
    pub bounds: Bounds,
    /// Steps in a row that did not halve the gap.
    poor: usize,
}

/// What finds steps.
pub enum By {
    /// The second derivative as a matrix.
    Matrix {
        /// It.
        gram: Gram,
        /// Whether it was filled.
        filled: bool,
    },
    /// The columns of all rows, each worker having some.
    Dealt(Split),
    /// The columns of each worker's rows.
    Own {
        /// Whether the matrix may do better.
        improves: bool,
    },
}

impl Means {
    /// What costs least for the features of `columns`, where a loss moves a score by at most `reach` in a first step.
    pub fn of(
        worker: &mut Worker<'_>,
        (own, shared): (&Own, &mut Shared),
        columns: &Columns,
        memory: u64,
        reach: f64,
    ) -> Result<Self> {
        let rows = own.scores.len();
        let by = match Gram::of(worker, &mut shared.reduce, columns, (rows, shared.bias.is_some()), memory)? {
            Some(gram) => By::Matrix { gram, filled: false },
            None => match Split::of(worker, &mut shared.reduce, columns, rows)? {
                Some(split) => By::Dealt(split),
                None => By::Own { improves: true },
            },
        };
        let mut bounds = match &by {
            By::Dealt(split) => split.bounds(worker, &mut shared.reduce, reach)?,
            _ => Bounds::new(columns, reach),
        };
        if let By::Matrix { .. } = by {
            bounds.share(worker, &mut shared.reduce)?;
        }
        Ok(Self { by, bounds, poor: 0 })
    }

    /// Where values are read from: with the matrix, from the rows that it is made of.
    pub fn values<'a>(&'a self, columns: &'a Columns) -> Values<'a> {
        match &self.by {
            By::Matrix { gram, .. } => Values::Lines(&gram.lines),
            _ => Values::Columns(columns),
        }
    }

    /// Whether steps are found exactly.
    pub fn are_exact(&self) -> bool {
        matches!(self.by, By::Matrix { .. })
    }

    /// Notes how far the last step led.
    pub fn judge(&mut self, poorly: bool) {
        self.poor = if poorly { self.poor + 1 } else { 0 };
    }

    /// Goes on by the matrix, whatever it costs, where other steps lead nowhere and a worker may keep it.
    pub fn improve(
        &mut self,
        worker: &mut Worker<'_>,
        (own, shared): (&Own, &mut Shared),
        columns: &Columns,
        memory: u64,
    ) -> Result<()> {
        if !matches!(self.by, By::Own { improves: true }) || self.poor < POOR {
            return Ok(());
        }
        self.by = match Gram::that_fits(columns, (own.scores.len(), shared.bias.is_some()), memory) {
            Some(gram) => {
                self.bounds.share(worker, &mut shared.reduce)?;
                By::Matrix { gram, filled: false }
            }
            None => By::Own { improves: false },
        };
        Ok(())
    }
}
