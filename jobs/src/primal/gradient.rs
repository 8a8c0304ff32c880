//! The wide stage over rows: scores, losses and the gradient at a point, in f64.
//!
//! Invariant: every row that is not held out is counted once; what is kept of a worker's rows, their scores in the order
//! of its blocks, belongs to the point that the stage saw. What learnt at that point may have left them already.

use super::certificate::RowSums;
use super::kept::{self, ANCHOR, FORESEEN, SCORES};
use super::loss::Smooth;
use super::multipliers::Centres;
use super::occurring;
use super::task::Task;
use crate::logistic::needed_len;
use crate::objective::is_right;
use crate::pages;
use crate::parts::{Part, Parts, Rows};
use flexps_common::data::{Block, Row};
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use std::sync::Arc;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Gradient {
    /// The rows.
    pub rows: Rows,
    /// Where the gradient is taken.
    pub point: Table<f64>,
    /// Where it goes: (1/n) sum over rows of f'(z) x; zero at the start.
    pub gradient: Table<f64>,
    /// Where the diagonal of the losses' second derivative goes, if it is wanted; zero at the start.
    pub diagonal: Option<Table<f64>>,
    /// Whether the gradient is to lie as [`occurring`] says, not by feature.
    pub packs: bool,
    /// Whether the rows' slopes are to be kept.
    pub anchors: bool,
}

/// The score of a row.
///
/// # Safety
/// Every index of the row must be below `weights.len()`.
#[inline(always)]
pub unsafe fn dot(row: &Row<'_>, weights: &[f64]) -> f64 {
    // SAFETY: the caller vouches for the indices.
    dot_at(row.indices, row.values, |index| unsafe { *weights.get_unchecked(index) })
}

