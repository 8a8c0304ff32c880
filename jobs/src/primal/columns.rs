//! A worker's rows by column: the non-zeros of a few features, as coordinate descent goes through them.
//!
//! Invariant: a column's rows rise, and every row is below the number of the worker's rows.

use super::gradient::{block, dot_at};
use super::kept::{self, own_blocks};
use super::occurring::{NONE, locals};
use crate::logistic::needed_len;
use crate::parts::{Parts, Rows};
use flexps_common::data::Block;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// Columns of a worker's first block that keep what was made: features, non-zeros of each, rows and values, and of which
/// blocks they are.
const KEPT: [&str; 5] = ["column-keys", "column-lengths", "column-rows", "column-values", "column-blocks"];
/// The same of the number of non-zeros by local feature.
const COUNTS: [&str; 2] = ["counts", "counted-blocks"];

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

    /// Sum over the column's rows of x times the number that `by` has for each.
    #[inline(always)]
    pub fn dot_with(&self, by: &[f64]) -> f64 {
        // SAFETY: as above.
        dot_at(self.rows, self.values, |row| unsafe { *by.get_unchecked(row) })
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
        let mut room = Self::find(worker, rows)?.unwrap_or_default();
        if let Some(chosen) = places(&room.keys, keys) {
            room.chosen = chosen;
            return Ok(room);
        }
        let mut all = [keys, more].concat();
        all.sort_unstable();
        all.dedup();
        let mut made = Self::make(worker, rows, all, room)?;
        made.chosen = places(&made.keys, keys).unwrap_or_default();
        Ok(made)
    }

    /// Makes them where others were before, whose memory serves again.
    fn make(worker: &mut Worker<'_>, rows: Rows, keys: Vec<Key>, before: Self) -> Result<Self> {
        let mut starts = vec![0usize; keys.len() + 1];
        for (at, count) in lengths(worker, rows, &keys)?.into_iter().enumerate() {
            starts[at + 1] = starts[at] + count;
        }
        let all = starts[keys.len()];
        if all >= u32::MAX as usize {
            return Err(Error::user("a worker has more than 2^32 non-zeros; use more threads or slaves"));
        }
        let mut heads: Vec<u32> = starts[..keys.len()].iter().map(|start| *start as u32).collect();
        let mut filled = Filled::new(all, before);
        let mut parts = Parts::new(worker, rows)?;
        let mut first_row = 0u64;
        while let Some(part) = parts.next(worker)? {
            let locals = locals(&part.map, &keys);
            filled.open(part.map.len(), &locals, &heads);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                if first_row + block.rows() as u64 > u64::from(u32::MAX) {
                    return Err(Error::user("a worker has more than 2^32 rows; use more threads or slaves"));
                }
                filled.add(&block, first_row as u32);
                first_row += block.rows() as u64;
            }
            filled.close(&locals, &mut heads);
        }
        let (rows, values) = filled.done();
        Ok(Self { keys, starts, rows, values, chosen: Vec::new() })
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

/// Rows and values of all columns, one behind the other, as they are filled.
struct Filled {
    /// Non-zeros of all columns.
    all: usize,
    rows: Vec<u32>,
    /// None while all are 1.
    values: Option<Vec<f32>>,
    /// Memory for them.
    room: Vec<f32>,
    /// Of each local feature the place of its column's next non-zero, if it has a column; never above `all`.
    heads: Vec<u32>,
    /// A bit for each local feature: whether it has one.
    wanted: Vec<u64>,
}

/// Non-zeros of a block that are looked through at a time.
const CHUNK: usize = 2048;

impl Filled {
    /// So many, in the memory of others.
    fn new(all: usize, before: Columns) -> Self {
        let (mut rows, room) = (before.rows, before.values.unwrap_or_default());
        // A place behind all, so that one more than there should be is written nowhere else.
        rows.resize(all + 1, 0);
        Self { all, rows, values: None, room, heads: Vec::new(), wanted: Vec::new() }
    }

