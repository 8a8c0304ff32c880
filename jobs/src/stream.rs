//! One pass over rows as they come from the reader: logistic regression by FTRL-proximal (McMahan et al., KDD 2013), row
//! after row.
//!
//! Of each feature the tables hold z and n, which add up, so several workers' changes may be added in any order:
//! ```text
//! w = 0 if |z| <= l1, else (sign(z) l1 - z) / ((beta + sqrt(n)) / alpha + l2)
//! z += g - (sqrt(n + g^2) - sqrt(n)) / alpha w;  n += g^2,  g = f'(w.x) x
//! ```
//! A worker reads what a few thousand rows need, learns from them one by one, and adds the changes. The penalty of t rows
//! is t times a row's share, as it is in the mean that is minimised. Invariant: each row's loss is taken before anything
//! is learnt from it, so their mean is what rows never seen would have cost; nothing waits for the end of the reading.

use crate::flags::{Common, Step};
use crate::logistic::loss_and_slope;
use crate::primal::ranges;
use crate::progressive::{self, Points};
use crate::vector::Vector;
use flexps_common::data::Block;
use flexps_common::data::block::Row;
use flexps_common::data::indexer::Indexer;
use flexps_common::metrics::{Metric, Scores};
use flexps_common::plan::{Consistency, Flow, Plan, Table, Threads};
use flexps_common::value::Element;
use flexps_common::worker::{Pull, Worker};
use flexps_common::{Error, Result};

/// Rows between two exchanges with the tables: enough to pay for a message, few enough for workers to hear of one another.
const ROWS: usize = 2048;

/// The solver's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// What it shares with other jobs.
    pub common: &'a Common,
    /// The part of lambda that is L1.
    pub ratio: f64,
    /// alpha.
    pub step: Step,
    /// Workers; all slots if none.
    pub threads: Option<u32>,
}

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
struct Learn {
    input: flexps_common::plan::Input,
    /// z and n.
    state: Table<f32>,
    /// Those of the intercept, at key 0.
    bias: Option<Table<f32>>,
    step: Step,
    lambda: f64,
    ratio: f64,
}

/// What turns z and n into a weight.
#[derive(Debug, Clone, Copy)]
struct Rule {
    alpha: f32,
    beta: f32,
    l1: f32,
    l2: f32,
}

impl Rule {
    #[inline(always)]
    fn weight(&self, z: f32, n: f32) -> f32 {
        self.weight_by_root(z, n.sqrt())
    }

    /// The weight, of z and the root of n. No branch: which of a row's features have a weight can't be foreseen.
    #[inline(always)]
    fn weight_by_root(&self, z: f32, root: f32) -> f32 {
        let beyond = (z.abs() - self.l1).max(0.0);
        0.0 - beyond.copysign(z) / ((self.beta + root) / self.alpha + self.l2)
    }

    /// What a gradient adds to z and n, `root` being the root of n.
    #[inline(always)]
    fn change(&self, (weight, root): (f32, f32), n: f32, gradient: f32) -> [f32; 2] {
        let square = gradient * gradient;
        [gradient - ((n + square).sqrt() - root) / self.alpha * weight, square]
    }
}

impl Stream<'_> {
    /// Plans the job.
    pub fn plan(&self, plan: &mut Plan) -> Result<()> {
        let common = self.common;
        common.check()?;
        if common.init_model.is_some() {
            return Err(Error::user(
                "ftrl can't start from a model (--init-model): it would need the gradients' sums too",
            ));
        }
        let inputs = common.inputs(plan)?;
        let input = inputs.rows.input;
        let weights = Vector::new(plan, "weights", common.bias);
        let state = plan.table("sums", 2);
        let bias = common.bias.then(|| plan.table("bias-sums", 2));
        let lambda = common.lambda.unwrap_or(0.0);
        let learn = Learn { input, state, bias, step: self.step, lambda, ratio: self.ratio };
        let steps = &mut plan.body;
        let threads = self.threads.map_or(Threads::All, Threads::Count);
        // Nobody waits for a worker that reads more slowly.
        let asked = common.consistency();
        let consistency = if asked == Consistency::Bsp { Consistency::Asp } else { asked.of_same_keys() };
        steps.stage("stream", move |worker| learn.run(worker)).threads(threads).consistency(consistency).input(input);
        steps.decide(move |progress| {
            let facts = progress.facts.get(input.id.0 as usize).cloned().flatten();
            let facts = facts.ok_or_else(|| Error::bug("the rows are read, but their facts are not there"))?;
            let rows = progress.metric("stream", "rows")?;
            let loss = progress.metric("stream", "loss")? / rows;
            if !loss.is_finite() {
                return Err(Error::data("the loss is no number: values of very different size? scale the features"));
            }
            progress.set("progressive_loss", loss);
            progress.progressive = progressive::gather(progress, "stream", (rows as u64, loss))?;
            for (name, of) in [("progressive_accuracy", "right"), ("alpha", "alphas"), ("beta", "betas")] {
                let workers = if of == "right" { rows } else { progress.metric("stream", "workers")? };
                progress.set(name, progress.metric("stream", of)? / workers);
            }
            if let Some(auc) = progress.metric("stream", "auc").ok().filter(|auc| auc.is_finite()) {
                progress.set("progressive_auc", auc);
            }
            progress.set("rows", rows);
            progress.set("features", facts.features as f64);
            progress.metrics.clear();
            Ok(Flow::Next)
        });
        steps.stage("weights", move |worker| learn.finish(worker, weights));
        if let Some(held_out) = inputs.validation {
            crate::validation::plan(steps, "validation", held_out, weights);
            steps.decide(|progress| crate::validation::note(progress, "validation").map(|()| Flow::Next));
        }
        common.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }
}

