//! The method of multipliers for the hinge (`kinked`) by rounds of wide stages, where features are too many for a matrix of all, or products
//! with it take less.
//!
//! What moves a row's score, its slope where the width was changed last, is a column, which goes with checkpoints. The stage that
//! makes the gradient renews it when the master says so; the master does when the steps at this width are near their end, which
//! it sees by the same numbers as the certificate. Invariants: as those of `kinked`; whatever moves the scores, the certificate holds.

use super::certificate;
use super::kinked::{ENOUGH, FIRST, NEARLY, STIFF, Widths, far};
use super::loss::Smooth;
use super::time;
use crate::parts::Rows;
use flexps_common::Result;
use flexps_common::plan::{Flow, Progress};
use flexps_common::worker::Worker;

/// What moves the rows' scores.
pub const COLUMN: &str = "centres";

/// The scalar of the width, which is 0 where steps don't go this way.
const WIDTH: &str = "width";
/// ... of the width before, where the next gradient is to renew what moves the scores.
const RENEWS: &str = "renewed_width";
/// ... whether the column of what moves them is there.
const MOVED: &str = "centred";
/// ... of the steps at this width, and of those of them that brought nothing but rounding.
const STEPS: &str = "width_steps";
const DROWNED: &str = "drowned_steps";
/// ... of what else [`Widths`] hold.
const LAST: &str = "width_gap";
const LEAST: &str = "least_width_gap";
const IDLE: &str = "idle_widths";
/// ... of the gap behind the round before, of a matrix of all features.
const ROUND: &str = "round_gap";

/// A step that lowers the objective by no more than this part brings nothing but rounding, and the slope of the intercept at best: so
/// many of a width are the last.
const NOISE: f64 = 1e-14;
const MOST_DROWNED: f64 = 3.0;

/// What moves a worker's scores.
#[derive(Debug, Default)]
pub struct Centres {
    width: f64,
    /// The width before, if they are to be renewed.
    renews: Option<f64>,
    /// The places of the worker's blocks among the slave's, and of each block by row f' where they were renewed last, or
    /// nothing.
    blocks: Vec<(usize, Vec<f32>)>,
}

impl Centres {
    /// Takes those of this worker's rows.
    pub fn take<L: Smooth>(worker: &mut Worker<'_>, rows: Rows) -> Result<Self> {
        let width = worker.scalar(WIDTH, 0.0);
        if !L::KINKED || width == 0.0 {
            return Ok(Self::default());
        }
        let are_there = worker.scalar(MOVED, 0.0) == 1.0;
        let mut blocks = Vec::new();
        for at in worker.own_blocks(rows.input)? {
            let column = if are_there { worker.find_column(rows.input, at, COLUMN)? } else { None };
            blocks.push((at, column.unwrap_or_default()));
        }
        let renews = Some(worker.scalar(RENEWS, 0.0)).filter(|before| *before > 0.0);
        Ok(Self { width, renews, blocks })
    }

    /// The smooth loss whose least the steps go to.
    pub fn loss<L: Smooth>(&self, loss: L) -> L {
        if self.width > 0.0 { loss.smoothed(self.width) } else { loss }
    }

    /// The point at which that is to be looked at, of a row of the worker's block of this number with the score `z`.
    #[inline(always)]
    pub fn point(&self, (block, row): (usize, usize), z: f64) -> f64 {
        let slope = self.blocks.get(block).and_then(|(_, slopes)| slopes.get(row));
        slope.map_or(z, |slope| z + self.width * f64::from(*slope))
    }

    /// The same, of rows that come in order, each renewed before if it is to be.
    #[inline(always)]
    pub fn renewed(&mut self, place: (usize, usize), loss: impl Smooth, y: f64, z: f64) -> f64 {
        if let Some(before) = self.renews
            && let Some((_, slopes)) = self.blocks.get_mut(place.0)
        {
            let old = slopes.get(place.1).copied().unwrap_or(0.0);
            let slope = loss.smoothed(before).at(y, z + before * f64::from(old)).slope as f32;
            match slopes.get_mut(place.1) {
                Some(old) => *old = slope,
                None => slopes.push(slope),
            }
        }
        self.point(place, z)
    }

    /// Keeps them for the next stage.
    pub fn keep(self, worker: &mut Worker<'_>, rows: Rows) -> Result<()> {
        let mut blocks = self.blocks.into_iter().filter(|(_, slopes)| !slopes.is_empty());
        blocks.try_for_each(|(at, slopes)| worker.put_column(rows.input, at, COLUMN, slopes))
    }
}

