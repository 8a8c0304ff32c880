//! FTRL-proximal's arithmetic, and rows learnt from by it, eight non-zeros at a time.
//!
//! Invariant: a row is scored by what was known before it, and each of its features then changes once.

use crate::logistic::Judged;
use crate::sdca::fast::{Work, exp32, soft_hinge};
use flexps_common::data::Block;
use flexps_common::prefetch::prefetch;
use std::array::from_fn;
use std::ops::Range;

/// What is known of a feature: z and n.
pub type State = [f32; 2];

/// Non-zeros that are reckoned at once.
pub(super) const LANES: usize = 8;
/// How many non-zeros before it is read a state is asked for.
const AHEAD: usize = 64;

/// What turns z and n into a weight.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The step of a feature that is new.
    pub alpha: f32,
    /// The gradients after which it is no longer new.
    pub beta: f32,
    /// The L1 penalty of all rows so far.
    pub l1: f32,
    /// Their L2 penalty.
    pub l2: f32,
}

impl Rule {
    /// That of the intercept, which has no penalty.
    pub fn free(self) -> Self {
        Self { l1: 0.0, l2: 0.0, ..self }
    }

    /// The weight that z and n make.
    #[inline(always)]
    pub fn weight(&self, [z, n]: State) -> f32 {
        self.weight_by(z, n.sqrt())
    }

    #[inline(always)]
    fn weight_by(&self, z: f32, root: f32) -> f32 {
        let beyond = z.abs() - self.l1;
        // Not `max`, which would make a weight of what is no number.
        let beyond = if beyond < 0.0 { 0.0 } else { beyond };
        -beyond.copysign(z) / self.slope(root)
    }

    /// What z is divided by, when n has this root.
    #[inline(always)]
    pub(super) fn slope(&self, root: f32) -> f32 {
        (self.beta + root) * self.alpha.recip() + self.l2
    }

    /// What a gradient makes of z and n, when n has this root and both this weight.
    #[inline(always)]
    fn after(&self, [z, n]: State, root: f32, weight: f32, gradient: f32) -> State {
        let n = n + gradient * gradient;
        [z + (gradient - (n.sqrt() - root) * self.alpha.recip() * weight), n]
    }
}

/// Some non-zeros of a row and what is known of their features. Zeros fill the last one: they add nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    value: [f32; LANES],
    z: [f32; LANES],
    n: [f32; LANES],
    root: [f32; LANES],
    weight: [f32; LANES],
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

    /// Scores each row, counts it, and learns from it.
    #[inline(always)]
    fn run(self) {
        let Self { block, rows, mut places, state, mut bias, rule, scratch, judged } = self;
        let Scratch { parts, margins } = scratch;
        margins.clear();
        for i in rows {
            let row = block.row(i);
            let (own, mut ahead) = (&places[..row.indices.len()], places.get(AHEAD..).unwrap_or_default());
            places = &places[own.len()..];
            parts.resize(own.len().div_ceil(LANES), Part::default());
            for (at, (part, places)) in parts.iter_mut().zip(own.chunks(LANES)).enumerate() {
                if places.len() < LANES {
                    *part = Part::default();
                }
                match row.values {
                    Some(values) => part.value[..places.len()].copy_from_slice(&values[LANES * at..][..places.len()]),
                    None => part.value[..places.len()].fill(1.0),
                }
                for (lane, place) in places.iter().enumerate() {
                    [part.z[lane], part.n[lane]] = state[*place as usize];
                }
                let asked;
                (asked, ahead) = ahead.split_at(ahead.len().min(places.len()));
                asked.iter().for_each(|place| prefetch(state.as_ptr().wrapping_add(*place as usize)));
            }
            let mut sums = [0.0f32; LANES];
            for part in &mut *parts {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    part.root[lane] = part.n[lane].sqrt();
                    part.weight[lane] = rule.weight_by(part.z[lane], part.root[lane]);
                    *sum += part.value[lane] * part.weight[lane];
                }
            }
            let constant = bias.as_ref().map_or(0.0, |state| rule.free().weight(**state));
            let score = constant + sums.iter().sum::<f32>();
            let margin = row.label * score;
            let slope = -row.label / (1.0 + exp32(margin));
            judged.count(score, row.label);
            margins.push(margin);
            for (part, places) in parts.iter_mut().zip(own.chunks(LANES)) {
                for lane in 0..LANES {
                    let state = [part.z[lane], part.n[lane]];
                    let gradient = slope * part.value[lane];
                    [part.z[lane], part.n[lane]] = rule.after(state, part.root[lane], part.weight[lane], gradient);
                }
                for (lane, place) in places.iter().enumerate() {
                    state[*place as usize] = [part.z[lane], part.n[lane]];
                }
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
