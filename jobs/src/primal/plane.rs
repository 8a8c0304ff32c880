//! Between sweeps of coordinate descent: the best point in the plane of the last sweep's way d and of the way gone with the
//! one before, p, as in sequential subspace optimisation (Narkiss and Zibulevsky, 2005).
//!
//! With the signs of the weights as they are the step's model is a quadratic there; a weight that would change its sign, or
//! go farther than it may, stays at 0 or at its bound, and a feature without a weight gets none. Invariant: the model's value is
//! no higher behind it than before, and what is kept by row is that of the step, but for rounding.

use super::moved::{self, Moved};
use super::quadratic::{Quadratic, Way};
use crate::plane::newton;

/// Between searches there are steps on so many non-zeros, by row and feature: these take a few times as long as a search.
const SEARCH: usize = 8;
/// The longest s and t: a best point that is farther away is one of rounding.
const FAR: f64 = 4.0;
/// The ways lead to the same place if their determinant is this part of the product.
const FLAT: f64 = 1e-12;

/// A step and what it does to rows.
#[derive(Debug, Default, Clone)]
struct Point {
    way: Way,
    moved: Vec<[f32; 2]>,
}

/// What is kept from sweep to sweep.
pub struct Plane<'a> {
    quadratic: &'a Quadratic<'a>,
    start: Point,
    /// The way before, by feature, of the intercept, and by row.
    past: Way,
    past_moved: Vec<f32>,
    next: Point,
}

impl<'a> Plane<'a> {
    /// For the sweeps of a step, if they take longer than searches.
    pub fn new(quadratic: &'a Quadratic<'a>, rows: usize) -> Option<Self> {
        let count = quadratic.weights.len();
        let pays = quadratic.alone && quadratic.columns.nonzeros() >= SEARCH * (rows + count);
        pays.then(|| Self {
            quadratic,
            start: Point::default(),
            past: Way { step: vec![0.0; count], bias: 0.0 },
            past_moved: vec![0.0; rows],
            next: Point::default(),
        })
    }

    /// Before a sweep.
    pub fn start(&mut self, way: &Way, moved: &Moved) {
        way.step.clone_into(&mut self.start.way.step);
        self.start.way.bias = way.bias;
        moved.clone_into(&mut self.start.moved);
    }

    /// Behind it: goes to the best point of the plane, or to what may be gone of the way there, if that is better.
    pub fn go_on(&mut self, way: &mut Way, moved: &mut Vec<[f32; 2]>) {
        self.leave_out(way);
        let by = self.best(way, moved);
        if by != [0.0; 2] && self.goes(way, moved, by) {
            std::mem::swap(way, &mut self.next.way);
            std::mem::swap(moved, &mut self.next.moved);
        }
        let Self { start, past, past_moved, .. } = self;
        past.step.iter_mut().zip(&way.step).zip(&start.way.step).for_each(|((p, now), start)| *p = now - start);
        past.bias = way.bias - start.way.bias;
        past_moved.iter_mut().zip(&*moved).zip(&start.moved).for_each(|((p, now), start)| *p = now[0] - start[0]);
    }

    /// Features that the sweep left without a weight take no part in either way.
    fn leave_out(&mut self, way: &Way) {
        let Self { quadratic, start, past, past_moved, .. } = self;
        for (j, now) in way.step.iter().enumerate() {
            let (d, p) = (now - start.way.step[j], past.step[j]);
            if quadratic.weights[j] + now != 0.0 || d == 0.0 && p == 0.0 {
                continue;
            }
            let column = quadratic.columns.column(j);
            // SAFETY: a column's rows are below the number of rows, which the vector has.
            unsafe { moved::go(&mut start.moved, column.rows, column.values, d) };
            column.each(|row, x| past_moved[row] -= (p * x) as f32);
            (start.way.step[j], past.step[j]) = (*now, 0.0);
        }
    }

