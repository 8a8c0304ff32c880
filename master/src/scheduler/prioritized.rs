//! Prioritized: by priority, then by how often and how long passed over. A stage whose patience is at its end gets a
//! reservation: slots are held back for it until it fits, so that nothing waits for ever. While nobody is impatient, no
//! stage that fits is left.

use super::order::{Patience, Walk};
use super::{Decision, Policy, View};
use std::cmp::Reverse;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prioritized {
    /// When a stage gets a reservation.
    pub patience: Patience,
}

impl Policy for Prioritized {
    fn name(&self) -> &'static str {
        "prioritized"
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let (mut walk, mut order) = Walk::with_patience(view, self.patience);
        order.sort_unstable_by_key(|r| (Reverse(r.priority), Reverse(r.passed_over), r.since, r.key()));
        for ready in order {
            walk.place(ready);
        }
        walk.decision
    }
}
