//! What the solvers on weights promise, on the one-thread host. The oracle is proximal gradient descent with momentum
//! and restarts, in f64, which shares no formula with the jobs.

use super::flags::{ClassWeights, Flags, Kind as Norm};
use crate::fixtures::{self, Rows};
use crate::flags::Common;
use crate::lasso::{self, Lasso};
use crate::lr::{self, Lr};
use crate::svm::{self, Svm};
use flexps_common::Result;
use flexps_common::data::{Block, Labels};
use flexps_common::host::{Host, Outcome};
use flexps_common::job::DynJob;

mod alike;
mod path;
mod start;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    Logistic,
    SquaredHinge,
    Squared,
}

const ALL: [Loss; 3] = [Loss::Logistic, Loss::SquaredHinge, Loss::Squared];

/// A problem, and its rows as (target, weight, features).
struct Problem {
    loss: Loss,
    l1: f64,
    l2: f64,
    bias: bool,
    features: usize,
    rows: Vec<(f64, f64, Entries)>,
}

/// Features and values.
type Entries = Vec<(usize, f64)>;

impl Problem {
    fn new(loss: Loss, blocks: &[Block], l1: f64, l2: f64, bias: bool) -> Self {
        let mut rows = Vec::new();
        for row in blocks.iter().flat_map(|b| (0..b.rows()).map(|i| b.row(i))) {
            let value = |at: usize| row.values.map_or(1.0, |v| f64::from(v[at]));
            let entries = row.indices.iter().enumerate().map(|(at, k)| (*k as usize, value(at))).collect();
            rows.push((f64::from(row.label), 1.0, entries));
        }
        let features = flexps_common::host::facts(blocks, 0).features as usize;
        Self { loss, l1, l2, bias, features, rows }
    }

    fn loss(&self, y: f64, z: f64) -> (f64, f64) {
        match self.loss {
            Loss::Logistic => {
                let m = y * z;
                let loss = if m > 0.0 { (-m).exp().ln_1p() } else { -m + m.exp().ln_1p() };
                (loss, -y / (1.0 + m.exp()))
            }
            Loss::SquaredHinge => {
                let short = (1.0 - y * z).max(0.0);
                (short * short, -2.0 * y * short)
            }
            Loss::Squared => ((z - y) * (z - y) / 2.0, z - y),
        }
    }

    /// The smooth part and its gradient; the intercept is last.
    fn smooth(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let n = self.rows.len() as f64;
        let (mut sum, mut gradient) = (0.0, vec![0.0; self.features + 1]);
        for (y, weight, row) in &self.rows {
            let z = w[self.features] + row.iter().map(|(k, v)| w[*k] * v).sum::<f64>();
            let (loss, slope) = self.loss(*y, z);
            sum += weight * loss / n;
            row.iter().for_each(|(k, v)| gradient[*k] += weight * slope * v / n);
            gradient[self.features] += if self.bias { weight * slope / n } else { 0.0 };
        }
        for j in 0..self.features {
            sum += self.l2 / 2.0 * w[j] * w[j];
            gradient[j] += self.l2 * w[j];
        }
        (sum, gradient)
    }

    fn objective(&self, w: &[f64]) -> f64 {
        self.smooth(w).0 + self.l1 * w[..self.features].iter().map(|w| w.abs()).sum::<f64>()
    }

    fn optimum(&self) -> f64 {
        let mut w = vec![0.0; self.features + 1];
        let (mut ahead, mut best, mut t, mut step) = (w.clone(), self.objective(&w), 1.0f64, 1.0);
        let mut idle = 0;
        for _ in 0..60_000 {
            let (f, g) = self.smooth(&ahead);
            let next = loop {
                let mut next: Vec<f64> = ahead.iter().zip(&g).map(|(w, g)| w - step * g).collect();
                for w in &mut next[..self.features] {
                    *w = w.signum() * (w.abs() - step * self.l1).max(0.0);
                }
                let moved: f64 = next.iter().zip(&ahead).map(|(a, b)| (a - b) * (a - b)).sum();
                let along: f64 = next.iter().zip(&ahead).zip(&g).map(|((a, b), g)| (a - b) * g).sum();
                if self.smooth(&next).0 <= f + along + moved / (2.0 * step) + 1e-15 {
                    break next;
                }
                step /= 2.0;
            };
            let value = self.objective(&next);
            if value >= best {
                t = 1.0;
                ahead.clone_from(&w);
                idle += 1;
                if idle > 30 {
                    break;
                }
                continue;
            }
            idle = if best - value < 1e-14 * best { idle + 1 } else { 0 };
            best = value;
            let after = (1.0 + (1.0 + 4.0 * t * t).sqrt()) / 2.0;
            ahead = next.iter().zip(&w).map(|(new, old)| new + (t - 1.0) / after * (new - old)).collect();
            (w, t) = (next, after);
        }
        best
    }
}

