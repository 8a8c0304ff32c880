//! One block: rows to bytes and back.
//!
//! Invariant: whatever the bytes are, decoding ends with rows that keep the rules of [`Block`] and of the schema, or with an
//! error; nothing is allocated that the bytes don't have room for.

use super::Fields;
use crate::data::block::norm2;
use crate::data::block::{Block, Row};
use crate::data::libsvm::{KEPT_MESSAGES, Parsed, Reason, lengthen, too_many, why};
use crate::data::schema::{DENSE, Facts, Schema};
use crate::error::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a block before its labels.
pub const HEAD: usize = 48;

/// Bytes under the checksum start here.
const CHECKED: usize = 8;

/// Bytes of the longest block: rows of 256 MiB of text end a chunk.
const LONGEST: u64 = 2 << 30;

/// What a block's head says.
struct Head {
    rows: usize,
    nonzeros: usize,
    base: u32,
    /// Bytes of each length, first index and gap; whether there are values.
    widths: [u8; 4],
    max_norm2: f64,
    sum_norm2: f64,
}

/// The length of the block that starts with `head`, at least [`HEAD`] bytes; at most `room`.
pub fn length(head: &[u8], room: u64, path: &str, offset: u64) -> Result<usize> {
    let length = head.get(CHECKED..).and_then(|rest| Fields(rest).u64());
    match length {
        Some(length) if length >= HEAD as u64 && length <= room.min(LONGEST) => Ok(length as usize),
        _ => Err(damaged(path, offset, "its length")),
    }
}

fn damaged(path: &str, offset: u64, what: &str) -> Error {
    Error::data(format!(
        "{path}, block at byte {offset}: {what} is wrong: the file is damaged; copy it again, or convert the rows again"
    ))
}

/// The fewest bytes that hold `largest`.
fn width(largest: u32) -> u8 {
    (4 - (largest.leading_zeros() / 8) as u8).max(1)
}

fn put(out: &mut Vec<u8>, number: u32, width: u8) {
    out.extend_from_slice(&number.to_le_bytes()[..width as usize]);
}

/// Appends a block whose labels are those of the file and whose indices start from 0; `base` is what the text's start from.
pub(super) fn encode(block: &Block, base: u32, out: &mut Vec<u8>) {
    let start = out.len();
    let rows = || (0..block.rows()).map(|i| block.row(i));
    let gaps = |row: Row<'_>| {
        let next = row.indices.get(1..).unwrap_or_default();
        row.indices.iter().zip(next).map(|(a, b)| b - a - 1).collect::<Vec<_>>()
    };
    let (mut longest, mut first, mut gap) = (0, 0, 0);
    let (mut max_norm2, mut sum_norm2) = (0f64, 0f64);
    for row in rows() {
        longest = longest.max(row.indices.len() as u32);
        first = first.max(row.indices.first().copied().unwrap_or(0));
        gap = gap.max(row.indices.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0));
        let norm2 = row.values.map_or(row.indices.len() as f64, norm2);
        max_norm2 = max_norm2.max(norm2);
        sum_norm2 += norm2;
    }
    let widths = [width(longest), width(first), width(gap)];
    out.extend_from_slice(&[0; 16]);
    for number in [block.rows() as u32, block.nonzeros() as u32, base] {
        put(out, number, 4);
    }
    out.extend_from_slice(&widths);
    out.push(u8::from(block.values.is_some()));
    out.extend_from_slice(&max_norm2.to_le_bytes());
    out.extend_from_slice(&sum_norm2.to_le_bytes());
    block.labels.iter().for_each(|label| out.extend_from_slice(&label.to_le_bytes()));
    rows().for_each(|row| put(out, row.indices.len() as u32, widths[0]));
    rows().filter_map(|row| row.indices.first().copied()).for_each(|index| put(out, index, widths[1]));
    rows().for_each(|row| gaps(row).into_iter().for_each(|gap| put(out, gap, widths[2])));
    block.values.iter().flatten().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    let length = (out.len() - start) as u64;
    out[start + CHECKED..start + 16].copy_from_slice(&length.to_le_bytes());
    let checksum = xxh3_64(&out[start + CHECKED..]);
    out[start..start + CHECKED].copy_from_slice(&checksum.to_le_bytes());
}

/// The rows of the block that `bytes` are, as `schema` wants them, in the memory of `spare`. `path` and `offset` say where it
/// lies. Fails, with the first messages, when the block alone holds more bad rows than the schema allows.
pub fn decode(bytes: &[u8], path: &str, offset: u64, schema: &Schema, spare: Block) -> Result<Parsed> {
    let wrong = |what: &str| damaged(path, offset, what);
    if length(bytes, bytes.len() as u64, path, offset)? != bytes.len() {
        return Err(wrong("its length"));
    }
    if Fields(bytes).u64() != Some(xxh3_64(&bytes[CHECKED..])) {
        return Err(wrong("its checksum"));
    }
    let mut fields = Fields(&bytes[16..]);
    let head = head(&mut fields).ok_or_else(|| wrong("its head"))?;
    let (block, features) = rows(&head, fields, spare).ok_or_else(|| wrong("what it holds"))?;
    Places { path, offset, schema, base: head.base }.fit(block, features, &head)
}

