//! Update functions, by name, as jobs are: the engine's and those of a user's own.
//!
//! Invariant: a function is compiled for each element type, and for scattered as for consecutive keys, where it is
//! registered, and called once for all keys of a chunk; a name means one function.

mod engine;
mod stateful;

pub use engine::{Add, Assign, Engine, Max, Sgd};
pub use stateful::{Adagrad, Ftrl};

use crate::error::{Error, Result};
use crate::ids::Key;
use crate::plan::{Plan, TableSpec};
use crate::prefetch::{AHEAD, prefetch};
use crate::value::{Element, Type, Values, ValuesMut};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// An update function: what an Add does to the values of a table.
pub trait Update: Clone + Send + Sync + 'static {
    /// Changes one key's values: `current` and `update` hold the table's width of elements each. A key that nobody has
    /// updated is all zeros.
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

/// Updates keys of one chunk: the values of key k stand at `(k & mask) * width`.
#[inline]
pub fn scatter<T: Element>(
    function: &impl Update,
    chunk: &mut [T],
    mask: Key,
    width: usize,
    keys: &[Key],
    update: &[T],
) {
    if width == 1 {
        // The length is a function of the mask, so that no index needs a check.
        let chunk = &mut chunk[..=mask as usize];
        let (ready, last) = keys.split_at(keys.len().saturating_sub(AHEAD));
        let (update, last_update) = update.split_at(ready.len());
        for ((key, update), next) in ready.iter().zip(update).zip(keys.iter().skip(AHEAD)) {
            prefetch(&chunk[(next & mask) as usize]);
            function.apply(std::slice::from_mut(&mut chunk[(key & mask) as usize]), std::slice::from_ref(update));
        }
        for (key, update) in last.iter().zip(last_update) {
            function.apply(std::slice::from_mut(&mut chunk[(key & mask) as usize]), std::slice::from_ref(update));
        }
        return;
    }
    for (key, update) in keys.iter().zip(update.chunks_exact(width)) {
        let at = (key & mask) as usize * width;
        function.apply(&mut chunk[at..at + width], update);
    }
}

/// Updates consecutive keys; the slices are equally long.
#[inline]
pub fn slice<T: Element>(function: &impl Update, current: &mut [T], width: usize, update: &[T]) {
    if width == 1 {
        for (current, update) in current.iter_mut().zip(update) {
            function.apply(std::slice::from_mut(current), std::slice::from_ref(update));
        }
        return;
    }
    for (current, update) in current.chunks_exact_mut(width).zip(update.chunks_exact(width)) {
        function.apply(current, update);
    }
}

/// An update function whose type is no longer known. Values of two types change nothing: tables check theirs before.
pub trait DynUpdate: Send + Sync {
    /// See [`scatter`].
    fn scatter(&self, chunk: ValuesMut<'_>, mask: Key, width: usize, keys: &[Key], update: Values<'_>);
    /// See [`slice()`].
    fn slice(&self, current: ValuesMut<'_>, width: usize, update: Values<'_>);
    /// See [`Update::adds_up`].
    fn adds_up(&self, element: Type) -> bool;
}

/// Runs `$body` with both slices of one type.
macro_rules! alike {
    ($to:expr, $from:expr, $a:ident, $b:ident => $body:expr) => {
        match ($to, $from) {
            (ValuesMut::F32($a), Values::F32($b)) => $body,
            (ValuesMut::F64($a), Values::F64($b)) => $body,
            (ValuesMut::U32($a), Values::U32($b)) => $body,
            (ValuesMut::I32($a), Values::I32($b)) => $body,
            _ => {}
        }
    };
}

impl<U: Update> DynUpdate for U {
    fn scatter(&self, chunk: ValuesMut<'_>, mask: Key, width: usize, keys: &[Key], update: Values<'_>) {
        alike!(chunk, update, chunk, update => scatter(self, chunk, mask, width, keys, update));
    }

    fn slice(&self, current: ValuesMut<'_>, width: usize, update: Values<'_>) {
        alike!(current, update, current, update => slice(self, current, width, update));
    }

    fn adds_up(&self, element: Type) -> bool {
        Update::adds_up(self, element)
    }
}

impl fmt::Debug for dyn DynUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an update function")
    }
}

/// What an update of a table runs.
#[derive(Debug, Clone)]
pub enum Function {
    /// One of the engine's.
    Engine(Engine),
    /// One of a user's own.
    Own(Arc<dyn DynUpdate>),
}

impl Function {
    /// Either, its type no longer known.
    pub fn into_dyn(self) -> Arc<dyn DynUpdate> {
        match self {
            Self::Engine(function) => function.into_dyn(),
            Self::Own(function) => function,
        }
    }
}

type Make = Arc<dyn Fn(&TableSpec) -> Result<Arc<dyn DynUpdate>> + Send + Sync>;

