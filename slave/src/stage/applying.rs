//! How the updates that a stage run keeps reach the shard.
//!
//! Invariants: one thread at a time applies them, without holding the run's lock; what could not be applied is an error of
//! the run while it goes on, and of what follows it when it is over.

use super::run::Run;
use super::state::State;
use super::sync::MutexGuard;
use crate::consistency::ENDED;
use crate::stage::exchange::{Update, view};
use flexps_common::error::Result;

impl Run {
    /// Applies what is due, or waits for who does.
    pub fn apply_due(&self) {
        let mut state = self.state.lock();
        let woken = self.moved(&mut state);
        while state.applying {
            self.applied.wait(&mut state);
        }
        drop((state, woken));
    }

    /// Whether nothing is left to be applied, and nobody is at it: [`Run::finish`] does not wait.
    pub fn rests(&self) -> bool {
        let state = self.state.lock();
        !state.applying && state.pending.is_empty()
    }

    /// Whether updates may be held back for a snapshot: [`Run::give_up_mark`] applies them.
    pub fn holds_back(&self) -> bool {
        self.state.lock().mark.is_wanted()
    }

    /// The run is over everywhere: applies whatever is left. Of one that is not settled nothing is. An error when an update
    /// could not be applied, now or before.
    pub fn finish(&self) -> Result<()> {
        if !self.settled.is_settled() {
            return Ok(());
        }
        let mut state = self.state.lock();
        while state.applying {
            self.applied.wait(&mut state);
        }
        while self.apply_below(&mut state, ENDED) {}
        let left: Vec<_> = state.pending.take_all().collect();
        self.apply_all(&mut state, left, ENDED);
        state.lost.clone().map_or(Ok(()), Err)
    }

    /// Applies what is due, unless another thread does: that one then looks again.
    pub(super) fn advance(&self, state: &mut MutexGuard<'_, State>) {
        while !state.applying {
            let due = state.clocks.due();
            if !self.apply_below(state, due) {
                return;
            }
        }
    }

    /// Applies updates of clocks below `due`, as far as no snapshot comes first; whether there was anything to do.
    fn apply_below(&self, state: &mut MutexGuard<'_, State>, due: u64) -> bool {
        let until = state.mark.until(due);
        let ready: Vec<_> = state.pending.take_below(until).collect();
        if ready.is_empty() && state.applied >= until {
            return state.mark.take(until, &self.shard);
        }
        self.apply_all(state, ready, until);
        true
    }

    fn apply_all(&self, state: &mut MutexGuard<'_, State>, updates: Vec<Vec<Update>>, due: u64) {
        state.mark.touch(due);
        if !updates.is_empty() {
            state.applying = true;
            let result =
                MutexGuard::unlocked(state, || updates.iter().flatten().try_for_each(|update| self.apply(update)));
            state.applying = false;
            self.applied.notify_all();
            if let Err(e) = result {
                // It was checked when it was kept, but a function of a user's own may panic.
                state.lost.get_or_insert_with(|| e.clone());
                self.fail(state, e);
            }
        }
        state.applied = due.max(state.applied);
    }

    pub(super) fn apply(&self, update: &Update) -> Result<()> {
        self.shard.add(update.table, view(&update.keys), update.values.get())
    }
}
