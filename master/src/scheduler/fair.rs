//! Fair: the next stage is one of the user (or queue) with the fewest slots for its weight; among equals, of the one that
//! has used the fewest slot-seconds for its weight. Within a share: by priority, then in order of age. The impatient get
//! reservations as under `prioritized`, since a wide stage could starve beside narrow ones of the same share.

use super::order::{Patience, Walk};
use super::{Decision, Policy, Ready, View};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fair {
    /// When a stage gets a reservation.
    pub patience: Patience,
}

/// A share with stages to place.
struct Turn<'a> {
    owner: u32,
    weight: f64,
    slots: u64,
    used: f64,
    /// In reverse order.
    left: Vec<&'a Ready>,
}

impl Policy for Fair {
    fn name(&self) -> &'static str {
        "fair"
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let (mut walk, patient) = Walk::with_patience(view, self.patience);
        let share = |owner: u32| view.shares.get(owner as usize).copied().unwrap_or_default();
        let mut turns: Vec<Turn<'_>> = Vec::new();
        for ready in patient {
            let owner = ready.owner;
            while turns.len() <= owner as usize {
                let (owner, share) = (turns.len() as u32, share(turns.len() as u32));
                let (weight, slots, used) = (share.weight, u64::from(share.slots), share.used);
                turns.push(Turn { owner, weight, slots, used, left: Vec::new() });
            }
            turns[owner as usize].left.push(ready);
        }
        for run in &walk.begun {
            if let Some(turn) = turns.get_mut(run.owner as usize) {
                turn.slots += u64::from(run.slots());
            }
        }
        for turn in &mut turns {
            turn.left.sort_unstable_by_key(|r| Reverse((Reverse(r.priority), r.since, r.key())));
        }
        let mut heap: BinaryHeap<Turn<'_>> = turns.into_iter().filter(|t| !t.left.is_empty()).collect();
        while let Some(mut turn) = heap.pop() {
            if walk.free.total() == 0 {
                break;
            }
            let Some(ready) = turn.left.pop() else { continue };
            if walk.place(ready) {
                let placed = walk.begun.last().map_or(0, super::Running::slots);
                turn.slots += u64::from(placed);
            }
            heap.push(turn);
        }
        walk.decision
    }
}

impl Turn<'_> {
    fn key(&self) -> (f64, f64) {
        (self.slots as f64 / self.weight, self.used / self.weight)
    }
}

impl Ord for Turn<'_> {
    /// The greatest is the one whose turn it is.
    fn cmp(&self, other: &Self) -> Ordering {
        let ((a, b), (x, y)) = (self.key(), other.key());
        x.total_cmp(&a).then(y.total_cmp(&b)).then(other.owner.cmp(&self.owner))
    }
}

impl PartialOrd for Turn<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn<'_> {}
