//! What `sdca` promises, on the one-thread host. The oracle is weak duality: whatever dual variables a slow loop in f64
//! finds, no weights have a smaller P than their D; so what lies close above D lies close to the optimum.

use super::*;
use crate::fixtures::{self, Rows, path, run};
use crate::lr::{Lr, Solver};
use crate::svm::{Loss as SvmLoss, Solver as SvmSolver, Svm};
use flexps_common::data::Block;
use flexps_common::host::{Host, Outcome};
use flexps_common::job::{DynJob, Job};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// f and f*(-a), written down again.
fn loss(kind: Kind, m: f64) -> f64 {
    match kind {
        Kind::Logistic if m > 0.0 => (-m).exp().ln_1p(),
        Kind::Logistic => -m + m.exp().ln_1p(),
        Kind::Hinge => (1.0 - m).max(0.0),
        Kind::SquaredHinge => (1.0 - m).max(0.0).powi(2),
        Kind::Squared => (1.0 - m).powi(2) / 2.0,
    }
}

fn conjugate(kind: Kind, a: f64) -> f64 {
    let entropy = |x: f64| if x > 0.0 { x * x.ln() } else { 0.0 };
    match kind {
        Kind::Logistic => entropy(a) + entropy(1.0 - a),
        Kind::Hinge => -a,
        Kind::SquaredHinge => a * a / 4.0 - a,
        Kind::Squared => a * a / 2.0 - a,
    }
}

/// The derivative of f*(-a) in a.
fn slope(kind: Kind, a: f64) -> f64 {
    match kind {
        Kind::Logistic => (a / (1.0 - a)).ln(),
        Kind::Hinge => -1.0,
        Kind::SquaredHinge => a / 2.0 - 1.0,
        Kind::Squared => a - 1.0,
    }
}

/// Label, what the row counts, non-zeros.
type Row = (f64, f64, Vec<(usize, f64)>);

struct Problem {
    kind: Kind,
    lambda: f64,
    features: usize,
    /// An intercept that is fixed.
    offset: f64,
    rows: Vec<Row>,
}

impl Problem {
    fn new(kind: Kind, blocks: &[Block], lambda: Option<f64>) -> Self {
        let mut rows = Vec::new();
        for row in blocks.iter().flat_map(|b| (0..b.rows()).map(|i| b.row(i))) {
            let value = |at: usize| row.values.map_or(1.0, |v| f64::from(v[at]));
            let entries = row.indices.iter().enumerate().map(|(at, k)| (*k as usize, value(at))).collect();
            rows.push((f64::from(row.label), 1.0, entries));
        }
        let features = flexps_common::host::facts(blocks, 0).features as usize;
        Self { kind, lambda: lambda.unwrap_or(1.0 / rows.len() as f64), features, offset: 0.0, rows }
    }

    fn dot(w: &[f64], row: &[(usize, f64)]) -> f64 {
        row.iter().map(|(k, v)| w[*k] * v).sum()
    }

    fn primal(&self, w: &[f64]) -> f64 {
        let of_row = |(y, counts, row): &Row| counts * loss(self.kind, y * (Self::dot(w, row) + self.offset));
        let losses: f64 = self.rows.iter().map(of_row).sum();
        losses / self.rows.len() as f64 + self.lambda / 2.0 * w.iter().map(|w| w * w).sum::<f64>()
    }

    /// A bound from below of every P, by exact steps (bisection on the slope) over all rows, until it hardly rises.
    fn bound(&self) -> f64 {
        let n = self.rows.len() as f64;
        let (mut a, mut w) = (vec![0.0f64; self.rows.len()], vec![0.0f64; self.features]);
        let (mut rng, mut order) = (ChaCha8Rng::seed_from_u64(1), (0..self.rows.len()).collect::<Vec<_>>());
        let mut best = f64::NEG_INFINITY;
        for sweep in 0..4000 {
            // In the same order again and again it would stall.
            order.shuffle(&mut rng);
            for i in order.iter().copied() {
                let (y, counts, row) = &self.rows[i];
                let m = y * (Self::dot(&w, row) + self.offset);
                let q = counts * row.iter().map(|(_, v)| v * v).sum::<f64>() / (self.lambda * n);
                let (mut low, mut high) = match self.kind {
                    Kind::Logistic | Kind::Hinge => (0.0, 1.0),
                    Kind::SquaredHinge => (0.0, 1e4),
                    Kind::Squared => (-1e4, 1e4),
                };
                for _ in 0..45 {
                    let middle = (low + high) / 2.0;
                    let rises = -slope(self.kind, middle) - m - q * (middle - a[i]) > 0.0;
                    if rises { low = middle } else { high = middle }
                }
                let change = (low + high) / 2.0 - a[i];
                a[i] += change;
                row.iter().for_each(|(k, v)| w[*k] += counts * change * y * v / (self.lambda * n));
            }
            if sweep % 20 == 19 {
                let of_row = |(a, (y, counts, _)): (&f64, &(f64, f64, _))| {
                    counts * (conjugate(self.kind, *a) + a * y * self.offset)
                };
                let conjugates: f64 = a.iter().zip(&self.rows).map(of_row).sum();
                let dual = -conjugates / n - self.lambda / 2.0 * w.iter().map(|w| w * w).sum::<f64>();
                if dual - best < 1e-10 * dual.abs() {
                    return dual;
                }
                best = dual;
            }
        }
        best
    }
}

