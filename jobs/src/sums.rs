//! Sums per feature while the features are not yet known: pages that come to life when they are first touched.
//!
//! Invariant: at most [`MOST_PAGES`] pages and [`MOST_SPILLED`] loose terms are held, whatever the features are, and no sum
//! of more than [`MOST_ROWS`] rows and a block; what goes to the table is the sum of all that was added, each feature
//! rising, once per flush.

use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

const PAGE_BITS: u32 = 16;
const PAGE: usize = 1 << PAGE_BITS;
/// 16 MiB.
const MOST_PAGES: usize = 64;
/// 8 MiB.
const MOST_SPILLED: usize = 1 << 20;
/// Rows whose terms are summed before they go to the table: beside a sum of 2^24 ones, another is nothing in f32.
pub const MOST_ROWS: u64 = 1 << 22;
/// Keys of one push.
const PUSH: usize = 1 << 20;

/// Sums per feature.
#[derive(Debug, Default)]
pub struct Sums {
    /// By the feature's upper bits.
    pages: Vec<Option<Box<[f32]>>>,
    alive: usize,
    /// Terms of features whose page may not be made any more.
    spilled: Vec<(Key, f32)>,
    /// Whose terms are held.
    rows: u64,
}

impl Sums {
    /// Adds `by` times a row; its values are all 1 if none are given.
    pub fn add(&mut self, indices: &[Key], values: Option<&[f32]>, by: f32) {
        self.rows += 1;
        match values {
            Some(values) => indices.iter().zip(values).for_each(|(key, value)| self.add_one(*key, by * value)),
            None => indices.iter().for_each(|key| self.add_one(*key, by)),
        }
    }

    #[inline]
    fn add_one(&mut self, key: u32, term: f32) {
        if let Some(Some(page)) = self.pages.get_mut((key >> PAGE_BITS) as usize) {
            page[key as usize % PAGE] += term;
        } else {
            self.add_elsewhere(key, term);
        }
    }

    #[cold]
    fn add_elsewhere(&mut self, key: u32, term: f32) {
        if self.alive == MOST_PAGES {
            self.spilled.push((key, term));
            return;
        }
        let at = (key >> PAGE_BITS) as usize;
        if self.pages.len() <= at {
            self.pages.resize_with(at + 1, || None);
        }
        let mut page = vec![0.0; PAGE].into_boxed_slice();
        page[key as usize % PAGE] = term;
        self.pages[at] = Some(page);
        self.alive += 1;
    }

    /// Pushes the loose terms if they have become many, or everything if it is of many rows, and ends an iteration then, so
    /// that the shards need not keep them.
    pub fn relieve(&mut self, worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
        if self.rows >= MOST_ROWS {
            std::mem::take(self).flush(worker, table)?;
        } else if self.spilled.len() >= MOST_SPILLED {
            self.flush_spilled(worker, table)?;
        } else {
            return Ok(());
        }
        worker.clock()
    }

    /// Pushes everything.
    pub fn flush(mut self, worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (at, page) in self.pages.iter().enumerate() {
            for (offset, value) in page.iter().flatten().enumerate().filter(|(_, value)| **value != 0.0) {
                keys.push((at << PAGE_BITS | offset) as u32);
                values.push(*value);
            }
            if keys.len() >= PUSH {
                worker.add(table, &keys, &values)?;
                keys.clear();
                values.clear();
            }
        }
        worker.add(table, &keys, &values)?;
        self.flush_spilled(worker, table)
    }

    fn flush_spilled(&mut self, worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
        // Stable, so that a feature's terms are summed in the order of the rows.
        self.spilled.sort_by_key(|(key, _)| *key);
        let (mut keys, mut values) = (Vec::new(), Vec::<f32>::new());
        for (key, term) in self.spilled.drain(..) {
            match values.last_mut() {
                Some(sum) if keys.last() == Some(&key) => *sum += term,
                _ => {
                    keys.push(key);
                    values.push(term);
                }
            }
        }
        worker.add(table, &keys, &values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::host::Host;
    use flexps_common::plan::Plan;

    #[test]
    fn sums_of_near_and_far_features_arrive_whole() {
        // More pages than may live, so that the features of the last ones are spilled.
        let pages = MOST_PAGES as u32 + 20;
        let mut plan = Plan::default();
        let table = plan.table::<f32>("sums", 1);
        plan.body.stage("sum", move |worker| {
            let mut sums = Sums::default();
            for round in 0..3 {
                let indices: Vec<u32> = (0..pages).map(|page| page << PAGE_BITS | page).collect();
                let values: Vec<f32> = (0..pages).map(|page| page as f32).collect();
                let values = (round < 2).then_some(&values[..]);
                sums.add(&indices, values, 0.5);
            }
            assert_eq!(sums.spilled.len(), 3 * 20);
            sums.relieve(worker, table)?;
            sums.flush(worker, table)
        });
        let outcome = Host::new().run(&plan).unwrap();
        for page in 0..pages {
            let key = page << PAGE_BITS | page;
            assert_eq!(outcome.table("sums", key..key + 2), [page as f64 + 0.5, 0.0]);
        }
    }

    #[test]
    fn more_ones_than_a_float_counts_arrive_whole() {
        const ROWS: usize = 3 << 23;
        let mut plan = Plan::default();
        let table = plan.table::<f32>("sums", 1);
        plan.body.stage("sum", move |worker| {
            let mut sums = Sums::default();
            for _ in 0..ROWS >> 10 {
                (0..1 << 10).for_each(|_| sums.add(&[3], None, 1.0));
                sums.relieve(worker, table)?;
            }
            sums.flush(worker, table)
        });
        assert_eq!(Host::new().run(&plan).unwrap().table("sums", 3..4), [ROWS as f64]);
    }
}
