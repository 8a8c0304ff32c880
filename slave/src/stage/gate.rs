//! Where a stage run's workers wait for their next clock.
//!
//! Invariants: who waits looks again after each opening, and none is missed; one call of the system wakes all that wait,
//! since nearly always all of them may go on, and a call for each would take longer than all they do in between; who is
//! woken needs no lock, for which all would queue up.

use super::sync::Word;

/// See the module.
#[derive(Default)]
pub struct Gate(Word);

/// Workers that may go on, if any: they are woken when it is dropped, which needs no lock of the run's.
#[must_use = "who may go on waits until then"]
pub struct Woken<'a>(pub Option<&'a Gate>);

impl Drop for Woken<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|gate| gate.open());
    }
}

impl Gate {
    /// Waits until `look` finds something, which it is asked for before each sleep.
    pub fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            // Read first: what changes behind the look changes the number too.
            let seen = self.0.read();
            if let Some(found) = look() {
                return found;
            }
            self.0.sleep(seen);
        }
    }

    /// Lets all who wait look again. What they look at must be changed before.
    pub fn open(&self) {
        self.0.change();
    }
}
