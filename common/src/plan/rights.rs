//! What the workers of a stage may touch, and of what the values may be rounded on the way.
//!
//! Invariant: a stage that stands alone may touch all but what it says that it only reads; one that stands together with
//! others may touch what it declares and nothing else.

use super::StageSpec;
use crate::error::{Error, Result};
use crate::ids::{InputId, TableId};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// Tables that are only read.
    pub reads: Vec<TableId>,
    updates: Vec<TableId>,
    /// Tables whose values may be rounded.
    pub may_round: Vec<TableId>,
    input: Option<InputId>,
    draws: Option<InputId>,
    /// Whether all else is forbidden.
    together: bool,
}

impl StageSpec {
    /// What its workers may touch.
    pub fn rights(&self) -> Rights {
        Rights {
            reads: self.reads.clone(),
            updates: self.updates.clone(),
            may_round: self.may_round.clone(),
            input: self.input,
            draws: self.draws.map(|(input, _)| input),
            together: self.together,
        }
    }
}

impl Rights {
    /// An error unless `table`, which is called `name`, may be read.
    #[inline]
    pub fn read(&self, table: TableId, name: impl FnOnce() -> String) -> Result<()> {
        if !self.together || self.reads.contains(&table) || self.updates.contains(&table) {
            return Ok(());
        }
        Err(undeclared(&format!("table {}", name()), "neither reads nor updates it"))
    }

    /// An error unless `table`, which is called `name`, may be updated.
    #[inline]
    pub fn update(&self, table: TableId, name: impl FnOnce() -> String) -> Result<()> {
        if self.reads.contains(&table) {
            let name = name();
            return Err(Error::bug(format!("an update of table {name}, which the stage only reads, as its plan says")));
        }
        if !self.together || self.updates.contains(&table) {
            return Ok(());
        }
        Err(undeclared(&format!("an update of table {}", name()), "does not update it"))
    }

    /// An error unless the stage may pass over the rows of `input`, and keep columns beside them.
    pub fn pass(&self, input: InputId) -> Result<()> {
        if !self.together || self.input == Some(input) {
            return Ok(());
        }
        Err(undeclared(&format!("rows of input {input}"), "does not pass over them"))
    }

    /// An error unless the stage may draw rows of `input`.
    pub fn draw(&self, input: InputId) -> Result<()> {
        if !self.together || self.draws == Some(input) {
            return Ok(());
        }
        Err(undeclared(&format!("rows of input {input}"), "does not draw from them"))
    }
}

fn undeclared(what: &str, but: &str) -> Error {
    Error::bug(format!("{what}: the stage stands together with others and, as its plan says, {but}"))
}
