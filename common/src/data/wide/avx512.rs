//! Usual features, all that end within 64 bytes at once.
//!
//! Blanks, colons and points are a bit each of a word, so a few operations on words find what stands where it may not. Their
//! places, packed, tell which bytes are the digits of which number.
//!
//! Invariant: no load reaches beyond the text; what is taken has an index of one to eight digits and is a plain decimal of
//! at most 16 digits, correctly rounded.

use super::Seen;
use crate::ids::Key;
use std::arch::x86_64::*;
use std::sync::LazyLock;

/// Bytes that are looked at.
const WINDOW: usize = 64;

/// Features that are taken at once.
const MOST: usize = 8;

/// What a number is worth by how many of its digits are behind the point.
const WORTH: [f64; 16] =
    [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15];

/// Which byte each one is, of `whole` ones in turn, in steps of `step`.
const fn places(whole: usize, step: usize) -> [u8; WINDOW] {
    let mut table = [0; WINDOW];
    let mut i = 0;
    while i < WINDOW {
        table[i] = (i % whole / step) as u8;
        i += 1;
    }
    table
}

/// The place of a point that there is not.
const NOWHERE: i8 = i8::MIN;

/// What the bytes of a window are, a bit each.
struct Marks {
    ends: u64,
    colons: u64,
    minuses: u64,
    points: u64,
    /// Where the digits before the point end, or all.
    wholes: u64,
    /// Ends of features before the first byte that has no place where it stands.
    complete: u64,
}

/// Where numbers are in a window, and how many digits they have, a byte each.
struct Spans {
    index_ends: __m128i,
    index_digits: __m128i,
    value_ends: __m128i,
    value_digits: __m128i,
    /// The points' places; before the window where there is none.
    points: __m128i,
    /// Digits behind them.
    decimals: __m128i,
}

/// Numbers of the first features.
struct Numbers {
    /// Features.
    found: u32,
    indices: __m256i,
    /// The values' digits without their points.
    values: __m512d,
}

/// Whether this processor can do what [`take`] does: asked for each row, so kept.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    });
    *AVAILABLE
}

/// See [`super::take`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub fn take(text: &[u8], seen: &mut Seen, base: u64, limit: u64, indices: &mut [Key], values: &mut [f32]) {
    // An index of eight digits is below either.
    let narrow = |index: u64| _mm256_set1_epi32(index.min(i32::MAX as u64) as i32);
    let (base, limit, one) = (narrow(base), narrow(limit), _mm256_set1_epi32(1f32.to_bits() as i32));
    let Seen { mut end, mut count, least, mut other_values } = *seen;
    let mut before = _mm256_sub_epi32(narrow(least), _mm256_set1_epi32(1));
    while text[end] == b' '
        && let Some(window) = text[end + 1..].first_chunk::<WINDOW>()
        && let Some(index) = indices.get_mut(count..).and_then(|to| to.first_chunk_mut::<MOST>())
        && let Some(value) = values.get_mut(count..).and_then(|to| to.first_chunk_mut::<MOST>())
    {
        let window = bytemuck::pod_read_unaligned(window);
        let digits = _mm512_xor_si512(window, _mm512_set1_epi8(b'0' as i8));
        let marks = marks(window, digits);
        let spans = spans(&marks);
        let Numbers { found, indices: features, values: mantissas } = numbers(digits, &marks, &spans);
        let (magnitudes, exact) = worth(mantissas, spans.decimals);
        let negative = marks.negative() as u8;
        let floats = _mm256_mask_xor_epi32(magnitudes, negative, magnitudes, _mm256_set1_epi32(i32::MIN));
        let rising = _mm256_cmpgt_epi32_mask(features, _mm256_alignr_epi32::<7>(features, before));
        let usual = rising & _mm256_cmplt_epi32_mask(features, limit) & exact & !spans.too_long();
        let other = _mm256_cmpneq_epi32_mask(floats, one);
        *index = bytemuck::cast(_mm256_sub_epi32(features, base));
        *value = bytemuck::cast(floats);

        // By their form alone: the next window would wait for this one's numbers.
        let mut taken = found;
        if usual & low(found) != low(found) || found == 0 {
            std::hint::cold_path();
            taken = usual.trailing_ones().min(found);
            if taken == 0 {
                break;
            }
        }
        end += 1 + if marks.ends == marks.complete && taken == marks.complete.count_ones() {
            63 - marks.ends.leading_zeros() as usize
        } else {
            std::hint::cold_path();
            nth(marks.ends, taken)
        };
        count += taken as usize;
        other_values |= u32::from(other & low(taken));
        before = _mm256_permutexvar_epi32(_mm256_set1_epi32(taken as i32 - 1), features);
    }
    let least = if count > seen.count { u64::from(_mm256_cvtsi256_si32(before) as u32) + 1 } else { least };
    *seen = Seen { end, count, least, other_values };
}

