//! Intercepts, weighted classes, several classes, starts from a model: against the same bound, the best intercept being
//! found by golden section.

use super::*;
use crate::primal::flags::{self, ClassWeights};
use flexps_common::data::block;
use proptest::prelude::*;

impl Problem {
    pub(super) fn weighted(mut self, negative: f64, positive: f64) -> Self {
        self.rows.iter_mut().for_each(|(y, counts, _)| *counts = if *y > 0.0 { positive } else { negative });
        self
    }

    pub(super) fn at(&self, offset: f64) -> Self {
        Self { offset, rows: self.rows.clone(), ..*self }
    }

    /// The least bound over all intercepts.
    pub(super) fn bound_with_bias(&self) -> f64 {
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (-6.0, 6.0);
        let place = |low: f64, high: f64, part: f64| low + part * (high - low);
        let value = |at: f64| self.at(at).bound();
        let (mut left, mut right) = (value(place(low, high, 1.0 - golden)), value(place(low, high, golden)));
        for _ in 0..26 {
            if left < right {
                (high, right) = (place(low, high, golden), left);
                left = value(place(low, high, 1.0 - golden));
            } else {
                (low, left) = (place(low, high, 1.0 - golden), right);
                right = value(place(low, high, golden));
            }
        }
        left.min(right)
    }
}

/// A job with an intercept and class weights, if they are asked for.
fn variant(kind: Kind, common: Common, weights: Option<[f64; 2]>) -> Box<dyn DynJob> {
    let given = |[negative, positive]: [f64; 2]| ClassWeights::Given(vec![(-1.0, negative), (1.0, positive)]);
    let primal = flags::Flags { class_weight: weights.map(given), ..flags::Flags::default() };
    let svm = |loss| -> Box<dyn DynJob> {
        let (common, primal) = (common.clone(), primal.clone());
        Box::new(Svm { common, loss, solver: crate::svm::Solver::Sdca, primal, ..Svm::default() })
    };
    match kind {
        Kind::Logistic => {
            let (common, primal) = (common.clone(), primal.clone());
            Box::new(Lr { common, solver: Solver::Sdca, primal, ..Lr::default() })
        }
        Kind::Hinge => svm(SvmLoss::Hinge),
        Kind::SquaredHinge => svm(SvmLoss::SquaredHinge),
        Kind::Squared => svm(SvmLoss::Squared),
    }
}

/// Rows of which about a fifth is positive.
fn uneven(seed: u64) -> Vec<Block> {
    let mut blocks = Rows { rows: 150, features: 20, nonzeros: 5, ..Rows::sparse(seed) }.blocks(6);
    for block in &mut blocks {
        let labels = block.labels.iter().enumerate().map(|(i, y)| if i % 3 == 0 { *y } else { -1.0 });
        block.labels = labels.collect();
    }
    blocks
}

/// P at the model of `outcome`, and the gap that was reported, as a part of it.
pub(super) fn reached(problem: &Problem, outcome: &Outcome, bias: bool) -> (f64, f64) {
    let offset = if bias { outcome.table("bias", 0..1)[0] } else { 0.0 };
    let reached = problem.at(offset).primal(&outcome.table("weights", 0..problem.features as u32));
    (reached, outcome.progress.scalars["gap"])
}

#[test]
fn an_intercept_that_is_not_penalised_and_weighted_classes_reach_the_optimum_under_a_certificate() {
    let blocks = uneven(21);
    for kind in ALL {
        for (bias, weights) in [(true, None), (false, Some([0.5, 4.0])), (true, Some([1.0, 6.0]))] {
            let mut problem = Problem::new(kind, &blocks, Some(0.02));
            if let Some([negative, positive]) = weights {
                problem = problem.weighted(negative, positive);
            }
            let bound = if bias { problem.bound_with_bias() } else { problem.bound() };
            for (slaves, slots) in [(1, 1), (1, 2), (3, 1), (2, 2)] {
                let common = Common { tolerance: 1e-6, lambda: Some(0.02), epochs: 3000, bias, ..fixtures::flags() };
                let plan = variant(kind, common, weights).plan().unwrap();
                let outcome = Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
                let (reached, gap) = reached(&problem, &outcome, bias);
                let reported = outcome.progress.objective.unwrap();
                let case = format!("{kind:?} bias {bias} weights {weights:?} on {slaves} x {slots}");
                assert!((reported - reached).abs() < 1e-6 * reached, "{case}: reported {reported}, is {reached}");
                assert!(gap <= 1e-6, "{case}: gap {gap:e} after {} epochs", outcome.epochs.len());
                let above = (reached - bound) / reached;
                assert!(above <= gap + 3e-7, "{case}: {above:e} above the optimum with a gap of {gap:e}");
            }
        }
    }
}

