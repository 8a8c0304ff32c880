//! What `svrg` promises, on the one-thread host and against Newton's method.

use super::*;
use crate::fixtures::{self, Rows, path, run};
use crate::flags::Model;
use crate::workers::{Found, Workers};
use flexps_common::data::Block;
use flexps_common::host::{Host, Outcome};
use flexps_common::job::DynJob;

fn job() -> Svrg {
    Svrg { common: fixtures::flags(), inner: 1.0, ..Svrg::default() }
}

fn assert_reaches(host: Host, job: &Svrg, blocks: &[Block], most: f64) -> Outcome {
    fixtures::assert_reaches(host, job, &job.common, blocks, most)
}

#[test]
fn it_reaches_newtons_optimum_on_sparse_rows() {
    for seed in 0..4 {
        assert_reaches(Host::new(), &job(), &Rows::sparse(seed).blocks(3), 1e-6);
    }
}

#[test]
fn it_reaches_newtons_optimum_on_badly_conditioned_one_hot_rows() {
    let rows = Rows { rows: 3000, features: 120, nonzeros: 12, one_hot: true, ..Rows::sparse(5) };
    assert_reaches(Host::new(), &job(), &rows.blocks(4), 1e-6);
}

#[test]
fn it_reaches_newtons_optimum_with_a_bias() {
    let mut biased = job();
    biased.common.bias = true;
    for one_hot in [false, true] {
        let rows = Rows { one_hot, ..Rows::sparse(6) };
        assert_reaches(Host::new(), &biased, &rows.blocks(2), 1e-6);
    }
}

#[test]
fn it_reaches_newtons_optimum_on_values_of_very_different_scale() {
    let rows = Rows { scales: 1.0, ..Rows::sparse(7) };
    let mut penalised = job();
    penalised.common.lambda = Some(0.01);
    assert_reaches(Host::new(), &penalised, &rows.blocks(2), 1e-6);
}

#[test]
fn several_workers_on_several_slaves_reach_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 300, ..Rows::sparse(8) }.blocks(8);
    for (slaves, slots) in [(1, 2), (2, 1), (2, 2), (3, 1)] {
        for bias in [false, true] {
            let mut wide = job();
            wide.narrow = Some(Workers::Count((slaves * slots) as u32));
            wide.common.bias = bias;
            assert_reaches(Host::cluster(slaves, slots), &wide, &blocks, 1e-6);
        }
    }
}

#[test]
fn a_stochastic_stage_on_one_slave_that_draws_all_rows_reaches_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 300, ..Rows::sparse(8) }.blocks(8);
    for (slaves, slots, narrow) in [(1, 1, 1), (3, 1, 1), (3, 2, 2)] {
        for bias in [false, true] {
            let mut draws = Svrg { sample_share: Some(1.0), narrow: Some(Workers::Count(narrow)), ..job() };
            draws.common.bias = bias;
            let outcome = assert_reaches(Host::cluster(slaves, slots), &draws, &blocks, 1e-6);
            let stages = outcome.stages.iter().filter(|(name, _)| name == "stochastic");
            assert!(stages.count() > 0);
        }
    }
}

#[test]
fn rows_that_come_in_parts_and_of_which_a_stage_draws_reach_the_same_optimum() {
    // So that half of the features occur nowhere, and numbers are no features.
    let mut blocks = Rows { rows: 800, features: 900, ..Rows::sparse(8) }.blocks(9);
    blocks.iter_mut().for_each(|block| block.indices.iter_mut().for_each(|index| *index = 3 * *index + 7));
    for (slaves, slots, narrow) in [(1, 1, 1), (3, 2, 2)] {
        let mut draws = Svrg { sample_share: Some(1.0), narrow: Some(Workers::Count(narrow)), ..job() };
        draws.common.worker_memory = Some(0);
        assert_reaches(Host::cluster(slaves, slots), &draws, &blocks, 1e-6);
    }
}

#[test]
fn rows_are_counted_by_feature_where_a_stage_may_have_more_workers_than_when_they_are() {
    let blocks = Rows::sparse(9).blocks(2);
    for narrow in ["1..4".parse().unwrap(), Workers::Found(Found::Auto)] {
        let varies = Svrg { narrow: Some(narrow), ..job() };
        let outcome = assert_reaches(Host::new(), &varies, &blocks, 1e-6);
        let nonzeros: usize = blocks.iter().map(Block::nonzeros).sum();
        let counted: f64 = outcome.table("rows-per-feature", 0..100_000).iter().sum();
        assert_eq!(counted, nonzeros as f64, "{narrow:?}");
    }
}

