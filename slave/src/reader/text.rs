//! Text of a local file, read by the threads that parse it: into memory that is there already and still in their caches
//! when they come to it.
//!
//! Invariant: over all chunks of a split each row that starts in it comes exactly once, whole, with the chunk in which its
//! first byte lies. What follows a chunk's end is read as far as its last row goes, what precedes its first row is dropped.

use super::source::unmodified;
use flexps_common::data::libsvm::{LONGEST_ROW, too_long};
use flexps_common::error::{Error, Result, io};
use flexps_common::wire::control::Split;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes behind a chunk's end that are read at first.
pub const BEHIND: usize = 4 << 10;

/// Bytes of a read when lines are counted.
const COUNTED: usize = 1 << 20;

/// A chunk of a split of a local file.
pub struct Text {
    /// The split, for what the file was when it was listed.
    pub split: Arc<Split>,
    /// The file.
    pub file: Arc<File>,
    /// Offset of the first byte.
    pub start: u64,
    /// Behind the last one.
    pub end: u64,
}

impl Text {
    /// The rows that start in it, in `memory`, and the offset of the first one.
    pub fn read<'m>(&self, memory: &'m mut Vec<u8>) -> Result<(&'m [u8], u64)> {
        // The byte before tells whether a row starts with the chunk.
        let from = self.start.saturating_sub(1);
        let own = (self.end - from) as usize;
        let mut text = self.append(memory, from, 0, own + BEHIND)?;
        unmodified(&self.split)?;
        let first = match self.start {
            0 => 0,
            _ => match memchr::memchr(b'\n', &memory[..own - 1]) {
                Some(at) => at + 1,
                None => return Ok((&[], self.end)),
            },
        };
        // The last row's end is the first line end at the chunk's last byte or behind.
        let (mut seen, mut more) = (own - 1, BEHIND);
        let end = loop {
            if let Some(at) = memchr::memchr(b'\n', &memory[seen..text]) {
                break seen + at + 1;
            }
            if from + text as u64 >= self.split.file_len {
                break text;
            }
            bound_row(&memory[..text], own, first, &self.split.path, from)?;
            (seen, more) = (text, 2 * more);
            text = self.append(memory, from, text, more)?;
        };
        Ok((&memory[first..end], from + first as u64))
    }

    /// Reads on behind the `text` bytes that are there from offset `from` on, at most to the file's end. Returns how many
    /// there are then.
    fn append(&self, memory: &mut Vec<u8>, from: u64, text: usize, most: usize) -> Result<usize> {
        let left = self.split.file_len.saturating_sub(from + text as u64);
        let end = text + usize::try_from(left).unwrap_or(usize::MAX).min(most);
        if memory.len() < end {
            memory.resize(end, 0);
        }
        read_at(&self.file, &self.split.path, from + text as u64, &mut memory[text..end])?;
        Ok(end)
    }

    /// The number of the line at `offset`, from 1; only where the split starts with the file.
    pub fn line(&self, offset: u64) -> Result<Option<u64>> {
        if self.split.start > 0 {
            return Ok(None);
        }
        let (mut memory, mut at, mut lines) = (vec![0; COUNTED], 0, 1);
        while at < offset {
            let piece = &mut memory[..(offset - at).min(COUNTED as u64) as usize];
            read_at(&self.file, &self.split.path, at, piece)?;
            lines += memchr::memchr_iter(b'\n', piece).count() as u64;
            at += piece.len() as u64;
        }
        Ok(Some(lines))
    }
}

/// An error where `text`, which starts at offset `at` of a file, goes too far beyond the first `own` bytes, a chunk's, without
/// the end of a row that starts in them; the first one does at `first`.
pub fn bound_row(text: &[u8], own: usize, first: usize, path: &str, at: u64) -> Result<()> {
    if text.len() - first <= LONGEST_ROW + own {
        return Ok(());
    }
    let row = memchr::memrchr(b'\n', &text[..own]).map_or(first, |at| at + 1);
    Err(too_long(path, at + row as u64))
}

/// Fills `bytes` from a file that was long enough when it was listed.
pub fn read_at(file: &File, path: &str, at: u64, bytes: &mut [u8]) -> Result<()> {
    file.read_exact_at(bytes, at).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => {
            Error::data(format!("{path}: the file became shorter while it was read; run again"))
        }
        _ => io(path, &e),
    })
}