fn head(fields: &mut Fields<'_>) -> Option<Head> {
    let (rows, nonzeros, base) = (fields.u32()? as usize, fields.u32()? as usize, fields.u32()?);
    let widths: [u8; 4] = fields.take()?;
    let (max_norm2, sum_norm2) = (fields.f64()?, fields.f64()?);
    let known = widths[..3].iter().all(|w| (1..=4).contains(w)) && widths[3] <= 1 && base <= 1;
    (known && max_norm2.is_finite() && sum_norm2.is_finite()).then_some(Head {
        rows,
        nonzeros,
        base,
        widths,
        max_norm2,
        sum_norm2,
    })
}

/// The rows as they were written, and the largest index + 1.
fn rows(head: &Head, mut fields: Fields<'_>, spare: Block) -> Option<(Block, u64)> {
    let [lengths, firsts, gaps, valued] = head.widths.map(usize::from);
    let labels = floats(fields.part(head.rows.checked_mul(4)?)?, spare.labels)?;
    let lengths = Numbers(fields.part(head.rows * lengths)?, lengths);
    let mut offsets = spare.offsets;
    offsets.clear();
    offsets.reserve(head.rows + 1);
    offsets.push(0u32);
    let (mut end, mut filled) = (0u64, 0);
    for i in 0..head.rows {
        let length = lengths.at(i);
        end += u64::from(length);
        filled += usize::from(length > 0);
        offsets.push(u32::try_from(end).ok()?);
    }
    if end != head.nonzeros as u64 {
        return None;
    }
    let firsts = Numbers(fields.part(filled * firsts)?, firsts);
    let packed = fields.part((head.nonzeros - filled).checked_mul(gaps)?)?;
    let values = fields.part(head.nonzeros.checked_mul(4 * valued)?)?;
    if !fields.0.is_empty() {
        return None;
    }
    let mut indices = spare.indices;
    lengthen(&mut indices, head.nonzeros);
    indices.truncate(head.nonzeros);
    let features = match gaps {
        1 => unpack::<1>(&offsets, &firsts, packed, &mut indices)?,
        2 => unpack::<2>(&offsets, &firsts, packed, &mut indices)?,
        3 => unpack::<3>(&offsets, &firsts, packed, &mut indices)?,
        _ => unpack::<4>(&offsets, &firsts, packed, &mut indices)?,
    };
    let values = if valued == 1 { Some(floats(values, spare.values.unwrap_or_default())?) } else { None };
    Some((Block { labels, offsets, indices, values }, features))
}

/// Numbers of so many bytes each.
struct Numbers<'a>(&'a [u8], usize);

impl Numbers<'_> {
    #[inline]
    fn at(&self, i: usize) -> u32 {
        number(&self.0[i * self.1..][..self.1])
    }
}

#[inline(always)]
fn number(bytes: &[u8]) -> u32 {
    let mut all = [0; 4];
    all[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(all)
}

/// First indices and gaps of `W` bytes to indices; gives the largest index + 1, none if one is beyond 32 bits.
fn unpack<const W: usize>(offsets: &[u32], firsts: &Numbers<'_>, gaps: &[u8], indices: &mut [u32]) -> Option<u64> {
    let (gaps, _) = gaps.as_chunks::<W>();
    let (mut gaps, mut filled, mut features) = (gaps, 0, 0);
    for ends in offsets.windows(2) {
        let Some((first, rest)) = indices[ends[0] as usize..ends[1] as usize].split_first_mut() else { continue };
        *first = firsts.at(filled);
        filled += 1;
        let mut index = u64::from(*first);
        let (own, others) = gaps.split_at(rest.len());
        gaps = others;
        for (slot, gap) in rest.iter_mut().zip(own) {
            index += 1 + u64::from(number(gap));
            *slot = index as u32;
        }
        features = features.max(index + 1);
    }
    (features <= 1 << 32).then_some(features)
}

/// Finite numbers, in memory that held others.
fn floats(bytes: &[u8], mut floats: Vec<f32>) -> Option<Vec<f32>> {
    let (each, _) = bytes.as_chunks::<4>();
    floats.clear();
    floats.extend(each.iter().map(|b| f32::from_le_bytes(*b)));
    // Without a branch per value.
    let largest = floats.iter().fold(0, |most, f| most.max(f.to_bits() & 0x7fff_ffff));
    (largest < f32::INFINITY.to_bits()).then_some(floats)
}

/// Where a block lies and how its rows are wanted.
struct Places<'a> {
    path: &'a str,
    offset: u64,
    schema: &'a Schema,
    base: u32,
}

