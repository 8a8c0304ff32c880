//! Rows learnt from one after the other, eight non-zeros at a time.
//!
//! Invariant: a row is scored by what was known before it, and each of its features then changes once; with vector code made
//! by hand as without, to the bit.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::rule::{LANES, Rule, State};
use crate::logistic::Judged;
use crate::sdca::fast::{exp32, soft_hinge};
use flexps_common::data::Block;
use flexps_common::prefetch::prefetch;
use flexps_common::widest::Work;
use std::array::from_fn;
use std::ops::Range;

/// How many non-zeros before it is read a state is asked for.
const AHEAD: usize = 64;

/// Some non-zeros of a row and what is known of their features. Zeros fill the last one: they add nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    value: [f32; LANES],
    z: [f32; LANES],
    n: [f32; LANES],
    root: [f32; LANES],
    weight: [f32; LANES],
}

impl Part {
    /// Reads what is known of the features at `places`, and gives the products with their weights.
    #[inline(always)]
    fn score(&mut self, rule: &Rule, state: &[State], places: &[u32; LANES]) -> [f32; LANES] {
        for (lane, place) in places.iter().enumerate() {
            [self.z[lane], self.n[lane]] = state[*place as usize];
        }
        let mut products = [0.0; LANES];
        for (lane, product) in products.iter_mut().enumerate() {
            self.root[lane] = self.n[lane].sqrt();
            self.weight[lane] = rule.weight_by(self.z[lane], self.root[lane]);
            *product = self.value[lane] * self.weight[lane];
        }
        products
    }

    /// Writes what the row makes of the features at `places`: as many of its own as there are.
    #[inline(always)]
    fn learn(&self, rule: &Rule, slope: f32, state: &mut [State], places: &[u32]) {
        let mut after = [State::default(); LANES];
        for (lane, after) in after.iter_mut().enumerate() {
            let before = [self.z[lane], self.n[lane]];
            *after = rule.after(before, self.root[lane], self.weight[lane], slope * self.value[lane]);
        }
        for (place, after) in places.iter().zip(after) {
            state[*place as usize] = after;
        }
    }
}

/// Memory for the parts of a row, and for all rows' margins.
#[derive(Debug, Default)]
pub struct Scratch {
    parts: Vec<Part>,
    margins: Vec<f32>,
}

/// Rows that are to be learnt from.
pub struct Batch<'a> {
    /// Where they are.
    pub block: &'a Block,
    /// Which of them.
    pub rows: Range<usize>,
    /// Of each of their non-zeros, in order, where in `state` its feature is.
    pub places: &'a [u32],
    /// What is known of features.
    pub state: &'a mut [State],
    /// What is known of the intercept, if there is one.
    pub bias: Option<&'a mut State>,
    /// The rule.
    pub rule: Rule,
    /// Memory.
    pub scratch: &'a mut Scratch,
    /// Where losses and scores are counted.
    pub judged: &'a mut Judged,
}

impl Work for Batch<'_> {
    type Output = ();

    /// Scores each row, counts it, and learns from it. Panics when a place is beyond the state.
    #[inline(always)]
    fn run(self) {
        #[cfg(target_arch = "x86_64")]
        let wide = std::arch::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        self.learn(wide);
    }
}

