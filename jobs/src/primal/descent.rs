//! The stage that learns under an L1 penalty: Newton steps on the features that are worked on, each found by coordinate
//! descent on the workers' own columns, joined, and shortened until the objective falls as it should.
//!
//! Per step the workers exchange two numbers a feature that is worked on, whatever the number of rows. Invariant: the
//! objective never rises, but for rounding, and all workers hold the same weights.

use super::certificate::{Certificate, FeatureSums, Penalty, RowSums, certify};
use super::columns::Columns;
use super::gradient;
use super::gram::Gram;
use super::loss::Smooth;
use super::quadratic::{Quadratic, Way};
use super::reduce::Reduce;
use super::task::Task;
use crate::order;
use crate::parts::{Parts, Rows};
use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Newton steps of a stage at most.
const STEPS: usize = 50;
/// The stage ends when the gap of the features that are worked on is this part of what it was, or of the tolerance.
const ENOUGH: f64 = 0.1;
/// ... or this part of what is asked for in the end.
const WELL: f64 = 0.3;
/// ... or, while features are worked on that had no weight, when a step brings less than this part of what all brought: most
/// of what is left is for others.
const LITTLE: f64 = 0.1;
/// Halvings of a step at most.
const HALVINGS: u32 = 30;
/// A step must bring this part of what its slope promises.
const PROMISED: f64 = 0.01;

/// A rise by this part of the objective is rounding: near the optimum what a good step brings drowns in it.
const NOISE: f64 = 1e-14;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// The rows.
    pub rows: Rows,
    /// The weights.
    pub point: Table<f64>,
    /// Features that are worked on.
    pub active: Table<u32>,
    /// For sums over the workers.
    pub sums: Table<f64>,
    /// Whether there is an intercept.
    pub bias: bool,
    /// Whether the losses are quadratic, so that one step is all it takes.
    pub quadratic: bool,
    /// The gap that is asked for, as a part of the objective.
    pub tolerance: f64,
    /// Seed of the order.
    pub seed: u64,
}

/// A worker's rows as they stand.
struct Own {
    /// Targets and weights; weight 0 is held out.
    targets: Vec<(f64, f64)>,
    scores: Vec<f64>,
    /// Weighted slope and curvature of each, over n.
    bends: Vec<[f64; 2]>,
    columns: Columns,
}

/// What all workers know alike.
struct Shared {
    rows: f64,
    penalty: Penalty,
    weights: Vec<f64>,
    bias: f64,
    gradient: Vec<f64>,
    diagonal: Vec<f64>,
    /// Slope and curvature of the intercept.
    constant: [f64; 2],
    reduce: Reduce,
}

