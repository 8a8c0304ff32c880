//! Slaves that hear of most features once an epoch: against the same bound, and against the same job on one slave.

use super::*;
use flexps_common::plan::Progress;

/// Texts with so many features that slaves join those that couple their rows alone.
fn wide(blocks: usize) -> Vec<Block> {
    let blocks = texts(blocks, 120, 30_000, 60);
    assert!(super::super::couple::pays(&flexps_common::host::facts(&blocks, 0)));
    blocks
}

#[test]
fn slaves_that_join_coupled_features_alone_reach_the_same_optimum() {
    let blocks = wide(6);
    for kind in ALL {
        for (slaves, slots) in [(3, 1), (2, 2)] {
            for joins in [None, Some(3)] {
                let flags = Flags { joins, ..ALL_JOIN };
                let outcome = assert_certified(Host::cluster(slaves, slots), kind, flags, &blocks, Some(0.01), 1e-6);
                assert!(outcome.progress.metric("ascent", "scale").is_ok(), "they joined");
            }
        }
    }
}

#[test]
fn an_intercept_is_joined_with_the_coupled_features() {
    let blocks = wide(6);
    let objective = |slaves, slots| {
        let common = Common { tolerance: 1e-6, epochs: 3000, bias: true, ..fixtures::flags() };
        let outcome = run(Host::cluster(slaves, slots), &Lr { common, solver: Solver::Sdca, ..Lr::default() }, &blocks);
        assert!(outcome.progress.scalars["gap"] <= 1e-6, "{:e}", outcome.progress.scalars["gap"]);
        let offset = outcome.table("bias", 0..1)[0];
        let problem = Problem { offset, ..Problem::new(Kind::Logistic, &blocks, None) };
        let reached = problem.primal(&outcome.table("weights", 0..problem.features as u32));
        let reported = outcome.progress.objective.unwrap();
        assert!((reported - reached).abs() < 1e-6 * reached, "reported {reported}, is {reached}");
        reached
    };
    let alone = objective(1, 1);
    for (slaves, slots) in [(3, 1), (2, 2)] {
        let reached = objective(slaves, slots);
        assert!((reached - alone).abs() < 2e-6 * alone, "{reached} on {slaves} x {slots}, {alone} alone");
    }
}

#[test]
fn where_joins_of_coupled_features_lead_too_far_all_are_joined_from_then_on() {
    // Every worker has the same rows, and knows nothing of the others: from join to join they go farther beyond the optimum.
    let blocks = vec![texts(1, 400, 30_000, 60).remove(0); 4];
    let flags = Flags { overlap: Some(1.0), joins: Some(6) };
    let common = Common { tolerance: 1e-2, lambda: Some(1e-4), epochs: 500, ..fixtures::flags() };
    for slots in [1, 2] {
        let plan = made(Kind::Squared, &common, flags).plan().unwrap();
        let outcome = Host::cluster(4 / slots, slots).rows(blocks.clone()).run(&plan).unwrap();
        let Progress { scalars, .. } = &outcome.progress;
        assert_eq!(scalars.get("whole"), Some(&1.0), "a common way was cut to less than an eighth");
        assert!(scalars["gap"] <= 1e-2, "gap {:e}", scalars["gap"]);
    }
}

#[test]
fn more_joins_of_coupled_features_take_no_more_epochs() {
    let blocks = wide(8);
    let epochs = |joins| {
        let common = Common { tolerance: 1e-4, epochs: 1000, ..fixtures::flags() };
        let flags = Flags { joins: Some(joins), overlap: None };
        let job = Lr { common, solver: Solver::Sdca, sdca: flags, ..Lr::default() };
        let outcome = run(Host::cluster(4, 1), &job, &blocks);
        assert!(outcome.progress.scalars["gap"] <= 1e-4);
        outcome.epochs.len()
    };
    let [one, many] = [1, 16].map(epochs);
    assert!(many < one, "{many} epochs with 16 joins, {one} with 1");
}

#[test]
fn the_same_plan_gives_the_same_bits_on_slaves_that_join_coupled_features() {
    let blocks = wide(6);
    let weights = |seed| {
        let common = Common { epochs: 4, seed, bias: true, ..fixtures::flags() };
        let job = Lr { common, solver: Solver::Sdca, ..Lr::default() };
        run(Host::cluster(2, 2), &job, &blocks).table("weights", 0..30_000)
    };
    assert_eq!(weights(1), weights(1));
    assert_ne!(weights(1), weights(2));
}
