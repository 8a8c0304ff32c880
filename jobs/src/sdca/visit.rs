//! The order of a sweep: dual steps on groups of rows in random order, with the next group's memory asked for ahead.
//!
//! Blocks come in random order, in windows of limited bytes, and inside a window so do small groups of rows that lie side by
//! side: it converges like a full shuffle, while memory is read in runs. Where all rows lie in the caches anyway, a group is
//! of any rows of a block. Invariant: in a sweep every row that neither rests nor is held out comes exactly once; a
//! block whose rows all rest is not even loaded.

use super::loss::Loss;
use super::rows::{Own, targets_or_labels};
use super::steps::{Met, Scale, Steps};
use crate::order::{self, Grouping};
use crate::parts::Part;
use flexps_common::Result;
use flexps_common::data::{Block, Facts};
use flexps_common::prefetch::prefetch_all;
use flexps_common::widest::widest;
use flexps_common::worker::Worker;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::marker::PhantomData;
use std::sync::Arc;

/// How rows are grouped: larger groups stall on files that are sorted by label.
const GROUPING: Grouping = Grouping::Bytes(4 << 10, MOST);
/// Most rows of a group.
pub const MOST: usize = 64;
/// Bytes of rows that the caches hold: their order in memory does not tell.
const CACHED: u64 = 8 << 20;

/// Some rows of a block: its place in the window, and from where to where they stand among those that come.
type Group = (u32, u32, u32);

/// What was changed since the last join, so that it can be scaled.
#[derive(Debug, Default)]
pub struct Trail {
    /// Block of the worker, number of rows.
    groups: Vec<(u32, u32)>,
    /// The rows, group by group.
    rows: Vec<u32>,
    /// Their dual variables before.
    before: Vec<f32>,
}

impl Trail {
    /// Notes what rows of block `i` are before they are visited.
    fn note(&mut self, i: usize, rows: &[u32], dual: &[f32]) {
        self.groups.push((i as u32, rows.len() as u32));
        self.rows.extend_from_slice(rows);
        self.before.extend(rows.iter().map(|row| dual[*row as usize]));
    }

    /// Block, rows and dual variables before of each group; of at most [`MOST`] rows.
    pub fn groups(&self) -> impl Iterator<Item = (usize, &[u32], &[f32])> {
        let (mut rows, mut before) = (&self.rows[..], &self.before[..]);
        self.groups.iter().map(move |(i, len)| {
            let ((these, others), (was, rest)) = (rows.split_at(*len as usize), before.split_at(*len as usize));
            (rows, before) = (others, rest);
            (*i as usize, these, was)
        })
    }

    /// Forgets it.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.rows.clear();
        self.before.clear();
    }
}

/// The order of a sweep and where it stands.
pub struct Visit<'a> {
    part: &'a Part,
    rng: ChaCha8Rng,
    /// Whether a group is of rows from anywhere in its block.
    near: bool,
    /// Whether, in a sweep over all of the worker's rows, those that were visited speak for the others too.
    ///
    /// In the course of a problem's first sweep the weights are those of the visited rows, so margins are short of what they
    /// will be, and the first rows take far too much on themselves. With the penalty of so many rows as were visited, t of n,
    /// margins and curvatures would be n/t times as large, as in the Modified-SGD of Shalev-Shwartz and Zhang (JMLR 2013).
    /// The root of that does as well where rows have much in common, and less harm where they have little.
    pub lifts: bool,
    /// The worker's blocks that are still to come.
    blocks: Vec<usize>,
    window: Vec<(usize, Arc<Block>)>,
    /// The window's rows that come, block by block.
    rows: Vec<u32>,
    groups: Vec<Group>,
    next: usize,
    /// Rows of the windows before, those that don't come too, and of the window.
    passed: usize,
    held: usize,
    /// Rows on which steps were taken.
    pub visited: usize,
    /// The intercept, which steps move as they go; stays 0 without one.
    pub bias: f32,
    /// What the rows showed, each when it was visited.
    pub met: Met,
}

impl<'a> Visit<'a> {
    /// The order of a part's rows that `seed` makes for this worker and epoch. `facts` are those of the whole input.
    pub fn new(worker: &Worker<'_>, part: &'a Part, facts: &Facts, seed: u64, bias: f32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(order::stream(worker, part.number));
        let near = 8 * (facts.nonzeros + facts.rows) <= CACHED;
        let (blocks, window, rows, groups) = Default::default();
        let (next, passed, held, visited) = (0, 0, 0, 0);
        let mut visit = Self {
            part,
            rng,
            near,
            lifts: false,
            blocks,
            window,
            rows,
            groups,
            next,
            passed,
            held,
            visited,
            bias,
            met: Met::default(),
        };
        visit.again();
        visit
    }

    /// Begins another sweep, behind the end of one. What rows show is counted anew.
    pub fn again(&mut self) {
        self.blocks = (self.part.start..self.part.start + self.part.blocks()).collect();
        self.blocks.shuffle(&mut self.rng);
        self.lifts = false;
        (self.passed, self.met) = (0, Met::default());
    }

