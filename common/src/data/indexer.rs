//! The distinct keys of a few rows, and each non-zero's place among them: what a worker needs to fetch the parameters of a
//! minibatch by key list.
//!
//! A radix sort of (key, place) pairs with as few passes as the keys' range asks for. Invariant: the cost depends on the
//! rows' non-zeros and hardly on the range of keys. (A bitmap over the range, whose words lie beyond the caches, takes 1.6
//! times as long at a million features and 4 times at 55 million.)

use crate::ids::Key;

/// Most bits that one pass sorts by: 2^11 counters fit the first cache beside what they scatter to.
const DIGIT: u32 = 11;

/// Renumbers the features of minibatches; keeps its scratch memory from one to the next.
#[derive(Debug, Default)]
pub struct Indexer {
    keys: Vec<Key>,
    local: Vec<u32>,
    /// Key in the upper half, place among the non-zeros in the lower.
    pairs: Vec<u64>,
    spare: Vec<u64>,
    counts: Vec<u32>,
}

impl Indexer {
    /// The distinct keys of `rows`, rising, and, for all their non-zeros in order, the place of its key among them.
    pub fn index<'a>(&mut self, rows: impl Iterator<Item = &'a [Key]> + Clone) -> (&[Key], &[u32]) {
        // Rows rise, so the largest key is some row's last.
        let largest = rows.clone().filter_map(|r| r.last().copied()).max().unwrap_or(0);
        let bits = Key::BITS - largest.leading_zeros();
        self.pairs.clear();
        for row in rows {
            let from = self.pairs.len() as u64;
            self.pairs.extend(row.iter().zip(from..).map(|(key, place)| u64::from(*key) << 32 | place));
        }
        self.sort(bits);
        self.number();
        (&self.keys, &self.local)
    }

    /// Sorts the pairs by the lower `bits` bits of their keys.
    fn sort(&mut self, bits: u32) {
        let passes = bits.div_ceil(DIGIT);
        let width = bits.div_ceil(passes.max(1));
        let (Self { pairs, spare, counts, .. }, mask) = (self, (1u64 << width) - 1);
        spare.resize(pairs.len(), 0);
        for pass in 0..passes {
            let digit = |pair: u64| (pair >> (32 + pass * width) & mask) as usize;
            counts.clear();
            counts.resize(1 << width, 0);
            pairs.iter().for_each(|p| counts[digit(*p)] += 1);
            // From here on: where the next pair of a digit goes.
            let mut sum = 0;
            for count in counts.iter_mut() {
                sum += std::mem::replace(count, sum);
            }
            for pair in pairs.iter() {
                let next = &mut counts[digit(*pair)];
                spare[*next as usize] = *pair;
                *next += 1;
            }
            std::mem::swap(pairs, spare);
        }
    }

    /// Numbers the sorted pairs' keys.
    fn number(&mut self) {
        let Self { keys, local, pairs, .. } = self;
        keys.clear();
        local.resize(pairs.len(), 0);
        let mut last = None;
        for pair in pairs.iter() {
            let key = (pair >> 32) as Key;
            if last != Some(key) {
                last = Some(key);
                keys.push(key);
            }
            local[*pair as u32 as usize] = keys.len() as u32 - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn batches() -> impl Strategy<Value = Vec<Vec<BTreeSet<Key>>>> {
        let row = |range| prop::collection::btree_set(range, 0..40);
        let batch = prop_oneof![
            prop::collection::vec(row(0u32..500), 0..6),
            prop::collection::vec(row(0u32..1_000_000), 0..6),
            prop::collection::vec(row(0u32..u32::MAX), 0..6),
            prop::collection::vec(row(u32::MAX - 100..u32::MAX), 0..6),
            prop::collection::vec(row((1 << 22) - 50..(1 << 22) + 50), 0..6),
            prop::collection::vec(row(0..1), 0..6),
        ];
        prop::collection::vec(batch, 1..6)
    }

    proptest! {
        #[test]
        fn batches_are_numbered_by_the_order_of_their_keys(batches in batches()) {
            // One indexer for all: nothing may remain of an earlier batch.
            let mut indexer = Indexer::default();
            for batch in batches {
                let rows: Vec<Vec<Key>> = batch.iter().map(|r| r.iter().copied().collect()).collect();
                let sorted: Vec<Key> = rows.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
                let expected: Vec<u32> =
                    rows.iter().flatten().map(|k| sorted.binary_search(k).unwrap() as u32).collect();
                let (keys, local) = indexer.index(rows.iter().map(Vec::as_slice));
                prop_assert_eq!(keys, &sorted[..]);
                prop_assert_eq!(local, &expected[..]);
            }
        }
    }
}
