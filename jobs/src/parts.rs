//! A worker's rows in parts, so that what it keeps for each feature of a part stays small beside the rows.
//!
//! Nearly always there is one part: all of the worker's rows, in the numbers of the slave's key map. Where the rows hold
//! most features only once or twice, values by feature would take more memory than the rows; such rows come in several
//! parts, one at a time, each with numbers of its own.
//! Invariants: each of the worker's rows is in one part, the same one each time; all stages over an input agree on
//! whether there are several, since that depends on the facts of the whole input alone.

use flexps_common::data::block::KeyMap;
use flexps_common::data::drawn::{Drawn, with_features};
use flexps_common::data::{Block, Facts};
use flexps_common::plan::Input;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use std::sync::Arc;

/// Bytes that a worker keeps for a feature, about.
const FEATURE: u64 = 24;
/// This part of the rows' bytes may be taken for values by feature in any case.
pub const BESIDE_ROWS: u64 = 8;

/// An input's rows, and how much a worker may keep by feature.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The input.
    pub input: Input,
    /// Bytes for values by feature; rows whose features need more come in parts.
    pub memory: u64,
    /// Whether some stage draws of them: slaves number the features of such rows, in whatever parts they come.
    pub drawn: bool,
}

/// The parts of a worker's rows, as they come.
#[derive(Debug)]
pub struct Parts {
    input: Input,
    own: Vec<usize>,
    /// Blocks of a part, when there may be several.
    blocks: Option<usize>,
    /// Whose numbers the blocks hold then, if not features.
    numbered: Option<Arc<KeyMap>>,
    next: usize,
    window: usize,
}

/// Most bytes of rows that are shuffled at once.
const WINDOW: u64 = 64 << 20;

/// How many features the rows of an input with these facts have at most, as far as is known.
pub fn features(facts: &Facts) -> u64 {
    let occurring = if facts.occurring > 0 { facts.occurring } else { u64::MAX };
    facts.features.min(facts.nonzeros).min(occurring)
}

/// Whether the rows of an input with these facts come in several parts, if `memory` bytes may go to values by feature.
pub fn several(facts: &Facts, memory: u64) -> bool {
    let rows = 4 * facts.nonzeros + 8 * facts.rows;
    FEATURE * features(facts) > memory.max(rows / BESIDE_ROWS)
}

/// Some of a worker's rows.
#[derive(Debug)]
pub struct Part {
    /// Their features: what a row holds are places in it.
    pub map: Arc<KeyMap>,
    /// Which part it is, from 0.
    pub number: usize,
    /// The place of its first block among the worker's.
    pub start: usize,
    /// Its blocks' numbers among the slave's, or among those drawn.
    numbers: Vec<usize>,
    rows: Blocks,
    /// Bytes of rows that are held at once to be shuffled, or a block: twice the memory for values by feature, but no more
    /// than 64 MiB.
    pub window: usize,
}

#[derive(Debug)]
enum Blocks {
    /// All rows of the worker.
    All(Input),
    /// Blocks in the part's own numbers.
    Some(Vec<Arc<Block>>),
}

impl Parts {
    /// The parts of the worker's rows; waits until the whole input is read.
    pub fn new(worker: &mut Worker<'_>, Rows { input, memory, drawn }: Rows) -> Result<Self> {
        let facts = worker.facts(input)?;
        let several = several(&facts, memory);
        let own = worker.own_blocks(input)?;
        // Every worker of a slave must ask for the key map, also one without rows.
        let numbered = if several && drawn { Some(worker.key_map(input)?) } else { None };
        let mut blocks = several.then_some(1);
        if several && !own.is_empty() {
            // Blocks are about as long as one another, but that at a file's end.
            let (mut nonzeros, mut looked) = (1, vec![0, own.len() / 2, own.len() - 1]);
            // Of few blocks they are the same, and may have to come from disk.
            looked.dedup();
            for at in looked {
                nonzeros = worker.block(input, own[at])?.map_or(0, |block| block.nonzeros()).max(nonzeros);
            }
            // A part has no more features than non-zeros.
            blocks = Some(((memory / FEATURE) as usize / nonzeros).max(1));
        }
        let window = (2 * memory).min(WINDOW) as usize;
        Ok(Self { input, own, blocks, numbered, next: 0, window })
    }

    /// How many parts there are.
    pub fn count(&self) -> usize {
        self.own.len().div_ceil(self.blocks.unwrap_or(self.own.len()).max(1))
    }

    /// All of the worker's rows as one part, if that is how they come, also when it has none.
    pub fn whole(&self, worker: &mut Worker<'_>) -> Result<Option<Part>> {
        if self.blocks.is_some() {
            return Ok(None);
        }
        let map = worker.key_map(self.input)?;
        Ok(Some(Part {
            map,
            number: 0,
            start: 0,
            numbers: self.own.clone(),
            rows: Blocks::All(self.input),
            window: self.window,
        }))
    }

