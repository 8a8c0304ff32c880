//! The two stages of an epoch: the ascent, in which every worker takes a dual step on each of its rows, and the
//! certificate, which tells how far from the optimum the weights are at most.
//!
//! With margins m = y w.x the duality gap is
//! ```text
//! P(w) - D(a) = (1/n) sum (f(m) + f*(-a) + a m) + lambda/2 |w - w(a)|^2
//! ```
//! where w(a) = X a / (lambda n); its last term is what rounding takes of steps ([`super::renew`]). A row of weight c has c
//! times the loss and enters w(a) with c a. How an intercept is dealt with stands in [`super::bias`]. Invariant: P(w) - P(optimum) is
//! at most the gap, since D never exceeds the optimum's P.

use super::alone::{self, WIDE};
use super::bias;
use super::couple::{self, Coupled};
use super::enough::{self, Enough};
use super::join::{Joins, Tables};
use super::loss::Loss;
use super::rows::{Own, targets_or_labels};
use super::steps::{Met, Scale};
use super::subspace::Subspace;
use super::visit::{Trail, Visit};
use crate::logistic::{dot_unchecked, dot_wide_unchecked};
use crate::objective::is_margin_right;
use crate::parts::{Part, Parts, Rows};
use flexps_common::Result;
use flexps_common::data::Facts;
use flexps_common::metrics::Metric;
use flexps_common::widest::{Work, widest};
use flexps_common::worker::Worker;
use std::marker::PhantomData;

/// sigma' of t workers that join: this and half of t. Of 2, 4 and 8 it took the fewest epochs, or nearly, of 3 tried each; the
/// line search mends what is too little.
const OVERLAP: f64 = 0.3;

/// Stands for the margin of a row that is held out, which counts nothing: no right one.
const HELD_OUT: f64 = -1.0;

/// Most sweeps of an epoch.
const SWEEPS: usize = 16;

/// What the stages need of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    /// The rows.
    pub rows: Rows,
    /// What is learned, and through which slaves join.
    pub tables: Tables,
    /// Joins of an epoch when several workers run, if given.
    pub joins: Option<u32>,
    /// Seed of the order.
    pub seed: u64,
    /// Of the job.
    pub tolerance: f64,
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    loss: f64,
    gap: f64,
    right: u64,
    rows: u64,
    /// What the intercept's part of the certificate needs: by how much dual variables were lowered, times the rows' norms.
    lowered: f64,
    /// Dual variables times margins, without the intercept.
    along: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.gap += other.gap;
        self.right += other.right;
        self.rows += other.rows;
        self.lowered += other.lowered;
        self.along += other.along;
    }
}

/// What rows with these margins and dual variables add to the sums.
struct Judge<'a, L> {
    margins: &'a [f64],
    dual: &'a [f32],
    /// What rows count, with the sign of what they should score.
    targets: &'a [f32],
    /// What the dual variables of negative and of positive rows are multiplied by.
    by: [f64; 2],
    /// The intercept in the margins.
    bias: f64,
    loss: PhantomData<L>,
}

impl<L: Loss> Judge<'_, L> {
    /// A row's loss, its part of the gap, and its dual variable times its margin without the intercept.
    #[inline(always)]
    fn row(&self, m: f64, dual: f32, target: f32) -> (f64, f64, f64) {
        let (sign, by) = if target > 0.0 { (1.0, self.by[1]) } else { (-1.0, self.by[0]) };
        let (dual, loss, counts) = (f64::from(dual), L::loss(m), f64::from(target.abs()));
        let a = dual * by;
        (counts * loss, counts * (loss + L::conjugate(a) + a * m), counts * dual * (m - sign * self.bias))
    }
}

