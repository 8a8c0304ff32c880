//! Update functions: what an Add does to the values of a table.
//!
//! Invariant: a function is compiled for each element type and for scattered as for consecutive keys; a user's own (see
//! [`flexps_common::updates`]) is called once for all keys of a chunk, and key by key only where workers race.

use super::Keys;
use super::racing::Raced;
use flexps_common::error::Result;
use flexps_common::ids::Key;
use flexps_common::plan::TableSpec;
use flexps_common::updates::{self, DynUpdate, Function, Update, Updates};
use flexps_common::value::Element;
use flexps_common::with_engine_update;
use std::sync::Arc;

/// An update function for one element type, behind a pointer.
pub(super) trait Apply<T>: Send + Sync {
    /// Updates keys of one chunk: the values of key k stand at `(k & mask) * width`.
    fn scatter(&self, chunk: &mut [T], mask: Key, width: usize, keys: &[Key], update: &[T]);
    /// Updates consecutive keys; the slices are equally long.
    fn slice(&self, current: &mut [T], width: usize, update: &[T]);
    /// Updates keys of a chunk for which others race.
    fn race(&self, chunk: Raced<'_, T>, mask: Key, width: usize, keys: Keys<'_>, update: &[T]);
    /// Whether a sum of updates does what they do one after the other.
    fn adds_up(&self) -> bool;
}

impl<T: Element, U: Update> Apply<T> for U {
    fn scatter(&self, chunk: &mut [T], mask: Key, width: usize, keys: &[Key], update: &[T]) {
        updates::scatter(self, chunk, mask, width, keys, update);
    }

    fn slice(&self, current: &mut [T], width: usize, update: &[T]) {
        updates::slice(self, current, width, update);
    }

    fn race(&self, chunk: Raced<'_, T>, mask: Key, width: usize, keys: Keys<'_>, update: &[T]) {
        // With a width that the compiler knows, the values stay in registers.
        match width {
            1 => chunk.update(self, mask, 1, keys, update),
            width => chunk.update(self, mask, width, keys, update),
        }
    }

    fn adds_up(&self) -> bool {
        Update::adds_up(self, T::TYPE)
    }
}

/// A user's own function.
struct Own(Arc<dyn DynUpdate>);

impl<T: Element> Apply<T> for Own {
    fn scatter(&self, chunk: &mut [T], mask: Key, width: usize, keys: &[Key], update: &[T]) {
        self.0.scatter(T::wrap_mut(chunk), mask, width, keys, T::wrap(update));
    }

    fn slice(&self, current: &mut [T], width: usize, update: &[T]) {
        self.0.slice(T::wrap_mut(current), width, T::wrap(update));
    }

    fn race(&self, chunk: Raced<'_, T>, mask: Key, width: usize, keys: Keys<'_>, update: &[T]) {
        chunk.update(&Single(self.0.clone()), mask, width, keys, update);
    }

    fn adds_up(&self) -> bool {
        self.0.adds_up(T::TYPE)
    }
}

/// The same, key by key.
#[derive(Clone)]
struct Single(Arc<dyn DynUpdate>);

impl Update for Single {
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        self.0.slice(T::wrap_mut(current), update.len(), T::wrap(update));
    }
}

/// A function made for a table, in the four element types.
pub(super) struct Made {
    pub(super) f32: Box<dyn Apply<f32>>,
    pub(super) f64: Box<dyn Apply<f64>>,
    pub(super) u32: Box<dyn Apply<u32>>,
    pub(super) i32: Box<dyn Apply<i32>>,
}

impl Made {
    fn of<U: Update>(function: U) -> Self {
        Self {
            f32: Box::new(function.clone()),
            f64: Box::new(function.clone()),
            u32: Box::new(function.clone()),
            i32: Box::new(function),
        }
    }

    /// The function of a table: the engine's, or one of `updates`.
    pub(super) fn new(spec: &TableSpec, updates: &Updates) -> Result<Self> {
        Ok(match updates.make(spec)? {
            Function::Engine(engine) => with_engine_update!(engine, function => Self::of(function)),
            Function::Own(own) => {
                let own = || Own(own.clone());
                Self { f32: Box::new(own()), f64: Box::new(own()), u32: Box::new(own()), i32: Box::new(own()) }
            }
        })
    }
}
