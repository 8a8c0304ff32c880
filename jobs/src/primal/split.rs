//! A Newton step by all workers of one slave together, each of which descends on a part of the features, over the rows of all:
//! where there are few rows of a feature, those of one worker tell little of the second derivative (see
//! [`super::quadratic`]).
//!
//! The columns are dealt out once for many steps. Several times a sweep the workers sum by how much each has moved the rows'
//! scores. Until then a worker takes the others to move them as it does itself: what it moves them by counts more than once
//! (CoCoA+: Ma et al., ICML 2015). For features that few rows have that is enough with their own curvature; where it is not, the
//! step is made anew with theirs as many times as there are workers, which never raises the quadratic. Invariant: behind each sum all workers know the same scores.

use super::bounds::Bounds;
use super::certificate::Penalty;
use super::columns::Columns;
use super::moved;
use super::quadratic::{GROUP, MANY, Way, best};
use super::reduce::Reduce;
use crate::pages;
use flexps_common::Result;
use flexps_common::worker::Worker;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Sweeps over the coordinates at most.
const SWEEPS: usize = 30;
/// Sweeps until the sum of violations has fallen to this part.
const ENOUGH: f64 = 0.3;
/// The workers lead one another astray once the sum of violations is so many times what it was.
const ASTRAY: f64 = 1.5;
/// Workers at most: they sum once less a sweep than they are.
const MOST: usize = 4;
/// Non-zeros of a row at least, in the mean: a sum takes a few passes over the rows.
const DENSE: f64 = 2.0;
/// Non-zeros at least: of fewer a sweep takes no longer than its sums. Of 0.8 million (farm-ads) two workers took twice as long this
/// way, of 2.2 and 5.5 million (kdd-like) less long.
const LEAST: f64 = if cfg!(test) { 0.0 } else { 2e6 };

/// A worker's part of the features, and the rows of all.
pub struct Split {
    /// Their places among those that are worked on, rising.
    features: Vec<u32>,
    /// Where each one's column starts; one more than there are columns.
    starts: Vec<usize>,
    /// Rows of all workers, worker by worker.
    rows: Vec<u32>,
    /// None when all are 1.
    values: Option<Vec<f32>>,
    /// Features that are worked on.
    count: usize,
    /// Which rows are this worker's, and how many there are.
    own: Range<usize>,
    all: usize,
    /// What the step does to rows, as this worker sees it ([`moved::Moved`]).
    moved: Vec<[f32; 2]>,
    /// The former at the last sum.
    base: Vec<f32>,
    /// What this worker brings to the next sum.
    change: Vec<f32>,
    /// Whether its own moves count as if all workers made the same, which never leads astray, but goes slowly.
    careful: bool,
}

/// What all workers know of the problem.
pub struct Problem<'a> {
    /// The features' weights.
    pub weights: &'a [f64],
    /// The gradient of all losses.
    pub gradient: &'a [f64],
    /// The diagonal of their second derivative.
    pub diagonal: &'a [f64],
    /// The penalty.
    pub penalty: Penalty,
    /// Of the intercept, if there is one: gradient and curvature.
    pub bias: Option<[f64; 2]>,
    /// How far the step may go in each feature.
    pub bounds: &'a Bounds,
}