#[test]
fn rows_in_parts_learn_an_intercept_too() {
    let blocks = Rows { rows: 800, features: 3000, ..Rows::sparse(8) }.blocks(9);
    for (slaves, slots) in [(1, 1), (3, 1)] {
        let objective = |memory| {
            let common =
                Common { tolerance: 1e-6, epochs: 3000, bias: true, worker_memory: memory, ..fixtures::flags() };
            let plan = variant(Kind::Logistic, common, None).plan().unwrap();
            let outcome = Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
            assert!(outcome.progress.scalars["gap"] <= 1e-6, "{:e}", outcome.progress.scalars["gap"]);
            reached(&Problem::new(Kind::Logistic, &blocks, None), &outcome, true).0
        };
        let (parts, whole) = (objective(Some(0)), objective(None));
        assert!((parts - whole).abs() < 3e-6 * whole, "{parts} in parts, {whole} as a whole");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Wherever training stops, the gap that it reports is no smaller than the distance from the optimum.
    #[test]
    fn the_gap_bounds_the_distance_at_every_end(
        seed in 0..1000u64,
        kind in prop::sample::select(&ALL[..]),
        epochs in 1..8u64,
        lambda in prop::sample::select(vec![0.3, 0.03, 0.003]),
        weights in prop::sample::select(vec![None, Some([1.0, 5.0]), Some([2.0, 0.3])]),
        bias: bool,
        (slaves, slots) in prop::sample::select(vec![(1, 1), (1, 2), (2, 1)]),
    ) {
        let blocks = uneven(seed);
        let common = Common { tolerance: 0.0, lambda: Some(lambda), epochs, bias, ..fixtures::flags() };
        let plan = variant(kind, common, weights).plan().unwrap();
        let outcome = Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
        let mut problem = Problem::new(kind, &blocks, Some(lambda));
        if let Some([negative, positive]) = weights {
            problem = problem.weighted(negative, positive);
        }
        let (reached, gap) = reached(&problem, &outcome, bias);
        // No weights at all do better than the optimum: what is best at this intercept is above it.
        let offset = if bias { outcome.table("bias", 0..1)[0] } else { 0.0 };
        let mut bound = problem.at(offset).bound();
        if bias {
            for near in [-2.0, -1.0, -0.5, -0.2, 0.2, 0.5, 1.0, 2.0] {
                bound = bound.min(problem.at(offset + near).bound());
            }
        }
        prop_assert!(reached - bound <= gap * reached + 1e-6 * reached, "{} above, gap {}", reached - bound, gap * reached);
    }
}

/// The rows with class numbers 0, 1, 2 by which of three features' sums is largest.
pub(super) fn three_classes() -> Vec<Block> {
    let mut blocks = Rows { features: 30, rows: 500, ..Rows::sparse(22) }.blocks(4);
    for block in &mut blocks {
        let sum = |row: &block::Row<'_>, third: u32| {
            let all = row.indices.iter().zip(row.values.unwrap());
            all.filter(|(k, _)| **k % 3 == third).map(|(_, v)| *v).sum::<f32>()
        };
        let class = |row: block::Row<'_>| (0..3).max_by(|a, b| sum(&row, *a).total_cmp(&sum(&row, *b))).unwrap() as f32;
        block.labels = (0..block.rows()).map(|i| class(block.row(i))).collect();
    }
    blocks
}

#[test]
fn each_of_several_classes_is_learnt_against_the_rest() {
    let blocks = three_classes();
    for (kind, bias, slaves, slots) in [(Kind::Logistic, true, 1, 1), (Kind::Hinge, false, 2, 2)] {
        let common = Common { tolerance: 1e-6, lambda: Some(0.02), epochs: 3000, bias, ..fixtures::flags() };
        let plan = variant(kind, common, None).plan().unwrap();
        let outcome = Host::cluster(slaves, slots).rows(blocks.clone()).run(&plan).unwrap();
        let mut sum = 0.0;
        for class in 0..3u32 {
            let mut problem = Problem::new(kind, &blocks, Some(0.02));
            problem.rows.iter_mut().for_each(|(y, ..)| *y = if *y == f64::from(class) { 1.0 } else { -1.0 });
            let offset = if bias { outcome.table("bias", class..class + 1)[0] } else { 0.0 };
            let reached = problem.at(offset).primal(&outcome.table("weights", 30 * class..30 * (class + 1)));
            let bound = if bias { problem.bound_with_bias() } else { problem.bound() };
            assert!((reached - bound) / reached < 1.5e-6, "{kind:?} class {class}: {reached} against {bound}");
            sum += reached;
        }
        assert!((outcome.progress.objective.unwrap() - sum).abs() < 1e-6 * sum);
        assert!(outcome.stopped.unwrap().contains("3 classes"));
    }
}

