//! Newton steps under an L1 penalty on the features that are worked on, each found by coordinate descent on the workers'
//! columns, their own or dealt out, or by the matrix.
//!
//! Per step the workers exchange two numbers a feature that is worked on; where columns are dealt out also a number a row in
//! each sweep. Invariant: weights that no step has reached stay as they are.

use super::bends;
use super::bounds::Bounds;
use super::certificate::RowSums;
use super::columns::Columns;
use super::foresight::Foresight;
use super::inner::{Own, STEPS, Shared, View, WELL};
use super::loss::Smooth;
use super::means::{By, Means};
use super::quadratic::{Quadratic, Way};
use super::reach::LOST;
use super::split::Problem;
use flexps_common::Result;
use flexps_common::worker::Worker;
use rand_chacha::ChaCha8Rng;

/// The steps end when the gap of the features that are worked on is this part of what it was, or well below what is asked for
/// in the end.
const ENOUGH: f64 = 0.1;
/// ... or, while features are worked on that had no weight, when a step brings less than this part of what all brought: most
/// of what is left is for others.
const LITTLE: f64 = 0.1;
/// ... but where steps are found exactly and the gap is less than this part of the objective, the next brings all that is asked for.
const NEAR: f64 = 0.05;

/// A worker's columns, and what steps on them are found with.
pub struct Coordinates {
    /// Of the features that are worked on.
    pub columns: Columns,
    /// Slopes where the gradient of all features was made, if they are known.
    pub anchor: Option<Vec<f64>>,
    /// How far the slopes of all workers' rows are from the anchor.
    pub strayed: f64,
    /// What the last step was to lead to, if it is known.
    pub foresight: Option<Foresight>,
    /// Whether the weights are of all features that there are.
    pub all: bool,
    /// Whether the losses are quadratic.
    pub quadratic: bool,
    /// Bytes that a worker may keep for values by feature.
    pub memory: u64,
    /// Memory of a step, kept for the next one.
    pub room: Room,
}

/// What a step writes by row.
#[derive(Debug, Default)]
pub struct Room {
    /// For coordinate descent.
    moved: Vec<[f32; 2]>,
    /// For what the next step is to lead to.
    foresight: Foresight,
}

impl Coordinates {
    /// The sum of the squares of how far the slopes `bends` of this worker's rows are from the anchor.
    pub fn far(&self, bends: &[[f64; 2]]) -> f64 {
        self.anchor.as_ref().map_or(LOST, |anchor| bends::far(anchor, bends))
    }

    /// Notes what the step that was begun is to lead to.
    fn foresee(&mut self, own: &Own) {
        self.forget();
        let mut foresight = std::mem::take(&mut self.room.foresight);
        foresight.note(&own.bends, own.way());
        self.foresight = Some(foresight);
    }

    /// What the last step was to lead to is of no use.
    fn forget(&mut self) {
        if let Some(foresight) = self.foresight.take() {
            self.room.foresight = foresight;
        }
    }

    /// Newton steps under an L1 penalty until the gap is well below what it was or is asked for: how many, and how often they were
    /// halved.
    pub fn settle<L: Smooth>(
        &mut self,
        loss: L,
        worker: &mut Worker<'_>,
        (own, shared): (&mut Own, &mut Shared),
        rng: &mut ChaCha8Rng,
    ) -> Result<(usize, u32)> {
        let mut means = Means::of(worker, (own, shared), &self.columns, self.memory, L::REACH)?;
        let explores = !self.all && shared.weights.contains(&0.0);
        let (mut goal, mut steps, mut halvings) = (None, 0, 0);
        let (mut first, mut before, mut last) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        while steps < STEPS {
            own.bend(loss, shared.rows);
            let far = self.far(&own.bends);
            let (mut view, [far]) = shared.look(loss, worker, (own, means.values(&self.columns)), [far])?;
            self.strayed = far.sqrt();
            let (asked, part) =
                (WELL * shared.tolerance * view.certificate.objective, if explores { ENOUGH } else { 0.0 });
            if view.certificate.gap <= asked {
                self.forget();
            }
            self.foreseen(loss, worker, (own, shared), &mut view)?;
            let now = view.certificate;
            let goal = *goal.get_or_insert((part * now.gap).max(asked));
            let near = self.foresight.is_some() && now.gap <= NEAR * now.objective;
            if steps == 0 {
                first = now.objective;
            }
            let slow = shared.ends_slowly(&now, last);
            means.judge(now.gap > 0.5 * last);
            last = now.gap;
            let enough = if near { now.gap <= asked } else { now.gap <= goal };
            let little = explores && !near && before - now.objective < LITTLE * (first - now.objective);
            if steps > 0 && (enough || little || slow) || !now.objective.is_finite() {
                break;
            }
            before = now.objective;
            means.improve(worker, (own, shared), &self.columns, self.memory)?;
            let way = self.step(worker, (own, shared), &view, &mut means, rng)?;
            own.begin(worker, &way, means.values(&self.columns))?;
            // Other steps are not found so well, or end where they lead to.
            if means.are_exact() && !self.quadratic {
                self.foresee(own);
            }
            let cut = shared.go_by(loss, worker, own, (&view, &way, means.are_exact()))?;
            if cut != Some(0) {
                self.forget();
            }
            let Some(cut) = cut else { break };
            means.bounds.made(&way.step, 0.5f64.powi(cut as i32));
            halvings += cut;
            steps += 1;
        }
        Ok((steps, halvings))
    }

