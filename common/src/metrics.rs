//! What workers report: values that merge, so that the order of workers, not of arrival, decides the bits.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One reported value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Metric {
    /// Adds up.
    Sum(f64),
    /// Adds up exactly, to 2^64 - 1 at most.
    Count(u64),
    /// The largest wins.
    Max(f64),
    /// The smallest wins.
    Min(f64),
    /// Area under the ROC curve, from a histogram of scores per class.
    Auc(AucSketch),
    /// Values of several kinds under one name: a mistake that [`Metrics::check`] tells.
    Mixed,
}

impl Metric {
    /// Merges `other` into `self`; the kinds must be equal, else it is [`Metric::Mixed`] from then on.
    pub fn merge(&mut self, other: &Metric) {
        match (self, other) {
            (Metric::Sum(a), Metric::Sum(b)) => *a += b,
            (Metric::Count(a), Metric::Count(b)) => *a = a.saturating_add(*b),
            (Metric::Max(a), Metric::Max(b)) => *a = a.max(*b),
            (Metric::Min(a), Metric::Min(b)) => *a = a.min(*b),
            (Metric::Auc(a), Metric::Auc(b)) => a.merge(b),
            (mixed, _) => *mixed = Metric::Mixed,
        }
    }

    /// The value as one number.
    pub fn value(&self) -> f64 {
        match self {
            Metric::Sum(x) | Metric::Max(x) | Metric::Min(x) => *x,
            Metric::Count(n) => *n as f64,
            Metric::Auc(sketch) => sketch.auc(),
            Metric::Mixed => f64::NAN,
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

    /// An error that names a metric which was reported as values of several kinds, if one was.
    pub fn check(&self) -> Result<()> {
        match self.0.iter().find(|(_, metric)| **metric == Metric::Mixed) {
            Some((name, _)) => Err(Error::user(format!(
                "metric {name} is reported as values of several kinds, such as a sum and a count, which can't be merged; \
                 report one kind under one name"
            ))),
            None => Ok(()),
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
    /// Bucket, negatives, positives; rising.
    buckets: Vec<(u32, u64, u64)>,
}

impl AucSketch {
    /// Low bits of an f32 score that a bucket ignores: 2^-12 of relative resolution remains, some thousand buckets for
    /// all scores between two powers of ten.
    const DROP: u32 = 11;

    /// The bucket of a score; falls and rises with it.
    fn bucket(score: f32) -> u32 {
        let bits = score.to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        ordered >> Self::DROP
    }

    /// Counts one row. For many rows, [`Scores`] is faster.
    pub fn add(&mut self, score: f32, positive: bool) {
        let (bucket, positives) = (Self::bucket(score), u64::from(positive));
        let place = self.buckets.binary_search_by_key(&bucket, |(bucket, ..)| *bucket);
        let at = place.unwrap_or_else(|at| {
            self.buckets.insert(at, (bucket, 0, 0));
            at
        });
        let (_, n, p) = &mut self.buckets[at];
        (*n, *p) = (*n + 1 - positives, *p + positives);
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &AucSketch) {
        let mut merged = Vec::with_capacity(self.buckets.len() + other.buckets.len());
        let mut theirs = other.buckets.iter().copied().peekable();
        for (bucket, mut negatives, mut positives) in std::mem::take(&mut self.buckets) {
            while let Some(before) = theirs.next_if(|(theirs, ..)| *theirs < bucket) {
                merged.push(before);
            }
            if let Some((_, n, p)) = theirs.next_if(|(theirs, ..)| *theirs == bucket) {
                negatives = negatives.saturating_add(n);
                positives = positives.saturating_add(p);
            }
            merged.push((bucket, negatives, positives));
        }
        merged.extend(theirs);
        self.buckets = merged;
    }

    /// Area under the curve in 0..=1; NaN when a class is missing.
    pub fn auc(&self) -> f64 {
        let (mut below, mut pairs, mut all_positives) = (0.0, 0.0, 0.0);
        for (_, negatives, positives) in &self.buckets {
            let (n, p) = (*negatives as f64, *positives as f64);
            pairs += p * (below + n / 2.0);
            below += n;
            all_positives += p;
        }
        pairs / (below * all_positives)
    }
}

/// Scores on their way to a sketch: a row is counted in place, in one of the few pages that scores of like size share.
#[derive(Debug, Default)]
pub struct Scores {
    /// By the upper bits of a bucket; of its lower bits, negatives and positives.
    pages: Vec<Option<Box<[[u64; 2]; Self::PAGE]>>>,
}

impl Scores {
    /// Buckets of a page: those of the scores between a power of two and the next.
    const PAGE: usize = 1 << 12;

    /// Counts one row.
    #[inline]
    pub fn add(&mut self, score: f32, positive: bool) {
        let bucket = AucSketch::bucket(score) as usize;
        let (page, at) = (bucket / Self::PAGE, bucket % Self::PAGE);
        match self.pages.get_mut(page) {
            Some(Some(page)) => page[at][usize::from(positive)] += 1,
            _ => self.begin(page)[at][usize::from(positive)] += 1,
        }
    }

    #[cold]
    fn begin(&mut self, page: usize) -> &mut [[u64; 2]; Self::PAGE] {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        self.pages[page].insert(Box::new([[0; 2]; Self::PAGE]))
    }

    /// The sketch of all rows.
    pub fn into_sketch(self) -> AucSketch {
        let mut buckets = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            let counts = page.iter().flat_map(|page| page.iter()).enumerate();
            let counted = counts.filter(|(_, counts)| **counts != [0, 0]);
            buckets.extend(counted.map(|(at, [n, p])| ((number * Self::PAGE + at) as u32, *n, *p)));
        }
        AucSketch { buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_do_not_merge_are_told_whoever_came_first() {
        let kinds =
            [Metric::Sum(1.0), Metric::Count(1), Metric::Max(1.0), Metric::Min(1.0), Metric::Auc(Default::default())];
        for one in &kinds {
            for other in &kinds {
                let (mut all, mut late) = (Metrics::default(), Metrics::default());
                all.add("rows", Metric::Count(1));
                all.add("loss", one.clone());
                late.add("loss", other.clone());
                all.merge(&late);
                all.merge(&late);
                match all.check() {
                    Ok(()) => assert_eq!(one, other),
                    Err(e) => assert!(one != other && e.message.starts_with("metric loss is reported as"), "{e}"),
                }
            }
        }
    }

    #[test]
    fn a_count_stays_at_the_largest_number_rather_than_to_begin_anew() {
        let mut metrics = Metrics::default();
        for count in [u64::MAX - 1, 3] {
            metrics.add("rows", Metric::Count(count));
        }
        assert_eq!(metrics.0["rows"], Metric::Count(u64::MAX));
    }

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

    #[test]
    fn the_sketch_of_many_rows_is_that_of_each_alone_and_its_auc_is_near_that_of_all_pairs() {
        let mut random = crate::random::SplitMix64(5);
        let mut unit = || (random.draw() >> 40) as f32 / (1 << 24) as f32;
        let (mut alone, mut together, mut scores) = (AucSketch::default(), Scores::default(), [vec![], vec![]]);
        for _ in 0..70_000 {
            let positive = unit() < 0.2;
            let score = 6.0 * unit() * unit() - 4.0 + f32::from(u8::from(positive));
            alone.add(score, positive);
            together.add(score, positive);
            scores[usize::from(positive)].push(score);
        }
        assert_eq!(together.into_sketch(), alone);
        let [negatives, positives] = &mut scores;
        negatives.sort_unstable_by(f32::total_cmp);
        let beaten: usize = positives.iter().map(|score| negatives.partition_point(|other| other < score)).sum();
        let exact = beaten as f64 / (negatives.len() * positives.len()) as f64;
        assert!((alone.auc() - exact).abs() < 2e-5, "{} against {exact}", alone.auc());
    }
}
