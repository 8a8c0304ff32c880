//! How long Newton's method is likely to take, by the facts of the rows, and whether it goes by a matrix of all features.
//!
//! Products with the matrix grow with the root of the rows' condition; where features are so few that it is made there are none.
//! The constants were fitted to what was measured on the sets of `scripts/bench solvers`. Invariant: which way it goes depends on the
//! facts of the whole input and the flags alone, not on how many workers there are.

use super::gram;
use crate::sdca::alone;
use crate::sdca::loss::Kind;
use flexps_common::data::Facts;

/// Beyond this condition nobody knows how many products there will be.
pub const KNOWN: f64 = 1e4;

/// Nanoseconds of one thread for a non-zero of a product, while a vector stays in the second cache, and beyond that.
pub const NEAR: f64 = 6.0;
const FAR: f64 = 40.0;
/// Features of such a vector.
const CACHED: u64 = 1 << 17;
/// ... for a product of two numbers, of those that a small matrix is made and solved with.
const PAIR: f64 = 1.0;
/// ... for the vectors of products, by feature.
const VECTORS: f64 = 40.0;
/// ... for a value of a feature on its way to another slave.
pub const SENT: f64 = 10.0;
/// ... and what a stage costs beside: a product has two, an epoch of the ascent one that counts.
pub const STAGE: f64 = 1e5;

/// Of the hinge a product with the matrix takes about this part of one of all rows, since few lie between the ends of its slope; where
/// there are more rows than features it takes about so many times as many.
const BETWEEN: f64 = 0.3;
const NARROW: f64 = 3.0;
/// Of so many features the hinge's matrices cost next to nothing, whatever products would.
const FEW: u64 = 300;

/// What the estimate is made of.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Of the whole input.
    pub facts: &'a Facts,
    /// The loss.
    pub loss: Kind,
    /// The penalty's strength.
    pub lambda: f64,
    /// Of the job.
    pub tolerance: f64,
    /// Bytes that a worker may keep for values by feature.
    pub memory: u64,
    /// Workers, and the slaves on which they run.
    pub threads: f64,
    /// Slaves.
    pub slaves: f64,
}

/// How many times the digits behind the third are to be had.
pub fn digits(tolerance: f64) -> f64 {
    (1e-3 / tolerance.clamp(1e-8, 1e-1)).log10() / 3.0
}

/// Values by feature that rows can have.
pub fn features(facts: &Facts) -> f64 {
    facts.features.min(facts.nonzeros) as f64
}

impl Case<'_> {
    /// Whether steps are found by the matrix of all features. Of the hinge, each step of which makes one, products often take less: so
    /// only where features are few, where these would take longer, or where nobody knows how many there will be.
    pub fn is_by_matrix(&self) -> bool {
        if self.loss != Kind::Hinge {
            return gram::suits(self.facts, self.memory);
        }
        let alone = Self { threads: 1.0, slaves: 1.0, ..*self };
        let pays = || self.condition() > KNOWN || alone.matrices() <= alone.products();
        gram::fits(self.facts.features as usize, self.memory) && (self.facts.features <= FEW || pays())
    }

    /// Seconds from zeros.
    pub fn seconds(&self) -> f64 {
        if self.is_by_matrix() { self.matrices() } else { self.products() }
    }

    fn condition(&self) -> f64 {
        let Self { facts, loss, lambda, tolerance, threads, slaves, .. } = *self;
        alone::Case { facts, loss, lambda, tolerance, threads, slaves }.condition()
    }

    /// Whether features are no fewer than rows, so that these can nearly always be told apart.
    fn wide(&self) -> bool {
        self.facts.features >= self.facts.rows
    }

    /// Seconds by products.
    fn products(&self) -> f64 {
        // Of rows that can be told apart little is left of a squared loss, and what is left is to be had to a part of that.
        let lost = self.wide() && self.loss != Kind::Logistic;
        let hard = self.condition().min(KNOWN).powf(if lost { 1.0 } else { 0.5 });
        let hard = if self.loss == Kind::Hinge && !self.wide() { NARROW * hard } else { hard };
        // Behind as many products as there are rows or features nothing is left.
        let hard = hard.min(self.facts.rows.min(self.facts.features) as f64);
        let products = (12.0 + 8.0 * hard) * (1.0 + 0.7 * digits(self.tolerance).max(0.0));
        let each = if self.facts.features <= CACHED { NEAR } else { FAR };
        let part = if self.loss == Kind::Hinge { BETWEEN } else { 1.0 };
        let own = part * each * self.facts.nonzeros as f64 + VECTORS * self.facts.features as f64;
        let sent = if self.slaves > 1.0 { 4.0 * SENT * features(self.facts) } else { 0.0 };
        1e-9 * products * (own / self.threads + sent + 2.0 * STAGE)
    }

    /// Seconds by the matrix, some steps of other losses by one: how hard the rows are does not tell.
    fn matrices(&self) -> f64 {
        let digits = digits(self.tolerance).max(0.0);
        // Of the hinge few rows have a part in a matrix, of which each step makes one.
        let (steps, made) = match self.loss {
            Kind::Hinge => (14.0 + 19.0 * digits, 0.1),
            _ => (6.0 + 3.0 * digits, 1.0 / gram::FILLED as f64),
        };
        let making = PAIR * gram::making(self.facts) * made;
        let rows = making + 2.0 * NEAR * self.facts.nonzeros as f64;
        let own = rows / self.threads + PAIR * gram::solving(self.facts);
        let sent = if self.slaves > 1.0 { SENT * features(self.facts).powi(2) } else { 0.0 };
        1e-9 * (steps * (own + sent) + 10.0 * STAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the hinge of such rows goes by the matrix, on whatever workers.
    #[track_caller]
    fn by_matrix([rows, features, nonzeros]: [u64; 3], norm2: f64, lambda: f64, memory: u64) -> bool {
        let facts = Facts { rows, features, nonzeros, sum_norm2: norm2 * rows as f64, ..Facts::default() };
        let on = |threads: f64, slaves: f64| {
            let case = Case { facts: &facts, loss: Kind::Hinge, lambda, tolerance: 1e-4, memory, threads, slaves };
            case.is_by_matrix()
        };
        let alone = on(1.0, 1.0);
        assert_eq!([on(8.0, 1.0), on(8.0, 4.0)], [alone; 2], "the workers tell");
        alone
    }

    #[test]
    fn the_hinge_goes_by_the_matrix_where_that_is_the_faster_way_or_the_sure_one() {
        let room = 40 << 20;
        // By the matrix 5 and 8 s, by products 0.3.
        assert!(!by_matrix([900, 1390, 22_500], 25.0, 1.0 / 900.0, room));
        assert!(!by_matrix([900, 1390, 22_500], 25.0, 0.002, room));
        // With next to no penalty products lead nowhere in any time.
        assert!(by_matrix([900, 1390, 22_500], 25.0, 1e-5, room));
        // Few features, dense ones, and some that lie far off: of the last products were not there in 200 times the time.
        assert!(by_matrix([32_561, 123, 451_592], 14.0, 1.0 / 32_561.0, room));
        assert!(by_matrix([300, 300, 27_000], 30.0, 0.01, room));
        assert!(by_matrix([3000, 1000, 3_000_000], 1000.0, 1.0 / 3000.0, room));
        assert!(by_matrix([300, 600, 60_000], 2e8, 0.01, room));
        assert!(!by_matrix([300, 300, 27_000], 30.0, 0.01, 1 << 20), "no room for it");
    }
}
