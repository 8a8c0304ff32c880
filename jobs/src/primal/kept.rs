//! What a worker keeps of its rows between stages, as columns of its first block.
//!
//! Invariant: what is found was kept by a worker of the same rows: that the blocks are the same is looked at.

use crate::parts::Rows;
use flexps_common::value::Element;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// The columns of the rows' scores, and of the blocks whose rows they are.
pub const SCORES: [&str; 2] = ["scores", "scored-blocks"];
/// ... and of their losses' slopes, over n, where the gradient was made.
pub const ANCHOR: [&str; 2] = ["anchor", "anchored-blocks"];
/// ... and of the scores that the last step was to lead to ([`super::foresight`]).
pub const FORESEEN: [&str; 2] = ["foreseen", "foreseen-blocks"];

/// Takes the scores that were kept of this worker's rows.
pub fn take_scores(worker: &mut Worker<'_>, rows: Rows) -> Result<Vec<f64>> {
    let scores = find(worker, rows, SCORES)?;
    scores.ok_or_else(|| Error::bug(format!("the column {} of a worker's rows is lost", SCORES[0])))
}

/// Takes what was kept under the first name, with its blocks under the other, if it is there and of the blocks that are this
/// worker's now.
pub fn find<T: Element>(worker: &mut Worker<'_>, rows: Rows, [name, of]: [&str; 2]) -> Result<Option<Vec<T>>> {
    let own = own_blocks(worker, rows)?;
    let Some(first) = own.first().map(|first| *first as usize) else { return Ok(Some(Vec::new())) };
    let blocks: Option<Vec<u32>> = worker.find_column(rows.input, first, of)?;
    let values = worker.find_column(rows.input, first, name)?;
    Ok(values.filter(|_| blocks == Some(own)))
}

/// Keeps numbers for later stages of as many threads.
pub fn keep<T: Element>(worker: &mut Worker<'_>, rows: Rows, [name, of]: [&str; 2], values: Vec<T>) -> Result<()> {
    let own = own_blocks(worker, rows)?;
    let Some(first) = own.first().map(|first| *first as usize) else { return Ok(()) };
    worker.put_column(rows.input, first, of, own)?;
    worker.put_column(rows.input, first, name, values)
}

/// The places of a worker's blocks among the slave's.
pub fn own_blocks(worker: &mut Worker<'_>, rows: Rows) -> Result<Vec<u32>> {
    Ok(worker.own_blocks(rows.input)?.iter().map(|at| *at as u32).collect())
}