    /// Begins a part of so many features, of which those of these numbers have a column that goes on at the place in `heads`.
    fn open(&mut self, features: usize, locals: &[u32], heads: &[u32]) {
        self.heads.resize(features, 0);
        self.wanted.clear();
        self.wanted.resize(features / 64 + 1, 0);
        for (local, head) in locals.iter().zip(heads).filter(|(local, _)| **local != NONE) {
            self.heads[*local as usize] = (*head).min(self.all as u32);
            self.wanted[*local as usize / 64] |= 1 << (local % 64);
        }
    }

    /// Ends it: says where the columns go on.
    fn close(&self, locals: &[u32], heads: &mut [u32]) {
        for (local, head) in locals.iter().zip(heads).filter(|(local, _)| **local != NONE) {
            *head = self.heads[*local as usize];
        }
    }

    /// Adds a block's, whose first row has the number `first`.
    fn add(&mut self, block: &Block, first: u32) {
        assert!(needed_len(block) <= self.heads.len(), "a place for each feature");
        if self.values.is_none() && block.values.is_some() {
            let mut values = std::mem::take(&mut self.room);
            values.resize(self.all + 1, 1.0);
            if first > 0 {
                values.fill(1.0);
            }
            self.values = Some(values);
        }
        let (mut found, mut row) = ([0u32; CHUNK], 0);
        for (number, chunk) in block.indices.chunks(CHUNK).enumerate() {
            let mut count = 0;
            for (at, index) in chunk.iter().enumerate() {
                // Written in any case and kept if it is one: a branch here would be guessed wrong time and again.
                found[count] = at as u32;
                // SAFETY: there are as many bits as heads, of which there is one for each index.
                let bits = unsafe { *self.wanted.get_unchecked(*index as usize / 64) };
                count += (bits >> (index % 64) & 1) as usize;
            }
            for at in &found[..count] {
                let at = number * CHUNK + *at as usize;
                while block.offsets[row + 1] as usize <= at {
                    row += 1;
                }
                let head = &mut self.heads[block.indices[at] as usize];
                self.rows[*head as usize] = first + row as u32;
                if let Some(values) = &mut self.values {
                    values[*head as usize] = block.values.as_ref().map_or(1.0, |values| values[at]);
                }
                *head += u32::from(*head < self.all as u32);
            }
        }
    }

    /// All of them.
    fn done(mut self) -> (Vec<u32>, Option<Vec<f32>>) {
        self.rows.truncate(self.all);
        if let Some(values) = &mut self.values {
            values.truncate(self.all);
        }
        (self.rows, self.values)
    }
}

/// How many non-zeros each of the features `keys` has in this worker's rows.
fn lengths(worker: &mut Worker<'_>, rows: Rows, keys: &[Key]) -> Result<Vec<usize>> {
    let mut lengths = vec![0usize; keys.len()];
    let mut add = |map: &KeyMap, counts: &[u32]| {
        for (local, length) in locals(map, keys).into_iter().zip(&mut lengths).filter(|(local, _)| *local != NONE) {
            *length += counts.get(local as usize).map_or(0, |count| *count as usize);
        }
    };
    let mut parts = Parts::new(worker, rows)?;
    if let Some(whole) = parts.whole(worker)?
        && let Some(counts) = kept::find(worker, rows, COUNTS)?
    {
        add(&whole.map, &counts);
        kept::keep(worker, rows, COUNTS, counts)?;
        return Ok(lengths);
    }
    while let Some(part) = parts.next(worker)? {
        let mut counts = vec![0u32; part.map.len()];
        for at in 0..part.blocks() {
            for index in &block(worker, &part, at)?.indices {
                counts[*index as usize] += 1;
            }
        }
        add(&part.map, &counts);
        if part.is_all() {
            kept::keep(worker, rows, COUNTS, counts)?;
        }
    }
    Ok(lengths)
}

/// Keeps the number of non-zeros that this worker's rows have of each local feature, so that nobody need count them.
pub fn keep_counts(worker: &mut Worker<'_>, rows: Rows, counts: Vec<u32>) -> Result<()> {
    kept::keep(worker, rows, COUNTS, counts)
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
            let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20, drawn: false };
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
