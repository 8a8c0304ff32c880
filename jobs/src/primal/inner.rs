//! Newton steps on the features that are worked on, each found by coordinate descent on the workers' columns, their own or
//! dealt out, or by the matrix, and shortened until the objective falls as it should.
//!
//! Per step the workers exchange two numbers a feature that is worked on; where columns are dealt out also a number a row in
//! each sweep. Invariant: the objective never rises, but for rounding, and all workers hold the same weights.

use super::bends;
use super::bounds::Bounds;
use super::certificate::{Certificate, FeatureSums, Penalty, RowSums, certify};
use super::columns::Columns;
use super::foresight::Foresight;
use super::gram::Gram;
use super::loss::Smooth;
use super::quadratic::{Quadratic, Way};
use super::reach::LOST;
use super::reduce::Reduce;
use super::split::{Problem, Split};
use crate::pages;
use flexps_common::Result;
use flexps_common::worker::Worker;
use rand_chacha::ChaCha8Rng;

/// Newton steps at most.
const STEPS: usize = 50;
/// The steps end when the gap of the features that are worked on is this part of what it was, or of the tolerance.
const ENOUGH: f64 = 0.1;
/// ... or this part of what is asked for in the end.
const WELL: f64 = 0.3;
/// ... or less than this part of it, if the last step did not halve the gap.
const SLOW: f64 = 0.9;
/// ... or, while features are worked on that had no weight, when a step brings less than this part of what all brought: most
/// of what is left is for others.
const LITTLE: f64 = 0.1;
/// ... but where steps are found exactly and the gap is less than this part of the objective, the next brings all that is asked for.
const NEAR: f64 = 0.05;
/// Halvings of a step at most.
const HALVINGS: u32 = 30;
/// A step must bring this part of what its slope promises.
const PROMISED: f64 = 0.01;
/// A rise by this part of the objective is rounding: near the optimum what a good step brings drowns in it.
const NOISE: f64 = 1e-14;

/// A worker's rows as they stand.
pub struct Own {
    /// Targets and weights; weight 0 is held out.
    pub targets: Vec<(f64, f64)>,
    /// Scores at the present weights.
    pub scores: Vec<f64>,
    /// Weighted slope and curvature of each, over n.
    pub bends: Vec<[f64; 2]>,
    /// Slopes where the gradient of all features was made, if they are known.
    pub anchor: Option<Vec<f64>>,
    /// Of the features that are worked on.
    pub columns: Columns,
    /// Sums at the present scores, if slopes and curvatures are those of these.
    pub sums: Option<Sums>,
    /// Memory of a step.
    pub room: Room,
    /// What the last step was to lead to, if it is known.
    pub foresight: Option<Foresight>,
}

/// What a step writes by row. It is kept for the next one: pages of new memory cost more than what is written to them.
#[derive(Debug, Default)]
pub struct Room {
    /// The scores that it started from.
    from: Vec<f64>,
    /// By how much it moves them.
    way: Vec<f64>,
    /// For coordinate descent.
    moved: Vec<[f32; 2]>,
    /// For what the next step is to lead to.
    foresight: Foresight,
}

/// Sums over a worker's rows.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    /// For the certificate.
    pub rows: RowSums,
    /// Of the curvatures, over n.
    pub curvature: f64,
    /// Of the squares of how far the slopes are from the anchor.
    pub far: f64,
}

/// What all workers know alike.
pub struct Shared {
    /// Rows that are not held out.
    pub rows: f64,
    /// The penalty.
    pub penalty: Penalty,
    /// The gap that is asked for, as a part of the objective.
    pub tolerance: f64,
    /// Whether the losses are quadratic.
    pub quadratic: bool,
    /// Of the features that are worked on.
    pub weights: Vec<f64>,
    /// The intercept, if there is one.
    pub bias: Option<f64>,
    /// How far the slopes are from the anchor.
    pub strayed: f64,
    /// Whether the weights are of all features that there are.
    pub all: bool,
    /// For sums over the workers.
    pub reduce: Reduce,
    /// Bytes that a worker may keep for values by feature.
    pub memory: u64,
}

/// Where the present weights lead.
pub struct View {
    /// Of the losses, by feature.
    pub gradient: Vec<f64>,
    diagonal: Vec<f64>,
    /// This worker's part of the diagonal.
    own_diagonal: Vec<f64>,
    /// Slope and curvature of the intercept, and this worker's part of the curvature.
    pub constant: [f64; 3],
    /// Sums over all rows.
    pub rows: RowSums,
    /// What they are worth, by the features that are worked on.
    pub certificate: Certificate,
}

impl Own {
    /// Slopes and curvatures at the present scores, if they are not known.
    pub fn bend(&mut self, loss: impl Smooth, rows: f64) -> Sums {
        if let Some(known) = self.sums {
            return known;
        }
        let (sums, curvature) = bends::bend(loss, &self.targets, &self.scores, &mut self.bends, 1.0 / rows);
        let far = self.anchor.as_ref().map_or(LOST, |anchor| bends::far(anchor, &self.bends));
        *self.sums.insert(Sums { rows: sums, curvature, far })
    }

