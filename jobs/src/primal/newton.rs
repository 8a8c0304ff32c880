//! Trust-region Newton (Lin, Weng and Keerthi, JMLR 2008) with conjugate gradients preconditioned by the diagonal.
//!
//! Each product of the second derivative with a vector is a wide stage over rows; all vectors lie in tables, spread over
//! the slaves, and the stages over features take ranges of them, so no worker ever holds a vector of all features of the
//! input. Lengths are measured in the diagonal's norm, in which conjugate gradients only grow (Steihaug, 1983):
//! ```text
//! |d'|^2 = |d|^2 + 2 a d.Mp + a^2 p.Mp,   d'.Mp' = b (d.Mp + a p.Mp),   p'.Mp' = r'.z' + b^2 p.Mp
//! ```
//! The intercept's parts of the vectors are scalars of the job. Invariant: a step that does not lower the objective as
//! the quadratic promised is taken back, and the next one is shorter.

use super::gradient::{add_scaled, block, dot};
use super::kept::{keep_scores, take_scores};
use super::loss::{Smooth, with_smooth};
use super::reduce::Reduce;
use super::screen::ranges;
use super::task::Task;
use crate::parts::{Parts, Rows};
use crate::sdca::loss::Kind;
use flexps_common::Result;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Plan, Progress, Steps, Table, Threads};
use flexps_common::worker::Worker;

/// Products of a step at most.
const PRODUCTS: u64 = 300;
/// Steps in a row that are taken back before none is tried any more.
const REFUSALS: f64 = 25.0;
/// A step must bring this part of what was promised.
const PROMISED: f64 = 1e-4;

/// Its tables.
#[derive(Debug, Clone, Copy)]
pub struct Newton {
    rows: Rows,
    loss: Kind,
    point: Table<f64>,
    gradient: Table<f64>,
    /// The diagonal of the losses' second derivative.
    pub diagonal: Table<f64>,
    /// The point before the step.
    anchor: Table<f64>,
    /// The step so far.
    step: Table<f64>,
    residual: Table<f64>,
    way: Table<f64>,
    product: Table<f64>,
    sums: Table<f64>,
}

impl Newton {
    /// Adds its tables to the plan.
    pub fn new(plan: &mut Plan, loss: Kind, rows: Rows, [point, gradient, sums]: [Table<f64>; 3]) -> Self {
        let mut table = |name| plan.table(name, 1);
        Self {
            rows,
            loss,
            point,
            gradient,
            sums,
            diagonal: table("diagonal"),
            anchor: table("anchor"),
            step: table("step"),
            residual: table("residual"),
            way: table("way"),
            product: table("product"),
        }
    }

    /// Behind the gradient at the point that the last step led to: takes a bad step back, and leaves the others to
    /// `certified`.
    pub fn judge(
        &self,
        progress: &mut Progress,
        certified: impl FnOnce(&mut Progress) -> Result<Flow>,
    ) -> Result<Flow> {
        if progress.epoch == 0 && progress.scalar("tried", 0.0) == 0.0 {
            progress.set("radius", f64::INFINITY);
            progress.set("refusals", 0.0);
            progress.set("first_residual", 0.0);
        }
        if progress.scalar("tried", 0.0) == 0.0 {
            return certified(progress);
        }
        progress.set("tried", 0.0);
        let before = progress.scalar("objective", f64::INFINITY);
        let loss = progress.metric("gradient", "loss")? / progress.scalar("trained_rows", 1.0);
        let after = loss + progress.metric("screen", "penalty")?;
        let promised = progress.scalar("promised", 0.0);
        let kept = (before - after) / promised;
        let (radius, length) = (progress.scalar("radius", f64::INFINITY), progress.scalar("length", 0.0));
        if after.is_nan() || kept < PROMISED && after >= before {
            progress.copy(self.anchor, self.point);
            let back = progress.scalar("old_bias", 0.0);
            progress.set("bias", back);
            progress.set("radius", 0.25 * length.min(radius));
            let refusals = progress.scalar("refusals", 0.0) + 1.0;
            progress.set("refusals", refusals);
            // Near the optimum the decrease drowns in rounding: the point before is as good as it gets.
            if refusals >= REFUSALS || promised <= 1e-15 * before.abs() {
                return Ok(Flow::Stop("no step lowers the objective".to_owned()));
            }
            return Ok(Flow::Again);
        }
        progress.set("refusals", 0.0);
        let next = match kept {
            kept if kept < 0.25 => 0.25 * length,
            kept if kept > 0.75 => radius.max(4.0 * length),
            _ => radius,
        };
        progress.set("radius", next);
        progress.set("decrease", (before - after) / after.abs().max(f64::MIN_POSITIVE));
        certified(progress)
    }

