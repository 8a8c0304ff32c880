//! Usual features, `INDEX:VALUE`, taken without looking at their bytes one by one: lengths can't be foretold, and a branch
//! that is foretold wrongly costs as much as all of the rest.
//!
//! Invariant: what is taken is what [`super::number`] makes of the same text, bit for bit; what is unusual is left to it, as
//! is everything on a processor for which there is no way here.

use crate::ids::Key;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

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
    {
        let before = seen.count;
        if avx512::available() {
            // SAFETY: the processor has what it is compiled for.
            unsafe { avx512::take(text, seen, base, limit, indices, values) }
        }
        // Where few bytes follow, and of rows whose other values are unusual.
        if seen.count == before && avx2::available() {
            // SAFETY: as above.
            unsafe { avx2::take(text, seen, base, limit, indices, values) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::number::PAD;
    use proptest::collection::vec;
    use proptest::prelude::*;

    type Way = fn(&[u8], &mut Seen, u64, u64, &mut [Key], &mut [f32]);

    /// All ways that this processor has, and what callers use.
    fn ways() -> Vec<Way> {
        let mut ways: Vec<Way> = vec![take];
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: asked for before each is offered.
            let avx2: Way = |text, seen, base, limit, indices, values| unsafe {
                avx2::take(text, seen, base, limit, indices, values)
            };
            // SAFETY: as above.
            let avx512: Way = |text, seen, base, limit, indices, values| unsafe {
                avx512::take(text, seen, base, limit, indices, values)
            };
            ways.extend(avx2::available().then_some(avx2));
            ways.extend(avx512::available().then_some(avx512));
        }
        ways
    }

    fn available() -> bool {
        ways().len() > 1
    }

    /// What one way takes of a row's text from its first blank on, with the most bytes behind it that one looks at.
    fn taken(way: Way, text: &str) -> (Seen, Vec<Key>, Vec<u32>) {
        let mut padded = text.as_bytes().to_vec();
        padded.resize(text.len() + 2 * PAD, b'\n');
        let (mut indices, mut values) = (vec![0; 50], vec![0.0; 50]);
        let mut seen = Seen { end: 0, count: 0, least: 0, other_values: 0 };
        way(&padded, &mut seen, 0, 1 << 32, &mut indices, &mut values);
        indices.truncate(seen.count);
        (seen, indices, values[..seen.count].iter().map(|v: &f32| v.to_bits()).collect())
    }

    /// Whether all ways take the value; panics when one takes it otherwise than Rust does.
    fn taken_right(value: &str) -> bool {
        ways().into_iter().fold(available(), |all, way| {
            let (seen, indices, values) = taken(way, &format!(" 7:{value} 9"));
            if seen.count == 0 {
                return false;
            }
            let expected = value.parse::<f32>().unwrap_or_else(|_| panic!("{value:?} is no number, not {values:?}"));
            assert_eq!((seen.end, indices, values), (3 + value.len(), vec![7], vec![expected.to_bits()]), "{value:?}");
            all
        })
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
        for way in ways() {
            let (seen, indices, _) =
                taken(way, " 1:1 20:1 300:1 4000:1 50000:1 600000:1 7000000:1 80000000:1 900000000:1");
            assert_eq!(indices, [1, 20, 300, 4000, 50000, 600000, 7000000, 80000000]);
            assert_eq!((seen.least, seen.other_values), (80000001, 0));
        }
    }

    #[test]
    fn what_does_not_rise_or_is_too_large_is_left() {
        let mut padded = b" 5:1 6:2 6:3".to_vec();
        padded.resize(80, b'\n');
        for way in ways() {
            for (least, limit, count) in [(6, 9, 0), (5, 9, 2), (0, 6, 1), (0, 5, 0)] {
                let mut seen = Seen { end: 0, count: 0, least, other_values: 0 };
                way(&padded, &mut seen, 0, limit, &mut [0; 9], &mut [0.0; 9]);
                assert_eq!(seen.count, if available() { count } else { 0 }, "{least} {limit}");
            }
            let mut seen = Seen { end: 0, count: 0, least: 0, other_values: 0 };
            way(&padded, &mut seen, 0, 9, &mut [0; 1], &mut [0.0; 9]);
            assert!(seen.count <= 1, "no more than there is room for");
        }
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

        /// Rows of many features, most of them usual ones: what is taken are the first ones, as Rust takes them.
        #[test]
        fn rows_are_taken_up_to_their_first_unusual_feature(
            features in vec((1u64..2000, "-?[0-9]{1,6}(\\.[0-9]{0,9})?|1|[0-9.:-]{0,4}|[0-9]{9,18}"), 0..40),
            base in 0u64..2,
        ) {
            let (mut text, mut index) = (String::new(), base);
            let mut expected = Vec::new();
            let mut ends = vec![0];
            for (step, value) in &features {
                index += step * step;
                text.push_str(&format!(" {index}:{value}"));
                expected.push((index - base, value.parse::<f32>().ok()));
                ends.push(text.len());
            }
            for way in ways() {
                let mut padded = text.as_bytes().to_vec();
                padded.resize(text.len() + 2 * PAD, b'\n');
                let (mut indices, mut values) = (vec![0; 50], vec![0.0; 50]);
                let mut seen = Seen { end: 0, count: 0, least: base, other_values: 0 };
                way(&padded, &mut seen, base, 1 << 32, &mut indices, &mut values);
                prop_assert_eq!(seen.end, ends[seen.count]);
                for (i, (index, value)) in expected[..seen.count].iter().enumerate() {
                    prop_assert_eq!(u64::from(indices[i]), *index);
                    prop_assert_eq!(Some(values[i].to_bits()), value.map(f32::to_bits));
                }
                let others = expected[..seen.count].iter().any(|(_, value)| *value != Some(1.0));
                prop_assert_eq!(seen.other_values != 0, others);
                prop_assert_eq!(seen.least, expected[..seen.count].last().map_or(base, |(index, _)| index + base + 1));
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