impl<L: Loss> Work for Judge<'_, L> {
    type Output = Sums;

    #[inline(always)]
    fn run(self) -> Sums {
        const LANES: usize = 8;
        let (mut loss, mut gap, mut along, mut right) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0u64; LANES]);
        let (margins, dual) = (self.margins.chunks_exact(LANES), self.dual.chunks_exact(LANES));
        let targets = self.targets.chunks_exact(LANES);
        let rest = margins.remainder().iter().zip(dual.remainder()).zip(targets.remainder());
        for ((margins, dual), targets) in margins.zip(dual).zip(targets) {
            for lane in 0..LANES {
                let (f, apart, product) = self.row(margins[lane], dual[lane], targets[lane]);
                loss[lane] += f;
                gap[lane] += apart;
                along[lane] += product;
                right[lane] += u64::from(is_margin_right(margins[lane], targets[lane]));
            }
        }
        for ((m, a), target) in rest {
            let (f, apart, product) = self.row(*m, *a, *target);
            loss[0] += f;
            gap[0] += apart;
            along[0] += product;
            right[0] += u64::from(is_margin_right(*m, *target));
        }
        let [loss, gap, along] = [loss, gap, along].map(|lanes| lanes.iter().sum());
        Sums { loss, gap, along, right: right.iter().sum(), ..Sums::default() }
    }
}

impl Stages {
    /// One epoch. Reports `visited_gap`, the rows' parts of the gap as they were met in the last of `sweeps` sweeps, of which the
    /// part `swept` was made, as if that were all,
    /// `visited_loss`, the losses of `sampled` rows then, `visited`, on how many steps were taken, and `scale`, the least length of a join; with an intercept also `negative` and `positive`, the
    /// sums of dual variables by the sign of their rows.
    pub fn ascend<L: Loss>(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut parts = Parts::new(worker, self.rows)?;
        let met = match parts.whole(worker)? {
            Some(part) => self.ascend_whole::<L>(worker, &part)?,
            None => {
                let mut own = Own::take(worker, self.rows.input, 0)?;
                let (mut met, mut bias) = (Met::default(), worker.scalar("bias", 0.0) as f32);
                while let Some(part) = parts.next(worker)? {
                    met.add(&self.ascend_part::<L>(worker, &mut own, &mut bias, &part)?);
                }
                bias::report(worker, &own);
                own.put(worker)?;
                worker.report("sweeps", Metric::Min(1.0));
                met
            }
        };
        worker.report("visited_gap", Metric::Sum(met.gap));
        worker.report("visited_loss", Metric::Sum(met.loss));
        worker.report("sampled", Metric::Count(met.sampled));
        Ok(())
    }

    /// What steps are multiplied by under `sigma`.
    fn scale(worker: &Worker<'_>, sigma: f64) -> Scale {
        let (lambda, all_rows) = (worker.scalar("lambda", 0.0), worker.scalar("rows", 1.0));
        let weight = (sigma / (lambda * all_rows)) as f32;
        Scale {
            weights: weight,
            bias: worker.scalar("bias_norm2", 0.0) as f32,
            at_once: worker.scalar("at_once", 0.0) > 0.0,
            lift: 1.0,
        }
    }

    /// Joins of an epoch, each `whole`, of all features, or all but the last of those that couple rows.
    fn joins<L: Loss>(&self, worker: &Worker<'_>, facts: &Facts, features: usize, whole: bool) -> u32 {
        let nonzeros = facts.nonzeros / worker.place.threads as u64;
        match self.joins {
            Some(given) => given,
            None if worker.place.slaves == 1 => {
                alone::joins(alone::is_kinked::<L>(), self.tolerance, nonzeros, features as u64)
            }
            None if whole => alone::JOINS,
            None => alone::COUPLED[usize::from(self.tolerance < 1e-3)],
        }
    }