/// Before a problem, of the hinge or of another loss: whether its steps go this way, or those of each round by a matrix.
pub fn start(progress: &mut Progress, is_hinge: bool, by_matrix: bool) {
    let width = if is_hinge && !by_matrix { FIRST } else { 0.0 };
    let round = if is_hinge && by_matrix { f64::INFINITY } else { 0.0 };
    let Widths { last, least, idle, .. } = Widths::NONE;
    let named = [(WIDTH, width), (RENEWS, 0.0), (MOVED, 0.0), (STEPS, 0.0), (DROWNED, 0.0), (ROUND, round)];
    let gaps = [(LAST, last), (LEAST, least), (IDLE, idle)];
    named.into_iter().chain(gaps).for_each(|(name, value)| progress.set(name, value));
}

/// Behind a step that lowered the objective by this part.
pub fn stepped(progress: &mut Progress, decrease: f64) {
    let [steps, drowned] = [STEPS, DROWNED].map(|name| progress.scalar(name, 0.0));
    progress.set(STEPS, steps + 1.0);
    progress.set(DROWNED, drowned + f64::from(u8::from(decrease <= NOISE)));
}

/// Behind a certificate that is not enough, where rounds go by the matrix: each begins at the first width again, so one that did not
/// lower the gap is the last.
pub fn looked(progress: &mut Progress) -> Flow {
    let (before, gap) = (progress.scalar(ROUND, 0.0), progress.scalar("gap", 0.0));
    if before == 0.0 {
        return Flow::Next;
    }
    progress.set(ROUND, gap);
    if before.is_finite() && gap >= before { time::nowhere(progress) } else { Flow::Next }
}

/// The least curvature of the intercept.
pub fn stiff(progress: &Progress) -> f64 {
    let width = progress.scalar(WIDTH, 0.0);
    if width > 0.0 { STIFF / width } else { 0.0 }
}

/// Behind a certificate that is not enough: on to the next width if the steps at this one are near their end. `stuck` says that
/// the last led nowhere.
pub fn judge(progress: &mut Progress, bias: bool, stuck: bool) -> Result<Flow> {
    let width = progress.scalar(WIDTH, 0.0);
    if width == 0.0 {
        // Of a smooth loss there is no more to be had then.
        let stuck = stuck || progress.scalar("decrease", f64::INFINITY) <= 0.0;
        return Ok(if stuck { time::nowhere(progress) } else { Flow::Next });
    }
    if progress.scalar(RENEWS, 0.0) > 0.0 {
        progress.set(RENEWS, 0.0);
        progress.set(MOVED, 1.0);
    }
    if progress.scalar(STEPS, 0.0) == 0.0 {
        return Ok(Flow::Next);
    }
    let [now, of_width] = [bias, false].map(|bias| certificate::read(progress, "gradient", "screen", bias));
    let ((now, _), (of_width, _)) = (now?, of_width?);
    let slope = progress.metric("gradient", "slope")? / progress.scalar("trained_rows", 1.0);
    let off = if bias { far(slope, progress.scalar("bias", 0.0)) } else { 0.0 };
    let distance = progress.metric("screen", "gradient2")? / (2.0 * progress.scalar("l2", 0.0)) + off;
    let of_width = of_width.gap + off;
    let stuck = stuck || progress.scalar(DROWNED, 0.0) >= MOST_DROWNED;
    if !stuck && (distance > ENOUGH * of_width || now.gap > NEARLY * of_width) {
        return Ok(Flow::Next);
    }
    let [last, least, idle] = [LAST, LEAST, IDLE].map(|name| progress.scalar(name, 0.0));
    let Some(next) = (Widths { width, last, least, idle }).next(now.gap) else {
        return Ok(time::nowhere(progress));
    };
    let named = [
        (WIDTH, next.width),
        (RENEWS, width),
        (STEPS, 0.0),
        (DROWNED, 0.0),
        (LAST, next.last),
        (LEAST, next.least),
        (IDLE, next.idle),
        // Nothing is known of steps at this width.
        ("first_residual", 0.0),
        ("length", 1.0),
    ];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    Ok(Flow::Again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_matrix_a_round_that_did_not_lower_the_gap_is_the_last() {
        let rounds = |is_hinge, by_matrix, gaps: &[f64]| {
            let mut progress = Progress::default();
            start(&mut progress, is_hinge, by_matrix);
            let next = |gap: &f64| {
                progress.set("gap", *gap);
                looked(&mut progress) == Flow::Next
            };
            gaps.iter().map(next).collect::<Vec<bool>>()
        };
        assert_eq!(rounds(true, true, &[f64::INFINITY, 1e-3, 1e-5, 1e-5]), [true, true, true, false]);
        assert_eq!(rounds(true, false, &[1e-5, 1e-5]), [true; 2]);
        assert_eq!(rounds(false, true, &[1e-5, 1e-5]), [true; 2]);
    }
}
