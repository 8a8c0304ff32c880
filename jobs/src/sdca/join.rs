//! Joining what workers changed on their own rows: a round of CoCoA+ (Smith et al., JMLR 2018, Algorithm 1) with the
//! length of the common way found by a line search.
//!
//! Worker k moved its copy of the weights from w by sigma' v_k, v_k = X_k d_k / (lambda n), where d_k is the change of its
//! dual variables. With v = sum v_k the dual objective at a + g d is, since f* is convex, at least
//! ```text
//! D(a) + g L - g^2 lambda/2 |v|^2,   L = -(1/n) sum (f*(-a-d) - f*(-a)) - lambda w.v
//! ```
//! which is largest at g = L / (lambda |v|^2); it is cut to at most 1, and to at least 1/K, which is safe for K workers
//! whatever they did. Invariant: after a join all workers hold the same weights in the features that they share.

use super::fast::{Work, widest};
use super::loss::Loss;
use super::rows::Own;
use super::visit::Trail;
use crate::order;
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;
use std::marker::PhantomData;

/// Tables through which slaves join; one slave's workers need none.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// The sum of all ways of the stage; zero at its start.
    pub ways: Table<f32>,
    /// The terms of each join's line search, by the join's number.
    pub terms: Table<f64>,
    /// How many slaves have rows with a feature.
    pub holders: Table<f32>,
}

/// Numbers that a line search needs, summed over workers: w.v, |v|^2, change of the conjugates, the intercept's way.
pub const TERMS: usize = 4;

/// A worker's side of the joins of one stage.
pub struct Joins<'a> {
    map: &'a KeyMap,
    tables: Tables,
    /// The weights after the last join.
    base: Vec<f32>,
    /// What the worker moved since, then what all did.
    way: Vec<f32>,
    /// All ways of the stage so far; of several slaves, on each one's first worker.
    ways: Vec<f32>,
    /// 1 / holders, with several slaves.
    shares: Vec<f32>,
    number: u32,
    /// sigma'.
    sigma: f32,
    /// The intercept after the last join, and what of it the penalty that pulls it to its centre leaves out.
    bias: f64,
    center: f64,
    /// The square of the value of the intercept's feature.
    bias_norm2: f64,
    lambda: f64,
    rows: f64,
}

/// Adds one to the holders of each feature of this slave's rows.
pub fn count_holders(worker: &mut Worker<'_>, map: &KeyMap, holders: Table<f32>) -> Result<()> {
    if worker.place.slaves == 1 || worker.place.local_index > 0 {
        return Ok(());
    }
    worker.add_mapped(holders, map, &vec![1.0; map.len()])
}

