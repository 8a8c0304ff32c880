//! Cuts listed files into splits.
//!
//! Invariant: the splits of a file cover it without holes or overlaps; every block edge is a split edge, except in a
//! compressed file, which is one split.

use super::Racks;
use flexps_common::ids::InputId;
use flexps_common::storage::{BlockMeta, FileMeta};
use flexps_common::wire::control::Split;
use std::collections::BTreeMap;

/// Bytes of the largest split: large enough that opening a file costs little beside reading it.
const LARGEST: u64 = 64 << 20;
/// Bytes below which a split is not cut to give every slave some.
const SMALLEST: u64 = 256 << 10;
/// Splits per slave, at least, where the input is large enough: the grain of balancing.
const PER_SLAVE: u64 = 4;

/// A listed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// As it was listed.
    pub file: FileMeta,
    /// Whether its first bytes are those of a compressed file.
    pub compressed: bool,
}

/// The splits of `sources` for `slaves` readers, in order of file and offset, and the racks of the hosts.
pub fn cut(input: InputId, sources: &[Source], slaves: usize) -> (Vec<Split>, Racks) {
    let total: u64 = sources.iter().map(|s| s.file.len).sum();
    let largest = match slaves {
        0 | 1 => LARGEST,
        n => (total / (n as u64 * PER_SLAVE)).clamp(SMALLEST, LARGEST),
    };
    let (mut splits, mut racks) = (Vec::new(), Racks::new());
    for Source { file, compressed } in sources {
        for block in &file.blocks {
            racks.extend(block.hosts.iter().cloned().zip(block.racks.iter().cloned()));
        }
        let mut push = |start, end, whole, hosts| {
            let (path, file_len, modified) = (file.path.clone(), file.len, file.modified);
            let index = splits.len() as u32;
            splits.push(Split { input, index, path, start, end, file_len, modified, whole, hosts });
        };
        if *compressed {
            push(0, file.len, true, most_bytes(&file.blocks));
            continue;
        }
        for block in &file.blocks {
            let len = block.end - block.start;
            let pieces = len.div_ceil(largest).max(1);
            for piece in 0..pieces {
                let at = |i: u64| block.start + (u128::from(len) * u128::from(i) / u128::from(pieces)) as u64;
                push(at(piece), at(piece + 1), false, block.hosts.clone());
            }
        }
    }
    splits.retain(|s| s.end > s.start);
    for (index, split) in splits.iter_mut().enumerate() {
        split.index = index as u32;
    }
    (splits, racks)
}

/// The hosts that hold the most bytes of the file.
fn most_bytes(blocks: &[BlockMeta]) -> Vec<String> {
    let mut bytes: BTreeMap<&String, u64> = BTreeMap::new();
    for block in blocks {
        for host in &block.hosts {
            *bytes.entry(host).or_default() += block.end - block.start;
        }
    }
    let most = bytes.values().copied().max();
    bytes.iter().filter(|(_, b)| Some(**b) == most).map(|(h, _)| (*h).clone()).collect()
}