fn job(kind: Kind, tolerance: f64) -> Box<dyn Fn(Flags, Option<f64>) -> Box<dyn DynJob>> {
    Box::new(move |flags, lambda| made(kind, &Common { tolerance, lambda, epochs: 3000, ..fixtures::flags() }, flags))
}

fn made(kind: Kind, common: &Common, flags: Flags) -> Box<dyn DynJob> {
    let svm = |loss| Svm { common: common.clone(), loss, solver: SvmSolver::Sdca, sdca: flags, ..Svm::default() };
    match kind {
        Kind::Logistic => Box::new(Lr { common: common.clone(), solver: Solver::Sdca, sdca: flags, ..Lr::default() }),
        Kind::Hinge => Box::new(svm(SvmLoss::Hinge)),
        Kind::SquaredHinge => Box::new(svm(SvmLoss::SquaredHinge)),
        Kind::Squared => Box::new(svm(SvmLoss::Squared)),
    }
}

mod coupled;
mod folds;
mod kinked;
mod subspace;
mod variants;

/// All workers go, whether or not one would be faster alone, and join as often as they would.
const ALL_JOIN: Flags = Flags { joins: None, overlap: Some(1.3) };

const ALL: [Kind; 4] = [Kind::Logistic, Kind::Hinge, Kind::SquaredHinge, Kind::Squared];

/// Runs a job; demands that it came within its tolerance, that its gap bounds the distance, and that what it reports is
/// true.
fn assert_certified(
    host: Host,
    kind: Kind,
    flags: Flags,
    blocks: &[Block],
    lambda: Option<f64>,
    tolerance: f64,
) -> Outcome {
    let plan = job(kind, tolerance)(flags, lambda).plan().unwrap();
    let outcome = host.rows(blocks.to_vec()).run(&plan).unwrap();
    let problem = Problem::new(kind, blocks, lambda);
    let reached = problem.primal(&outcome.table("weights", 0..problem.features as u32));
    let (reported, gap) = (outcome.progress.objective.unwrap(), outcome.progress.scalars["gap"]);
    assert!((reported - reached).abs() < 1e-7 * reached, "{kind:?}: reported {reported}, is {reached}");
    let bound = problem.bound();
    let above = (reached - bound) / reached;
    assert!(gap <= tolerance, "{kind:?}: gap {gap:e} after {} epochs", outcome.epochs.len());
    // The bound itself is a little below the optimum, so it may be farther than the gap by that.
    assert!(above <= gap + 2e-7, "{kind:?}: {above:e} above the optimum with a gap of {gap:e}");
    outcome
}

#[test]
fn every_loss_reaches_its_optimum_alone() {
    for kind in ALL {
        for rows in [
            Rows { features: 50, ..Rows::sparse(1) },
            Rows { rows: 300, features: 48, nonzeros: 12, one_hot: true, ..Rows::sparse(2) },
        ] {
            assert_certified(Host::new(), kind, Flags::default(), &rows.blocks(3), Some(0.01), 1e-6);
        }
    }
}

#[test]
fn a_handful_of_rows_is_learnt_like_any_others() {
    for seed in 0..40 {
        let shape = Rows { rows: 5 + seed as usize % 5, features: 8, nonzeros: 2, ..Rows::sparse(seed) };
        for one_hot in [false, true] {
            let mut blocks = Rows { one_hot, ..shape }.blocks(1);
            // Both classes.
            (blocks[0].labels[0], blocks[0].labels[1]) = (1.0, -1.0);
            for kind in [Kind::Logistic, Kind::SquaredHinge, Kind::Hinge, Kind::Squared] {
                assert_certified(Host::new(), kind, Flags::default(), &blocks, None, 1e-3);
            }
        }
    }
}

