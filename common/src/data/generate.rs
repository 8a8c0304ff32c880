//! Made-up rows that look like known sets: the same seed, shape and row number give the same row on every machine.
//!
//! Invariant: a row depends on its number alone, so any range of rows can be made by anyone; memory is one row's. Labels come
//! from a hidden sparse linear model with noise, so there is something to learn.

use super::libsvm::write_row;
use crate::error::{Error, Result};
use crate::ids::Key;
use crate::random::SplitMix64;
use std::io::Write;
use std::ops::Range;
use std::str::FromStr;

/// Which known set the rows look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Long rows of small positive values, normalised to length 1; labels -1 and +1, four of ten positive.
    Webspam,
    /// Rows of eleven ones; labels 0 and 1, few positive.
    Kdd,
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "webspam" => Ok(Self::Webspam),
            "kdd" => Ok(Self::Kdd),
            _ => Err(Error::user(format!("no rows are called '{s}'; webspam and kdd can be made"))),
        }
    }
}

/// What rows to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// What they look like.
    pub kind: Kind,
    /// How many.
    pub rows: u64,
    /// Indices are 1..=features.
    pub features: u32,
    /// Non-zeros of a row, on average (webspam) or each (kdd).
    pub nonzeros: u32,
    /// Other rows for another seed.
    pub seed: u64,
}

impl Shape {
    /// The known set's own shape, with so many rows.
    pub fn new(kind: Kind, rows: u64) -> Self {
        let (features, nonzeros) = match kind {
            Kind::Webspam => (500_000, 1500),
            Kind::Kdd => (54_686_452, 11),
        };
        Self { kind, rows, features, nonzeros, seed: 1 }
    }
}

/// Makes rows of one shape.
#[derive(Debug, Clone)]
pub struct Generator {
    shape: Shape,
    /// Rank r's feature is r * stride modulo features, so that common features lie scattered.
    stride: u64,
    /// A row is positive when its noisy score is above.
    threshold: f64,
    indices: Vec<Key>,
    /// Ranks of `indices`, sorted by index: `index << 32 | rank`.
    drawn: Vec<u64>,
    values: Vec<f32>,
    /// The last row's score under the hidden model, and its noise in units of the spread.
    score: f64,
    noise: f64,
    /// Standard deviation of the scores.
    spread: f64,
}

/// Rows from which the threshold is found.
const PROBES: u64 = 500;
/// Added to a probe's number, so that it is no row.
const PROBE_BASE: u64 = 1 << 62;

impl Generator {
    /// A generator for `shape`; an error when no row can be made.
    pub fn new(shape: Shape) -> Result<Self> {
        if shape.features == 0 || shape.nonzeros == 0 {
            return Err(Error::user("rows need at least 1 feature and 1 non-zero; give larger --features, --nonzeros"));
        }
        if shape.nonzeros > shape.features / 2 {
            return Err(Error::user(format!(
                "{} non-zeros a row of {} features are too many; at most half can be made",
                shape.nonzeros, shape.features
            )));
        }
        let features = u64::from(shape.features);
        let mut stride = ((features as f64 * 0.618_033_988) as u64).max(1);
        while gcd(stride, features) != 1 {
            stride += 1;
        }
        let mut this = Self {
            shape,
            stride,
            threshold: 0.0,
            indices: Vec::new(),
            drawn: Vec::new(),
            values: Vec::new(),
            score: 0.0,
            noise: 0.0,
            spread: 1.0,
        };
        let probe = |i| {
            this.row(PROBE_BASE + i);
            (this.score, this.noise)
        };
        let probes: Vec<(f64, f64)> = (0..PROBES).map(probe).collect();
        let mean = probes.iter().map(|p| p.0).sum::<f64>() / PROBES as f64;
        let variance = probes.iter().map(|p| (p.0 - mean).powi(2)).sum::<f64>() / PROBES as f64;
        this.spread = variance.sqrt().max(f64::MIN_POSITIVE);
        let mut scores: Vec<f64> = probes.iter().map(|(score, noise)| score / this.spread + noise).collect();
        scores.sort_by(f64::total_cmp);
        let negatives = match shape.kind {
            Kind::Webspam => 0.6,
            Kind::Kdd => 0.955,
        };
        this.threshold = scores[(negatives * PROBES as f64) as usize];
        Ok(this)
    }

