//! What the choice of a solver promises: what was measured on real sets, and what becomes of a choice that was wrong.

use super::*;
use crate::fixtures::{self, Rows, assert_reaches};
use crate::flags::Common;
use crate::lr::{Lr, Solver};
use flexps_common::data::{Block, Labels};
use flexps_common::host::Host;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn case(rows: u64, features: u64, nonzeros: u64, k: f64, tolerance: f64) -> Case {
    let facts = Facts { rows, features, nonzeros, sum_norm2: k * rows as f64, ..Facts::default() };
    let lambda = 1.0 / rows as f64;
    Case {
        facts,
        loss: Kind::Logistic,
        lambda,
        tolerance,
        threads: 2.0,
        slaves: 1.0,
        memory: 40 << 20,
        epochs: 100.0,
        starts: false,
        folds: 0,
    }
}

fn chosen(case: &Case) -> f64 {
    let mut progress = Progress::default();
    choose(&mut progress, case);
    progress.scalar("solver", 0.0)
}

/// The same, and whether it is but tried.
fn tried(case: &Case) -> (f64, f64) {
    let mut progress = Progress::default();
    choose(&mut progress, case);
    (progress.scalar("solver", 0.0), progress.scalar(pace::TRIED, 0.0))
}

#[test]
fn the_choice_is_the_faster_solver_of_each_measured_set() {
    for (rows, features, nonzeros, k, tolerance, wanted) in [
        (4000, 500_000, 6_000_000, 1.0, 1e-3, SDCA),
        (4000, 500_000, 6_000_000, 1.0, 1e-6, SDCA),
        (20_000, 500_000, 30_000_000, 1.0, 1e-3, SDCA),
        (2_000_000, 1_000_000, 22_000_000, 11.0, 1e-3, SDCA),
        (2_000_000, 1_000_000, 22_000_000, 88.0, 1e-3, SDCA),
        (300_000, 1_000_000, 3_300_000, 11.0, 1e-6, SDCA),
        (200_000, 100_000, 8_000_000, 1.0, 1e-3, SDCA),
        (200_000, 100_000, 8_000_000, 1.0, 1e-6, SDCA),
        (50_000, 100_000, 2_000_000, 1.0, 1e-3, SDCA),
        (32_561, 123, 451_592, 13.9, 1e-3, NEWTON),
        (32_561, 123, 451_592, 13.9, 1e-6, NEWTON),
        (4143, 54_877, 817_141, 197.0, 1e-3, SDCA),
        (4143, 54_877, 817_141, 197.0, 1e-6, SDCA),
        (4836, 16_777_216, 5_469_839, 1.0, 1e-3, SDCA),
        (4836, 16_777_216, 5_469_839, 1.0, 1e-6, SDCA),
        (569, 30, 17_070, 1.68e6, 1e-3, NEWTON),
        // There is hardly anything to do: what is sure comes first.
        (1000, 119, 13_900, 13.9, 1e-4, NEWTON),
        (8, 5, 20, 1.0, 1e-4, NEWTON),
        (60, 443, 118, 1310.0, 1e-3, NEWTON),
    ] {
        let case = case(rows, features, nonzeros, k, tolerance);
        assert_eq!(chosen(&case), wanted, "{rows} x {features} at {tolerance}: {} {}", case.sdca(), case.newton());
    }
    let warm = Case { starts: true, ..case(50_000, 20_000, 1_400_000, 28.0, 1e-5) };
    assert_eq!(chosen(&warm), NEWTON, "{} {}", warm.sdca(), warm.newton());
    assert_eq!(chosen(&Case { starts: false, ..warm }), SDCA);
    // Of several classes the ascent starts from no model.
    let mut classes = case(50_000, 100_000, 2_000_000, 1.0, 1e-3);
    classes.facts.labels = Labels::classes(vec![0.0, 1.0, 2.0]);
    assert_eq!(chosen(&classes), SDCA);
    assert_eq!(chosen(&Case { starts: true, ..classes }), NEWTON);
    let one = Case { threads: 1.0, ..case(32_561, 123, 451_592, 13.9, 1e-3) };
    assert_eq!(chosen(&one), NEWTON, "{} {}", one.sdca(), one.newton());
    for tolerance in [1e-3, 1e-6] {
        let of = |case: Case| chosen(&Case { loss: Kind::Hinge, ..case });
        assert_eq!(of(case(4143, 54_877, 817_141, 197.0, tolerance)), SDCA);
        assert_eq!(of(case(200_000, 100_000, 8_000_000, 1.0, tolerance)), SDCA);
        assert_eq!(of(case(32_561, 123, 451_592, 13.9, tolerance)), NEWTON);
    }
    for loss in [Kind::SquaredHinge, Kind::Squared] {
        for tolerance in [1e-3, 1e-6] {
            let of = |case: Case| chosen(&Case { loss, ..case });
            assert_eq!(of(case(4143, 54_877, 817_141, 197.0, tolerance)), SDCA);
            assert_eq!(of(case(200_000, 100_000, 8_000_000, 1.0, tolerance)), SDCA);
            assert_eq!(of(case(32_561, 123, 451_592, 13.9, tolerance)), NEWTON);
        }
    }
}

