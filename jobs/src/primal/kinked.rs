//! The hinge, of whose kink Newton's steps know nothing, by the method of multipliers (Rockafellar, 1976): where rows have
//! the dual variables a, and s is a width,
//! ```text
//! f(m) = largest over a' in 0..=1 of  a' (1 - m) - s/2 (a' - a)^2
//! ```
//! is smooth, and but for a constant the smooth hinge of this width at the margin m - s a. Newton's steps go down to its
//! least, where the a' are nearer those of the optimum, and so become the next a. Rows between the ends of the slope are few,
//! so the matrix is made for each step. By products with it, where it would be too large or take longer, `multipliers` goes the same way.
//! Invariant: the certificate is one of the hinge itself, and dual variables are within their bounds, so that it holds wherever
//! the steps end.

use super::bounds::Bounds;
use super::certificate::RowSums;
use super::gram::Gram;
use super::inner::{Own, Shared, Values, View};
use super::loss::Smooth;
use flexps_common::Result;
use flexps_common::worker::Worker;

/// The first width: from a margin of 0 on, to beyond it, all rows are between the ends. Then each is this part of the one before, down to
/// one that does for most rows.
pub const FIRST: f64 = 2.0;
const NARROWER: f64 = 0.6;
const LEAST: f64 = 1e-3;
/// There what is left falls by the factor s / (s + q) from one to the next, q being eigenvalues of X X^T / (lambda n): where rows are so short
/// beside the penalty that it falls to no less than this part, the next is narrower still, down to the narrowest.
const FALLS: f64 = 0.6;
const NARROWEST: f64 = 1e-9;
/// Widths, and steps at one, at most.
const WIDTHS: usize = 100;
const STEPS: usize = 40;
/// The intercept has at least the curvature that it would have if this part of the rows were between the ends: else one that
/// all rows are beyond would go without bounds, or not at all.
pub const STIFF: f64 = 0.01;
/// Steps at one width end when their distance is this part of the hinge's gap.
pub const ENOUGH: f64 = 0.6;
/// ... and what is left of the intercept's slope makes the gap so many times larger at most.
pub const NEARLY: f64 = 2.0;
/// All end when that is so much of what is asked for, or when what is left is rounding: see [`Widths`].
const WELL: f64 = 0.3;
/// So many widths that brought nothing are the last ones...
const IDLE: f64 = 3.0;
/// ... and of the narrowest one that brings the gap to no less than this part.
const SLOW: f64 = 0.9;

/// How the gap falls from one width to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Widths {
    /// The one at hand.
    pub width: f64,
    /// The gap behind the one before.
    pub last: f64,
    /// The least gap so far.
    pub least: f64,
    /// How many of those that are small enough for most rows brought none that is less.
    pub idle: f64,
}

impl Widths {
    /// Before any.
    pub const NONE: Self = Self { width: FIRST, last: f64::INFINITY, least: f64::INFINITY, idle: 0.0 };

    /// Behind the steps of the width at hand, which left this gap: those of the next one, or nothing where all is rounding.
    pub fn next(self, gap: f64) -> Option<Self> {
        let Self { width, last, least, idle } = self;
        let small = width <= LEAST;
        let idle = if small && (gap.is_nan() || gap >= least) { idle + 1.0 } else { 0.0 };
        if idle >= IDLE || width <= NARROWEST && gap > SLOW * last {
            return None;
        }
        let width = match small {
            false => (NARROWER * width).max(LEAST),
            true if gap > FALLS * last => (NARROWER * width).max(NARROWEST),
            true => width,
        };
        Some(Self { width, last: gap, least: least.min(gap), idle })
    }
}

/// A worker's rows as the steps see them.
struct Centres {
    width: f64,
    /// By row: -y a. Scores are moved by the width times that.
    slopes: Vec<f64>,
}

impl Centres {
    /// Takes what moves the scores away again.
    fn unmove(&self, scores: &mut [f64]) {
        scores.iter_mut().zip(&self.slopes).for_each(|(z, u)| *z -= self.width * u);
    }

    /// Goes on with the slopes that there are now, and with another width.
    fn renew(&mut self, loss: impl Smooth, own: &mut Own, width: f64) {
        let smooth = loss.smoothed(self.width);
        for ((z, u), (y, _)) in own.scores.iter_mut().zip(&mut self.slopes).zip(&own.targets) {
            let now = smooth.at(*y, *z).slope;
            *z += width * now - self.width * *u;
            *u = now;
        }
        self.width = width;
        own.changed();
    }

