//! The distinct features of many rows, and their renumbering 0..k.
//!
//! A bitmap in pages of 512 keys, of which only those that are touched exist. Invariant: a renumbering keeps the order, so
//! what was sorted by feature is sorted by local number.

use super::block::KeyMap;
use crate::ids::Key;

const PAGE_BITS: u32 = 9;
const WORDS: usize = 1 << (PAGE_BITS - 6);

/// A set of keys.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    /// Place of key >> PAGE_BITS in `pages`, plus 1; 0 when no such key is in the set.
    directory: Vec<u32>,
    pages: Vec<[u64; WORDS]>,
}

/// A set of keys that can tell each key's rank in it.
#[derive(Debug)]
pub struct Ranks {
    directory: Vec<u32>,
    pages: Vec<RankedPage>,
    count: u64,
}

/// A cache line and a half: one look-up touches one word and its count.
#[derive(Debug, Clone)]
struct RankedPage {
    words: [u64; WORDS],
    /// Keys of the set below this page, then, per word, below the word within the page.
    below: u32,
    within: [u16; WORDS],
}

/// Whether so many of the `features` numbers occur that rows keep these: half of them.
pub fn is_enough(occurring: u64, features: u64) -> bool {
    occurring >= features.div_ceil(2)
}

fn position(key: Key) -> (usize, usize, u32) {
    ((key >> PAGE_BITS) as usize, (key >> 6) as usize % WORDS, key % 64)
}

impl KeySet {
    /// Adds keys, in any order.
    pub fn insert(&mut self, keys: &[Key]) {
        for key in keys {
            let (entry, word, bit) = position(*key);
            let page = match self.directory.get(entry) {
                Some(at) if *at != 0 => *at as usize - 1,
                _ => self.add_page(entry),
            };
            self.pages[page][word] |= 1 << bit;
        }
    }

    #[cold]
    fn add_page(&mut self, entry: usize) -> usize {
        if entry >= self.directory.len() {
            // Fresh zeroed memory: what nobody touches of it is never made.
            let mut wider = vec![0; (entry + 1).next_power_of_two()];
            wider[..self.directory.len()].copy_from_slice(&self.directory);
            self.directory = wider;
        }
        self.pages.push([0; WORDS]);
        self.directory[entry] = self.pages.len() as u32;
        self.pages.len() - 1
    }

    /// Adds the keys of another set.
    pub fn merge(&mut self, other: &KeySet) {
        for (entry, at) in other.directory.iter().enumerate().filter(|(_, at)| **at != 0) {
            let page = match self.directory.get(entry) {
                Some(mine) if *mine != 0 => *mine as usize - 1,
                _ => self.add_page(entry),
            };
            for (mine, theirs) in self.pages[page].iter_mut().zip(&other.pages[*at as usize - 1]) {
                *mine |= theirs;
            }
        }
    }

    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.pages.iter().flatten().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Counts the keys below each word.
    pub fn into_ranks(self) -> Ranks {
        let mut below = 0u64;
        let mut directory = self.directory;
        let mut pages = Vec::with_capacity(self.pages.len());
        // Pages in key order, so that neighbours in keys are neighbours in memory.
        for entry in directory.iter_mut().filter(|at| **at != 0) {
            let words = self.pages[*entry as usize - 1];
            let mut page = RankedPage { words, below: below as u32, within: [0; WORDS] };
            let mut inside = 0;
            for (within, word) in page.within.iter_mut().zip(words) {
                *within = inside;
                inside += word.count_ones() as u16;
            }
            below += u64::from(inside);
            pages.push(page);
            *entry = pages.len() as u32;
        }
        Ranks { directory, pages, count: below }
    }
}

impl Ranks {
    /// The key map for rows whose features lie in 0..`features`: no renumbering if that [`is_enough`].
    pub fn map(&self, features: u64) -> KeyMap {
        match u32::try_from(features) {
            Ok(features) if is_enough(self.count, features.into()) => KeyMap::Identity(features),
            _ => KeyMap::Sorted(self.keys()),
        }
    }

    /// All keys, rising.
    fn keys(&self) -> Box<[Key]> {
        let mut keys = Vec::with_capacity(self.count as usize);
        for (entry, at) in self.directory.iter().enumerate().filter(|(_, at)| **at != 0) {
            for (i, word) in self.pages[*at as usize - 1].words.iter().enumerate() {
                let first = ((entry as u32) << PAGE_BITS) + 64 * i as u32;
                let mut rest = *word;
                while rest != 0 {
                    keys.push(first + rest.trailing_zeros());
                    rest &= rest - 1;
                }
            }
        }
        keys.into()
    }

    /// Replaces each key, all of which must be in the set, by its rank.
    pub fn renumber(&self, keys: &mut [Key]) {
        for key in keys {
            let (entry, word, bit) = position(*key);
            let page = &self.pages[self.directory[entry] as usize - 1];
            let lower = page.words[word] & ((1 << bit) - 1);
            *key = page.below + u32::from(page.within[word]) + lower.count_ones();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn keys() -> impl Strategy<Value = Vec<Key>> {
        prop::collection::vec(prop_oneof![0u32..3000, any::<u32>(), u32::MAX - 600..=u32::MAX], 0..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn ranks_are_places_in_the_sorted_set(parts in prop::collection::vec(keys(), 1..4)) {
            let mut set = KeySet::default();
            for part in &parts {
                let mut one = KeySet::default();
                one.insert(part);
                set.merge(&one);
            }
            let sorted: Vec<Key> = parts.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(set.len(), sorted.len() as u64);
            let ranks = set.into_ranks();
            prop_assert_eq!(ranks.map(1 << 32), KeyMap::Sorted(sorted.clone().into()));
            for mut part in parts {
                let expected: Vec<u32> =
                    part.iter().map(|k| sorted.binary_search(k).unwrap() as u32).collect();
                ranks.renumber(&mut part);
                prop_assert_eq!(part, expected);
            }
        }
    }

    #[test]
    fn rows_that_use_half_of_the_features_are_not_renumbered() {
        let mut set = KeySet::default();
        set.insert(&[0, 5, 9]);
        let ranks = set.into_ranks();
        assert_eq!(ranks.map(6), KeyMap::Identity(6));
        assert_eq!(ranks.map(7), KeyMap::Sorted([0, 5, 9].into()));
        assert_eq!(KeySet::default().into_ranks().map(0), KeyMap::Identity(0));
        assert_eq!(KeySet::default().into_ranks().map(1 << 32), KeyMap::Sorted([].into()));
    }
}
