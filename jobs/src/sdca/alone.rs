//! Whether one worker of each slave makes the ascent alone while the others wait: how many joins an epoch has, what they
//! cost, and what they are worth.
//!
//! Each of t workers takes the t-th part of an epoch's steps; but then there are the joins, and more epochs, since what one
//! learns the others learn only at the next join, and what two of them learnt alike is taken back there. Measured to 1e-3: of
//! the hinge, with 64 joins an epoch, 2, 4 and 8 workers took 1.3, 1.9 and 3.4 times the epochs of one; of its square, with
//! 4 joins, 2, 8 and 29 times; of the logistic loss 1 to 1.4 times on two, by the rows' condition, and 2.5 on few rows of
//! much in common. Invariant: the choice depends on facts of the whole input, the flags and the number of workers alone.

use super::Flags;
use super::loss::{Kind, with_loss};
use super::subspace;
use crate::parts;
use flexps_common::data::Facts;

/// Least joins of an epoch; of several slaves' workers, where all features are joined each time, always so many.
pub const JOINS: u32 = 4;
/// ... and where all but the last are of coupled features alone, which cost next to nothing; the latter for tolerances
/// below 1e-3: to 1e-5, small rows on four slaves took 42 epochs with 8 joins, 19 with 16 and 8 with 64.
pub const COUPLED: [u32; 2] = [8, 64];
/// Joins of an epoch of one slave's workers, where nothing else is said. Behind the third epoch of two, four joins left 1.4 to
/// 2.1 times the gap that eight did on four sets of coherent rows, twelve 0.7 to 1.2 times.
const USUAL: u32 = 8;
/// A join takes about as long as so many non-zeros by feature: in all they may take an epoch's time.
const JOIN: u64 = 4;
/// ... and of the hinge so many epochs' time, since nearly as many times fewer epochs are needed.
const KINKED: u64 = 16;

/// Tolerances for which single precision does not judge well enough.
pub const WIDE: f64 = 1e-5;

/// Nanoseconds of a step, by non-zero and by row, and of a join, by feature and for who waits for whom.
const STEP: f64 = 3.0;
const ROW: f64 = 20.0;
const MERGE: f64 = 5.0;
const MEET: f64 = 4e4;

/// How many more epochs each further worker costs: of the hinge, and by condition of other losses.
const MORE_KINKED: f64 = 0.35;
const MORE: f64 = 0.15;

/// What the choice is made of.
pub struct Case<'a> {
    /// Of the whole input.
    pub facts: &'a Facts,
    /// The loss.
    pub loss: Kind,
    /// The penalty's strength.
    pub lambda: f64,
    /// Of the job.
    pub tolerance: f64,
    /// Workers, and the slaves on which they run.
    pub threads: f64,
    /// Slaves.
    pub slaves: f64,
}

impl Case<'_> {
    /// How much rows ask for beside what the penalty holds back.
    pub fn condition(&self) -> f64 {
        let rows = self.facts.rows.max(1) as f64;
        self.loss.curvature() * self.facts.sum_norm2 / rows / (self.lambda * rows)
    }

    /// Whether the plane of a sweep's way and the one before is searched, once epochs prove to be many.
    pub fn searches(&self) -> bool {
        with_loss!(self.loss, L => subspace::suits::<L>(self.slaves as usize))
    }

    /// Whether one worker of each slave is to make the ascent. Who says how workers join has them join.
    pub fn suits(&self, flags: Flags) -> bool {
        let t = self.threads / self.slaves.max(1.0);
        if t <= 1.0 || flags != Flags::default() {
            return false;
        }
        let Facts { rows, nonzeros, .. } = *self.facts;
        let features = parts::features(self.facts);
        let kinked = with_loss!(self.loss, L => is_kinked::<L>());
        let joins = joins(kinked, self.tolerance, nonzeros / self.threads.max(1.0) as u64, features);
        let epoch = (STEP * nonzeros as f64 + ROW * rows as f64) / self.slaves.max(1.0);
        let join = f64::from(joins) * (MERGE * features as f64 + MEET);
        let more = 1.0 + (t - 1.0) * if kinked { MORE_KINKED } else { MORE * self.condition() };
        more * (epoch / t + join) >= epoch
    }
}

/// Whether nothing holds the dual of a loss back between its ends.
pub fn is_kinked<L: super::loss::Loss>() -> bool {
    L::CONVEXITY == 0.0
}

/// Joins of an epoch of one slave's workers, each with `nonzeros`. Where they must agree, in features that many rows have, on
/// what none of them finds in its own rows alone, it is joins that bring them nearer, not epochs; the tighter the tolerance,
/// the more that is what is left. Of the hinge it is from the start.
pub fn joins(kinked: bool, tolerance: f64, nonzeros: u64, features: u64) -> u32 {
    let wanted = match tolerance {
        _ if kinked => 64,
        tight if tight < WIDE => 64,
        middle if middle < 1e-3 => 16,
        _ => USUAL,
    };
    let room = if kinked { KINKED * JOIN } else { JOIN };
    u64::from(wanted).min(room * nonzeros / features.max(1)).max(u64::from(JOINS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measured_set_is_ascended_by_as_many_as_are_faster() {
        let facts = |rows, features, nonzeros, k: f64| Facts {
            rows,
            features,
            nonzeros,
            sum_norm2: k * rows as f64,
            ..Facts::default()
        };
        let alone = |facts: &Facts, loss, threads, flags| {
            let lambda = 1.0 / facts.rows as f64;
            Case { facts, loss, lambda, tolerance: 1e-3, threads, slaves: 1.0 }.suits(flags)
        };
        let webspam = facts(20_000, 500_000, 30_000_000, 1.0);
        let kdd = facts(2_000_000, 1_000_000, 22_000_000, 11.0);
        let small = facts(200_000, 100_000, 8_000_000, 1.0);
        let farm_ads = facts(4143, 54_877, 817_141, 197.0);
        let a9a = facts(32_561, 123, 451_592, 13.9);
        let trigrams = Facts { occurring: 365_000, ..facts(4836, 16_777_216, 5_338_772, 1.0) };
        let sets =
            [(&webspam, false), (&kdd, true), (&small, false), (&farm_ads, true), (&trigrams, true), (&a9a, true)];
        for (facts, logistic) in sets {
            assert_eq!(alone(facts, Kind::Logistic, 2.0, Flags::default()), logistic, "{facts:?}");
            for loss in [Kind::Hinge, Kind::SquaredHinge] {
                assert!(alone(facts, loss, 2.0, Flags::default()), "{facts:?}");
                // There is no one to wait for, or the flags are about all.
                assert!(!alone(facts, loss, 1.0, Flags::default()));
                assert!(!alone(facts, loss, 2.0, Flags { joins: Some(4), overlap: None }));
            }
        }
        // Joins that cost nothing beside the steps.
        let many = facts(1_000_000_000, 1_000_000, 100_000_000_000, 1.0);
        assert!(
            !alone(&many, Kind::Hinge, 8.0, Flags::default())
                && alone(&many, Kind::SquaredHinge, 8.0, Flags::default())
        );
    }
}
