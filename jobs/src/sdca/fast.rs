//! Exponential and logarithm that the compiler can turn into vector code: no branch, no table, no call.
//!
//! Invariant: on their domains both are within 4e-16 of the true value, relatively (the logarithm: absolutely near 1).
//! Reduction and coefficients are those of FreeBSD's msun (e_log.c) and the Taylor series of the exponential.

/// ln 2, its upper bits with zeros behind, and the rest.
const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
/// 2^52 + 2^51: a number of small size added to it ends in the lowest bits.
const SHIFT: f64 = 6_755_399_441_055_744.0;

/// e^x for x in -700..=700; what lies beyond is taken as the nearer end.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    const SERIES: [f64; 13] = {
        let mut series = [1.0; 13];
        let mut k = 1;
        while k < 13 {
            series[k] = series[k - 1] / k as f64;
            k += 1;
        }
        series
    };
    let x = x.clamp(-700.0, 700.0);
    let shifted = x * std::f64::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let rest = (x - whole * LN2[0]) - whole * LN2[1];
    let mut sum = SERIES[12];
    for k in (0..12).rev() {
        sum = sum * rest + SERIES[k];
    }
    // The whole part sits in the lowest bits of the shifted number; the others leave the word at its upper end.
    sum * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52))
}

/// ln x for normal x > 0.
#[allow(clippy::excessive_precision)] // as they are published
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 7] = [
        6.666_666_666_666_735_13e-1,
        3.999_999_999_940_941_908e-1,
        2.857_142_874_366_239_149e-1,
        2.222_219_843_214_978_396e-1,
        1.818_357_216_161_805_012e-1,
        1.531_383_769_920_937_332e-1,
        1.479_819_860_511_658_591e-1,
    ];
    const ROOT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let bits = x.to_bits();
    // Exponent such that the rest lies in sqrt(1/2)..sqrt(2), with 1023 added.
    let biased = (bits.wrapping_sub(ROOT_HALF).wrapping_add(1023 << 52)) >> 52;
    let f = f64::from_bits(bits.wrapping_sub(biased << 52).wrapping_add(1023 << 52)) - 1.0;
    // An integer below 2^52 as a float, without the conversion that AVX2 lacks.
    let exponent = f64::from_bits(biased | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 1023.0);
    let s = f / (2.0 + f);
    let z = s * s;
    let mut r = COEFFICIENTS[6];
    for c in COEFFICIENTS[..6].iter().rev() {
        r = r * z + c;
    }
    let half = 0.5 * f * f;
    exponent * LN2[0] - ((half - (s * (half + r * z) + exponent * LN2[1])) - f)
}

/// e^x in single precision, within 2e-7 relatively, for x in -87..=87; what lies beyond is taken as the nearer end.
/// Coefficients from Cephes (expf.c).
#[allow(clippy::excessive_precision)] // as they are published
#[inline(always)]
pub fn exp32(x: f32) -> f32 {
    const LN2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];
    const SHIFT: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1];
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let r = (x - whole * LN2[0]) - whole * LN2[1];
    // In pairs: who waits for it waits half as long.
    let [a, b, c, d, e, f] = COEFFICIENTS;
    let square = r * r;
    let sum = (a * r + b) * (square * square) + ((c * r + d) * square + (e * r + f));
    (sum * square + (r + 1.0)) * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// ln x in single precision for normal x > 0, within 2e-7 of the true value, relatively and absolutely near 1. Coefficients
/// from FreeBSD's msun (e_logf.c).
#[allow(clippy::excessive_precision)] // as they are published
#[inline(always)]
pub fn ln32(x: f32) -> f32 {
    const LN2: [f32; 2] = [6.931_381_225_6e-1, 9.058_000_614_5e-6];
    const COEFFICIENTS: [f32; 4] = [0.666_666_626_93, 0.400_009_721_52, 0.284_987_866_88, 0.242_790_788_41];
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits();
    // As in `ln`.
    let biased = (bits.wrapping_sub(ROOT_HALF).wrapping_add(127 << 23)) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(biased << 23).wrapping_add(127 << 23)) - 1.0;
    let exponent = f32::from_bits(biased | 0x4b00_0000) - (8_388_608.0 + 127.0);
    let s = f / (2.0 + f);
    let z = s * s;
    let square = z * z;
    let [a, b, c, d] = COEFFICIENTS;
    let r = z * (a + square * c) + square * (b + square * d);
    let half = 0.5 * f * f;
    exponent * LN2[0] - ((half - (s * (half + r) + exponent * LN2[1])) - f)
}

/// x ln x, 0 at 0.
#[inline(always)]
pub fn x_ln_x(x: f64) -> f64 {
    x * ln(x.max(f64::MIN_POSITIVE))
}

/// log(1 + exp(-m)).
#[inline(always)]
pub fn soft_hinge(m: f64) -> f64 {
    (-m).max(0.0) + ln(1.0 + exp(-m.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_agree_with_the_standard_library(x in -600.0..600.0f64, y in prop_oneof![1e-300..1e300f64, 0.0..4.0f64]) {
            let narrow = (x / 7.0) as f32;
            prop_assert!((exp32(narrow) / narrow.exp() - 1.0).abs() < 3e-7, "exp32 {}", narrow);
            prop_assert!((exp(x) / x.exp() - 1.0).abs() < 2e-15, "exp {} {}", x, exp(x));
            let small = y.clamp(1e-37, 1e37) as f32;
            let exact = f64::from(small).ln();
            prop_assert!((f64::from(ln32(small)) - exact).abs() < 2e-7 * exact.abs().max(1.0), "ln32 {}", small);
            let y = y.max(1e-300);
            prop_assert!((ln(y) - y.ln()).abs() <= 4e-16 * y.ln().abs().max(1.0), "ln {} {}", y, ln(y));
        }
    }

    #[test]
    fn the_ends_are_finite() {
        assert_eq!((x_ln_x(0.0), x_ln_x(1.0), ln(1.0), exp(0.0)), (0.0, 0.0, 0.0, 1.0));
        for m in [1e30, 1e4, 800.0, -800.0, -1e30] {
            assert!((soft_hinge(m) - (-m).max(0.0)).abs() < 1e-300, "{m}");
        }
        assert!((soft_hinge(0.0) - std::f64::consts::LN_2).abs() < 1e-15);
    }
}
