//! Usual features, each from one look at 32 bytes and with hardly a branch.
//!
//! Invariant: no load reaches beyond the text; what is taken has an index of one to eight digits and is a plain decimal of
//! at most 16 characters behind its sign, correctly rounded.

use super::Seen;
use crate::data::number::ends_token;
use crate::ids::Key;
use std::arch::x86_64::*;

/// Bytes that are looked at.
const WINDOW: usize = 32;

/// Loaded at n, shuffles the first n of 16 bytes to the end and fills with zeros.
const TO_END: [u8; 32] = {
    let mut table = [0x80; 32];
    let mut i = 0;
    while i < 16 {
        table[16 + i] = i as u8;
        i += 1;
    }
    table
};

/// Loaded at 16 - n, keeps the first n of 16 bytes.
const KEEP: [u8; 32] = {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 16 {
        table[i] = 0xff;
        i += 1;
    }
    table
};

/// Row n closes the gap at byte n of 16.
const CLOSE: [[u8; 16]; 17] = {
    let mut table = [[0x80; 16]; 17];
    let mut at = 0;
    while at <= 16 {
        let mut i = 0;
        while i < 16 {
            if i < at || i < 15 {
                table[at][i] = (i + (i >= at) as usize) as u8;
            }
            i += 1;
        }
        at += 1;
    }
    table
};

/// Row n holds 10^(n-16) and 10^(n-8): what the halves of 16 digits are worth, of which n stand before the point.
const WORTH: [[f64; 2]; 17] = [
    [1e-16, 1e-8],
    [1e-15, 1e-7],
    [1e-14, 1e-6],
    [1e-13, 1e-5],
    [1e-12, 1e-4],
    [1e-11, 1e-3],
    [1e-10, 1e-2],
    [1e-9, 1e-1],
    [1e-8, 1e0],
    [1e-7, 1e1],
    [1e-6, 1e2],
    [1e-5, 1e3],
    [1e-4, 1e4],
    [1e-3, 1e5],
    [1e-2, 1e6],
    [1e-1, 1e7],
    [1e0, 1e8],
];

/// A feature as it stands in the text.
struct Feature {
    index: u64,
    value: f32,
    end: usize,
}

/// Whether this processor can do what [`take`] does.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2")
}

/// See [`super::take`].
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub fn take(text: &[u8], seen: &mut Seen, base: u64, limit: u64, indices: &mut [Key], values: &mut [f32]) {
    let Seen { mut end, count, mut least, mut other_values } = *seen;
    let mut taken = 0;
    let (Some(indices), Some(values)) = (indices.get_mut(count..), values.get_mut(count..)) else { return };
    for (index, value) in indices.iter_mut().zip(values) {
        if text[end] != b' ' {
            break;
        }
        let Some(feature) = feature(text, end + 1) else { break };
        if feature.index < least || feature.index >= limit {
            break;
        }
        *index = (feature.index - base) as Key;
        *value = feature.value;
        other_values |= feature.value.to_bits() ^ 1f32.to_bits();
        least = feature.index + 1;
        end = feature.end;
        taken += 1;
    }
    *seen = Seen { end, count: count + taken, least, other_values };
}

/// The feature at `at`, if it is a usual one.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn feature(text: &[u8], at: usize) -> Option<Feature> {
    let near: &[u8; WINDOW] = text.get(at..)?.first_chunk()?;
    let window: __m256i = bytemuck::pod_read_unaligned(near);
    let bits = |b: u8| _mm256_movemask_epi8(_mm256_cmpeq_epi8(window, _mm256_set1_epi8(b as i8))) as u32;
    let colon = bits(b':').trailing_zeros() as usize;
    if colon.wrapping_sub(1) >= 8 {
        return None;
    }
    // With the bytes that end a token some that have no place in one: those are refused below.
    let ends = _mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_set1_epi8(b'#' as i8 + 1), window)) as u32;
    let end = ends.trailing_zeros() as usize;
    let negative = near[colon + 1] == b'-';
    let first = colon + 1 + usize::from(negative);
    let length = end.wrapping_sub(first);
    // Digits before the point, or all.
    let whole = ((bits(b'.') | ends) >> first).trailing_zeros() as usize;
    if length > 16 || whole.wrapping_sub(1) >= length {
        return None;
    }
    let zeros = _mm_set1_epi8(b'0' as i8);
    let index = _mm_xor_si128(_mm256_castsi256_si128(window), zeros);
    let index = _mm_shuffle_epi8(index, sixteen(&TO_END, colon));
    let value = _mm_and_si128(_mm_xor_si128(sixteen(near, first), zeros), sixteen(&KEEP, 16 - length));
    let value = _mm_shuffle_epi8(value, sixteen(&CLOSE[whole], 0));
    let digits = _mm256_set_m128i(value, index);
    let beyond = _mm256_subs_epu8(digits, _mm256_set1_epi8(9));
    if _mm256_testz_si256(beyond, beyond) == 0 || !ends_token(near[end]) {
        return None;
    }
    let pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(10 | 1 << 8));
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(100 | 1 << 16));
    let fours = _mm256_packus_epi32(fours, fours);
    let eights = _mm256_madd_epi16(fours, _mm256_set1_epi32(10_000 | 1 << 16));
    let index = _mm_extract_epi32::<1>(_mm256_castsi256_si128(eights)) as u32;
    let halves = _mm_cvtepi32_pd(_mm256_extracti128_si256::<1>(eights));
    let halves = _mm_mul_pd(halves, _mm_set_pd(WORTH[whole][0], WORTH[whole][1]));
    let wide = _mm_cvtsd_f64(_mm_add_sd(halves, _mm_unpackhi_pd(halves, halves)));
    // Relative to the sum at most 2^-53 each for a power of ten, for a product, for the sum: within 3 ulp. So it rounds to
    // the same f32 as the true value unless the midpoint of two f32 is that near. No subnormal f32 is: 1e-16 is not.
    let beside = (wide.to_bits() as u32 & 0x1fff_ffff).wrapping_sub(0x1000_0000 - 4);
    if beside <= 8 {
        return None;
    }
    let value = f32::from_bits((wide as f32).to_bits() | u32::from(negative) << 31);
    Some(Feature { index: index.into(), value, end: at + end })
}

/// The 16 bytes at `at`.
#[inline(always)]
fn sixteen(bytes: &[u8], at: usize) -> __m128i {
    bytemuck::pod_read_unaligned(&bytes[at..at + 16])
}