    /// Makes row `number`: its label as it stands in the file, its features from 0 and their values.
    pub fn row(&mut self, number: u64) -> (f32, &[Key], Option<&[f32]>) {
        let shape = self.shape;
        let mut random = random(shape.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let count = match shape.kind {
            Kind::Webspam => ((0.5 + random.unit()) * f64::from(shape.nonzeros)).max(1.0) as usize,
            Kind::Kdd => shape.nonzeros as usize,
        };
        self.draw(&mut random, count.min(shape.features as usize));
        self.values.clear();
        let mut score = 0.0;
        for drawn in &self.drawn {
            let rank = *drawn as u32;
            let value = match shape.kind {
                Kind::Webspam => {
                    // The term's count in the document, dampened, times its rarity over the documents. The few terms
                    // that most documents hold come often in each.
                    let rank = f64::from(rank);
                    let often = (1.0 + 1e5 / (rank + 20.0).powi(2)) / (1.0 - random.unit()).sqrt();
                    (1.0 + often.ln()).powi(2) * (1.0 + 0.1 * (rank + 1.0).ln())
                }
                Kind::Kdd => 1.0,
            };
            self.values.push(value as f32);
            score += hidden_weight(rank, shape) * value;
        }
        self.score = score;
        // The sum has a standard deviation of 1/2: the noise's is a quarter of the score's own.
        self.noise = 0.5 * (random.unit() + random.unit() + random.unit() - 1.5);
        let positive = score / self.spread + self.noise > self.threshold;
        match shape.kind {
            Kind::Webspam => {
                let norm: f64 = self.values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
                let digits = if random.draw().is_multiple_of(4) { 5 } else { 4 };
                for value in &mut self.values {
                    *value = rounded(f64::from(*value) / norm, digits);
                }
                (if positive { 1.0 } else { -1.0 }, &self.indices, Some(&self.values))
            }
            Kind::Kdd => (if positive { 1.0 } else { 0.0 }, &self.indices, None),
        }
    }

    /// Writes the rows `numbers` as libsvm text, indices from 1.
    pub fn write(&mut self, numbers: Range<u64>, out: &mut impl Write) -> std::io::Result<()> {
        for number in numbers {
            let (label, indices, values) = self.row(number);
            write_row(out, label, indices, values, 1)?;
        }
        Ok(())
    }

    /// Draws `count` different features, common ones more often.
    fn draw(&mut self, random: &mut SplitMix64, count: usize) {
        let features = u64::from(self.shape.features);
        self.drawn.clear();
        // Few rounds: of at most half of the features each draws a good part of what is missing.
        while self.drawn.len() < count {
            for _ in self.drawn.len()..count {
                // The cube makes the frequency of rank r fall as r^(-2/3).
                let u = random.unit();
                let rank = ((u * u * u * features as f64) as u64).min(features - 1);
                self.drawn.push((rank * self.stride % features) << 32 | rank);
            }
            self.drawn.sort_unstable();
            self.drawn.dedup();
        }
        self.indices.clear();
        self.indices.extend(self.drawn.iter().map(|d| (d >> 32) as Key));
    }
}

/// The hidden model's weight of the feature of `rank`: common features matter, most others don't.
fn hidden_weight(rank: u32, shape: Shape) -> f64 {
    let mut random = random(shape.seed.wrapping_add(0x5151) ^ u64::from(rank).wrapping_mul(0xd6e8_feb8_6659_fd93));
    let important = match shape.kind {
        Kind::Webspam => rank < 60,
        Kind::Kdd => rank < 2000 || random.draw().is_multiple_of(10),
    };
    if important { 2.0 * random.unit() - 1.0 } else { 0.0 }
}

/// `value` with `digits` decimal digits behind its first one.
fn rounded(value: f64, digits: i32) -> f32 {
    let scale = 10f64.powi(digits - value.log10().floor() as i32);
    ((value * scale).round() / scale) as f32
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What `seed` makes; neighbouring seeds part after one step.
fn random(seed: u64) -> SplitMix64 {
    SplitMix64(SplitMix64(seed).draw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::libsvm::{Parser, Place};
    use crate::data::{Labels, Schema};
    use crate::metrics::AucSketch;

    fn parsed(shape: Shape, negative: f32) -> crate::data::libsvm::Parsed {
        let mut text = Vec::new();
        Generator::new(shape).unwrap().write(0..shape.rows, &mut text).unwrap();
        println!("{} bytes a non-zero", text.len() as f64 / (f64::from(shape.nonzeros) * shape.rows as f64));
        let schema = Schema {
            index_base: 1,
            base_detected: false,
            features: Some(shape.features.into()),
            labels: Labels::two(negative, 1.0),
            labels_detected: false,
            bad_rows: 0,
        };
        Parser::new(schema).parse(&text, &Place { path: "made", offset: 0, line: Some(1) }).unwrap()
    }

    /// Held-out AUC after some passes of plain stochastic gradient descent over four fifths of the rows.
    fn learnt(parsed: &crate::data::libsvm::Parsed, features: u32, step: f32) -> f64 {
        let mut w = vec![0f32; features as usize];
        let block = &parsed.block;
        let dot = |w: &[f32], i: usize| -> f32 {
            let row = block.row(i);
            row.indices.iter().enumerate().map(|(k, j)| w[*j as usize] * row.values.map_or(1.0, |v| v[k])).sum()
        };
        let train = block.rows() * 4 / 5;
        for _ in 0..40 {
            for i in 0..train {
                let row = block.row(i);
                let g = row.label / (1.0 + (row.label * dot(&w, i)).exp());
                for (k, j) in row.indices.iter().enumerate() {
                    w[*j as usize] += step * g * row.values.map_or(1.0, |v| v[k]);
                }
            }
        }
        let mut auc = AucSketch::default();
        for i in train..block.rows() {
            auc.add(dot(&w, i), block.row(i).label > 0.0);
        }
        auc.auc()
    }

    #[test]
    fn webspam_rows_have_their_shape_and_can_be_learnt() {
        let shape = Shape::new(Kind::Webspam, 2000);
        let parsed = parsed(shape, -1.0);
        let facts = &parsed.facts;
        assert!((0.33..0.47).contains(&(facts.positives as f64 / 2000.0)), "{facts:?}");
        assert!((1400..1600).contains(&(facts.nonzeros / 2000)), "{facts:?}");
        assert!((facts.max_norm2 - 1.0).abs() < 1e-3, "{facts:?}");
        let auc = learnt(&parsed, shape.features, 2.0);
        assert!(auc > 0.9, "held-out AUC {auc}");
    }

    #[test]
    fn kdd_rows_have_their_shape_and_can_be_learnt() {
        let shape = Shape { features: 100_000, ..Shape::new(Kind::Kdd, 30_000) };
        let parsed = parsed(shape, 0.0);
        let facts = &parsed.facts;
        assert!((0.02..0.08).contains(&(facts.positives as f64 / 30_000.0)), "{facts:?}");
        assert_eq!(facts.nonzeros, 11 * 30_000);
        assert_eq!(parsed.block.values, None);
        let auc = learnt(&parsed, shape.features, 0.02);
        assert!(auc > 0.6, "held-out AUC {auc}");
    }

    #[test]
    fn a_row_depends_on_its_number_alone() {
        let shape = Shape { nonzeros: 20, features: 1000, ..Shape::new(Kind::Webspam, 10) };
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        Generator::new(shape).unwrap().write(0..10, &mut whole).unwrap();
        let mut other = Generator::new(shape).unwrap();
        other.write(5..10, &mut parts).unwrap();
        let mut first = Vec::new();
        other.write(0..5, &mut first).unwrap();
        first.extend(parts);
        assert_eq!(whole, first);
        let mut seeded = Vec::new();
        Generator::new(Shape { seed: 2, ..shape }).unwrap().write(0..10, &mut seeded).unwrap();
        assert_ne!(whole, seeded);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (features, nonzeros) in [(0, 1), (1, 0), (10, 6)] {
            assert!(Generator::new(Shape { features, nonzeros, ..Shape::new(Kind::Kdd, 1) }).is_err());
        }
    }
}
