//! Numbers in text, eight bytes at a time.
//!
//! Invariant: every value equals what Rust's own `parse::<f32>` makes of the same token, bit for bit; what the fast way can't
//! prove goes to Rust's own. All loads stay inside the slice: callers leave [`PAD`] bytes behind the last token.

/// Bytes that must follow the last token of a text, so that wide loads stay inside it.
pub const PAD: usize = 32;

const ZEROS: u64 = 0x3030_3030_3030_3030;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Powers of ten that f64 holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Powers of ten up to what two loads of digits can need.
const TENS: [u64; 17] = {
    let mut tens = [1; 17];
    let mut i = 1;
    while i < tens.len() {
        tens[i] = 10 * tens[i - 1];
        i += 1;
    }
    tens
};

#[inline(always)]
fn load(text: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&text[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The number that up to eight digits at `at` make, and how many there are.
#[inline(always)]
pub fn digits(text: &[u8], at: usize) -> (u64, usize) {
    let digits = load(text, at) ^ ZEROS;
    // A byte above 9 carries into its high bit; a carry into the next byte only spoils what lies behind the first such byte.
    let stop = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & HIGH;
    let count = stop.trailing_zeros() as usize / 8;
    // Two steps, since a shift by 64 is none.
    let half = 4 * (8 - count as u32);
    let aligned = (digits << half) << half;
    let pairs = aligned.wrapping_mul(10).wrapping_add(aligned >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    (low.wrapping_add(high) >> 32, count)
}

/// The unsigned integer at `at` and its end; `u64::MAX` when it is too large, no digits when the end is `at`.
#[inline(always)]
pub fn integer(text: &[u8], at: usize) -> (u64, usize) {
    let (value, count) = digits(text, at);
    if count < 8 {
        return (value, at + count);
    }
    // A billion features take two loads.
    let (next, more) = digits(text, at + 8);
    let value = value * TENS[more] + next;
    if more < 8 { (value, at + 8 + more) } else { long_integer(text, value, at + 16) }
}

#[cold]
fn long_integer(text: &[u8], first: u64, at: usize) -> (u64, usize) {
    let (mut value, mut at) = (first, at);
    loop {
        let (next, count) = digits(text, at);
        value = value.saturating_mul(TENS[count]).saturating_add(next);
        at += count;
        if count < 8 {
            return (value, at);
        }
    }
}

/// Whether a byte ends a token.
#[inline(always)]
pub fn ends_token(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r' | b'#')
}

/// The number at `at` and its end, which is the end of the token; `None` when the token is no number.
#[inline(always)]
pub fn float(text: &[u8], at: usize) -> Option<(f32, usize)> {
    // Nearly all values look like `0.01234`: the fraction's place is then known before the first digit is looked at.
    if text[at + 1] == b'.' && text[at].is_ascii_digit() {
        let whole = u64::from(text[at] - b'0');
        let (mut fraction, mut count) = digits(text, at + 2);
        if count == 8 {
            let (next, more) = digits(text, at + 10);
            fraction = fraction * TENS[more] + next;
            count += more;
        }
        let end = at + 2 + count;
        // 16 digits may go on.
        if ends_token(text[end])
            && let Some(value) = scale(whole * TENS[count] + fraction, -(count as i32))
        {
            return Some((value, end));
        }
    } else if text[at].is_ascii_digit() && ends_token(text[at + 1]) {
        return Some((f32::from(text[at] - b'0'), at + 1));
    }
    any_float(text, at)
}

/// All forms that are less common: signs, many digits, exponents.
fn any_float(text: &[u8], start: usize) -> Option<(f32, usize)> {
    let negative = text[start] == b'-';
    let first = start + usize::from(matches!(text[start], b'-' | b'+'));
    let (mut mantissa, mut at, mut digit_count) = (0u64, first, 0usize);
    let mut run = |at: &mut usize| loop {
        let (next, count) = digits(text, *at);
        mantissa = mantissa.wrapping_mul(TENS[count]).wrapping_add(next);
        digit_count += count;
        *at += count;
        if count < 8 {
            break;
        }
    };
    run(&mut at);
    let mut exponent = 0i32;
    if text[at] == b'.' {
        let dot = at;
        at += 1;
        run(&mut at);
        exponent = -i32::try_from(at - dot - 1).unwrap_or(i32::MAX);
    }
    if digit_count > 0 && matches!(text[at], b'e' | b'E') {
        let down = text[at + 1] == b'-';
        let from = at + 1 + usize::from(matches!(text[at + 1], b'-' | b'+'));
        let (power, count) = digits(text, from);
        if count > 0 && count < 8 {
            at = from + count;
            exponent = exponent.saturating_add(if down { -(power as i32) } else { power as i32 });
        }
    }
    // 19 digits fit a u64.
    if ends_token(text[at])
        && (1..=19).contains(&digit_count)
        && let Some(value) = scale(mantissa, exponent)
    {
        return Some((if negative { -value } else { value }, at));
    }
    std_float(text, start)
}

/// Rust's own parser, for what the fast way can't prove.
#[cold]
fn std_float(text: &[u8], start: usize) -> Option<(f32, usize)> {
    let end = token_end(text, start);
    let value = std::str::from_utf8(&text[start..end]).ok()?.parse().ok()?;
    Some((value, end))
}

/// The end of the token at `start`.
pub fn token_end(text: &[u8], start: usize) -> usize {
    text[start..].iter().position(|b| ends_token(*b)).map_or(text.len(), |n| start + n)
}

/// `mantissa * 10^exponent`, correctly rounded, or `None` when that can't be told from its f64 value.
#[inline(always)]
fn scale(mantissa: u64, exponent: i32) -> Option<f32> {
    let power = *POWERS.get(exponent.unsigned_abs() as usize)?;
    let mantissa = mantissa as f64;
    // Two roundings at most (to f64, then of one operation by an exact power), so the result is within 2 ulp; it rounds to
    // the same f32 as the true value unless a midpoint of two f32 lies in between. No f32 subnormal is near: 1e-22 is not.
    let wide = if exponent < 0 { mantissa / power } else { mantissa * power };
    let beside = (wide.to_bits() as u32 & 0x1fff_ffff).wrapping_sub(0x1000_0000 - 4);
    if beside <= 8 { None } else { Some(wide as f32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padded(token: &str) -> Vec<u8> {
        let mut text = token.as_bytes().to_vec();
        text.push(b' ');
        text.resize(text.len() + PAD, b' ');
        text
    }

    fn same_as_std(token: &str) {
        let ours = float(&padded(token), 0);
        match token.parse::<f32>() {
            Ok(v) => {
                let (got, end) = ours.unwrap_or_else(|| panic!("{token:?} is {v}, not refused"));
                assert_eq!((got.to_bits(), end), (v.to_bits(), token.len()), "{token:?}: {got} is not {v}");
            }
            Err(_) => assert!(ours.is_none(), "{token:?} is no number, not {ours:?}"),
        }
    }

    #[test]
    fn odd_forms_are_taken_as_rust_takes_them() {
        for token in [
            "0",
            "1",
            "-1",
            "+1",
            "1.",
            ".5",
            "-.5",
            ".",
            "",
            "+",
            "-",
            "e5",
            "1e",
            "1e+",
            "1e5",
            "1E-5",
            "1e-45",
            "1e39",
            "16777217",
            "16777219",
            "0.000000059604645",
            "3.4028236e38",
            "340282350000000000000000000000000000000",
            "1.5e3",
            "0.1234567890123456789",
            "123456789012345678901234567890",
            "0.00000000000000000000000000000000000000000001",
            "1..2",
            "1.2.3",
            "--1",
            "1-2",
            "0x10",
            "1_000",
            "1e0000000000000000005",
            "1.17549435e-38",
            "7.0e-46",
            "8e-46",
            "00000000000000000000000000000001",
            "0.30000001192092896",
            "9007199791611905",
            "-0",
            "1e5.5",
            "١",
        ] {
            same_as_std(token);
        }
        assert!(float(&padded("nan"), 0).is_some_and(|(v, _)| v.is_nan()));
        assert!(float(&padded("-inf"), 0).is_some_and(|(v, _)| v.is_infinite()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn decimals_are_taken_as_rust_takes_them(token in "[-+]?[0-9]{0,12}(\\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})?") {
            same_as_std(&token);
        }

        #[test]
        fn every_float_survives_its_shortest_and_its_long_form(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            same_as_std(&format!("{value}"));
            same_as_std(&format!("{value:e}"));
            same_as_std(&format!("{}", f64::from(value)));
        }

        #[test]
        fn midpoints_round_to_even(bits in 0x3000_0000u32..0x5f00_0000, nudge in -1i64..=1) {
            // The decimal nearest to the middle of two neighbours, and its f64 neighbours.
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            same_as_std(&format!("{}", f64::from_bits((middle.to_bits() as i64 + nudge) as u64)));
        }

        #[test]
        fn integers_saturate(token in "[0-9]{0,40}") {
            let (value, end) = integer(&padded(&token), 0);
            prop_assert_eq!(end, token.len());
            prop_assert_eq!(value, if token.is_empty() { 0 } else { token.parse().unwrap_or(u64::MAX) });
        }
    }
}
