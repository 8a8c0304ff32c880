//! Stages that stand together: each begins when those that it names have ended, and the others run beside it.
//!
//! Invariant: stages that may run side by side share no table that one of them updates, and no input over whose rows one of
//! them passes; so they leave the same whether they run side by side or one after the other.

use super::{StageBuilder, StageSpec};
use crate::error::{Error, Result};
use crate::ids::{InputId, TableId};
use crate::worker::Worker;

/// Stages that stand together, under construction.
pub struct Group<'a>(pub(super) &'a mut Vec<StageSpec>);

impl Group<'_> {
    /// Adds a stage on as many slots as there are cores ([`super::Threads::Cores`]), under BSP; refine it with the builder.
    /// It must declare what it touches, by [`StageBuilder::reads`], [`StageBuilder::updates`], [`StageBuilder::input`] and
    /// [`StageBuilder::draws`]: a call for anything else is an error.
    pub fn stage(
        &mut self,
        name: &str,
        run: impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> StageBuilder<'_> {
        let at = self.0.len();
        self.0.push(StageSpec { together: true, ..StageSpec::new(name, run) });
        StageBuilder(&mut self.0[at])
    }
}

/// By stage of a group: the places of those that it names, which stand above it.
pub fn predecessors(stages: &[StageSpec]) -> Vec<Vec<usize>> {
    let place = |at: usize, name: &String| stages[..at].iter().position(|stage| stage.name == *name);
    stages
        .iter()
        .enumerate()
        .map(|(at, stage)| stage.after.iter().filter_map(|name| place(at, name)).collect())
        .collect()
}

/// Refuses a group that breaks the rules of this module.
pub(super) fn check(
    stages: &[StageSpec],
    table: impl Fn(TableId) -> String,
    input: impl Fn(InputId) -> String,
) -> Result<()> {
    for (at, stage) in stages.iter().enumerate() {
        let (name, above) = (&stage.name, &stages[..at]);
        if above.iter().any(|other| other.name == *name) {
            return Err(Error::user(format!(
                "two stages that stand together are called {name}; each needs its own name"
            )));
        }
        if let Some(first) = stage.after.iter().find(|first| !above.iter().any(|other| other.name == **first)) {
            let known: Vec<&str> = above.iter().map(|other| other.name.as_str()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            let text = format!("stage {name}: a stage comes after stages above it in its group ({known}), not {first}");
            return Err(Error::user(text));
        }
    }
    let before = ancestors(stages);
    for (at, stage) in stages.iter().enumerate() {
        for (other, _) in stages[..at].iter().zip(&before[at]).filter(|(_, before)| !**before) {
            let both = format!("stages {} and {} may run side by side and", other.name, stage.name);
            let shared = stage.shared(other).or_else(|| other.shared(stage));
            if let Some(shared) = shared {
                return Err(Error::user(format!(
                    "{both} both touch table {}, which one of them updates; let one come after the other",
                    table(shared)
                )));
            }
            if let Some(shared) = stage.passed(other).or_else(|| other.passed(stage)) {
                return Err(Error::user(format!(
                    "{both} both take rows of {}, over which one of them passes; let one come after the other",
                    input(shared)
                )));
            }
        }
    }
    Ok(())
}

/// By stage: whether each one above it has ended when it begins.
fn ancestors(stages: &[StageSpec]) -> Vec<Vec<bool>> {
    let mut all: Vec<Vec<bool>> = Vec::with_capacity(stages.len());
    for (at, first) in predecessors(stages).into_iter().enumerate() {
        let mut before = vec![false; at];
        for place in first {
            before[place] = true;
            before.iter_mut().zip(&all[place]).for_each(|(before, further)| *before |= further);
        }
        all.push(before);
    }
    all
}

impl StageSpec {
    /// A table that this stage updates and `other` touches.
    fn shared(&self, other: &Self) -> Option<TableId> {
        self.updates.iter().find(|table| other.reads.contains(table) || other.updates.contains(table)).copied()
    }

    /// An input over whose rows this stage passes, and of which `other` takes rows.
    fn passed(&self, other: &Self) -> Option<InputId> {
        let draws = other.draws.map(|(input, _)| input);
        self.input.filter(|input| other.input == Some(*input) || draws == Some(*input))
    }
}

#[cfg(test)]
mod tests;
