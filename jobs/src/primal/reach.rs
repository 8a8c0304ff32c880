//! How far a path of penalties may go on without another look at all features.
//!
//! With u the slopes of the rows' losses, over n, feature j's gradient is x_j.u. From where it is known, at slopes v,
//! ```text
//! |x_j.u| <= |x_j.v| + |x_j| |u - v|
//! ```
//! so while |u - v| is at most (l1 - |x_j.v|) / |x_j| the feature is in the way of no certificate (the sphere test of Fercoq,
//! Gramfort and Salmon, ICML 2015, with its centre kept while the penalty falls). Features that come in the way sooner, if
//! the slopes go on moving as they did, are watched: their gradients are made of their columns. Invariant: while the
//! slopes are within the radius of a step, no feature that is not watched has a gradient above that step's L1 penalty.

use flexps_common::metrics::Metric;
use flexps_common::plan::Progress;
use flexps_common::worker::Worker;

/// Steps of the path that are looked ahead at most.
pub const MOST: usize = 16;
/// By how much faster than they did the slopes may move.
const MARGIN: f64 = 1.25;
/// What a look at all features costs, in passes over the rows, one of which looks for what goes into columns.
const LOOK: f64 = 2.5;
/// What it costs to fill all columns.
const MAKE: f64 = 1.5;
/// What it costs to go through them, as often as a step takes.
const WATCH: f64 = 1.5;

/// Stands for the square of how far slopes are from an anchor that is not known: what is summed over slaves must be finite.
pub const LOST: f64 = 1e100;
/// This part of all non-zeros may be watched in any case: columns take as much memory as rows.
const HELD: f64 = 0.4;
/// Bytes of a non-zero in a column.
const NONZERO: f64 = 8.0;
/// Features whose gradient comes to this part of the penalty are watched where the pace is not known. Where watching pays for
/// no step ahead, their columns are made along with the others, lest it take another pass over the rows.
const NEAR: f64 = 0.7;

/// The penalties to come.
#[derive(Debug)]
pub struct Ahead {
    /// The L1 penalty now and at each step ahead, falling.
    limits: Vec<f64>,
    /// How far the slopes move in a step, with the margin; 0 if unknown.
    pace: f64,
}

/// What stands for features at the look that is under way: those that are not to be watched.
#[derive(Debug)]
pub struct Radii {
    /// By step, of the features that come in the way first at each step or at none.
    by_first: Vec<Vec<f64>>,
    /// ... and of those that are not near.
    far: Vec<f64>,
}

/// The scalar, and the metric, of the radius so many steps behind the look.
fn name(step: usize) -> String {
    format!("reach_{step}")
}

impl Ahead {
    /// As the scalars tell.
    pub fn of(worker: &Worker<'_>) -> Self {
        let [l1, ratio, left, pace] = [("l1", 0.0), ("path_ratio", 1.0), ("path_left", 0.0), ("pace", 0.0)]
            .map(|(name, or)| worker.scalar(name, or));
        Self::new(l1, ratio, left as usize, pace)
    }

    fn new(l1: f64, ratio: f64, left: usize, pace: f64) -> Self {
        Self { limits: (0..=left.min(MOST)).map(|step| l1 * ratio.powi(step as i32)).collect(), pace: MARGIN * pace }
    }

    /// How many answers [`Ahead::first`] has.
    pub fn classes(&self) -> usize {
        self.limits.len() + 1
    }

    /// The first step at which a feature may come in the way, by the size of its gradient and its norm; behind the last if at
    /// none.
    pub fn first(&self, size: f64, norm: f64) -> usize {
        let comes = |step: usize| size + norm * self.pace * step as f64 > self.limits[step];
        let last = self.limits.len() - 1;
        if comes(last) { (0..last).find(|step| comes(*step)).unwrap_or(last) } else { last + 1 }
    }

    /// Whether a gradient of this size is near the penalty.
    pub fn is_near(&self, size: f64) -> bool {
        size > 0.0 && size >= NEAR * self.limits[0]
    }

    /// For how many steps watching pays most, by the non-zeros of features that come in the way first at each and the bytes
    /// that these may take; 0 if for none.
    pub fn choose(&self, nonzeros: &[f64], memory: f64) -> usize {
        let (all, mut watched) = (nonzeros.iter().sum::<f64>().max(1.0), nonzeros[0]);
        let most = (HELD * all).max(memory / NONZERO);
        let (mut least, mut chosen) = (LOOK, 0);
        for (step, own) in nonzeros.iter().enumerate().take(self.limits.len()).skip(1) {
            watched += own;
            let cost = LOOK / step as f64 + watched / all * (WATCH + MAKE / step as f64);
            if cost < least && watched <= most && self.pace > 0.0 {
                (least, chosen) = (cost, step);
            }
        }
        chosen
    }

    /// Whether a feature is watched if `chosen` steps pay most.
    pub fn is_watched(&self, chosen: usize, first: usize, size: f64) -> bool {
        if chosen > 0 { first <= chosen } else { self.is_near(size) }
    }

    /// None yet.
    pub fn radii(&self) -> Radii {
        let none = vec![f64::MAX; self.limits.len()];
        Radii { by_first: vec![none.clone(); self.classes()], far: none }
    }
}