    /// The best s and t.
    fn best(&self, way: &Way, moved: &Moved) -> [f64; 2] {
        let Self { quadratic: q, start, past, past_moved, .. } = self;
        // Slopes along both, and the second derivatives.
        let [mut ds, mut dt, mut dss, mut dst, mut dtt] = [0.0; 5];
        for (([now, curvature], [start, _]), p) in moved.iter().zip(&start.moved).zip(past_moved) {
            let [now, d, p, curvature] = [*now, now - start, *p, *curvature].map(f64::from);
            let (of_d, of_p) = (curvature * d, curvature * p);
            ds += now * of_d;
            dt += now * of_p;
            dss += d * of_d;
            dst += d * of_p;
            dtt += p * of_p;
        }
        for (j, now) in way.step.iter().enumerate() {
            let (at, d, p) = (q.weights[j] + now, now - start.way.step[j], past.step[j]);
            let slope = q.gradient[j] + q.penalty.l2 * at + q.penalty.l1 * at.signum();
            if d != 0.0 || p != 0.0 {
                ds += slope * d;
                dt += slope * p;
                dss += q.penalty.l2 * d * d;
                dst += q.penalty.l2 * d * p;
                dtt += q.penalty.l2 * p * p;
            }
        }
        if let Some([gradient, ..]) = q.bias {
            ds += gradient * (way.bias - start.way.bias);
            dt += gradient * past.bias;
        }
        let at = newton([ds, dt, dss, dst, dtt], FLAT);
        let far = at.iter().fold(FAR, |far: f64, by| far.max(by.abs()));
        if far.is_finite() { at.map(|by| by * FAR / far) } else { [0.0; 2] }
    }