/// The update functions that a binary knows beside the engine's, by name.
#[derive(Clone, Default)]
pub struct Updates(BTreeMap<&'static str, Make>);

impl Updates {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function; `make` gets the table's `update_params`.
    #[must_use]
    pub fn with<U: Update>(
        mut self,
        name: &'static str,
        make: impl Fn(&[f64]) -> Result<U> + Send + Sync + 'static,
    ) -> Self {
        let make = move |spec: &TableSpec| -> Result<Arc<dyn DynUpdate>> {
            let function = make(&spec.update_params)?;
            function.fits(spec.element, spec.width)?;
            Ok(Arc::new(function))
        };
        self.0.insert(name, Arc::new(make));
        self
    }

    /// The function of a table. An error that lists what there is, when it is unknown.
    pub fn make(&self, spec: &TableSpec) -> Result<Function> {
        let name = spec.update.as_str();
        let made = match (self.0.get(name), Engine::make(spec)) {
            (Some(_), Some(_)) => Err(Error::user(format!(
                "the update function '{name}' is the engine's; register yours under another name"
            ))),
            (Some(make), None) => make(spec).map(Function::Own),
            (None, Some(engine)) => engine.map(Function::Engine),
            (None, None) => {
                let mut known: Vec<_> = Engine::names().chain(self.0.keys().copied()).collect();
                known.sort_unstable();
                Err(Error::user(format!(
                    "no update function is called '{name}'; this build knows {}",
                    known.join(", ")
                )))
            }
        };
        made.map_err(|e| e.context(format_args!("table {}", spec.name)))
    }

    /// Refuses a plan with a table whose function is not known, or can't work on it.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        plan.tables.iter().try_for_each(|spec| self.make(spec).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    /// Keeps what is further from zero.
    #[derive(Clone)]
    struct Further;

    impl Update for Further {
        fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
            for (current, update) in current.iter_mut().zip(update) {
                if update.to_f64().abs() > current.to_f64().abs() {
                    *current = *update;
                }
            }
        }

        fn fits(&self, element: Type, _width: u32) -> Result<()> {
            let signed = element != Type::U32;
            if signed { Ok(()) } else { Err(Error::user("further needs numbers with a sign")) }
        }
    }

    fn updates() -> Updates {
        Updates::new().with("further", |params| match params {
            [] => Ok(Further),
            _ => Err(Error::user("further takes no parameters")),
        })
    }

    fn plan<T: Element>(update: &str, params: &[f64]) -> Plan {
        let mut plan = Plan::default();
        plan.table::<T>("t", 2);
        (plan.tables[0].update, plan.tables[0].update_params) = (update.to_owned(), params.to_vec());
        plan
    }

    #[test]
    fn a_plan_with_an_unknown_function_or_one_that_does_not_fit_is_refused_by_name() {
        let said = |plan: Plan| updates().check(&plan).unwrap_err().message;
        assert_eq!(
            said(plan::<f32>("furthest", &[])),
            "table t: no update function is called 'furthest'; \
             this build knows adagrad, add, assign, ftrl, further, max, sgd"
        );
        assert_eq!(said(plan::<u32>("further", &[])), "table t: further needs numbers with a sign");
        assert_eq!(said(plan::<f32>("further", &[1.0])), "table t: further takes no parameters");
        assert!(
            updates().check(&plan::<i32>("further", &[])).is_ok() && updates().check(&plan::<u32>("max", &[])).is_ok()
        );
        let taken = Updates::new().with("max", |_| Ok(Further)).check(&plan::<f32>("max", &[])).unwrap_err().message;
        assert!(taken.contains("'max' is the engine's"), "{taken}");
    }

    #[test]
    fn scattered_and_consecutive_keys_of_every_type_are_updated_as_one_by_one() {
        fn check<T: Element>() {
            let function: &dyn DynUpdate = &Further;
            for width in [1, 3] {
                let value = |i: usize| T::from_f64(((i * 37) % 23) as f64 - 11.0);
                let keys: Vec<Key> = (0..300).map(|i| 3 * i + 1).collect();
                let update: Vec<T> = (0..keys.len() * width).map(value).collect();
                let start: Vec<T> = (0..1024 * width).map(|i| value(i + 5)).collect();
                let mut expected = start.clone();
                for (key, update) in keys.iter().zip(update.chunks(width)) {
                    Further.apply(&mut expected[*key as usize * width..][..width], update);
                }
                let mut got = start.clone();
                // Of a later chunk: the mask takes keys to their places.
                let later: Vec<Key> = keys.iter().map(|key| key + 2048).collect();
                function.scatter(T::wrap_mut(&mut got), 1023, width, &later, T::wrap(&update));
                assert!(got == expected);
                let (mut got, mut expected) = (start[..update.len()].to_vec(), start[..update.len()].to_vec());
                function.slice(T::wrap_mut(&mut got), width, T::wrap(&update));
                expected.chunks_mut(width).zip(update.chunks(width)).for_each(|(c, u)| Further.apply(c, u));
                assert!(got == expected && got != start[..update.len()]);
            }
        }
        check::<f32>();
        check::<f64>();
        check::<i32>();
        check::<u32>();
    }

    #[test]
    fn the_host_runs_a_users_function_if_it_is_given() {
        let mut plan = Plan::default();
        let table = plan.table::<f32>("t", 1);
        plan.tables[0].update = "further".into();
        plan.body.stage("s", move |worker| {
            worker.add(table, &[1, 2], &[3.0, -1.0])?;
            worker.add(table, &[1, 2], &[-2.0, -5.0])
        });
        let outcome = Host::new().updates(updates()).run(&plan).unwrap();
        assert_eq!(outcome.table("t", 0..3), [0.0, 3.0, -5.0]);
        assert!(Host::new().run(&plan).unwrap_err().message.contains("no update function is called 'further'"));
    }
}
