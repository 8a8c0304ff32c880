//! Whether what a pass learnt is worth anything: its step is fixed by the first rows, for all features. Later rows may be of
//! another size, and so may some features.

use flexps_common::data::Block;
use flexps_common::report::ProgressReport;
use std::collections::HashMap;
use std::f64::consts::LN_2;

/// So many times what scores of 0 cost is more than noise adds.
const FAR: f64 = 1.25;

/// Non-zeros that are looked at to tell how large features are: enough for those that many rows have.
const LOOKED: usize = 100_000;
/// Part of these rows that a feature must have to count.
const MANY: f64 = 0.05;
/// Features of which some are so many times as large as others have no step in common.
const WIDE: f64 = 100.0;

/// How many times as large the largest of a block's features is as the smallest, by the mean |x| of those that many rows have.
pub fn spread(block: &Block) -> f64 {
    let Some(values) = &block.values else { return 1.0 };
    let mut seen = HashMap::<u32, (usize, f64)>::new();
    let looked = block.offsets.partition_point(|end| *end as usize <= LOOKED).saturating_sub(1);
    for at in 0..block.offsets[looked] as usize {
        let (count, sum) = seen.entry(block.indices[at]).or_default();
        *count += 1;
        *sum += f64::from(values[at].abs());
    }
    let many = seen.values().filter(|(count, _)| *count as f64 >= MANY * looked as f64);
    let sizes = many.map(|(count, sum)| sum / *count as f64).filter(|size| *size > 0.0);
    let (least, most) = sizes.fold((f64::INFINITY, 0.0f64), |(least, most), size| (least.min(size), most.max(size)));
    if most > least { most / least } else { 1.0 }
}

/// What the report says where features are of so unlike size.
pub fn of_sizes(spread: f64) -> Option<String> {
    (spread >= WIDE).then(|| {
        format!(
            "values of some features are {spread:.0} times those of others, and ftrl has one step for all, by which it learns \
             little of the small ones; scale the features, or take another --solver"
        )
    })
}

/// What the report says of a pass whose later rows cost more than scores of 0 would have; `points` are means over ever more rows.
pub fn of(points: &[ProgressReport]) -> Option<String> {
    let last = points.last()?;
    let sum = |point: &ProgressReport| point.loss * point.rows as f64;
    // The first rows may be dear where all is well behind them.
    let early = points.iter().rev().find(|point| 2 * point.rows <= last.rows);
    let (before, rows) = early.map_or((0.0, 0), |early| (sum(early), early.rows));
    let later = (sum(last) - before) / (last.rows - rows).max(1) as f64;
    (later > FAR * LN_2).then(|| {
        format!(
            "the progressive loss of the later rows is {later:.3}, and scores of 0 would cost {LN_2:.3}: the step that the first \
             rows gave does not suit them; scale the features, or give a shorter --step"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Rows;

    #[test]
    fn features_of_unlike_size_are_told_of_if_many_rows_have_them() {
        let mut blocks = Rows { rows: 2000, features: 20, nonzeros: 10, ..Rows::sparse(3) }.blocks(1);
        assert_eq!(of_sizes(spread(&blocks[0])), None);
        let blown_up = |blocks: &mut [Block], every: usize| {
            let Block { indices, values, .. } = &mut blocks[0];
            let values = values.iter_mut().flatten().zip(indices).enumerate();
            values.filter(|(at, (_, j))| **j == 7 && at % every == 0).for_each(|(_, (x, _))| *x *= 1e6);
        };
        blown_up(&mut blocks, 1);
        let told = of_sizes(spread(&blocks[0])).unwrap();
        assert!(told.contains("scale the features"), "{told}");
        blocks[0].values = None;
        assert_eq!(spread(&blocks[0]), 1.0);
        assert_eq!(spread(&Block::default()), 1.0);
        // One that next to no row has.
        let mut rare = Rows { rows: 2000, features: 20, nonzeros: 10, ..Rows::sparse(3) }.blocks(1);
        rare[0].indices.iter_mut().for_each(|j| *j *= 2);
        rare[0].indices[0] = 1;
        rare[0].values.iter_mut().for_each(|values| values[0] = 1e9);
        assert_eq!(of_sizes(spread(&rare[0])), None);
    }

    #[test]
    fn only_later_rows_that_cost_more_than_no_model_are_told_of() {
        let points = |all: &[(u64, f64)]| -> Vec<_> {
            all.iter().map(|(rows, loss)| ProgressReport { rows: *rows, loss: *loss }).collect()
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&points(&[(128, 9.0), (256, 4.8), (512, 2.5)])), None, "they cost 0.2 since");
        assert_eq!(of(&points(&[(128, 0.7), (256, 0.7), (300, 0.72)])), None);
        let told = of(&points(&[(128, 0.3), (256, 0.3), (512, 1.3)])).unwrap();
        assert!(told.contains("later rows is 2.300, and scores of 0 would cost 0.693"), "{told}");
    }
}
