//! The method of multipliers for the hinge (`kinked`) by rounds of wide stages, where features are too many for a matrix of all, or products
//! with it take less.
//!
//! What moves a row's score, its slope where the width was changed last, is a column, which goes with checkpoints. The stage that
//! makes the gradient renews it when the master says so; the master does when the steps at this width are near their end, which
//! it sees by the same numbers as the certificate. Invariants: as those of `kinked`; whatever moves the scores, the certificate holds.

use super::certificate;
use super::kinked::{ENOUGH, FIRST, LEAST, NARROWER, NEARLY, SLOW, STIFF, far};
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
/// ... of the steps at this width, and of the gap where it became that.
const STEPS: &str = "width_steps";
const GAP: &str = "width_gap";

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

/// Before a problem: whether its steps go this way.
pub fn start(progress: &mut Progress, do_so: bool) {
    let width = if do_so { FIRST } else { 0.0 };
    let named = [(WIDTH, width), (RENEWS, 0.0), (MOVED, 0.0), (STEPS, 0.0), (GAP, f64::INFINITY)];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
}

/// Behind a step.
pub fn stepped(progress: &mut Progress) {
    let steps = progress.scalar(STEPS, 0.0);
    progress.set(STEPS, steps + 1.0);
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
    if !stuck && (distance > ENOUGH * of_width || now.gap > NEARLY * of_width) {
        return Ok(Flow::Next);
    }
    // What is left at the least width is rounding.
    if width <= LEAST && now.gap > SLOW * progress.scalar(GAP, f64::INFINITY) {
        return Ok(time::nowhere(progress));
    }
    let narrower = (NARROWER * width).max(LEAST);
    let named = [
        (WIDTH, narrower),
        (RENEWS, width),
        (STEPS, 0.0),
        (GAP, now.gap),
        // Nothing is known of steps at this width.
        ("first_residual", 0.0),
        ("length", 1.0),
    ];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    Ok(Flow::Again)
}