/// Sizes of a block's rows: the sum of |x| over the non-zeros, and the sum of the squared norms.
fn sizes(block: &Block) -> (f64, f64) {
    let sum =
        |row: Row<'_>| row.values.map_or(row.indices.len() as f64, |v| v.iter().map(|v| f64::from(v.abs())).sum());
    ((0..block.rows()).map(|i| sum(block.row(i))).sum(), (0..block.rows()).map(|i| block.row(i).norm2()).sum())
}

impl Learn {
    /// alpha and beta by the sizes of a block's rows: alpha is one over a row's norm, which was best or near it on rows of
    /// 40, 50 and 1500 features, and a feature that was seen a few times is no longer new.
    fn rule(&self, block: &Block) -> Rule {
        let (sum, norms) = sizes(block);
        let norm = (norms / block.rows().max(1) as f64).sqrt().max(1e-30) as f32;
        let alpha = match self.step {
            Step::Fixed(step) => step as f32,
            Step::Auto => 1.0 / norm,
        };
        Rule { alpha, beta: (sum / block.nonzeros().max(1) as f64).max(1e-30) as f32, l1: 0.0, l2: 0.0 }
    }

    /// The stage function. Reports `loss`, `right`, `rows`, `auc`, its [`Points`], and the sums over `workers` of `alphas` and `betas`.
    fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut indexer, mut state, mut start) = (Indexer::default(), Vec::new(), Vec::new());
        let (mut loss, mut right, mut rows, mut scores) = (0.0, 0u64, 0u64, Scores::default());
        let (mut rule, mut weights, mut points) = (None::<Rule>, Vec::new(), Points::default());
        let mut pass = worker.pass(self.input);
        while let Some((_, block)) = pass.next(worker)? {
            let rule = rule.get_or_insert_with(|| self.rule(&block));
            for from in (0..block.rows()).step_by(ROWS) {
                let to = block.rows().min(from + ROWS);
                // All workers have seen about as many.
                let seen = (rows + (to - from) as u64) as f64 * worker.place.threads as f64;
                rule.l1 = (self.lambda * self.ratio * seen) as f32;
                rule.l2 = (self.lambda * (1.0 - self.ratio) * seen) as f32;
                let (keys, places) = indexer.index((from..to).map(|i| block.row(i).indices));
                let mut bias = [0.0f32; 2];
                match self.bias {
                    None => worker.get(self.state, keys, &mut state)?,
                    Some(table) => {
                        state.resize(2 * keys.len(), 0.0);
                        let ticket = worker
                            .start_get(&[Pull { table: self.state.id, keys }, Pull { table: table.id, keys: &[0] }])?;
                        worker.finish_get(ticket, &mut [f32::wrap_mut(&mut state), f32::wrap_mut(&mut bias)])?;
                    }
                }
                start.clone_from(&state);
                let bias_start = bias;
                let mut at = 0;
                for i in from..to {
                    let row = block.row(i);
                    let places = &places[at..at + row.indices.len()];
                    at += row.indices.len();
                    let state = (&mut state[..], self.bias.map(|_| &mut bias));
                    let score = rule.learn(&row, places, state, &mut weights, &mut loss);
                    right += u64::from((score > 0.0) == (row.label > 0.0));
                    scores.add(score, row.label > 0.0);
                    rows += 1;
                    points.pass(worker, rows, loss);
                }
                state.iter_mut().zip(&start).for_each(|(now, before)| *now -= before);
                worker.add(self.state, keys, &state)?;
                if let Some(table) = self.bias {
                    worker.add(table, &[0], &[bias[0] - bias_start[0], bias[1] - bias_start[1]])?;
                }
                worker.clock()?;
            }
        }
        worker.report("loss", Metric::Sum(loss));
        worker.report("right", Metric::Count(right));
        worker.report("rows", Metric::Count(rows));
        worker.report("auc", Metric::Auc(scores.into_sketch()));
        points.report(worker);
        if let Some(Rule { alpha, beta, .. }) = rule {
            worker.report("workers", Metric::Count(1));
            worker.report("alphas", Metric::Sum(f64::from(alpha)));
            worker.report("betas", Metric::Sum(f64::from(beta)));
        }
        Ok(())
    }

    /// The stage function behind it: makes the weights.
    fn finish(&self, worker: &mut Worker<'_>, weights: Vector) -> Result<()> {
        let rows = worker.scalar("rows", 0.0);
        let rule = Rule {
            alpha: worker.scalar("alpha", 1.0) as f32,
            beta: worker.scalar("beta", 1.0) as f32,
            l1: (self.lambda * self.ratio * rows) as f32,
            l2: (self.lambda * (1.0 - self.ratio) * rows) as f32,
        };
        let (mut state, mut made) = (Vec::new(), Vec::new());
        ranges(worker, |worker, keys| {
            worker.get_range(self.state, keys.clone(), &mut state)?;
            made.clear();
            made.extend(state.chunks_exact(2).map(|zn: &[f32]| rule.weight(zn[0], zn[1])));
            worker.add_range(weights.features, keys, &made)
        })?;
        let Some(table) = self.bias.filter(|_| worker.place.index == 0) else { return Ok(()) };
        worker.get(table, &[0], &mut state)?;
        let free = Rule { l1: 0.0, l2: 0.0, ..rule };
        weights.add_bias(worker, free.weight(state[0], state[1]))
    }
}