#[test]
fn a_run_from_a_model_needs_fewer_epochs_and_starts_no_lower_than_from_zeros() {
    let blocks = Rows { rows: 2000, features: 100, ..Rows::sparse(23) }.blocks(4);
    for kind in ALL {
        for bias in [false, true] {
            let common = Common { tolerance: 1e-4, lambda: Some(0.002), epochs: 500, bias, ..fixtures::flags() };
            let exact = Common { tolerance: 1e-7, ..common.clone() };
            let run = |common: &Common, model: Option<(Vec<f32>, Vec<f32>)>| {
                let mut host = Host::cluster(1, 2).rows(blocks.clone());
                let init_model = model.as_ref().map(|_| path("m"));
                if let Some((weights, intercept)) = model {
                    host = host.tensor("m", "weights", weights).tensor("m", "bias", intercept);
                }
                let plan = variant(kind, Common { init_model, ..common.clone() }, None).plan().unwrap();
                host.run(&plan).unwrap()
            };
            let to_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
            let (best, cold) = (run(&exact, None), run(&common, None));
            let model = |outcome: &Outcome| {
                let intercept = if bias { outcome.table("bias", 0..1) } else { vec![0.0] };
                (to_f32(outcome.table("weights", 0..100)), to_f32(intercept))
            };
            let warm = run(&common, Some(model(&best)));
            let (from_model, from_zeros) = (warm.epochs.len(), cold.epochs.len());
            let case = format!("{kind:?} bias {bias}: {from_model} epochs, {from_zeros} from zeros");
            assert!(warm.progress.scalars["gap"] <= 1e-4 && cold.progress.scalars["gap"] <= 1e-4, "{case}");
            // Of the hinge many rows lie at the kink, where margins tell nothing of dual variables.
            assert!(from_model < from_zeros || kind == Kind::Hinge && from_model <= 2 * from_zeros, "{case}");
            // A model that is far off costs no more than zeros do.
            let wild = run(&common, Some((vec![50.0; 100], vec![3.0])));
            assert!(wild.progress.scalars["gap"] <= 1e-4 && wild.epochs.len() <= 2 * from_zeros + 2, "{case}");
        }
    }
}

#[test]
fn what_goes_with_two_classes_alone_is_refused_for_more() {
    let common = Common { init_model: Some(path("m")), ..fixtures::flags() };
    let plan = variant(Kind::Logistic, common, None).plan().unwrap();
    let error = Host::new().rows(three_classes()).run(&plan).err().unwrap();
    assert!(error.message.contains("--init-model") && error.message.contains("have 3"), "{}", error.message);
}

#[test]
fn joins_know_how_far_an_intercept_pulls() {
    let blocks = uneven(23);
    // With the pull to the centre in the line search, but not what margins owe the centre, 108 and 208.
    for (slots, most) in [(2, 100), (4, 130)] {
        let common = Common { tolerance: 1e-6, lambda: Some(0.002), epochs: 3000, bias: true, ..fixtures::flags() };
        let plan = made(Kind::Logistic, &common, ALL_JOIN).plan().unwrap();
        let outcome = Host::cluster(1, slots).rows(blocks.clone()).run(&plan).unwrap();
        let (gap, epochs) = (outcome.progress.scalars["gap"], outcome.epochs.len());
        assert!(gap <= 1e-6 && epochs <= most, "{slots} workers: a gap of {gap:e} after {epochs} epochs");
    }
}

#[test]
fn what_many_rows_add_to_a_far_larger_weight_is_in_the_certificate() {
    // Few rows that count much make a weight, of which each other one takes less than single precision holds.
    assert_holds(100, 166_667.0, 18.0, 1e-4);
    // Here each step has seven bits and more, but all lose the same.
    assert_holds(500, 1.0, 0.3, 1e-7);
}

/// That gaps hold of very many rows of one feature, so `few` of them with another label and this weight.
fn assert_holds(few: usize, counts: f64, lambda: f64, tolerance: f64) {
    const ROWS: usize = 500_000;
    let label = |i: usize| if i % (ROWS / few) == 7 { 1.0 } else { -1.0 };
    let of_block = |first: usize| Block {
        labels: (first..first + ROWS / 50).map(label).collect(),
        offsets: (0..=ROWS as u32 / 50).collect(),
        indices: vec![0; ROWS / 50],
        values: None,
    };
    let blocks: Vec<Block> = (0..50).map(|i| of_block(i * ROWS / 50)).collect();
    let primal = |w: f64| {
        let losses = few as f64 * counts * loss(Kind::Logistic, w) + (ROWS - few) as f64 * loss(Kind::Logistic, -w);
        losses / ROWS as f64 + lambda / 2.0 * w * w
    };
    let (mut low, mut high) = (-10.0, 2.0);
    for _ in 0..200 {
        let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if primal(left) < primal(right) { high = right } else { low = left }
    }
    let least = primal(low);
    for slots in [1, 2] {
        let common = Common { tolerance, lambda: Some(lambda), ..fixtures::flags() };
        let by = (counts != 1.0).then_some([1.0, counts]);
        let plan = variant(Kind::Logistic, common, by).plan().unwrap();
        let outcome = Host::cluster(1, slots).rows(blocks.clone()).run(&plan).unwrap();
        let above = primal(outcome.table("weights", 0..1)[0]) / least - 1.0;
        let gap = outcome.progress.scalars["gap"];
        assert!(gap <= tolerance && above <= gap + 1e-4 * tolerance, "{slots}: {above:e} above, a gap of {gap:e}");
    }
}
