//! The means of [`crate::stage::sync`] on shuttle's scheduler, which decides at each of them who goes on.

pub use shuttle::sync::atomic::{AtomicBool, Ordering};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

thread_local! {
    /// How often somebody slept on a word in this schedule. A schedule has one thread of the system.
    pub static SLEPT: Cell<u32> = const { Cell::new(0) };
    /// Words don't wake who sleeps on them: a fault.
    pub static DEAF: Cell<bool> = const { Cell::new(false) };
}

pub struct Mutex<T>(shuttle::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.0.lock().unwrap()) }
    }
}

impl<T> MutexGuard<'_, T> {
    pub fn unlocked<R>(this: &mut Self, during: impl FnOnce() -> R) -> R {
        drop(this.held.take());
        let result = during();
        this.held = Some(this.mutex.0.lock().unwrap());
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.held.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().unwrap()
    }
}

#[derive(Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

impl<T> RwLock<T> {
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap()
    }
}

pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.held = guard.held.take().map(|held| self.0.wait(held).unwrap());
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[derive(Default)]
pub struct Word {
    number: shuttle::sync::Mutex<u32>,
    changed: shuttle::sync::Condvar,
}

impl Word {
    pub fn read(&self) -> u32 {
        *self.number.lock().unwrap()
    }

    pub fn sleep(&self, seen: u32) {
        let number = self.number.lock().unwrap();
        if *number == seen {
            SLEPT.set(SLEPT.get() + 1);
            drop(self.changed.wait(number).unwrap());
        }
    }

    pub fn change(&self) {
        *self.number.lock().unwrap() += 1;
        if !DEAF.get() {
            self.changed.notify_all();
        }
    }
}
