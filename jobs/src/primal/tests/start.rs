//! What jobs that start from a model promise.

use super::*;

#[test]
fn weights_of_features_that_no_row_has_any_more_are_let_go() {
    // Of the latter the matrix would not pay.
    for rows in [Rows::sparse(14), Rows { rows: 150, features: 250, ..Rows::sparse(2) }] {
        let mut blocks = rows.blocks(8);
        // Nobody has the first one.
        blocks.iter_mut().flat_map(|block| &mut block.indices).for_each(|key| *key += 1);
        for loss in ALL {
            let problem = Problem::new(loss, &blocks, 0.01, 0.0, true);
            let least = problem.optimum();
            for (slaves, slots) in HOSTS {
                let common = Common {
                    tolerance: 1e-6,
                    epochs: 100,
                    lambda: Some(0.01),
                    bias: true,
                    init_model: Some(fixtures::path("m")),
                    ..fixtures::flags()
                };
                let mut weights = vec![0.0; problem.features];
                (weights[0], weights[1]) = (0.5, -0.1);
                let host = Host::cluster(slaves, slots).tensor("m", "weights", weights).tensor("m", "bias", vec![0.1]);
                let outcome = run(host, &*job(loss, Norm::L1, common, Flags::default()), &blocks).unwrap();
                assert_certified(&outcome, &problem, 1e-6, least);
                assert_eq!(outcome.table("weights", 0..1), [0.0], "{loss:?} on {slaves}");
            }
        }
    }
}

#[test]
fn each_of_several_classes_starts_from_its_own_weights() {
    let blocks = three_classes();
    for norm in [Norm::L1, Norm::L2] {
        for (slaves, slots) in [(1, 1), (2, 2)] {
            let common = Common { tolerance: 1e-6, lambda: Some(0.005), bias: true, ..fixtures::flags() };
            let with = |common: Common, host: Host| {
                run(host, &*job(Loss::Logistic, norm, common, Flags::default()), &blocks).unwrap()
            };
            let first = with(common.clone(), Host::cluster(slaves, slots));
            let to_f32 = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<_>>();
            let host = Host::cluster(slaves, slots).tensor("m", "weights", to_f32(first.table("weights", 0..120)));
            let host = host.tensor("m", "bias", to_f32(first.table("bias", 0..3)));
            // Of a run of one round the gap is that of where it starts.
            let warm = with(Common { init_model: Some(fixtures::path("m")), epochs: 1, ..common }, host);
            assert_eq!(warm.epochs.len(), 3);
            for (class, epoch) in warm.epochs.iter().enumerate() {
                assert!(epoch.metrics["gap"] < 5e-3, "{norm:?} class {class} on {slaves}: {:e}", epoch.metrics["gap"]);
            }
            let pairs = warm.table("weights", 0..120).into_iter().zip(first.table("weights", 0..120));
            assert!(pairs.into_iter().all(|(now, then)| (now - then).abs() < 1e-6), "{norm:?}: other weights");
        }
    }
}
