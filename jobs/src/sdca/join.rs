//! Joining what workers changed on their own rows: a round of CoCoA+ (Smith et al., JMLR 2018, Algorithm 1) with the
//! length of the common way found by a line search.
//!
//! Worker k moved its copy of the weights from w by sigma' v_k, v_k = X_k d_k / (lambda n), where d_k is the change of its
//! dual variables. With v = sum v_k the dual objective at a + g d is, since f* is convex, at least
//! ```text
//! D(a) + g L - g^2 lambda/2 |v|^2,   L = -(1/n) sum (f*(-a-d) - f*(-a)) - lambda w.v
//! ```
//! which is largest at g = L / (lambda |v|^2); it is cut to at most 1, and to at least 1/K, which is safe for K workers
//! whatever they did. Of several slaves most joins are of the features alone that couple their rows ([`super::couple`]); what
//! they moved in the others waits for the next join of all. What is searched then is the way since the last such join,
//! whatever was joined between, so g may have to be anything down to 0.
//! Invariants: after a join of all features all workers hold the same weights in those that they share, and the dual objective
//! is no lower than after the one before.

use super::couple::Coupled;
use super::loss::Loss;
use super::rows::Own;
use super::visit::{MOST, Trail};
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::plan::Table;
use flexps_common::widest::{Work, widest};
use flexps_common::worker::Worker;
use std::marker::PhantomData;

/// Tables through which slaves join; one slave's workers need none.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// The weights; while slaves join these, and what each has moved of its own.
    pub weights: Table<f32>,
    /// The terms of each join's line search, by the join's number.
    pub terms: Table<f64>,
    /// How the weights moved last, while the plane of ways is searched.
    pub way: Table<f32>,
}

/// Numbers that a line search needs, summed over workers: w.v, |v|^2, change of the conjugates, the intercept's way.
pub const TERMS: usize = 4;

/// Where a joined feature, or the intercept, stands between joins of all.
#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    /// After the last join.
    at: f32,
    /// What the worker moved in joins since the last of all.
    moved: f32,
    /// What its slave did; on its first worker.
    told: f32,
}

/// A worker's side of the joins of one stage.
pub struct Joins<'a> {
    map: &'a KeyMap,
    tables: Tables,
    /// The weights after the last join of all.
    base: Vec<f32>,
    /// What the worker moved since, then what its slave's workers did.
    way: Vec<f32>,
    /// What all did, of several slaves.
    all: Vec<f32>,
    /// The features of joins between those of all, if there are any.
    coupled: Option<Coupled>,
    stands: Vec<Stand>,
    number: u32,
    /// sigma'.
    sigma: f32,
    /// The intercept after the last join of all, after the last join, and what the worker moved of it since the former.
    bias: f64,
    bias_at: f64,
    bias_moved: f64,
    /// The square of the value of the intercept's feature.
    bias_norm2: f64,
    lambda: f64,
    rows: f64,
}

