//! The rows of one input on the host, dealt out to the slaves that it plays.
//!
//! Invariant: a slave's blocks hold features until its key map is first asked for, and local numbers from then on.

use super::facts;
use crate::data::block::KeyMap;
use crate::data::drawn::{Drawn, with_features};
use crate::data::{Block, Facts};
use crate::value::OwnedValues;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The rows of one input.
#[derive(Debug)]
pub struct HostRows {
    /// Facts of all rows.
    pub facts: Facts,
    slaves: Vec<Mutex<SlaveRows>>,
    drawn: OnceLock<Arc<Drawn>>,
}

#[derive(Debug, Default)]
struct SlaveRows {
    blocks: Vec<Arc<Block>>,
    map: Option<Arc<KeyMap>>,
    columns: HashMap<(usize, String), OwnedValues>,
}

impl HostRows {
    /// Deals `blocks` out to so many slaves.
    pub fn new(blocks: &[Block], slaves: usize, features: u64) -> Self {
        let mut dealt: Vec<SlaveRows> = (0..slaves).map(|_| SlaveRows::default()).collect();
        for (i, block) in blocks.iter().enumerate() {
            dealt[i % slaves].blocks.push(Arc::new(block.clone()));
        }
        let slaves = dealt.into_iter().map(Mutex::new).collect();
        Self { facts: facts(blocks, features), slaves, drawn: OnceLock::new() }
    }

    pub fn block(&self, slave: usize, at: usize) -> Option<Arc<Block>> {
        self.slaves[slave].lock().blocks.get(at).cloned()
    }

    pub fn blocks(&self, slave: usize) -> usize {
        self.slaves[slave].lock().blocks.len()
    }

    /// All rows, whatever share is asked for: the host has them.
    pub fn draw(&self) -> Arc<Drawn> {
        self.drawn
            .get_or_init(|| {
                let features = |rows: &Mutex<SlaveRows>| {
                    let rows = rows.lock();
                    let map = rows.map.clone().unwrap_or_default();
                    rows.blocks.iter().map(|block| with_features(block.clone(), &map)).collect::<Vec<_>>()
                };
                let blocks = self.slaves.iter().flat_map(features).collect();
                Arc::new(Drawn::of(blocks, self.facts.features))
            })
            .clone()
    }

    pub fn key_map(&self, slave: usize) -> Arc<KeyMap> {
        let mut rows = self.slaves[slave].lock();
        if let Some(map) = &rows.map {
            return map.clone();
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
        map
    }

    pub fn take_column(&self, slave: usize, at: usize, name: &str) -> Option<OwnedValues> {
        self.slaves[slave].lock().columns.remove(&(at, name.to_owned()))
    }

    pub fn put_column(&self, slave: usize, at: usize, name: &str, column: OwnedValues) {
        self.slaves[slave].lock().columns.insert((at, name.to_owned()), column);
    }
}