#[test]
fn every_loss_reaches_its_optimum_on_threads_and_slaves() {
    let blocks = Rows { rows: 500, features: 150, ..Rows::sparse(3) }.blocks(8);
    for kind in ALL {
        for (slaves, slots) in [(1, 2), (3, 1), (2, 2)] {
            for flags in [Flags::default(), ALL_JOIN] {
                assert_certified(Host::cluster(slaves, slots), kind, flags, &blocks, Some(0.01), 1e-6);
            }
        }
    }
}

#[test]
fn rows_that_come_in_parts_reach_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 3000, ..Rows::sparse(8) }.blocks(9);
    for kind in ALL {
        for (slaves, slots) in [(1, 1), (1, 2), (3, 1)] {
            let plan = |memory| {
                let common = Common { tolerance: 1e-6, epochs: 3000, worker_memory: memory, ..fixtures::flags() };
                made(kind, &common, Flags::default()).plan().unwrap()
            };
            let run = |plan| Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
            let (parts, whole) = (run(plan(Some(0))), run(plan(None)));
            let weights = |outcome: &Outcome| outcome.table("weights", 0..3000);
            assert_ne!(weights(&parts), weights(&whole), "the rows came in one part");
            assert!(parts.progress.scalars["gap"] <= 1e-6, "{kind:?}: gap {:e}", parts.progress.scalars["gap"]);
            let problem = Problem::new(kind, &blocks, None);
            let (here, there) = (problem.primal(&weights(&parts)), problem.primal(&weights(&whole)));
            assert!((here - there).abs() < 3e-6 * there, "{kind:?}: {here} in parts, {there} as a whole");
        }
    }
}

#[test]
fn joins_that_overlap_wholly_are_shortened_and_still_converge() {
    // Every worker has the same rows: to add their ways would go far beyond.
    let part = Rows { rows: 60, features: 30, ..Rows::sparse(4) }.blocks(1).remove(0);
    let blocks = vec![part; 4];
    for overlap in [Some(0.5), Some(1.0), None, Some(4.0)] {
        let flags = Flags { overlap, joins: Some(2) };
        let outcome = assert_certified(Host::cluster(2, 2), Kind::Logistic, flags, &blocks, Some(0.01), 1e-6);
        assert!(overlap != Some(0.5) || outcome.progress.metric("ascent", "scale").unwrap() < 1.0);
    }
}

/// Rows of length 1, all values positive, some features in nearly all rows and most in few: like those of texts.
fn texts(blocks: usize, rows: usize, features: u32, nonzeros: usize) -> Vec<Block> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let truth: Vec<f32> = (0..features).map(|_| rng.random_range(-1.5..1.5)).collect();
    let mut block = |_| {
        let (mut labels, mut offsets, mut indices, mut values) = (vec![], vec![0], vec![], vec![]);
        for _ in 0..rows {
            let pick = |_| (features as f32 * rng.random_range(0.0..1.0f32).powi(4)) as u32;
            let keys: std::collections::BTreeSet<u32> = (0..nonzeros).map(pick).collect();
            let row: Vec<f32> = keys.iter().map(|_| rng.random_range(0.2..1.2)).collect();
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            let score: f32 = keys.iter().zip(&row).map(|(key, x)| truth[*key as usize] * x / length).sum();
            labels.push(if score + rng.random_range(-0.5..0.5f32) > 0.0 { 1.0f32 } else { -1.0 });
            values.extend(row.iter().map(|x| x / length));
            indices.extend(keys);
            offsets.push(indices.len() as u32);
        }
        Block { labels, offsets, indices, values: Some(values) }
    };
    (0..blocks).map(&mut block).collect()
}

#[test]
fn two_workers_need_few_more_epochs_of_the_hinge_than_one() {
    let blocks = texts(4, 500, 20_000, 100);
    let epochs = |host: Host, joins| {
        let (flags, common) =
            (Flags { joins, ..ALL_JOIN }, Common { epochs: 1000, tolerance: 1e-3, ..fixtures::flags() });
        let job = Svm { common, loss: SvmLoss::Hinge, solver: SvmSolver::Sdca, sdca: flags, ..Svm::default() };
        let outcome = run(host, &job, &blocks);
        assert!(outcome.progress.scalars["gap"] <= job.common.tolerance);
        outcome.epochs.len()
    };
    let [alone, two] = [Host::new(), Host::cluster(1, 2)].map(|host| epochs(host, None));
    let few = epochs(Host::cluster(1, 2), Some(4));
    assert!(two <= 2 * alone && 2 * two <= few, "{alone} alone, {two} of two, {few} with few joins");
}

