//! Greedy: walks the ready stages in order of submission and places each that fits. Work conserving: no stage that fits is
//! left. A wide stage may wait for ever while narrow ones come.

use super::order::Walk;
use super::{Decision, Policy, View};

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Greedy;

impl Policy for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let mut walk = Walk::new(view);
        for ready in view.ready {
            walk.place(ready);
        }
        walk.decision
    }
}