#[test]
fn each_fact_tells_in_the_choice() {
    // A case near the border, and what moves it across.
    let near = || case(400_000, 20_000, 4_000_000, 20.0, 1e-3);
    assert_eq!(chosen(&near()), SDCA);
    assert_eq!(chosen(&Case { tolerance: 1e-7, ..near() }), NEWTON);
    // Several slaves make no searches, so their epochs grow with the condition itself.
    let two = || Case { slaves: 2.0, ..near() };
    assert_eq!(chosen(&two()), SDCA);
    assert_eq!(chosen(&Case { lambda: 1e-7, ..two() }), NEWTON);
    assert_eq!(chosen(&Case { lambda: 1e-7, ..near() }), SDCA);
    // One worker goes alone, however many there are.
    assert_eq!(chosen(&Case { threads: 6.0, ..near() }), NEWTON);
    // Of these all go, but if they can't hold values by feature of all their rows they join once an epoch.
    let all = || Case { threads: 6.0, ..case(200_000, 100_000, 3_000_000, 1.0, 1e-3) };
    assert_eq!(chosen(&all()), SDCA);
    assert_eq!(chosen(&Case { memory: 100 << 10, ..all() }), NEWTON);
}

#[test]
fn the_rows_decide_and_the_report_says_which_solver_and_why() {
    for (scales, features, name) in [(0.0, 2000, "sdca"), (2.0, 50, "newton")] {
        let rows = Rows { rows: 600, features, scales, ..Rows::sparse(31) };
        for (slaves, slots) in [(1, 1), (1, 2), (3, 1)] {
            for bias in [false, true] {
                let common = Common { tolerance: 2e-5, epochs: 3000, bias, ..fixtures::flags() };
                let job = Lr { common: common.clone(), ..Lr::default() };
                let outcome = assert_reaches(Host::cluster(slaves, slots), &job, &common, &rows.blocks(6), 3e-5);
                let ran = |stage: &str| outcome.stages.iter().any(|(name, _)| name == stage);
                let [note] = &outcome.progress.notes[..] else { panic!("{:?}", outcome.progress.notes) };
                assert_eq!((ran("ascent"), ran("gradient")), (name == "sdca", name == "newton"), "{note}");
                assert!(note.starts_with(&format!("solver {name}: ")) && note.contains("600 rows"));
            }
        }
    }
}

#[test]
fn the_hinge_of_few_features_is_learnt_by_the_matrix_where_the_ascent_takes_longer() {
    let of = |case: Case| chosen(&Case { loss: Kind::Hinge, ..case });
    // Dense columns of a few factors, which take more than a step's passes to make a matrix of.
    assert_eq!(of(case(4600, 60, 276_000, 860.0, 1e-4)), NEWTON);
    assert_eq!(of(case(3000, 300, 900_000, 300.0, 1e-4)), NEWTON);
    // There is little to do.
    assert_eq!(of(case(12_000, 1000, 480_000, 1.0, 1e-4)), SDCA);
}

