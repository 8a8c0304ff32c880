//! Features that say the same as others.

use super::*;

#[test]
fn where_every_feature_comes_twice_slaves_take_hardly_more_rounds_than_one_worker() {
    let mut blocks = Rows { rows: 200, features: 150, nonzeros: 15, ..Rows::sparse(4) }.blocks(8);
    for block in &mut blocks {
        let twice = |ends: &u32| ends * 2;
        block.offsets = block.offsets.iter().map(twice).collect();
        block.indices = block.indices.iter().flat_map(|j| [2 * j, 2 * j + 1]).collect();
        block.values = block.values.take().map(|values| values.iter().flat_map(|x| [*x, *x]).collect());
    }
    for loss in ALL {
        let common = Common { tolerance: 1e-6, epochs: 100, lambda: Some(2e-3), ..fixtures::flags() };
        let problem = Problem::new(loss, &blocks, 1e-3, 1e-3, false);
        let least = problem.optimum();
        let rounds = [(1, 1), (2, 1), (4, 1)].map(|(slaves, slots)| {
            let job = job(loss, Norm::ElasticNet, common.clone(), Flags::default());
            let outcome = run(Host::cluster(slaves, slots), &*job, &blocks).unwrap();
            assert_certified(&outcome, &problem, 1e-6, least);
            outcome.epochs.len()
        });
        eprintln!("{loss:?} {rounds:?}");
        assert!(rounds[1].max(rounds[2]) <= 2 * rounds[0] + 4, "{loss:?}: {rounds:?} rounds");
    }
}