/// A mask of the first `n`.
fn low(n: u32) -> u8 {
    (1u32 << n).wrapping_sub(1) as u8
}

/// The place of the `n`th bit, from 1.
#[inline]
#[target_feature(enable = "bmi1,bmi2")]
fn nth(bits: u64, n: u32) -> usize {
    _pdep_u64(1 << (n - 1), bits).trailing_zeros() as usize
}

/// What the bytes are, and how far they make features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn marks(window: __m512i, digits: __m512i) -> Marks {
    let are = |byte: u8| _mm512_cmpeq_epi8_mask(window, _mm512_set1_epi8(byte as i8));
    let (lines, colons, minuses, points) = (are(b'\n'), are(b':'), are(b'-'), are(b'.'));
    let ends = are(b' ') | lines;
    let others = _mm512_cmpgt_epu8_mask(digits, _mm512_set1_epi8(9));
    // The first mark at or behind each start: a carry runs through what is none.
    let first = |starts: u64, marks: u64| starts.wrapping_add(!marks) & marks;
    let (starts, values) = (ends << 1 | 1, colons << 1);
    let wholes = first(values, ends | points);
    let wrong = others & !(ends | colons | minuses | points)
        | first(starts, ends | colons) & ends
        | first(values, ends | colons) & colons
        | colons & starts
        | minuses & !values
        | points & !wholes
        | wholes & (values | minuses << 1)
        // What is behind the line.
        | !(lines ^ lines.wrapping_sub(1));
    Marks { ends, colons, minuses, points, wholes, complete: ends & wrong.wrapping_sub(1) & !wrong }
}

impl Marks {
    /// Which values have a sign, a bit for each feature.
    #[inline]
    #[target_feature(enable = "bmi2")]
    fn negative(&self) -> u16 {
        _pext_u64(self.minuses, self.colons << 1) as u16
    }
}

/// Where the numbers of the first 16 features are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2")]
fn spans(marks: &Marks) -> Spans {
    let packed = |marks| {
        let places = const { places(WINDOW, 1) };
        _mm512_castsi512_si128(_mm512_maskz_compress_epi8(marks, bytemuck::cast(places)))
    };
    let (value_ends, index_ends, points) = (packed(marks.ends), packed(marks.colons), packed(marks.wholes));
    let one = _mm_set1_epi8(1);
    let starts = _mm_add_epi8(_mm_bslli_si128::<1>(value_ends), _mm_bslli_si128::<1>(one));
    let pointed = _pext_u64(marks.points, marks.wholes) as u16;
    let digits = _mm_sub_epi8(_mm_sub_epi8(value_ends, index_ends), one);
    let digits = _mm_mask_sub_epi8(digits, pointed, digits, one);
    Spans {
        index_ends,
        index_digits: _mm_sub_epi8(index_ends, starts),
        value_ends,
        value_digits: _mm_mask_sub_epi8(digits, marks.negative(), digits, one),
        points: _mm_mask_mov_epi8(_mm_set1_epi8(NOWHERE), pointed, points),
        decimals: _mm_maskz_sub_epi8(pointed, _mm_sub_epi8(value_ends, points), one),
    }
}

