//! Dataset files: parsed rows as they are cached, to be read again without parsing.
//!
//! ```text
//! header    magic 8, byte order 4, version 4
//! block …   checksum 8, length 8, rows 4, non-zeros 4, index base 4, widths 4, largest and sum of the squared norms 8 + 8;
//!           labels, lengths of rows, first index of each row that has one, gaps to the next ones less 1, values unless all are 1
//! index     starts of the blocks and the end of the last, rows, non-zeros, features, index base, labels
//! trailer   start, length and checksum of the index 8 + 8 + 8, magic 8
//! ```
//! All numbers are little-endian; lengths, first indices and gaps take the fewest whole bytes that hold the block's largest.
//! Invariant: each block and the index lie under an xxh3 checksum, and what a checksum does not cover is compared with what
//! it must be: a file with a flipped bit, cut short, or of another version or byte order is an error that names the file and
//! the place, never other rows. A block decodes to what the text that it was made of parses to, bit for bit.

mod block;
mod index;
#[cfg(test)]
mod tests;
mod writer;

pub use block::{HEAD, decode, length};
pub use index::Index;
pub use writer::Writer;

use crate::error::{Error, Result};

/// Bytes before the first block.
pub const HEADER: usize = 16;

/// No text starts so: the first byte is none of a number.
const MAGIC: [u8; 8] = *b"\x89flexps\n";
const ORDER: u32 = 0x0a0b_0c0d;
const VERSION: u32 = 1;

/// Whether a file that starts with `head` is a dataset file. An error when it is one that can't be read here.
pub fn starts(head: &[u8], path: &str) -> Result<bool> {
    let Some(rest) = head.strip_prefix(&MAGIC) else { return Ok(false) };
    let mut fields = Fields(rest);
    let (Some(order), Some(version)) = (fields.u32(), fields.u32()) else { return Err(short(path)) };
    if order == ORDER.swap_bytes() {
        return Err(Error::data(format!(
            "{path}: a dataset file of the other byte order; convert the rows again on a little-endian machine"
        )));
    }
    if order != ORDER {
        return Err(Error::data(format!("{path}: the dataset file is damaged in its header; convert the rows again")));
    }
    if version != VERSION {
        return Err(Error::data(format!(
            "{path}: a dataset file of version {version}, and this program reads version {VERSION}; convert the rows again"
        )));
    }
    Ok(true)
}

fn short(path: &str) -> Error {
    Error::data(format!("{path}: the dataset file is cut short; copy it again, or convert the rows again"))
}

/// Numbers one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `bytes` bytes.
    fn part(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(part)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }
}
