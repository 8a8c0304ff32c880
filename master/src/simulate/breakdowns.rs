//! Slaves that break down and come back: when, by distribution.
//!
//! Invariant: the times of a slave depend on the seed and the slave alone, so that every policy meets the same ones.

use super::luck::Dice;
use flexps_common::{Error, Result};
use std::str::FromStr;
use std::time::Duration;

/// Breakdowns of a slave after which it holds for certain, so that every simulation ends.
pub const MOST: u32 = 1_000;

/// When slaves break down, and for how long. As text `exponential:MEAN:REPAIR` or `weibull:SCALE:SHAPE:REPAIR`, times in
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breakdowns {
    /// Seconds by which 63 % of slaves have broken down: of an exponential distribution, its mean.
    pub scale: f64,
    /// Of the Weibull distribution (Weibull 1951): below 1 the young break down most, above 1 the old; 1 is exponential.
    pub shape: f64,
    /// How long a slave is then away.
    pub repair: Duration,
}

impl Breakdowns {
    /// How long a slave holds from when it joined, for the `count`th time from 0.
    pub fn holds(&self, seed: u64, slave: u32, count: u32) -> Duration {
        // No job has this number.
        let mut dice = Dice::new([seed, u64::MAX, u64::from(slave), u64::from(count)]);
        let lasts = self.scale * (-(1.0 - dice.uniform()).ln()).powf(1.0 / self.shape);
        Duration::try_from_secs_f64(lasts).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Breakdowns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let above_zero = |text: &str| text.parse::<f64>().ok().filter(|x| *x > 0.0 && *x <= 1e9);
        let read = || {
            let (scale, shape, repair) = match parts.as_slice() {
                ["exponential", mean, repair] => (above_zero(mean)?, 1.0, repair),
                ["weibull", scale, shape, repair] => (above_zero(scale)?, above_zero(shape)?, repair),
                _ => return None,
            };
            // What shapes beyond these would draw is no time.
            let repair = Duration::try_from_secs_f64(above_zero(repair)?).ok()?;
            (0.1..=100.0).contains(&shape).then_some(Self { scale, shape, repair })
        };
        read().ok_or_else(|| {
            Error::user(format!(
                "'{text}' says not when slaves break down; give exponential:MEAN:REPAIR or weibull:SCALE:SHAPE:REPAIR in \
                 seconds above 0, SHAPE from 0.1 to 100, e.g. exponential:3600:120"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slaves_hold_as_long_as_the_distribution_says() {
        for (text, mean) in [("exponential:100:1", 100.0), ("weibull:100:2:1", 88.62), ("weibull:100:0.5:1", 200.0)] {
            let breakdowns: Breakdowns = text.parse().unwrap();
            let drawn = (0..20_000).map(|count| breakdowns.holds(7, 3, count).as_secs_f64());
            let found = drawn.sum::<f64>() / 20_000.0;
            assert!((found - mean).abs() < 0.06 * mean, "{text}: {found}");
        }
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for bad in
            ["", "normal:1:1", "exponential:0:1", "exponential:5", "weibull:5:0:1", "weibull:5:1:-1", "exponential:x:1"]
        {
            assert!(bad.parse::<Breakdowns>().is_err_and(|e| e.message.contains("exponential:MEAN:REPAIR")), "{bad}");
        }
    }
}
