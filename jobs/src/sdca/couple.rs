//! Which features couple the rows of several slaves: those of which all rows together say more than the penalty does.
//!
//! Of a feature j the rows' losses have a second derivative of at most c sum x_ij^2 / n, c being the loss's, and the penalty
//! one of lambda. Where lambda is the larger, what one slave moves hardly changes what the others should do, so they need not
//! hear of it at once; as a rule there are few others. Invariant: all workers of a slave find the same features, and find
//! them from that slave's rows alone, so slaves may differ in them.

use super::alone::is_kinked;
use super::loss::Loss;
use super::rows::Own;
use crate::parts::{self, Part};
use flexps_common::Result;
use flexps_common::data::Facts;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::worker::Worker;
use std::sync::Arc;

/// Of no more features than these all are joined each time: less would save nothing.
const FEW: u64 = 8192;
/// Of more features at most this part couples, or half of [`FEW`].
const PART: usize = 64;
/// Non-zeros of a worker that are looked at, about.
const SAMPLE: u64 = 1 << 20;
/// Consecutive rows of which all are looked at, or none.
const RUN: usize = 16;
/// Of a loss with a kink, which has no largest second derivative.
const KINK: f64 = 4.0;

/// Features, rising, by their places in a key map.
#[derive(Debug, Clone, Default)]
pub struct Coupled {
    map: Arc<KeyMap>,
    pub places: Vec<u32>,
    pub keys: Vec<Key>,
}

/// Whether it pays to join them alone, of rows with these facts.
pub fn pays(facts: &Facts) -> bool {
    parts::features(facts) > FEW
}

impl Coupled {
    /// The features of a slave's rows, of which this worker has `part`; all of the slave's workers must call it. Give it
    /// back by [`Coupled::keep`].
    pub fn find<L: Loss>(worker: &mut Worker<'_>, own: &mut Own, part: &Part, facts: &Facts) -> Result<Self> {
        let kept: Option<Self> = worker.take_scratch();
        let kept = kept.filter(|kept| Arc::ptr_eq(&kept.map, &part.map));
        let mut found = [f32::from(u8::from(kept.is_some()))];
        worker.sum_local(&mut found)?;
        match kept {
            Some(kept) if found[0] == worker.place.local_threads as f32 => Ok(kept),
            _ => Self::look::<L>(worker, own, part, facts),
        }
    }

    /// Leaves it for the next stage.
    pub fn keep(self, worker: &mut Worker<'_>) {
        worker.put_scratch(Some(self));
    }

    fn look<L: Loss>(worker: &mut Worker<'_>, own: &mut Own, part: &Part, facts: &Facts) -> Result<Self> {
        let map = part.map.clone();
        let every = (facts.nonzeros / worker.place.threads as u64 / SAMPLE).max(1) as usize;
        // Sums of squares by feature, and behind them the number of rows.
        let mut sums = vec![0.0f32; map.len() + 1];
        for i in 0..part.blocks() {
            part.expect(worker, i + 1);
            let block = own.block(worker, part, i)?;
            for row in (0..block.rows()).filter(|row| (row / RUN).is_multiple_of(every)).map(|row| block.row(row)) {
                match row.values {
                    None => row.indices.iter().for_each(|at| sums[*at as usize] += 1.0),
                    Some(values) => row.indices.iter().zip(values).for_each(|(at, x)| sums[*at as usize] += x * x),
                }
                sums[map.len()] += 1.0;
            }
        }
        worker.sum_local(&mut sums)?;
        let rows = f64::from(sums.pop().unwrap_or(0.0)).max(1.0);
        let curvature = if is_kinked::<L>() { KINK } else { 1.0 / L::CONVEXITY };
        let least = (worker.scalar("lambda", 0.0) * rows / curvature) as f32;
        let most = (map.len() / PART).max(FEW as usize / 2);
        let places = largest(&sums, least, most);
        let keys = places.iter().map(|at| map.key(*at)).collect();
        Ok(Self { map, places, keys })
    }
}

/// The places of the values from `least` on, of at most `most` of them, the largest.
fn largest(values: &[f32], least: f32, most: usize) -> Vec<u32> {
    let mut places: Vec<u32> = (0u32..).zip(values).filter(|(_, value)| **value >= least).map(|(at, _)| at).collect();
    if places.len() > most {
        let by = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
        places.select_nth_unstable_by(most, by);
        places.truncate(most);
        places.sort_unstable();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_values_are_found_in_order_and_of_equal_ones_the_first() {
        let values = [1.0, 5.0, 3.0, 3.0, 0.5, 3.0, 9.0];
        assert_eq!(largest(&values, 1.0, 10), [0, 1, 2, 3, 5, 6]);
        assert_eq!(largest(&values, 1.0, 4), [1, 2, 3, 6]);
        assert_eq!(largest(&values, 4.0, 4), [1, 6]);
        assert!(largest(&values, 10.0, 4).is_empty() && largest(&[], 0.0, 0).is_empty());
    }
}