#[test]
fn one_worker_of_each_slave_goes_alone_where_joins_do_not_pay_and_all_certify() {
    let blocks = texts(4, 500, 20_000, 100);
    for kind in [Kind::Hinge, Kind::SquaredHinge] {
        let ran = |slots, flags| {
            let common = Common { tolerance: 1e-4, epochs: 1000, ..fixtures::flags() };
            let outcome =
                Host::cluster(1, slots).rows(blocks.clone()).run(&made(kind, &common, flags).plan().unwrap()).unwrap();
            let scale = outcome.progress.metric("ascent", "scale").is_ok();
            (outcome.table("weights", 0..20_000), scale, outcome.progress.scalars["gap"])
        };
        let (alone, four) = (ran(1, Flags::default()), ran(4, Flags::default()));
        assert_eq!((alone.1, four.1, ran(4, ALL_JOIN).1), (false, false, true), "only who is not alone joins");
        assert!(alone.0 == four.0 && alone.2 <= 1e-4, "the others' part is the certificate");
    }
}

#[test]
fn rows_that_stay_at_an_end_are_left_out_of_most_sweeps_and_the_optimum_is_the_same() {
    let blocks = Rows { rows: 3000, features: 200, ..Rows::sparse(9) }.blocks(5);
    for kind in ALL {
        let outcome = assert_certified(Host::new(), kind, Flags::default(), &blocks, Some(0.003), 1e-6);
        let [visited, sweeps, swept] =
            ["visited", "sweeps", "swept"].map(|name| outcome.progress.metric("ascent", name).unwrap());
        let sweeps = sweeps - 1.0 + swept;
        let ends = [Kind::Hinge, Kind::SquaredHinge].contains(&kind);
        assert!(visited <= 3000.0, "an epoch has no more steps than rows");
        assert!(
            if ends {
                visited < 0.9 * 3000.0 * sweeps
            } else if swept < 1.0 {
                (visited - 3000.0 * sweeps).abs() < 130.0
            } else {
                visited == 3000.0 * sweeps
            },
            "{kind:?}: {visited} in {sweeps}"
        );
    }
}

#[test]
fn the_default_penalty_and_a_loose_tolerance_give_a_certificate_soon() {
    let blocks = Rows { rows: 2000, features: 200, ..Rows::sparse(5) }.blocks(4);
    let outcome = assert_certified(Host::new(), Kind::Logistic, Flags::default(), &blocks, None, 1e-3);
    assert!(outcome.epochs.len() < 40, "{} epochs", outcome.epochs.len());
    assert!(outcome.stopped.unwrap().contains("duality gap"));
}

#[test]
fn a_job_that_runs_out_of_epochs_ends_with_a_certificate_too() {
    let blocks = Rows::sparse(6).blocks(2);
    let common = Common { tolerance: 0.0, epochs: 3, ..fixtures::flags() };
    let outcome = run(Host::new(), &Lr { common, solver: Solver::Sdca, ..Lr::default() }, &blocks);
    assert_eq!(outcome.epochs.len(), 3);
    assert!(outcome.progress.scalars["gap"] > 0.0 && outcome.progress.objective.is_some());
}

#[test]
fn validation_rows_are_judged_by_the_loss_that_is_learnt() {
    let blocks = Rows { features: 60, ..Rows::sparse(4) }.blocks(4);
    let held_out = Rows { features: 60, ..Rows::sparse(4) }.blocks(4).split_off(2);
    for kind in ALL {
        for bias in [false, true] {
            let validation = vec![path("held-out")];
            let common = Common { tolerance: 1e-3, epochs: 1000, bias, validation, ..fixtures::flags() };
            let plan = made(kind, &common, Flags::default()).plan().unwrap();
            let outcome = Host::cluster(2, 1).rows(blocks.clone()).rows(held_out.clone()).run(&plan).unwrap();
            let problem = Problem::new(kind, &held_out, Some(0.0));
            let offset = if bias { outcome.table("bias", 0..1)[0] } else { 0.0 };
            let expected = Problem { offset, ..problem }.primal(&outcome.table("weights", 0..60));
            let found = outcome.progress.scalars["validation_loss"];
            assert!((found - expected).abs() < 1e-5, "{kind:?}: {found}, not {expected}");
            let last = outcome.epochs.last().unwrap().metrics["validation_loss"];
            assert_eq!(last, found);
        }
    }
}