    /// A step from the present weights.
    fn step(
        &mut self,
        worker: &mut Worker<'_>,
        (own, shared): (&Own, &mut Shared),
        view: &View,
        means: &mut Means,
        rng: &mut ChaCha8Rng,
    ) -> Result<Way> {
        let Means { by, bounds, .. } = means;
        match by {
            By::Matrix { gram, filled } => {
                if !(*filled && self.quadratic) {
                    gram.fill(worker, &mut shared.reduce, &own.bends)?;
                    *filled = true;
                }
                Ok(gram.step((&shared.weights, bounds), &view.gradient, view.constant[0], shared.penalty))
            }
            By::Dealt(split) => {
                let [slope, curvature, _] = view.constant;
                let problem = Problem {
                    weights: &shared.weights,
                    gradient: &view.gradient,
                    diagonal: &view.diagonal,
                    penalty: shared.penalty,
                    bias: shared.bias.map(|_| [slope, curvature]),
                    bounds,
                };
                split.solve(worker, &mut shared.reduce, &problem, &own.bends, rng)
            }
            By::Own { .. } => self.apart(worker, (own, shared), view, bounds, rng),
        }
    }

    /// A better certificate if what the last step was to lead to makes one; else that is forgotten.
    fn foreseen(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        (own, shared): (&Own, &mut Shared),
        view: &mut View,
    ) -> Result<()> {
        let Some(foresight) = &mut self.foresight else { return Ok(()) };
        foresight.look(loss, &own.targets, 1.0 / shared.rows);
        let mut all: Vec<f64> = foresight.gradient(&self.columns).chain(foresight.rows.array()).collect();
        shared.reduce.sum(worker, &mut all)?;
        if let Some((gradient, sums)) = all.split_last_chunk() {
            let foreseen = RowSums { loss: view.rows.loss, ..RowSums::of(*sums) };
            let foreseen = shared.certificate(&foreseen, gradient);
            if foreseen.gap < view.certificate.gap {
                view.certificate = foreseen;
                return Ok(());
            }
        }
        self.forget();
        Ok(())
    }

    /// The step that the workers find each by itself.
    fn apart(
        &mut self,
        worker: &mut Worker<'_>,
        (own, shared): (&Own, &mut Shared),
        view: &View,
        bounds: &Bounds,
        rng: &mut ChaCha8Rng,
    ) -> Result<Way> {
        let [slope, curvature, own_curvature] = view.constant;
        let alone = worker.place.threads == 1;
        let way = Quadratic {
            columns: &self.columns,
            weights: &shared.weights,
            gradient: &view.gradient,
            own: &view.own_diagonal,
            all: &view.diagonal,
            bends: &own.bends,
            penalty: shared.penalty,
            bias: shared.bias.map(|_| [slope, own_curvature, curvature]),
            bounds,
            alone,
            enough: if self.quadratic && alone { 1e-3 } else { 0.0 },
        }
        .solve(rng, &mut self.room.moved);
        join(worker, shared, view, way)
    }
}

/// The common step.
fn join(worker: &mut Worker<'_>, shared: &mut Shared, view: &View, way: Way) -> Result<Way> {
    if worker.place.threads == 1 {
        return Ok(way);
    }
    let Way { step: mut all, bias } = way;
    for (step, (own, all)) in all.iter_mut().zip(view.own_diagonal.iter().zip(&view.diagonal)) {
        *step *= if *all > 0.0 { own / all } else { 0.0 };
    }
    let [_, curvature, own_curvature] = view.constant;
    all.push(if curvature > 0.0 { bias * own_curvature / curvature } else { 0.0 });
    shared.reduce.sum(worker, &mut all)?;
    let bias = all.pop().unwrap_or(0.0);
    Ok(Way { step: all, bias })
}
