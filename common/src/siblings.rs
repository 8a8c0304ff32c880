//! What the workers of one stage on one slave do together without a table: element-wise sums of what each of them holds.
//!
//! Each adds up one part of all slices, in the order of the workers, and writes the sum into all of them. Invariants: the
//! same slices give the same bits; nobody touches a slice before its worker came or after its worker went; a worker that
//! fails or ends lets no sibling wait.

use crate::error::{Error, Result};
use crate::value::{Element, ValuesMut};
use crate::waiting::Moment;
use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What to do where workers wait for one another for ever, some in a sum, some for the end of a clock.
pub const AS_OFTEN: &str = "let all workers of a slave call sum_local as often between the same clocks";

/// The meeting place of the workers of one stage run on one slave.
#[derive(Debug)]
pub struct Siblings {
    workers: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Sums that were begun, and that were written, for who looks without the lock.
    begun: AtomicU64,
    written: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Sums that were begun.
    begun: u64,
    /// By worker: what it brought to the sum that is being gathered.
    brought: Vec<Option<Slice>>,
    /// What all brought to the sum that is under way.
    slices: Vec<Slice>,
    /// Workers that still write.
    writing: usize,
    /// Why no further sum can be made.
    broken: Option<Error>,
}

/// A worker's slice while it waits in [`Siblings::sum`].
#[derive(Debug, Clone, Copy)]
enum Slice {
    F32(*mut f32, usize),
    F64(*mut f64, usize),
    U32(*mut u32, usize),
    I32(*mut i32, usize),
}

// SAFETY: the pointer is used only between its owner's arrival and departure, and each part of it by one thread alone.
unsafe impl Send for Slice {}

impl Slice {
    fn new(values: &mut ValuesMut<'_>) -> Self {
        match values {
            ValuesMut::F32(v) => Self::F32(v.as_mut_ptr(), v.len()),
            ValuesMut::F64(v) => Self::F64(v.as_mut_ptr(), v.len()),
            ValuesMut::U32(v) => Self::U32(v.as_mut_ptr(), v.len()),
            ValuesMut::I32(v) => Self::I32(v.as_mut_ptr(), v.len()),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::F32(_, n) | Self::F64(_, n) | Self::U32(_, n) | Self::I32(_, n) => n,
        }
    }

