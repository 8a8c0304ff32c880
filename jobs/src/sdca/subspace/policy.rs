//! Which epochs search: the master's side.
//!
//! Invariant: what is decided depends on what the workers reported alone.

use flexps_common::plan::Progress;

/// Epochs without a search behind vain ones: twice as many each time, up to these.
const RESTS: f64 = 16.0;
/// How many more sweeps there must be to come for it to pay.
const SWEEPS: f64 = 8.0;

/// Before the first epoch of a problem.
pub fn begin(progress: &mut Progress) {
    for (name, value) in [("subspace", 0.0), ("subspace_rests", 0.0), ("subspace_rested", 1.0)] {
        progress.set(name, value);
    }
}

/// Behind an epoch: sets the scalar `subspace` for the next one, `falls` being the factor by which the gap falls in a sweep,
/// `left` the number of tolerances that are left of it.
pub fn decide(progress: &mut Progress, falls: f64, left: f64) {
    let rests = progress.scalar("subspace_rests", 0.0);
    let found = progress.metric("ascent", "better").unwrap_or(0.0);
    let searched = progress.metric("ascent", "searched").unwrap_or(0.0);
    let more = left.max(1.0).ln() >= SWEEPS * -falls.max(1e-6).ln();
    if searched > 0.0 && 2.0 * found < searched {
        // It would mostly be in vain the next time too.
        let most = (2.0 * progress.scalar("subspace_rested", 1.0)).min(RESTS);
        progress.set("subspace_rested", most);
        progress.set("subspace_rests", most);
    } else if searched > 0.0 {
        progress.set("subspace_rested", 1.0);
    } else if rests > 0.0 {
        progress.set("subspace_rests", rests - 1.0);
    }
    let on = progress.scalar("subspace", 0.0) > 0.0 || more;
    progress.set("subspace", f64::from(u8::from(on)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::metrics::{Metric, Metrics};

    #[test]
    fn searches_begin_where_many_sweeps_are_to_come_and_rest_where_they_are_in_vain() {
        let on = |progress: &Progress| progress.scalar("subspace", 0.0) > 0.0;
        let mut progress = Progress::default();
        begin(&mut progress);
        decide(&mut progress, 0.3, 300.0);
        assert!(!on(&progress), "five sweeps to come");
        decide(&mut progress, 0.9, 300.0);
        assert!(on(&progress), "54 sweeps to come");
        decide(&mut progress, 0.3, 2.0);
        assert!(on(&progress), "what goes well is not stopped");
        // One of three searches led on, then none.
        for rests in [2.0, 4.0] {
            let mut metrics = Metrics::default();
            metrics.add("searched", Metric::Count(3));
            metrics.add("better", Metric::Count(if rests > 2.0 { 0 } else { 1 }));
            progress.metrics.insert("ascent".to_owned(), metrics);
            decide(&mut progress, 0.9, 300.0);
            assert_eq!(progress.scalar("subspace_rests", 0.0), rests);
        }
        progress.metrics.clear();
        decide(&mut progress, 0.9, 300.0);
        assert_eq!(progress.scalar("subspace_rests", 0.0), 3.0, "an epoch of it is over");
        begin(&mut progress);
        assert!(!on(&progress), "another problem");
    }
}