    /// An epoch over all of the worker's rows: one sweep with joins, or, of one worker alone, as many sweeps as take no more
    /// steps than there are rows.
    fn ascend_whole<L: Loss>(&self, worker: &mut Worker<'_>, part: &Part) -> Result<Met> {
        let map = &part.map;
        let facts = worker.facts(self.rows.input)?;
        let mut own = Own::take(worker, self.rows.input, map.len())?;
        // Those of one worker alone are all that are trained on.
        let rows = worker.scalar("rows", 0.0) as usize;
        let mut weights = Vec::new();
        worker.get_mapped(self.tables.weights, map, &mut weights)?;
        let alone = worker.place.threads == 1;
        let whole = worker.place.slaves == 1 || worker.scalar("whole", 0.0) > 0.0 || !couple::pays(&facts);
        let coupled = if whole { None } else { Some(Coupled::find::<L>(worker, &mut own, part, &facts)?) };
        let usual = OVERLAP + worker.place.threads as f64 / 2.0;
        let sigma = if alone { 1.0 } else { worker.scalar("overlap", usual) };
        let scale = Self::scale(worker, sigma);
        let mut visit = Visit::new(worker, part, &facts, self.seed, worker.scalar("bias", 0.0) as f32);
        let is = |name| worker.scalar(name, 0.0) > 0.0;
        visit.lifts = is("coherent") && is("fresh") && !is("start_scale");
        let count = self.joins::<L>(worker, &facts, map.len(), whole);
        // Numbers of joins never meet, also where an epoch has fewer of them than those before.
        let first = worker.place.epoch as u32 * self.joins.unwrap_or(alone::COUPLED[1]);
        let mut joins = Joins::new(worker, (map, self.tables), &weights, coupled, first, sigma as f32);
        let mut search = Subspace::new::<L>(worker, &mut own, part, &facts, self.tables.way, self.tolerance)?;
        let enough = Enough::new(worker).filter(|_| !search.is_on());
        let (mut sweeps, mut swept) = (0, 1.0);
        while sweeps == 0 || alone && visit.visited * (sweeps + 1) / sweeps <= rows && sweeps < SWEEPS {
            if sweeps > 0 {
                visit.again();
            }
            sweeps += 1;
            search.start(&own, &weights, &visit);
            swept = if alone {
                Self::sweep_alone::<L>(worker, &mut own, &mut weights, &mut visit, (scale, enough))?
            } else {
                let of = (scale, count, whole, enough);
                Self::sweep_joined::<L>(worker, &mut own, &mut weights, &mut visit, &mut joins, of)?
            };
            if swept < 1.0 {
                break;
            }
            search.go_on::<L>(worker, &mut own, part, &mut weights, &mut visit)?;
        }
        search.end(worker, part)?;
        joins.end(worker, &weights)?;
        worker.report("sweeps", Metric::Min(sweeps as f64));
        worker.report("swept", Metric::Min(swept));
        worker.report("visited", Metric::Count(visit.visited as u64));
        let mut met = visit.met;
        met.gap /= swept;
        bias::report(worker, &own);
        own.put(worker)?;
        Ok(met)
    }

    /// A sweep without joins, or the part of one that is likely to be enough; which part it was.
    fn sweep_alone<L: Loss>(
        worker: &mut Worker<'_>,
        own: &mut Own,
        weights: &mut [f32],
        visit: &mut Visit<'_>,
        (scale, enough): (Scale, Option<Enough>),
    ) -> Result<f64> {
        let rows = own.rows();
        for (piece, enough) in (1..enough::PIECES).zip(enough.iter().cycle()) {
            visit.go::<L>(worker, own, weights, scale, rows * piece / enough::PIECES, None)?;
            let part = visit.behind() as f64 / rows.max(1) as f64;
            if enough.is(part, visit.met.gap) {
                return Ok(part);
            }
        }
        visit.go::<L>(worker, own, weights, scale, usize::MAX, None)?;
        Ok(1.0)
    }

    /// A sweep with so many joins, all of them `whole` or the last one alone; or, likewise, the part up to one of them.
    fn sweep_joined<L: Loss>(
        worker: &mut Worker<'_>,
        own: &mut Own,
        weights: &mut [f32],
        visit: &mut Visit<'_>,
        joins: &mut Joins<'_>,
        (scale, count, whole, enough): (Scale, u32, bool, Option<Enough>),
    ) -> Result<f64> {
        let (rows, mut trail, mut least, mut swept) = (own.rows(), Trail::default(), 1.0f64, 1.0);
        for join in 1..=count as usize {
            visit.go::<L>(worker, own, weights, scale, rows * join / count as usize, Some(&mut trail))?;
            if whole || join == count as usize {
                least = least.min(joins.join::<L>(worker, own, (weights, &mut visit.bias), &mut trail)?);
            } else {
                joins.join_coupled(worker, weights, &mut visit.bias)?;
            }
            if let Some(enough) = enough.filter(|_| join < count as usize) {
                let (part, mut met) = (join as f64 / f64::from(count), [visit.met.gap]);
                worker.sum_local(&mut met)?;
                if enough.is(part, met[0]) {
                    swept = part;
                    break;
                }
            }
        }
        worker.report("scale", Metric::Min(least));
        // Half of what is safe for whole joins; less is no way to go on.
        worker.report("short", Metric::Count(u64::from(least * 2.0 * (worker.place.threads as f64) < 1.0)));
        Ok(swept)
    }

