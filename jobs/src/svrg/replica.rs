//! A worker's private replica of the model, and the stochastic step on it (Johnson and Zhang, NIPS 2013).
//!
//! With anchor a, mean gradient of the losses c at a, penalty lambda and row i of label y, one step is
//! ```text
//! u <- u - eta (c + lambda u)
//! u <- u - eta (slope(y, y u.x) - slope(y, y a.x)) x
//! ```
//! The second line touches the row's non-zeros only. The first would touch every feature; it is put off until a feature
//! is next needed: k steps of it in one go are
//! ```text
//! u <- u - eta K(k) (c + lambda u),   K(k) = 1 + q + ... + q^(k-1),   q = 1 - eta lambda
//! ```
//! (the lazy update of Mania et al. 2017, exact up to rounding). The bias b has no penalty: q = 1.
//!
//! A replica that visits a part of the rows meets a feature d times as often as the whole would, d being its density
//! there: the second line pulls d times as hard, so the first must push as hard, or a feature of few rows would hardly
//! move. Its c and lambda are then times d, K being that of d = 1: exact in c, and in lambda up to (eta lambda)^2.
//!
//! Invariant: the steps in `Slot::seen` never exceed `steps`; after [`Replica::settle`] all are equal to it.

use crate::logistic::slope;
use flexps_common::data::Block;
use flexps_common::prefetch::prefetch;
use std::ops::Range;

/// What a step needs of one feature, on a quarter of a cache line.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The replica's value u.
    value: f32,
    /// The mean gradient c of the losses at the anchor.
    mean: f32,
    /// The anchor's value a.
    anchor: f32,
    /// Steps whose first line is already in `value`; where densities count, above the code of the feature's.
    seen: u32,
}

/// How long a table of eta K(k) may get: 16 KiB, half of an L1 cache. Features that rest longer are rare ones.
const TABLE: usize = 4096;

/// Non-zeros between asking for a slot and using it. Halves the time of a pass where the slots exceed the L2 cache.
const AHEAD: usize = 48;

/// A private replica; [`Replica::anew`] makes one of it.
#[derive(Debug, Default)]
pub struct Replica {
    slots: Vec<Slot>,
    /// Where the features' densities count: what their codes mean.
    dense: Option<Densities>,
    bias: Option<Slot>,
    steps: u32,
    eta: f32,
    lambda: f32,
    rests: Rests,
}

/// The densities that a byte can say: powers of two by eighths of the exponent.
#[derive(Debug)]
struct Densities {
    /// By code.
    values: [f32; 256],
}

/// The code of 1.
const ONE: i32 = 64;
/// Bits of a code.
const CODE: u32 = 8;
/// Steps that fit beside a code.
const MOST_STEPS: u32 = u32::MAX >> CODE;

impl Densities {
    fn code(density: f32) -> u32 {
        (ONE + (8.0 * density.log2()).round() as i32).clamp(0, 255) as u32
    }

    /// The densities, none of which moves a feature beyond where the penalty alone would take it in `steps`.
    fn within(steps: u32, rests: &Rests) -> Self {
        let most = 1.0 / (f64::from(rests.long(steps)) * rests.lambda).max(f64::MIN_POSITIVE);
        let value = |code: usize| (f64::from(code as i32 - ONE) / 8.0).exp2().min(most.max(1.0)) as f32;
        Self { values: std::array::from_fn(value) }
    }
}

/// eta K(k).
#[derive(Debug, Default)]
struct Rests {
    short: Vec<f32>,
    eta: f64,
    lambda: f64,
    /// ln q, where there is one.
    log: f64,
}

impl Rests {
    fn new(eta: f64, lambda: f64) -> Self {
        let mut rests = Self { short: Vec::new(), eta, lambda, log: (-eta * lambda).ln_1p() };
        rests.short = (0..TABLE).map(|k| rests.long(k as u32)).collect();
        rests
    }

    #[inline]
    fn get(&self, k: u32) -> f32 {
        match self.short.get(k as usize) {
            Some(rest) => *rest,
            None => self.long(k),
        }
    }

    #[cold]
    fn long(&self, k: u32) -> f32 {
        let (decay, k) = (self.eta * self.lambda, f64::from(k));
        let rest = if decay == 0.0 {
            self.eta * k
        } else if decay < 1.0 {
            -(k * self.log).exp_m1() / self.lambda
        } else {
            // A step too long to be stable; it still has to be the one that was asked for.
            (1.0 - (1.0 - decay).powf(k)) / self.lambda
        };
        rest as f32
    }
}