impl Places<'_> {
    /// Labels to classes, indices to the schema's base; rows that don't fit it are bad ones.
    fn fit(&self, mut block: Block, features: u64, head: &Head) -> Result<Parsed> {
        let schema = self.schema;
        let known = block.labels.iter().all(|label| schema.labels.code(*label).is_some() && !is_large(schema, *label));
        let room = schema.features.is_none_or(|most| features <= most);
        let (mut bad, mut bad_rows) = (Vec::new(), 0);
        let (mut max_norm2, mut sum_norm2) = (head.max_norm2, head.sum_norm2);
        if self.base == schema.index_base && known && room {
            block.labels.iter_mut().for_each(|label| *label = schema.labels.code(*label).unwrap_or(*label));
        } else {
            let mut kept = Kept::default();
            for i in 0..block.rows() {
                let row = block.row(i);
                if let Err(error) = kept.take(self, row, i) {
                    bad_rows += 1;
                    if bad.len() < KEPT_MESSAGES {
                        bad.push(error);
                    }
                    if bad_rows > schema.bad_rows {
                        return Err(too_many(&bad, bad_rows, schema.bad_rows));
                    }
                }
            }
            (block, max_norm2, sum_norm2) = kept.block(block.values.is_some());
        }
        let lasts = (0..block.rows()).filter_map(|i| block.row(i).indices.last());
        let facts = Facts {
            rows: block.rows() as u64,
            labels: schema.labels.clone(),
            positives: block.labels.iter().filter(|label| **label > 0.0).count() as u64,
            nonzeros: block.nonzeros() as u64,
            features: schema.features.unwrap_or(lasts.max().map_or(0, |last| u64::from(*last) + 1)),
            empty_rows: (0..block.rows()).filter(|i| block.row(*i).indices.is_empty()).count() as u64,
            bad_rows,
            max_norm2,
            sum_norm2,
            occurring: 0,
        };
        Ok(Parsed { block, facts, bad })
    }
}

/// Whether a label of a class may have been another one in the text that the data set was made of.
fn is_large(schema: &Schema, label: f32) -> bool {
    label.abs() >= DENSE && !schema.labels.all().is_empty()
}

/// The good rows of a block.
#[derive(Default)]
struct Kept {
    labels: Vec<f32>,
    offsets: Vec<u32>,
    indices: Vec<u32>,
    values: Vec<f32>,
    max_norm2: f64,
    sum_norm2: f64,
}

impl Kept {
    fn take(&mut self, places: &Places<'_>, row: Row<'_>, at: usize) -> Result<()> {
        let schema = places.schema;
        let (base, own) = (u64::from(schema.index_base), u64::from(places.base));
        let bad = |reason, token: String| {
            let why = why(schema, reason, &token);
            Error::data(format!("{}, block at byte {}, row {}: {why}", places.path, places.offset, at + 1))
        };
        if is_large(schema, row.label) {
            return Err(bad(Reason::LargeClass, format!("'{}'", row.label)));
        }
        let Some(label) = schema.labels.code(row.label) else {
            return Err(bad(Reason::Class(row.label), format!("'{}'", row.label)));
        };
        let written = |index: &u32| u64::from(*index) + own;
        if let Some(first) = row.indices.first().map(written).filter(|index| *index < base) {
            return Err(bad(Reason::Base, format!("'{first}'")));
        }
        let limit = schema.features.unwrap_or(1 << 32).min(1 << 32) + base;
        if let Some(index) = row.indices.iter().map(written).find(|index| *index >= limit) {
            return Err(bad(Reason::TooLarge(index), format!("'{index}'")));
        }
        let norm2 = row.values.map_or(row.indices.len() as f64, norm2);
        self.max_norm2 = self.max_norm2.max(norm2);
        self.sum_norm2 += norm2;
        self.labels.push(label);
        self.offsets.push(self.indices.len() as u32);
        self.indices.extend(row.indices.iter().map(|index| (written(index) - base) as u32));
        self.values.extend(row.values.unwrap_or_default());
        Ok(())
    }

    /// The block, and the largest and the sum of the squared norms.
    fn block(mut self, valued: bool) -> (Block, f64, f64) {
        self.offsets.push(self.indices.len() as u32);
        let valued = valued && self.values.iter().any(|value| *value != 1.0);
        let block = Block {
            labels: self.labels,
            offsets: self.offsets,
            indices: self.indices,
            values: valued.then_some(self.values),
        };
        (block, self.max_norm2, self.sum_norm2)
    }
}