/// The sum of values, all 1 where none are given, times what `by` gives for their indices.
#[inline(always)]
pub fn dot_at(indices: &[u32], values: Option<&[f32]>, by: impl Fn(usize) -> f64) -> f64 {
    let at = |index: &u32| by(*index as usize);
    let mut sums = [0.0f64; 4];
    let index4 = indices.chunks_exact(4);
    let rest = index4.remainder();
    match values {
        Some(values) => {
            let value4 = values.chunks_exact(4);
            sums[0] = rest.iter().zip(value4.remainder()).map(|(i, v)| f64::from(*v) * at(i)).sum();
            for (i, v) in index4.zip(value4) {
                (0..4).for_each(|lane| sums[lane] += f64::from(v[lane]) * at(&i[lane]));
            }
        }
        None => {
            sums[0] = rest.iter().map(at).sum();
            for i in index4 {
                (0..4).for_each(|lane| sums[lane] += at(&i[lane]));
            }
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// sums += by * x, or by * x^2 where `squared`, over a row's non-zeros.
///
/// # Safety
/// Every index of the row must be below `sums.len()`.
#[inline(always)]
pub unsafe fn add_scaled(row: &Row<'_>, by: f64, squared: bool, sums: &mut [f64]) {
    let value = |x: f32| if squared { f64::from(x) * f64::from(x) } else { f64::from(x) };
    match row.values {
        Some(values) => {
            for (index, x) in row.indices.iter().zip(values) {
                // SAFETY: the caller vouches for the indices.
                unsafe { *sums.get_unchecked_mut(*index as usize) += by * value(*x) };
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

/// Block `at` of a part, whose indices are checked.
pub fn block(worker: &mut Worker<'_>, part: &Part, at: usize) -> Result<Arc<Block>> {
    let block = part.in_order(worker, at)?;
    if needed_len(&block) > part.map.len() {
        return Err(Error::bug(format!("block {at} has a feature that is not in its key map")));
    }
    Ok(block)
}

/// Sums over rows.
#[derive(Debug, Default)]
struct Sums {
    rows: RowSums,
    curvature: f64,
    right: u64,
}

impl Gradient {
    /// The stage function. Reports [`RowSums::NAMES`], `curvature` and `right`, summed over rows.
    pub fn run<L: Smooth>(&self, loss: L, worker: &mut Worker<'_>) -> Result<()> {
        let (task, bias) = (Task::of(worker), worker.scalar("bias", 0.0));
        let share = 1.0 / worker.scalar("trained_rows", 1.0);
        let (mut sums, mut scores, mut slopes) = (Sums::default(), Vec::new(), Vec::new());
        // Of a point that is zero they need no pass, and whoever learnt at this point has left them.
        let blank = worker.scalar("blank", 0.0) == 1.0;
        let known = if worker.scalar("scored", 0.0) == 1.0 { kept::find(worker, self.rows, SCORES)? } else { None };
        let known: Vec<f64> = known.unwrap_or_default();
        let foreseen = worker.scalar("foreseen", 0.0) == 1.0;
        let foreseen = if foreseen { kept::find(worker, self.rows, FORESEEN)? } else { None };
        let foreseen: Vec<f64> = foreseen.unwrap_or_default();
        let mut centres = Centres::take::<L>(worker, self.rows)?;
        let loss = centres.loss(loss);
        let mut parts = Parts::new(worker, self.rows)?;
        let (mut weights, mut gradient, mut diagonal) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(part) = parts.next(worker)? {
            if !blank && known.is_empty() {
                worker.get_mapped(self.point, &part.map, &mut weights)?;
            }
            pages::clear(&mut gradient, part.map.len());
            gradient.resize(part.map.len(), 0.0);
            if self.diagonal.is_some() {
                diagonal.clear();
                diagonal.resize(part.map.len(), 0.0);
            }
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                if !blank && weights.len() != part.map.len() && known.len() < scores.len() + block.rows() {
                    return Err(Error::bug(format!("of block {at} there are no scores")));
                }
                let place = (self.rows.input, part.number_of(at), block.rows());
                task.folds(worker, place, |folds| {
                    for i in 0..block.rows() {
                        let row = block.row(i);
                        let z = match known.get(scores.len()) {
                            Some(known) => *known,
                            None if blank => bias,
                            // SAFETY: `block` checked the indices, and there are weights where scores are not known.
                            None => bias + unsafe { dot(&row, &weights) },
                        };
                        // Where those that a step was to lead to are known, the slopes are theirs.
                        let dual = foreseen.get(scores.len());
                        scores.push(z);
                        let y = task.target(row.label);
                        let point = if L::KINKED { centres.renewed((part.start + at, i), loss, y, z) } else { z };
                        if folds.is_some_and(|(folds, held_out)| folds[i] == held_out) {
                            slopes.push(0.0);
                            continue;
                        }
                        let weight = task.weight(row.label);
                        let v = dual.copied().unwrap_or(point);
                        let at = loss.at(y, v);
                        slopes.push(share * weight * at.slope);
                        let of_point = if dual.is_some() || L::KINKED { loss.loss(y, z) } else { at.loss };
                        sums.rows.add(weight, (of_point, loss.dual(y, v, &at)), &at, v);
                        sums.curvature += weight * at.curvature;
                        sums.right += u64::from(is_right(y, z));
                        if at.slope != 0.0 {
                            // SAFETY: as above, and there are as many sums as weights.
                            unsafe { add_scaled(&row, share * weight * at.slope, false, &mut gradient) };
                        }
                        if self.diagonal.is_some() && at.curvature != 0.0 {
                            // SAFETY: as above.
                            unsafe { add_scaled(&row, share * weight * at.curvature, true, &mut diagonal) };
                        }
                    }
                })?;
            }
            match self.packs {
                true => occurring::add(worker, self.gradient, &part, &gradient)?,
                false => worker.add_mapped(self.gradient, &part.map, &gradient)?,
            }
            if let Some(table) = self.diagonal {
                worker.add_mapped(table, &part.map, &diagonal)?;
            }
            if !part.is_all() {
                // So that the shards need not keep the gradients of all parts.
                worker.clock()?;
            }
        }
        kept::keep(worker, self.rows, SCORES, scores)?;
        centres.keep(worker, self.rows)?;
        if self.anchors {
            kept::keep(worker, self.rows, ANCHOR, slopes)?;
        }
        let Sums { rows, curvature, right } = sums;
        let rows = RowSums::NAMES.into_iter().zip(rows.array());
        for (name, value) in rows.chain([("curvature", curvature)]) {
            worker.report(name, Metric::Sum(value));
        }
        worker.report("right", Metric::Count(right));
        Ok(())
    }
}
