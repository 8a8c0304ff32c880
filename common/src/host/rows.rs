//! The rows of one input on the host, dealt out to the slaves that it plays.
//!
//! Invariant: a slave's blocks hold features until its key map is first asked for, and local numbers from then on; of rows
//! that a stage consumes each block is given out once, and to whose turn it would be if they were kept.

use super::facts;
use crate::data::block::KeyMap;
use crate::data::drawn::{Drawn, with_features};
use crate::data::{Block, Facts};
use crate::error::{Error, Result};
use crate::ids::InputId;
use crate::value::OwnedValues;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// What a plan's stages do with the rows of an input.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uses {
    /// Whether one consumes them.
    pub consumed: bool,
    /// Whether one draws from them.
    pub drawn: bool,
}

/// The rows of one input.
#[derive(Debug)]
pub struct HostRows {
    /// Facts of all rows.
    pub facts: Facts,
    /// What the plan does with them.
    uses: Uses,
    slaves: Vec<Mutex<SlaveRows>>,
    drawn: OnceLock<Arc<Drawn>>,
}

#[derive(Debug, Default)]
struct SlaveRows {
    blocks: Vec<Arc<Block>>,
    /// By block: whether it was consumed.
    gone: Vec<bool>,
    map: Option<Arc<KeyMap>>,
    columns: HashMap<(usize, String), OwnedValues>,
}

impl HostRows {
    /// Deals `blocks` out to so many slaves.
    pub fn new(blocks: &[Block], slaves: usize, features: u64, uses: Uses) -> Self {
        let mut dealt: Vec<SlaveRows> = (0..slaves).map(|_| SlaveRows::default()).collect();
        for (i, block) in blocks.iter().enumerate() {
            dealt[i % slaves].blocks.push(Arc::new(block.clone()));
            dealt[i % slaves].gone.push(false);
        }
        let slaves = dealt.into_iter().map(Mutex::new).collect();
        Self { facts: facts(blocks, features), uses, slaves, drawn: OnceLock::new() }
    }

    pub fn block(&self, slave: usize, at: usize) -> Result<Option<Arc<Block>>> {
        let mut rows = self.slaves[slave].lock();
        let Some(block) = rows.blocks.get(at).cloned() else { return Ok(None) };
        if self.uses.consumed && std::mem::replace(&mut rows.gone[at], true) {
            return Err(Error::bug(format!(
                "block {at} was asked for again, but its stage consumes the rows: each is there once"
            )));
        }
        Ok(Some(block))
    }

    /// The first block from `at` on that is still there, of those in steps of `step`; `at` where rows are kept.
    pub fn turn(&self, slave: usize, at: usize, step: usize) -> usize {
        let rows = self.slaves[slave].lock();
        let gone = |at: &usize| rows.gone.get(*at) == Some(&true);
        (at..).step_by(step.max(1)).find(|at| !gone(at)).unwrap_or(at)
    }

    pub fn blocks(&self, slave: usize) -> usize {
        self.slaves[slave].lock().blocks.len()
    }

    /// All rows, whatever share is asked for: the host has them. They are numbered, as slaves do to send them.
    pub fn draw(&self, input: InputId) -> Result<Arc<Drawn>> {
        if !self.uses.drawn {
            return Err(Error::bug(format!("no stage draws from input {input}")));
        }
        (0..self.slaves.len()).try_for_each(|slave| self.key_map(slave).map(drop))?;
        let drawn = self
            .drawn
            .get_or_init(|| {
                let features = |rows: &Mutex<SlaveRows>| {
                    let rows = rows.lock();
                    let map = rows.map.clone().unwrap_or_default();
                    rows.blocks.iter().map(|block| with_features(block.clone(), &map)).collect::<Vec<_>>()
                };
                let blocks = self.slaves.iter().flat_map(features).collect();
                Arc::new(Drawn::of(blocks, self.facts.features))
            })
            .clone();
        Ok(drawn)
    }

    pub fn key_map(&self, slave: usize) -> Result<Arc<KeyMap>> {
        if self.uses.consumed {
            return Err(Error::bug(
                "the features of rows that a stage consumes are not numbered: its blocks hold features",
            ));
        }
        let mut rows = self.slaves[slave].lock();
        if let Some(map) = &rows.map {
            return Ok(map.clone());
        }
        let mut keys: Vec<_> = rows.blocks.iter().flat_map(|b| b.indices.iter().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        let map = if 2 * keys.len() as u64 >= self.facts.features {
            KeyMap::Identity(self.facts.features as u32)
        } else {
            for block in &mut rows.blocks {
                for index in &mut Arc::make_mut(block).indices {
                    *index = keys.partition_point(|k| k < index) as u32;
                }
            }
            KeyMap::Sorted(keys.into())
        };
        let map = Arc::new(map);
        rows.map = Some(map.clone());
        Ok(map)
    }

    pub fn take_column(&self, slave: usize, at: usize, name: &str) -> Option<OwnedValues> {
        self.slaves[slave].lock().columns.remove(&(at, name.to_owned()))
    }

    pub fn put_column(&self, slave: usize, at: usize, name: &str, column: OwnedValues) {
        self.slaves[slave].lock().columns.insert((at, name.to_owned()), column);
    }
}