    /// Plans a step.
    pub fn plan(self, steps: &mut Steps, threads: Threads, bias: bool) {
        for table in [self.step, self.residual, self.way] {
            steps.zero(table);
        }
        steps.stage("begin", move |worker| self.begin(worker)).threads(threads);
        steps.decide(move |progress| begun(progress, bias));
        steps.repeat(PRODUCTS, |product| {
            product.zero(self.product);
            product
                .stage("product", move |worker| with_smooth!(self.loss, loss => self.multiply(loss, worker)))
                .threads(threads)
                .input(self.rows.input);
            product.decide(move |progress| length(progress, bias));
            product.stage("conjugate", move |worker| self.conjugate(worker)).threads(threads);
            product.decide(move |progress| conjugated(progress, bias));
        });
        steps.copy(self.point, self.anchor);
        steps.stage("move", move |worker| self.go(worker)).threads(threads);
        steps.decide(|progress| {
            let (old, step) = (progress.scalar("bias", 0.0), progress.scalar("bias_step", 0.0));
            progress.set("old_bias", old);
            progress.set("bias", old + step);
            progress.set("tried", 1.0);
            progress.set("blank", 0.0);
            Ok(Flow::Next)
        });
    }

    /// r = -(g + l2 w), p = z = r / M. Reports `rz` and `p2`.
    fn begin(&self, worker: &mut Worker<'_>) -> Result<()> {
        let l2 = worker.scalar("l2", 0.0);
        let (mut weights, mut gradient, mut diagonal) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rz, mut p2) = (0.0, 0.0);
        ranges(worker, |worker, keys| {
            worker.get_range(self.point, keys.clone(), &mut weights)?;
            worker.get_range(self.gradient, keys.clone(), &mut gradient)?;
            worker.get_range(self.diagonal, keys.clone(), &mut diagonal)?;
            for (r, (w, m)) in gradient.iter_mut().zip(weights.iter().zip(&mut diagonal)) {
                *r = -(*r + l2 * w);
                *m = *r / scaling(*m, l2);
                rz += *r * *m;
                p2 += *m * *m;
            }
            worker.add_range(self.residual, keys.clone(), &gradient)?;
            worker.add_range(self.way, keys, &diagonal)
        })?;
        worker.report("rz", Metric::Sum(rz));
        worker.report("p2", Metric::Sum(p2));
        Ok(())
    }

    /// X^T D X p over this worker's rows. Reports `curved`, p^T X^T D X p, and `bias`, the intercept's part of the product.
    fn multiply(&self, loss: impl Smooth, worker: &mut Worker<'_>) -> Result<()> {
        let (task, bias) = (Task::of(worker), worker.scalar("bias_way", 0.0));
        let share = 1.0 / worker.scalar("trained_rows", 1.0);
        let scores = take_scores(worker, self.rows)?;
        let (mut way, mut product, mut next) = (Vec::new(), Vec::new(), scores.iter());
        let (mut curved, mut constant) = (0.0, 0.0);
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            worker.get_mapped(self.way, &part.map, &mut way)?;
            product.clear();
            product.resize(part.map.len(), 0.0);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                task.folds(worker, (self.rows.input, part.number_of(at), block.rows()), |folds| {
                    for (i, z) in (0..block.rows()).zip(&mut next) {
                        if folds.is_some_and(|(folds, held_out)| folds[i] == held_out) {
                            continue;
                        }
                        let row = block.row(i);
                        let curvature = loss.at(task.target(row.label), *z).curvature;
                        let by = share * task.weight(row.label) * curvature;
                        if by == 0.0 {
                            continue;
                        }
                        // SAFETY: `block` checked the indices.
                        let along = bias + unsafe { dot(&row, &way) };
                        curved += by * along * along;
                        constant += by * along;
                        // SAFETY: as above, and the product is as long as the way.
                        unsafe { add_scaled(&row, by * along, false, &mut product) };
                    }
                })?;
            }
            worker.add_mapped(self.product, &part.map, &product)?;
            if !part.is_all() {
                worker.clock()?;
            }
        }
        keep_scores(worker, self.rows, scores)?;
        worker.report("curved", Metric::Sum(curved));
        worker.report("bias", Metric::Sum(constant));
        Ok(())
    }

    /// d += a p, r -= a (X^T D X + l2) p, z = r / M, p = z + b p. Reports `rz` and `p2`, the squared norm of p.
    fn conjugate(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (l2, a) = (worker.scalar("l2", 0.0), worker.scalar("cg_length", 0.0));
        let (mut way, mut product, mut diagonal) = (Vec::new(), Vec::new(), Vec::new());
        let mut residual = Vec::new();
        // The intercept's part is counted once.
        let mut rz = if worker.place.index == 0 { worker.scalar("bias_rz_next", 0.0) } else { 0.0 };
        let mut moved = Vec::new();
        ranges(worker, |worker, keys| {
            worker.get_range(self.way, keys.clone(), &mut way)?;
            worker.get_range(self.product, keys.clone(), &mut product)?;
            worker.get_range(self.residual, keys.clone(), &mut residual)?;
            worker.get_range(self.diagonal, keys.clone(), &mut diagonal)?;
            moved.clear();
            moved.extend(way.iter().map(|p| a * p));
            worker.add_range(self.step, keys.clone(), &moved)?;
            for (((change, hp), p), (r, m)) in
                moved.iter_mut().zip(&product).zip(&way).zip(residual.iter().zip(&diagonal))
            {
                *change = -a * (hp + l2 * p);
                let r = r + *change;
                rz += r * r / scaling(*m, l2);
            }
            worker.add_range(self.residual, keys, &moved)
        })?;
        let mut sums = vec![rz];
        // What this stage changed is in the tables behind a clock.
        worker.clock()?;
        Reduce::new(self.sums, 1).sum(worker, &mut sums)?;
        let old = worker.scalar("cg_rz", 0.0);
        let b = if old > 0.0 { sums[0] / old } else { 0.0 };
        let mut p2 = 0.0;
        ranges(worker, |worker, keys| {
            worker.get_range(self.way, keys.clone(), &mut way)?;
            worker.get_range(self.residual, keys.clone(), &mut residual)?;
            worker.get_range(self.diagonal, keys.clone(), &mut diagonal)?;
            for (p, (r, m)) in way.iter_mut().zip(residual.iter().zip(&diagonal)) {
                let next = r / scaling(*m, l2) + b * *p;
                p2 += next * next;
                *p = next - *p;
            }
            worker.add_range(self.way, keys, &way)
        })?;
        worker.report("rz", Metric::Sum(if worker.place.index == 0 { sums[0] } else { 0.0 }));
        worker.report("p2", Metric::Sum(p2));
        Ok(())
    }

    /// w += d.
    fn go(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut step = Vec::new();
        ranges(worker, |worker, keys| {
            worker.get_range(self.step, keys.clone(), &mut step)?;
            worker.add_range(self.point, keys, &step)
        })
    }
}