/// Values of a model's shape that a replica starts from.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// By local feature.
    pub features: &'a [f32],
    /// 0 when there is none.
    pub bias: f32,
}

impl Replica {
    /// A replica that starts at `anchor`, where the losses' mean gradient is `sums` / `rows`, in the memory of this one.
    pub fn anew(self, anchor: Values<'_>, sums: Values<'_>, rows: f64, has_bias: bool, eta: f64, lambda: f64) -> Self {
        let slot = |(anchor, sum): (&f32, &f32)| Slot {
            value: *anchor,
            mean: (f64::from(*sum) / rows) as f32,
            anchor: *anchor,
            seen: 0,
        };
        let mut slots = self.slots;
        slots.clear();
        slots.extend(anchor.features.iter().zip(sums.features).map(slot));
        Self {
            slots,
            dense: None,
            bias: has_bias.then(|| slot((&anchor.bias, &sums.bias))),
            steps: 0,
            eta: eta as f32,
            lambda: lambda as f32,
            rests: Rests::new(eta, lambda),
        }
    }

    /// Says how much more frequent each feature is in the rows that will be visited than in all rows. At most `steps`
    /// are taken before the next restart.
    pub fn densities(&mut self, of: &[f32], steps: u64) {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.dense = Some(Densities::within(steps, &self.rests));
        self.slots.iter_mut().zip(of).for_each(|(slot, density)| slot.seen = Densities::code(*density));
    }

    /// Goes on from `values` with the same anchor. Everything must be settled.
    pub fn restart(&mut self, values: Values<'_>) {
        let code = self.code_bits();
        for (slot, value) in self.slots.iter_mut().zip(values.features) {
            (slot.value, slot.seen) = (*value, slot.seen & code);
        }
        self.steps = 0;
        if let Some(bias) = &mut self.bias {
            bias.value = values.bias;
        }
    }

    /// Counts steps from 0 again. Everything must be settled.
    fn rewind(&mut self) {
        let code = self.code_bits();
        self.slots.iter_mut().for_each(|slot| slot.seen &= code);
        self.steps = 0;
    }

    /// The bits of `Slot::seen` that are no steps.
    fn code_bits(&self) -> u32 {
        if self.dense.is_some() { (1 << CODE) - 1 } else { 0 }
    }

    /// One step on each of the rows `from..to` of a block. Panics when the block has fewer.
    ///
    /// # Safety
    /// All of the block's indices must be below the number of the replica's features.
    pub unsafe fn visit(&mut self, block: &Block, from: usize, to: usize) {
        if self.dense.is_some() {
            if u64::from(self.steps) + (to - from) as u64 > u64::from(MOST_STEPS) {
                self.settle();
                self.rewind();
            }
            // SAFETY: the caller vouches for the indices.
            unsafe { self.visit_all::<true>(block, from, to) };
        } else {
            // SAFETY: as above.
            unsafe { self.visit_all::<false>(block, from, to) };
        }
    }

    /// # Safety
    /// As for [`Replica::visit`].
    unsafe fn visit_all<const DENSE: bool>(&mut self, block: &Block, from: usize, to: usize) {
        for i in from..to {
            let range = block.offsets[i] as usize..block.offsets[i + 1] as usize;
            match &block.values {
                // SAFETY: the caller vouches for the indices; a block has as many values as indices.
                Some(values) => unsafe { self.step::<DENSE>(block, i, range, |at| *values.get_unchecked(at)) },
                // SAFETY: as above.
                None => unsafe { self.step::<DENSE>(block, i, range, |_| 1.0) },
            }
        }
    }