impl Radii {
    /// Adds a feature.
    pub fn add(&mut self, ahead: &Ahead, first: usize, size: f64, norm: f64) {
        if norm == 0.0 {
            return;
        }
        let lower = |radii: &mut [f64]| {
            let by = 1.0 / norm;
            radii.iter_mut().zip(&ahead.limits).for_each(|(radius, limit)| *radius = radius.min((limit - size) * by));
        };
        lower(&mut self.by_first[first]);
        if !ahead.is_near(size) {
            lower(&mut self.far);
        }
    }

    /// The radius of each step, if features are watched for so many of the steps `ahead`; none if none are watched.
    fn of(&self, ahead: &Ahead, chosen: usize) -> Vec<f64> {
        if chosen == 0 {
            return if ahead.pace == 0.0 { self.far.clone() } else { Vec::new() };
        }
        let mut least = vec![f64::MAX; self.far.len()];
        for radii in &self.by_first[chosen + 1..] {
            least.iter_mut().zip(radii).for_each(|(least, radius)| *least = least.min(*radius));
        }
        least
    }

    /// Reports them.
    pub fn report(&self, worker: &mut Worker<'_>, ahead: &Ahead, chosen: usize) {
        for (step, radius) in self.of(ahead, chosen).into_iter().enumerate() {
            worker.report(&name(step), Metric::Min(radius));
        }
    }
}

/// Behind a look of the stage `screen` at all features: notes what it found for the steps ahead.
pub fn looked(progress: &mut Progress, screen: &str) {
    for step in 0..=MOST {
        let radius = progress.metric(screen, &name(step)).unwrap_or(0.0);
        progress.set(&name(step), radius);
    }
    let step = progress.scalar("path_step", 0.0);
    progress.set("looked", step);
    if progress.scalar("moved", 1.0) == 1.0 {
        progress.set("anchored", step);
    }
    reached(progress);
}

/// Sets `reach`, the radius at the present step, and gives it: not above 0 where all features must be looked at.
pub fn reached(progress: &mut Progress) -> f64 {
    let ahead = progress.scalar("path_step", 0.0) - progress.scalar("looked", f64::INFINITY);
    let radius = if ahead >= 0.0 { progress.scalar(&name(ahead as usize), 0.0) } else { 0.0 };
    progress.set("reach", radius);
    radius
}

/// Behind a step of which the slopes are so far from where the gradient of all features was made: notes their pace.
pub fn strayed(progress: &mut Progress, far: f64) {
    let steps = progress.scalar("path_step", 0.0) - progress.scalar("anchored", 0.0);
    if steps >= 1.0 && far < LOST.sqrt() {
        progress.set("pace", far / steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    proptest! {
        #[test]
        fn within_the_radius_no_feature_that_is_not_watched_exceeds_the_penalty(
            columns in prop::collection::vec(prop::collection::vec(-1.0..1.0f64, 5), 1..30),
            then in prop::collection::vec(-0.2..0.2f64, 5),
            way in prop::collection::vec(-1.0..1.0f64, 5),
            pace in prop_oneof![Just(0.0), 0.0..0.05f64],
            chosen in 0..4usize,
            part in 0.0..1.0f64,
        ) {
            let ahead = Ahead::new(0.3, 0.9, 5, pace);
            let (mut radii, mut unwatched) = (ahead.radii(), Vec::new());
            for column in &columns {
                let (size, norm) = (dot(column, &then).abs(), dot(column, column).sqrt());
                let first = ahead.first(size, norm);
                radii.add(&ahead, first, size, norm);
                if !ahead.is_watched(chosen, first, size) {
                    unwatched.push(column);
                }
            }
            for step in 0..=5 {
                let Some(radius) = radii.of(&ahead, chosen).get(step).copied() else { break };
                // So many steps ahead all that may be in the way at the pace are watched.
                prop_assert!(chosen < step.max(1) || radius >= MARGIN * pace * step as f64 * (1.0 - 1e-9));
                let length = part * radius.min(1.0) / dot(&way, &way).sqrt();
                let now: Vec<f64> = then.iter().zip(&way).map(|(v, d)| v + length * d).collect();
                for column in unwatched.iter().filter(|_| radius > 0.0) {
                    prop_assert!(dot(column, &now).abs() <= ahead.limits[step] * (1.0 + 1e-12));
                }
            }
        }
    }

    #[test]
    fn so_many_steps_are_watched_for_as_their_columns_are_few() {
        let ahead = Ahead::new(0.3, 0.9, 40, 0.01);
        assert_eq!(ahead.classes(), MOST + 2);
        let nonzeros = |each: f64, rest: f64| -> Vec<f64> {
            (0..MOST + 2).map(|first| if first <= MOST { each } else { rest }).collect()
        };
        assert_eq!(ahead.choose(&nonzeros(0.0, 1000.0), 0.0), MOST);
        let some = ahead.choose(&nonzeros(40.0, 1000.0), 0.0);
        assert!((2..MOST).contains(&some), "{some}");
        // Most of all must be watched at once: that takes memory.
        let many = [vec![2000.0], nonzeros(10.0, 1000.0)[1..].to_vec()].concat();
        assert_eq!((ahead.choose(&many, 0.0), ahead.choose(&many, 4000.0 * NONZERO)), (0, MOST));
        assert_eq!(Ahead::new(0.3, 0.9, 40, 0.0).choose(&nonzeros(0.0, 1000.0), 0.0), 0);
        assert_eq!(Ahead::new(0.3, 0.9, 0, 0.01).choose(&[0.0, 1000.0], 0.0), 0);
    }
}
