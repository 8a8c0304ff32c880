//! A job's own code where it is called outside of a worker, in processes that others use too: plans, decisions, and what says
//! which metrics are told.
//!
//! Invariant: a panic of it is that job's error, and nobody else's.

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Calls a job's code; if it panics, the error says that `what` did.
pub fn caught<T>(what: impl FnOnce() -> String, code: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = WITHIN.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    WITHIN.set(before);
    result.unwrap_or_else(|panic| Err(Error::bug(format!("{} panicked: {}", what(), text(&*panic)))))
}

/// Whether this thread is in such code: who is told of a panic need not hear of it twice.
pub fn within() -> bool {
    WITHIN.get()
}

/// What a panic said.
pub fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("with a value that is no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_what_panicked_and_the_code_knows_where_it_is() {
        let error = caught(|| "the plan of x".to_owned(), || if within() { panic!("no {}", 1) } else { Ok(()) });
        assert_eq!(error.unwrap_err().message, "the plan of x panicked: no 1");
        assert!(!within());
        assert_eq!(caught(|| unreachable!(), || caught(|| unreachable!(), || Ok(7))), Ok(7));
    }
}
