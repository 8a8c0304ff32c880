//! Rows drawn from all of a job's rows, for a stage that runs beside few of them.
//!
//! Invariant: the blocks hold numbers of this map, whichever slave they came from.

use super::Block;
use super::block::KeyMap;
use super::keys::KeySet;
use std::sync::Arc;

/// Rows in numbers of their own.
#[derive(Debug, Default)]
pub struct Drawn {
    /// Their features.
    pub map: Arc<KeyMap>,
    /// The rows.
    pub blocks: Vec<Arc<Block>>,
}

impl Drawn {
    /// Of blocks that hold features. The map is the identity if half of `features` occur; never for `u64::MAX`.
    pub fn of(blocks: Vec<Arc<Block>>, features: u64) -> Self {
        let mut keys = KeySet::default();
        blocks.iter().for_each(|block| keys.insert(&block.indices));
        let ranks = keys.into_ranks();
        let map = Arc::new(ranks.map(features));
        if let KeyMap::Identity(_) = *map {
            return Self { map, blocks };
        }
        let renumbered = |mut block: Arc<Block>| {
            ranks.renumber(&mut Arc::make_mut(&mut block).indices);
            block
        };
        Self { map, blocks: blocks.into_iter().map(renumbered).collect() }
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|block| block.rows() as u64).sum()
    }
}

/// A block of a slave's rows with features again instead of local numbers.
pub fn with_features(mut block: Arc<Block>, map: &KeyMap) -> Arc<Block> {
    if let KeyMap::Sorted(keys) = map {
        Arc::make_mut(&mut block).indices.iter_mut().for_each(|index| *index = keys[*index as usize]);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(indices: &[u32]) -> Arc<Block> {
        let n = indices.len() as u32;
        let (labels, offsets) = ([1.0].into(), [0, n].into());
        Arc::new(Block { labels, offsets, indices: indices.into(), values: None })
    }

    #[test]
    fn rows_of_several_slaves_share_one_numbering() {
        let drawn = Drawn::of(vec![block(&[5, 900]), block(&[7, 900])], 1000);
        assert_eq!(*drawn.map, KeyMap::Sorted([5, 7, 900].into()));
        let back: Vec<_> = drawn.blocks.iter().map(|b| with_features(b.clone(), &drawn.map)).collect();
        assert_eq!(back, [block(&[5, 900]), block(&[7, 900])]);
        assert_eq!(drawn.rows(), 2);
        assert_eq!(*Drawn::of(vec![block(&[0, 2])], 4).map, KeyMap::Identity(4));
    }
}
