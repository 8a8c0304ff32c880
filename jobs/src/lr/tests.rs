//! What `lr` promises, on the one-thread host and against Newton's method.

use super::*;
use crate::fixtures::{self, Rows, path, run};
use crate::flags::Model;
use crate::workers::{Found, Workers};
use flexps_common::data::Block;
use flexps_common::host::{Host, Outcome};
use flexps_common::job::DynJob;

/// What 200 epochs of mini-batches reach (three times that on badly conditioned rows): the step must shrink for more,
/// and every halving costs an epoch.
const REACH: f64 = 1e-3;

fn job(optimizer: Optimizer) -> Lr {
    let optimizer = Some(optimizer);
    Lr { common: fixtures::flags(), solver: Solver::Sgd, optimizer, batch: Some(20), ..Lr::default() }
}

fn assert_reaches(host: Host, job: &Lr, blocks: &[Block], most: f64) -> Outcome {
    fixtures::assert_reaches(host, job, &job.common, blocks, most)
}

const ALL: [Optimizer; 3] = [Optimizer::Sgd, Optimizer::Adagrad, Optimizer::Saga];

#[test]
fn it_comes_near_newtons_optimum_on_sparse_rows() {
    for optimizer in ALL {
        for seed in 0..3 {
            assert_reaches(Host::new(), &job(optimizer), &Rows::sparse(seed).blocks(3), REACH);
        }
    }
}

#[test]
fn it_comes_near_newtons_optimum_on_one_hot_rows() {
    let rows = Rows { rows: 3000, features: 120, nonzeros: 12, one_hot: true, ..Rows::sparse(5) };
    for optimizer in ALL {
        assert_reaches(Host::new(), &job(optimizer), &rows.blocks(4), 3.0 * REACH);
    }
}

#[test]
fn it_comes_near_newtons_optimum_with_a_bias_and_several_workers() {
    let blocks = Rows::sparse(6).blocks(6);
    for optimizer in ALL {
        for (slaves, slots) in [(1, 1), (1, 2), (3, 1)] {
            let mut biased = job(optimizer);
            biased.common.bias = true;
            assert_reaches(Host::cluster(slaves, slots), &biased, &blocks, REACH);
        }
    }
}

#[test]
fn saga_gets_to_the_optimum_itself_with_and_without_a_bias_and_in_parts() {
    let one_hot = Rows { rows: 3000, features: 120, nonzeros: 12, one_hot: true, ..Rows::sparse(8) };
    for rows in [Rows::sparse(9), one_hot] {
        for (bias, worker_memory) in [(false, None), (true, None), (false, Some(0))] {
            let mut tight = job(Optimizer::Saga);
            tight.common = Common { bias, worker_memory, ..tight.common };
            tight.batch = Some(5);
            assert_reaches(Host::cluster(2, 1), &tight, &rows.blocks(4), 1e-6);
        }
    }
}

#[test]
fn a_strong_penalty_is_honoured_by_touching_a_batchs_features_only() {
    // With lambda this large the penalty decides the weights: an approximation would show.
    for optimizer in ALL {
        let mut strong = job(optimizer);
        strong.common.lambda = Some(0.1);
        assert_reaches(Host::new(), &strong, &Rows { features: 300, ..Rows::sparse(7) }.blocks(2), REACH);
    }
}

#[test]
fn a_start_model_shortens_the_way_and_its_unused_features_become_zero() {
    let blocks = Rows { features: 50, ..Rows::sparse(10) }.blocks(2);
    let mut cold = job(Optimizer::Sgd);
    cold.common.bias = true;
    let trained = assert_reaches(Host::new(), &cold, &blocks, REACH);
    let mut warm = cold.clone();
    warm.common.init_model = Some(path("m"));
    warm.common.epochs = 1;
    warm.common.features = Some(90);
    let mut start: Vec<f32> = trained.table("weights", 0..90).into_iter().map(|w| w as f32).collect();
    start[50..].fill(7.0);
    let bias = trained.table("bias", 0..1)[0] as f32;
    let host = Host::cluster(2, 1).tensor("m", "weights", start).tensor("m", "bias", vec![bias]);
    let outcome = run(host, &warm, &blocks);
    assert!(outcome.epochs[0].objective.unwrap() <= trained.progress.objective.unwrap() * (1.0 + 1e-6));
    assert!(outcome.table("weights", 50..90).iter().all(|w| *w == 0.0));
}

