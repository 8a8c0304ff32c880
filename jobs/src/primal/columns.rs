//! A worker's rows by column: the non-zeros of a few features, as coordinate descent goes through them.
//!
//! Invariant: a column's rows rise, and every row is below the number of the worker's rows.

use super::gradient::{block, dot_at, own_blocks};
use crate::parts::{Parts, Rows};
use flexps_common::data::Block;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// A feature that has no column.
const NONE: u32 = u32::MAX;

/// Columns of a worker's first block that keep what was made: features, non-zeros of each, rows and values, and of which
/// blocks they are.
const KEPT: [&str; 5] = ["column-keys", "column-lengths", "column-rows", "column-values", "column-blocks"];

/// The columns of some features.
#[derive(Debug, Default)]
pub struct Columns {
    /// Features that have one here, rising.
    keys: Vec<Key>,
    /// Where each one starts; one more than there are columns.
    starts: Vec<usize>,
    rows: Vec<u32>,
    /// None when all are 1.
    values: Option<Vec<f32>>,
    /// Those that were asked for, in order.
    chosen: Vec<u32>,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Its rows, rising.
    pub rows: &'a [u32],
    /// Their values; none when all are 1.
    pub values: Option<&'a [f32]>,
}

impl Column<'_> {
    /// Sum over the column's rows of x times the first number that `by` has for each.
    #[inline(always)]
    pub fn dot(&self, by: &[[f64; 2]]) -> f64 {
        // SAFETY: a column's rows are below the number of rows, which all vectors by row have.
        dot_at(self.rows, self.values, |row| unsafe { by.get_unchecked(row)[0] })
    }

    /// Sum over the column's rows of x times the first number that `by` has for each, and of x^2 times the second.
    #[inline(always)]
    pub fn dots(&self, by: &[[f64; 2]]) -> [f64; 2] {
        let mut sums = [0.0; 2];
        self.each(|row, x| {
            // SAFETY: as above.
            let [first, second] = unsafe { *by.get_unchecked(row) };
            sums[0] += x * first;
            sums[1] += x * x * second;
        });
        sums
    }

    /// Calls `each` with the row and the value of each non-zero.
    #[inline(always)]
    pub fn each(&self, mut each: impl FnMut(usize, f64)) {
        match self.values {
            Some(values) => self.rows.iter().zip(values).for_each(|(row, x)| each(*row as usize, f64::from(*x))),
            None => self.rows.iter().for_each(|row| each(*row as usize, 1.0)),
        }
    }
}

impl Columns {
    /// The columns of the features `keys`, which rise, in this worker's rows: those that were kept if all are among them,
    /// else made in one pass over the rows, with those of the features `more`, which rise too.
    pub fn take(worker: &mut Worker<'_>, rows: Rows, keys: &[Key], more: &[Key]) -> Result<Self> {
        if let Some(mut kept) = Self::find(worker, rows)?
            && let Some(chosen) = places(&kept.keys, keys)
        {
            kept.chosen = chosen;
            return Ok(kept);
        }
        let mut all = [keys, more].concat();
        all.sort_unstable();
        all.dedup();
        let mut made = Self::make(worker, rows, all)?;
        made.chosen = places(&made.keys, keys).unwrap_or_default();
        Ok(made)
    }

