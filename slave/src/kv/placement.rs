//! Which shard serves which keys of a table, and requests cut by it.
//!
//! Invariant: workers and shards cut key lists by the same rule, so a request that was cut right is never refused.

use flexps_common::home::Home;
use flexps_common::ids::Key;
use std::ops::Range;
use std::sync::Arc;

/// A table's home as one of the job's shards sees it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// This shard's number among those of the job.
    pub index: u32,
    members: Arc<[u32]>,
}

/// Keys of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys<'a> {
    /// Strictly rising keys.
    List(&'a [Key]),
    /// `start..start + count`.
    Range {
        /// First key.
        start: Key,
        /// Number of keys.
        count: u32,
    },
}

impl<'a> Keys<'a> {
    /// The keys of a range; none when it is empty or upside down.
    pub fn range(keys: &Range<Key>) -> Self {
        Self::Range { start: keys.start, count: keys.end.saturating_sub(keys.start) }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        match self {
            Keys::List(keys) => keys.len(),
            Keys::Range { count, .. } => *count as usize,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first key.
    pub fn first(&self) -> Option<Key> {
        match self {
            Keys::List(keys) => keys.first().copied(),
            Keys::Range { start, count } => (*count > 0).then_some(*start),
        }
    }

    /// The keys in turn.
    pub fn iter(self) -> impl Iterator<Item = Key> + use<'a> {
        let (list, start, count) = match self {
            Keys::List(keys) => (keys, 0, 0),
            Keys::Range { start, count } => (&[][..], start, count),
        };
        list.iter().copied().chain((0..count).map(move |place| start + place))
    }

    /// The first run: its chunk, its keys, and the rest. A run's keys lie in one chunk of `1 << shift` keys.
    #[inline]
    pub fn split_run(self, shift: u32) -> Option<(u32, Self, Self)> {
        match self {
            Keys::List(keys) => {
                let chunk = keys.first()? >> shift;
                let (run, rest) = keys.split_at(run_len(keys, shift));
                Some((chunk, Keys::List(run), Keys::List(rest)))
            }
            Keys::Range { count: 0, .. } => None,
            Keys::Range { start, count } => {
                let chunk = start >> shift;
                let left = ((1u64 << shift) - u64::from(start & ((1 << shift) - 1))).min(u64::from(count)) as u32;
                let rest = Keys::Range { start: start.wrapping_add(left), count: count - left };
                Some((chunk, Keys::Range { start, count: left }, rest))
            }
        }
    }
}

/// Number of leading keys in the same chunk as the first.
#[inline]
fn run_len(keys: &[Key], shift: u32) -> usize {
    let chunk = keys[0] >> shift;
    // Long runs are skipped in leaps: whole blocks in the chunk are recognised by their last key.
    const LEAP: usize = 32;
    let mut at = 0;
    while at + LEAP <= keys.len() && keys[at + LEAP - 1] >> shift == chunk {
        at += LEAP;
    }
    let rest = &keys[at..keys.len().min(at + LEAP)];
    at + rest.partition_point(|key| key >> shift == chunk)
}

/// Whether the keys rise strictly.
pub fn rises(keys: &[Key]) -> bool {
    // No early exit: the loop is vectorised, and wrong lists are rare.
    let mut falls = false;
    for (a, b) in keys.iter().zip(keys.iter().skip(1)) {
        falls |= a >= b;
    }
    !falls
}

impl Placement {
    /// `home` as shard `index` of `shards` sees it.
    pub fn new(index: u32, home: &Home, shards: usize) -> Self {
        Self { index, members: home.members(shards).into() }
    }

    /// Of the only shard of its job.
    pub fn alone() -> Self {
        Self::new(0, &Home::All, 1)
    }

    /// The same as if this shard served all of it.
    pub fn here(&self) -> Self {
        Self { index: self.index, members: [self.index].into() }
    }

    /// Shards that serve the table.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Whether this shard serves the whole table.
    pub fn is_here(&self) -> bool {
        *self.members == [self.index]
    }

    /// The number of the shard that serves `chunk`.
    #[inline]
    pub fn owner(&self, chunk: u32) -> u32 {
        match &self.members[..] {
            [only] => *only,
            members => members[chunk as usize % members.len()],
        }
    }

    /// Whether this shard serves `chunk`.
    pub fn owns(&self, chunk: u32) -> bool {
        self.owner(chunk) == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_of_a_list_cover_it_and_stay_in_their_chunk(
            mut keys in proptest::collection::vec(0u32..5000, 0..300), shift in 0u32..13
        ) {
            keys.sort_unstable();
            keys.dedup();
            prop_assert!(rises(&keys));
            let (mut rest, mut seen) = (Keys::List(&keys), Vec::new());
            let mut last = None;
            while let Some((chunk, Keys::List(run), next)) = rest.split_run(shift) {
                prop_assert!(!run.is_empty() && run.iter().all(|k| k >> shift == chunk));
                prop_assert!(last < Some(chunk), "runs are as long as they can be");
                last = Some(chunk);
                seen.extend_from_slice(run);
                rest = next;
            }
            prop_assert_eq!(seen, keys);
        }

        #[test]
        fn runs_of_a_range_cover_it_and_stay_in_their_chunk(start: u32, count in 0u32..70_000, shift in 10u32..17) {
            let count = count.min(u32::MAX - start);
            let (mut rest, mut next_key) = (Keys::Range { start, count }, u64::from(start));
            while let Some((chunk, Keys::Range { start, count }, next)) = rest.split_run(shift) {
                prop_assert!(count > 0 && u64::from(start) == next_key);
                prop_assert!(start >> shift == chunk && (start + (count - 1)) >> shift == chunk);
                next_key += u64::from(count);
                rest = next;
            }
            prop_assert_eq!(next_key, u64::from(start) + u64::from(count));
        }
    }

    #[test]
    fn equal_or_falling_keys_do_not_rise() {
        assert!(rises(&[]) && rises(&[7]) && rises(&[1, 2, 9]));
        assert!(!rises(&[1, 1]) && !rises(&[1, 3, 2]));
    }
}
