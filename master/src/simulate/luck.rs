//! What goes otherwise than planned: jitter, stragglers, failures.
//!
//! Invariant: a draw depends on the seed, the job, the stage and the try, never on when or where it is made.

use super::Breakdowns;
use flexps_common::random::SplitMix64;
use std::time::Duration;

/// How durations vary.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Luck {
    /// Standard deviation of the logarithm of a duration's factor (log-normal with median 1).
    pub jitter: f64,
    /// How likely a run is a straggler.
    pub straggler_probability: f64,
    /// How many times as long it then takes.
    pub straggler_slowdown: f64,
    /// How likely a run fails; it does so at a moment anywhere in it, and the stage runs again.
    pub failure_probability: f64,
    /// When slaves break down, if they do; what ran there runs again.
    pub breakdowns: Option<Breakdowns>,
}

/// A run's luck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// How long it runs.
    pub lasts: Duration,
    /// Whether it then fails.
    pub fails: bool,
}

/// Tries after which a stage has luck for certain, so that every simulation ends.
const TRIES: u32 = 20;

impl Luck {
    /// What becomes of a run that would take `planned`.
    pub fn draw(&self, planned: Duration, seed: u64, job: usize, stage: u32, attempt: u32) -> Drawn {
        if *self == Self::default() {
            return Drawn { lasts: planned, fails: false };
        }
        let mut dice = Dice::new([seed, job as u64, u64::from(stage), u64::from(attempt)]);
        let mut factor = (self.jitter * dice.normal()).exp();
        if dice.uniform() < self.straggler_probability {
            factor *= self.straggler_slowdown;
        }
        let fails = attempt < TRIES && dice.uniform() < self.failure_probability;
        if fails {
            factor *= dice.uniform();
        }
        let lasts = Duration::try_from_secs_f64(planned.as_secs_f64() * factor).unwrap_or(Duration::MAX);
        Drawn { lasts, fails }
    }
}

/// The random numbers of one try.
pub(super) struct Dice(SplitMix64);

impl Dice {
    pub fn new(parts: [u64; 4]) -> Self {
        let mut dice = SplitMix64(0x9E37_79B9_7F4A_7C15);
        for part in parts {
            dice.0 ^= part;
            dice.0 = dice.draw();
        }
        Self(dice)
    }

    /// In 0..1.
    pub fn uniform(&mut self) -> f64 {
        self.0.unit()
    }

    /// Box and Muller 1958.
    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}
