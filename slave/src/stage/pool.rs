//! Worker threads that outlive stages.
//!
//! Invariant: a task never waits behind another one: there are always as many threads as tasks, idle ones are taken
//! first, and none ends before the pool.

use flexps_common::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a thread runs.
pub type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads. Dropping it ends the idle ones; a busy one ends behind its task.
#[derive(Default)]
pub struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task, and those that are being started.
    idle: usize,
    threads: usize,
    ended: bool,
}

impl Pool {
    /// Runs each task on a thread of its own. An error when the system gives no more threads; the tasks that were not
    /// started are then dropped.
    pub fn run(&self, tasks: impl IntoIterator<Item = Task>) -> Result<()> {
        let mut state = self.0.state.lock();
        for task in tasks {
            state.tasks.push_back(task);
            if state.tasks.len() <= state.idle {
                self.0.changed.notify_one();
                continue;
            }
            state.idle += 1;
            let (shared, number) = (self.0.clone(), state.threads);
            let started = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || shared.work());
            if let Err(e) = started {
                state.idle -= 1;
                state.tasks.clear();
                return Err(Error::cluster(format!("no thread for worker {number}: {e}")));
            }
            state.threads += 1;
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        state.idle -= 1;
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                task();
                state = self.state.lock();
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                self.changed.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    #[test]
    fn tasks_run_side_by_side_and_threads_are_used_again() {
        let pool = Pool::default();
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..50 {
            // Each task waits for all four: they must be on four threads at once.
            let (barrier, (send, receive)) = (Arc::new(Barrier::new(4)), channel());
            pool.run((0..4).map(|_| -> Task {
                let (barrier, send) = (barrier.clone(), send.clone());
                Box::new(move || {
                    barrier.wait();
                    send.send(std::thread::current().name().unwrap().to_owned()).unwrap();
                })
            }))
            .unwrap();
            names.extend(receive.iter().take(4));
        }
        // Threads may still be on their way back when the next four tasks arrive, so some more than four are possible.
        assert!((4..50).contains(&names.len()), "{names:?}");
    }
}