    /// One step on the row whose non-zeros are those of the block at `range`.
    ///
    /// # Safety
    /// `range` must lie inside the block's indices, these must be below the number of slots, and `value` must accept
    /// every place in `range`.
    #[inline(always)]
    unsafe fn step<const DENSE: bool>(
        &mut self,
        block: &Block,
        row: usize,
        range: Range<usize>,
        value: impl Fn(usize) -> f32,
    ) {
        self.steps += 1;
        // Locals: the compiler could not know that a write to a slot leaves the fields alone.
        let (steps, lambda, rests, slots) = (self.steps, self.lambda, &self.rests, &mut self.slots[..]);
        let dense = self.dense.as_ref().filter(|_| DENSE).map(|dense| &dense.values);
        let indices = &block.indices[..];
        let (mut here, mut anchor) = (0.0f32, 0.0f32);
        for at in range.clone() {
            // Consecutive rows lie side by side, so this reaches into the next one too.
            if let Some(ahead) = indices.get(at + AHEAD) {
                prefetch(slots.as_ptr().wrapping_add(*ahead as usize));
            }
            // SAFETY: the caller vouches for range and index.
            let slot = unsafe { slots.get_unchecked_mut(*indices.get_unchecked(at) as usize) };
            let value = value(at);
            let way = slot.mean + lambda * slot.value;
            match dense {
                Some(densities) => {
                    let code = slot.seen & ((1 << CODE) - 1);
                    slot.value -= densities[code as usize] * rests.get(steps - (slot.seen >> CODE)) * way;
                    slot.seen = (steps << CODE) | code;
                }
                None => {
                    slot.value -= rests.get(steps - slot.seen) * way;
                    slot.seen = steps;
                }
            }
            here += value * slot.value;
            anchor += value * slot.anchor;
        }
        if let Some(bias) = &mut self.bias {
            bias.value -= self.eta * bias.mean;
            here += bias.value;
            anchor += bias.anchor;
        }
        let label = block.labels[row];
        let by = self.eta * (slope(label, label * here) - slope(label, label * anchor));
        for at in range {
            // SAFETY: as above.
            unsafe { slots.get_unchecked_mut(*indices.get_unchecked(at) as usize).value -= by * value(at) };
        }
        if let Some(bias) = &mut self.bias {
            bias.value -= by;
        }
    }

    /// Applies all that was put off.
    pub fn settle(&mut self) {
        let all = self.rests.long(self.steps);
        for slot in &mut self.slots {
            let (seen, density) = match &self.dense {
                None => (slot.seen, 1.0),
                Some(dense) => (slot.seen >> CODE, dense.values[slot.seen as usize % dense.values.len()]),
            };
            let rest = if seen == 0 { all } else { self.rests.get(self.steps - seen) };
            slot.value -= density * rest * (slot.mean + self.lambda * slot.value);
            slot.seen = match &self.dense {
                None => self.steps,
                Some(_) => (self.steps << CODE) | (slot.seen % (1 << CODE)),
            };
        }
    }

    /// Turns `from`, by local feature, into the weighted way from there to the replica; all weights are 1 when none
    /// are given. Everything must be settled.
    pub fn deltas(&self, from: &mut [f32], weights: Option<&[f32]>) {
        match weights {
            None => from.iter_mut().zip(&self.slots).for_each(|(d, slot)| *d = slot.value - *d),
            Some(weights) => {
                for ((d, slot), weight) in from.iter_mut().zip(&self.slots).zip(weights) {
                    // A feature that the worker's rows lack was moved by the mean alone, without the curvature.
                    *d = weight * (slot.value - *d);
                }
            }
        }
    }

