//! Values that travel in fewer bytes than they take in memory.
//!
//! `Lz4` is the block format over the values' first bytes, then their second ones, and so on: exponents of neighbours are
//! alike, mantissas are not. `Half` is 32-bit floats times a power of two that brings the largest of them to 2^14 or more,
//! rounded to IEEE 754's binary16: to 11 bits each, and to zero what is below 2^-39 of the largest.
//!
//! Invariants: what goes packed takes fewer bytes than raw, or goes raw; what is finite stays so, what is not stays as it is;
//! room is made for no more values than so many bytes can hold, and never for more than [`MOST`] bytes of them.

use crate::error::{Error, Result};
use crate::value::Type;
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

/// Most bytes of values that a packed part may hold.
pub const MOST: usize = 64 << 20;
/// Fewer bytes of values are not worth a look.
const LEAST: usize = 256;
/// A byte of the block format stands for so many bytes at most.
const RATIO: usize = 255;
/// The exponent to which 16-bit floats are brought.
const TOP: i32 = 14;
/// Powers of two by which they are: both they and their inverses are normal numbers.
const SHIFTS: std::ops::RangeInclusive<i32> = -112..=126;

/// How a message's values are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pack {
    /// Raw.
    #[default]
    Raw,
    /// As 16-bit floats where they are 32-bit ones.
    Half,
    /// In the block format.
    Lz4,
}

/// How a part of a body holds its values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packing {
    /// Raw.
    #[default]
    Raw,
    /// As 16-bit floats, times 2 to this power.
    Half {
        /// From -112 to 126.
        shift: i8,
    },
    /// In the block format, in so many bytes.
    Lz4 {
        /// Bytes in the body.
        bytes: u32,
    },
}

impl Packing {
    /// Bytes that `count` values of this type take in the body.
    pub fn bytes(self, element: Type, count: usize) -> Option<usize> {
        match self {
            Self::Raw => count.checked_mul(element.size()),
            Self::Half { .. } => count.checked_mul(2),
            Self::Lz4 { bytes } => Some(bytes as usize),
        }
    }
}

/// The values of a part as they are asked for, if that takes fewer bytes.
pub fn pack(values: &[u8], element: Type, by: Pack) -> Option<(Packing, Vec<u8>)> {
    if values.len() < LEAST || values.len() > MOST || !values.len().is_multiple_of(element.size()) {
        return None;
    }
    match by {
        Pack::Lz4 => {
            let planes = shuffled(values, element.size());
            let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(planes.len())];
            let bytes = lz4_flex::block::compress_into(&planes, &mut packed).ok()?;
            packed.truncate(bytes);
            (bytes < values.len()).then_some((Packing::Lz4 { bytes: bytes as u32 }, packed))
        }
        Pack::Half if element == Type::F32 => halved(values),
        Pack::Half | Pack::Raw => None,
    }
}

/// The `count` values that a part holds.
pub fn unpack(packed: &[u8], packing: Packing, element: Type, count: usize) -> Result<Vec<u8>> {
    let size = count.checked_mul(element.size()).filter(|size| *size <= MOST);
    let size =
        size.ok_or_else(|| Error::cluster(format!("{count} packed values, at most {MOST} bytes are allowed")))?;
    match packing {
        Packing::Half { shift }
            if element == Type::F32 && packed.len() == 2 * count && SHIFTS.contains(&i32::from(shift)) =>
        {
            let by = power(-i32::from(shift));
            let values = packed.as_chunks::<2>().0.iter().map(|half| by * f16::from_le_bytes(*half).to_f32());
            Ok(values.map(f32::to_le_bytes).collect::<Vec<_>>().into_flattened())
        }
        Packing::Lz4 { .. } if size <= packed.len().saturating_mul(RATIO) => {
            let mut planes = vec![0; size];
            match lz4_flex::block::decompress_into(packed, &mut planes) {
                Ok(len) if len == size => Ok(unshuffled(&planes, element.size())),
                Ok(len) => Err(Error::cluster(format!("{len} bytes in packed values of {size}"))),
                Err(e) => Err(Error::cluster(format!("values can't be unpacked: {e}"))),
            }
        }
        _ => Err(Error::cluster(format!("{} bytes as {packing:?} of {count} values of {element:?}", packed.len()))),
    }
}

