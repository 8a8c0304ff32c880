//! How far a Newton step may go in each feature. The curvature of a loss that flattens out tells only of its
//! neighbourhood: where a feature's rows are all far on the wrong side, the best step by the curvature there goes many
//! times too far, and one such feature would shorten the step of all.
//!
//! A feature's first step moves no score by more than the loss says; later ones go up to twice as far as the last one did,
//! or half as far as the last one might have (Genkin, Lewis and Madigan, Technometrics 2007, section 3.1). Invariant: a bound
//! is above 0, so that descent goes on.

use super::columns::Columns;
use super::reduce::Reduce;
use flexps_common::Result;
use flexps_common::worker::Worker;

/// Bounds by feature; none where a loss needs none.
pub struct Bounds(Option<Vec<f64>>);

impl Bounds {
    /// The bounds of a first step that moves a score by at most `score`, by this worker's rows.
    pub fn new(columns: &Columns, score: f64) -> Self {
        let bound = |j: usize| {
            let mut most = 1.0f64;
            if columns.has_values() {
                most = 0.0;
                columns.column(j).each(|_, x| most = most.max(x.abs()));
            }
            score / most
        };
        Self(score.is_finite().then(|| (0..columns.count()).map(bound).collect()))
    }

    /// These, by feature; none where a loss needs none.
    pub fn of(bounds: Option<Vec<f64>>) -> Self {
        Self(bounds)
    }

    /// Makes them the same for all workers: for steps that all make alike.
    pub fn share(&mut self, worker: &mut Worker<'_>, reduce: &mut Reduce) -> Result<()> {
        let Some(bounds) = &mut self.0 else { return Ok(()) };
        // Whose rows lack a feature has no bound on it; sums of inverses are no less than the largest.
        bounds.iter_mut().for_each(|bound| *bound = 1.0 / *bound);
        reduce.sum(worker, bounds)?;
        bounds.iter_mut().for_each(|bound| *bound = 1.0 / *bound);
        Ok(())
    }

    /// `change` in feature `j` that was changed by `step` before, cut so that both together are within bounds.
    #[inline(always)]
    pub fn cut(&self, j: usize, step: f64, change: f64) -> f64 {
        match &self.0 {
            Some(bounds) => (step + change).clamp(-bounds[j], bounds[j]) - step,
            None => change,
        }
    }

    /// How often `way` may be added to feature `j`, changed by `step` before, until it is as far as it may go.
    pub fn room(&self, j: usize, step: f64, way: f64) -> f64 {
        match &self.0 {
            Some(bounds) if way != 0.0 => ((bounds[j] * way.signum() - step) / way).max(0.0),
            _ => f64::INFINITY,
        }
    }

    /// A step was made.
    pub fn made(&mut self, step: &[f64], length: f64) {
        let bounds = self.0.iter_mut().flatten();
        bounds.zip(step).for_each(|(bound, step)| *bound = (2.0 * length * step.abs()).max(*bound / 2.0));
    }
}