    /// Begins a step from the present scores.
    pub fn begin(&mut self, worker: &mut Worker<'_>, step: &Way, gram: Option<&Gram>) -> Result<()> {
        let Room { from, way, .. } = &mut self.room;
        from.clone_from(&self.scores);
        if let Some(gram) = gram {
            return gram.lines.scores(worker, &step.step, step.bias, way);
        }
        pages::clear(way, self.scores.len());
        way.resize(self.scores.len(), step.bias);
        self.columns.add(&step.step, way);
        Ok(())
    }

    /// Notes what the step that was begun is to lead to.
    fn foresee(&mut self) {
        self.forget();
        let mut foresight = std::mem::take(&mut self.room.foresight);
        foresight.note(&self.bends, &self.room.way);
        self.foresight = Some(foresight);
    }

    /// What the last step was to lead to is of no use.
    fn forget(&mut self) {
        if let Some(foresight) = self.foresight.take() {
            self.room.foresight = foresight;
        }
    }

    /// Goes so much of the step.
    fn go_to(&mut self, length: f64) {
        let ways = self.room.from.iter().zip(&self.room.way);
        self.scores.iter_mut().zip(ways).for_each(|(z, (from, d))| *z = from + length * d);
        self.sums = None;
    }
}

impl Shared {
    /// Newton steps under an L1 penalty until the gap is well below what it was or is asked for: how many, and how often they were
    /// halved.
    pub fn settle<L: Smooth>(
        &mut self,
        loss: L,
        worker: &mut Worker<'_>,
        own: &mut Own,
        rng: &mut ChaCha8Rng,
    ) -> Result<(usize, u32)> {
        let shape = (own.scores.len(), self.bias.is_some());
        let mut gram = Gram::of(worker, &mut self.reduce, &own.columns, shape, self.memory)?;
        let mut split = match gram {
            Some(_) => None,
            None => Split::of(worker, &mut self.reduce, &own.columns, own.scores.len())?,
        };
        let mut bounds = match &split {
            Some(split) => split.bounds(worker, &mut self.reduce, L::REACH)?,
            None => Bounds::new(&own.columns, L::REACH),
        };
        if gram.is_some() {
            bounds.share(worker, &mut self.reduce)?;
        }
        let explores = !self.all && self.weights.contains(&0.0);
        let (mut goal, mut steps, mut halvings) = (None, 0, 0);
        let (mut first, mut before, mut last) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        while steps < STEPS {
            let (mut view, []) = self.look(loss, worker, (own, gram.as_ref()), [])?;
            let (asked, part) =
                (WELL * self.tolerance * view.certificate.objective, if explores { ENOUGH } else { 0.0 });
            if view.certificate.gap <= asked {
                own.forget();
            }
            self.foreseen(loss, worker, own, &mut view)?;
            let now = view.certificate;
            let goal = *goal.get_or_insert((part * now.gap).max(asked));
            let near = own.foresight.is_some() && now.gap <= NEAR * now.objective;
            if steps == 0 {
                first = now.objective;
            }
            let slow = now.gap <= SLOW * self.tolerance * now.objective && now.gap > 0.5 * last;
            last = now.gap;
            let enough = if near { now.gap <= asked } else { now.gap <= goal };
            let little = explores && !near && before - now.objective < LITTLE * (first - now.objective);
            if steps > 0 && (enough || little || slow) || !now.objective.is_finite() {
                break;
            }
            before = now.objective;
            let way = match (&mut gram, &mut split) {
                (Some(gram), _) => {
                    if steps == 0 || !self.quadratic {
                        gram.fill(worker, &mut self.reduce, &own.bends)?;
                    }
                    gram.step((&self.weights, &bounds), &view.gradient, view.constant[0], self.penalty)
                }
                (None, Some(split)) => {
                    let [slope, curvature, _] = view.constant;
                    let problem = Problem {
                        weights: &self.weights,
                        gradient: &view.gradient,
                        diagonal: &view.diagonal,
                        penalty: self.penalty,
                        bias: self.bias.map(|_| [slope, curvature]),
                        bounds: &bounds,
                    };
                    split.solve(worker, &mut self.reduce, &problem, &own.bends, rng)?
                }
                (None, None) => self.apart(worker, own, &view, &bounds, rng)?,
            };
            own.begin(worker, &way, gram.as_ref())?;
            // Other steps are not found so well, or end where they lead to.
            if gram.is_some() && !self.quadratic {
                own.foresee();
            }
            let cut = self.go(loss, worker, own, (&view, &way))?;
            if cut != Some(0) {
                own.forget();
            }
            let Some(cut) = cut else { break };
            bounds.made(&way.step, 0.5f64.powi(cut as i32));
            halvings += cut;
            steps += 1;
        }
        Ok((steps, halvings))
    }

