//! A block: some thousand parsed rows in CSR form, the unit that a slave caches and a worker iterates.
//!
//! Invariant: `offsets` has one entry more than there are rows, starts at 0, never falls and ends at the number of
//! indices; indices rise strictly inside a row; `values`, when there, is as long as `indices`.

use crate::ids::Key;
use crate::widest::{Work, widest};

/// Parsed rows in CSR form. Those that are kept have no room to spare, see [`Block::fit`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Block {
    /// -1 or +1 per row.
    pub labels: Vec<f32>,
    /// Where row i's non-zeros start; rows + 1 entries.
    pub offsets: Vec<u32>,
    /// Feature of each non-zero: the input's own number less the index base, or, once the slave renumbered its rows,
    /// the place in [`KeyMap`].
    pub indices: Vec<Key>,
    /// Value of each non-zero; none when all are 1.
    pub values: Option<Vec<f32>>,
}

/// One row of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// -1 or +1.
    pub label: f32,
    /// Features, strictly rising.
    pub indices: &'a [Key],
    /// Their values; none when all are 1.
    pub values: Option<&'a [f32]>,
}

impl Block {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Number of non-zeros.
    pub fn nonzeros(&self) -> usize {
        self.indices.len()
    }

    /// Row `i`. Panics when there are not that many.
    #[inline]
    pub fn row(&self, i: usize) -> Row<'_> {
        let range = self.offsets[i] as usize..self.offsets[i + 1] as usize;
        Row {
            label: self.labels[i],
            indices: &self.indices[range.clone()],
            values: self.values.as_ref().map(|v| &v[range]),
        }
    }

    /// All rows, in order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.labels.iter().zip(self.offsets.windows(2)).map(|(label, ends)| {
            let range = ends[0] as usize..ends[1] as usize;
            Row {
                label: *label,
                indices: &self.indices[range.clone()],
                values: self.values.as_ref().map(|values| &values[range]),
            }
        })
    }

    /// Gives back what it has room for beyond its rows.
    pub fn fit(&mut self) {
        self.labels.shrink_to_fit();
        self.offsets.shrink_to_fit();
        self.indices.shrink_to_fit();
        self.values.iter_mut().for_each(Vec::shrink_to_fit);
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        4 * (self.labels.len() + self.offsets.len() + self.indices.len() + self.values.as_ref().map_or(0, |v| v.len()))
    }
}

impl Row<'_> {
    /// Sum of the squared values.
    #[inline]
    pub fn norm2(&self) -> f64 {
        match self.values {
            Some(values) => norm2(values),
            None => self.indices.len() as f64,
        }
    }
}

/// Sum of squares in f64.
pub(super) fn norm2(values: &[f32]) -> f64 {
    widest(Squares(values))
}

struct Squares<'a>(&'a [f32]);

impl Work for Squares<'_> {
    type Output = f64;

    /// Eight sums side by side, since one would wait for each addition.
    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0f64; 8];
        let (groups, rest) = self.0.as_chunks::<8>();
        for group in groups {
            for (sum, v) in sums.iter_mut().zip(group) {
                *sum += f64::from(*v) * f64::from(*v);
            }
        }
        let rest: f64 = rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        sums.iter().sum::<f64>() + rest
    }
}

/// The features that a slave's rows use, in order: a row's local number is its feature's place here.
/// Since the map rises, what is sorted by local number is sorted by feature.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyMap {
    /// Nearly all features 0..n occur: local number = feature, and nothing was renumbered.
    Identity(u32),
    /// The features that occur, rising.
    Sorted(Box<[Key]>),
}

impl Default for KeyMap {
    fn default() -> Self {
        KeyMap::Identity(0)
    }
}

impl KeyMap {
    /// Number of local features.
    pub fn len(&self) -> usize {
        match self {
            KeyMap::Identity(n) => *n as usize,
            KeyMap::Sorted(keys) => keys.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The feature of local number `local`.
    #[inline]
    pub fn key(&self, local: u32) -> Key {
        match self {
            KeyMap::Identity(_) => local,
            KeyMap::Sorted(keys) => keys[local as usize],
        }
    }
}