impl Rule {
    /// Scores a row, adds its loss, and learns from it. `weights` is room for the row's weights, so that none is made twice.
    #[inline]
    fn learn(
        &self,
        row: &Row<'_>,
        places: &[u32],
        (state, bias): (&mut [f32], Option<&mut [f32; 2]>),
        weights: &mut Vec<(f32, f32)>,
        loss: &mut f64,
    ) -> f32 {
        let value = |at: usize| row.values.map_or(1.0, |v| v[at]);
        let free = Rule { l1: 0.0, l2: 0.0, ..*self };
        let constant = bias.as_ref().map_or(0.0, |zn| free.weight(zn[0], zn[1]));
        weights.clear();
        weights.extend(places.iter().map(|place| {
            let at = 2 * *place as usize;
            let root = state[at + 1].sqrt();
            (self.weight_by_root(state[at], root), root)
        }));
        let score = constant + weights.iter().enumerate().map(|(at, (weight, _))| value(at) * weight).sum::<f32>();
        let (row_loss, slope) = loss_and_slope(row.label, row.label * score);
        *loss += row_loss;
        for (at, (place, weight)) in places.iter().zip(&*weights).enumerate() {
            let from = 2 * *place as usize;
            let change = self.change(*weight, state[from + 1], slope * value(at));
            state[from] += change[0];
            state[from + 1] += change[1];
        }
        if let Some(zn) = bias {
            let change = free.change((constant, zn[1].sqrt()), zn[1], slope);
            zn[0] += change[0];
            zn[1] += change[1];
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{self, Rows, run};
    use crate::flags::Common;
    use crate::lr::{Lr, Solver};
    use crate::newton::Problem;
    use flexps_common::host::Host;

    fn job(common: Common) -> Lr {
        Lr { common, solver: Solver::Ftrl, batch: 100, ..Lr::default() }
    }

    #[test]
    fn one_pass_comes_near_the_optimum_and_its_progressive_loss_is_honest() {
        let blocks = Rows { rows: 20_000, features: 60, ..Rows::sparse(1) }.blocks(20);
        for bias in [false, true] {
            let problem = Problem { blocks: &blocks, lambda: 1e-9, bias, features: 60 };
            let best = problem.solve().1;
            for (slaves, slots) in [(1, 1), (1, 2), (3, 1)] {
                let common = Common { bias, ..fixtures::flags() };
                let outcome = run(Host::cluster(slaves, slots), &job(common), &blocks);
                let progressive = outcome.progress.scalars["progressive_loss"];
                let points = &outcome.progress.progressive;
                assert!(points.windows(2).all(|two| two[0].rows < two[1].rows), "{points:?}");
                assert_eq!(points.last().map(|last| (last.rows, last.loss)), Some((20_000, progressive)));
                // At 128, 256, ... rows of a worker; the first rows were scored by next to no model.
                assert!(points.len() >= 6 && points[0].loss > progressive, "{points:?}");
                // Every row was new when it was scored: never better than the best in hindsight, nor far from it.
                assert!(progressive > best && progressive < best + 0.06, "{progressive} against {best}");
                let mut model = outcome.table("weights", 0..60);
                if bias {
                    model.extend(outcome.table("bias", 0..1));
                }
                let reached = problem.objective(&model);
                assert!((reached - best) / best < 0.04, "{slaves} x {slots}: {reached} against {best}");
            }
        }
    }

    #[test]
    fn an_l1_penalty_leaves_weights_at_zero() {
        let blocks = Rows { rows: 4000, features: 400, ..Rows::sparse(2) }.blocks(4);
        let nonzero = |penalty, lambda| {
            let job = Lr { penalty, ..job(Common { lambda: Some(lambda), ..fixtures::flags() }) };
            run(Host::new(), &job, &blocks).table("weights", 0..400).iter().filter(|w| **w != 0.0).count()
        };
        use crate::primal::flags::Kind::{L1, L2};
        assert!(nonzero(L2, 1e-3) > 390);
        assert!(nonzero(L1, 1e-3) < 300 && nonzero(L1, 1.0) == 0);
    }
}