    /// Loads the next window; false when there is none.
    fn fill<L: Loss>(&mut self, worker: &mut Worker<'_>, own: &mut Own) -> Result<bool> {
        self.passed += self.held;
        self.held = 0;
        self.window.clear();
        self.rows.clear();
        self.groups.clear();
        self.next = 0;
        let mut bytes = 0;
        while bytes < self.part.window {
            let Some(i) = self.blocks.pop() else { break };
            let (held, first) = (&mut own.blocks[i], self.rows.len());
            if !L::ENDS.is_empty() {
                held.rests.keep(held.dual.len());
            }
            held.rests.next(held.dual.len(), &mut self.rows);
            self.held += held.dual.len();
            if self.rows.len() == first {
                continue;
            }
            let block = own.block(worker, self.part, i)?;
            if own.holds_out() {
                drop_held_out(&mut self.rows, first, &own.blocks[i].targets);
                if self.rows.len() == first {
                    continue;
                }
            }
            bytes += block.bytes();
            if self.near {
                self.rows[first..].shuffle(&mut self.rng);
            }
            let (place, end, size) = (self.window.len() as u32, self.rows.len(), GROUPING.size(&block));
            let starts = (first..end).step_by(size);
            self.groups.extend(starts.map(|from| (place, from as u32, end.min(from + size) as u32)));
            self.window.push((i, block));
        }
        self.groups.shuffle(&mut self.rng);
        // The next window is read while this one is worked on.
        let next = self.blocks.iter().rev().take(self.window.len());
        next.for_each(|i| self.part.expect(worker, i - self.part.start));
        Ok(!self.window.is_empty())
    }

    /// How many rows of the part are behind, resting ones too.
    pub fn behind(&self) -> usize {
        self.passed + (self.held * self.next).checked_div(self.groups.len()).unwrap_or(0)
    }

    /// Steps on until about `goal` rows of the part are behind. What changes is noted in `trail`, if there is one.
    pub fn go<L: Loss>(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        weights: &mut [f32],
        scale: Scale,
        goal: usize,
        mut trail: Option<&mut Trail>,
    ) -> Result<()> {
        let total = own.rows() as f32;
        while self.behind() < goal {
            if self.next == self.groups.len() && !self.fill::<L>(worker, own)? {
                return Ok(());
            }
            let (place, from, to) = self.groups[self.next];
            self.next += 1;
            self.ask(own);
            let rows = &self.rows[from as usize..to as usize];
            let lift = if self.lifts { (total / (self.behind() + rows.len()) as f32).max(1.0).sqrt() } else { 1.0 };
            let (i, block) = &self.window[place as usize];
            let held = &mut own.blocks[*i];
            if let Some(trail) = &mut trail {
                trail.note(*i, rows, &held.dual);
            }
            self.visited += rows.len();
            let steps = Steps::<L> {
                block,
                targets: targets_or_labels(&held.targets, block),
                rows,
                following: self.coming(0).map(|(_, block, rows)| (block, rows)),
                dual: &mut held.dual,
                norms: &held.norms,
                rests: &mut held.rests,
                // `Own::block` checked the indices.
                weights,
                bias: self.bias,
                scale: Scale { lift, ..scale },
                loss: PhantomData,
            };
            let (met, bias) = widest(steps);
            self.met.add(&met);
            self.bias = bias;
        }
        Ok(())
    }

    /// A group that comes: the place of its block among the worker's, the block and the rows.
    #[inline]
    fn coming(&self, ahead: usize) -> Option<(usize, &Block, &[u32])> {
        let (place, from, to) = *self.groups.get(self.next + ahead)?;
        let (i, block) = &self.window[place as usize];
        Some((*i, block, &self.rows[from as usize..to as usize]))
    }

    /// Asks for what the next groups need but weights: what is needed to find something else, one group earlier than that.
    #[inline]
    fn ask(&self, own: &Own) {
        if let Some((i, block, rows)) = self.coming(2) {
            let held = &own.blocks[i];
            let targets = targets_or_labels(&held.targets, block);
            let norms = &held.norms[..];
            runs(rows, |from, to| {
                prefetch_all(&block.offsets[from..=to]);
                prefetch_all(&targets[from..to]);
                prefetch_all(&held.dual[from..to]);
                if let Some(norms) = norms.get(from..to) {
                    prefetch_all(norms);
                }
            });
        }
        if let Some((_, block, rows)) = self.coming(1) {
            runs(rows, |from, to| {
                let range = block.offsets[from] as usize..block.offsets[to] as usize;
                prefetch_all(&block.indices[range.clone()]);
                if let Some(values) = &block.values {
                    prefetch_all(&values[range]);
                }
            });
        }
    }
}

/// Takes those that count nothing from the rows of a block, which are those from `first` on.
fn drop_held_out(rows: &mut Vec<u32>, first: usize, targets: &[f32]) {
    let mut end = first;
    for at in first..rows.len() {
        let row = rows[at];
        rows[end] = row;
        end += usize::from(targets[row as usize] != 0.0);
    }
    rows.truncate(end);
}

/// Calls `each` with the start and the end of all rows where they lie side by side in order, else of each row.
#[inline(always)]
fn runs(rows: &[u32], mut each: impl FnMut(usize, usize)) {
    match rows {
        [first, .., last] if last.wrapping_sub(*first) as usize + 1 == rows.len() => {
            each(*first as usize, *last as usize + 1);
        }
        _ => rows.iter().for_each(|row| each(*row as usize, *row as usize + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_blocks_rows_those_that_are_held_out_do_not_come() {
        let mut rows = vec![2, 0, 1, 2, 3, 4];
        drop_held_out(&mut rows, 1, &[0.0, -1.0, 2.0, 0.0, 0.5]);
        assert_eq!(rows, [2, 1, 2, 4], "what was there before stays");
        drop_held_out(&mut rows, 1, &[0.0; 5]);
        assert_eq!(rows, [2]);
    }
}
