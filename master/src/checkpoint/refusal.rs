//! Why a job can't go on from what its folder holds.

use flexps_common::Error;

/// What is wrong with a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// It is damaged, or of something else, and stays so.
    Useless(Error),
    /// It could not be read, which may pass: nobody knows what it is.
    Unread(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Unread(error)
    }
}

impl From<Refusal> for Error {
    fn from((Refusal::Useless(error) | Refusal::Unread(error)): Refusal) -> Self {
        error
    }
}
