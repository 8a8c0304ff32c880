//! Newton's method with conjugate gradients preconditioned by the diagonal, each step gone as far as it leads down.
//!
//! Each product of the second derivative with a vector is a wide stage over rows; all vectors lie in tables, spread over
//! the slaves, and the stages over features take ranges of them, so no worker ever holds a vector of all features of the
//! input. The intercept's parts of the vectors are scalars of the job. Invariant: the objective never rises, but for rounding; of the hinge
//! that is the smooth one of `multipliers`, while its own may rise from round to round.

use super::gradient::{add_scaled, block, dot};
use super::kept::{SCORES, keep, take_scores};
use super::loss::{Smooth, with_smooth};
use super::multipliers::{self, Centres};
use super::reduce::Reduce;
use super::screen::ranges;
use super::search::Line;
use super::task::Task;
use crate::parts::{Parts, Rows};
use crate::sdca::loss::Kind;
use flexps_common::Result;
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Plan, Progress, Steps, Table, Threads};
use flexps_common::worker::Worker;

/// Products of a step at most.
const PRODUCTS: u64 = 300;
/// A way that is bent by no more than this part of its size is straight.
const FLAT: f64 = 1e-15;

/// Its tables.
#[derive(Debug, Clone, Copy)]
pub struct Newton {
    rows: Rows,
    loss: Kind,
    point: Table<f64>,
    gradient: Table<f64>,
    /// The diagonal of the losses' second derivative.
    pub diagonal: Table<f64>,
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
            step: table("step"),
            residual: table("residual"),
            way: table("direction"),
            product: table("product"),
        }
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
        steps
            .stage("search", move |worker| with_smooth!(self.loss, loss => self.search(loss, worker)))
            .threads(threads)
            .input(self.rows.input);
        steps.decide(|progress| {
            let [length, lower] = ["length", "lower"].map(|name| progress.metric("search", name));
            let (length, lower) = (length?, lower?);
            let (bias, objective) = (progress.scalar("bias", 0.0), progress.scalar("objective", 1.0));
            let step = progress.scalar("bias_step", 0.0);
            let decrease = lower / (objective - lower).abs().max(f64::MIN_POSITIVE);
            let named = [
                ("length", length),
                ("bias", bias + length * step),
                ("decrease", decrease),
                ("scored", 1.0),
                ("blank", 0.0),
            ];
            named.into_iter().for_each(|(name, value)| progress.set(name, value));
            multipliers::stepped(progress, decrease);
            Ok(Flow::Next)
        });
        steps.stage("move", move |worker| self.go(worker)).threads(threads);
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
    fn multiply<L: Smooth>(&self, loss: L, worker: &mut Worker<'_>) -> Result<()> {
        let (task, bias) = (Task::of(worker), worker.scalar("bias_way", 0.0));
        let share = 1.0 / worker.scalar("trained_rows", 1.0);
        let (scores, centres) = (take_scores(worker, self.rows)?, Centres::take::<L>(worker, self.rows)?);
        let loss = centres.loss(loss);
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
                        let point = centres.point((part.start + at, i), *z);
                        let curvature = loss.at(task.target(row.label), point).curvature;
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
        keep(worker, self.rows, SCORES, scores)?;
        centres.keep(worker, self.rows)?;
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

    /// Looks for the least along d. Reports `length` and by how much the objective is `lower` there; leaves the scores there.
    fn search<L: Smooth>(&self, loss: L, worker: &mut Worker<'_>) -> Result<()> {
        let (task, bias, l2) = (Task::of(worker), worker.scalar("bias_step", 0.0), worker.scalar("l2", 0.0));
        let (mut weights, mut step, mut along) = (Vec::new(), Vec::new(), vec![0.0; 2]);
        ranges(worker, |worker, keys| {
            worker.get_range(self.point, keys.clone(), &mut weights)?;
            worker.get_range(self.step, keys, &mut step)?;
            for (w, d) in weights.iter().zip(&step) {
                along[0] += l2 * w * d;
                along[1] += l2 * d * d;
            }
            Ok(())
        })?;
        let (mut scores, centres) = (take_scores(worker, self.rows)?, Centres::take::<L>(worker, self.rows)?);
        let (mut targets, mut moves, mut points) = (Vec::new(), Vec::new(), Vec::new());
        let mut parts = Parts::new(worker, self.rows)?;
        while let Some(part) = parts.next(worker)? {
            worker.get_mapped(self.step, &part.map, &mut step)?;
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                task.targets(worker, (self.rows.input, part.number_of(at)), &block, &mut targets)?;
                let own = scores[points.len()..].iter().take(block.rows()).enumerate();
                points.extend(own.map(|(i, z)| centres.point((part.start + at, i), *z)));
                // SAFETY: `block` checked the indices.
                moves.extend(block.iter().map(|row| bias + unsafe { dot(&row, &step) }));
            }
        }
        let mut reduce = Reduce::new(self.sums, 3);
        reduce.sum(worker, &mut along)?;
        let rows = worker.scalar("trained_rows", 1.0);
        let line = Line { targets, scores: points, moves, rows, penalty: [along[0], along[1]] };
        let (length, lower) = line.least(centres.loss(loss), worker, &mut reduce)?;
        scores.iter_mut().zip(&line.moves).for_each(|(z, d)| *z += length * d);
        keep(worker, self.rows, SCORES, scores)?;
        centres.keep(worker, self.rows)?;
        worker.report("length", Metric::Max(length));
        worker.report("lower", Metric::Max(lower));
        Ok(())
    }

    /// w += length d.
    fn go(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut step, length) = (Vec::new(), worker.scalar("length", 0.0));
        ranges(worker, |worker, keys| {
            worker.get_range(self.step, keys.clone(), &mut step)?;
            step.iter_mut().for_each(|d| *d *= length);
            worker.add_range(self.point, keys, &step)
        })
    }
}