    /// Sums for the certificate that are of the hinge itself: of the losses and of the dual.
    fn sums(&self, loss: impl Smooth, own: &Own) -> [f64; 2] {
        let (smooth, mut sums) = (loss.smoothed(self.width), [0.0; 2]);
        for ((z, u), (y, weight)) in own.scores.iter().zip(&self.slopes).zip(&own.targets) {
            sums[0] += weight * loss.loss(*y, z - self.width * u);
            sums[1] += weight * smooth.dual(*y, *z, &smooth.at(*y, *z));
        }
        sums
    }
}

impl Shared {
    /// Newton steps on a loss with a kink, of all features, until its gap is well below what is asked for: how many, and how
    /// often they were halved; and the scores that have the slopes of the certificate.
    pub fn settle_kinked(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        own: &mut Own,
        gram: &mut Gram,
    ) -> Result<((usize, u32), Vec<f64>)> {
        let mut centres = Centres { width: FIRST, slopes: vec![0.0; own.scores.len()] };
        let (mut steps, mut halvings, mut gap, mut widths) = (0, 0, f64::INFINITY, Widths::NONE);
        'widths: for number in 0..WIDTHS {
            if number > 0 {
                let Some(next) = widths.next(gap) else { break };
                widths = next;
                centres.renew(loss, own, widths.width);
            }
            let smooth = loss.smoothed(centres.width);
            gram.stiff = STIFF / centres.width;
            for step in 0..STEPS {
                worker.check()?;
                let sums = centres.sums(loss, own);
                let (view, [loss, dual]) = self.look(smooth, worker, (own, Values::Lines(&gram.lines)), sums)?;
                // The hinge's -f*(u) is |u|.
                let rows = RowSums { loss, dual, lift: view.rows.mass, ..view.rows };
                let now = self.certificate(&rows, &view.gradient);
                gap = now.gap;
                if now.gap <= WELL * self.tolerance * now.objective || !now.objective.is_finite() {
                    break 'widths;
                }
                // An intercept that is not there yet makes the certificate far worse than the width does.
                let of_width = self.certificate_without(&rows, &view.gradient).gap + self.off(&view);
                if step > 0 && self.distance(&view) <= ENOUGH * of_width && now.gap <= NEARLY * of_width {
                    break;
                }
                gram.fill(worker, &mut self.reduce, &own.bends)?;
                let way = gram.step((&self.weights, &Bounds::of(None)), &view.gradient, view.constant[0], self.penalty);
                own.begin(worker, &way, Values::Lines(&gram.lines))?;
                let Some(cut) = self.go(smooth, worker, own, (&view, &way))? else { break };
                (steps, halvings) = (steps + 1, halvings + cut);
            }
        }
        // Slopes first: they are those at the scores as they are moved.
        let smooth = loss.smoothed(centres.width);
        let scores = own.scores.iter().zip(&own.targets).map(|(z, (y, _))| loss.score(*y, smooth.at(*y, *z).slope));
        let scores = scores.collect();
        centres.unmove(&mut own.scores);
        own.changed();
        Ok(((steps, halvings), scores))
    }

    /// How far the smooth objective is from its least at most.
    fn distance(&self, view: &View) -> f64 {
        let l2 = self.penalty.l2;
        let slopes = self.weights.iter().zip(&view.gradient).map(|(w, g)| (g + l2 * w).powi(2));
        slopes.sum::<f64>() / (2.0 * l2) + self.off(view)
    }

    /// What a better intercept would bring, about.
    fn off(&self, view: &View) -> f64 {
        self.bias.map_or(0.0, |bias| far(view.constant[0], bias))
    }
}

/// What an intercept would bring, about, that is better than this one, where the slope is `slope`.
pub fn far(slope: f64, bias: f64) -> f64 {
    slope.abs() * 2.0 * (1.0 + bias.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The widths to the end, where each leaves this part of the gap.
    fn to_the_end(left: impl Fn(f64) -> f64) -> (usize, f64) {
        let (mut widths, mut gap, mut count) = (Widths::NONE, 1.0, 0);
        while let Some(next) = widths.next(gap) {
            (widths, gap, count) = (next, gap * left(next.width), count + 1);
            if gap < 1e-12 {
                break;
            }
        }
        (count, gap)
    }

    #[test]
    fn where_rows_are_short_beside_the_penalty_widths_get_narrower_until_the_gap_falls() {
        for short in [1e-2, 1e-4, 1e-6] {
            let (count, gap) = to_the_end(|width| width / (width + short));
            assert!(gap < 1e-12 && count < WIDTHS, "{short:e}: {gap:e} behind {count} widths");
        }
    }

    #[test]
    fn widths_end_where_what_is_left_is_rounding() {
        let (count, gap) = to_the_end(|_| 1.0);
        assert!(gap == 1.0 && count < 20, "{count} widths");
        let (count, _) = to_the_end(|_| 0.99);
        assert!(count < WIDTHS, "{count} widths");
    }
}