    /// A round over one of several parts of the worker's rows, while each other worker goes over one of its own. With
    /// sigma' = K for K workers their ways may be added as they are (CoCoA+, Lemma 3), so nothing is kept but the part's
    /// weights.
    fn ascend_part<L: Loss>(&self, worker: &mut Worker<'_>, own: &mut Own, bias: &mut f32, part: &Part) -> Result<Met> {
        let sigma = worker.scalar("overlap", worker.place.threads as f64);
        let scale = Self::scale(worker, sigma);
        let mut start = Vec::new();
        worker.get_mapped(self.tables.weights, &part.map, &mut start)?;
        let mut weights = start.clone();
        let facts = worker.facts(self.rows.input)?;
        let mut visit = Visit::new(worker, part, &facts, self.seed, *bias);
        visit.go::<L>(worker, own, &mut weights, scale, usize::MAX, None)?;
        *bias = visit.bias;
        let by = 1.0 / sigma as f32;
        weights.iter_mut().zip(&start).for_each(|(way, start)| *way = (*way - start) * by);
        worker.add_mapped(self.tables.weights, &part.map, &weights)?;
        worker.clock()?;
        Ok(visit.met)
    }

    /// The certificate, if the scalar `judge` asks for it. Reports `loss`, `gap`, `right`, `lowered`, `along` and `rows`, summed over
    /// the rows that are trained on.
    pub fn certify<L: Loss>(&self, worker: &mut Worker<'_>) -> Result<()> {
        if worker.scalar("judge", 0.0) == 0.0 {
            return Ok(());
        }
        let mut parts = Parts::new(worker, self.rows)?;
        let features = parts.whole(worker)?.map_or(0, |part| part.map.len());
        let mut own = Own::take(worker, self.rows.input, features)?;
        let mut sums = Sums::default();
        while let Some(part) = parts.next(worker)? {
            self.judge::<L>(worker, &mut own, &part, &mut sums)?;
        }
        let Sums { loss, gap, right, rows, lowered, along } = sums;
        worker.report("loss", Metric::Sum(loss));
        worker.report("gap", Metric::Sum(gap));
        worker.report("lowered", Metric::Sum(lowered));
        worker.report("along", Metric::Sum(along));
        worker.report("right", Metric::Count(right));
        worker.report("rows", Metric::Count(rows));
        own.put(worker)
    }

    /// Adds a part's rows to the sums.
    fn judge<L: Loss>(&self, worker: &mut Worker<'_>, own: &mut Own, part: &Part, sums: &mut Sums) -> Result<()> {
        let (mut weights, mut margins) = (Vec::new(), Vec::new());
        worker.get_mapped(self.tables.weights, &part.map, &mut weights)?;
        let bias = worker.scalar("bias", 0.0);
        let by = ["negative_by", "positive_by"].map(|name| worker.scalar(name, 1.0));
        for i in part.start..part.start + part.blocks() {
            part.expect(worker, i + 1 - part.start);
            let block = own.block(worker, part, i)?;
            let held = &own.blocks[i];
            let targets = targets_or_labels(&held.targets, &block);
            sums.rows += match own.holds_out() {
                true => targets.iter().filter(|target| **target != 0.0).count() as u64,
                false => targets.len() as u64,
            };
            margins.clear();
            for (row, target) in targets.iter().enumerate() {
                if *target == 0.0 {
                    margins.push(HELD_OUT);
                    continue;
                }
                let row = block.row(row);
                // SAFETY: `Own::block` checked the indices.
                let score = unsafe {
                    if self.tolerance < WIDE {
                        dot_wide_unchecked(&row, &weights)
                    } else {
                        f64::from(dot_unchecked(&row, &weights))
                    }
                };
                margins.push(f64::from(target.signum()) * (score + bias));
            }
            let (margins, dual) = (&margins[..], &held.dual[..]);
            sums.add(&widest(Judge::<L> { margins, dual, targets, by, bias, loss: PhantomData }));
            if by != [1.0; 2] {
                sums.lowered += bias::lowered(held, targets, &block, by);
            }
        }
        Ok(())
    }
}