#[test]
fn several_slaves_learn_the_hinge_by_products_where_their_ascent_would_take_more_epochs_than_there_are() {
    let of = |slaves: f64, case: Case| tried(&Case { loss: Kind::Hinge, slaves, threads: 4.0, ..case });
    // What little it takes to try the ascent is worth it.
    let mut then = [(NEWTON, 0.0), (SDCA, 1.0)].into_iter();
    for case in [|| case(20_000, 500_000, 30_000_000, 1.0, 1e-3), || case(2_000_000, 1_000_000, 22_000_000, 11.0, 1e-3)]
    {
        assert_eq!([1.0, 4.0].map(|slaves| of(slaves, case())), [(SDCA, 0.0), then.next().unwrap()]);
    }
}

#[test]
fn where_it_is_a_guess_which_is_faster_the_ascent_is_tried() {
    // Rows of very different norm, of which nobody knows how many products they take.
    let norms = Case { loss: Kind::SquaredHinge, ..case(4000, 3000, 158_968, 38_330.0, 1e-4) };
    assert!(norms.sdca() > norms.newton());
    assert_eq!(tried(&norms), (SDCA, 1.0));
    // The hinge by products, since there is no room for the matrix.
    let hinge = Case { loss: Kind::Hinge, memory: 1 << 20, ..case(3000, 300, 900_000, 300.0, 1e-4) };
    assert_eq!(tried(&hinge), (SDCA, 1.0));
    assert_eq!(tried(&case(32_561, 123, 451_592, 13.9, 1e-3)), (NEWTON, 0.0));
    assert_eq!(tried(&case(4143, 54_877, 817_141, 197.0, 1e-3)), (SDCA, 0.0));
}

#[test]
fn folds_are_held_out_by_whoever_would_learn_without_them() {
    use crate::primal::flags::Flags;
    for (scales, features, name) in [(0.0, 2000, "sdca"), (2.0, 50, "newton")] {
        let rows = Rows { rows: 600, features, scales, ..Rows::sparse(31) }.blocks(6);
        let common = Common { tolerance: 2e-5, epochs: 3000, ..fixtures::flags() };
        let primal = Flags { cv: Some(3), ..Flags::default() };
        let job = Lr { common, primal, ..Lr::default() };
        let outcome = fixtures::run(Host::cluster(2, 1), &job, &rows);
        let [note] = &outcome.progress.notes[..] else { panic!("{:?}", outcome.progress.notes) };
        assert!(note.starts_with(&format!("solver {name}: ")) && note.contains("non-zeros, 3 folds"), "{note}");
        assert_eq!(outcome.progress.scalars["cv_rows_0"], 600.0);
    }
    // What nobody waits for has no number.
    let mut progress = Progress::default();
    choose(&mut progress, &case(50_000, 100_000, 2_000_000, f64::INFINITY, 1e-3));
    let note = &progress.notes[0];
    assert!(note.contains("more than a day") && !note.contains("inf s") && !note.contains("NaN s"), "{note}");
    // What is told is the time of all problems.
    let told = |folds, labels| {
        let mut progress = Progress::default();
        let mut case = Case { folds, ..case(50_000, 100_000, 2_000_000, 1.0, 1e-3) };
        case.facts.labels = labels;
        choose(&mut progress, &case);
        let (_, behind) = progress.notes[0].split_once("about ").unwrap();
        behind.split_once(" s").unwrap().0.parse::<f64>().unwrap()
    };
    let three = || Labels::classes(vec![0.0, 1.0, 2.0]);
    let (one, six, eighteen) = (told(0, Labels::default()), told(5, Labels::default()), told(5, three()));
    assert!((six - 6.0 * one).abs() < 0.05 && (eighteen - 18.0 * one).abs() < 0.1, "{one}, {six} and {eighteen} s");
}