/// 32-bit floats as 16-bit ones; none where one of them is so large that it might become infinite.
fn halved(values: &[u8]) -> Option<(Packing, Vec<u8>)> {
    let mut values: Vec<f32> = values.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let largest = values.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f32::max);
    let exponent = (largest.to_bits() >> (f32::MANTISSA_DIGITS - 1)) as i32 - (f32::MAX_EXP - 1);
    let shift = (TOP - exponent).min(*SHIFTS.end());
    if shift < *SHIFTS.start() {
        return None;
    }
    let by = power(shift);
    values.iter_mut().for_each(|value| *value *= by);
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(&values);
    let bytes = halves.iter().map(|half| half.to_le_bytes()).collect::<Vec<_>>().into_flattened();
    Some((Packing::Half { shift: shift as i8 }, bytes))
}

/// 2 to this power, of a normal number.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((f32::MAX_EXP - 1 + exponent) as u32) << (f32::MANTISSA_DIGITS - 1))
}

/// The first bytes of all values, then the second ones, ...
fn shuffled(values: &[u8], size: usize) -> Vec<u8> {
    let count = values.len() / size;
    let mut planes = vec![0; values.len()];
    if size == 4 {
        // By far the most, in a form that processors do many of at once.
        let values = values.as_chunks::<4>().0;
        for (place, plane) in planes.chunks_exact_mut(count).enumerate() {
            plane.iter_mut().zip(values).for_each(|(to, from)| *to = (u32::from_le_bytes(*from) >> (8 * place)) as u8);
        }
    } else {
        for (place, plane) in planes.chunks_exact_mut(count).enumerate() {
            plane.iter_mut().zip(values[place..].iter().step_by(size)).for_each(|(to, from)| *to = *from);
        }
    }
    planes
}