    /// Slopes, curvatures and gradient at the present weights, the diagonal unless steps are found by the matrix, and the
    /// certificate of the features that are worked on; beside them the sums over all workers of `more`.
    pub fn look<const N: usize>(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        (own, gram): (&mut Own, Option<&Gram>),
        more: [f64; N],
    ) -> Result<(View, [f64; N])> {
        let Sums { rows: sums, curvature: own_curvature, far } = own.bend(loss, self.rows);
        let count = self.weights.len();
        let (mut all, mut own_diagonal) = (Vec::with_capacity(2 * count + 6 + N), Vec::new());
        match gram {
            Some(gram) => all.extend(gram.lines.gradient(worker, &own.bends)?),
            None => {
                for j in 0..count {
                    let [gradient, curvature] = own.columns.column(j).dots(&own.bends);
                    all.push(gradient);
                    own_diagonal.push(curvature);
                }
            }
        }
        all.extend(&own_diagonal);
        all.extend([sums.loss, sums.inner, sums.bend, sums.slope, own_curvature, far]);
        all.extend(more);
        self.reduce.sum(worker, &mut all)?;
        let (features, rest) = all.split_at(count + own_diagonal.len());
        let (gradient, diagonal) = features.split_at(count);
        let sums = RowSums { loss: rest[0], dual: rest[0], inner: rest[1], bend: rest[2], slope: rest[3] };
        self.strayed = rest[5].sqrt();
        let certificate = self.certificate(&sums, gradient);
        let view = View {
            gradient: gradient.to_vec(),
            diagonal: diagonal.to_vec(),
            own_diagonal,
            constant: [rest[3] / self.rows, rest[4], own_curvature],
            rows: sums,
            certificate,
        };
        Ok((view, std::array::from_fn(|at| rest[6 + at])))
    }

    /// A better certificate if what the last step was to lead to makes one; else that is forgotten.
    fn foreseen(&mut self, loss: impl Smooth, worker: &mut Worker<'_>, own: &mut Own, view: &mut View) -> Result<()> {
        let Some(foresight) = &mut own.foresight else { return Ok(()) };
        foresight.look(loss, &own.targets, 1.0 / self.rows);
        let RowSums { dual, inner, bend, slope, .. } = foresight.rows;
        let mut all: Vec<f64> = foresight.gradient(&own.columns).chain([dual, inner, bend, slope]).collect();
        self.reduce.sum(worker, &mut all)?;
        if let Some((gradient, &[dual, inner, bend, slope])) = all.split_last_chunk() {
            let foreseen = self.certificate(&RowSums { dual, inner, bend, slope, ..view.rows }, gradient);
            if foreseen.gap < view.certificate.gap {
                view.certificate = foreseen;
                return Ok(());
            }
        }
        own.forget();
        Ok(())
    }

    /// The certificate of the features that are worked on.
    pub fn certificate(&self, rows: &RowSums, gradient: &[f64]) -> Certificate {
        let mut over = FeatureSums::default();
        self.weights.iter().zip(gradient).for_each(|(w, g)| over.add(*w, *g, self.penalty));
        certify(self.rows, rows, &over, self.penalty, self.bias)
    }

    /// The step that the workers find each by itself.
    fn apart(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        view: &View,
        bounds: &Bounds,
        rng: &mut ChaCha8Rng,
    ) -> Result<Way> {
        let [slope, curvature, own_curvature] = view.constant;
        let alone = worker.place.threads == 1;
        let way = Quadratic {
            columns: &own.columns,
            weights: &self.weights,
            gradient: &view.gradient,
            own: &view.own_diagonal,
            all: &view.diagonal,
            bends: &own.bends,
            penalty: self.penalty,
            bias: self.bias.map(|_| [slope, own_curvature, curvature]),
            bounds,
            alone,
            enough: if self.quadratic && alone { 1e-3 } else { 0.0 },
        }
        .solve(rng, &mut own.room.moved);
        self.join(worker, view, way)
    }

    /// The common step.
    fn join(&mut self, worker: &mut Worker<'_>, view: &View, way: Way) -> Result<Way> {
        if worker.place.threads == 1 {
            return Ok(way);
        }
        let Way { step: mut all, bias } = way;
        for (step, (own, all)) in all.iter_mut().zip(view.own_diagonal.iter().zip(&view.diagonal)) {
            *step *= if *all > 0.0 { own / all } else { 0.0 };
        }
        let [_, curvature, own_curvature] = view.constant;
        all.push(if curvature > 0.0 { bias * own_curvature / curvature } else { 0.0 });
        self.reduce.sum(worker, &mut all)?;
        let bias = all.pop().unwrap_or(0.0);
        Ok(Way { step: all, bias })
    }

    /// Goes a step, or the half of it that lowers the objective as it should: how often it was halved, or nothing where it
    /// leads nowhere.
    pub fn go(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        own: &mut Own,
        (view, way): (&View, &Way),
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
            let mut losses = vec![own.bend(loss, self.rows).rows.loss];
            self.reduce.sum(worker, &mut losses)?;
            let after = losses[0] / self.rows + penalties(&self.weights, length);
            if after - objective <= PROMISED * length * promised + NOISE * objective.abs() {
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
}
