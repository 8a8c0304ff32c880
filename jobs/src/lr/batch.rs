//! One mini-batch: from weights of its features to what they change by.
//!
//! Invariant: everything is indexed by place among the batch's own features; no memory is asked for once the largest
//! batch was seen.

use super::Optimizer;
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
    /// What the optimizer remembers of the features, before.
    pub state: Vec<f32>,
    /// Gradient of the batch's losses, then what the weights change by.
    pub change: Vec<f32>,
    /// What the optimizer's state changes by.
    pub state_change: Vec<f32>,
    /// Place of each non-zero's feature among the batch's.
    places: Vec<u32>,
    /// All rows by those with the feature.
    dealt: Vec<f32>,
}

/// What concerns all rows as it is dealt out to those that have a feature: n / c_j by local feature.
#[derive(Debug)]
pub struct Dealt(pub Vec<f32>);

/// Bias and its optimizer's state, before; or what they change by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bias {
    pub value: f32,
    pub state: f32,
}

/// How gradients become changes.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub optimizer: Optimizer,
    pub step: f32,
    pub lambda: f32,
    /// All rows.
    pub rows: f32,
    /// What a row of a batch weighs: the short batch at a block's end must not count for more.
    pub share: f32,
}

impl Batch {
    /// Finds the features of the group's rows and sizes what is kept by feature.
    pub fn index(&mut self, indexer: &mut Indexer, group: &Group, map: &KeyMap, dealt: &Dealt) {
        let Group { block, from, to, .. } = group;
        let (features, places) = indexer.index((*from..*to).map(|i| block.row(i).indices));
        self.places.clear();
        self.places.extend_from_slice(places);
        self.keys.clear();
        match map {
            KeyMap::Identity(_) => self.keys.extend_from_slice(features),
            KeyMap::Sorted(keys) => self.keys.extend(features.iter().map(|f| keys[*f as usize])),
        }
        self.dealt.clear();
        self.dealt.extend(features.iter().map(|f| dealt.0[*f as usize]));
        let count = self.keys.len();
        for sized in [&mut self.weights, &mut self.state, &mut self.state_change] {
            sized.resize(count, 0.0);
        }
        self.change.clear();
        self.change.resize(count, 0.0);
    }

    /// Turns weights into changes, by the rows that were indexed, and gives the bias's change. `slopes` are those that the
    /// rows of the group's block had when they were last visited, for an optimizer that remembers them.
    pub fn learn(&mut self, group: &Group, bias: Bias, rule: Rule, mut slopes: Option<&mut [f32]>) -> Bias {
        let Group { block, from, to, .. } = group;
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
            let mut slope = slope(row.label, row.label * score);
            if let Some(slopes) = &mut slopes {
                slope -= std::mem::replace(&mut slopes[i], slope);
            }
            let by = rule.share * slope;
            bias_slope += by;
            match row.values {
                Some(values) => own.iter().zip(values).for_each(|(p, v)| self.change[*p as usize] += by * v),
                None => own.iter().for_each(|p| self.change[*p as usize] += by),
            }
        }
        // What is dealt to a row comes once per row that contains the feature: turn it into the batch's.
        self.state_change.fill(0.0);
        for place in &self.places {
            self.state_change[*place as usize] += rule.share;
        }
        match rule.optimizer {
            Optimizer::Sgd => self.sgd(rule),
            Optimizer::Adagrad => self.adagrad(rule),
            Optimizer::Saga => self.saga(rule),
        }
        bias_change(bias, bias_slope, rule, (to - from) as f32 * rule.share)
    }

    /// The penalty's part is taken at the new weight, so that it shrinks the weight however long the step is:
    /// w' = (w - step g) / (1 + step p).
    fn sgd(&mut self, rule: Rule) {
        let features = self.change.iter_mut().zip(&self.weights).zip(&self.dealt).zip(&self.state_change);
        for (((change, weight), dealt), rows) in features {
            *change = shrunk(rule, *change, rule.lambda * dealt * rows, *weight);
        }
    }

    fn adagrad(&mut self, rule: Rule) {
        let features = self.change.iter_mut().zip(&self.weights).zip(&self.dealt);
        let features = features.zip(&mut self.state_change).zip(&self.state);
        for ((((change, weight), dealt), rows), squares) in features {
            let gradient = *change + rule.lambda * dealt * *rows * weight;
            (*change, *rows) = adagrad(rule.step, gradient, *squares);
        }
    }

    /// The gradient here is what it changed by since the rows were last visited; that of all rows as they were then is
    /// dealt out like the penalty (Leblond, Pedregosa and Lacoste-Julien 2017).
    fn saga(&mut self, rule: Rule) {
        let features = self.change.iter_mut().zip(&self.weights).zip(&self.dealt);
        let features = features.zip(&mut self.state_change).zip(&self.state);
        for ((((change, weight), dealt), rows), sum) in features {
            let (new, part) = (*change, dealt * *rows);
            *change = shrunk(rule, new + part * (sum / rule.rows), rule.lambda * part, *weight);
            *rows = new / rule.share;
        }
    }
}

fn shrunk(rule: Rule, gradient: f32, penalty: f32, weight: f32) -> f32 {
    let shrink = rule.step * penalty;
    -(rule.step * gradient + shrink * weight) / (1.0 + shrink)
}

/// What a weight and its sum of squares change by: nothing, where the gradient is so small that its square is zero, as the
/// sum may be then.
fn adagrad(step: f32, gradient: f32, squares: f32) -> (f32, f32) {
    let square = gradient * gradient;
    // Divided at any rate: so that the compiler may use vectors.
    let change = -step * gradient / (squares + square).sqrt();
    (if square == 0.0 { 0.0 } else { change }, square)
}

/// The bias's change by its gradient over a batch that is `part` of a full one.
fn bias_change(bias: Bias, gradient: f32, rule: Rule, part: f32) -> Bias {
    match rule.optimizer {
        Optimizer::Sgd => Bias { value: -rule.step * gradient, state: 0.0 },
        Optimizer::Adagrad => {
            let (value, state) = adagrad(rule.step, gradient, bias.state);
            Bias { value, state }
        }
        Optimizer::Saga => {
            let value = -rule.step * (gradient + part * (bias.state / rule.rows));
            Bias { value, state: gradient / rule.share }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_whose_square_is_zero_changes_nothing_under_adagrad() {
        let rule = Rule { optimizer: Optimizer::Adagrad, step: 0.5, lambda: 0.0, rows: 1.0, share: 1.0 };
        let mut batch = Batch {
            weights: vec![0.0; 6],
            state: vec![0.0, 0.0, 0.0, 0.0, 4.0, 12.0],
            change: vec![0.0, 1e-23, -1e-30, 2.0, 1e-23, -2.0],
            state_change: vec![1.0; 6],
            dealt: vec![1.0; 6],
            ..Batch::default()
        };
        batch.adagrad(rule);
        assert_eq!(batch.change, [0.0, 0.0, 0.0, -0.5, 0.0, 0.25]);
        assert_eq!(batch.state_change, [0.0, 0.0, 0.0, 4.0, 0.0, 4.0]);
        assert_eq!(bias_change(Bias::default(), 1e-23, rule, 1.0), Bias::default());
        assert_eq!(bias_change(Bias::default(), -3.0, rule, 1.0), Bias { value: 0.5, state: 9.0 });
    }
}