impl Descent {
    /// The stage function. Reports `bias`, `steps`, `halvings`.
    pub fn run<L: Smooth>(&self, worker: &mut Worker<'_>) -> Result<()> {
        let [mut keys, mut near] = [Vec::new(), Vec::new()];
        let [active, all] = ["active", "listed"].map(|name| worker.scalar(name, 0.0) as Key);
        worker.get_range(self.active, 0..active, &mut keys)?;
        worker.get_range(self.active, active..all, &mut near)?;
        keys.sort_unstable();
        let mut weights = Vec::new();
        worker.get(self.point, &keys, &mut weights)?;
        let mut own = self.own(worker, &keys, &near, &weights)?;
        let start = weights.clone();
        let mut shared = Shared {
            rows: worker.scalar("trained_rows", 1.0),
            penalty: Penalty { l1: worker.scalar("l1", 0.0), l2: worker.scalar("l2", 0.0) },
            weights,
            bias: worker.scalar("bias", 0.0),
            gradient: Vec::new(),
            diagonal: Vec::new(),
            constant: [0.0; 2],
            reduce: Reduce::new(self.sums, (2 * keys.len() + 16).max(Gram::numbers(keys.len(), self.rows.memory))),
        };
        let shape = (own.scores.len(), self.bias);
        let place = (shared.penalty.l1, self.rows.memory);
        let mut gram = Gram::of(worker, &mut shared.reduce, &own.columns, shape, place)?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(order::stream(worker, 0));
        let explores = shared.penalty.l1 > 0.0 && shared.weights.contains(&0.0);
        let (mut goal, mut steps, mut halvings) = (None, 0, 0);
        let (mut first, mut before) = (f64::INFINITY, f64::INFINITY);
        while steps < STEPS {
            let (own_diagonal, own_curvature, now) = self.look::<L>(worker, &mut own, &mut shared)?;
            let (asked, part) = (WELL * self.tolerance * now.objective, if explores { ENOUGH } else { 0.0 });
            let goal = *goal.get_or_insert((part * now.gap).max(asked));
            if steps == 0 {
                first = now.objective;
            }
            let little = explores && before - now.objective < LITTLE * (first - now.objective);
            if steps > 0 && (now.gap <= goal || little) || !now.objective.is_finite() {
                break;
            }
            before = now.objective;
            let [slope, curvature] = shared.constant;
            let way = match &mut gram {
                Some(gram) => {
                    if steps == 0 || !self.quadratic {
                        gram.fill(worker, &mut shared.reduce, &own.bends)?;
                    }
                    gram.step(&shared.weights, &shared.gradient, slope, shared.penalty)
                }
                None => {
                    let way = Quadratic {
                        columns: &own.columns,
                        weights: &shared.weights,
                        gradient: &shared.gradient,
                        own: &own_diagonal,
                        all: &shared.diagonal,
                        bends: &own.bends,
                        penalty: shared.penalty,
                        bias: self.bias.then_some([slope, own_curvature, curvature]),
                        alone: worker.place.threads == 1,
                        enough: if self.quadratic && worker.place.threads == 1 { 1e-3 } else { 0.0 },
                    }
                    .solve(&mut rng);
                    join(worker, &mut shared, way, &own_diagonal, own_curvature)?
                }
            };
            let Some(cut) = go::<L>(worker, &mut own, &mut shared, &way, now.objective)? else { break };
            halvings += cut;
            steps += 1;
        }
        self.put(worker, &keys, &start, &shared.weights)?;
        self.leave(worker, own, &shared)?;
        worker.report("bias", Metric::Max(shared.bias));
        worker.report("steps", Metric::Max(steps as f64));
        worker.report("halvings", Metric::Max(f64::from(halvings)));
        Ok(())
    }

    /// This worker's rows.
    fn own(&self, worker: &mut Worker<'_>, keys: &[Key], near: &[Key], weights: &[f64]) -> Result<Own> {
        let columns = Columns::take(worker, self.rows, keys, near)?;
        let (task, mut targets) = (Task::of(worker), Vec::new());
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            for at in 0..part.blocks() {
                let block = part.in_order(worker, at)?;
                task.folds(worker, (self.rows.input, part.number_of(at), block.rows()), |folds| {
                    let kept = |i: usize| folds.is_none_or(|(folds, held_out)| folds[i] != held_out);
                    let weight = |i: usize, label| if kept(i) { task.weight(label) } else { 0.0 };
                    targets.extend(block.labels.iter().enumerate().map(|(i, l)| (task.target(*l), weight(i, *l))));
                })?;
            }
        }
        // All weights that are not zero are among the features that are worked on.
        let known = gradient::find_scores(worker, self.rows)?.filter(|scores| scores.len() == targets.len());
        let scores = known.unwrap_or_else(|| {
            let mut scores = vec![worker.scalar("bias", 0.0); targets.len()];
            columns.add(weights, &mut scores);
            scores
        });
        let bends = vec![[0.0; 2]; scores.len()];
        Ok(Own { targets, scores, bends, columns })
    }

    /// Leaves the scores, made anew so that no rounding of many steps is in them, and the columns for later stages.
    fn leave(&self, worker: &mut Worker<'_>, own: Own, shared: &Shared) -> Result<()> {
        let Own { mut scores, columns, .. } = own;
        scores.fill(shared.bias);
        columns.add(&shared.weights, &mut scores);
        gradient::keep_scores(worker, self.rows, scores)?;
        columns.keep(worker, self.rows)
    }

    /// Slopes, curvatures, gradient and diagonal at the present weights. Gives this worker's part of the diagonal and of
    /// the intercept's curvature, and the certificate of the features that are worked on.
    fn look<L: Smooth>(
        &self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        shared: &mut Shared,
    ) -> Result<(Vec<f64>, f64, Certificate)> {
        let (share, mut sums, mut curvature) = (1.0 / shared.rows, RowSums::default(), 0.0);
        for (((y, weight), z), [slope, curved]) in own.targets.iter().zip(&own.scores).zip(&mut own.bends) {
            let at = L::at(*y, *z);
            *slope = share * weight * at.slope;
            // Where the loss is flat a little of its usual curvature keeps steps finite.
            *curved = share * weight * at.curvature.max(1e-12);
            sums.loss += weight * at.loss;
            sums.inner += weight * at.slope * z;
            sums.bend += weight * at.bend;
            sums.slope += weight * at.slope;
            curvature += *curved;
        }
        let count = shared.weights.len();
        let (mut all, mut diagonal) = (Vec::with_capacity(2 * count + 5), Vec::with_capacity(count));
        for j in 0..count {
            let [gradient, curvature] = own.columns.column(j).dots(&own.bends);
            all.push(gradient);
            diagonal.push(curvature);
        }
        all.extend(&diagonal);
        all.extend([sums.loss, sums.inner, sums.bend, sums.slope, curvature]);
        shared.reduce.sum(worker, &mut all)?;
        let (features, rest) = all.split_at(2 * count);
        shared.gradient.clear();
        shared.gradient.extend(&features[..count]);
        shared.diagonal.clear();
        shared.diagonal.extend(&features[count..]);
        let sums = RowSums { loss: rest[0], inner: rest[1], bend: rest[2], slope: rest[3] };
        shared.constant = [rest[3] / shared.rows, rest[4]];
        let mut features = FeatureSums::default();
        for (w, g) in shared.weights.iter().zip(&shared.gradient) {
            features.penalty += shared.penalty.of(*w);
            features.excess += (g.abs() - shared.penalty.l1).max(0.0).powi(2);
            features.most = features.most.max(g.abs());
        }
        let now = certify(shared.rows, &sums, &features, shared.penalty, self.bias.then_some(shared.bias));
        Ok((diagonal, curvature, now))
    }

    /// Adds what the stage changed to the table, each worker a part of the features.
    fn put(&self, worker: &mut Worker<'_>, keys: &[Key], start: &[f64], now: &[f64]) -> Result<()> {
        let (index, threads) = (worker.place.index, worker.place.threads);
        let part = keys.len() * index / threads..keys.len() * (index + 1) / threads;
        let changes: Vec<f64> =
            start[part.clone()].iter().zip(&now[part.clone()]).map(|(old, new)| new - old).collect();
        worker.add(self.point, &keys[part], &changes)
    }
}

