//! Judging a model by rows: a stage over the validation rows after each epoch, or over the training rows at the end.
//!
//! Invariant: what it reports depends on the model and the rows alone.

use crate::logistic::Judged;
use crate::parts::{Parts, Rows};
use crate::primal::judge::Judge;
use crate::primal::loss::with_smooth;
use crate::sdca::loss::Kind;
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::metrics::Scores;
use flexps_common::plan::{Progress, Steps, Table, Threads};
use flexps_common::worker::Worker;

/// Plans a stage `name` that judges `weights` by `rows`, on threads as the job's other wide stages; on all slots where those
/// are tried.
pub fn plan(steps: &mut Steps, name: &str, rows: Rows, weights: Vector, threads: Threads) {
    let threads = if threads.found() { Threads::All } else { threads };
    let judged = || Judged { scores: Some(Scores::default()), ..Judged::default() };
    let stage = steps.stage(name, move |worker| judge(worker, rows, weights, judged()));
    weights.only_read(stage).threads(threads).input(rows.input);
}

/// The same by the job's own loss, and by what rows of a class count; the intercept is the scalar `bias`. While several classes
/// are learnt one after the other, or a fold is held out, nothing is judged.
pub fn plan_by(steps: &mut Steps, name: &str, rows: Rows, weights: Table<f32>, kind: Kind, threads: Threads) {
    let judge = Judge { rows, point: weights, held_out: false, classes: true, guesses: true, steps: 1 };
    steps
        .stage(name, move |worker| match judges(|name, default| worker.scalar(name, default)) {
            true => with_smooth!(kind, loss => judge.run(loss, worker)),
            false => Ok(()),
        })
        .reads(weights)
        .threads(if threads.found() { Threads::All } else { threads })
        .input(rows.input);
}

/// Whether it does, by the scalars.
pub fn judges(scalar: impl Fn(&str, f64) -> f64) -> bool {
    scalar("classes", 1.0) <= 1.0 && scalar("held_out", -1.0) < 0.0
}

/// Mean loss of the last run of the stage `name`, in which rows count what their class does: as in the objective.
pub fn loss(progress: &Progress, name: &str) -> Result<f64> {
    Ok(progress.metric(name, "loss")? / progress.metric(name, "rows")?)
}

/// Puts the numbers of the last run of the stage `name` into the epoch's metrics and, so that the last ones stay, into
/// the scalars, as `NAME_loss`, `NAME_auc` and `NAME_accuracy`.
pub fn note(progress: &mut Progress, name: &str) -> Result<()> {
    let accuracy = progress.metric(name, "right")? / progress.metric(name, "rows")?;
    let auc = progress.metric(name, "auc")?;
    for (what, value) in [("loss", loss(progress, name)?), ("accuracy", accuracy), ("auc", auc)] {
        // The AUC of rows of one class is no number.
        if value.is_finite() {
            progress.epoch_metrics.insert(format!("{name}_{what}"), value);
            progress.set(&format!("{name}_{what}"), value);
        }
    }
    Ok(())
}

/// The stage function: judges `weights` by this worker's rows.
pub fn judge(worker: &mut Worker<'_>, rows: Rows, weights: Vector, mut judged: Judged) -> Result<()> {
    let mut parts = Parts::new(worker, rows)?;
    let bias = weights.get_bias(worker)?;
    let mut values = Vec::new();
    while let Some(part) = parts.next(worker)? {
        worker.get_mapped(weights.features, &part.map, &mut values)?;
        for at in 0..part.blocks() {
            let block = part.in_order(worker, at)?;
            judged.add(&block, &values, bias);
        }
    }
    judged.report(worker);
    Ok(())
}