    fn make(worker: &mut Worker<'_>, rows: Rows, keys: Vec<Key>) -> Result<Self> {
        let mut found = Found::default();
        let (mut plain, mut slots, mut first_row) = (true, Vec::new(), 0u64);
        let mut parts = Parts::new(worker, rows)?;
        while let Some(part) = parts.next(worker)? {
            number(&part.map, &keys, &mut slots);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                if first_row + block.rows() as u64 > u64::from(u32::MAX) {
                    return Err(Error::user("a worker has more than 2^32 rows; use more threads or slaves"));
                }
                plain &= block.values.is_none();
                found.add(&block, first_row as u32, &slots);
                first_row += block.rows() as u64;
            }
        }
        let found = &found.entries[..found.count];
        let mut starts = vec![0usize; keys.len() + 1];
        found.iter().for_each(|entry| starts[entry.slot as usize + 1] += 1);
        for at in 0..keys.len() {
            starts[at + 1] += starts[at];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; found.len()]);
        let mut values = (!plain).then(|| vec![1.0; found.len()]);
        for entry in found {
            let place = &mut next[entry.slot as usize];
            places[*place] = entry.row;
            if let Some(values) = &mut values {
                values[*place] = entry.value;
            }
            *place += 1;
        }
        Ok(Self { keys, starts, rows: places, values, chosen: Vec::new() })
    }

    /// What was kept, if it is of the blocks that are this worker's now.
    fn find(worker: &mut Worker<'_>, rows: Rows) -> Result<Option<Self>> {
        let own = own_blocks(worker, rows)?;
        let Some(first) = own.first().map(|first| *first as usize) else { return Ok(None) };
        let [keys, lengths, places, values, blocks] = KEPT;
        let values: Option<Vec<f32>> = worker.find_column(rows.input, first, values)?;
        let mut held = |name| worker.find_column::<u32>(rows.input, first, name);
        let (keys, lengths, places, blocks) = (held(keys)?, held(lengths)?, held(places)?, held(blocks)?);
        let (Some(keys), Some(lengths), Some(places)) = (keys, lengths, places) else { return Ok(None) };
        if blocks != Some(own) {
            return Ok(None);
        }
        let mut starts = vec![0usize];
        starts.extend(lengths.iter().scan(0, |end, length| {
            *end += *length as usize;
            Some(*end)
        }));
        Ok(Some(Self { keys, starts, rows: places, values, chosen: Vec::new() }))
    }

    /// Keeps them for later stages of as many threads.
    pub fn keep(self, worker: &mut Worker<'_>, rows: Rows) -> Result<()> {
        let own = own_blocks(worker, rows)?;
        let Some(first) = own.first().map(|first| *first as usize) else { return Ok(()) };
        let lengths: Vec<u32> = self.starts.windows(2).map(|ends| (ends[1] - ends[0]) as u32).collect();
        let [keys, lengths_of, places, values, blocks] = KEPT;
        for (name, column) in [(keys, self.keys), (lengths_of, lengths), (places, self.rows), (blocks, own)] {
            worker.put_column(rows.input, first, name, column)?;
        }
        self.values.map_or(Ok(()), |column| worker.put_column(rows.input, first, values, column))
    }

    /// The places of those that were asked for, to choose among.
    pub fn places(&self) -> Vec<u32> {
        self.chosen.clone()
    }

    /// Goes on with the columns at these places as those that are asked for.
    pub fn choose(&mut self, places: Vec<u32>) {
        self.chosen = places;
    }

    /// How many were asked for.
    pub fn count(&self) -> usize {
        self.chosen.len()
    }

    /// to += X by, `by` having a number for each column and `to` one for each row.
    pub fn add(&self, by: &[f64], to: &mut [f64]) {
        for (j, by) in by.iter().enumerate().filter(|(_, by)| **by != 0.0) {
            let column = self.column(j);
            // They rise.
            assert!(column.rows.last().is_none_or(|last| (*last as usize) < to.len()), "a number for each row");
            // SAFETY: no row is above the last.
            column.each(|row, x| unsafe { *to.get_unchecked_mut(row) += by * x });
        }
    }

    /// Non-zeros of all of them.
    pub fn nonzeros(&self) -> usize {
        (0..self.count()).map(|at| self.column(at).rows.len()).sum()
    }

    /// Whether there are values other than 1.
    pub fn has_values(&self) -> bool {
        self.values.is_some()
    }

    /// Column `at` of those that were asked for.
    #[inline(always)]
    pub fn column(&self, at: usize) -> Column<'_> {
        let at = self.chosen[at] as usize;
        let range = self.starts[at]..self.starts[at + 1];
        Column { rows: &self.rows[range.clone()], values: self.values.as_ref().map(|v| &v[range]) }
    }
}

/// The places in `held` of all of `keys`, both rising; none if one is not there.
fn places(held: &[Key], keys: &[Key]) -> Option<Vec<u32>> {
    let mut at = 0;
    let place = |key: &Key| {
        at += held[at..].iter().position(|held| held >= key)?;
        (held[at] == *key).then_some(at as u32)
    };
    keys.iter().map(place).collect()
}

