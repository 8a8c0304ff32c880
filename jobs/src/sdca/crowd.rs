//! How much rows have in common, from a sample: whether steps on a few of them may be taken at once.
//!
//! Invariant: what a sample reports depends on the rows and their blocks alone.

use super::loss::Loss;
use super::steps::LANES;
use flexps_common::Result;
use flexps_common::data::{Block, block::Row};
use flexps_common::metrics::Metric;
use flexps_common::plan::Progress;
use flexps_common::worker::Worker;

/// How large a row's product with another one is, beside its square and in curvatures of the loss, where rows are coherent.
const COHERENT: f64 = 0.8;

/// Of fewer rows a sample tells little, and speed matters little.
const MANY: f64 = 500.0;

/// Pairs of rows from a block, and from a slave's only one: few would miss what some rows share.
const PAIRS: usize = 16;
const ONLY_PAIRS: usize = 128;
/// Of a slave's first blocks each is looked at, of the others one in [`EVERY`].
const FIRST: usize = 32;
const EVERY: usize = 8;

/// A job's sample.
pub struct Sample {
    /// Mean |x.y| of two rows, and |x|^2.
    product: f64,
    norm2: f64,
    /// |x|^2 / (lambda n), of the rows that count most.
    q: f64,
    /// Rows of all.
    rows: f64,
}

impl Sample {
    /// The sums of [`Crowd::report`]; none where no pairs were sampled.
    pub fn of(progress: &Progress) -> Result<Option<Self>> {
        let mean = |name| progress.metric("measure", name);
        let (pairs, bias) = (mean("pairs")?, progress.scalar("bias_norm2", 0.0));
        if pairs == 0.0 {
            return Ok(None);
        }
        let (product, norm2) = (mean("meetings")? / pairs + bias, mean("norms")? / pairs + bias);
        let rows = progress.scalar("rows", 1.0);
        let q = progress.scalar("most_weight", 1.0) * norm2 / (progress.scalar("lambda", 0.0) * rows);
        Ok(Some(Self { product, norm2, q, rows }))
    }

    /// Whether steps on [`LANES`] rows may be taken at once. With c the part that the others add to a row's own curvature
    /// q, and u that of the conjugate, all steps together go (u + q (1 + c)) / (u + q) times as far as they should: they
    /// converge if that is below 2. Half of it is left for rows that are closer than the sampled ones.
    pub fn steps_at_once<L: Loss>(&self) -> bool {
        self.rows >= MANY && self.product * (LANES - 1) as f64 <= 0.5 * self.norm2 * (1.0 + L::CONVEXITY / self.q)
    }

    /// Whether what some rows say is soon what all would: they have much in common beside what each asks for itself. Of sets of
    /// 14 to 1,500 non-zeros a row and penalties of 1/n to 1/(14 n), those where it helped to begin so had 0.9 and more.
    pub fn is_coherent<L: Loss>(&self) -> bool {
        self.product * L::CONVEXITY >= COHERENT * self.q * self.norm2
    }
}

/// Sums over pairs of rows.
#[derive(Debug, Default)]
pub struct Crowd {
    products: f64,
    norms: f64,
    pairs: u64,
}

impl Crowd {
    /// Samples pairs of rows, spread over the slave's block `at`, if it is one of those that are looked at.
    pub fn sample(&mut self, at: usize, block: &Block) {
        let rows = block.rows();
        if rows < 2 || !(at < FIRST || at.is_multiple_of(EVERY)) {
            return;
        }
        // Where others follow, the first one counts no more than they do.
        let pairs = if at == 0 { ONLY_PAIRS } else { PAIRS };
        let counts = PAIRS.min(rows / 2);
        let weight = counts as f64 / pairs.min(rows / 2) as f64;
        self.pairs += counts as u64;
        for pair in 0..pairs.min(rows / 2) {
            let (one, other) = (block.row(pair * rows / (2 * pairs)), block.row(rows - 1 - pair * rows / (2 * pairs)));
            self.products += weight * product(&one, &other).abs();
            self.norms += weight * 0.5 * (one.norm2() + other.norm2());
        }
    }

    /// Reports the sums.
    pub fn report(self, worker: &mut Worker<'_>) {
        worker.report("meetings", Metric::Sum(self.products));
        worker.report("pairs", Metric::Count(self.pairs));
        worker.report("norms", Metric::Sum(self.norms));
    }
}

/// x.y
fn product(x: &Row<'_>, y: &Row<'_>) -> f64 {
    let value = |row: &Row<'_>, at: usize| row.values.map_or(1.0, |v| f64::from(v[at]));
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < x.indices.len() && j < y.indices.len() {
        let (a, b) = (x.indices[i], y.indices[j]);
        if a == b {
            sum += value(x, i) * value(y, j);
        }
        i += usize::from(a <= b);
        j += usize::from(b <= a);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::loss::{Hinge, Logistic, SquaredHinge};
    use super::*;

    #[test]
    fn rows_are_coherent_if_they_have_much_in_common_beside_what_each_asks_for_itself() {
        let common = |product, norm2, q| Sample { product, norm2, q, rows: 1e4 };
        let webspam = common(0.30, 1.0, 1.0);
        assert!(webspam.is_coherent::<Logistic>());
        assert!(!webspam.is_coherent::<SquaredHinge>() && !webspam.is_coherent::<Hinge>());
        // The same under a weaker penalty; rows of few non-zeros, and under a stronger one; long ones.
        assert!(!common(0.30, 1.0, 10.0).is_coherent::<Logistic>());
        assert!(!common(0.14, 1.0, 1.0).is_coherent::<Logistic>());
        assert!(common(0.14, 1.0, 0.33).is_coherent::<Logistic>());
        assert!(!common(6.1, 13.9, 13.9).is_coherent::<Logistic>());
    }

    #[test]
    fn products_meet_in_common_features_only() {
        let x = Row { label: 1.0, indices: &[1, 4, 9], values: Some(&[2.0, 3.0, 5.0]) };
        let ones = Row { label: 1.0, indices: &[0, 4, 8, 9], values: None };
        assert_eq!((product(&x, &ones), product(&ones, &x), product(&ones, &ones)), (8.0, 8.0, 4.0));
        assert_eq!(product(&x, &Row { indices: &[], ..ones }), 0.0);
    }
}
