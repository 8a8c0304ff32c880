//! Sequential: one job at a time, in order of submission. Stages of that job that don't wait for one another run side by
//! side.

use super::order::Walk;
use super::{Decision, Policy, View};

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequential;

impl Policy for Sequential {
    fn name(&self) -> &'static str {
        "sequential"
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        // A started job goes on until its end, even when none of its stages is ready at this moment.
        let waiting = view.ready.first().map(|r| r.job);
        let Some(turn) = view.started.first().copied().or(waiting) else { return Decision::default() };
        let mut walk = Walk::new(view);
        let first = view.ready.partition_point(|r| r.job < turn);
        for ready in view.ready[first..].iter().take_while(|r| r.job == turn) {
            walk.place(ready);
        }
        walk.decision
    }
}
