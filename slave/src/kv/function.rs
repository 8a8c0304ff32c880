//! Server functions: what an Add does to the values of a table.
//!
//! Invariant: a function is compiled for each element type and for scattered as for consecutive keys; a user's own (see
//! [`flexps_common::updates`]) is called once for all keys of a chunk, and key by key only where workers race.

use super::Keys;
use super::racing::Raced;
use flexps_common::error::{Error, Result};
use flexps_common::ids::Key;
use flexps_common::plan::TableSpec;
use flexps_common::update::{Adagrad, Ftrl};
use flexps_common::updates::{self, DynUpdate, Update, Updates};
use flexps_common::value::{Element, Type};
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
    fn of<U: Update>(function: U, spec: &TableSpec) -> Result<Self> {
        function.fits(spec.element, spec.width)?;
        Ok(Self {
            f32: Box::new(function.clone()),
            f64: Box::new(function.clone()),
            u32: Box::new(function.clone()),
            i32: Box::new(function),
        })
    }

    /// The function of a table: the engine's, `add`, `assign`, `max`, `sgd` (parameter: the step size) and those that keep
    /// state beside the values, `adagrad` and `ftrl` (see [`flexps_common::update`]), or one of `updates`.
    pub(super) fn new(spec: &TableSpec, updates: &Updates) -> Result<Self> {
        if let Some(own) = updates.make(spec)? {
            let own = || Own(own.clone());
            return Ok(Self { f32: Box::new(own()), f64: Box::new(own()), u32: Box::new(own()), i32: Box::new(own()) });
        }
        let params = &spec.update_params;
        let made = match spec.update.as_str() {
            "add" => none("add", params).and_then(|()| Self::of(Add, spec)),
            "assign" => none("assign", params).and_then(|()| Self::of(Assign, spec)),
            "max" => none("max", params).and_then(|()| Self::of(Max, spec)),
            "sgd" => match params[..] {
                [step] if step.is_finite() => Self::of(Sgd(step), spec),
                _ => Err(Error::user(format!("sgd takes one parameter, the step size, not {params:?}"))),
            },
            "adagrad" => Adagrad::new(params).and_then(|function| Self::of(function, spec)),
            "ftrl" => Ftrl::new(params).and_then(|function| Self::of(function, spec)),
            name => Err(Error::bug(format!("the engine's update function '{name}' is not here"))),
        };
        made.map_err(|e| e.context(format!("table {}", spec.name)))
    }
}

fn none(name: &str, params: &[f64]) -> Result<()> {
    if params.is_empty() {
        return Ok(());
    }
    Err(Error::user(format!("{name} takes no parameters, not {params:?}")))
}

#[derive(Clone)]
struct Add;

impl Update for Add {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        for (current, update) in current.iter_mut().zip(update) {
            *current = current.plus(*update);
        }
    }

    fn adds_up(&self, _element: Type) -> bool {
        true
    }
}

#[derive(Clone)]
struct Assign;

impl Update for Assign {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        current.copy_from_slice(update);
    }
}

#[derive(Clone)]
struct Max;

impl Update for Max {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        for (current, update) in current.iter_mut().zip(update) {
            if *update > *current {
                *current = *update;
            }
        }
    }
}

/// `current -= step * update`.
#[derive(Clone)]
struct Sgd(f64);

impl Update for Sgd {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        for (current, update) in current.iter_mut().zip(update) {
            *current = T::from_f64(current.to_f64() - self.0 * update.to_f64());
        }
    }

    fn adds_up(&self, element: Type) -> bool {
        // Integers are rounded at each update.
        matches!(element, Type::F32 | Type::F64)
    }
}
