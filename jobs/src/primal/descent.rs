//! The stage that learns under an L1 penalty: Newton steps on the features that are worked on. Along a path it also looks at
//! the features that are watched, from their columns: takes those on that ask for a weight, and ends with a certificate where
//! no other feature can be in its way.
//!
//! Invariant: all weights that are not zero are among the features that are watched, and these among those whose columns the
//! workers have.

use super::columns::Columns;
use super::coordinates::{Coordinates, Room};
use super::inner::{Own, Shared};
use super::kept;
use super::loss::Smooth;
use super::screen::takes_all;
use super::survey::Watched;
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

/// How often features are taken on at most.
const TURNS: usize = 20;

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// The rows.
    pub rows: Rows,
    /// The weights.
    pub point: Table<f64>,
    /// Features that are worked on, and behind them those that are watched.
    pub active: Table<u32>,
    /// For sums over the workers.
    pub sums: Table<f64>,
    /// Whether there is an intercept.
    pub bias: bool,
    /// Whether the losses are quadratic, so that one step is all it takes.
    pub quadratic: bool,
    /// Norms and non-zeros by feature, as [`super::occurring`] says, where the penalty is going to fall.
    pub norms: Option<Table<f64>>,
    /// The gap that is asked for, as a part of the objective.
    pub tolerance: f64,
    /// Seed of the order.
    pub seed: u64,
}

impl Descent {
    /// The stage function. Reports `bias`, `steps`, `halvings`, `foreseen`, `certified`; along a path `strayed`; where it ends with a
    /// certificate all that the stages `gradient` and `screen` report for one.
    pub fn run<L: Smooth>(&self, loss: L, worker: &mut Worker<'_>) -> Result<()> {
        let [mut keys, mut near] = [Vec::new(), Vec::new()];
        let [active, all, reach] = ["active", "listed", "reach"].map(|name| worker.scalar(name, 0.0));
        worker.get_range(self.active, 0..active as Key, &mut keys)?;
        worker.get_range(self.active, active as Key..all as Key, &mut near)?;
        // Where all features were looked at it is known which to work on.
        let mut first = (worker.scalar("look", 1.0) == 1.0).then(|| keys.clone());
        if reach > 0.0 {
            keys.append(&mut near);
        }
        keys.sort_unstable();
        near.sort_unstable();
        let mut weights = Vec::new();
        worker.get(self.point, &keys, &mut weights)?;
        let (mut own, mut coordinates) = self.read(worker, &keys, &near, &weights)?;
        let mut watched = Watched::new(keys, weights, coordinates.columns.places());
        if let Some(norms) = self.norms {
            let known = first.is_none();
            watched.measure(worker, self.rows, norms, known)?;
        }
        let start = watched.weights.clone();
        let mut shared = Shared::new(worker, self.sums, (start.len(), self.rows.memory), self.bias, self.tolerance);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(order::stream(worker, 0));
        let (mut steps, mut halvings, mut certificate) = (0, 0, None);
        for turn in 0..TURNS {
            let chosen = match first.take() {
                Some(mut keys) => {
                    keys.sort_unstable();
                    watched.find(&keys)
                }
                // Others may be in the way of the certificate, so all features are to be looked at.
                None if turn > 0 && (reach <= 0.0 || coordinates.strayed > reach) => break,
                None => {
                    let seen = watched.survey(loss, worker, (&mut own, &mut shared, &mut coordinates), reach)?;
                    if seen.certifies {
                        certificate = Some(seen);
                        break;
                    }
                    watched.asking(&seen.gradient, shared.penalty.l1)
                }
            };
            coordinates.columns.choose(chosen.iter().map(|at| watched.places[*at]).collect());
            shared.weights = chosen.iter().map(|at| watched.weights[*at]).collect();
            let (made, cut) = coordinates.settle(loss, worker, (&mut own, &mut shared), &mut rng)?;
            chosen.iter().zip(&shared.weights).for_each(|(at, weight)| watched.weights[*at] = *weight);
            (steps, halvings) = (steps + made, halvings + cut);
            if made == 0 {
                break;
            }
        }
        self.put(worker, &watched.keys, &start, &watched.weights)?;
        worker.report("bias", Metric::Max(shared.bias.unwrap_or(0.0)));
        worker.report("steps", Metric::Max(steps as f64));
        worker.report("halvings", Metric::Max(f64::from(halvings)));
        worker.report("foreseen", Metric::Max(f64::from(u8::from(coordinates.foresight.is_some()))));
        worker.report("certified", Metric::Max(f64::from(u8::from(certificate.is_some()))));
        if self.norms.is_some() {
            worker.report("strayed", Metric::Max(coordinates.strayed));
        }
        if let Some(seen) = certificate {
            seen.report(worker, &own, &watched);
        }
        coordinates.columns.choose(watched.places.clone());
        self.leave(worker, own.scores, coordinates, shared.bias, &watched.weights)?;
        watched.leave(worker, self.rows)
    }

    /// This worker's rows and columns.
    fn read(&self, worker: &mut Worker<'_>, keys: &[Key], near: &[Key], weights: &[f64]) -> Result<(Own, Coordinates)> {
        let columns = Columns::take(worker, self.rows, keys, near)?;
        let (task, mut targets) = (Task::of(worker), Vec::new());
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            task.targets_of(worker, self.rows.input, &part, &mut targets)?;
        }
        let known =
            kept::find(worker, self.rows, kept::SCORES)?.filter(|scores: &Vec<f64>| scores.len() == targets.len());
        let scores = known.unwrap_or_else(|| {
            let mut scores = vec![worker.scalar("bias", 0.0); targets.len()];
            columns.add(weights, &mut scores);
            scores
        });
        let anchor = if self.norms.is_some() { kept::find(worker, self.rows, kept::ANCHOR)? } else { None };
        let anchor = anchor.filter(|slopes: &Vec<f64>| slopes.len() == scores.len());
        let coordinates = Coordinates {
            columns,
            anchor,
            strayed: 0.0,
            foresight: None,
            all: takes_all(worker, self.norms),
            quadratic: self.quadratic,
            memory: self.rows.memory,
            room: Room::default(),
        };
        Ok((Own::new(targets, scores), coordinates))
    }

    /// Leaves the scores, made anew so that no rounding of many steps is in them, and the columns for later stages.
    fn leave(
        &self,
        worker: &mut Worker<'_>,
        mut scores: Vec<f64>,
        coordinates: Coordinates,
        bias: Option<f64>,
        weights: &[f64],
    ) -> Result<()> {
        let Coordinates { columns, anchor, foresight, .. } = coordinates;
        scores.fill(bias.unwrap_or(0.0));
        columns.add(weights, &mut scores);
        kept::keep(worker, self.rows, kept::SCORES, scores)?;
        anchor.map_or(Ok(()), |anchor| kept::keep(worker, self.rows, kept::ANCHOR, anchor))?;
        foresight.map_or(Ok(()), |foresight| kept::keep(worker, self.rows, kept::FORESEEN, foresight.scores))?;
        columns.keep(worker, self.rows)
    }

    /// Adds what the stage changed to the table, each worker a part of the features.
    fn put(&self, worker: &mut Worker<'_>, keys: &[Key], start: &[f64], now: &[f64]) -> Result<()> {
        let part = worker.place.share(keys.len());
        let changes: Vec<f64> =
            start[part.clone()].iter().zip(&now[part.clone()]).map(|(old, new)| new - old).collect();
        worker.add(self.point, &keys[part], &changes)
    }
}