fn job(loss: Loss, norm: Norm, common: Common, flags: Flags) -> Box<dyn DynJob> {
    match loss {
        Loss::Logistic => {
            Box::new(Lr { common, solver: lr::Solver::Newton, penalty: norm, primal: flags, ..Lr::default() })
        }
        Loss::SquaredHinge => {
            Box::new(Svm { common, solver: svm::Solver::Newton, penalty: norm, primal: flags, ..Svm::default() })
        }
        Loss::Squared => {
            let penalty = match norm {
                Norm::L1 => lasso::Penalty::L1,
                Norm::L2 => lasso::Penalty::L2,
                Norm::ElasticNet => lasso::Penalty::ElasticNet,
            };
            Box::new(Lasso { common, penalty, primal: flags, threads: None })
        }
    }
}

fn run(host: Host, job: &dyn DynJob, blocks: &[Block]) -> Result<Outcome> {
    host.rows(blocks.to_vec()).run(&job.plan()?)
}

fn model(outcome: &Outcome, features: usize, bias: bool) -> Vec<f64> {
    let mut w = outcome.table("weights", 0..features as u32);
    w.push(if bias { outcome.table("bias", 0..1)[0] } else { 0.0 });
    w
}

/// Demands that the job came within its tolerance, that its gap bounds the distance, and that what it reports is true.
#[track_caller]
fn assert_certified(outcome: &Outcome, problem: &Problem, tolerance: f64, least: f64) {
    let reached = problem.objective(&model(outcome, problem.features, problem.bias));
    let (reported, gap) = (outcome.progress.objective.unwrap(), outcome.progress.scalars["gap"]);
    let what = format!("{:?} l1 {} l2 {} bias {}", problem.loss, problem.l1, problem.l2, problem.bias);
    assert!((reported - reached).abs() < 1e-6 * reached, "{what}: reported {reported}, is {reached}");
    assert!(gap <= tolerance, "{what}: gap {gap:e}, {:?}", outcome.stopped);
    let above = (reported - least) / reported;
    assert!(above <= gap + 1e-10, "{what}: {above:e} above the optimum with a gap of {gap:e}");
    assert!(above >= -1e-10, "{what}: {above:e} below what the oracle found");
}

const HOSTS: [(usize, usize); 4] = [(1, 1), (1, 2), (3, 1), (2, 2)];

#[test]
fn every_loss_and_penalty_reaches_its_optimum_alone_on_threads_and_on_slaves() {
    let sets = [
        Rows { rows: 300, features: 50, ..Rows::sparse(1) },
        Rows { rows: 240, features: 48, nonzeros: 12, one_hot: true, ..Rows::sparse(2) },
        // More features than a matrix would pay for.
        Rows { rows: 150, features: 250, ..Rows::sparse(2) },
    ];
    for rows in sets {
        let blocks = rows.blocks(8);
        for loss in ALL {
            for (norm, l1, l2) in [(Norm::L1, 0.01, 0.0), (Norm::ElasticNet, 0.005, 0.005), (Norm::L2, 0.0, 0.01)] {
                for bias in [false, true] {
                    let common = Common { tolerance: 1e-6, epochs: 100, lambda: Some(0.01), bias, ..fixtures::flags() };
                    let problem = Problem::new(loss, &blocks, l1, l2, bias);
                    let least = problem.optimum();
                    for (slaves, slots) in HOSTS {
                        let job = job(loss, norm, common.clone(), Flags::default());
                        let outcome = run(Host::cluster(slaves, slots), &*job, &blocks).unwrap();
                        assert_certified(&outcome, &problem, 1e-6, least);
                        let products = outcome.stages.iter().any(|(name, _)| name == "product");
                        assert_eq!(products, norm == Norm::L2 && rows.features == 250);
                    }
                }
            }
        }
    }
}

