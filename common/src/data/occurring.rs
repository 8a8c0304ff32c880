//! About how many features occur, of all that an input may have: hashed ones leave most of their numbers unused.
//!
//! One feature in 1024, chosen by its hash, sets one of 4096 bits; how many did follows from the bits that are left (linear
//! counting: Whang, Vander-Zanden and Taylor, TODS 15(2), 1990). Invariant: the same features give the same bits, however
//! often they come, in whatever order, and whoever notes them.

use crate::ids::Key;
use crate::widest::{Work, widest};
use serde::{Deserialize, Serialize};

/// One feature in so many is noted.
const OF: u32 = 1 << 10;
/// Those whose hash lies below.
const CHOSEN: u32 = u32::MAX / OF;
/// Features that are looked at together.
const TOGETHER: usize = 32;
const WORDS: usize = 64;
const BITS: f64 = (64 * WORDS) as f64;
/// Bits that must be left for the others to tell anything.
const LEFT: u32 = 32;

/// The features that were noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occurring(Vec<u64>);

/// Spreads keys over all numbers well enough to choose some of them, a key a number.
#[inline(always)]
fn spread(key: Key) -> u32 {
    (key ^ (key >> 15)).wrapping_mul(0x9e37_79b1)
}

/// The least hash of some features.
struct Least<'a>(&'a [Key; TOGETHER]);

impl Work for Least<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        self.0.iter().fold(u32::MAX, |least, feature| least.min(spread(*feature)))
    }
}

impl Occurring {
    /// Notes features.
    pub fn note(&mut self, features: &[Key]) {
        self.0.resize(WORDS, 0);
        let (several, rest) = features.as_chunks();
        for features in several {
            // Seldom is one of them chosen.
            if widest(Least(features)) < CHOSEN {
                self.look(features);
            }
        }
        self.look(rest);
    }

    fn look(&mut self, features: &[Key]) {
        for chosen in features.iter().map(|feature| spread(*feature)).filter(|hash| *hash < CHOSEN) {
            // Once more, since what was chosen is alike in its upper bits.
            let bit = spread(spread(chosen)) >> 20;
            self.0[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    /// Adds what another one noted.
    pub fn merge(&mut self, other: &Self) {
        if other.0.is_empty() {
            return;
        }
        self.0.resize(WORDS, 0);
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to |= from);
    }

    /// How many features occur, nearly always no more: three standard deviations are added. None where nothing was noted,
    /// or so many that the bits don't tell.
    pub fn at_most(&self) -> Option<u64> {
        let zeros: u32 = self.0.iter().map(|word| word.count_zeros()).sum();
        if zeros < LEFT {
            return None;
        }
        let noted = -BITS * (f64::from(zeros) / BITS).min(1.0).ln();
        // How many are chosen varies as their number does; how many share a bit, as the paper says.
        let variance = noted + BITS * ((noted / BITS).exp() - noted / BITS - 1.0);
        Some(((noted + 3.0 * variance.sqrt() + 3.0) * f64::from(OF)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_occurs_is_no_more_than_is_said_and_not_much_less() {
        for (count, step) in
            [(100u32, 7), (20_000, 1), (319_500, 52), (1_000_000, 1), (1_000_000, 4096), (5_000_000, 3)]
        {
            let keys: Vec<Key> = (0..count).map(|i| i.wrapping_mul(step)).collect();
            let mut all = Occurring::default();
            // In parts, some twice.
            for part in keys.chunks(1000 + keys.len() / 3) {
                let mut one = Occurring::default();
                one.note(part);
                one.note(&part[part.len() / 2..]);
                all.merge(&one);
            }
            all.merge(&Occurring::default());
            let said = all.at_most().unwrap();
            let most = f64::from(count) * 1.25 + 40_000.0;
            assert!(said >= u64::from(count) && said as f64 <= most, "{said} for {count} by {step}");
        }
    }

    #[test]
    fn too_many_to_tell_and_none_noted_are_not_told() {
        assert_eq!(Occurring::default().at_most(), None);
        let mut many = Occurring::default();
        many.note(&(0..60_000_000).collect::<Vec<_>>());
        assert_eq!(many.at_most(), None);
    }
}