impl Split {
    /// Deals out the features of `columns`, which every worker has for its own `rows`; none where each worker does as well alone.
    pub fn of(worker: &mut Worker<'_>, reduce: &mut Reduce, columns: &Columns, rows: usize) -> Result<Option<Self>> {
        let (index, threads, count) = (worker.place.index, worker.place.threads, columns.count());
        if worker.place.slaves > 1 || !(2..=MOST).contains(&threads) || count == 0 {
            return Ok(None);
        }
        let mut facts = vec![0.0; threads];
        facts[index] = rows as f64;
        facts.extend([columns.nonzeros() as f64, f64::from(u8::from(columns.has_values()))]);
        reduce.sum(worker, &mut facts)?;
        let (all, before) = (facts[..threads].iter().sum::<f64>(), facts[..index].iter().sum::<f64>() as usize);
        let (nonzeros, has_values) = (facts[threads], facts[threads + 1] > 0.0);
        let few = nonzeros < (MANY * threads * count) as f64 && nonzeros >= LEAST.max(DENSE * all);
        if !few || nonzeros.max(all) > f64::from(u32::MAX) {
            return Ok(None);
        }
        let mut lengths = vec![0u32; threads * count];
        (0..count).for_each(|j| lengths[index * count + j] = columns.column(j).rows.len() as u32);
        worker.sum_local(&mut lengths)?;
        let mut dealt = Self {
            features: Vec::new(),
            starts: Vec::new(),
            rows: Vec::new(),
            values: None,
            count,
            own: before..before + rows,
            all: all as usize,
            moved: pages::room(all as usize),
            base: Vec::with_capacity(all as usize),
            change: Vec::with_capacity(all as usize),
            careful: false,
        };
        let (mut room, mut values) = (Vec::new(), Vec::new());
        for owner in 0..threads {
            let features: Vec<u32> = (0..count as u32).filter(|j| *j as usize / GROUP % threads == owner).collect();
            let length = |workers: Range<usize>, j: u32| -> usize {
                workers.map(|worker| lengths[worker * count + j as usize] as usize).sum()
            };
            let mut starts = vec![0];
            starts.extend(features.iter().scan(0, |end, j| {
                *end += length(0..threads, *j);
                Some(*end)
            }));
            // Written throughout before others read it: memory that is zero because nobody wrote to it is costly to change.
            let size = starts[features.len()];
            room.clear();
            room.resize(size, 0u32);
            if has_values {
                values.clear();
                values.resize(size, 0f32);
            }
            for (j, start) in features.iter().zip(&starts) {
                let from = start + length(0..index, *j);
                for (at, row) in columns.column(*j as usize).rows.iter().enumerate() {
                    room[from + at] = before as u32 + row;
                }
                if has_values {
                    let mut at = from;
                    columns.column(*j as usize).each(|_, x| {
                        values[at] = x as f32;
                        at += 1;
                    });
                }
            }
            worker.sum_local(&mut room)?;
            if has_values {
                worker.sum_local(&mut values)?;
            }
            if owner == index {
                (dealt.features, dealt.starts, dealt.rows) = (features, starts, std::mem::take(&mut room));
                dealt.values = has_values.then(|| std::mem::take(&mut values));
            }
        }
        Ok(Some(dealt))
    }

