//! Small sets of rows, made from a seed, as libsvm text and as numbers.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Rows with labels -1 and +1. Indices are from 0; the text counts from 1.
#[derive(Clone)]
pub struct Rows {
    pub labels: Vec<f64>,
    pub rows: Vec<Vec<(u32, f64)>>,
    pub features: usize,
}

/// A small generator of numbers (xorshift64*), so that the tests' data depend on nothing of ours.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

impl Rows {
    /// `n` rows over `features` features with `nonzeros` draws each; a hidden model and noise make the labels. Values have
    /// three decimals, so that the text holds them exactly as f32 does.
    pub fn generate(seed: u64, n: usize, features: usize, nonzeros: usize) -> Self {
        let mut random = Random::new(seed);
        let hidden: Vec<f64> = (0..features).map(|_| 4.0 * random.unit() - 2.0).collect();
        let mut made = Self { labels: Vec::new(), rows: Vec::new(), features };
        for _ in 0..n {
            let mut row = std::collections::BTreeMap::new();
            for _ in 0..nonzeros {
                // Squared: low features are frequent, high ones rare, as in text.
                let at = (random.unit().powi(2) * features as f64) as u32;
                row.insert(at, f64::from((random.below(2000) as i32 - 1000) as f32 / 1000.0));
            }
            row.retain(|_, v| *v != 0.0);
            let margin: f64 = row.iter().map(|(i, v)| hidden[*i as usize] * v).sum();
            let positive = random.unit() < 1.0 / (1.0 + (-2.0 * margin).exp());
            made.labels.push(if positive { 1.0 } else { -1.0 });
            made.rows.push(row.into_iter().collect());
        }
        made
    }

    /// From libsvm text with indices from 1; numbers as f32 holds them.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self { labels: Vec::new(), rows: Vec::new(), features: 0 };
        for line in text.lines() {
            let mut words = line.split(' ');
            let label = words.next().and_then(|word| word.parse().ok()).expect("a label");
            let pair = |word: &str| -> Option<(u32, f64)> {
                let (index, value) = word.split_once(':')?;
                Some((index.parse::<u32>().ok()? - 1, f64::from(value.parse::<f32>().ok()?)))
            };
            let row: Vec<_> = words.map(|word| pair(word).expect("INDEX:VALUE")).collect();
            parsed.features = parsed.features.max(row.last().map_or(0, |(index, _)| *index as usize + 1));
            parsed.labels.push(label);
            parsed.rows.push(row);
        }
        parsed
    }

    /// The same over the features that occur, renumbered in order.
    pub fn compact(&self) -> Self {
        let mut used: Vec<u32> = self.rows.iter().flatten().map(|(index, _)| *index).collect();
        used.sort_unstable();
        used.dedup();
        let place = |index: &u32| used.binary_search(index).expect("a used feature") as u32;
        let rows = self.rows.iter().map(|row| row.iter().map(|(index, value)| (place(index), *value)).collect());
        Self { labels: self.labels.clone(), rows: rows.collect(), features: used.len() }
    }

    /// As libsvm text, indices from 1.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (label, row) in self.labels.iter().zip(&self.rows) {
            let _ = write!(text, "{}", if *label > 0.0 { "+1" } else { "-1" });
            for (index, value) in row {
                let _ = write!(text, " {}:{value}", index + 1);
            }
            text.push('\n');
        }
        text
    }

    /// Writes the text into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.text()).expect("rows can be written");
        path
    }

    /// The first `n` rows, and the others.
    pub fn split(&self, n: usize) -> (Self, Self) {
        let part = |range: std::ops::Range<usize>| Self {
            labels: self.labels[range.clone()].to_vec(),
            rows: self.rows[range].to_vec(),
            features: self.features,
        };
        (part(0..n), part(n..self.labels.len()))
    }

    /// w·x + bias for each row.
    pub fn margins(&self, weights: &[f64], bias: f64) -> Vec<f64> {
        let weight = |i: &u32| weights.get(*i as usize).copied().unwrap_or(0.0);
        self.rows.iter().map(|row| bias + row.iter().map(|(i, v)| weight(i) * v).sum::<f64>()).collect()
    }
}