impl Spans {
    /// Which features have more digits than can be taken.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn too_long(&self) -> u8 {
        let longer = |digits, most| _mm_cmpgt_epi8_mask(digits, _mm_set1_epi8(most)) as u8;
        longer(self.index_digits, 8) | longer(self.value_digits, 16)
    }
}

/// The numbers of the complete features, or of the first four if a value takes more than eight digits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")]
fn numbers(digits: __m512i, marks: &Marks, spans: &Spans) -> Numbers {
    let complete = marks.complete.count_ones().min(MOST as u32);
    let long = _mm_cmpgt_epi8_mask(spans.value_digits, _mm_set1_epi8(8)) as u8 & low(complete) != 0;
    let (found, values) = if long {
        let halves = eights(right_aligned::<16>(digits, spans.value_ends, spans.value_digits, Some(spans.points)));
        let first = _mm256_cvtepi32_pd(_mm256_cvtepi64_epi32(halves));
        let last = _mm256_cvtepi32_pd(_mm256_cvtepi64_epi32(_mm256_srli_epi64::<32>(halves)));
        (complete.min(4), _mm512_castpd256_pd512(_mm256_fmadd_pd(first, _mm256_set1_pd(1e8), last)))
    } else {
        let wholes = eights(right_aligned::<8>(digits, spans.value_ends, spans.value_digits, Some(spans.points)));
        (complete, _mm512_cvtepi32_pd(wholes))
    };
    let indices = eights(right_aligned::<8>(digits, spans.index_ends, spans.index_digits, None));
    Numbers { found, indices, values }
}

/// The last `counts` digits before each of `ends`, points left out, at the end of `RUN` bytes for each number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn right_aligned<const RUN: usize>(
    digits: __m512i,
    ends: __m128i,
    counts: __m128i,
    points: Option<__m128i>,
) -> __m512i {
    let each = |bytes| {
        let numbers = const { places(WINDOW, RUN) };
        _mm512_permutexvar_epi8(bytemuck::cast(numbers), _mm512_castsi128_si512(bytes))
    };
    let place = bytemuck::cast(const { places(RUN, 1) });
    let run = _mm512_set1_epi8(RUN as i8);
    let mut from = _mm512_add_epi8(each(ends), _mm512_sub_epi8(place, run));
    if let Some(points) = points {
        let before = _mm512_cmple_epi8_mask(from, each(points));
        from = _mm512_mask_sub_epi8(from, before, from, _mm512_set1_epi8(1));
    }
    let there = _mm512_cmpge_epi8_mask(_mm512_add_epi8(place, each(counts)), run);
    _mm512_maskz_permutexvar_epi8(there, from, digits)
}

/// The numbers that eight digits each make.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn eights(digits: __m512i) -> __m256i {
    let pairs = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(10 | 1 << 8));
    let fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(100 | 1 << 16));
    _mm256_madd_epi16(_mm512_cvtepi32_epi16(fours), _mm256_set1_epi32(10_000 | 1 << 16))
}

/// The values of `digits` of which so many are decimals, and which of them are sure to be rounded correctly.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn worth(digits: __m512d, decimals: __m128i) -> (__m256i, u8) {
    let [ones, less]: [__m512d; 2] = bytemuck::cast(WORTH);
    let wide = _mm512_mul_pd(digits, _mm512_permutex2var_pd(ones, _mm512_cvtepu8_epi64(decimals), less));
    // Relative to the value at most 2^-53 each for its digits, for the power of ten, for the product: within 3 ulp. So it
    // rounds to the same f32 as the true value unless the midpoint of two f32 is that near. No subnormal f32 is.
    let low = _mm512_and_si512(_mm512_castpd_si512(wide), _mm512_set1_epi64(0x1fff_ffff));
    let beside = _mm512_sub_epi64(low, _mm512_set1_epi64(0x1000_0000 - 4));
    let exact = _mm512_cmpgt_epu64_mask(beside, _mm512_set1_epi64(8));
    (_mm256_castps_si256(_mm512_cvtpd_ps(wide)), exact)
}
