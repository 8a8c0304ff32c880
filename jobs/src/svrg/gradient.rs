//! The wide stage: the gradient of the losses over all rows, and their sum, at one point.
//!
//! Invariant: the losses and the gradient belong to the same point and to every row once; the loss is summed in f64, the
//! gradient in f32 over no more than [`MOST_ROWS`] rows and a block.

use crate::logistic::{add_scaled_unchecked, dot_unchecked, loss_and_slope, needed_len};
use crate::objective::is_right;
use crate::parts::{Parts, Rows};
use crate::sums::MOST_ROWS;
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::Block;
use flexps_common::metrics::Metric;
use flexps_common::worker::Worker;

/// Losses and their slopes, summed.
#[derive(Debug, Default)]
pub struct Losses {
    /// Sum of the losses.
    pub loss: f64,
    /// Sum of the slopes: the bias's gradient.
    pub slope: f64,
    /// Rows whose sign is right.
    pub right: u64,
    /// Rows.
    pub rows: u64,
}

impl Losses {
    /// Counts a block's rows at `weights` and adds their gradient to `gradient`.
    pub fn add(&mut self, block: &Block, weights: &[f32], bias: f32, gradient: &mut [f32]) {
        let needed = needed_len(block);
        assert!(needed <= weights.len() && needed <= gradient.len(), "a row's feature is not in its key map");
        for i in 0..block.rows() {
            let row = block.row(i);
            // SAFETY: just asserted.
            let score = bias + unsafe { dot_unchecked(&row, weights) };
            let (loss, slope) = loss_and_slope(row.label, row.label * score);
            self.loss += loss;
            self.slope += f64::from(slope);
            self.right += u64::from(is_right(f64::from(row.label), f64::from(score)));
            // SAFETY: just asserted.
            unsafe { add_scaled_unchecked(&row, slope, gradient) };
        }
        self.rows += block.rows() as u64;
    }

    /// Reports the sums as `loss`, `right` and `rows`.
    pub fn report(&self, worker: &mut Worker<'_>) {
        worker.report("loss", Metric::Sum(self.loss));
        worker.report("right", Metric::Count(self.right));
        worker.report("rows", Metric::Count(self.rows));
    }
}

/// Values by feature, in memory that serves again at the next epoch.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    gradient: Vec<f32>,
}

/// The stage function: adds the gradient at `weights` over this worker's rows to `sums`.
pub fn full(worker: &mut Worker<'_>, rows: Rows, weights: Vector, sums: Vector) -> Result<()> {
    // The rows first: the model may still be on its way.
    let mut parts = Parts::new(worker, rows)?;
    let bias = weights.get_bias(worker)?;
    let mut losses = Losses::default();
    let Scratch { mut values, mut gradient } = worker.take_scratch();
    while let Some(part) = parts.next(worker)? {
        worker.get_mapped(weights.features, &part.map, &mut values)?;
        gradient.clear();
        gradient.resize(part.map.len(), 0.0);
        let mut pushed = losses.rows;
        for at in 0..part.blocks() {
            let block = part.in_order(worker, at)?;
            losses.add(&block, &values, bias, &mut gradient);
            if losses.rows - pushed >= MOST_ROWS {
                worker.add_mapped(sums.features, &part.map, &gradient)?;
                gradient.fill(0.0);
                pushed = losses.rows;
            }
        }
        worker.add_mapped(sums.features, &part.map, &gradient)?;
        if !part.is_all() {
            // So that the shards need not keep the gradients of all parts.
            worker.clock()?;
        }
    }
    worker.put_scratch(Scratch { values, gradient });
    losses.report(worker);
    if losses.rows == 0 {
        return Ok(());
    }
    sums.add_bias(worker, losses.slope as f32)
}