/// The common step.
fn join(worker: &mut Worker<'_>, shared: &mut Shared, way: Way, own: &[f64], own_curvature: f64) -> Result<Way> {
    if worker.place.threads == 1 {
        return Ok(way);
    }
    let Way { step: mut all, bias } = way;
    for (step, (own, all)) in all.iter_mut().zip(own.iter().zip(&shared.diagonal)) {
        *step *= if *all > 0.0 { own / all } else { 0.0 };
    }
    let curvature = shared.constant[1];
    all.push(if curvature > 0.0 { bias * own_curvature / curvature } else { 0.0 });
    shared.reduce.sum(worker, &mut all)?;
    let bias = all.pop().unwrap_or(0.0);
    Ok(Way { step: all, bias })
}

/// Goes a step, or the half of it that lowers the objective as it should: how often it was halved, or nothing where it
/// leads nowhere.
fn go<L: Smooth>(
    worker: &mut Worker<'_>,
    own: &mut Own,
    shared: &mut Shared,
    way: &Way,
    objective: f64,
) -> Result<Option<u32>> {
    let penalty = shared.penalty;
    let penalties = |length: f64| {
        let moved = shared.weights.iter().zip(&way.step).map(|(w, d)| penalty.of(w + length * d));
        moved.sum::<f64>()
    };
    let before = penalties(0.0);
    let along: f64 = shared.gradient.iter().zip(&way.step).map(|(g, d)| g * d).sum();
    let promised = along + shared.constant[0] * way.bias + penalties(1.0) - before;
    let mut moved = vec![way.bias; own.scores.len()];
    own.columns.add(&way.step, &mut moved);
    let mut length = 1.0;
    for halvings in 0..HALVINGS {
        let rows = own.targets.iter().zip(&own.scores).zip(&moved);
        let losses = rows.map(|(((y, weight), z), d)| weight * L::loss(*y, z + length * d)).sum::<f64>();
        let mut losses = vec![losses];
        shared.reduce.sum(worker, &mut losses)?;
        let after = losses[0] / shared.rows + penalties(length);
        if after - objective <= PROMISED * length * promised + NOISE * objective.abs() {
            own.scores.iter_mut().zip(&moved).for_each(|(z, d)| *z += length * d);
            shared.weights.iter_mut().zip(&way.step).for_each(|(w, d)| *w += length * d);
            shared.bias += length * way.bias;
            return Ok(Some(halvings));
        }
        length /= 2.0;
    }
    Ok(None)
}
