//! Strictly rising keys to bytes and back.
//!
//! Keys go in runs of 64: a byte that says how many bytes (1 to 4) each gap of the run takes, then the gaps, where a gap is
//! the difference to the key before less 1 (the first key's is the key itself). One width per run keeps both directions
//! free of data-dependent branches; decoding costs one addition per key.
//!
//! Invariant: what decodes is strictly rising and within 0..2^32, since a gap can't be negative and sums are checked; a
//! key takes a byte at least, so a list never decodes to more than four times the memory of its bytes.

use crate::error::{Error, Result};
use crate::ids::Key;

/// Keys that share a width.
const RUN: usize = 64;

/// Most bytes that `count` keys take.
pub fn max_len(count: usize) -> usize {
    count * 4 + count.div_ceil(RUN)
}

/// Appends the code of `keys` to `out`. An error when they don't rise strictly.
pub fn encode(keys: &[Key], out: &mut Vec<u8>) -> Result<()> {
    out.reserve(max_len(keys.len()));
    let mut gaps = [0u32; RUN];
    // The key before, plus 1.
    let mut next = 0u64;
    for run in keys.chunks(RUN) {
        let first = u64::from(run[0]);
        let rising = first >= next && run.windows(2).fold(true, |ok, pair| ok & (pair[0] < pair[1]));
        if !rising {
            return Err(Error::bug("the keys of a request don't rise strictly"));
        }
        gaps[0] = (first - next) as u32;
        let mut bits = gaps[0];
        for (gap, pair) in gaps[1..].iter_mut().zip(run.windows(2)) {
            *gap = pair[1].wrapping_sub(pair[0]).wrapping_sub(1);
            bits |= *gap;
        }
        let gaps = &gaps[..run.len()];
        let width = (4 - bits.leading_zeros() / 8).max(1) as u8;
        out.push(width);
        match width {
            1 => out.extend(gaps.iter().map(|&g| g as u8)),
            2 => write(out, gaps, |g| (g as u16).to_le_bytes()),
            3 => write(out, gaps, |g| [g as u8, (g >> 8) as u8, (g >> 16) as u8]),
            _ => write(out, gaps, u32::to_le_bytes),
        }
        next = u64::from(run[run.len() - 1]) + 1;
    }
    Ok(())
}

#[inline]
fn write<const W: usize>(out: &mut Vec<u8>, gaps: &[u32], bytes: impl Fn(u32) -> [u8; W]) {
    let start = out.len();
    out.resize(start + gaps.len() * W, 0);
    for (place, gap) in out[start..].as_chunks_mut::<W>().0.iter_mut().zip(gaps) {
        *place = bytes(*gap);
    }
}

/// The `count` keys that `bytes` hold, all of them. Allocates nothing unless so many bytes can hold so many keys.
pub fn decode(mut bytes: &[u8], count: usize) -> Result<Vec<Key>> {
    let least = count + count.div_ceil(RUN);
    if bytes.len() < least {
        return Err(Error::cluster(format!(
            "a list of {count} keys in {} bytes, at least {least} needed",
            bytes.len()
        )));
    }
    let mut keys = vec![0; count];
    // The key before: -1 before the first.
    let mut last = u64::MAX;
    for run in keys.chunks_mut(RUN) {
        let Some((&width, rest)) = bytes.split_first() else { return Err(short(count)) };
        if !(1..=4).contains(&width) {
            return Err(Error::cluster(format!("a key list with gaps of {width} bytes, 1 to 4 are possible")));
        }
        let Some((gaps, rest)) = rest.split_at_checked(run.len() * width as usize) else { return Err(short(count)) };
        bytes = rest;
        match width {
            1 => read(run, gaps, &mut last, |[b]: &[u8; 1]| u32::from(*b)),
            2 => read(run, gaps, &mut last, |b: &[u8; 2]| u32::from(u16::from_le_bytes(*b))),
            3 => read(run, gaps, &mut last, |b: &[u8; 3]| u32::from_le_bytes([b[0], b[1], b[2], 0])),
            _ => read(run, gaps, &mut last, |b: &[u8; 4]| u32::from_le_bytes(*b)),
        }
        if last > u64::from(u32::MAX) {
            return Err(Error::cluster(format!("a key list reaches key {last}, at most {} is possible", u32::MAX)));
        }
    }
    if !bytes.is_empty() {
        return Err(Error::cluster(format!("{} bytes left behind a list of {count} keys", bytes.len())));
    }
    Ok(keys)
}

#[inline]
fn read<const W: usize>(run: &mut [Key], gaps: &[u8], last: &mut u64, gap: impl Fn(&[u8; W]) -> u32) {
    let mut at = *last;
    for (key, bytes) in run.iter_mut().zip(gaps.as_chunks::<W>().0) {
        at = at.wrapping_add(u64::from(gap(bytes)) + 1);
        *key = at as Key;
    }
    *last = at;
}

fn short(count: usize) -> Error {
    Error::cluster(format!("a list of {count} keys ends early"))
}

/// The digest under which both sides remember a key list.
pub fn hash(keys: &[Key]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coded(keys: &[Key]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(keys, &mut out).unwrap();
        assert!(out.len() <= max_len(keys.len()));
        out
    }

    /// Strictly rising keys with gaps of all sizes.
    fn rising() -> impl Strategy<Value = Vec<Key>> {
        prop::collection::vec((0u32..32, any::<u32>()), 0..400).prop_map(|steps| {
            let mut next = 0u64;
            let mut keys = Vec::new();
            for (shift, bits) in steps {
                let key = next + u64::from(bits >> shift);
                if key > u64::from(u32::MAX) {
                    break;
                }
                keys.push(key as u32);
                next = key + 1;
            }
            keys
        })
    }

    proptest! {
        #[test]
        fn keys_come_back_as_they_were(keys in rising()) {
            prop_assert_eq!(decode(&coded(&keys), keys.len()).unwrap(), keys);
        }

        #[test]
        fn what_decodes_from_any_bytes_rises_strictly(bytes in prop::collection::vec(prop_oneof![1u8..5, any::<u8>()], 0..300), count in 0usize..400) {
            if let Ok(keys) = decode(&bytes, count) {
                prop_assert_eq!(keys.len(), count);
                prop_assert!(keys.is_sorted_by(|a, b| a < b));
                // A wider code than needed may come in, the narrowest goes out.
                prop_assert!(coded(&keys).len() <= bytes.len());
            }
        }

        #[test]
        fn keys_that_do_not_rise_are_refused(keys in rising(), at in any::<prop::sample::Index>()) {
            prop_assume!(!keys.is_empty());
            let mut keys = keys;
            let i = at.index(keys.len());
            keys.insert(i, keys[i]);
            prop_assert!(encode(&keys, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn the_extreme_keys_are_kept() {
        for keys in [vec![], vec![0], vec![u32::MAX], vec![0, u32::MAX], (u32::MAX - 200..=u32::MAX).collect()] {
            assert_eq!(decode(&coded(&keys), keys.len()).unwrap(), keys);
        }
    }

    #[test]
    fn a_list_beyond_the_last_key_is_refused() {
        let mut bytes = coded(&[u32::MAX]);
        bytes[0] = 4;
        bytes.extend([0; 4]);
        assert!(decode(&bytes, 2).unwrap_err().message.contains("4294967296"));
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_allocates_nothing() {
        assert!(decode(&[1, 0, 0], u32::MAX as usize).unwrap_err().message.contains("at least"));
        assert!(decode(&[1, 0, 0], 1).unwrap_err().message.contains("left"));
    }
}