#[test]
fn a_weak_penalty_on_few_rows_of_many_features_is_certified_too() {
    // Which rows are flat changes with every step.
    let blocks = Rows { rows: 80, features: 300, nonzeros: 20, one_hot: true, ..Rows::sparse(5) }.blocks(3);
    for loss in ALL {
        for bias in [false, true] {
            let common = Common { tolerance: 1e-6, epochs: 60, lambda: Some(1e-4), bias, ..fixtures::flags() };
            let outcome = run(Host::cluster(1, 2), &*job(loss, Norm::L2, common, Flags::default()), &blocks).unwrap();
            assert!(outcome.progress.scalars["gap"] <= 1e-6, "{loss:?}, bias {bias}: {:?}", outcome.stopped);
            assert!(outcome.stages.iter().any(|(name, _)| name == "product"));
        }
    }
}

#[test]
fn rows_that_come_in_parts_reach_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 3000, ..Rows::sparse(8) }.blocks(9);
    for (norm, l1, l2) in [(Norm::L1, 0.002, 0.0), (Norm::L2, 0.0, 0.002)] {
        let problem = Problem::new(Loss::Logistic, &blocks, l1, l2, true);
        let least = problem.optimum();
        for (slaves, slots) in [(1, 1), (2, 2)] {
            let common = Common {
                tolerance: 1e-6,
                lambda: Some(0.002),
                bias: true,
                worker_memory: Some(0),
                ..fixtures::flags()
            };
            let job = job(Loss::Logistic, norm, common, Flags::default());
            assert_certified(&run(Host::cluster(slaves, slots), &*job, &blocks).unwrap(), &problem, 1e-6, least);
        }
    }
}

#[test]
fn features_that_few_rows_have_reach_the_same_optimum_on_any_workers() {
    let blocks = Rows { rows: 200, features: 1200, nonzeros: 12, ..Rows::sparse(5) }.blocks(8);
    let problem = Problem::new(Loss::Logistic, &blocks, 1e-3, 0.0, false);
    let least = problem.optimum();
    for (slaves, slots) in HOSTS {
        let common = Common { tolerance: 1e-6, epochs: 300, lambda: Some(1e-3), ..fixtures::flags() };
        let job = job(Loss::Logistic, Norm::L1, common, Flags::default());
        assert_certified(&run(Host::cluster(slaves, slots), &*job, &blocks).unwrap(), &problem, 1e-6, least);
    }
}

#[test]
fn features_that_no_row_has_change_nothing() {
    let blocks = Rows { features: 80, ..Rows::sparse(6) }.blocks(4);
    let mut spread = blocks.clone();
    spread.iter_mut().flat_map(|block| &mut block.indices).for_each(|key| *key *= 40);
    for (slaves, slots) in HOSTS {
        let run = |blocks: &[Block], apart: usize| {
            let common = Common { tolerance: 1e-8, lambda: Some(0.01), ..fixtures::flags() };
            let job = job(Loss::Logistic, Norm::L1, common, Flags::default());
            let outcome = run(Host::cluster(slaves, slots), &*job, blocks).unwrap();
            let weights: Vec<f64> = model(&outcome, 80 * apart, false).into_iter().step_by(apart).take(80).collect();
            (weights, outcome.progress.objective.unwrap(), outcome.progress.scalars["nonzeros"])
        };
        let ((near, objective, nonzeros), (far, other, as_many)) = (run(&blocks, 1), run(&spread, 40));
        assert!((objective - other).abs() < 1e-8 * objective && nonzeros == as_many, "{objective} {other}");
        assert!(near.iter().zip(&far).all(|(a, b)| (a - b).abs() < 1e-3), "{near:?} {far:?}");
    }
}

