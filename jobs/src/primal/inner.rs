//! What all Newton steps on features that are held in memory have in common: where the present weights lead, and how far a step
//! is gone, shortened until the objective falls as it should.
//!
//! Invariant: the objective never rises, but for rounding, and all workers hold the same weights.

use super::bends;
use super::certificate::{Certificate, FeatureSums, Penalty, RowSums, certify};
use super::columns::Columns;
use super::gram::Gram;
use super::gram::lines::Lines;
use super::loss::Smooth;
use super::quadratic::Way;
use super::reduce::Reduce;
use crate::pages;
use flexps_common::Result;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// Newton steps at most.
pub const STEPS: usize = 50;
/// The steps end when the gap is this part of what is asked for...
pub const WELL: f64 = 0.3;
/// ... or less than this part of it, if the last step did not halve the gap.
const SLOW: f64 = 0.9;
/// Halvings of a step at most.
const HALVINGS: u32 = 30;
/// A step must bring this part of what its slope promises.
const PROMISED: f64 = 0.01;
/// A rise by this part of the objective is rounding: near the optimum what a good step brings drowns in it.
const NOISE: f64 = 1e-14;
/// ... and of one that is not good for certain its slope tells: where the step ends the objective rises along it by at most this
/// part of what it fell by where it began, so that it is lower.
const LEVEL: f64 = 0.5;

/// A worker's rows as they stand.
#[derive(Debug)]
pub struct Own {
    /// Targets and weights; weight 0 is held out.
    pub targets: Vec<(f64, f64)>,
    /// Scores at the present weights.
    pub scores: Vec<f64>,
    /// Weighted slope and curvature of each, over n.
    pub bends: Vec<[f64; 2]>,
    /// Sums at the present scores, if slopes and curvatures are those of these, and of the curvatures, over n.
    sums: Option<(RowSums, f64)>,
    /// The scores that the last step started from, and by how much it moves them. Both are kept for the next one: pages of new
    /// memory cost more than what is written to them.
    from: Vec<f64>,
    way: Vec<f64>,
}

/// What all workers know alike.
#[derive(Debug)]
pub struct Shared {
    /// Rows that are not held out.
    pub rows: f64,
    /// The penalty.
    pub penalty: Penalty,
    /// The gap that is asked for, as a part of the objective.
    pub tolerance: f64,
    /// Of the features that are worked on.
    pub weights: Vec<f64>,
    /// The intercept, if there is one.
    pub bias: Option<f64>,
    /// The norm of the longest row.
    pub longest: f64,
    /// For sums over the workers.
    pub reduce: Reduce,
}

