//! Worker threads that outlive stages.
//!
//! Invariants: a task never waits behind another one: there are always as many threads as tasks, idle ones are taken
//! first, and none ends before the pool.
//!
//! Which idle ones are taken is not left to chance. The system wakes a thread on the core where it ran last, and does not
//! always move the second one of two that it woke on the same core, for some milliseconds, though another core is idle. So
//! threads are taken of which each ran last on another core; among those the first ones, since the caches of their cores
//! hold what a worker of the same number needed.

use flexps_common::error::{Error, Result};
use flexps_common::machine::cores;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Idle threads for each core, at most, before one that ran last on a core that is taken runs there nonetheless.
const SPARE: usize = 2;

/// What a thread runs.
pub type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads. Dropping it ends the idle ones; a busy one ends behind its task.
#[derive(Default)]
pub struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Threads that wait for a task, by number.
    idle: BTreeMap<usize, Idle>,
    threads: usize,
    ended: bool,
}

/// A thread that waits.
struct Idle {
    call: SyncSender<Task>,
    /// The core that it ran on last, where the system tells.
    core: Option<usize>,
}

impl Pool {
    /// Runs each task on a thread of its own. An error when the system gives no more threads; the tasks that were not
    /// started are then dropped.
    pub fn run(&self, tasks: impl IntoIterator<Item = Task>) -> Result<()> {
        let (here, cores) = (core(), cores() as usize);
        let (mut calls, mut taken) = (Vec::new(), Vec::new());
        let mut state = self.0.lock();
        for task in tasks {
            if let Some(idle) = state.take(&mut taken, cores) {
                calls.push((idle, task));
                continue;
            }
            let (shared, number) = (self.0.clone(), state.threads);
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(&shared, number, task))
                .map_err(|e| Error::cluster(format!("no thread for worker {number}: {e}")))?;
            state.threads += 1;
        }
        drop(state);
        // This core is busy: one that is woken on it at first is moved to another one's.
        calls.sort_by_key(|(idle, _)| here.is_some() && idle.core == here);
        for (idle, task) in calls {
            // It waits until it is called.
            let _ = idle.call.send(task);
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.idle.clear();
    }
}

impl State {
    /// The first idle thread on a core that none in `taken` is on, or the first one once each core is taken; none where
    /// another thread should be started.
    fn take(&mut self, taken: &mut Vec<usize>, cores: usize) -> Option<Idle> {
        let apart = |idle: &Idle| idle.core.is_none_or(|core| !taken.contains(&core));
        let mut number = self.idle.iter().find(|(_, idle)| apart(idle)).map(|(number, _)| *number);
        if number.is_none() && (taken.len() >= cores || self.idle.len() >= SPARE * cores) {
            taken.clear();
            number = self.idle.keys().next().copied();
        }
        let idle = self.idle.remove(&number?)?;
        taken.extend(idle.core);
        Some(idle)
    }
}

/// Runs a thread's first task, and all that come after it.
fn work(pool: &Mutex<State>, number: usize, mut task: Task) {
    loop {
        task();
        let (call, called) = sync_channel(1);
        {
            let mut state = pool.lock();
            if state.ended {
                return;
            }
            state.idle.insert(number, Idle { call, core: core() });
        }
        let Ok(next) = called.recv() else { return };
        task = next;
    }
}

/// The core that this thread runs on.
fn core() -> Option<usize> {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes nothing and touches no memory of ours.
    return usize::try_from(unsafe { libc::sched_getcpu() }).ok();
    #[cfg(not(target_os = "linux"))]
    None
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
        // Threads may still be on their way back when the next four tasks arrive, or have been on one core, so some more
        // than four are possible.
        assert!((4..50).contains(&names.len()), "{names:?}");
    }

    /// A pool whose idle threads ran last on these cores, in order.
    fn idle_on(cores: &[usize]) -> State {
        let idle = |core: &usize| Idle { call: sync_channel(1).0, core: Some(*core) };
        State { idle: cores.iter().map(idle).enumerate().collect(), ..State::default() }
    }

    /// The cores of threads that are taken for so many tasks on a machine of two cores; none where one is started.
    fn taken(state: &mut State, tasks: usize) -> Vec<Option<usize>> {
        let mut taken = Vec::new();
        (0..tasks).map(|_| state.take(&mut taken, 2).and_then(|idle| idle.core)).collect()
    }

    #[test]
    fn threads_are_taken_that_ran_last_on_different_cores_the_first_of_them_first() {
        let mut state = idle_on(&[1, 1, 1, 0, 0]);
        assert_eq!(taken(&mut state, 2), [Some(1), Some(0)]);
        assert_eq!(state.idle.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
        // As many on each.
        assert_eq!(taken(&mut idle_on(&[1, 1, 1, 0, 0]), 4), [Some(1), Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn a_thread_is_started_for_a_core_where_none_ran_but_not_without_end() {
        assert_eq!(taken(&mut idle_on(&[1, 1]), 2), [Some(1), None]);
        assert_eq!(taken(&mut idle_on(&[1; 5]), 2), [Some(1), Some(1)]);
        // More tasks than cores run beside one another anyhow.
        assert_eq!(taken(&mut idle_on(&[1, 0, 1]), 3), [Some(1), Some(0), Some(1)]);
        assert_eq!(taken(&mut idle_on(&[]), 1), [None]);
    }

    #[test]
    fn threads_of_which_no_core_is_known_are_taken_in_order() {
        let mut state = State::default();
        state.idle.extend((0..3).map(|number| (number, Idle { call: sync_channel(1).0, core: None })));
        assert_eq!(taken(&mut state, 2), [None, None]);
        assert_eq!(state.idle.keys().copied().collect::<Vec<_>>(), [2]);
    }
}
