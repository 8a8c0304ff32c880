//! A worker's rows of few features, one behind the other, as the matrix of second derivatives is made of them.
//!
//! A feature is told by its place among those that matter; the intercept, if there is one, is a last feature that is 1 in each
//! row. Invariant: the places of a row rise, and are below the number of features.

use super::super::columns::Columns;
use super::super::gradient::dot_at;
use super::super::quadratic::Way;
use crate::pages;
use flexps_common::data::Block;
use flexps_common::data::block::KeyMap;

/// The rows.
#[derive(Debug, Default)]
pub struct Lines {
    /// Where each one starts; one more than there are rows.
    starts: Vec<usize>,
    slots: Vec<u32>,
    /// None when all are 1.
    values: Option<Vec<f32>>,
    /// Features without the intercept.
    features: usize,
    /// Whether there is one.
    bias: bool,
}

/// A row: places, and values, none where all are 1.
type Line<'a> = (&'a [u32], Option<&'a [f32]>);

impl Lines {
    /// No rows yet, of so many features.
    pub fn new(features: usize, bias: bool) -> Self {
        Self { starts: vec![0], features, bias, ..Self::default() }
    }

    /// How many non-zeros of `columns` each of so many rows has.
    pub fn counts(columns: &Columns, rows: usize) -> Vec<usize> {
        let mut counts = vec![0; rows];
        (0..columns.count()).for_each(|j| columns.column(j).each(|row, _| counts[row] += 1));
        counts
    }

    /// Of the features of `columns`, the rows having so many of them each.
    pub fn of_columns(columns: &Columns, counts: &[usize], bias: bool) -> Self {
        let own = usize::from(bias);
        let mut starts = vec![0; counts.len() + 1];
        counts.iter().enumerate().for_each(|(row, count)| starts[row + 1] = starts[row] + count + own);
        let (mut next, all) = (starts.clone(), starts[counts.len()]);
        let (mut slots, mut values) = (vec![0u32; all], columns.has_values().then(|| vec![1f32; all]));
        for j in 0..columns.count() {
            columns.column(j).each(|row, x| {
                slots[next[row]] = j as u32;
                if let Some(values) = &mut values {
                    values[next[row]] = x as f32;
                }
                next[row] += 1;
            });
        }
        if bias {
            next[..counts.len()].iter().for_each(|at| slots[*at] = columns.count() as u32);
        }
        Self { starts, slots, values, features: columns.count(), bias }
    }

    /// Adds a block's rows, of all whose features the place is the number; `map` tells that of each local one.
    pub fn add(&mut self, block: &Block, map: &KeyMap) {
        if let (None, Some(_)) = (&self.values, &block.values) {
            self.values = Some(vec![1.0; self.slots.len()]);
        }
        for row in (0..block.rows()).map(|i| block.row(i)) {
            assert!(row.indices.is_sorted(), "indices rise inside a row");
            match map {
                KeyMap::Identity(_) => self.slots.extend_from_slice(row.indices),
                KeyMap::Sorted(keys) => self.slots.extend(row.indices.iter().map(|index| keys[*index as usize])),
            }
            let last = if row.indices.is_empty() { None } else { self.slots.last() };
            assert!(last.is_none_or(|last| (*last as usize) < self.features), "features are below their number");
            if self.bias {
                self.slots.push(self.features as u32);
            }
            if let Some(values) = &mut self.values {
                row.values.iter().for_each(|own| values.extend_from_slice(own));
                values.resize(self.slots.len(), 1.0);
            }
            self.starts.push(self.slots.len());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Features without the intercept.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Features with it.
    pub fn size(&self) -> usize {
        self.features + usize::from(self.bias)
    }

    /// Row by row.
    pub fn rows(&self) -> impl Iterator<Item = Line<'_>> {
        self.starts.windows(2).map(|range| {
            let range = range[0]..range[1];
            (&self.slots[range.clone()], self.values.as_ref().map(|values| &values[range]))
        })
    }

    /// The gradient of the losses by these rows, `bends` being slope and curvature of each, over n.
    pub fn gradient(&self, bends: &[[f64; 2]]) -> Vec<f64> {
        let mut sums = vec![0.0; self.size()];
        for ((slots, values), [slope, _]) in self.rows().zip(bends).filter(|(_, [slope, _])| *slope != 0.0) {
            // SAFETY: a row's places are below the size.
            let mut add = |slot: &u32, by: f64| unsafe { *sums.get_unchecked_mut(*slot as usize) += by };
            match values {
                Some(values) => slots.iter().zip(values).for_each(|(slot, x)| add(slot, slope * f64::from(*x))),
                None => slots.iter().for_each(|slot| add(slot, *slope)),
            }
        }
        sums.truncate(self.features);
        sums
    }

    /// The score of each row under these weights.
    pub fn scores(&self, weights: &Way, to: &mut Vec<f64>) {
        let all: Vec<f64> = weights.step.iter().copied().chain(self.bias.then_some(weights.bias)).collect();
        assert_eq!(all.len(), self.size(), "a weight for each feature");
        pages::clear(to, self.count());
        // SAFETY: a row's places are below the size.
        to.extend(self.rows().map(|(slots, values)| dot_at(slots, values, |slot| unsafe { *all.get_unchecked(slot) })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn rows_of_blocks_with_and_without_values_are_told_by_feature() {
        let shape = fixtures::Rows { rows: 40, features: 30, ..fixtures::Rows::sparse(3) };
        let mut blocks = shape.blocks(2);
        blocks[0].values = None;
        let weights = Way { step: (0..60).map(|j| f64::from(j).sin()).collect(), bias: 0.25 };
        for bias in [false, true] {
            for map in [KeyMap::Identity(30), KeyMap::Sorted((0..30).map(|local| 2 * local + 1).collect())] {
                let (mut lines, mut expected) = (Lines::new(60, bias), Vec::new());
                for block in &blocks {
                    lines.add(block, &map);
                    for row in (0..block.rows()).map(|i| block.row(i)) {
                        let x = |at: usize| row.values.map_or(1.0, |values| f64::from(values[at]));
                        let weight = |at: usize| weights.step[map.key(row.indices[at]) as usize];
                        let own = (0..row.indices.len()).map(|at| x(at) * weight(at)).sum::<f64>();
                        expected.push(own + if bias { weights.bias } else { 0.0 });
                    }
                }
                let mut scores = Vec::new();
                lines.scores(&weights, &mut scores);
                assert_eq!(scores.len(), expected.len());
                assert!(scores.iter().zip(&expected).all(|(score, wanted)| (score - wanted).abs() < 1e-12));
                let bends: Vec<[f64; 2]> = (0..lines.count()).map(|i| [(i as f64).cos(), 1.0]).collect();
                // Both see the same rows: g.w is the sum of slopes times scores.
                let along: f64 = lines.gradient(&bends).iter().zip(&weights.step).map(|(g, w)| g * w).sum();
                let slopes = bends.iter().map(|[slope, _]| slope * if bias { weights.bias } else { 0.0 });
                let by_rows = scores.iter().zip(&bends).map(|(z, [slope, _])| z * slope).sum::<f64>();
                assert!((along + slopes.sum::<f64>() - by_rows).abs() < 1e-9);
            }
        }
    }
}