impl<'a> Joins<'a> {
    /// Starts at `weights`; `first` is the number of the stage's first join.
    pub fn new(
        worker: &Worker<'_>,
        (map, tables): (&'a KeyMap, Tables),
        weights: &[f32],
        coupled: Option<Coupled>,
        first: u32,
        sigma: f32,
    ) -> Self {
        let (lambda, rows) = (worker.scalar("lambda", 0.0), worker.scalar("rows", 1.0));
        // One worker alone has nothing to join.
        let joined = if worker.place.threads == 1 { &[] } else { weights };
        let (base, way) = (joined.to_vec(), vec![0.0; joined.len()]);
        let [bias, bias_norm2] = ["bias", "bias_norm2"].map(|name| worker.scalar(name, 0.0));
        let (number, bias_at) = (first, bias);
        let mut joins = Self {
            map,
            tables,
            base,
            way,
            all: Vec::new(),
            coupled,
            stands: Vec::new(),
            number,
            sigma,
            bias,
            bias_at,
            bias_moved: 0.0,
            bias_norm2,
            lambda,
            rows,
        };
        joins.stand();
        joins
    }

    /// The coupled features begin anew where all were joined.
    fn stand(&mut self) {
        let places = self.coupled.iter().flat_map(|coupled| &coupled.places);
        self.stands.clear();
        self.stands.extend(places.map(|at| Stand { at: self.base[*at as usize], ..Stand::default() }));
    }

    /// Joins the coupled features and the intercept alone; without any of them named, nothing.
    pub fn join_coupled(&mut self, worker: &mut Worker<'_>, weights: &mut [f32], bias: &mut f32) -> Result<()> {
        let Some(coupled) = &self.coupled else { return Ok(()) };
        let leads = worker.place.local_index == 0;
        let by = 1.0 / self.sigma;
        let mut ways = Vec::with_capacity(self.stands.len());
        for (place, stand) in coupled.places.iter().zip(&mut self.stands) {
            let way = (weights[*place as usize] - stand.at) * by;
            stand.moved += way;
            ways.push(way);
        }
        worker.sum_local(&mut ways)?;
        let mut bias_way = [(f64::from(*bias) - self.bias_at) / f64::from(self.sigma)];
        self.bias_moved += bias_way[0];
        worker.sum_local(&mut bias_way)?;
        let (keys, terms) = (&coupled.keys, [0.0, 0.0, 0.0, bias_way[0]]);
        let (has_keys, has_bias) = (leads && !keys.is_empty(), leads && self.bias_norm2 > 0.0);
        if has_keys {
            self.stands.iter_mut().zip(&ways).for_each(|(stand, way)| stand.told += way);
            worker.add(self.tables.weights, keys, &ways)?;
        }
        if has_bias {
            worker.add(self.tables.terms, &[self.number], &terms)?;
        }
        worker.clock()?;
        let mut terms = vec![0.0; TERMS];
        ways.fill(0.0);
        if has_keys {
            worker.get(self.tables.weights, keys, &mut ways)?;
        }
        if has_bias {
            worker.get(self.tables.terms, &[self.number], &mut terms)?;
        }
        worker.sum_local(&mut ways)?;
        worker.sum_local(&mut terms)?;
        for ((place, stand), now) in coupled.places.iter().zip(&mut self.stands).zip(&ways) {
            (stand.at, weights[*place as usize]) = (*now, *now);
        }
        self.bias_at += terms[3];
        *bias = self.bias_at as f32;
        self.number += 1;
        Ok(())
    }

    /// Joins all; `weights`, `bias` and the dual variables of `trail`, which goes back to the last such join, become what all
    /// agreed on. The length of the common way.
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
        for (place, stand) in self.coupled.iter().flat_map(|coupled| &coupled.places).zip(&self.stands) {
            self.way[*place as usize] = stand.moved + (weights[*place as usize] - stand.at) * by;
        }
        worker.sum_local(&mut self.way)?;
        self.exchange(worker)?;
        let mut terms = self.terms(worker, widest(Grown::<L> { own, trail, loss: PhantomData }));
        terms[3] = self.bias_moved + (f64::from(*bias) - self.bias_at) / f64::from(self.sigma);
        worker.sum_local(&mut terms)?;
        self.sum_terms(worker, &mut terms)?;
        let [mut along, mut norm2, conjugates, bias_way] = terms;
        if self.bias_norm2 > 0.0 {
            // Of the intercept b the penalty pulls b - centre, and the margins that belong to the conjugates lack the centre.
            along += self.bias * bias_way / self.bias_norm2;
            norm2 += bias_way * bias_way / self.bias_norm2;
        }
        let gain = -conjugates / self.rows - self.lambda * along;
        let least = if self.coupled.is_some() { 0.0 } else { 1.0 / worker.place.threads as f64 };
        let length = if norm2 > 0.0 { (gain / (self.lambda * norm2)).clamp(least, 1.0) } else { 1.0 };
        let g = length as f32;
        let all = if worker.place.slaves == 1 { &self.way } else { &self.all };
        for ((now, base), way) in weights.iter_mut().zip(&mut self.base).zip(all) {
            *base += g * way;
            *now = *base;
        }
        self.bias += length * bias_way;
        (self.bias_at, self.bias_moved) = (self.bias, 0.0);
        *bias = self.bias as f32;
        if length < 1.0 {
            shorten(own, trail, g);
            if worker.place.slaves > 1 && worker.place.local_index == 0 {
                self.way.iter_mut().for_each(|way| *way *= g - 1.0);
                worker.add_mapped(self.tables.weights, self.map, &self.way)?;
            }
        }
        self.stand();
        trail.clear();
        self.number += 1;
        Ok(length)
    }

    /// Tells the other slaves what this one moved and they don't know of yet, and hears what all did.
    fn exchange(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        if worker.place.slaves == 1 {
            return Ok(());
        }
        let leads = worker.place.local_index == 0;
        let places = self.coupled.iter().flat_map(|coupled| &coupled.places);
        if leads {
            for (place, stand) in places.clone().zip(&self.stands) {
                self.way[*place as usize] -= stand.told;
            }
            worker.add_mapped(self.tables.weights, self.map, &self.way)?;
            for (place, stand) in places.zip(&self.stands) {
                self.way[*place as usize] += stand.told;
            }
        }
        worker.clock()?;
        self.all.clear();
        if leads {
            worker.get_mapped(self.tables.weights, self.map, &mut self.all)?;
            self.all.iter_mut().zip(&self.base).for_each(|(now, base)| *now -= base);
        } else {
            self.all.resize(self.map.len(), 0.0);
        }
        worker.sum_local(&mut self.all)
    }

    /// This worker's part of the terms: of the features, its part of what its slave moved.
    fn terms(&self, worker: &Worker<'_>, conjugates: f64) -> [f64; TERMS] {
        let part = worker.place.local_share(self.way.len());
        let all = if worker.place.slaves == 1 { &self.way } else { &self.all };
        let (mut along, mut norm2) = (0.0, 0.0);
        for ((base, way), all) in self.base[part.clone()].iter().zip(&self.way[part.clone()]).zip(&all[part]) {
            along += f64::from(*base) * f64::from(*way);
            norm2 += f64::from(*all) * f64::from(*way);
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

    /// Behind the last join: one slave's workers put what the stage changed into the table, where those of several have.
    pub fn end(mut self, worker: &mut Worker<'_>, weights: &[f32]) -> Result<()> {
        if let Some(coupled) = self.coupled {
            coupled.keep(worker);
        }
        if worker.place.slaves > 1 || worker.place.local_index > 0 {
            return Ok(());
        }
        worker.get_mapped(self.tables.weights, self.map, &mut self.way)?;
        self.way.iter_mut().zip(weights).for_each(|(start, now)| *start = now - *start);
        worker.add_mapped(self.tables.weights, self.map, &self.way)
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
            let (mut now, mut counts) = ([0.0f32; MOST], [1.0f32; MOST]);
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