#[test]
fn rows_that_come_in_parts_reach_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 3000, ..Rows::sparse(8) }.blocks(9);
    for (slaves, slots) in [(1, 1), (1, 2), (3, 1)] {
        for bias in [false, true] {
            let mut parts = job();
            parts.narrow = Some(Workers::Count((slaves * slots) as u32));
            parts.common.bias = bias;
            parts.common.worker_memory = Some(0);
            let outcome = assert_reaches(Host::cluster(slaves, slots), &parts, &blocks, 1e-6);
            let whole = Svrg { common: Common { worker_memory: None, ..parts.common.clone() }, ..parts };
            let other = run(Host::cluster(slaves, slots), &whole, &blocks);
            assert_ne!(outcome.table("weights", 0..3000), other.table("weights", 0..3000), "the rows came in one part");
        }
    }
}

#[test]
fn a_worker_without_rows_changes_nothing() {
    let blocks = Rows::sparse(9).blocks(1);
    let mut wide = job();
    wide.narrow = Some(Workers::Count(3));
    assert_reaches(Host::cluster(1, 3), &wide, &blocks, 1e-6);
}

#[test]
fn a_start_model_shortens_the_way_and_its_unused_features_become_zero() {
    let mut blocks = Rows { features: 50, ..Rows::sparse(10) }.blocks(2);
    // A row far out, so that the features between never occur.
    blocks.push(Block {
        labels: [1.0].into(),
        offsets: [0, 1].into(),
        indices: [200].into(),
        values: Some([0.5].into()),
    });
    let mut cold = job();
    cold.common.bias = true;
    let trained = assert_reaches(Host::new(), &cold, &blocks, 1e-6);
    let mut warm = cold.clone();
    warm.common.init_model = Some(path("m"));
    warm.common.epochs = 1;
    let mut start: Vec<f32> = trained.table("weights", 0..201).into_iter().map(|w| w as f32).collect();
    start[60..200].fill(7.0);
    for slaves in [1, 3] {
        let host = Host::cluster(slaves, 1).tensor("m", "weights", start.clone());
        let host = host.tensor("m", "bias", vec![trained.table("bias", 0..1)[0] as f32]);
        let outcome = assert_reaches(host, &warm, &blocks, 1e-6);
        assert!(outcome.table("weights", 60..200).iter().all(|w| *w == 0.0));
    }
}

#[test]
fn a_step_that_is_far_too_long_is_halved_until_it_works() {
    let blocks = Rows::sparse(11).blocks(2);
    let mut wild = job();
    wild.step = Step::Fixed(1e4);
    let outcome = assert_reaches(Host::new(), &wild, &blocks, 1e-6);
    assert!(outcome.progress.scalars["step"] < 1e3, "the safeguard never fired");
    let objectives: Vec<_> = outcome.epochs.iter().filter_map(|e| e.objective).collect();
    assert!(objectives.is_sorted_by(|a, b| a >= b), "an epoch that raised the objective was kept");
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    let blocks = Rows { one_hot: true, ..Rows::sparse(12) }.blocks(6);
    for (slaves, slots) in [(1, 1), (2, 2)] {
        let mut again = job();
        again.common.epochs = 5;
        again.narrow = Some(Workers::Count((slaves * slots) as u32));
        let runs = [0, 1].map(|_| run(Host::cluster(slaves, slots), &again, &blocks).table("weights", 0..60));
        assert_eq!(runs[0], runs[1]);
        again.common.seed = 2;
        assert_ne!(run(Host::cluster(slaves, slots), &again, &blocks).table("weights", 0..60), runs[0]);
    }
}

