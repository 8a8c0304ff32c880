//! The objective F(w) = (1/n) sum log(1 + exp(-y (w.x + b))) + lambda/2 |w|^2, put together in the master from what a
//! stage and the servers summed.
//!
//! Invariant: `rows` and `lambda` are set once, at the first decision, and hold for the whole job; but while a fold is held out,
//! `rows` are those that are trained on.

use crate::parts::Rows;
use flexps_common::data::Facts;
use flexps_common::plan::{Input, Progress};
use flexps_common::{Error, Result};

/// The facts of rows that are read.
pub fn facts(progress: &Progress, input: Input) -> Result<Facts> {
    let facts = progress.facts.get(input.id.0 as usize).cloned().flatten();
    facts.ok_or_else(|| Error::bug("the rows are read, but their facts are not there"))
}

/// Sets the scalars `lambda`, `rows` and `features`, which had to wait for the rows' facts, and gives the facts.
pub fn begin(progress: &mut Progress, rows: Rows, lambda: Option<f64>) -> Result<Facts> {
    let facts = facts(progress, rows.input)?;
    if facts.rows == 0 {
        return Err(Error::data("the input has no rows; nothing can be learnt from it"));
    }
    progress.set("lambda", lambda.unwrap_or(1.0 / facts.rows as f64));
    progress.set("rows", facts.rows as f64);
    progress.set("features", facts.features as f64);
    Ok(facts)
}

/// Whether a score is on its label's side. One of 0, as all rows without features have, is on the negative one's: so `predict` and
/// `evaluate` have it.
#[inline(always)]
pub fn is_right(label: f64, score: f64) -> bool {
    (score > 0.0) == (label > 0.0)
}

/// The same of a margin, label times score.
#[inline(always)]
pub fn is_margin_right(margin: f64, label: f32) -> bool {
    (margin > 0.0) | ((margin == 0.0) & (label <= 0.0))
}

/// Without a penalty, refuses rows that the model at hand, in which `right` of `rows` are, tells apart: none is the best then.
pub fn refuse_separable(right: f64, rows: f64) -> Result<()> {
    if right < rows {
        return Ok(());
    }
    Err(Error::data(format!(
        "the rows are separable: weights that tell all {rows} apart get better the larger they are, so without a penalty none are \
         best; give --lambda above 0"
    )))
}

/// F, from the `loss` that the last run of `stage` reported and the scalar `norm2` of the weights.
pub fn after(progress: &Progress, stage: &str) -> Result<f64> {
    let loss = progress.metric(stage, "loss")? / progress.metric(stage, "rows")?;
    Ok(loss + progress.scalar("lambda", 0.0) / 2.0 * progress.scalar("norm2", 0.0))
}