#[test]
fn a_step_that_is_far_too_long_is_halved_until_it_works() {
    for optimizer in ALL {
        let mut wild = job(optimizer);
        wild.step = Step::Fixed(1e5);
        wild.common.lambda = Some(0.01);
        let outcome = assert_reaches(Host::new(), &wild, &Rows::sparse(11).blocks(2), 10.0 * REACH);
        assert!(outcome.progress.scalars["step"] < 1e4, "the safeguard never fired");
        let objectives: Vec<_> = outcome.epochs.iter().filter_map(|e| e.objective).collect();
        assert!(objectives.is_sorted_by(|a, b| a >= b), "an epoch that raised the objective was kept");
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    let blocks = Rows { one_hot: true, ..Rows::sparse(12) }.blocks(6);
    for optimizer in ALL {
        for (slaves, slots) in [(1, 1), (2, 2)] {
            let mut again = job(optimizer);
            again.common.epochs = 3;
            let runs = [0, 1].map(|_| run(Host::cluster(slaves, slots), &again, &blocks).table("weights", 0..60));
            assert_eq!(runs[0], runs[1]);
        }
    }
}

#[test]
fn batches_that_are_announced_ahead_are_the_same_batches() {
    let blocks = Rows { features: 3000, ..Rows::sparse(13) }.blocks(6);
    for optimizer in ALL {
        for (bias, worker_memory) in [(false, None), (true, None), (false, Some(0))] {
            let run = |consistency| {
                let mut job = job(optimizer);
                job.common = Common { bias, worker_memory, consistency, epochs: 2, ..job.common };
                run(Host::cluster(2, 2), &job, &blocks)
            };
            // The host keeps all workers in step whatever the model, and refuses keys that were not announced.
            let (bsp, sparse) = (run(Model::Bsp), run(Model::SparseSsp(1, 3)));
            assert_eq!(bsp.table("weights", 0..3000), sparse.table("weights", 0..3000));
        }
    }
}

#[test]
fn parameters_survive_the_wire_and_plans_depend_on_them_alone() {
    let mut sent = job(Optimizer::Adagrad);
    sent.threads = Some(Workers::Count(2));
    sent.common.lambda = Some(0.25);
    sent.common.consistency = Model::SparseSsp(1, 3);
    let params = DynJob::params(&sent).unwrap();
    let came = crate::registry().job("lr", &params).unwrap();
    assert_eq!(came.plan().unwrap().hash(), DynJob::plan(&sent).unwrap().hash());
    assert_eq!(came.params().unwrap(), params);
    let hash = DynJob::plan(&sent).unwrap().hash();
    sent.common.consistency = Model::SparseSsp(1, 4);
    assert_ne!(DynJob::plan(&sent).unwrap().hash(), hash);
}

#[test]
fn batches_on_threads_that_change_from_epoch_to_epoch_reach_the_same_optimum() {
    let rows = Rows { rows: 900, ..Rows::sparse(13) };
    for optimizer in ALL {
        for (slaves, slots) in [(1, 3), (2, 2)] {
            let mut job = job(optimizer);
            job.threads = Some(Workers::Found(Found::Auto));
            assert_reaches(Host::cluster(slaves, slots), &job, &rows.blocks(8), REACH);
        }
    }
    for solver in [Solver::Auto, Solver::Sdca, Solver::Newton, Solver::Ftrl] {
        let threads = Some(Workers::Found(Found::Offline));
        let job = Lr { common: fixtures::flags(), threads, solver, ..Lr::default() };
        let error = DynJob::plan(&job).err().unwrap();
        assert!(error.message.contains("go with --solver sgd"), "{solver:?}: {error}");
    }
}

#[test]
fn an_optimizer_that_is_given_asks_for_mini_batches_whichever_it_is() {
    for optimizer in ALL {
        let given = Lr { solver: Solver::Auto, batch: None, ..job(optimizer) };
        let sgd = Lr { solver: Solver::Sgd, ..given.clone() };
        assert_eq!(DynJob::plan(&given).unwrap().hash(), DynJob::plan(&sgd).unwrap().hash());
        for solver in [Solver::Sdca, Solver::Newton, Solver::Ftrl] {
            let error = DynJob::plan(&Lr { solver, ..given.clone() }).err().unwrap();
            assert!(error.message.contains("--optimizer goes with --solver sgd"), "{solver:?}: {error}");
        }
    }
    let sgd = DynJob::params(&job(Optimizer::Sgd)).unwrap();
    let none = sgd.replace(r#""optimizer":"sgd","#, "");
    assert!(!none.contains("optimizer"), "{none}");
    let hash = |params: &str| crate::registry().job("lr", params).unwrap().plan().unwrap().hash();
    assert_eq!(hash(&none), hash(&sgd), "it is what is used where none is given");
}