fn unshuffled(planes: &[u8], size: usize) -> Vec<u8> {
    let count = planes.len() / size;
    let mut values = vec![0; planes.len()];
    if count == 0 {
        return values;
    }
    if size == 4 {
        let (low, high) = planes.split_at(2 * count);
        let (low, high) = (low.split_at(count), high.split_at(count));
        let planes = low.0.iter().zip(low.1).zip(high.0.iter().zip(high.1));
        for (to, ((a, b), (c, d))) in values.as_chunks_mut::<4>().0.iter_mut().zip(planes) {
            *to = [*a, *b, *c, *d];
        }
    } else {
        for (place, plane) in planes.chunks_exact(count).enumerate() {
            values[place..].iter_mut().step_by(size).zip(plane).for_each(|(to, from)| *to = *from);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Values;
    use crate::wire::mutated::{mutate, peak};
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const TYPES: [Type; 4] = [Type::F32, Type::F64, Type::U32, Type::I32];

    fn of_f32(values: &[f32], by: Pack) -> Option<Vec<f32>> {
        let (packing, packed) = pack(Values::F32(values).bytes(), Type::F32, by)?;
        assert_eq!(packing.bytes(Type::F32, values.len()), Some(packed.len()));
        let found = unpack(&packed, packing, Type::F32, values.len()).unwrap();
        Some(found.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    proptest! {
        #[test]
        fn lz4_gives_back_each_bit_of_what_it_makes_smaller(
            seed in proptest::collection::vec(any::<u8>(), 1..64), count in 1usize..5000, of in 0usize..4
        ) {
            let element = TYPES[of];
            // The high bytes of values are alike, the low ones are not.
            let byte = |at: usize| if at % 4 > 1 { seed[0] } else { seed[(at * at / 7) % seed.len()] };
            let values: Vec<u8> = (0..count * element.size()).map(byte).collect();
            match pack(&values, element, Pack::Lz4) {
                Some((packing, packed)) => {
                    prop_assert!(packed.len() < values.len());
                    prop_assert_eq!(packing.bytes(element, count), Some(packed.len()));
                    prop_assert_eq!(unpack(&packed, packing, element, count).unwrap(), values);
                }
                None => prop_assert!(values.len() < LEAST || seed.len() > 8),
            }
        }

        #[test]
        fn f16_rounds_to_eleven_bits_and_to_zero_only_what_is_tiny_beside_the_largest(
            values in proptest::collection::vec((any::<f32>(), -20i32..20), 64..500), exponent in -140i32..120
        ) {
            // Of one size more or less, like the values of a message, whatever size that is.
            let near = |(value, by): &(f32, i32)| {
                let (mantissa, sign) = (value.to_bits() & 0x7f_ffff | 0x3f80_0000, value.signum());
                sign * f32::from_bits(mantissa) * 2f32.powi(*by) * 2f32.powi(exponent.clamp(-100, 100))
                    * 2f32.powi(exponent - exponent.clamp(-100, 100))
            };
            let values: Vec<f32> = values.iter().map(near).filter(|value| value.is_finite()).collect();
            let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
            let Some(found) = of_f32(&values, Pack::Half) else {
                prop_assert!(largest >= 2f32.powi(127) || values.len() < 64);
                return Ok(());
            };
            for (found, value) in found.iter().zip(&values) {
                let error = (f64::from(*found) - f64::from(*value)).abs();
                let most = f64::from(value.abs()) / 2048.0 + f64::from(largest) * 2f64.powi(-39) + 2f64.powi(-150);
                prop_assert!(error <= most, "{found} for {value}, the largest being {largest}");
            }
        }
    }

    #[test]
    fn lz4_gives_back_every_kind_of_float_that_there_is() {
        // Each sign and exponent, with no, some and all bits of the mantissa: zeros, subnormals, infinities, all sorts of NaN.
        let bits = (0..512u32).flat_map(|high| [0, 1, 1 << 22, 0x2a_aaaa, 0x7f_ffff].map(|low| high << 23 | low));
        let values: Vec<f32> = bits.map(f32::from_bits).collect();
        let found = of_f32(&values, Pack::Lz4).expect("they are smaller packed");
        assert!(found.iter().map(|x| x.to_bits()).eq(values.iter().map(|x| x.to_bits())));
    }

    #[test]
    fn f16_keeps_zeros_infinities_and_what_is_no_number_and_makes_none_of_other_values() {
        let mut values = vec![0.0f32; 100];
        assert_eq!(of_f32(&values, Pack::Half).unwrap(), values);
        values[..4].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, -1.5, f32::NAN]);
        let found = of_f32(&values, Pack::Half).unwrap();
        assert!(found[3].is_nan() && found[..3] == values[..3] && found[4..] == values[4..]);
        // The largest that 11 bits hold, and one that might become infinite.
        values = vec![1e38; 100];
        assert!(of_f32(&values, Pack::Half).unwrap().iter().all(|x| (x - 1e38).abs() < 1e38 / 2048.0));
        values[50] = f32::MAX;
        assert_eq!(of_f32(&values, Pack::Half), None);
        // The smallest ones.
        values = vec![f32::from_bits(1); 100];
        assert_eq!(of_f32(&values, Pack::Half).unwrap(), values);
    }

    #[test]
    fn nothing_but_32_bit_floats_is_rounded() {
        for element in [Type::F64, Type::U32, Type::I32] {
            assert!(pack(&[1; 4096], element, Pack::Half).is_none());
            let refused = unpack(&[1; 4096], Packing::Half { shift: 0 }, element, 2048).unwrap_err();
            assert!(refused.message.contains("4096 bytes as Half"), "{refused}");
        }
    }

    #[test]
    fn random_values_are_no_smaller_packed_and_go_raw() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let values: Vec<u8> = (0..4096).map(|_| rng.random()).collect();
        assert!(pack(&values, Type::F32, Pack::Lz4).is_none());
    }

    #[test]
    fn mutated_packed_values_are_refused_or_as_many_as_they_say_and_take_no_more_memory_than_so_many_bytes_can_hold() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let values: Vec<f32> = (0..2000).map(|at| (at / 40) as f32).collect();
        let bytes = Values::F32(&values).bytes();
        let all = [Pack::Lz4, Pack::Half].map(|by| pack(bytes, Type::F32, by).unwrap());
        let (mut taken, mut refused) = (0, 0);
        for round in 0..100_000 {
            let (mut packing, mut packed) = all[round % 2].clone();
            if round % 10 > 0 {
                mutate(&mut packed, &mut rng);
            }
            match &mut packing {
                Packing::Lz4 { bytes } => *bytes = packed.len() as u32,
                Packing::Half { shift } if round % 10 == 3 => *shift = rng.random(),
                _ => {}
            }
            let count = match round % 50 {
                7 => rng.random_range(0..1 << 40),
                8 => rng.random_range(0..1 << 24),
                _ => values.len(),
            };
            let (peak, found) = peak(|| unpack(&packed, packing, Type::F32, count));
            assert!(peak <= 2 * RATIO * packed.len() + (16 << 10), "{peak} bytes for {} packed ones", packed.len());
            match found {
                Ok(found) => {
                    taken += 1;
                    assert_eq!(found.len(), 4 * count);
                }
                Err(_) => refused += 1,
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
    }
}