#[test]
fn a_tolerance_of_1e_10_is_reached_when_asked_for() {
    let blocks = Rows::sparse(3).blocks(4);
    for (norm, l1, l2) in [(Norm::L1, 0.01, 0.0), (Norm::L2, 0.0, 0.01)] {
        let problem = Problem::new(Loss::Logistic, &blocks, l1, l2, false);
        let common = Common { tolerance: 1e-10, lambda: Some(0.01), ..fixtures::flags() };
        let outcome = run(Host::new(), &*job(Loss::Logistic, norm, common, Flags::default()), &blocks).unwrap();
        assert_certified(&outcome, &problem, 1e-10, problem.optimum());
    }
}

#[test]
fn classes_count_as_much_as_they_are_given() {
    let blocks = Rows { features: 50, ..Rows::sparse(5) }.blocks(3);
    let rows: Vec<f32> = blocks.iter().flat_map(|b| b.labels.iter().copied()).collect();
    let positives = rows.iter().filter(|l| **l > 0.0).count() as f64;
    let n = rows.len() as f64;
    let balanced = [n / (2.0 * (n - positives)), n / (2.0 * positives)];
    for (weights, [negative, positive]) in [
        (ClassWeights::Balanced, balanced),
        (ClassWeights::Given(vec![(1.0, 5.0)]), [1.0, 5.0]),
        (ClassWeights::Given(vec![(-1.0, 0.5), (1.0, 2.0)]), [0.5, 2.0]),
    ] {
        for (norm, l1, l2) in [(Norm::L1, 0.01, 0.0), (Norm::L2, 0.0, 0.01)] {
            for loss in [Loss::Logistic, Loss::SquaredHinge] {
                let mut problem = Problem::new(loss, &blocks, l1, l2, true);
                for (y, weight, _) in &mut problem.rows {
                    *weight = if *y > 0.0 { positive } else { negative };
                }
                let flags = Flags { class_weight: Some(weights.clone()), ..Flags::default() };
                let common = Common { tolerance: 1e-6, lambda: Some(0.01), bias: true, ..fixtures::flags() };
                let outcome = run(Host::cluster(2, 1), &*job(loss, norm, common, flags), &blocks).unwrap();
                assert_certified(&outcome, &problem, 1e-6, problem.optimum());
            }
        }
    }
}

/// The rows with class numbers 0, 1, 2 by which of three features is largest.
fn three_classes() -> Vec<Block> {
    let mut blocks = Rows { features: 40, rows: 600, ..Rows::sparse(6) }.blocks(4);
    for block in &mut blocks {
        let classes: Vec<f32> = (0..block.rows())
            .map(|i| {
                let row = block.row(i);
                let sum = |third: u32| {
                    let own = row.indices.iter().zip(row.values.unwrap()).filter(|(k, _)| **k % 3 == third);
                    own.map(|(_, v)| *v).sum::<f32>()
                };
                let sums = [sum(0), sum(1), sum(2)];
                (0..3).max_by(|a, b| sums[*a].total_cmp(&sums[*b])).unwrap() as f32
            })
            .collect();
        block.labels = classes;
    }
    blocks
}

#[test]
fn each_of_several_classes_is_learnt_against_the_rest() {
    let blocks = three_classes();
    for (norm, l1, l2) in [(Norm::L1, 0.005, 0.0), (Norm::L2, 0.0, 0.005)] {
        for (slaves, slots) in [(1, 1), (2, 2)] {
            let common = Common { tolerance: 1e-6, lambda: Some(0.005), bias: true, ..fixtures::flags() };
            let job = job(Loss::Logistic, norm, common, Flags::default());
            let outcome = run(Host::cluster(slaves, slots), &*job, &blocks).unwrap();
            assert_eq!(outcome.epochs.len(), 3);
            for class in 0..3u32 {
                let mut problem = Problem::new(Loss::Logistic, &blocks, l1, l2, true);
                problem.rows.iter_mut().for_each(|(y, ..)| *y = if *y == f64::from(class) { 1.0 } else { -1.0 });
                let mut w = outcome.table("weights", 40 * class..40 * (class + 1));
                w.extend(outcome.table("bias", class..class + 1));
                let (reached, least) = (problem.objective(&w), problem.optimum());
                assert!((reached - least) / least < 1e-6, "class {class}: {reached} against {least}");
            }
        }
    }
}