    /// Makes what lies at s and t, and tells whether the model's value is lower there.
    fn goes(&mut self, way: &Way, moved: &Moved, [s, t]: [f64; 2]) -> bool {
        let Self { quadratic: q, start, past, past_moved, next } = self;
        let rows = moved.iter().zip(&start.moved).zip(&*past_moved);
        next.moved.clear();
        let by = [s as f32, t as f32];
        next.moved.extend(
            rows.map(|(([now, curvature], [start, _]), p)| [now + by[0] * (now - start) + by[1] * p, *curvature]),
        );
        next.way.step.clear();
        let mut grown = 0.0;
        for (j, now) in way.step.iter().enumerate() {
            let (at, by) = (q.weights[j] + now, s * (now - start.way.step[j]) + t * past.step[j]);
            let ends = if (at + by) * at < 0.0 { -at } else { by };
            let change = q.bounds.cut(j, *now, ends);
            if change != by {
                let column = q.columns.column(j);
                // SAFETY: as above.
                unsafe { moved::go(&mut next.moved, column.rows, column.values, change - by) };
            }
            next.way.step.push(now + change);
            let (before, after) = (q.penalty.of(at), q.penalty.of(at + change));
            grown += q.gradient[j] * change + after - before;
        }
        let by = s * (way.bias - start.way.bias) + t * past.bias;
        next.way.bias = way.bias + by;
        grown += q.bias.map_or(0.0, |[gradient, ..]| gradient * by);
        for ([next, curvature], [now, _]) in next.moved.iter().zip(moved) {
            grown += 0.5 * f64::from(next - now) * f64::from((next + now) * curvature);
        }
        grown < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounds::Bounds;
    use super::super::certificate::Penalty;
    use super::super::columns::Columns;
    use super::*;
    use crate::fixtures;
    use crate::parts::Rows;
    use flexps_common::Result;
    use flexps_common::data::InputSpec;
    use flexps_common::host::Host;
    use flexps_common::ids::Key;
    use flexps_common::metrics::Metric;
    use flexps_common::plan::{Plan, Threads};
    use flexps_common::worker::Worker;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    const ROWS: usize = 600;
    const FEATURES: usize = 60;

    /// A step under these penalties and bounds, with searches and without: the model's value there, and how far what is kept by row is
    /// from what the step gives.
    fn step(worker: &mut Worker<'_>, rows: Rows, penalty: Penalty, bound: Option<f64>) -> Result<()> {
        let keys: Vec<Key> = (0..FEATURES as Key).collect();
        let columns = Columns::take(worker, rows, &keys, &[])?;
        let curvature = |i: usize| if i.is_multiple_of(7) { 0.0 } else { (1 + i % 3) as f64 / ROWS as f64 };
        let bends: Vec<[f64; 2]> = (0..ROWS).map(|i| [0.0, curvature(i)]).collect();
        let of_bias = bends.iter().map(|[_, curvature]| curvature).sum();
        let diagonal: Vec<f64> = (0..FEATURES).map(|j| columns.column(j).dots(&bends)[1]).collect();
        let weights: Vec<f64> = (0..FEATURES).map(|j| if j % 3 == 0 { 0.0 } else { (j as f64).sin() }).collect();
        let gradient: Vec<f64> = (0..FEATURES).map(|j| 0.05 * (2.3 * j as f64).cos()).collect();
        let bounds = Bounds::of(bound.map(|bound| vec![bound; FEATURES]));
        // One worker of several makes no searches; of the same columns.
        for (alone, name) in [(true, "value"), (false, "without")] {
            let quadratic = Quadratic {
                columns: &columns,
                weights: &weights,
                gradient: &gradient,
                own: &diagonal,
                all: &diagonal,
                bends: &bends,
                penalty,
                bias: Some([0.01, of_bias, of_bias]),
                bounds: &bounds,
                alone,
                enough: 1e-9,
            };
            assert_eq!(Plane::new(&quadratic, ROWS).is_some(), alone);
            let mut moved = Vec::new();
            let way = quadratic.solve(&mut ChaCha8Rng::seed_from_u64(3), &mut moved);
            let mut scores = vec![way.bias; ROWS];
            columns.add(&way.step, &mut scores);
            let off = (0..ROWS).map(|i| (scores[i] - f64::from(moved[i][0])).abs()).fold(0.0, f64::max);
            let of_rows = scores.iter().zip(&bends).map(|(moved, [_, curvature])| 0.5 * moved * moved * curvature);
            let of_features = (0..FEATURES).map(|j| gradient[j] * way.step[j] + penalty.of(weights[j] + way.step[j]));
            let value = of_rows.sum::<f64>() + of_features.sum::<f64>() + 0.01 * way.bias;
            worker.report(name, Metric::Max(value));
            worker.report("off", Metric::Max(off));
            worker.report("longest", Metric::Max(way.step.iter().fold(0.0, |most: f64, step| most.max(step.abs()))));
        }
        Ok(())
    }

    #[test]
    fn searches_between_sweeps_bring_the_step_nearer_to_the_best_one() {
        for (l1, l2, bound) in [(1e-3, 0.0, None), (1e-2, 1e-3, None), (1e-3, 1e-4, Some(0.3))] {
            let mut plan = Plan::default();
            let input = plan.input(InputSpec::new("rows", vec![fixtures::path("rows")])).unwrap();
            let rows = Rows { input, memory: 1 << 30, drawn: false };
            let run = move |worker: &mut Worker<'_>| step(worker, rows, Penalty { l1, l2 }, bound);
            plan.body.stage("step", run).threads(Threads::Count(1)).input(input);
            let shape = fixtures::Rows { rows: ROWS, features: FEATURES as u32, ..fixtures::Rows::sparse(5) };
            let mut blocks = fixtures::Rows { nonzeros: 30, ..shape }.blocks(1);
            // Rows have much in common, so that what one feature says others say too.
            blocks[0].values.iter_mut().flatten().for_each(|x| *x = 0.5 + x.abs());
            let outcome = Host::new().rows(blocks).run(&plan).unwrap();
            let metric = |name| outcome.progress.metric("step", name).unwrap();
            let [value, without, off, longest] = ["value", "without", "off", "longest"].map(metric);
            assert!(off < 1e-5, "what is kept by row is off by {off:e}");
            assert!(value < without, "the model's value is {value:e}, without searches {without:e}");
            assert!(bound.is_none_or(|bound| longest <= bound * (1.0 + 1e-12)), "{longest}");
        }
    }
}