impl<'a> Joins<'a> {
    /// Starts at `weights`; `first` is the number of the stage's first join, `rows` that of all rows.
    pub fn new(
        worker: &mut Worker<'_>,
        (map, tables): (&'a KeyMap, Tables),
        weights: &[f32],
        first: u32,
        sigma: f32,
    ) -> Result<Self> {
        let (lambda, rows) = (worker.scalar("lambda", 0.0), worker.scalar("rows", 1.0));
        let (mut shares, mut ways) = (Vec::new(), Vec::new());
        if worker.place.slaves > 1 {
            worker.get_mapped(tables.holders, map, &mut shares)?;
            shares.iter_mut().for_each(|share| *share = 1.0 / share.max(1.0));
            if worker.place.local_index == 0 {
                ways = vec![0.0; map.len()];
            }
        }
        // One worker alone has nothing to join.
        let joined = if worker.place.threads == 1 { &[] } else { weights };
        let (base, way) = (joined.to_vec(), vec![0.0; joined.len()]);
        let [bias, center, bias_norm2] = ["bias", "center", "bias_norm2"].map(|name| worker.scalar(name, 0.0));
        Ok(Self { map, tables, base, way, ways, shares, number: first, sigma, bias, center, bias_norm2, lambda, rows })
    }

    /// Joins; `weights`, `bias` and the dual variables of `trail` become what all agreed on. The length of the common way.
    pub fn join<L: Loss>(
        &mut self,
        worker: &mut Worker<'_>,
        own: &mut Own,
        (weights, bias): (&mut [f32], &mut f32),
        trail: &mut Trail,
    ) -> Result<f64> {
        let by = 1.0 / self.sigma;
        for ((way, now), base) in self.way.iter_mut().zip(&*weights).zip(&self.base) {
            *way = (now - base) * by;
        }
        self.sum_ways(worker)?;
        let mut terms = self.terms(worker, widest(Grown::<L> { own, trail, loss: PhantomData }));
        terms[3] = (f64::from(*bias) - self.bias) / f64::from(self.sigma);
        worker.sum_local(&mut terms)?;
        self.sum_terms(worker, &mut terms)?;
        let [mut along, mut norm2, conjugates, bias_way] = terms;
        if self.bias_norm2 > 0.0 {
            along += (self.bias - self.center) * bias_way / self.bias_norm2;
            norm2 += bias_way * bias_way / self.bias_norm2;
        }
        let gain = -conjugates / self.rows - self.lambda * along;
        let least = 1.0 / worker.place.threads as f64;
        let length = if norm2 > 0.0 { (gain / (self.lambda * norm2)).clamp(least, 1.0) } else { 1.0 };
        let g = length as f32;
        for ((now, base), way) in weights.iter_mut().zip(&mut self.base).zip(&self.way) {
            *base += g * way;
            *now = *base;
        }
        self.bias += length * bias_way;
        *bias = self.bias as f32;
        if length < 1.0 {
            shorten(own, trail, g);
        }
        trail.clear();
        self.number += 1;
        Ok(length)
    }

    /// Sums all workers' ways.
    fn sum_ways(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        worker.sum_local(&mut self.way)?;
        if worker.place.slaves == 1 {
            return Ok(());
        }
        let leads = worker.place.local_index == 0;
        if leads {
            worker.add_mapped(self.tables.ways, self.map, &self.way)?;
        }
        worker.clock()?;
        if leads {
            worker.get_mapped(self.tables.ways, self.map, &mut self.way)?;
            for (way, before) in self.way.iter_mut().zip(&mut self.ways) {
                let now = *way;
                *way -= *before;
                *before = now;
            }
        } else {
            self.way.fill(0.0);
        }
        worker.sum_local(&mut self.way)
    }

    /// This worker's part of the terms: of the features, its part of the slave's.
    fn terms(&self, worker: &Worker<'_>, conjugates: f64) -> [f64; TERMS] {
        let (index, threads) = (worker.place.local_index, worker.place.local_threads);
        let part = self.way.len() * index / threads..self.way.len() * (index + 1) / threads;
        let pairs = self.base[part.clone()].iter().zip(&self.way[part.clone()]);
        let (mut along, mut norm2) = (0.0, 0.0);
        if self.shares.is_empty() {
            for (base, way) in pairs {
                along += f64::from(*base) * f64::from(*way);
                norm2 += f64::from(*way) * f64::from(*way);
            }
        } else {
            for ((base, way), share) in pairs.zip(&self.shares[part]) {
                let way_here = f64::from(*share) * f64::from(*way);
                along += f64::from(*base) * way_here;
                norm2 += f64::from(*way) * way_here;
            }
        }
        [along, norm2, conjugates, 0.0]
    }

    /// Sums the slaves' terms.
    fn sum_terms(&mut self, worker: &mut Worker<'_>, terms: &mut [f64; TERMS]) -> Result<()> {
        if worker.place.slaves == 1 {
            return Ok(());
        }
        let leads = worker.place.local_index == 0;
        if leads {
            worker.add(self.tables.terms, &[self.number], terms)?;
        }
        worker.clock()?;
        let mut all = vec![0.0; TERMS];
        if leads {
            worker.get(self.tables.terms, &[self.number], &mut all)?;
        }
        worker.sum_local(&mut all)?;
        terms.copy_from_slice(&all);
        Ok(())
    }

    /// Pushes what the stage changed to the table: of a feature that several slaves hold, each its share.
    pub fn push(mut self, worker: &mut Worker<'_>, table: Table<f32>, weights: &[f32]) -> Result<()> {
        if worker.place.local_index > 0 {
            return Ok(());
        }
        worker.get_mapped(table, self.map, &mut self.way)?;
        self.way.iter_mut().zip(weights).for_each(|(start, now)| *start = now - *start);
        self.way.iter_mut().zip(&self.shares).for_each(|(way, share)| *way *= share);
        worker.add_mapped(table, self.map, &self.way)
    }
}

/// How much the conjugates of the trail's rows grew: a good part of a join where rows are short.
struct Grown<'a, L> {
    own: &'a Own,
    trail: &'a Trail,
    loss: PhantomData<L>,
}

impl<L: Loss> Work for Grown<'_, L> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut grown = 0.0;
        for (i, rows, was) in self.trail.groups() {
            let held = &self.own.blocks[i];
            // Side by side, for the vector units.
            let (mut now, mut counts) = ([0.0f32; order::MOST], [1.0f32; order::MOST]);
            now.iter_mut().zip(rows).for_each(|(now, row)| *now = held.dual[*row as usize]);
            if !held.targets.is_empty() {
                counts.iter_mut().zip(rows).for_each(|(counts, row)| *counts = held.targets[*row as usize].abs());
            }
            for ((now, was), counts) in now.iter().zip(was).zip(&counts) {
                grown += f64::from(*counts) * (L::conjugate(f64::from(*now)) - L::conjugate(f64::from(*was)));
            }
        }
        grown
    }
}

/// Goes back to the fraction `g` of the way from where the trail began.
fn shorten(own: &mut Own, trail: &Trail, g: f32) {
    for (i, rows, was) in trail.groups() {
        let dual = &mut own.blocks[i].dual;
        for (row, was) in rows.iter().zip(was) {
            let now = &mut dual[*row as usize];
            *now = was + g * (*now - was);
        }
    }
}