/// Non-zeros of the features in question, by row.
#[derive(Default)]
struct Found {
    /// Those that were found, and room behind.
    entries: Vec<Entry>,
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    slot: u32,
    row: u32,
    value: f32,
}

impl Found {
    /// Adds a block's, whose first row has the number `first`.
    fn add(&mut self, block: &Block, first: u32, slots: &[u32]) {
        for i in 0..block.rows() {
            let (row, number) = (block.row(i), first + i as u32);
            let room = self.count + row.indices.len();
            if self.entries.len() < room {
                self.entries.resize(room + room / 2, Entry::default());
            }
            for (at, index) in row.indices.iter().enumerate() {
                let slot = slots[*index as usize];
                // Written in any case and kept if it is one: a branch here would be guessed wrong time and again.
                self.entries[self.count] = Entry { slot, row: number, value: row.values.map_or(1.0, |v| v[at]) };
                self.count += usize::from(slot != NONE);
            }
        }
    }
}

/// Fills `slots` with each local feature's place in `keys`.
fn number(map: &KeyMap, keys: &[Key], slots: &mut Vec<u32>) {
    slots.clear();
    slots.resize(map.len(), NONE);
    match map {
        KeyMap::Identity(n) => {
            for (at, key) in keys.iter().enumerate().filter(|(_, key)| **key < *n) {
                slots[*key as usize] = at as u32;
            }
        }
        KeyMap::Sorted(held) => {
            let mut local = 0;
            for (at, key) in keys.iter().enumerate() {
                while local < held.len() && held[local] < *key {
                    local += 1;
                }
                if held.get(local) == Some(key) {
                    slots[local] = at as u32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use flexps_common::data::InputSpec;
    use flexps_common::data::schema::DataPath;
    use flexps_common::host::Host;
    use flexps_common::plan::Plan;

    /// The column of `key` in this worker's rows, found by looking at each.
    fn column(worker: &mut Worker<'_>, rows: Rows, key: Key) -> Vec<(u32, f32)> {
        let (mut found, mut first) = (Vec::new(), 0);
        for at in worker.own_blocks(rows.input).unwrap() {
            let block = worker.block(rows.input, at).unwrap().unwrap();
            for i in 0..block.rows() {
                let row = block.row(i);
                let at = row.indices.iter().position(|index| *index == key);
                found.extend(at.map(|at| (first + i as u32, row.values.map_or(1.0, |values| values[at]))));
            }
            first += block.rows() as u32;
        }
        found
    }

    fn check(worker: &mut Worker<'_>, rows: Rows, keys: &[Key], more: &[Key]) -> Columns {
        let columns = Columns::take(worker, rows, keys, more).unwrap();
        assert_eq!(columns.count(), keys.len());
        for (at, key) in keys.iter().enumerate() {
            let mut made = Vec::new();
            columns.column(at).each(|row, x| made.push((row as u32, x as f32)));
            assert_eq!(made, column(worker, rows, *key), "feature {key}");
        }
        columns
    }

    #[test]
    fn columns_that_were_kept_serve_all_that_are_among_them_and_others_are_made_anew() {
        let blocks = fixtures::Rows { rows: 90, features: 20, ..fixtures::Rows::sparse(5) }.blocks(7);
        for host in [Host::new(), Host::cluster(1, 2), Host::cluster(2, 2)] {
            let mut plan = Plan::default();
            let spec = InputSpec::new("input", vec![DataPath("rows".to_owned())]);
            let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20 };
            for step in 0..3 {
                let run = move |worker: &mut Worker<'_>| {
                    let kept = Columns::find(worker, rows)?.map(|kept| {
                        let keys = kept.keys.clone();
                        kept.keep(worker, rows).map(|()| keys)
                    });
                    let kept = kept.transpose()?;
                    assert_eq!(kept.as_deref(), (step > 0).then_some(&[1, 4, 7, 9][..]), "step {step}");
                    match step {
                        0 => check(worker, rows, &[1, 4, 7], &[4, 9]).keep(worker, rows),
                        1 => check(worker, rows, &[4, 9], &[2]).keep(worker, rows),
                        _ => check(worker, rows, &[2, 4], &[]).keep(worker, rows),
                    }
                };
                plan.body.stage("columns", run).input(rows.input);
            }
            host.rows(blocks.clone()).run(&plan).unwrap();
        }
    }
}
