//! The order of an input's rows: by file and place in it, whoever read them in whatever blocks.
//!
//! Invariant: of the same files a row has the same number each time, on any slaves.

use flexps_common::wire::control::ReadBlock;
use flexps_common::{Error, Result};

/// A block's rows among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The number of its first row.
    pub first: u64,
    /// How many there are.
    pub rows: u32,
    /// Whose block it is, by place in shard order.
    pub shard: u32,
    /// The block's number there.
    pub block: u32,
}

impl Piece {
    /// Behind the number of its last row.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.rows)
    }
}

/// The pieces with rows, in order: of the blocks of each shard, where `root` names the split that a split was cut from.
pub fn pieces<'a>(
    shards: impl IntoIterator<Item = &'a [ReadBlock]>,
    root: impl Fn(u32) -> Option<u32>,
) -> Result<Vec<Piece>> {
    let mut found = Vec::new();
    for (shard, blocks) in (0..).zip(shards) {
        for (number, block) in (0..).zip(blocks).filter(|(_, block)| block.rows > 0) {
            let root = root(block.split)
                .ok_or_else(|| Error::bug(format!("rows of split {}, which nobody handed out", block.split)))?;
            found.push(((root, block.offset), Piece { first: 0, rows: block.rows, shard, block: number }));
        }
    }
    found.sort_unstable_by_key(|(at, piece)| (*at, piece.shard, piece.block));
    let mut first = 0;
    Ok(found
        .into_iter()
        .map(|(_, piece)| {
            let piece = Piece { first, ..piece };
            first = piece.end();
            piece
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_by_file_and_place_whoever_read_them() {
        let block = |split, offset, rows| ReadBlock { split, offset, rows };
        let piece = |first, rows, shard, block| Piece { first, rows, shard, block };
        // Splits 0 and 1 are of one file, 2 is of another; 3 was cut from 0, and 4 from 3.
        let root = |split: u32| [0, 1, 2, 0, 0].get(split as usize).copied();
        let one = [block(2, 0, 5), block(0, 0, 10), block(0, 100, 0), block(4, 700, 3)];
        let other = [block(1, 1000, 7), block(3, 400, 2)];
        let found = pieces([&one[..], &[], &other], root).unwrap();
        let expected =
            [piece(0, 10, 0, 1), piece(10, 2, 2, 1), piece(12, 3, 0, 3), piece(15, 7, 2, 0), piece(22, 5, 0, 0)];
        assert_eq!(found, expected);
        assert_eq!(found.last().map(Piece::end), Some(27));
        assert!(pieces([&[block(5, 0, 1)][..]], root).is_err());
        assert!(pieces([&[][..]], root).unwrap().is_empty());
    }
}
