//! The first pass: what a job needs of all rows at the start, made while they are still being read, block by block, by
//! global features.
//!
//! Invariant: it waits for rows only, never for the end of the reading; so it asks for neither facts nor key map.

use crate::logistic::loss_and_slope;
use crate::parts::Rows;
use crate::sums::Sums;
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::indexer::Indexer;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// What to make of the rows.
#[derive(Debug, Clone, Copy)]
pub struct First {
    /// The rows.
    pub rows: Rows,
    /// The point at which losses are taken; zero if none.
    pub start: Option<Vector>,
    /// Where the gradient of the losses goes.
    pub gradient: Option<Vector>,
    /// Where the number of rows that contain each feature goes.
    pub counts: Option<Table<f32>>,
}

impl First {
    /// The stage function. Reports `loss` and `rows`.
    pub fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let bias = self.start.map_or(Ok(0.0), |start| start.get_bias(worker))?;
        let (mut indexer, mut values, mut scores) = (Indexer::default(), Vec::new(), Vec::new());
        let (mut gradient, mut counts) = (Sums::default(), Sums::default());
        let (mut loss, mut slopes, mut rows) = (0.0, 0.0, 0);
        let mut pass = worker.pass(self.rows.input);
        while let Some((_, block)) = pass.next(worker)? {
            scores.clear();
            scores.resize(block.rows(), bias);
            if let Some(start) = self.start {
                let (keys, places) = indexer.index((0..block.rows()).map(|i| block.row(i).indices));
                worker.get(start.features, keys, &mut values)?;
                for (i, score) in scores.iter_mut().enumerate() {
                    let range = block.offsets[i] as usize..block.offsets[i + 1] as usize;
                    let weight = |at: usize| values[places[at] as usize];
                    *score += match &block.values {
                        Some(x) => range.map(|at| x[at] * weight(at)).sum::<f32>(),
                        None => range.map(weight).sum(),
                    };
                }
            }
            for (i, score) in scores.iter().enumerate() {
                let row = block.row(i);
                let (row_loss, slope) = loss_and_slope(row.label, row.label * score);
                loss += row_loss;
                slopes += f64::from(slope);
                if self.gradient.is_some() {
                    gradient.add(row.indices, row.values, slope);
                }
                if self.counts.is_some() {
                    counts.add(row.indices, None, 1.0);
                }
            }
            rows += block.rows() as u64;
            if let Some(to) = self.gradient {
                gradient.relieve(worker, to.features)?;
            }
            if let Some(to) = self.counts {
                counts.relieve(worker, to)?;
            }
        }
        worker.report("loss", Metric::Sum(loss));
        worker.report("rows", Metric::Count(rows));
        if let Some(to) = self.counts {
            counts.flush(worker, to)?;
        }
        let Some(to) = self.gradient else { return Ok(()) };
        gradient.flush(worker, to.features)?;
        to.add_bias(worker, slopes as f32)
    }
}
