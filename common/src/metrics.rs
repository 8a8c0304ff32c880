//! What workers report: values that merge, so that the order of workers, not of arrival, decides the bits.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One reported value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Metric {
    /// Adds up.
    Sum(f64),
    /// Adds up exactly.
    Count(u64),
    /// The largest wins.
    Max(f64),
    /// The smallest wins.
    Min(f64),
    /// Area under the ROC curve, from a histogram of scores per class.
    Auc(AucSketch),
}

impl Metric {
    /// Merges `other` into `self`; the kinds must be equal (else `self` stays).
    pub fn merge(&mut self, other: &Metric) {
        match (self, other) {
            (Metric::Sum(a), Metric::Sum(b)) => *a += b,
            (Metric::Count(a), Metric::Count(b)) => *a += b,
            (Metric::Max(a), Metric::Max(b)) => *a = a.max(*b),
            (Metric::Min(a), Metric::Min(b)) => *a = a.min(*b),
            (Metric::Auc(a), Metric::Auc(b)) => a.merge(b),
            _ => {}
        }
    }

    /// The value as one number.
    pub fn value(&self) -> f64 {
        match self {
            Metric::Sum(x) | Metric::Max(x) | Metric::Min(x) => *x,
            Metric::Count(n) => *n as f64,
            Metric::Auc(sketch) => sketch.auc(),
        }
    }
}

/// Metrics by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics(pub BTreeMap<String, Metric>);

impl Metrics {
    /// Merges one value in.
    pub fn add(&mut self, name: &str, metric: Metric) {
        match self.0.get_mut(name) {
            Some(old) => old.merge(&metric),
            None => {
                self.0.insert(name.to_owned(), metric);
            }
        }
    }

    /// Merges all of `other` in.
    pub fn merge(&mut self, other: &Metrics) {
        for (name, metric) in &other.0 {
            self.add(name, metric.clone());
        }
    }

    /// The value of `name`, if reported.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(Metric::value)
    }
}

/// A mergeable AUC: counts per class in buckets of the score's order-preserving bits, so that close scores share one.
/// Ties inside a bucket count half, as in the Mann-Whitney statistic; the error is at most half the share of pairs
/// that fall into one bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AucSketch {
    /// (negatives, positives) by bucket, sparse.
    buckets: BTreeMap<u32, (u64, u64)>,
}

impl AucSketch {
    /// Low bits of an f32 score that a bucket ignores: 2^-15 of relative resolution remains.
    const DROP: u32 = 8;

    /// The bucket of a score; falls and rises with it.
    fn bucket(score: f32) -> u32 {
        let bits = score.to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        ordered >> Self::DROP
    }

    /// Counts one row. For many rows, [`Scores`] is faster.
    pub fn add(&mut self, score: f32, positive: bool) {
        let bucket = self.buckets.entry(Self::bucket(score)).or_default();
        if positive {
            bucket.1 += 1;
        } else {
            bucket.0 += 1;
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &AucSketch) {
        for (key, (negatives, positives)) in &other.buckets {
            let bucket = self.buckets.entry(*key).or_default();
            bucket.0 += negatives;
            bucket.1 += positives;
        }
    }

    /// Area under the curve in 0..=1; NaN when a class is missing.
    pub fn auc(&self) -> f64 {
        let (mut below, mut pairs, mut all_positives) = (0.0, 0.0, 0.0);
        for (negatives, positives) in self.buckets.values() {
            let (n, p) = (*negatives as f64, *positives as f64);
            pairs += p * (below + n / 2.0);
            below += n;
            all_positives += p;
        }
        pairs / (below * all_positives)
    }
}

/// Scores on their way to a sketch: four bytes and no look-up per row.
#[derive(Debug, Default)]
pub struct Scores {
    /// Bucket, then the class in the lowest bit.
    rows: Vec<u32>,
}

impl Scores {
    /// Counts one row.
    #[inline]
    pub fn add(&mut self, score: f32, positive: bool) {
        self.rows.push(AucSketch::bucket(score) << 1 | u32::from(positive));
    }

    /// The sketch of all rows.
    pub fn into_sketch(mut self) -> AucSketch {
        self.rows.sort_unstable();
        let same_bucket = self.rows.chunk_by(|a, b| a >> 1 == b >> 1);
        let counted = same_bucket.map(|rows| {
            let positives = rows.iter().filter(|row| **row & 1 == 1).count() as u64;
            (rows[0] >> 1, (rows.len() as u64 - positives, positives))
        });
        AucSketch { buckets: counted.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_of_split_sketches_is_that_of_the_whole() {
        let scores = [(-1.0, false), (0.5, true), (0.25, false), (2.0, true), (-0.5, true)];
        let mut whole = AucSketch::default();
        let mut collected = Scores::default();
        let mut parts = [AucSketch::default(), AucSketch::default()];
        for (i, (score, positive)) in scores.iter().enumerate() {
            whole.add(*score, *positive);
            collected.add(*score, *positive);
            parts[i % 2].add(*score, *positive);
        }
        let [mut merged, second] = parts;
        merged.merge(&second);
        assert_eq!(merged, whole);
        assert_eq!(collected.into_sketch(), whole);
        // Pairs: positives 0.5, 2.0 beat both negatives, -0.5 beats one of two.
        assert!((whole.auc() - 5.0 / 6.0).abs() < 1e-12);
    }
}