#[test]
fn folds_are_held_out_and_the_model_is_that_of_all_rows() {
    let blocks = three_classes();
    for blocks in [blocks, Rows { features: 50, ..Rows::sparse(7) }.blocks(4)] {
        for norm in [Norm::L1, Norm::L2] {
            let common = Common { tolerance: 1e-6, lambda: Some(0.01), bias: true, ..fixtures::flags() };
            let with = |cv| {
                let flags = Flags { cv, ..Flags::default() };
                [(1, 1), (2, 2)].map(|(slaves, slots)| {
                    let job = job(Loss::Logistic, norm, common.clone(), flags.clone());
                    run(Host::cluster(slaves, slots), &*job, &blocks).unwrap()
                })
            };
            let ([alone, slaves], [plain, _]) = (with(Some(5)), with(None));
            let scalar = |outcome: &Outcome, name: &str| outcome.progress.scalars[name];
            let (loss, accuracy) = (scalar(&alone, "cv_loss"), scalar(&alone, "cv_accuracy"));
            // The same folds and optima on any number of slaves.
            assert!((scalar(&slaves, "cv_loss") - loss).abs() < 1e-3 * loss);
            assert_eq!(scalar(&alone, "cv_rows_0"), blocks.iter().map(Block::rows).sum::<usize>() as f64);
            assert!(accuracy > 0.6 && accuracy <= 1.0, "{accuracy}");
            // Held-out rows are harder than those that were learnt.
            assert!(loss > scalar(&plain, "training_loss") * 0.9);
            let features = plain.progress.scalars["features"] as u32;
            let pairs = alone.table("weights", 0..features).into_iter().zip(plain.table("weights", 0..features));
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-2), "{norm:?}: another model");
        }
    }
}

#[test]
fn a_run_from_a_model_starts_there() {
    let blocks = Rows::sparse(10).blocks(3);
    for norm in [Norm::L1, Norm::L2] {
        let common = Common { tolerance: 1e-6, lambda: Some(0.01), bias: true, ..fixtures::flags() };
        let first = run(Host::new(), &*job(Loss::Logistic, norm, common.clone(), Flags::default()), &blocks).unwrap();
        let to_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let host = Host::new().tensor("m", "weights", to_f32(first.table("weights", 0..60))).tensor(
            "m",
            "bias",
            to_f32(first.table("bias", 0..1)),
        );
        // Of a run of one round the gap is that of where it starts.
        let gap = |outcome: &Outcome| outcome.progress.scalars["gap"];
        let once = Common { epochs: 1, ..common };
        let cold = run(Host::new(), &*job(Loss::Logistic, norm, once.clone(), Flags::default()), &blocks).unwrap();
        let learnt = |outcome: &Outcome| outcome.stages.iter().any(|(name, _)| name == "matrix");
        assert!(learnt(&cold) || gap(&cold) > 0.1, "{:e} from the optimum", gap(&cold));
        let warm = Common { init_model: Some(fixtures::path("m")), ..once };
        let warm = run(host, &*job(Loss::Logistic, norm, warm, Flags::default()), &blocks).unwrap();
        assert!(!learnt(&warm) && gap(&warm) < 5e-3 && gap(&first) <= 1e-6, "{:e} from the optimum", gap(&warm));
    }
}

#[test]
fn without_a_penalty_the_optimum_is_found_where_there_is_one() {
    let blocks = Rows { rows: 2000, features: 30, ..Rows::sparse(11) }.blocks(3);
    for loss in ALL {
        let common = Common { tolerance: 1e-6, lambda: Some(0.0), bias: true, ..fixtures::flags() };
        let outcome = run(Host::cluster(2, 1), &*job(loss, Norm::L2, common, Flags::default()), &blocks).unwrap();
        let problem = Problem::new(loss, &blocks, 0.0, 0.0, true);
        let (reached, least) = (problem.objective(&model(&outcome, 30, true)), problem.optimum());
        assert!((reached - least) / least < 1e-6, "{loss:?}: {reached} against {least}");
    }
    let block = |labels: &[f32]| Block {
        labels: labels.into(),
        offsets: (0..=labels.len() as u32).collect(),
        indices: (0..labels.len() as u32).collect(),
        values: None,
    };
    let common = Common { lambda: Some(0.0), ..fixtures::flags() };
    let job = job(Loss::Logistic, Norm::L2, common, Flags::default());
    let error = run(Host::new(), &*job, &[block(&[1.0, -1.0])]).unwrap_err();
    assert!(error.message.contains("separable") && error.message.contains("--lambda"), "{}", error.message);
}

