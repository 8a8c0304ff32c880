//! The progressive loss of a streaming pass as rows come: noted whenever a worker's rows have doubled, logged at once by the
//! first worker, and put together in the master.
//!
//! Invariant: a point is a mean over rows each of which was scored before it was learnt from, and points have ever more rows.

use flexps_common::Result;
use flexps_common::metrics::Metric;
use flexps_common::plan::Progress;
use flexps_common::report::ProgressReport;
use flexps_common::worker::Worker;

/// Rows of a worker's first point.
const FIRST: u64 = 128;

/// Whose log shows points without being asked.
pub const LOG: &str = "progress";

/// A worker's points.
#[derive(Debug)]
pub struct Points {
    /// Sums of the losses, by point.
    losses: Vec<f64>,
    /// Rows of the next one.
    next: u64,
}

impl Default for Points {
    fn default() -> Self {
        Self { losses: Vec::new(), next: FIRST }
    }
}

impl Points {
    /// Notes that the loss of the worker's first `rows` rows is `loss`, if it is time to.
    pub fn pass(&mut self, worker: &Worker<'_>, rows: u64, loss: f64) {
        if rows == self.next {
            self.note(worker, loss);
        }
    }

    /// Rows until the next point, of a worker that has seen so many.
    pub fn left(&self, rows: u64) -> usize {
        usize::try_from(self.next.saturating_sub(rows)).unwrap_or(usize::MAX)
    }

    fn note(&mut self, worker: &Worker<'_>, loss: f64) {
        if worker.place.index == 0 {
            let (rows, mean) = (self.next, loss / self.next as f64);
            tracing::info!(target: LOG, "progressive loss {mean:.6} on the first {rows} rows of one worker");
        }
        self.losses.push(loss);
        self.next *= 2;
    }

    /// Reports them.
    pub fn report(self, worker: &mut Worker<'_>) {
        for (at, loss) in self.losses.into_iter().enumerate() {
            worker.report(&rows_at(at), Metric::Count(FIRST << at));
            worker.report(&loss_at(at), Metric::Sum(loss));
        }
    }
}

fn rows_at(point: usize) -> String {
    format!("rows_at_{point}")
}

fn loss_at(point: usize) -> String {
    format!("loss_at_{point}")
}

/// What the workers of the last run of `stage` reported together, with the mean `loss` of all `rows` behind it.
pub fn gather(progress: &Progress, stage: &str, (rows, loss): (u64, f64)) -> Result<Vec<ProgressReport>> {
    let mut points: Vec<ProgressReport> = Vec::new();
    for at in 0.. {
        let Ok(sum) = progress.metric(stage, &loss_at(at)) else { break };
        let of = progress.metric(stage, &rows_at(at))?;
        // Where few workers had so many rows, the point before may have had no fewer in all.
        if of < rows as f64 && points.last().is_none_or(|last| of > last.rows as f64) {
            points.push(ProgressReport { rows: of as u64, loss: sum / of });
        }
    }
    points.push(ProgressReport { rows, loss });
    Ok(points)
}