    /// The next part, or None behind the last.
    pub fn next(&mut self, worker: &mut Worker<'_>) -> Result<Option<Part>> {
        let number = self.next;
        self.next += 1;
        let Some(blocks) = self.blocks else {
            // Every worker of a slave must ask for the key map, also one without rows.
            let whole = if number == 0 { self.whole(worker)? } else { None };
            return Ok(whole.filter(|_| number < self.count()));
        };
        if number >= self.count() {
            return Ok(None);
        }
        let start = number * blocks;
        let numbers: Vec<_> = self.own.iter().skip(start).take(blocks).copied().collect();
        let mut own = Vec::with_capacity(numbers.len());
        for at in &numbers {
            let block = block(worker, self.input, *at)?;
            own.push(match &self.numbered {
                Some(map) => with_features(block, map),
                None => block,
            });
        }
        Ok(Some(Part::of(number, start, numbers, own)))
    }
}

impl Part {
    fn of(number: usize, start: usize, numbers: Vec<usize>, blocks: Vec<Arc<Block>>) -> Self {
        // Never the identity: a part's few features must not cost the memory of all.
        let Drawn { map, blocks } = Drawn::of(blocks, u64::MAX);
        Self { map, number, start, numbers, rows: Blocks::Some(blocks), window: WINDOW as usize }
    }

    /// The worker's share of rows that were drawn: every so-manieth block.
    pub fn drawn(drawn: &Drawn, worker: &Worker<'_>) -> Self {
        let (first, step) = (worker.place.local_index, worker.place.local_threads.max(1));
        let numbers: Vec<_> = (first..drawn.blocks.len()).step_by(step).collect();
        let blocks = numbers.iter().map(|at| drawn.blocks[*at].clone()).collect();
        Self {
            map: drawn.map.clone(),
            number: 0,
            start: 0,
            numbers,
            rows: Blocks::Some(blocks),
            window: WINDOW as usize,
        }
    }

    /// Number of rows, where the part holds its own blocks: nothing is read for it.
    pub fn rows(&self) -> Option<u64> {
        match &self.rows {
            Blocks::All(_) => None,
            Blocks::Some(blocks) => Some(blocks.iter().map(|block| block.rows() as u64).sum()),
        }
    }

    /// Whether it is all of the worker's rows.
    pub fn is_all(&self) -> bool {
        matches!(self.rows, Blocks::All(..))
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.numbers.len()
    }

    /// The number of the first block among the slave's, when it is all of the worker's rows.
    pub fn first(&self) -> Option<usize> {
        self.numbers.first().copied().filter(|_| self.is_all())
    }

    /// The number of the part's block `at` among the slave's.
    pub fn number_of(&self, at: usize) -> usize {
        self.numbers[at]
    }

    /// Says that block `at` of the part will be asked for soon, if there is one.
    pub fn expect(&self, worker: &mut Worker<'_>, at: usize) {
        if let (Blocks::All(input), Some(number)) = (&self.rows, self.numbers.get(at)) {
            worker.expect(*input, *number);
        }
    }

    /// Block `at` of the part, in a pass from the first to the last and from the first again.
    pub fn in_order(&self, worker: &mut Worker<'_>, at: usize) -> Result<Arc<Block>> {
        self.expect(worker, if at + 1 < self.blocks() { at + 1 } else { 0 });
        self.block(worker, at)
    }

    /// Block `at` of the part.
    pub fn block(&self, worker: &mut Worker<'_>, at: usize) -> Result<Arc<Block>> {
        match &self.rows {
            Blocks::All(input) => block(worker, *input, self.numbers[at]),
            Blocks::Some(blocks) => Ok(blocks[at].clone()),
        }
    }
}

fn block(worker: &mut Worker<'_>, input: Input, at: usize) -> Result<Arc<Block>> {
    worker.block(input, at)?.ok_or_else(|| Error::bug(format!("block {at} of the rows is not there")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_parts_by_how_many_features_occur_not_by_how_many_there_may_be() {
        let facts =
            |rows, features, nonzeros, occurring| Facts { rows, features, nonzeros, occurring, ..Facts::default() };
        // Trigrams, hashed to 24 bits, counted and not; most of kdd12's features occur.
        assert!(!several(&facts(4836, 16_727_923, 5_338_772, 400_000), 40 << 20));
        assert!(several(&facts(4836, 16_727_923, 5_338_772, 0), 40 << 20));
        assert!(several(&facts(5_000_000, 54_686_452, 55_000_000, 9_000_000), 40 << 20));
    }
}