#[test]
fn strange_rows_give_finite_models_or_a_clear_error() {
    use fixtures::block;
    let sets = [
        // Values far apart; a constant feature; the same row with both labels; empty rows.
        block(&[1.0, -1.0, 1.0], &[&[(0, 1e30)], &[(0, 1e30), (1, 1e-30)], &[(1, 1.0)]]),
        block(&[1.0, -1.0, 1.0], &[&[(0, 5.0), (1, 1.0)], &[(0, 5.0)], &[(0, 5.0), (1, 2.0)]]),
        block(&[1.0, -1.0, 1.0, -1.0], &[&[(0, 1.0)], &[(0, 1.0)], &[(1, 3.0)], &[(1, 3.0)]]),
        block(&[1.0, -1.0], &[&[], &[]]),
    ];
    for rows in sets {
        for loss in ALL {
            for norm in [Norm::L1, Norm::L2, Norm::ElasticNet] {
                for bias in [false, true] {
                    let common = Common { epochs: 20, lambda: Some(0.1), bias, ..fixtures::flags() };
                    match run(Host::new(), &*job(loss, norm, common, Flags::default()), std::slice::from_ref(&rows)) {
                        Ok(outcome) => {
                            let finite = model(&outcome, 2, bias).iter().all(|w| w.is_finite());
                            assert!(finite, "{loss:?} {norm:?}");
                        }
                        Err(e) => assert!(e.message.contains("scale the features"), "{e:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn what_they_cannot_do_is_refused_in_words() {
    let blocks = Rows::sparse(12).blocks(1);
    let refused = |norm, common: Common, flags, words: &str| {
        let error = run(Host::new(), &*job(Loss::Logistic, norm, common, flags), &blocks).unwrap_err();
        assert!(error.message.contains(words), "{} lacks {words}", error.message);
    };
    let base = Common { lambda: Some(0.01), ..fixtures::flags() };
    let flags = Flags::default();
    refused(Norm::L2, base.clone(), Flags { path: Some(5), ..flags.clone() }, "--path needs an L1 penalty");
    refused(Norm::L2, base.clone(), Flags { l1_ratio: Some(0.5), ..flags.clone() }, "--penalty elastic-net");
    refused(Norm::L1, Common { lambda: Some(0.0), ..base.clone() }, flags.clone(), "--lambda 0");
    refused(
        Norm::L1,
        Common { lambda: Some(1e9), ..base.clone() },
        Flags { path: Some(5), ..flags.clone() },
        "give less",
    );
    refused(Norm::L2, base.clone(), Flags { cv: Some(401), ..flags.clone() }, "401 folds");
    let patient = Common { patience: Some(2), ..base.clone() };
    let error = run(Host::new(), &*job(Loss::Logistic, Norm::L1, patient, flags.clone()), &blocks).unwrap_err();
    assert_eq!(error.message, "this solver judges by validation rows at the end alone: leave --patience out");
    let weights = ClassWeights::Given(vec![(7.0, 2.0)]);
    refused(Norm::L2, base, Flags { class_weight: Some(weights), ..flags }, "the label 7");
    for text in ["", "1", "1=0", "1=-2", "1=nan", "a=1", "even"] {
        assert!(text.parse::<ClassWeights>().is_err(), "{text}");
    }
    let given: ClassWeights = "-1=1,1=20".parse().unwrap();
    assert_eq!(given.to_string(), "-1=1,1=20");
    let only_two = given.of(&Labels::two(-1.0, 1.0), &[3.0, 1.0]).unwrap();
    assert_eq!(only_two, [1.0, 20.0]);
}
