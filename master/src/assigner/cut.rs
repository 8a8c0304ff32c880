//! Cuts listed files into splits.
//!
//! Invariant: the splits of a file cover its rows without holes or overlaps; every block edge is a split edge, except in a
//! compressed file, which is one split, and in a dataset file, whose own blocks are not cut and lie where they start.

use super::Racks;
use flexps_common::data::Form;
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
    /// How it holds its rows.
    pub form: Form,
    /// Of a dataset file: where its blocks start, and where the last one ends.
    pub edges: Vec<u64>,
}

/// The splits of `sources` for `slaves` readers, in order of file and offset, and the racks of the hosts.
pub fn cut(input: InputId, sources: &[Source], slaves: usize) -> (Vec<Split>, Racks) {
    let total: u64 = sources.iter().map(|s| s.file.len).sum();
    let largest = match slaves {
        0 | 1 => LARGEST,
        n => (total / (n as u64 * PER_SLAVE)).clamp(SMALLEST, LARGEST),
    };
    let (mut splits, mut racks) = (Vec::new(), Racks::new());
    for Source { file, form, edges } in sources {
        for block in &file.blocks {
            racks.extend(block.hosts.iter().cloned().zip(block.racks.iter().cloned()));
        }
        let mut push = |start, end, hosts| {
            let (path, file_len, modified) = (file.path.clone(), file.len, file.modified);
            let index = splits.len() as u32;
            splits.push(Split { input, index, path, start, end, file_len, modified, form: *form, hosts });
        };
        match form {
            Form::Text => {}
            Form::Packed(_) => {
                push(0, file.len, most_bytes(&file.blocks));
                continue;
            }
            Form::Dataset => {
                runs(edges, &file.blocks, largest).for_each(|(start, end, block)| push(start, end, hosts(block)));
                continue;
            }
        }
        for block in &file.blocks {
            let len = block.end - block.start;
            let pieces = len.div_ceil(largest).max(1);
            for piece in 0..pieces {
                let at = |i: u64| block.start + (u128::from(len) * u128::from(i) / u128::from(pieces)) as u64;
                push(at(piece), at(piece + 1), hosts(Some(block)));
            }
        }
    }
    splits.retain(|s| s.end > s.start);
    for (index, split) in splits.iter_mut().enumerate() {
        split.index = index as u32;
    }
    (splits, racks)
}

fn hosts(block: Option<&BlockMeta>) -> Vec<String> {
    block.map(|block| block.hosts.clone()).unwrap_or_default()
}

/// Runs of a dataset file's blocks that start in the same block of the file, none longer than `largest` bytes unless a
/// single one is.
fn runs<'a>(
    edges: &[u64],
    blocks: &'a [BlockMeta],
    largest: u64,
) -> impl Iterator<Item = (u64, u64, Option<&'a BlockMeta>)> {
    let mut runs: Vec<(u64, u64, usize)> = Vec::new();
    for (start, end) in edges.iter().zip(edges.iter().skip(1)) {
        let at = blocks.partition_point(|block| block.end <= *start);
        match runs.last_mut() {
            Some((first, behind, lies)) if *lies == at && *end - *first <= largest => *behind = *end,
            _ => runs.push((*start, *end, at)),
        }
    }
    runs.into_iter().map(|(start, end, at)| (start, end, blocks.get(at)))
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
