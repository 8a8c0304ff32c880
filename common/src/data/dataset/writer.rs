//! Writes a dataset file from its start to its end.
//!
//! Invariant: a file that was not finished has no trailer, so nobody takes it for a whole one.

use super::block::encode;
use super::index::Index;
use super::{HEADER, MAGIC, ORDER, VERSION};
use crate::data::Block;
use crate::data::sniff::note_label;
use std::io::{self, Write};

/// Writes blocks one after the other.
pub struct Writer<W: Write> {
    out: W,
    index: Index,
    bytes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts a file of rows whose text had indices from `base`, 0 or 1.
    pub fn new(mut out: W, base: u32) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&ORDER.to_le_bytes())?;
        out.write_all(&VERSION.to_le_bytes())?;
        let index = Index { edges: vec![HEADER as u64], base, ..Index::default() };
        Ok(Self { out, index, bytes: Vec::new() })
    }

    /// Writes a block whose labels are those of the file.
    pub fn block(&mut self, block: &Block) -> io::Result<()> {
        self.bytes.clear();
        encode(block, self.index.base, &mut self.bytes);
        self.out.write_all(&self.bytes)?;
        let index = &mut self.index;
        let start = index.edges.last().copied().unwrap_or(HEADER as u64);
        index.edges.push(start + self.bytes.len() as u64);
        index.rows += block.rows() as u64;
        index.nonzeros += block.nonzeros() as u64;
        let lasts = (0..block.rows()).filter_map(|i| block.row(i).indices.last());
        index.features = index.features.max(lasts.max().map_or(0, |last| u64::from(*last) + 1));
        block.labels.iter().for_each(|label| note_label(&mut index.labels, *label));
        Ok(())
    }

    /// Writes the index, and gives it back with the file's length.
    pub fn finish(mut self) -> io::Result<(Index, u64)> {
        let start = self.index.edges.last().copied().unwrap_or(HEADER as u64);
        let tail = self.index.encode(start);
        self.out.write_all(&tail)?;
        self.out.flush()?;
        Ok((self.index, start + tail.len() as u64))
    }
}
