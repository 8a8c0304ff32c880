//! The engine's own update functions, for the shards and for the one-thread host.
//!
//! Invariant: this is the only list of them: whoever works on tables gets a function from here, or one of a user's own.

use super::stateful::{Adagrad, Ftrl};
use super::{DynUpdate, Update};
use crate::error::{Error, Result};
use crate::plan::TableSpec;
use crate::value::{Element, Type};
use std::sync::Arc;

/// `value += update`.
#[derive(Debug, Clone, Copy)]
pub struct Add;

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

/// `value = update`.
#[derive(Debug, Clone, Copy)]
pub struct Assign;

impl Update for Assign {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        current.copy_from_slice(update);
    }
}

/// `value = max(value, update)`.
#[derive(Debug, Clone, Copy)]
pub struct Max;

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

/// `value -= step * update`.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    step: f64,
}

impl Sgd {
    fn new(params: &[f64]) -> Result<Self> {
        match *params {
            [step] if step.is_finite() => Ok(Self { step }),
            _ => Err(Error::user(format!("sgd takes one parameter, the step size, not {params:?}"))),
        }
    }
}

impl Update for Sgd {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        for (current, update) in current.iter_mut().zip(update) {
            *current = T::from_f64(current.to_f64() - self.step * update.to_f64());
        }
    }

    fn adds_up(&self, element: Type) -> bool {
        // Integers are rounded at each update.
        matches!(element, Type::F32 | Type::F64)
    }
}

/// One of the engine's functions, with its parameters.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each is named as its function")]
pub enum Engine {
    Adagrad(Adagrad),
    Add(Add),
    Assign(Assign),
    Ftrl(Ftrl),
    Max(Max),
    Sgd(Sgd),
}

/// Runs `$body` with the function, of its own type.
#[macro_export]
macro_rules! with_engine_update {
    ($engine:expr, $function:ident => $body:expr) => {
        match $engine {
            $crate::updates::Engine::Adagrad($function) => $body,
            $crate::updates::Engine::Add($function) => $body,
            $crate::updates::Engine::Assign($function) => $body,
            $crate::updates::Engine::Ftrl($function) => $body,
            $crate::updates::Engine::Max($function) => $body,
            $crate::updates::Engine::Sgd($function) => $body,
        }
    };
}

/// From a table's parameters.
type Make = fn(&[f64]) -> Result<Engine>;

/// All of them, by name.
const ALL: [(&str, Make); 6] = [
    ("adagrad", |params| Adagrad::new(params).map(Engine::Adagrad)),
    ("add", |params| none("add", params, Engine::Add(Add))),
    ("assign", |params| none("assign", params, Engine::Assign(Assign))),
    ("ftrl", |params| Ftrl::new(params).map(Engine::Ftrl)),
    ("max", |params| none("max", params, Engine::Max(Max))),
    ("sgd", |params| Sgd::new(params).map(Engine::Sgd)),
];

fn none(name: &str, params: &[f64], function: Engine) -> Result<Engine> {
    if params.is_empty() {
        return Ok(function);
    }
    Err(Error::user(format!("{name} takes no parameters, not {params:?}")))
}

impl Engine {
    /// Their names, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.into_iter().map(|(name, _)| name)
    }

    /// The function of a table, if it is one of these. An error when its parameters, or the table, don't fit it.
    pub(super) fn make(spec: &TableSpec) -> Option<Result<Self>> {
        let (_, make) = ALL.into_iter().find(|(name, _)| *name == spec.update)?;
        Some(make(&spec.update_params).and_then(|engine| {
            with_engine_update!(engine, function => function.fits(spec.element, spec.width))?;
            Ok(engine)
        }))
    }

    /// The same, its type no longer known.
    pub fn into_dyn(self) -> Arc<dyn DynUpdate> {
        with_engine_update!(self, function => Arc::new(function))
    }
}
