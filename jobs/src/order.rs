//! The order in which a worker visits its rows in an epoch.
//!
//! Invariant: every row of every block comes exactly once, the order depends on the seed and the blocks alone, and every
//! block that comes was checked: its indices are below the number of features.
//! Blocks come in random order, in windows of limited bytes, so that rows kept on disk need not all be in memory at
//! once; within a window, small groups of consecutive rows come in random order: a group's rows lie side by side, so
//! that one cache miss is paid for many, which single random rows would pay each.

use crate::logistic::needed_len;
use crate::parts::Part;
use flexps_common::data::Block;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::Arc;

/// How rows are grouped.
#[derive(Debug, Clone, Copy)]
pub enum Grouping {
    /// About so many bytes of rows, one row and so many at most.
    Bytes(usize, usize),
    /// So many rows, fewer at a block's end.
    Rows(usize),
}

impl Grouping {
    /// The groups of a block: their first rows and the rows behind their last.
    pub fn cut(self, block: &Block) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (rows, size) = (block.rows(), self.size(block));
        (0..rows).step_by(size).map(move |from| (from as u32, rows.min(from + size) as u32))
    }

    /// Rows of a group of a block.
    pub fn size(self, block: &Block) -> usize {
        match self {
            Grouping::Bytes(bytes, most) => {
                (bytes * block.rows()).checked_div(block.bytes()).unwrap_or(0).clamp(1, most)
            }
            Grouping::Rows(rows) => rows,
        }
    }
}

/// Tells the random choices of one worker, epoch and part from all others.
pub fn stream(worker: &Worker<'_>, part: usize) -> u64 {
    (part as u64) << 40 | worker.place.epoch << 20 | worker.place.index as u64
}

/// Some consecutive rows of a block.
#[derive(Debug, Clone)]
pub struct Group {
    /// The block.
    pub block: Arc<Block>,
    /// Its place in the part.
    pub at: usize,
    /// First row.
    pub from: usize,
    /// Behind the last row.
    pub to: usize,
}

/// The groups of an epoch, as they come.
pub struct Order {
    rng: ChaCha8Rng,
    blocks: Vec<usize>,
    grouping: Grouping,
    window: Vec<(usize, Arc<Block>)>,
    /// Block in the window, first row, last row + 1.
    groups: Vec<(u32, u32, u32)>,
}

impl Order {
    /// The order of a part's rows that `seed` makes for the worker, epoch and part that `stream` stands for.
    pub fn new(part: &Part, grouping: Grouping, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let mut blocks: Vec<usize> = (0..part.blocks()).collect();
        blocks.shuffle(&mut rng);
        Self { rng, blocks, grouping, window: Vec::new(), groups: Vec::new() }
    }

    /// The next group of the part that the order was made for, or None behind the last. A window has at least one block.
    pub fn next(&mut self, worker: &mut Worker<'_>, part: &Part) -> Result<Option<Group>> {
        loop {
            if let Some((block, from, to)) = self.groups.pop() {
                let (at, block) = self.window[block as usize].clone();
                return Ok(Some(Group { block, at, from: from as usize, to: to as usize }));
            }
            if self.blocks.is_empty() {
                return Ok(None);
            }
            self.window.clear();
            let mut bytes = 0;
            while self.window.is_empty() || bytes < part.window {
                let Some(at) = self.blocks.pop() else { break };
                let block = part.block(worker, at)?;
                if needed_len(&block) > part.map.len() {
                    return Err(Error::bug(format!("block {at} has a feature that is not in its key map")));
                }
                bytes += block.bytes();
                self.window.push((at, block));
            }
            for (place, (_, block)) in self.window.iter().enumerate() {
                self.groups.extend(self.grouping.cut(block).map(|(from, to)| (place as u32, from, to)));
            }
            self.groups.shuffle(&mut self.rng);
            // The next window is read while this one is worked on.
            self.blocks.iter().rev().take(self.window.len()).for_each(|at| part.expect(worker, *at));
        }
    }
}