    /// The bounds of a first step that moves a score by at most `score`.
    pub fn bounds(&self, worker: &mut Worker<'_>, reduce: &mut Reduce, score: f64) -> Result<Bounds> {
        if !score.is_finite() {
            return Ok(Bounds::of(None));
        }
        let mut most = vec![0.0; self.count];
        for (at, j) in self.features.iter().enumerate() {
            most[*j as usize] = match &self.values {
                Some(values) => {
                    let own = &values[self.starts[at]..self.starts[at + 1]];
                    own.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs())))
                }
                None => 1.0,
            };
        }
        reduce.sum(worker, &mut most)?;
        Ok(Bounds::of(Some(most.into_iter().map(|most| score / most).collect())))
    }

    /// The common step, `bends` being slope and curvature of each of this worker's rows, over n.
    pub fn solve(
        &mut self,
        worker: &mut Worker<'_>,
        reduce: &mut Reduce,
        problem: &Problem<'_>,
        bends: &[[f64; 2]],
        rng: &mut ChaCha8Rng,
    ) -> Result<Way> {
        self.begin(worker, bends)?;
        let found = match self.careful {
            false => self.sweeps(worker, reduce, problem, rng)?,
            true => None,
        };
        let (step, bias) = match found {
            Some(found) => found,
            None => {
                self.careful = true;
                self.base.fill(0.0);
                self.moved.iter_mut().for_each(|[moved, _]| *moved = 0.0);
                self.sweeps(worker, reduce, problem, rng)?.unwrap_or_default()
            }
        };
        let mut way = vec![0.0; self.count];
        self.features.iter().zip(step).for_each(|(j, step)| way[*j as usize] = step);
        reduce.sum(worker, &mut way)?;
        Ok(Way { step: way, bias })
    }

    /// This worker's steps, and that of the intercept; none where the workers lead one another astray.
    fn sweeps(
        &mut self,
        worker: &mut Worker<'_>,
        reduce: &mut Reduce,
        problem: &Problem<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<(Vec<f64>, f64)>> {
        let (index, threads) = (worker.place.index, worker.place.threads);
        let (mut step, mut bias) = (vec![0.0; self.features.len()], 0.0);
        // With more workers between two sums some move the rows against one another.
        let (sums, overlap) = (threads - 1, if self.careful { threads as f64 } else { (threads + 2) as f64 / 2.0 });
        let bent = |at: &u32| problem.diagonal[self.features[*at as usize] as usize] > 0.0;
        let all = (0..self.features.len() as u32).filter(bent);
        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); sums];
        all.for_each(|at| parts[at as usize / GROUP % sums].push(at));
        let (mut first, mut last) = (0.0, f64::INFINITY);
        for sweep in 0..SWEEPS {
            let (mut sum, mut most) = (0.0, 0.0f64);
            for part in &mut parts {
                let mut groups: Vec<&[u32]> = part.chunks(GROUP).collect();
                groups.shuffle(rng);
                let mut left = Vec::with_capacity(part.len());
                for at in groups.into_iter().flatten() {
                    let (violation, stays) =
                        self.coordinate(problem, *at as usize, last, overlap, &mut step[*at as usize]);
                    sum += violation;
                    most = most.max(violation);
                    if stays {
                        left.push(*at);
                    }
                }
                *part = left;
                self.join(worker, overlap as f32)?;
                bias += self.intercept(problem);
            }
            let mut seen = vec![0.0; threads];
            seen[index] = most;
            seen.push(sum);
            reduce.sum(worker, &mut seen)?;
            let sum = seen.pop().unwrap_or(0.0);
            if sweep == 0 {
                first = sum;
            }
            if sum <= ENOUGH * first {
                break;
            }
            if !self.careful && (sum > ASTRAY * first || sweep + 1 == SWEEPS && sum > first) {
                return Ok(None);
            }
            last = seen.into_iter().fold(0.0, f64::max);
        }
        Ok(Some((step, bias)))
    }

    /// Begins a step: the curvatures of all rows.
    fn begin(&mut self, worker: &mut Worker<'_>, bends: &[[f64; 2]]) -> Result<()> {
        let Self { own, all, moved, base, change, .. } = self;
        change.clear();
        change.resize(own.start, 0.0);
        change.extend(bends.iter().map(|[_, curvature]| *curvature as f32));
        change.resize(*all, 0.0);
        worker.sum_local(change)?;
        moved.clear();
        moved.extend(change.iter().map(|curvature| [0.0, *curvature]));
        base.clear();
        base.resize(*all, 0.0);
        Ok(())
    }

    /// A step in this worker's coordinate `at`, which was changed by `step`: by how much its optimality was violated, and whether
    /// it is to be looked at again.
    #[inline(always)]
    fn coordinate(&mut self, problem: &Problem<'_>, at: usize, last: f64, overlap: f64, step: &mut f64) -> (f64, bool) {
        let (j, range) = (self.features[at] as usize, self.starts[at]..self.starts[at + 1]);
        let (rows, penalty) = (&self.rows[range.clone()], problem.penalty);
        let values = self.values.as_ref().map(|values| &values[range]);
        let now = problem.weights[j] + *step;
        // SAFETY: the rows that were dealt are below the number of all rows, which the vector has.
        let moves = unsafe { moved::slope(&self.moved, rows, values) };
        let slope = moves + problem.gradient[j] + penalty.l2 * now;
        let curvature = problem.diagonal[j] * if self.careful { overlap } else { 1.0 } + penalty.l2;
        let (next, violation) = best(now, slope, curvature, penalty.l1);
        if violation < 0.0 {
            // So far from asking for a weight that it is not looked at again in this step.
            return (0.0, -violation < last);
        }
        let change = problem.bounds.cut(j, *step, next - now);
        if change == 0.0 && next != now {
            // As far as it may go.
            return (0.0, true);
        }
        if change != 0.0 && change.is_finite() {
            *step += change;
            // SAFETY: as above.
            unsafe { moved::go(&mut self.moved, rows, values, overlap * change) };
        }
        (violation, true)
    }

    /// Sums by how much the workers moved the scores since the last time.
    fn join(&mut self, worker: &mut Worker<'_>, overlap: f32) -> Result<()> {
        let (Self { moved, base, change, .. }, part) = (self, 1.0 / overlap);
        let ways = moved.iter().zip(base.iter());
        change.iter_mut().zip(ways).for_each(|(change, ([moved, _], base))| *change = (moved - base) * part);
        worker.sum_local(change)?;
        for ((base, change), [moved, _]) in base.iter_mut().zip(change.iter()).zip(moved) {
            *base += change;
            *moved = *base;
        }
        Ok(())
    }

    /// A step in the intercept, which all workers make alike.
    fn intercept(&mut self, problem: &Problem<'_>) -> f64 {
        let Some([gradient, curvature]) = problem.bias.filter(|[_, curvature]| *curvature > 0.0) else { return 0.0 };
        let change = -(gradient + moved::slope_of_all(&self.moved)) / curvature;
        for (base, [moved, _]) in self.base.iter_mut().zip(&mut self.moved) {
            *base += change as f32;
            *moved = *base;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::parts::Rows;
    use flexps_common::data::InputSpec;
    use flexps_common::data::schema::DataPath;
    use flexps_common::host::Host;
    use flexps_common::ids::Key;
    use flexps_common::plan::{Plan, Table};
    use rand_chacha::rand_core::SeedableRng;

    const ROWS: usize = 200;
    const FEATURES: usize = 60;

    /// By how much a step of the intercept and of features that have no weight misses what makes it the best.
    fn missed(
        worker: &mut Worker<'_>,
        reduce: &mut Reduce,
        (columns, bends): (&Columns, &[[f64; 2]]),
        problem: &Problem<'_>,
        way: &Way,
    ) -> Result<f64> {
        let mut moved = vec![way.bias; bends.len()];
        columns.add(&way.step, &mut moved);
        let bent: Vec<f64> = moved.iter().zip(bends).map(|(moved, [_, curvature])| moved * curvature).collect();
        let mut along: Vec<f64> = (0..FEATURES).map(|j| columns.column(j).dot_with(&bent)).collect();
        along.push(bent.iter().sum());
        reduce.sum(worker, &mut along)?;
        let Penalty { l1, l2 } = problem.penalty;
        let slope = problem.bias.map_or(0.0, |[gradient, _]| (gradient + along[FEATURES]).abs());
        let of = |j: usize| {
            let at = way.step[j];
            let slope = problem.gradient[j] + along[j] + l2 * at;
            if at == 0.0 { (slope.abs() - l1).max(0.0) } else { (slope + at.signum() * l1).abs() }
        };
        Ok(slope + (0..FEATURES).map(of).sum::<f64>())
    }

    fn step(worker: &mut Worker<'_>, rows: Rows, sums: Table<f64>, bias: bool) -> Result<()> {
        let (mut reduce, keys) = (Reduce::new(sums, 1), (0..FEATURES as Key).collect::<Vec<_>>());
        let columns = Columns::take(worker, rows, &keys, &[])?;
        let (mut bends, mut diagonal) = (Vec::new(), Vec::new());
        for at in worker.own_blocks(rows.input)? {
            let count = worker.block(rows.input, at)?.map_or(0, |block| block.rows());
            bends.extend((0..count).map(|i| [0.0, (1 + (i + at) % 3) as f64 / ROWS as f64]));
        }
        diagonal.extend((0..FEATURES).map(|j| columns.column(j).dots(&bends)[1]));
        diagonal.push(bends.iter().map(|[_, curvature]| curvature).sum());
        reduce.sum(worker, &mut diagonal)?;
        let gradient: Vec<f64> = (0..FEATURES).map(|j| 0.02 * ((j * 7 % 5) as f64 - 2.0)).collect();
        let none = vec![0.0; FEATURES];
        let mut split = Split::of(worker, &mut reduce, &columns, bends.len())?.unwrap();
        let bounds = split.bounds(worker, &mut reduce, 100.0)?;
        let problem = Problem {
            weights: &none,
            gradient: &gradient,
            diagonal: &diagonal,
            penalty: Penalty { l1: 0.01, l2: 0.001 },
            bias: bias.then_some([0.02, diagonal[FEATURES]]),
            bounds: &bounds,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(worker.place.index as u64);
        // What one leaves behind is in nobody's way.
        for _ in 0..2 {
            let way = split.solve(worker, &mut reduce, &problem, &bends, &mut rng)?;
            let still = Way { step: none.clone(), bias: 0.0 };
            let before = missed(worker, &mut reduce, (&columns, &bends), &problem, &still)?;
            let after = missed(worker, &mut reduce, (&columns, &bends), &problem, &way)?;
            assert!(after <= 0.6 * before, "{after} of {before}");
            let (threads, mut all) = (worker.place.threads as f64, way.step.clone());
            all.push(way.bias);
            reduce.sum(worker, &mut all)?;
            let own = way.step.iter().chain([&way.bias]);
            assert!(own.zip(&all).all(|(own, all)| (threads * own - all).abs() <= 1e-12), "all make the same step");
        }
        Ok(())
    }

    #[test]
    fn a_common_step_is_near_the_best_of_the_quadratic_whoever_has_the_rows() {
        for one_hot in [false, true] {
            let shape = fixtures::Rows { rows: ROWS, features: FEATURES as u32, one_hot, ..fixtures::Rows::sparse(7) };
            for threads in 2..=4 {
                for bias in [false, true] {
                    let mut plan = Plan::default();
                    let spec = InputSpec::new("input", vec![DataPath("rows".to_owned())]);
                    let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20, drawn: false };
                    let sums = plan.table("sums", 1);
                    plan.body.stage("step", move |worker| step(worker, rows, sums, bias)).input(rows.input);
                    Host::cluster(1, threads).rows(shape.blocks(9)).run(&plan).unwrap();
                }
            }
        }
    }
}
