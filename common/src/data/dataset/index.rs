//! The index at a dataset file's end: where its blocks are, and what it holds as a whole.
//!
//! Invariant: the blocks follow one another from the header to the index without holes.

use super::{Fields, HEADER, MAGIC, block, short};
use crate::data::sniff::Sample;
use crate::error::{Error, Result};
use crate::storage::{Listed, Storage};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes at the file's end.
const TRAILER: usize = 32;

/// What a dataset file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    /// Where the blocks start, and where the last ends.
    pub edges: Vec<u64>,
    /// Rows.
    pub rows: u64,
    /// Non-zeros.
    pub nonzeros: u64,
    /// Largest index + 1 - base.
    pub features: u64,
    /// What the text's indices start from: 0 or 1.
    pub base: u32,
    /// The labels that rows have, rising; of more than classes may be, as many as show that.
    pub labels: Vec<f32>,
}

impl Index {
    /// Reads the index of a file.
    pub async fn read(storage: &Storage, file: Listed<'_>) -> Result<Self> {
        let Listed { path, len, .. } = file;
        let least = (HEADER + TRAILER) as u64;
        let end = len.checked_sub(TRAILER as u64).filter(|_| len >= least).ok_or_else(|| short(path))?;
        let trailer = storage.read_range(file, end..len).await?;
        let (start, checksum) = place(&trailer, end).ok_or_else(|| short(path))?;
        let bytes = storage.read_range(file, start..end).await?;
        let damaged = |what: &str| {
            Error::data(format!(
                "{path}, index at byte {start}: {what} is wrong: the file is damaged; copy it again, or convert the rows again"
            ))
        };
        if xxh3_64(&bytes) != checksum {
            return Err(damaged("its checksum"));
        }
        Self::decode(&bytes, start).ok_or_else(|| damaged("what it holds"))
    }

    /// What detection may know of the file without reading its rows.
    pub fn sample(&self, path: &str) -> Sample {
        Sample {
            path: path.to_owned(),
            labels: self.labels.clone(),
            large: None,
            zero: self.base == 0 && self.nonzeros > 0,
        }
    }

    /// The index and the trailer of a file whose index starts at byte `start`.
    pub(super) fn encode(&self, start: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let numbers = [self.edges.len() as u64].into_iter().chain(self.edges.iter().copied());
        for number in numbers.chain([self.rows, self.nonzeros, self.features]) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&(self.labels.len() as u32).to_le_bytes());
        self.labels.iter().for_each(|label| out.extend_from_slice(&label.to_le_bytes()));
        let trailer = [start, out.len() as u64, xxh3_64(&out)];
        trailer.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(&MAGIC);
        out
    }

    fn decode(bytes: &[u8], start: u64) -> Option<Self> {
        let mut fields = Fields(bytes);
        let count = fields.u64()?;
        let edges = fields.part(usize::try_from(count.checked_mul(8)?).ok()?)?;
        let edges: Vec<u64> = edges.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let (rows, nonzeros, features) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (base, count) = (fields.u32()?, fields.u32()? as usize);
        let labels = fields.part(count.checked_mul(4)?)?;
        let labels: Vec<f32> = labels.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let whole = edges.first() == Some(&(HEADER as u64)) && edges.last() == Some(&start);
        let apart = edges.windows(2).all(|pair| pair[1].checked_sub(pair[0]).is_some_and(|n| n >= block::HEAD as u64));
        let known = base <= 1 && features <= 1 << 32 && labels.iter().all(|label| label.is_finite());
        (whole && apart && known && fields.0.is_empty()).then_some(Self {
            edges,
            rows,
            nonzeros,
            features,
            base,
            labels,
        })
    }
}

/// Where the index before the trailer at byte `end` starts, and its checksum.
fn place(trailer: &[u8], end: u64) -> Option<(u64, u64)> {
    let mut fields = Fields(trailer);
    let (start, length, checksum) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let fits = fields.0 == MAGIC && start >= HEADER as u64 && start.checked_add(length) == Some(end);
    fits.then_some((start, checksum))
}