#[test]
fn where_the_ascent_of_a_fold_hardly_gets_on_newton_solves_all_problems() {
    use crate::primal::flags::Flags;
    for (classes, bias) in [(2, true), (3, false)] {
        let rows = factors(classes);
        let common = Common { tolerance: 1e-4, epochs: 100, bias, ..fixtures::flags() };
        let primal = Flags { cv: Some(2), ..Flags::default() };
        let job = Lr { common, primal, ..Lr::default() };
        let outcome = fixtures::run(Host::cluster(1, 2), &job, &rows);
        let [_, changed] = &outcome.progress.notes[..] else { panic!("{:?}", outcome.progress.notes) };
        assert!(changed.starts_with("solver changed to newton: "), "{changed}");
        let newton = Lr { solver: Solver::Newton, ..job.clone() };
        let other = fixtures::run(Host::cluster(1, 2), &newton, &rows);
        for name in ["cv_loss", "cv_accuracy", "cv_rows_0", "objective"] {
            let [own, other] = [&outcome, &other].map(|outcome| outcome.progress.scalars[name]);
            assert_eq!(own, other, "{name} of {classes} classes");
        }
    }
}

/// Rows of 60 columns that are sums of four factors but for a thousandth, with so many classes.
fn factors(classes: u32) -> Vec<Block> {
    const FACTORS: usize = 4;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut unit = || rng.random_range(-1.7..1.7f32);
    let by: Vec<f32> = (0..60 * FACTORS).map(|_| unit()).collect();
    let truth: Vec<f32> = (0..60).map(|_| 0.05 * unit()).collect();
    let block = |rows: usize, unit: &mut dyn FnMut() -> f32| {
        let (mut labels, mut values) = (vec![], vec![]);
        for _ in 0..rows {
            let of: Vec<f32> = (0..FACTORS).map(|_| 2.0 * unit()).collect();
            let sum = |k: usize| (0..FACTORS).map(|f| of[f] * by[k * FACTORS + f]).sum::<f32>();
            let row: Vec<f32> = (0..60).map(|k| sum(k) + 1e-3 * unit()).collect();
            let score = row.iter().zip(&truth).map(|(x, w)| x * w).sum::<f32>() + 2.0 * unit();
            labels.push(match classes {
                2 => score.signum(),
                _ => f32::from(u8::from(score > -1.0) + u8::from(score > 1.0)),
            });
            values.extend(row);
        }
        let offsets = (0..=rows as u32).map(|row| 60 * row).collect();
        // Features between them that no row has: of dense rows a matrix would be made, and no ascent tried.
        Block {
            labels,
            offsets,
            indices: (0..rows).flat_map(|_| (0..60).map(|k| 2 * k)).collect(),
            values: Some(values),
        }
    };
    (0..4).map(|_| block(1150, &mut unit)).collect()
}

#[test]
fn where_the_ascent_hardly_gets_on_newton_goes_on_and_the_report_says_so() {
    for (classes, bias) in [(2, false), (2, true), (3, true)] {
        let rows = factors(classes);
        let common = Common { tolerance: 1e-4, epochs: 100, bias, ..fixtures::flags() };
        let job = Lr { common: common.clone(), ..Lr::default() };
        let outcome = fixtures::run(Host::cluster(1, 2), &job, &rows);
        let [chosen, changed] = &outcome.progress.notes[..] else { panic!("{:?}", outcome.progress.notes) };
        assert!(chosen.starts_with("solver sdca: ") && changed.starts_with("solver changed to newton: "), "{changed}");
        assert!(outcome.stages.iter().any(|(name, _)| name == "resume"), "it starts where the other ended");
        let newton = Lr { solver: Solver::Newton, ..job.clone() };
        let other = fixtures::run(Host::cluster(1, 2), &newton, &rows);
        let [own, other] = [&outcome, &other].map(|outcome| outcome.progress.objective.unwrap());
        assert!((own - other).abs() <= 1e-4 * other, "{classes} classes: {own} by auto, {other} by newton");
        if classes == 2 {
            let above = fixtures::suboptimality(&outcome, &common, &rows);
            assert!(above < 2e-4, "{above:e} above the optimum");
        }
        let [again, same] = [0, 1].map(|_| fixtures::run(Host::cluster(1, 2), &job, &rows));
        let weights = |outcome: &flexps_common::host::Outcome| outcome.table("weights", 0..119);
        assert_eq!(weights(&again), weights(&same), "twice the same");
    }
}
