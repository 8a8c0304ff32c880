//! What a stage run waits and wakes with, in one place, so that its tests can put a scheduler of their own there.

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::sync::atomic::AtomicU32;
pub use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What changes within this is not slept for: where there are more workers than cores, to wake them takes longer than
/// all they do in a short clock, and here others use the processor meanwhile.
const MOMENT: Duration = Duration::from_micros(250);

/// A number to sleep on: who has read it sleeps unless it has changed meanwhile, and one call wakes all who sleep.
#[derive(Default)]
pub struct Word(AtomicU32);

impl Word {
    /// The number; what was written before it was changed to this is seen behind.
    pub fn read(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps while the number is `seen`; may end at any time.
    pub fn sleep(&self, seen: u32) {
        let start = Instant::now();
        while start.elapsed() < MOMENT {
            if self.0.load(Ordering::Relaxed) != seen {
                return;
            }
            std::thread::yield_now();
        }
        atomic_wait::wait(&self.0, seen);
    }

    /// Changes the number and wakes all who sleep.
    pub fn change(&self) {
        self.0.fetch_add(1, Ordering::Release);
        atomic_wait::wake_all(&self.0);
    }
}
