//! An intercept that is not penalised, by the method of multipliers.
//!
//! In the dual it is the constraint S+ = S-, where S+ and S- are the sums of c a over positive and negative rows, c being
//! what a row counts; a step on one variable can't keep it. So the intercept b is the weight of a feature with the value B
//! in all rows, and the penalty, lambda/2 ((b - centre)/B)^2, pulls it to a centre that follows it: at the end of the
//! problem with one centre b = centre + B^2 (S+ - S-)/(lambda n), which is the next centre. The pull is weak beside what the
//! rows ask for, so a few centres do.
//!
//! The certificate is one of the problem without the pull. With r < 1 the larger of the two sums is lowered to the other
//! one's size, which makes dual variables a' that keep the constraint, and with which
//! ```text
//! P(w, b) - D(a') = (1/n) sum c (f(m) + f*(-a') + a' m) + lambda/2 |w - w(a')|^2
//! |w - w(a')| <= (1 - r)/(lambda n) sum over the lowered rows of c a |x|
//! ```
//! Invariant: without an intercept nothing here changes a number.

use super::rows::{Held, Own};
use flexps_common::Result;
use flexps_common::data::Block;
use flexps_common::metrics::Metric;
use flexps_common::plan::Progress;
use flexps_common::worker::Worker;

/// B^2 for a penalty of strength 1: such that the pull stays weak where the penalty is strong.
const NORM2: f64 = 100.0;

/// Sets the scalars at the start of a problem: the intercept is `at`, the dual variables' S+ - S- is `sum`.
pub fn begin(progress: &mut Progress, at: f64, sum: f64) {
    let norm2 = (NORM2 * progress.scalar("lambda", 0.0)).max(1.0);
    progress.set("bias_norm2", norm2);
    progress.set("bias", at);
    let pulled = norm2 * sum / (progress.scalar("lambda", 0.0) * progress.scalar("rows", 1.0));
    progress.set("center", at - pulled);
}

fn is_learnt(progress: &Progress) -> bool {
    progress.scalar("bias_norm2", 0.0) > 0.0
}

/// Reports S+ and S- of a worker's rows.
pub fn report(worker: &mut Worker<'_>, own: &Own) {
    if worker.scalar("bias_norm2", 0.0) > 0.0 {
        let [negative, positive] = own.sums();
        worker.report("negative", Metric::Sum(negative));
        worker.report("positive", Metric::Sum(positive));
    }
}

/// Behind the ascent: the intercept that the dual variables give, and what makes them keep the constraint.
pub fn before(progress: &mut Progress) -> Result<()> {
    if !is_learnt(progress) {
        return Ok(());
    }
    let (negative, positive) = (progress.metric("ascent", "negative")?, progress.metric("ascent", "positive")?);
    let all = progress.scalar("lambda", 0.0) * progress.scalar("rows", 1.0);
    let bias = progress.scalar("center", 0.0) + progress.scalar("bias_norm2", 1.0) * (positive - negative) / all;
    progress.set("bias", bias);
    let [negative_by, positive_by] = match (negative.abs(), positive.abs()) {
        (n, p) if n > p => [positive / negative, 1.0],
        (n, p) if n < p => [1.0, negative / positive],
        _ => [1.0, 1.0],
    };
    progress.set("negative_by", negative_by);
    progress.set("positive_by", positive_by);
    Ok(())
}

/// What a block's rows add to the sum of the second bound, `by` being the factors of negative and positive rows.
pub fn lowered(held: &Held, targets: &[f32], block: &Block, by: [f64; 2]) -> f64 {
    let mut sum = 0.0;
    for (i, (a, target)) in held.dual.iter().zip(targets).enumerate() {
        let off = 1.0 - by[usize::from(*target > 0.0)];
        let norm2 = held.norms.get(i).copied().unwrap_or((block.offsets[i + 1] - block.offsets[i]) as f32);
        sum += off * f64::from(target * a).abs() * f64::from(norm2).sqrt();
    }
    sum
}

/// The gap's part that comes of weights that are not those of the lowered dual variables.
pub fn gap(progress: &Progress) -> Result<f64> {
    let lowered = progress.metric("certificate", "lowered")? / progress.scalar("rows", 1.0);
    Ok(lowered * lowered / (2.0 * progress.scalar("lambda", 0.0)))
}

/// Behind a certificate that is not enough: the centre goes to where the intercept is, and pulls it on.
pub fn after(progress: &mut Progress) {
    if is_learnt(progress) {
        let (center, bias) = (progress.scalar("center", 0.0), progress.scalar("bias", 0.0));
        progress.set("center", bias);
        progress.set("bias", 2.0 * bias - center);
    }
}
