//! Rows that rest: of a loss whose dual variables have ends, most rows soon stay at one of them, and are left out of most
//! sweeps. It is the shrinking of Hsieh et al. (ICML 2008, section 3.3), without its bounds: how often a row is looked at
//! follows from how often it was found where it stays.
//!
//! A row that was found settled once comes in the next sweep again, then in every second, fourth and eighth; one that
//! moved comes in each. Invariant: no row rests for more than 7 sweeps of its block. That none was wrongly left to rest is
//! for the certificate to tell, which knows nothing of this.

/// A row that was found settled so often is looked at no less often still.
const MOST: u32 = 4;
/// Consecutive rows that come in the same sweep, so that their memory is read in runs.
const RUN: usize = 32;
/// Rows of a word.
const PACKED: usize = 8;

/// How often each row of a block was found settled, up to [`MOST`], and which sweep comes next: a column of the block.
#[derive(Debug, Default)]
pub struct Rests {
    /// The number of the next sweep, then 4 bits a row; nothing where all rows come each time.
    words: Vec<u32>,
}

impl Rests {
    /// What a column holds.
    pub fn of(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// The column, if there is one.
    pub fn column(self) -> Option<Vec<u32>> {
        (!self.words.is_empty()).then_some(self.words)
    }

    /// Whether rows may rest at all.
    pub fn kept(&self) -> bool {
        !self.words.is_empty()
    }

    /// Keeps from here on, of a block with so many rows, how often they are found settled.
    pub fn keep(&mut self, rows: usize) {
        if !self.kept() {
            self.words = vec![0; 1 + rows.div_ceil(PACKED)];
        }
    }

    /// No row rests any more.
    pub fn wake(&mut self) {
        self.words.fill(0);
    }

    /// Appends those of the block's `rows` rows that come in the next sweep, in order.
    pub fn next(&mut self, rows: usize, into: &mut Vec<u32>) {
        let Some((sweep, words)) = self.words.split_first_mut() else {
            return into.extend(0..rows as u32);
        };
        let first = into.len();
        into.resize(first + rows, 0);
        let mut end = first;
        for (at, word) in words.iter().enumerate() {
            let (from, turn) = (at * PACKED, sweep.wrapping_add((at * PACKED / RUN) as u32));
            for row in from..rows.min(from + PACKED) {
                let found = *word >> (4 * (row - from)) & 15;
                // Every 2^(found - 1)-th sweep; no branch, since nothing would foretell it.
                let comes = turn & ((1 << found >> 1) - u32::from(found > 0)) == 0;
                into[end] = row as u32;
                end += usize::from(comes);
            }
        }
        into.truncate(end);
        *sweep = sweep.wrapping_add(1);
    }

    /// Notes that a row was visited and found settled, or not; of kept rows alone.
    #[inline(always)]
    pub fn found(&mut self, row: usize, settled: bool) {
        let (word, shift) = (&mut self.words[1 + row / PACKED], 4 * (row % PACKED));
        let before = *word >> shift & 15;
        let after = if settled { (before + 1).min(MOST) } else { 0 };
        *word ^= (before ^ after) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rows of the next sweep.
    fn sweep(rests: &mut Rests, rows: usize) -> Vec<u32> {
        let mut found = vec![7];
        rests.next(rows, &mut found);
        assert_eq!(found[0], 7, "what was there stays");
        found.split_off(1)
    }

    proptest! {
        #[test]
        fn each_row_comes_at_least_every_eighth_time_and_one_that_moves_each_time(
            rows in 1usize..200, moving in prop::collection::hash_set(0u32..200, 0..50), first in 0u32..100,
        ) {
            let mut rests = Rests::default();
            rests.keep(rows);
            rests.words[0] = u32::MAX - first;
            let mut last = vec![0usize; rows];
            let mut visits = 0;
            for now in 1..=60 {
                let found = sweep(&mut rests, rows);
                prop_assert!(found.is_sorted_by(|a, b| a < b));
                for row in &found {
                    last[*row as usize] = now;
                    rests.found(*row as usize, !moving.contains(row));
                    visits += usize::from(!moving.contains(row));
                }
                for (row, last) in last.iter().enumerate() {
                    prop_assert!(now - last < 8 && (now == *last || !moving.contains(&(row as u32))), "row {row} at {now}");
                }
            }
            // Twice each time, a few times more seldom, then every eighth time.
            let settled = (0..rows as u32).filter(|row| !moving.contains(row)).count();
            prop_assert!(visits <= 13 * settled, "{visits} of {settled}");
            rests.wake();
            prop_assert_eq!(sweep(&mut rests, rows).len(), rows);
        }
    }

    #[test]
    fn where_nothing_is_kept_all_rows_come() {
        let mut rests = Rests::default();
        assert_eq!(sweep(&mut rests, 5), [0, 1, 2, 3, 4]);
        assert!(rests.column().is_none());
    }
}
