//! A worker's rows of few features, as the matrix of second derivatives is made of them: copied from the columns of some, or,
//! where all matter, as they lie in their blocks.
//!
//! A feature is told by its place among those that matter, on all slaves the same; within rows by a local number. Invariant:
//! local numbers are below that of the map, and rows come in the same order each time.

use super::super::columns::Columns;
use super::super::gradient::{add_scaled, block, dot};
use crate::pages;
use crate::parts::Part;
use flexps_common::data::Block;
use flexps_common::data::block::KeyMap;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// The rows.
#[derive(Debug)]
pub struct Lines {
    held: Held,
    /// The places of local features.
    map: Arc<KeyMap>,
    /// Places.
    features: usize,
    /// Rows.
    count: usize,
}

#[derive(Debug)]
enum Held {
    Copied(Block),
    Blocks(Part),
}

impl Lines {
    /// How many non-zeros of `columns` each of so many rows has.
    pub fn counts(columns: &Columns, rows: usize) -> Vec<u32> {
        let mut counts = vec![0; rows];
        (0..columns.count()).for_each(|j| columns.column(j).each(|row, _| counts[row] += 1));
        counts
    }

    /// Of the features of `columns`, the rows having so many of them each.
    pub fn of_columns(columns: &Columns, counts: &[u32]) -> Self {
        let (features, count) = (columns.count(), counts.len());
        let mut offsets = vec![0u32; count + 1];
        counts.iter().enumerate().for_each(|(row, count)| offsets[row + 1] = offsets[row] + count);
        let (mut next, all) = (offsets.clone(), offsets[count] as usize);
        let (mut indices, mut values) = (vec![0u32; all], columns.has_values().then(|| vec![1f32; all]));
        for j in 0..features {
            columns.column(j).each(|row, x| {
                let at = next[row] as usize;
                indices[at] = j as u32;
                if let Some(values) = &mut values {
                    values[at] = x as f32;
                }
                next[row] += 1;
            });
        }
        let held = Held::Copied(Block { labels: vec![0.0; count], offsets, indices, values });
        Self { held, map: Arc::new(KeyMap::Identity(features as u32)), features, count }
    }

    /// Of all features, which are `features`, so many rows.
    pub fn of_blocks(part: Part, features: usize, count: usize) -> Self {
        Self { map: part.map.clone(), held: Held::Blocks(part), features, count }
    }

