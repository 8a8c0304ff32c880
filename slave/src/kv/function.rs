//! Server functions: what an Add does to the values of a table.
//!
//! Invariant: a function is compiled for each element type and for scattered as for consecutive keys, so a user's own
//! function runs as fast as a built-in one.

use super::Keys;
use super::chunk::AHEAD;
use super::racing::Raced;
use flexps_common::error::{Error, Result};
use flexps_common::ids::Key;
use flexps_common::plan::TableSpec;
use flexps_common::prefetch::prefetch;
use flexps_common::update::{Adagrad, Ftrl};
use flexps_common::value::{Element, Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An update function.
pub trait Update: Clone + Send + Sync + 'static {
    /// Changes one key's values: `current` and `update` hold the table's width of elements each.
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]);
    /// Refuses a table that it can't work on.
    fn fits(&self, _element: Type, _width: u32) -> Result<()> {
        Ok(())
    }
    /// Whether a sum of updates does what they do one after the other.
    fn adds_up(&self, _element: Type) -> bool {
        false
    }
}

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
        if width == 1 {
            // The length is a function of the mask, so that no index needs a check.
            let chunk = &mut chunk[..=mask as usize];
            let (ready, last) = keys.split_at(keys.len().saturating_sub(AHEAD));
            let (update, last_update) = update.split_at(ready.len());
            for ((key, update), next) in ready.iter().zip(update).zip(keys.iter().skip(AHEAD)) {
                prefetch(&chunk[(next & mask) as usize]);
                self.apply(std::slice::from_mut(&mut chunk[(key & mask) as usize]), std::slice::from_ref(update));
            }
            for (key, update) in last.iter().zip(last_update) {
                self.apply(std::slice::from_mut(&mut chunk[(key & mask) as usize]), std::slice::from_ref(update));
            }
            return;
        }
        for (key, update) in keys.iter().zip(update.chunks_exact(width)) {
            let at = (key & mask) as usize * width;
            self.apply(&mut chunk[at..at + width], update);
        }
    }

    fn slice(&self, current: &mut [T], width: usize, update: &[T]) {
        if width == 1 {
            for (current, update) in current.iter_mut().zip(update) {
                self.apply(std::slice::from_mut(current), std::slice::from_ref(update));
            }
            return;
        }
        for (current, update) in current.chunks_exact_mut(width).zip(update.chunks_exact(width)) {
            self.apply(current, update);
        }
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

/// A function made for a table, in the four element types.
pub(super) struct Made {
    pub(super) f32: Box<dyn Apply<f32>>,
    pub(super) f64: Box<dyn Apply<f64>>,
    pub(super) u32: Box<dyn Apply<u32>>,
    pub(super) i32: Box<dyn Apply<i32>>,
}

type Make = Arc<dyn Fn(&TableSpec) -> Result<Made> + Send + Sync>;

/// The update functions that a slave knows, by name.
#[derive(Clone)]
pub struct Functions(BTreeMap<String, Make>);

impl Default for Functions {
    /// `add`, `assign`, `max`, `sgd` (parameter: the step size), and those that keep state beside the values: `adagrad` and
    /// `ftrl` (see [`flexps_common::update`]).
    fn default() -> Self {
        Self(BTreeMap::new())
            .with("add", |params| none("add", params).map(|()| Add))
            .with("assign", |params| none("assign", params).map(|()| Assign))
            .with("max", |params| none("max", params).map(|()| Max))
            .with("sgd", |params| match params {
                [step] if step.is_finite() => Ok(Sgd(*step)),
                _ => Err(Error::user(format!("sgd takes one parameter, the step size, not {params:?}"))),
            })
            .with("adagrad", Adagrad::new)
            .with("ftrl", Ftrl::new)
    }
}

impl Functions {
    /// Adds a function: `make` gets the table's `update_params`.
    #[must_use]
    pub fn with<U: Update>(mut self, name: &str, make: impl Fn(&[f64]) -> Result<U> + Send + Sync + 'static) -> Self {
        let make = move |spec: &TableSpec| -> Result<Made> {
            let function = make(&spec.update_params)?;
            function.fits(spec.element, spec.width)?;
            Ok(Made {
                f32: Box::new(function.clone()),
                f64: Box::new(function.clone()),
                u32: Box::new(function.clone()),
                i32: Box::new(function),
            })
        };
        self.0.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// The function of a table; an error without the table's name.
    pub(super) fn make(&self, spec: &TableSpec) -> Result<Made> {
        let name = spec.update.as_str();
        let make = self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            Error::user(format!("no update function is called '{name}'; this build knows {}", known.join(", ")))
        })?;
        make(spec)
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

impl Update for Adagrad {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        Adagrad::apply(*self, current, update);
    }

    fn fits(&self, element: Type, width: u32) -> Result<()> {
        Adagrad::fits(*self, element, width)
    }
}

impl Update for Ftrl {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        Ftrl::apply(*self, current, update);
    }

    fn fits(&self, element: Type, width: u32) -> Result<()> {
        Ftrl::fits(*self, element, width)
    }
}
