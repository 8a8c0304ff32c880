//! The end of a sweep before all rows were visited, where one slave's workers make it and what is left of the gap is likely to be
//! little enough.
//!
//! Rows that are still to come have about the gap that the visited ones were met with; of theirs so much is left as the
//! sweep before left. Invariants: what is decided depends on the rows and the flags alone; it is a guess, which a
//! certificate judges, and of one that was in vain there is no other in the problem.

use flexps_common::plan::Progress;
use flexps_common::worker::Worker;

/// How often a sweep of one worker is looked at, and from which part of it on: too few rows tell too little.
pub const PIECES: usize = 16;
const LEAST: f64 = 0.125;
/// What is likely to be left has to be below this part of what is asked for.
const SURE: f64 = 0.9;

/// What a worker needs to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Enough {
    /// Of the rows' mean gap.
    aim: f64,
    /// What a sweep leaves of the gap that rows are met with.
    left: f64,
    rows: f64,
}

impl Enough {
    /// None where a sweep is to be whole.
    pub fn new(worker: &Worker<'_>) -> Option<Self> {
        let [aim, left, rows] = ["gap_aim", "gap_left", "rows"].map(|name| worker.scalar(name, 0.0));
        (aim > 0.0 && worker.place.slaves == 1).then_some(Self { aim, left, rows })
    }

    /// Whether the sweep may end behind this part, in which the rows were met with so much of the gap, summed over workers.
    pub fn is(&self, part: f64, met: f64) -> bool {
        part >= LEAST && met / part / self.rows * left(part, self.left) <= SURE * self.aim
    }
}

/// What is left of the gap that rows were met with behind this part of a sweep that leaves `left` of it.
pub fn left(swept: f64, left: f64) -> f64 {
    (1.0 - swept) + swept * left
}

/// Before the first epoch of a problem.
pub fn begin(progress: &mut Progress) {
    progress.set("gap_aim", 0.0);
    progress.set("enough_in_vain", 0.0);
}

/// Behind a sweep that leaves `left` of the gap that rows are met with, where a mean gap of `aim` is asked for; `known` says whether
/// that is more than a first guess.
pub fn decide(progress: &mut Progress, left: f64, aim: f64, known: bool) {
    let tried = progress.scalar("enough_in_vain", 0.0) > 0.0;
    progress.set("gap_aim", if known && !tried { aim } else { 0.0 });
    progress.set("gap_left", left);
}

/// Behind a certificate that was not enough.
pub fn in_vain(progress: &mut Progress) {
    if progress.metric("ascent", "swept").is_ok_and(|swept| swept < 1.0) {
        progress.set("enough_in_vain", 1.0);
        progress.set("gap_aim", 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, Rows, run};
    use crate::flags::Common;
    use crate::lr::{Lr, Solver};
    use flexps_common::host::Host;
    use flexps_common::metrics::{Metric, Metrics};

    #[test]
    fn the_last_sweep_need_not_be_whole_and_ends_with_a_certificate() {
        let blocks = Rows { rows: 4000, features: 400, ..Rows::sparse(5) }.blocks(4);
        let mut short = 0;
        for (tolerance, slots) in [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5].into_iter().zip([1, 2].into_iter().cycle()) {
            let common = Common { tolerance, epochs: 100, ..fixtures::flags() };
            let host = Host::cluster(1, slots);
            let outcome = run(host, &Lr { common, solver: Solver::Sdca, ..Lr::default() }, &blocks);
            let [visited, swept] = ["visited", "swept"].map(|name| outcome.progress.metric("ascent", name).unwrap());
            assert!((visited - swept * 4000.0).abs() < 130.0, "{visited} rows, {swept} of a sweep");
            assert!(outcome.progress.scalars["gap"] <= tolerance && outcome.stopped.is_some());
            short += u32::from(swept < 1.0);
        }
        assert!(short >= 3, "{short} of 6");
    }

    #[test]
    fn a_guess_that_was_in_vain_is_the_last_one() {
        let mut progress = Progress::default();
        let aim = |progress: &Progress| progress.scalar("gap_aim", 0.0);
        begin(&mut progress);
        decide(&mut progress, 0.3, 1e-3, false);
        assert_eq!(aim(&progress), 0.0, "nothing is known yet");
        decide(&mut progress, 0.3, 1e-3, true);
        assert_eq!(aim(&progress), 1e-3);
        for (swept, then) in [(1.0, 1e-3), (0.5, 0.0)] {
            let mut metrics = Metrics::default();
            metrics.add("swept", Metric::Min(swept));
            progress.metrics.insert("ascent".to_owned(), metrics);
            in_vain(&mut progress);
            assert_eq!(aim(&progress), then);
            decide(&mut progress, 0.3, 1e-3, true);
            assert_eq!(aim(&progress), then);
        }
        begin(&mut progress);
        decide(&mut progress, 0.3, 1e-3, true);
        assert_eq!(aim(&progress), 1e-3, "another problem");
    }

    #[test]
    fn what_is_left_goes_from_all_to_what_a_sweep_leaves() {
        assert_eq!((left(0.0, 0.2), left(0.5, 0.2), left(1.0, 0.2)), (1.0, 0.6, 0.2));
    }
}
