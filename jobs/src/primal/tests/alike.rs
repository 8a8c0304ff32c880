//! Features that say the same as others.

use super::*;
use flexps_common::random::SplitMix64;
use std::collections::BTreeSet;

const FEATURES: usize = 300;
const TWICE: usize = 20;

/// Rows of ones in few features that many rows have and many that few have; the first ones come twice.
fn rows() -> Vec<Block> {
    let mut random = SplitMix64(2);
    let wanted: Vec<f64> = (0..FEATURES).map(|_| if random.unit() < 0.3 { random.unit() - 0.5 } else { 0.0 }).collect();
    let mut block = || {
        let mut block = Block { offsets: vec![0], ..Block::default() };
        for _ in 0..100 {
            let feature = |u: f64| ((3.0 * ((1.0 - u).powf(-1.0 / 0.7) - 1.0)) as usize).min(FEATURES - 1);
            let mut row: BTreeSet<usize> = (0..20).map(|_| feature(random.unit())).collect();
            let score = row.iter().map(|j| wanted[*j]).sum::<f64>() + random.unit() - 0.5;
            row.extend(row.clone().range(..TWICE).map(|j| FEATURES + j));
            block.labels.push(if score > 0.0 { 1.0 } else { -1.0 });
            block.indices.extend(row.into_iter().map(|j| j as u32));
            block.offsets.push(block.indices.len() as u32);
        }
        block
    };
    (0..4).map(|_| block()).collect()
}

#[test]
fn where_features_come_twice_slaves_take_hardly_more_rounds_than_one_worker() {
    let blocks = rows();
    for loss in ALL {
        let common = Common { tolerance: 1e-6, epochs: 100, lambda: Some(1e-3), ..fixtures::flags() };
        let problem = Problem::new(loss, &blocks, 5e-4, 5e-4, false);
        let least = problem.optimum();
        let rounds = [(1, 1), (2, 1), (4, 1)].map(|(slaves, slots)| {
            let job = job(loss, Norm::ElasticNet, common.clone(), Flags::default());
            let outcome = run(Host::cluster(slaves, slots), &*job, &blocks).unwrap();
            assert_certified(&outcome, &problem, 1e-6, least);
            outcome.progress.scalars["rounds"]
        });
        assert!(rounds[1].max(rounds[2]) <= 2.0 * rounds[0] + 4.0, "{loss:?}: {rounds:?} rounds");
    }
}