    /// The bias, 0 when there is none.
    pub fn bias(&self) -> f32 {
        self.bias.map_or(0.0, |slot| slot.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The two lines above as they stand, in f64, over all features at every step.
    struct Dense {
        value: Vec<f64>,
        anchor: Vec<f64>,
        mean: Vec<f64>,
        bias: Option<[f64; 3]>,
        eta: f64,
        lambda: f64,
        densities: Vec<f64>,
    }

    impl Dense {
        fn step(&mut self, label: f64, indices: &[u32], values: &[f32]) {
            for ((u, c), d) in self.value.iter_mut().zip(&self.mean).zip(&self.densities) {
                *u -= self.eta * d * (c + self.lambda * *u);
            }
            if let Some([b, _, mean]) = &mut self.bias {
                *b -= self.eta * *mean;
            }
            let dot = |w: &[f64]| indices.iter().zip(values).map(|(i, v)| w[*i as usize] * f64::from(*v)).sum::<f64>();
            let slope = |m: f64| -label / (1.0 + (label * m).exp());
            let [b, a] = self.bias.map_or([0.0; 2], |b| [b[0], b[1]]);
            let by = slope(dot(&self.value) + b) - slope(dot(&self.anchor) + a);
            for (i, v) in indices.iter().zip(values) {
                self.value[*i as usize] -= self.eta * by * f64::from(*v);
            }
            if let Some([b, _, _]) = &mut self.bias {
                *b -= self.eta * by;
            }
        }
    }

    const FEATURES: usize = 12;

    fn row() -> impl Strategy<Value = (bool, Vec<(u32, f32)>)> {
        let entry = (0..FEATURES as u32, -2.0f32..2.0);
        (any::<bool>(), prop::collection::vec(entry, 0..5)).prop_map(|(positive, mut row)| {
            row.sort_by_key(|(k, _)| *k);
            row.dedup_by_key(|(k, _)| *k);
            (positive, row)
        })
    }

    fn block(rows: &[(bool, Vec<(u32, f32)>)], ones: bool) -> Block {
        let mut offsets = vec![0];
        for (_, row) in rows {
            offsets.push(offsets[offsets.len() - 1] + row.len() as u32);
        }
        let entries = || rows.iter().flat_map(|(_, row)| row);
        Block {
            labels: rows.iter().map(|(positive, _)| if *positive { 1.0 } else { -1.0 }).collect(),
            offsets,
            indices: entries().map(|(k, _)| *k).collect(),
            values: (!ones).then(|| entries().map(|(_, v)| *v).collect()),
        }
    }

    proptest! {
        #[test]
        fn lazy_steps_equal_dense_steps_after_each_step(
            rows in prop::collection::vec(row(), 1..60),
            anchor in prop::collection::vec(-1.0f32..1.0, FEATURES + 1),
            sums in prop::collection::vec(-10.0f32..10.0, FEATURES + 1),
            eta in 0.001..0.4f64,
            lambda in prop_oneof![Just(0.0), 1e-6..1.0f64],
            has_bias in any::<bool>(),
            ones in any::<bool>(),
            codes in prop::option::of(prop::collection::vec(-16i32..16, FEATURES)),
        ) {
            // Densities are exact without a penalty, else for such steps alone.
            let lambda = if codes.is_some() { lambda.min(1e-6) } else { lambda };
            let densities: Option<Vec<f32>> = codes.map(|c| c.iter().map(|c| (*c as f32 / 8.0).exp2()).collect());
            let block = block(&rows, ones);
            let (a, s) = (
                Values { features: &anchor[1..], bias: if has_bias { anchor[0] } else { 0.0 } },
                Values { features: &sums[1..], bias: sums[0] },
            );
            let count = 100.0;
            let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let mut dense = Dense {
                value: wide(a.features),
                anchor: wide(a.features),
                mean: wide(s.features).iter().map(|v| v / count).collect(),
                bias: has_bias.then(|| [f64::from(a.bias), f64::from(a.bias), f64::from(s.bias) / count]),
                eta,
                lambda,
                densities: densities.as_ref().map_or(vec![1.0; FEATURES], |d| wide(d)),
            };
            for steps in 1..=rows.len() {
                let row = block.row(steps - 1);
                let all_ones = vec![1.0; row.indices.len()];
                dense.step(f64::from(row.label), row.indices, row.values.unwrap_or(&all_ones));
                let mut replica = Replica::default().anew(a, s, count, has_bias, eta, lambda);
                if let Some(densities) = &densities {
                    replica.densities(densities, rows.len() as u64);
                }
                // SAFETY: the rows' indices are below FEATURES.
                unsafe { replica.visit(&block, 0, steps) };
                replica.settle();
                let mut way = vec![0.0; FEATURES];
                replica.deltas(&mut way, None);
                for (fast, slow) in way.iter().zip(&dense.value) {
                    prop_assert!((f64::from(*fast) - slow).abs() < 2e-5 * (1.0 + slow.abs()), "{} {}", fast, slow);
                }
                let slow_bias = dense.bias.map_or(0.0, |b| b[0]);
                prop_assert!((f64::from(replica.bias()) - slow_bias).abs() < 2e-5 * (1.0 + slow_bias.abs()));
            }
        }
    }

    #[test]
    fn a_penalty_moves_no_feature_beyond_zero_however_dense_it_is() {
        let (a, s) = (Values { features: &[1.0], bias: 0.0 }, Values { features: &[0.0], bias: 0.0 });
        let block = block(&[(true, vec![]), (true, vec![])], false);
        let mut replica = Replica::default().anew(a, s, 2.0, false, 0.5, 1.0);
        replica.densities(&[100.0], 2);
        // SAFETY: the rows are empty.
        unsafe { replica.visit(&block, 0, 2) };
        replica.settle();
        let mut way = [0.0];
        replica.deltas(&mut way, None);
        assert!((0.0..1.0).contains(&way[0]), "{way:?}");
    }

    #[test]
    fn long_rests_go_on_where_the_table_ends() {
        for (eta, lambda) in [(0.3, 1e-6), (2.0, 0.0), (0.1, 1.0), (1.5, 1.0)] {
            let rests = Rests::new(eta, lambda);
            let (mut sum, mut power) = (0.0, 1.0);
            for k in 0..3 * TABLE as u32 {
                assert!((f64::from(rests.get(k)) - sum).abs() <= 1e-5 * sum.abs() + 1e-30, "{eta} {lambda} {k}");
                sum += eta * power;
                power *= 1.0 - eta * lambda;
            }
        }
    }
}