/// Where a worker has the values of the features that are worked on.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// By feature.
    Columns(&'a Columns),
    /// By row.
    Lines(&'a Lines),
}

/// Where the present weights lead.
pub struct View {
    /// Of the losses, by feature.
    pub gradient: Vec<f64>,
    /// Of the second derivative, if values lie by feature.
    pub diagonal: Vec<f64>,
    /// This worker's part of the diagonal.
    pub own_diagonal: Vec<f64>,
    /// Slope and curvature of the intercept, and this worker's part of the curvature.
    pub constant: [f64; 3],
    /// Sums over all rows.
    pub rows: RowSums,
    /// What they are worth, by the features that are worked on.
    pub certificate: Certificate,
}

impl Own {
    /// Rows with these targets and weights, and with these scores.
    pub fn new(targets: Vec<(f64, f64)>, scores: Vec<f64>) -> Self {
        let mut bends = pages::room(scores.len());
        bends.resize(scores.len(), [0.0; 2]);
        let [from, way] = [const { Vec::new() }; 2];
        Self { targets, scores, bends, sums: None, from, way }
    }

    /// Slopes and curvatures at the present scores, if they are not known: sums for the certificate, and that of the curvatures.
    pub fn bend(&mut self, loss: impl Smooth, rows: f64) -> (RowSums, f64) {
        if let Some(known) = self.sums {
            return known;
        }
        *self.sums.insert(bends::bend(loss, &self.targets, &self.scores, &mut self.bends, 1.0 / rows))
    }

    /// The scores were changed, or the loss is another.
    pub fn changed(&mut self) {
        self.sums = None;
    }

    /// Begins a step from the present scores.
    pub fn begin(&mut self, worker: &mut Worker<'_>, step: &Way, values: Values<'_>) -> Result<()> {
        let Self { scores, from, way, .. } = self;
        from.clone_from(scores);
        match values {
            Values::Lines(lines) => lines.scores(worker, &step.step, step.bias, way)?,
            Values::Columns(columns) => {
                pages::clear(way, scores.len());
                way.resize(scores.len(), step.bias);
                columns.add(&step.step, way);
            }
        }
        Ok(())
    }

    /// By how much the step that was begun moves the scores.
    pub fn way(&self) -> &[f64] {
        &self.way
    }

    /// The slope of this worker's losses along the step that was begun, where the scores are bent: over n.
    fn slope(&self) -> f64 {
        self.bends.iter().zip(&self.way).map(|([slope, _], d)| slope * d).sum()
    }

    /// Goes so much of the step.
    fn go_to(&mut self, length: f64) {
        let ways = self.from.iter().zip(&self.way);
        self.scores.iter_mut().zip(ways).for_each(|(z, (from, d))| *z = from + length * d);
        self.changed();
    }
}

impl Shared {
    /// What the job's scalars say, for steps on at most so many features; sums go by the table `sums`, `memory` is what a worker
    /// may keep in bytes, and the weights are to be set.
    pub fn new(
        worker: &Worker<'_>,
        sums: Table<f64>,
        (features, memory): (usize, u64),
        bias: bool,
        tolerance: f64,
    ) -> Self {
        Self {
            rows: worker.scalar("trained_rows", 1.0),
            penalty: Penalty { l1: worker.scalar("l1", 0.0), l2: worker.scalar("l2", 0.0) },
            tolerance,
            weights: Vec::new(),
            bias: bias.then(|| worker.scalar("bias", 0.0)),
            longest: worker.scalar("longest", f64::INFINITY),
            reduce: Reduce::new(sums, (2 * features + 16).max(Gram::numbers(features, memory))),
        }
    }

    /// Whether the gap is below what is asked for, and the step before, from a gap of `last`, did not halve it: few steps bring
    /// little more.
    pub fn ends_slowly(&self, now: &Certificate, last: f64) -> bool {
        now.gap <= SLOW * self.tolerance * now.objective && now.gap > 0.5 * last
    }

    /// Slopes, curvatures and gradient at the present weights, the diagonal where values lie by feature, and the certificate of the
    /// features that are worked on; beside them the sums over all workers of `more`.
    pub fn look<const N: usize>(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        (own, values): (&mut Own, Values<'_>),
        more: [f64; N],
    ) -> Result<(View, [f64; N])> {
        let (sums, own_curvature) = own.bend(loss, self.rows);
        let count = self.weights.len();
        let (mut all, mut own_diagonal) = (Vec::with_capacity(2 * count + RowSums::COUNT + 1 + N), Vec::new());
        match values {
            Values::Lines(lines) => all.extend(lines.gradient(worker, &own.bends)?),
            Values::Columns(columns) => {
                for j in 0..count {
                    let [gradient, curvature] = columns.column(j).dots(&own.bends);
                    all.push(gradient);
                    own_diagonal.push(curvature);
                }
            }
        }
        all.extend(&own_diagonal);
        all.extend(sums.array());
        all.push(own_curvature);
        all.extend(more);
        self.reduce.sum(worker, &mut all)?;
        let (features, rest) = all.split_at(count + own_diagonal.len());
        let (gradient, diagonal) = features.split_at(count);
        let sums = RowSums::of(std::array::from_fn(|at| rest[at]));
        let rest = &rest[RowSums::COUNT..];
        let certificate = self.certificate(&sums, gradient);
        let view = View {
            gradient: gradient.to_vec(),
            diagonal: diagonal.to_vec(),
            own_diagonal,
            constant: [sums.slope / self.rows, rest[0], own_curvature],
            rows: sums,
            certificate,
        };
        Ok((view, std::array::from_fn(|at| rest[1 + at])))
    }

    /// The norm of the longest row, where there is an intercept.
    pub fn longest(&self) -> Option<f64> {
        self.bias.map(|_| self.longest)
    }

    /// The certificate of the features that are worked on.
    pub fn certificate(&self, rows: &RowSums, gradient: &[f64]) -> Certificate {
        certify(self.rows, rows, &self.features(gradient), self.penalty, self.longest())
    }

    /// The same as if the intercept were right.
    pub fn certificate_without(&self, rows: &RowSums, gradient: &[f64]) -> Certificate {
        certify(self.rows, rows, &self.features(gradient), self.penalty, None)
    }

    fn features(&self, gradient: &[f64]) -> FeatureSums {
        let mut over = FeatureSums::default();
        self.weights.iter().zip(gradient).for_each(|(w, g)| over.add(*w, *g, self.penalty));
        over
    }

    /// Goes a step that is the best of the quadratic, or the half of it that lowers the objective as it should: how often it was
    /// halved, or nothing where it leads nowhere.
    pub fn go(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        own: &mut Own,
        (view, way): (&View, &Way),
    ) -> Result<Option<u32>> {
        self.go_by(loss, worker, own, (view, way, true))
    }

    /// The same of a step that may not be the best: where all that it brings drowns in rounding its slope tells how far to go, lest
    /// the weights wander.
    pub fn go_by(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        own: &mut Own,
        (view, way, is_exact): (&View, &Way, bool),
    ) -> Result<Option<u32>> {
        let (penalty, objective) = (self.penalty, view.certificate.objective);
        let penalties = |weights: &[f64], length: f64| {
            let moved = weights.iter().zip(&way.step).map(|(w, d)| penalty.of(w + length * d));
            moved.sum::<f64>()
        };
        let before = penalties(&self.weights, 0.0);
        let along: f64 = view.gradient.iter().zip(&way.step).map(|(g, d)| g * d).sum();
        let promised = along + view.constant[0] * way.bias + penalties(&self.weights, 1.0) - before;
        let mut length = 1.0;
        for halvings in 0..HALVINGS {
            // With all that the next step is going to need.
            own.go_to(length);
            let mut sums = vec![own.bend(loss, self.rows).0.loss, own.slope()];
            self.reduce.sum(worker, &mut sums)?;
            let rise = sums[0] / self.rows + penalties(&self.weights, length) - objective;
            let goes = match rise.abs() <= NOISE * objective.abs() && !is_exact {
                true => sums[1] + self.pull(&way.step, length) <= -LEVEL * promised,
                false => rise <= PROMISED * length * promised + NOISE * objective.abs(),
            };
            if goes {
                self.weights.iter_mut().zip(&way.step).for_each(|(w, d)| *w += length * d);
                if let Some(bias) = &mut self.bias {
                    *bias += length * way.bias;
                }
                return Ok(Some(halvings));
            }
            length /= 2.0;
        }
        own.go_to(0.0);
        Ok(None)
    }

    /// The penalty's slope along a step of which so much is gone, from behind: a weight that has come to 0 comes down to it.
    fn pull(&self, step: &[f64], length: f64) -> f64 {
        let Penalty { l1, l2 } = self.penalty;
        let of = |(w, d): (&f64, &f64)| {
            let at = w + length * d;
            l2 * at * d + l1 * if at == 0.0 { -d.abs() } else { at.signum() * d }
        };
        self.weights.iter().zip(step).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::Squared;
    use super::*;
    use crate::fixtures;
    use crate::parts::Rows;
    use flexps_common::data::InputSpec;
    use flexps_common::host::Host;
    use flexps_common::plan::Plan;

    #[test]
    fn a_step_that_goes_too_far_is_halved_though_what_it_brings_drowns_in_rounding() {
        let mut plan = Plan::default();
        let spec = InputSpec::new("input", vec![fixtures::path("rows")]);
        let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20, drawn: false };
        let sums: Table<f64> = plan.table("sums", 1);
        let run = move |worker: &mut Worker<'_>| {
            let columns = Columns::take(worker, rows, &[0], &[])?;
            // The best weight is 0, with an objective of 1/2 that a weight this small changes by less than its last digit.
            let (weight, way) = (1e-9, Way { step: vec![-2.6e-9], bias: 0.0 });
            for (is_exact, cut) in [(true, 0), (false, 1)] {
                let shared = Shared::new(worker, sums, (1, 1 << 20), false, 1e-9);
                let mut shared = Shared { rows: 2.0, weights: vec![weight], ..shared };
                let mut own = Own::new(vec![(1.0, 1.0), (-1.0, 1.0)], vec![weight; 2]);
                let (view, []) = shared.look(Squared, worker, (&mut own, Values::Columns(&columns)), [])?;
                own.begin(worker, &way, Values::Columns(&columns))?;
                let halvings = shared.go_by(Squared, worker, &mut own, (&view, &way, is_exact))?;
                assert_eq!(halvings, Some(cut), "exact: {is_exact}");
                let gone = way.step[0] * 0.5f64.powi(cut as i32);
                assert_eq!(shared.weights, [weight + gone]);
            }
            Ok(())
        };
        plan.body.stage("go", run).input(rows.input);
        let block = fixtures::block(&[1.0, -1.0], &[&[(0, 1.0)], &[(0, 1.0)]]);
        Host::new().rows(vec![block]).run(&plan).unwrap();
    }
}