/// Behind a certificate that is not enough: stops where no step lowered the objective.
pub fn judge(progress: &mut Progress, bias: bool) -> Result<Flow> {
    let stuck = progress.scalar("length", 1.0) == 0.0;
    multipliers::judge(progress, bias, stuck)
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
        let stiff = (multipliers::stiff(progress) - curvature / rows).max(0.0);
        progress.set("bias_stiff", stiff);
        let scaling = scaling(curvature / rows, stiff);
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
        ("cg_steps", 0.0),
        ("bias_step", 0.0),
    ];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    Ok(Flow::Next)
}

/// Behind a product: how far to go along p.
fn length(progress: &mut Progress, bias: bool) -> Result<Flow> {
    let get = |name: &str| progress.scalar(name, 0.0);
    let rz = get("cg_rz");
    let stiff = if bias { get("bias_stiff") * get("bias_way") } else { 0.0 };
    let curved = progress.metric("product", "curved")? + get("l2") * get("cg_p2") + stiff * get("bias_way");
    // Where nothing bends the objective, p is all that the step can be.
    let straight = rz > 0.0 && (curved.is_nan() || curved <= FLAT * rz);
    let a = match straight {
        true => f64::from(u8::from(get("cg_steps") == 0.0)),
        false if rz == 0.0 => 0.0,
        false => rz / curved,
    };
    let named = [("cg_length", a), ("cg_straight", f64::from(u8::from(straight))), ("cg_steps", get("cg_steps") + 1.0)];
    named.into_iter().for_each(|(name, value)| progress.set(name, value));
    if bias {
        let product = progress.metric("product", "bias")? + stiff;
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
    progress.set("cg_rz", rz);
    progress.set("cg_p2", p2);
    let products = progress.scalar("products", 0.0) + 1.0;
    progress.set("products", products);
    let last = progress.scalar("cg_straight", 0.0) > 0.0 || rz <= progress.scalar("cg_goal", 0.0) || !rz.is_finite();
    Ok(if last { Flow::Stop(String::new()) } else { Flow::Next })
}