#[test]
fn validation_rows_are_judged_each_epoch_and_patience_ends_the_job() {
    let blocks = Rows { rows: 60, nonzeros: 5, ..Rows::sparse(13) }.blocks(1);
    let held_out = Rows { rows: 500, nonzeros: 5, ..Rows::sparse(14) }.blocks(1);
    let mut judged = job();
    judged.common.validation = vec![path("held-out")];
    judged.common.lambda = Some(1e-6);
    judged.common.patience = Some(3);
    let plan = DynJob::plan(&judged).unwrap();
    let outcome = Host::new().rows(blocks.clone()).rows(held_out.clone()).run(&plan).unwrap();
    let losses: Vec<_> = outcome.epochs.iter().map(|e| e.metrics["validation_loss"]).collect();
    assert!(outcome.stopped.as_ref().unwrap().contains("validation loss has not improved for 3 epochs"));
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses.iter().rposition(|l| *l == best), Some(losses.len() - 4));
    // What is kept, and told of, is the best one.
    let told = |name: &str| outcome.progress.scalars[name];
    assert_eq!((told("validation_loss"), told("best_epoch")), (best, (losses.len() - 3) as f64));
    let mut again = judged;
    (again.common.patience, again.common.epochs) = (None, losses.len() as u64 - 3);
    let again = Host::new().rows(blocks).rows(held_out).run(&DynJob::plan(&again).unwrap()).unwrap();
    assert_eq!(again.progress.scalars["validation_auc"], told("validation_auc"));
    assert_eq!(again.progress.objective, outcome.progress.objective);
    assert_eq!(again.table("weights", 0..3000), outcome.table("weights", 0..3000));
}

#[test]
fn without_validation_the_training_rows_are_judged_at_the_end() {
    let outcome = run(Host::new(), &job(), &Rows::sparse(15).blocks(2));
    assert!(outcome.progress.scalars["training_auc"] > 0.8);
}

#[test]
fn parameters_survive_the_wire_and_plans_depend_on_them_alone() {
    let mut sent = job();
    sent.common.consistency = Model::Ssp(Some(3));
    sent.step = Step::Fixed(0.5);
    sent.narrow = Some(Workers::Count(2));
    let params = DynJob::params(&sent).unwrap();
    let came = crate::registry().job("svrg", &params).unwrap();
    assert_eq!(came.plan().unwrap().hash(), DynJob::plan(&sent).unwrap().hash());
    assert_eq!(came.params().unwrap(), params);
}

#[test]
fn sparse_ssp_is_ssp_for_workers_that_touch_all_of_their_features() {
    let mut sparse = job();
    sparse.common.consistency = Model::SparseSsp(3, 8);
    let plan = DynJob::plan(&sparse).unwrap();
    let stochastic = plan.stages().into_iter().find(|stage| stage.name == "stochastic").unwrap();
    assert_eq!(stochastic.consistency, Consistency::Ssp { staleness: 3 });
    run(Host::new(), &sparse, &Rows::sparse(15).blocks(2));
}

#[test]
fn rows_that_are_missing_are_named() {
    let error = DynJob::plan(&Svrg::default()).err().unwrap();
    assert_eq!(error.message, "no --input given");
}

#[test]
fn threads_that_change_from_epoch_to_epoch_reach_the_same_optimum() {
    let blocks = Rows { rows: 800, features: 300, ..Rows::sparse(8) }.blocks(8);
    for (slaves, slots) in [(1, 3), (2, 2)] {
        for found in [Found::Auto, Found::Offline].map(Workers::Found) {
            let mut changing = job();
            (changing.wide, changing.narrow) = (Some(found), Some(found));
            assert_reaches(Host::cluster(slaves, slots), &changing, &blocks, 1e-6);
        }
    }
    let sampled = Svrg { sample_share: Some(0.5), narrow: Some(Workers::Found(Found::Auto)), ..job() };
    let error = DynJob::plan(&sampled).err().unwrap();
    assert!(error.message.contains("--narrow is a number"), "{error}");
}

#[test]
fn one_row_that_is_far_larger_than_all_others_is_no_reason_to_stop_at_the_start() {
    let mut blocks = Rows::sparse(16).blocks(2);
    let Block { offsets, indices, values, .. } = &mut blocks[1];
    // The last feature of the last row.
    if let Some(end) = offsets.last_mut() {
        *end += 1;
    }
    indices.push(60);
    values.iter_mut().for_each(|values| values.push(1e5));
    let mut outlier = job();
    outlier.common.tolerance = 1e-4;
    let outcome = assert_reaches(Host::new(), &outlier, &blocks, 0.02);
    assert!(outcome.stopped.is_some(), "{:?}", outcome.stopped);
}