/// The preconditioner of a feature.
fn scaling(diagonal: f64, l2: f64) -> f64 {
    let both = diagonal + l2;
    if both > 0.0 { both } else { 1.0 }
}

/// Sets the scalars of conjugate gradients at their start.
fn begun(progress: &mut Progress, bias: bool) -> Result<Flow> {
    let rows = progress.scalar("trained_rows", 1.0);
    let mut rz = progress.metric("begin", "rz")?;
    let p2 = progress.metric("begin", "p2")?;
    progress.set("bias_way", 0.0);
    if bias {
        let (slope, curvature) = (progress.metric("gradient", "slope")?, progress.metric("gradient", "curvature")?);
        let scaling = scaling(curvature / rows, 0.0);
        let way = -slope / rows / scaling;
        rz += scaling * way * way;
        progress.set("bias_way", way);
        progress.set("bias_residual", -slope / rows);
        progress.set("bias_scaling", scaling);
    }
    let size = rz.sqrt();
    let first = Some(progress.scalar("first_residual", 0.0)).filter(|first| *first > 0.0).unwrap_or(size);
    // The nearer the optimum, the better the step: then the last ones are few.
    let part = (size / first).sqrt().clamp(1e-3, 0.3);
    let named = [
        ("first_residual", first),
        ("cg_goal", part * part * rz),
        ("cg_rz", rz),
        ("cg_p2", p2),
        ("cg_dd", 0.0),
        ("cg_dp", 0.0),
        ("cg_pp", rz),
        ("bias_step", 0.0),
        ("promised", 0.0),
        ("length", 0.0),
    ];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    Ok(Flow::Next)
}

