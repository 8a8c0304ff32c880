//! The error that every part of flexps returns: whose fault it is, what happened, and whether trying again can help.
//!
//! Invariant: a message is lower case, names the value and the limit, and says what to do where the user can do something.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose fault an error is. Decides the exit code and what a reader of the log does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The command line, the parameters or the plan are wrong.
    User,
    /// The input's bytes are wrong: a bad row, a truncated archive, one class only.
    Data,
    /// A process, a disk or the network failed.
    Cluster,
    /// flexps broke one of its own rules.
    Bug,
    /// Somebody asked for the work to stop.
    Cancelled,
}

/// An error that can cross a process border without losing what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened, where, and what to do; without the outer context.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retry: bool,
}

/// Bytes of a message's begin that are kept of one that is told to others.
const BEGIN: usize = 8 << 10;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A mistake in what the user asked for.
    pub fn user(message: impl fmt::Display) -> Self {
        Self::new(Fault::User, message)
    }

    /// A mistake in the input's bytes.
    pub fn data(message: impl fmt::Display) -> Self {
        Self::new(Fault::Data, message)
    }

    /// A process, disk or network that failed.
    pub fn cluster(message: impl fmt::Display) -> Self {
        Self::new(Fault::Cluster, message)
    }

    /// A broken rule inside flexps.
    pub fn bug(message: impl fmt::Display) -> Self {
        Self::new(Fault::Bug, message)
    }

    /// The work was cancelled.
    pub fn cancelled() -> Self {
        Self::new(Fault::Cancelled, "cancelled")
    }

    /// An error of the given fault; `retry` starts as false.
    pub fn new(fault: Fault, message: impl fmt::Display) -> Self {
        Self { fault, message: message.to_string(), retry: false }
    }

    /// Marks the error as one that may pass.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retry = true;
        self
    }

    /// Puts `context` and a colon before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// As others are told of it: of a message without end, such as a panic's that shows whole vectors, the begin.
    #[must_use]
    pub fn brief(mut self) -> Self {
        let whole = self.message.len();
        // One that was cut, and got more context since, stays as it is.
        if whole > 2 * BEGIN {
            self.message.truncate(self.message.floor_char_boundary(BEGIN));
            self.message.push_str(&format!(" … (the first {BEGIN} of {whole} bytes)"));
        }
        self
    }

    /// The process exit code: 2 for the user's mistakes (his input's included), 130 after a cancel, 1 for failures.
    pub fn exit_code(&self) -> u8 {
        match self.fault {
            Fault::User | Fault::Data => 2,
            Fault::Cluster | Fault::Bug => 1,
            Fault::Cancelled => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds context to the error of a [`Result`].
pub trait Context<T> {
    /// Puts the text that `context` makes before the error's message.
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| e.context(context()))
    }
}

/// Turns an I/O error on `path` into ours, which it may carry already: a path that can't be is the user's, as is a refused
/// permission, the rest the cluster's.
pub fn io(path: impl fmt::Display, error: &std::io::Error) -> Error {
    use std::io::ErrorKind as K;
    if let Some(ours) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        return ours.clone();
    }
    match error.kind() {
        K::NotFound => Error::user(format!("{path}: no such file or directory")),
        K::PermissionDenied => Error::user(format!("{path}: permission denied; check its owner and mode")),
        K::NotADirectory => Error::user(format!("{path}: a file stands where a folder is needed; give another path")),
        K::IsADirectory => Error::user(format!("{path}: a folder stands where a file is needed; give another path")),
        K::AlreadyExists => {
            Error::user(format!("{path}: something else stands there; give another path, or remove it"))
        }
        K::StorageFull => Error::cluster(format!("{path}: the disk is full; free some space and run again")),
        _ => Error::cluster(format!("{path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_message_without_end_the_begin_is_told() {
        let short = Error::bug("é".repeat(BEGIN / 2)).retryable();
        assert_eq!(short.clone().brief(), short);
        let long = Error::data(format!("x{}", "é".repeat(1 << 20))).brief();
        assert!(long.fault == Fault::Data && long.message.starts_with("xéé"), "{:?}", long.fault);
        assert!(long.message.len() < BEGIN + 100 && long.message.ends_with("é … (the first 8192 of 2097153 bytes)"));
        let told = long.context("a stage");
        assert_eq!(told.clone().brief(), told);
    }
}