#[test]
fn patience_keeps_the_epoch_that_did_best_on_validation_rows() {
    let rows = |seed| Rows { rows: 60, nonzeros: 5, ..Rows::sparse(seed) }.blocks(1);
    for bias in [false, true] {
        let run = |patience, epochs| {
            let (lambda, patience, validation) = (Some(1e-4), Some(patience), vec![path("held-out")]);
            let common = Common { lambda, tolerance: 0.0, epochs, patience, bias, validation, ..fixtures::flags() };
            let plan = made(Kind::Logistic, &common, Flags::default()).plan().unwrap();
            Host::new().rows(rows(13)).rows(rows(14)).run(&plan).unwrap()
        };
        let ended = run(2, 100);
        let losses: Vec<_> = ended.epochs.iter().map(|epoch| epoch.metrics["validation_loss"]).collect();
        let best = losses.len() - 2;
        assert!(losses.iter().all(|loss| *loss >= losses[best - 1]), "{losses:?}");
        assert!(ended.stopped.as_ref().unwrap().ends_with(&format!("the model of epoch {best} is kept")));
        let until = run(1000, best as u64);
        for name in ["objective", "gap", "validation_loss", "validation_accuracy", "training_accuracy"] {
            assert_eq!(ended.progress.scalars[name], until.progress.scalars[name], "{name}");
        }
        assert_eq!(ended.progress.objective, until.progress.objective);
        assert_eq!(ended.table("weights", 0..3000), until.table("weights", 0..3000));
        assert!(!bias || ended.table("bias", 0..1) == until.table("bias", 0..1));
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    let blocks = Rows { one_hot: true, ..Rows::sparse(7) }.blocks(6);
    for (slaves, slots) in [(1, 1), (2, 2)] {
        let weights = |seed| {
            let common = Common { epochs: 4, seed, ..fixtures::flags() };
            let job = Lr { common, solver: Solver::Sdca, ..Lr::default() };
            run(Host::cluster(slaves, slots), &job, &blocks).table("weights", 0..60)
        };
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
    }
}

#[test]
fn strange_rows_give_finite_models_or_a_clear_error() {
    use fixtures::block;
    let sets = [
        // Values far apart; the same row with both labels; empty rows.
        block(&[1.0, -1.0, 1.0], &[&[(0, 1e30)], &[(0, 1e30), (1, 1e-30)], &[(1, 1.0)]]),
        block(&[1.0, -1.0, 1.0, -1.0], &[&[(0, 1.0)], &[(0, 1.0)], &[(1, 3.0)], &[(1, 3.0)]]),
        block(&[1.0, -1.0], &[&[], &[]]),
    ];
    for rows in sets {
        for kind in ALL {
            let common = Common { epochs: 20, ..fixtures::flags() };
            let plan = job(kind, common.tolerance)(Flags::default(), Some(0.1)).plan().unwrap();
            match Host::new().rows(vec![rows.clone()]).run(&plan) {
                Ok(outcome) => assert!(outcome.table("weights", 0..2).iter().all(|w| w.is_finite()), "{kind:?}"),
                Err(e) => assert!(e.message.contains("scale the features"), "{e:?}"),
            }
        }
    }
    let one_label = block(&[1.0, 1.0, 1.0], &[&[(0, 1.0)], &[(1, 2.0)], &[(0, 0.5)]]);
    let plan = job(Kind::Hinge, 1e-3)(Flags::default(), None).plan().unwrap();
    let error = Host::new().rows(vec![one_label]).run(&plan).err().unwrap();
    assert!(error.message.contains("no row has the label -1"), "{}", error.message);
}

#[test]
fn what_it_cannot_do_is_refused_in_words() {
    let base = Common { input: vec![path("rows")], ..Common::default() };
    for common in [Common { lambda: Some(0.0), ..base.clone() }, Common { consistency: Model::Asp, ..base.clone() }] {
        let lr = |solver| Lr { common: common.clone(), solver, ..Lr::default() };
        let error = DynJob::plan(&lr(Solver::Sdca)).err().unwrap();
        assert!(error.message.contains("sdca"), "{}", error.message);
        // What it can't do goes to the other solver when the choice is free.
        assert!(
            DynJob::plan(&lr(Solver::Auto))
                .unwrap()
                .stages()
                .iter()
                .any(|s| ["train", "gradient"].contains(&s.name.as_str()))
        );
    }
    let free = Lr { common: base, ..Lr::default() };
    let mut plan = Plan::default();
    Job::plan(&free, &mut plan).unwrap();
    assert!(plan.stages().iter().any(|s| s.name == "ascent"));
}
