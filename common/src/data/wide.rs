//! Usual features, `INDEX:VALUE`, taken without looking at their bytes one by one: lengths can't be foretold, and a branch
//! that is foretold wrongly costs as much as all of the rest.
//!
//! Invariant: what is taken is what [`super::number`] makes of the same text, bit for bit; what is unusual is left to it, as
//! is everything on a processor for which there is no way here.

use crate::ids::Key;

#[cfg(target_arch = "x86_64")]
mod avx2;

/// How far a row is parsed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Where the last token ends.
    pub end: usize,
    /// Features in the arrays.
    pub count: usize,
    /// The least index that may come next.
    pub least: u64,
    /// Not 0 when there was a value other than 1.
    pub other_values: u32,
}

/// Takes features for as long as they are usual, follow one blank each, rise, stay below `limit`, and there is room.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "all is left"))]
pub fn take(text: &[u8], seen: &mut Seen, base: u64, limit: u64, indices: &mut [Key], values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        // SAFETY: the processor has what it is compiled for.
        unsafe { avx2::take(text, seen, base, limit, indices, values) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::number::PAD;
    use proptest::prelude::*;

    fn available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return avx2::available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// What is taken of a row's text from its first blank on.
    fn taken(text: &str) -> (Seen, Vec<Key>, Vec<u32>) {
        let mut padded = text.as_bytes().to_vec();
        padded.resize(text.len() + PAD, b'\n');
        let (mut indices, mut values) = (vec![0; 50], vec![0.0; 50]);
        let mut seen = Seen { end: 0, count: 0, least: 0, other_values: 0 };
        take(&padded, &mut seen, 0, 1 << 32, &mut indices, &mut values);
        indices.truncate(seen.count);
        (seen, indices, values[..seen.count].iter().map(|v: &f32| v.to_bits()).collect())
    }

    /// Whether the value is taken; panics when it is taken otherwise than Rust takes it.
    fn taken_right(value: &str) -> bool {
        let (seen, indices, values) = taken(&format!(" 7:{value} 9"));
        if seen.count == 0 {
            return false;
        }
        let expected = value.parse::<f32>().unwrap_or_else(|_| panic!("{value:?} is no number, not {values:?}"));
        assert_eq!((seen.end, indices, values), (3 + value.len(), vec![7], vec![expected.to_bits()]), "{value:?}");
        true
    }

    #[test]
    fn usual_features_are_taken() {
        if !available() {
            return;
        }
        for value in
            ["1", "0", "-1", "0.5", "-0.25", "0.0123456", "12.75", "255", "1.", "0.34567890123456", "1234567890123456"]
        {
            assert!(taken_right(value), "{value}");
        }
        let (seen, indices, _) = taken(" 1:1 20:1 300:1 4000:1 50000:1 600000:1 7000000:1 80000000:1 900000000:1");
        assert_eq!(indices, [1, 20, 300, 4000, 50000, 600000, 7000000, 80000000]);
        assert_eq!((seen.least, seen.other_values), (80000001, 0));
    }

    #[test]
    fn what_does_not_rise_or_is_too_large_is_left() {
        let mut padded = b" 5:1 6:2 6:3".to_vec();
        padded.resize(50, b'\n');
        for (least, limit, count) in [(6, 9, 0), (5, 9, 2), (0, 6, 1), (0, 5, 0)] {
            let mut seen = Seen { end: 0, count: 0, least, other_values: 0 };
            take(&padded, &mut seen, 0, limit, &mut [0; 9], &mut [0.0; 9]);
            assert_eq!(seen.count, if available() { count } else { 0 }, "{least} {limit}");
        }
        let mut seen = Seen { end: 0, count: 0, least: 0, other_values: 0 };
        take(&padded, &mut seen, 0, 9, &mut [0; 1], &mut [0.0; 9]);
        assert!(seen.count <= 1, "no more than there is room for");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn decimals_are_taken_as_rust_takes_them_or_left(value in "-?[0-9]{0,17}(\\.[0-9]{0,17})?") {
            taken_right(&value);
        }

        #[test]
        fn what_is_no_decimal_is_left(value in "[-+.:/e0-9\u{80}x]{0,9}") {
            if value.parse::<f32>().is_err() {
                prop_assert!(!taken_right(&value));
            } else {
                taken_right(&value);
            }
        }

        #[test]
        fn every_float_is_taken_right_or_left(bits in 0u32..0x5a00_0000, negative: bool, digits in 0usize..15) {
            // Up to 9e15: what is larger has too many digits.
            let value = f32::from_bits(bits | u32::from(negative) << 31);
            taken_right(&format!("{value}"));
            taken_right(&format!("{value:.digits$}"));
        }

        #[test]
        fn midpoints_are_taken_right_or_left(bits in 0x3a00_0000u32..0x5a00_0000, digits in 0usize..15, nudge in -9i64..=9) {
            // The decimals near the middle of two neighbours.
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            taken_right(&format!("{:.digits$}", f64::from_bits((middle.to_bits() as i64 + nudge) as u64)));
        }
    }
}