    /// No rows, of so many features.
    #[cfg(test)]
    pub fn none(features: usize) -> Self {
        let map = Arc::new(KeyMap::Identity(features as u32));
        Self { held: Held::Copied(Block::default()), map, features, count: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Places of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Local features.
    pub fn locals(&self) -> usize {
        self.map.len()
    }

    /// The place of a local feature.
    pub fn place(&self, local: usize) -> usize {
        self.map.key(local as u32) as usize
    }

    /// Calls `visit` with some rows at a time, whose local features are below the number of these, and which of all they are.
    pub fn each(&self, worker: &mut Worker<'_>, mut visit: impl FnMut(&Block, Range<usize>)) -> Result<()> {
        let part = match &self.held {
            Held::Copied(block) => {
                visit(block, 0..self.count);
                return Ok(());
            }
            Held::Blocks(part) => part,
        };
        let mut first = 0;
        for at in 0..part.blocks() {
            let block = block(worker, part, at)?;
            let own = first..first + block.rows();
            first = own.end;
            if first > self.count {
                return Err(Error::bug("a worker has more rows than it had"));
            }
            visit(&block, own);
        }
        Ok(())
    }

    /// The gradient of the losses by these rows, by place, `bends` being slope and curvature of each, over n.
    pub fn gradient(&self, worker: &mut Worker<'_>, bends: &[[f64; 2]]) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; self.locals()];
        self.each(worker, |block, own| {
            for (row, [slope, _]) in block.iter().zip(&bends[own]).filter(|(_, [slope, _])| *slope != 0.0) {
                // SAFETY: there are as many sums as local features.
                unsafe { add_scaled(&row, *slope, false, &mut sums) };
            }
        })?;
        if self.locals() == self.features {
            return Ok(sums);
        }
        let mut placed = vec![0.0; self.features];
        sums.into_iter().enumerate().for_each(|(local, sum)| placed[self.place(local)] = sum);
        Ok(placed)
    }

    /// The score of each row under these weights, by place, and this intercept.
    pub fn scores(&self, worker: &mut Worker<'_>, weights: &[f64], bias: f64, to: &mut Vec<f64>) -> Result<()> {
        let own: Vec<f64> = (0..self.locals()).map(|local| weights[self.place(local)]).collect();
        pages::clear(to, self.count);
        self.each(worker, |block, _| {
            // SAFETY: there are as many weights as local features.
            to.extend(block.iter().map(|row| bias + unsafe { dot(&row, &own) }));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::reduce::Reduce;
    use super::super::Gram;
    use super::*;
    use crate::fixtures;
    use crate::parts::{Parts, Rows};
    use flexps_common::data::InputSpec;
    use flexps_common::host::Host;
    use flexps_common::ids::Key;
    use flexps_common::plan::{Plan, Table};

    const FEATURES: usize = 90;

    fn near(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + b.abs())), "{a:?} is not {b:?}");
    }

    /// What rows in their blocks show is what their columns show; a matrix that is changed is what it is when made anew.
    fn compare(worker: &mut Worker<'_>, rows: Rows, sums: Table<f64>) -> Result<()> {
        let keys: Vec<Key> = (0..FEATURES as Key).collect();
        let columns = Columns::take(worker, rows, &keys, &[])?;
        let part = Parts::new(worker, rows)?.whole(worker)?.unwrap();
        let mut count = 0;
        for at in 0..part.blocks() {
            count += part.block(worker, at)?.rows();
        }
        let weights: Vec<f64> = (0..FEATURES).map(|j| (j as f64).sin()).collect();
        let mut expected = vec![0.25; count];
        columns.add(&weights, &mut expected);
        let bends: Vec<[f64; 2]> = (0..count).map(|i| [if i % 3 == 0 { 0.0 } else { (i as f64).cos() }, 1.0]).collect();
        let slopes: Vec<f64> = (0..FEATURES).map(|j| columns.column(j).dot(&bends)).collect();
        let copied = || Lines::of_columns(&columns, &Lines::counts(&columns, count));
        let mut reduce = Reduce::new(sums, FEATURES * FEATURES);
        let mut expected_gram = Gram::whole(copied(), true);
        expected_gram.fill(worker, &mut reduce, &bends)?;
        for lines in [Lines::of_blocks(part, FEATURES, count), copied()] {
            let mut scores = Vec::new();
            lines.scores(worker, &weights, 0.25, &mut scores)?;
            near(&scores, &expected);
            near(&lines.gradient(worker, &bends)?, &slopes);
            let mut gram = Gram::whole(lines, true);
            // Of few rows the curvature changes, then that of most.
            for changes in [10, 2, 1] {
                let curvature = |i: usize| if i.is_multiple_of(changes) { 1.0 + i as f64 } else { 1.0 };
                let other: Vec<[f64; 2]> = (0..count).map(|i| [0.0, curvature(i)]).collect();
                gram.fill(worker, &mut reduce, &other)?;
            }
            gram.fill(worker, &mut reduce, &bends)?;
            near(&gram.matrix, &expected_gram.matrix);
        }
        Ok(())
    }

    #[test]
    fn rows_in_their_blocks_are_the_same_as_by_column() {
        for gaps in [1, 3] {
            let shape = fixtures::Rows { rows: 90, features: 30, ..fixtures::Rows::sparse(3) };
            let mut blocks = shape.blocks(4);
            blocks.iter_mut().flat_map(|block| &mut block.indices).for_each(|index| *index *= gaps);
            blocks[1].values = None;
            let mut plan = Plan::default();
            let input = plan.input(InputSpec::new("rows", vec![fixtures::path("rows")])).unwrap();
            let rows = Rows { input, memory: 1 << 20, drawn: false };
            let sums = plan.table("sums", 1);
            plan.body.stage("compare", move |worker| compare(worker, rows, sums)).input(input);
            Host::cluster(2, 2).rows(blocks).run(&plan).unwrap();
        }
    }
}