    fn fits(self, other: Self) -> bool {
        self.len() == other.len() && std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Siblings {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        let state = State { brought: vec![None; workers], ..State::default() };
        let [begun, written] = [0, 0].map(AtomicU64::new);
        Self { workers, state: Mutex::new(state), changed: Condvar::new(), begun, written }
    }

    /// Replaces `values` by the sum over all workers, in their order; waits until each of them has called it. An error
    /// when types or lengths differ, when one of them ended, or once [`Siblings::end`] was called with an error.
    pub fn sum(&self, worker: usize, mut values: ValuesMut<'_>) -> Result<()> {
        let mine = Slice::new(&mut values);
        let mut state = self.state.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        let begun = state.begun;
        state.brought[worker] = Some(mine);
        if state.brought.iter().all(Option::is_some) {
            let slices: Vec<Slice> = state.brought.iter_mut().filter_map(Option::take).collect();
            if !slices.iter().all(|slice| slice.fits(mine)) {
                return Err(self.break_up(&mut state, Error::bug("siblings sum slices of different types or lengths")));
            }
            state.slices = slices;
            state.writing = self.workers;
            state.begun += 1;
            self.begun.store(state.begun, Ordering::Release);
            self.changed.notify_all();
        } else {
            drop(state);
            look(&self.begun, begun);
            state = self.state.lock();
        }
        while state.begun == begun {
            if let Some(error) = &state.broken {
                let error = error.clone();
                state.brought[worker] = None;
                return Err(error);
            }
            self.changed.wait(&mut state);
        }
        let slices = state.slices.clone();
        drop(state);
        let len = mine.len();
        let part = len * worker / self.workers..len * (worker + 1) / self.workers;
        // SAFETY: all slices have the type and length of `mine` and are held by workers that wait below until the last
        // one has written; the parts of two workers never meet.
        unsafe { add_up(&slices, part) };
        let mut state = self.state.lock();
        state.writing -= 1;
        if state.writing == 0 {
            self.written.store(begun + 1, Ordering::Release);
            self.changed.notify_all();
        } else {
            drop(state);
            look(&self.written, begun);
            state = self.state.lock();
        }
        // Even after an error: the others still write into this slice. They do nothing else, so this ends.
        while state.writing > 0 && state.begun == begun + 1 {
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// The workers that wait for a sibling to come to a sum.
    pub fn waiting(&self) -> Vec<usize> {
        let state = self.state.lock();
        (0..self.workers).filter(|worker| state.brought[*worker].is_some()).collect()
    }

    /// A worker ended, with this error if it failed: no sum can be complete any more.
    pub fn end(&self, error: Option<Error>) {
        let error = error.unwrap_or_else(|| Error::bug("a worker ended while its siblings sum"));
        self.break_up(&mut self.state.lock(), error);
    }

    fn break_up(&self, state: &mut State, error: Error) -> Error {
        state.brought.fill(None);
        let error = state.broken.get_or_insert(error).clone();
        self.changed.notify_all();
        error
    }
}

/// Looks for a moment whether `count` has gone beyond `before`: a Newton step on few features has many sums.
fn look(count: &AtomicU64, before: u64) {
    let mut moment = Moment::default();
    while count.load(Ordering::Acquire) <= before && moment.lasts() {}
}

/// Writes the sum of all slices into each, within `part`.
///
/// # Safety
/// The slices must be of one type, hold `part`, and be touched within it by nobody else.
unsafe fn add_up(slices: &[Slice], part: Range<usize>) {
    macro_rules! typed {
        ($variant:ident) => {{
            let pointers = slices.iter().filter_map(|s| if let Slice::$variant(at, _) = s { Some(*at) } else { None });
            // SAFETY: the caller's promise.
            unsafe { add_up_typed(pointers, part) }
        }};
    }
    match slices.first() {
        Some(Slice::F32(..)) => typed!(F32),
        Some(Slice::F64(..)) => typed!(F64),
        Some(Slice::U32(..)) => typed!(U32),
        Some(Slice::I32(..)) => typed!(I32),
        None => {}
    }
}

/// # Safety
/// As [`add_up`].
unsafe fn add_up_typed<T: Element>(pointers: impl Iterator<Item = *mut T>, part: Range<usize>) {
    // SAFETY: the caller's promise; different workers' slices don't overlap.
    let mut slices: Vec<&mut [T]> =
        pointers.map(|p| unsafe { std::slice::from_raw_parts_mut(p.add(part.start), part.len()) }).collect();
    let Some((sum, others)) = slices.split_first_mut() else { return };
    for other in others.iter() {
        sum.iter_mut().zip(other.iter()).for_each(|(sum, x)| *sum = sum.plus(*x));
    }
    others.iter_mut().for_each(|other| other.copy_from_slice(sum));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_gets_the_sum_again_and_again() {
        for (workers, len) in [(1, 5), (2, 1), (3, 1000), (4, 2), (2, 0)] {
            let siblings = Siblings::new(workers);
            std::thread::scope(|scope| {
                for worker in 0..workers {
                    let siblings = &siblings;
                    scope.spawn(move || {
                        for round in 0..200u32 {
                            let mut values: Vec<f64> =
                                (0..len).map(|i| f64::from(round) + (worker * len + i) as f64).collect();
                            siblings.sum(worker, f64::wrap_mut(&mut values)).unwrap();
                            for (i, value) in values.iter().enumerate() {
                                let expected: f64 = (0..workers).map(|w| f64::from(round) + (w * len + i) as f64).sum();
                                assert_eq!(*value, expected);
                            }
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn nobody_waits_for_a_worker_that_ended_or_failed() {
        for error in [None, Some(Error::cancelled())] {
            let siblings = Siblings::new(2);
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| siblings.sum(0, f32::wrap_mut(&mut [1.0])));
                siblings.end(error);
                assert!(waits.join().unwrap().is_err());
            });
            assert!(siblings.sum(0, f32::wrap_mut(&mut [1.0])).is_err());
        }
    }

    #[test]
    fn slices_that_do_not_fit_are_a_bug_for_all() {
        let siblings = Siblings::new(2);
        std::thread::scope(|scope| {
            let one = scope.spawn(|| siblings.sum(0, f32::wrap_mut(&mut [1.0])));
            let other = scope.spawn(|| siblings.sum(1, f32::wrap_mut(&mut [1.0, 2.0])));
            assert!(one.join().unwrap().is_err() && other.join().unwrap().is_err());
        });
    }
}