impl Batch<'_> {
    /// As [`Work::run`] says; by hand-made vector code if `wide`, which this machine must have then.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there is none"))]
    fn learn(self, wide: bool) {
        let Self { block, rows, mut places, state, mut bias, rule, scratch, judged } = self;
        let Scratch { parts, margins } = scratch;
        margins.clear();
        let last = places.iter().fold(0, |last, place| last.max(*place));
        assert!(places.is_empty() || (last as usize) < state.len(), "a row's feature is not in the state");
        for i in rows {
            let row = block.row(i);
            let (own, mut ahead) = (&places[..row.indices.len()], places.get(AHEAD..).unwrap_or_default());
            places = &places[own.len()..];
            let count = own.len().div_ceil(LANES);
            if parts.len() < count {
                parts.resize(count, Part::default());
            }
            let parts = &mut parts[..count];
            let mut sums = [0.0f32; LANES];
            for (at, (part, own)) in parts.iter_mut().zip(own.chunks(LANES)).enumerate() {
                let asked;
                (asked, ahead) = ahead.split_at(ahead.len().min(own.len()));
                asked.iter().for_each(|place| prefetch(state.as_ptr().wrapping_add(*place as usize)));
                let values = row.values.map(|values| &values[LANES * at..][..own.len()]);
                let places = match own.first_chunk() {
                    Some(places) => {
                        part.value = values.and_then(<[f32]>::first_chunk).copied().unwrap_or([1.0; LANES]);
                        *places
                    }
                    None => {
                        let mut places = [own[0]; LANES];
                        part.value = [0.0; LANES];
                        for (lane, place) in own.iter().enumerate() {
                            places[lane] = *place;
                            part.value[lane] = values.map_or(1.0, |values| values[lane]);
                        }
                        places
                    }
                };
                #[cfg(target_arch = "x86_64")]
                let products = if wide {
                    // SAFETY: this machine has AVX2, and all places are in the state.
                    unsafe { avx2::score(part, &rule, state, &places) }
                } else {
                    part.score(&rule, state, &places)
                };
                #[cfg(not(target_arch = "x86_64"))]
                let products = part.score(&rule, state, &places);
                for (sum, product) in sums.iter_mut().zip(products) {
                    *sum += product;
                }
            }
            let constant = bias.as_ref().map_or(0.0, |state| rule.free().weight(**state));
            let score = constant + total(sums);
            let margin = row.label * score;
            let slope = -row.label / (1.0 + exp32(margin));
            judged.count(score, row.label);
            margins.push(margin);
            for (part, places) in parts.iter().zip(own.chunks(LANES)) {
                #[cfg(target_arch = "x86_64")]
                if wide {
                    // SAFETY: as above.
                    unsafe { avx2::learn(part, &rule, slope, state, places) }
                    continue;
                }
                part.learn(&rule, slope, state, places);
            }
            if let Some(state) = bias.as_deref_mut() {
                *state = rule.free().after(*state, state[1].sqrt(), constant, slope);
            }
        }
        // What is no number must not look like a loss.
        if margins.iter().any(|margin| margin.is_nan()) {
            judged.loss = f64::NAN;
        }
        // Apart from the steps, several at a time.
        let (several, last) = margins.as_chunks::<LANES>();
        for margins in several {
            let losses: [f64; LANES] = from_fn(|lane| soft_hinge(f64::from(margins[lane])));
            judged.loss += losses.iter().sum::<f64>();
        }
        for margin in last {
            judged.loss += soft_hinge(f64::from(*margin));
        }
    }
}

/// The sum, by halves: each addition waits for the one before it.
#[inline(always)]
fn total(sums: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Rows;

    #[test]
    fn vector_code_learns_to_the_bit_what_the_formulas_do() {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            for seed in 0..20 {
                let mut block = Rows { rows: 50, features: 90, ..Rows::sparse(seed) }.blocks(1).remove(0);
                if seed % 4 == 3 {
                    block.values = None;
                }
                let l1 = if seed % 2 == 0 { 0.0 } else { 0.02 };
                let rule = Rule { alpha: 0.4, beta: 0.3, l1, l2: 0.1, constant: 0.8 };
                let learnt = |wide| {
                    let (mut state, mut bias) = (vec![[0.0f32; 2]; 90], [0.0f32; 2]);
                    let (mut scratch, mut judged) = (Scratch::default(), Judged::default());
                    let batch = Batch {
                        block: &block,
                        rows: 0..block.rows(),
                        places: &block.indices,
                        state: &mut state,
                        bias: Some(&mut bias),
                        rule,
                        scratch: &mut scratch,
                        judged: &mut judged,
                    };
                    batch.learn(wide);
                    (state, bias, judged.loss, judged.right, scratch.margins)
                };
                let (by_hand, plain) = (learnt(true), learnt(false));
                assert_eq!(by_hand, plain, "{seed}");
                assert!(plain.2 > 0.0 && plain.0.iter().filter(|[_, n]| *n > 0.0).count() > 40);
            }
        }
    }

    #[test]
    fn what_is_no_number_is_none_in_the_loss() {
        let block = Rows { rows: 5, features: 9, ..Rows::sparse(1) }.blocks(1).remove(0);
        for wide in [false, cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("avx2")] {
            let (mut scratch, mut judged) = (Scratch::default(), Judged::default());
            let (mut state, rule) =
                (vec![[f32::NAN, 1.0]; 9], Rule { alpha: 0.4, beta: 0.3, l1: 0.1, l2: 0.1, constant: 0.8 });
            let (places, scratch, judged_) = (&block.indices[..], &mut scratch, &mut judged);
            Batch { block: &block, rows: 0..5, places, state: &mut state, bias: None, rule, scratch, judged: judged_ }
                .learn(wide);
            assert!(judged.loss.is_nan());
        }
    }
}
