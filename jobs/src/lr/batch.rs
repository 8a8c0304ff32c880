//! One mini-batch: from weights of its features to what they change by.
//!
//! Invariant: everything is indexed by place among the batch's own features; no memory is asked for once the largest
//! batch was seen.

use crate::logistic::slope;
use crate::order::Group;
use flexps_common::data::block::KeyMap;
use flexps_common::data::indexer::Indexer;
use flexps_common::ids::Key;

/// A mini-batch and its scratch memory.
#[derive(Debug, Default)]
pub struct Batch {
    /// Its distinct features as the table knows them, rising.
    pub keys: Vec<Key>,
    /// Weights of the features, before.
    pub weights: Vec<f32>,
    /// AdaGrad's sums of squares of the features, before.
    pub squares: Vec<f32>,
    /// Gradient of the batch's losses, then what the weights change by.
    pub change: Vec<f32>,
    /// What the sums of squares change by.
    pub squares_change: Vec<f32>,
    /// Place of each non-zero's feature among the batch's.
    places: Vec<u32>,
    /// Penalty of each feature.
    penalties: Vec<f32>,
}

/// The penalty as it is dealt out to rows: n lambda / c_j by local feature.
#[derive(Debug)]
pub struct Penalty(pub Vec<f32>);

/// Bias and its AdaGrad state, before; or what they change by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bias {
    pub value: f32,
    pub square: f32,
}

/// How gradients become changes.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// This step, the same for all features.
    Sgd(f32),
    /// This step over the root of a feature's sum of squares.
    Adagrad(f32),
}

impl Batch {
    /// Finds the features of the group's rows and sizes what is kept by feature.
    pub fn index(&mut self, indexer: &mut Indexer, group: &Group, map: &KeyMap, penalty: &Penalty) {
        let Group { block, from, to } = group;
        let (features, places) = indexer.index((*from..*to).map(|i| block.row(i).indices));
        self.places.clear();
        self.places.extend_from_slice(places);
        self.keys.clear();
        match map {
            KeyMap::Identity(_) => self.keys.extend_from_slice(features),
            KeyMap::Sorted(keys) => self.keys.extend(features.iter().map(|f| keys[*f as usize])),
        }
        self.penalties.clear();
        self.penalties.extend(features.iter().map(|f| penalty.0[*f as usize]));
        let count = self.keys.len();
        for sized in [&mut self.weights, &mut self.squares, &mut self.squares_change] {
            sized.resize(count, 0.0);
        }
        self.change.clear();
        self.change.resize(count, 0.0);
    }

    /// Turns weights into changes, by the rows that were indexed, and gives the bias's change.
    ///
    /// Each row weighs `share`, whatever their number: the short batch at a block's end must not count for more.
    pub fn learn(&mut self, group: &Group, share: f32, bias: Bias, rule: Rule) -> Bias {
        let Group { block, from, to } = group;
        let mut bias_slope = 0.0;
        let mut places = &self.places[..];
        for i in *from..*to {
            let row = block.row(i);
            let (own, rest) = places.split_at(row.indices.len());
            places = rest;
            let mut score = bias.value;
            match row.values {
                Some(values) => own.iter().zip(values).for_each(|(p, v)| score += v * self.weights[*p as usize]),
                None => own.iter().for_each(|p| score += self.weights[*p as usize]),
            }
            let by = share * slope(row.label, row.label * score);
            bias_slope += by;
            match row.values {
                Some(values) => own.iter().zip(values).for_each(|(p, v)| self.change[*p as usize] += by * v),
                None => own.iter().for_each(|p| self.change[*p as usize] += by),
            }
        }
        // A feature's penalty comes once per row that contains it: turn the penalty of a row into that of the batch.
        self.squares_change.fill(0.0);
        for place in &self.places {
            self.squares_change[*place as usize] += share;
        }
        match rule {
            Rule::Sgd(step) => self.sgd(step),
            Rule::Adagrad(step) => self.adagrad(step),
        }
        bias_change(bias, bias_slope, rule)
    }

    /// The penalty's part is taken at the new weight, so that it shrinks the weight however long the step is:
    /// w' = (w - step g) / (1 + step p).
    fn sgd(&mut self, step: f32) {
        let features = self.change.iter_mut().zip(&self.weights).zip(&self.penalties).zip(&self.squares_change);
        for (((change, weight), penalty), rows) in features {
            let shrink = step * penalty * rows;
            *change = -(step * *change + shrink * weight) / (1.0 + shrink);
        }
    }

    fn adagrad(&mut self, step: f32) {
        let features = self.change.iter_mut().zip(&self.weights).zip(&self.penalties);
        let features = features.zip(&mut self.squares_change).zip(&self.squares);
        for ((((change, weight), penalty), rows), squares) in features {
            let gradient = *change + penalty * *rows * weight;
            let square = gradient * gradient;
            *change = adagrad(step, gradient, squares + square);
            *rows = square;
        }
    }
}

fn adagrad(step: f32, gradient: f32, squares: f32) -> f32 {
    // A gradient of zero has a sum of squares that may be zero too; the least normal number keeps 0/0 out.
    -step * gradient / (squares.sqrt() + f32::MIN_POSITIVE)
}

fn bias_change(bias: Bias, gradient: f32, rule: Rule) -> Bias {
    match rule {
        Rule::Sgd(step) => Bias { value: -step * gradient, square: 0.0 },
        Rule::Adagrad(step) => {
            let square = gradient * gradient;
            Bias { value: adagrad(step, gradient, bias.square + square), square }
        }
    }
}