/// Behind a product: how far to go along p, at most to the radius.
fn length(progress: &mut Progress, bias: bool) -> Result<Flow> {
    let get = |name: &str| progress.scalar(name, 0.0);
    let (rz, radius) = (get("cg_rz"), progress.scalar("radius", f64::INFINITY));
    let (dd, dp, pp) = (get("cg_dd"), get("cg_dp"), get("cg_pp"));
    let curved = progress.metric("product", "curved")? + get("l2") * get("cg_p2");
    let after = |a: f64| dd + 2.0 * a * dp + a * a * pp;
    let mut a = if curved > 0.0 { rz / curved } else { f64::INFINITY };
    let beyond = !a.is_finite() || after(a) > radius * radius;
    if beyond {
        // The positive root of |d + a p| = radius; without a radius the diagonal alone says how far.
        let root = (dp * dp + pp * (radius * radius - dd).max(0.0)).sqrt();
        a = if radius.is_finite() && pp > 0.0 { (root - dp) / pp } else { 1.0 };
    }
    if rz == 0.0 {
        a = 0.0;
    }
    let promised = get("promised") + a * rz - 0.5 * a * a * curved;
    let named = [
        ("promised", promised),
        ("cg_length", a),
        ("cg_beyond", f64::from(u8::from(beyond))),
        ("cg_dd", after(a)),
        ("cg_dp", dp + a * pp),
        ("length", after(a).sqrt()),
    ];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    if bias {
        let product = progress.metric("product", "bias")?;
        let step = progress.scalar("bias_step", 0.0) + a * progress.scalar("bias_way", 0.0);
        let residual = progress.scalar("bias_residual", 0.0) - a * product;
        progress.set("bias_step", step);
        progress.set("bias_residual", residual);
        progress.set("bias_rz_next", residual * residual / progress.scalar("bias_scaling", 1.0));
    }
    Ok(Flow::Next)
}

/// Behind a step of conjugate gradients: whether it was the last.
fn conjugated(progress: &mut Progress, bias: bool) -> Result<Flow> {
    let (old, rz) = (progress.scalar("cg_rz", 0.0), progress.metric("conjugate", "rz")?);
    let p2 = progress.metric("conjugate", "p2")?;
    let b = if old > 0.0 { rz / old } else { 0.0 };
    if bias {
        let next = progress.scalar("bias_residual", 0.0) / progress.scalar("bias_scaling", 1.0);
        let way = next + b * progress.scalar("bias_way", 0.0);
        progress.set("bias_way", way);
    }
    let (dp, pp) = (b * progress.scalar("cg_dp", 0.0), rz + b * b * progress.scalar("cg_pp", 0.0));
    for (name, value) in [("cg_rz", rz), ("cg_p2", p2), ("cg_dp", dp), ("cg_pp", pp)] {
        progress.set(name, value);
    }
    let products = progress.scalar("products", 0.0) + 1.0;
    progress.set("products", products);
    let last = progress.scalar("cg_beyond", 0.0) > 0.0 || rz <= progress.scalar("cg_goal", 0.0) || !rz.is_finite();
    Ok(if last { Flow::Stop(String::new()) } else { Flow::Next })
}
