//! One pass over rows as they come from the reader: logistic regression by FTRL-proximal (McMahan et al., KDD 2013), row
//! after row.
//!
//! Of each feature the tables hold z and n, which add up, so several workers' changes may be added in any order:
//! ```text
//! w = 0 if |z| <= l1, else (sign(z) l1 - z) / ((beta + sqrt(n)) / alpha + l2)
//! z += g - (sqrt(n + g^2) - sqrt(n)) / alpha w;  n += g^2,  g = f'(w.x) x
//! ```
//! A worker reads what a few thousand rows need, learns from them one by one, and adds the changes; once it has seen many
//! rows for the number of features, it keeps a copy of all, and exchanges it less often, or not at all while no other takes
//! rows. The penalty of t rows is t times a row's share, as it is in the mean that is minimised. Invariant: each row's loss is taken before anything
//! is learnt from it, so their mean is what rows never seen would have cost; nothing waits for the end of the reading.

mod agreed;
mod batch;
mod doubt;
mod election;
mod join;
mod own;
mod rule;
mod sizes;

use crate::flags::{Common, Step};
use crate::logistic::{Judged, needed_len};
use crate::objective;
use crate::primal::ranges;
use crate::progressive::{self, Points};
use crate::vector::Vector;
use agreed::Agreed;
use batch::{Batch, Scratch};
use flexps_common::data::Block;
use flexps_common::data::block::Row;
use flexps_common::data::indexer::Indexer;
use flexps_common::metrics::{Metric, Scores};
use flexps_common::plan::{Consistency, Flow, Plan, Threads};
use flexps_common::value::Element;
use flexps_common::widest::widest;
use flexps_common::worker::{Pull, Worker};
use flexps_common::{Error, Result};
use own::{Own, Sums};
use rule::{Rule, State};
use sizes::{Sizes, Units};

/// Rows between two exchanges with the tables: enough to pay for a message, few enough for workers to hear of one another.
const ROWS: usize = 2048;
/// Scalars that say by what rule a model was made.
const RULE: [&str; 3] = ["alpha", "beta", "constant"];
/// Log odds that count at most.
const MOST_ODDS: f64 = 4.0;

/// The solver's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// What it shares with other jobs.
    pub common: &'a Common,
    /// The part of lambda that is L1.
    pub ratio: f64,
    /// alpha.
    pub step: Step,
    /// Workers; if none, as many as [`Threads::Cores`].
    pub threads: Option<u32>,
}

/// What the stage needs of the plan.
#[derive(Debug, Clone, Copy)]
struct Learn {
    input: flexps_common::plan::Input,
    /// z and n.
    sums: Sums,
    /// Those of rows in units, if they may have any.
    units: Option<Units>,
    /// The rule by which workers learn.
    agreed: Agreed,
    step: Step,
    /// Bytes that a worker may keep by feature.
    memory: u64,
    lambda: f64,
    ratio: f64,
    /// Whether what was learnt is asked for behind the pass.
    kept: bool,
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
        let (input, memory) = (inputs.rows.input, inputs.rows.memory);
        let weights = Vector::new(plan, "weights", common.bias);
        let features = plan.table("sums", 2);
        let sums = Sums { features, bias: common.bias.then(|| plan.table("bias-sums", 2)) };
        let lambda = common.lambda.unwrap_or(0.0);
        let kept = common.model.is_some() || inputs.validation.is_some();
        // A penalty is one of weights as they are.
        let units = (lambda == 0.0).then(|| Units::new(plan, common.bias));
        let (agreed, step, ratio) = (Agreed::new(plan), self.step, self.ratio);
        let learn = Learn { input, sums, units, agreed, step, memory, lambda, ratio, kept };
        let steps = &mut plan.body;
        let threads = self.threads.map_or(Threads::Cores, Threads::Count);
        // Nobody waits for a worker that reads more slowly.
        let asked = common.consistency();
        let consistency = if asked == Consistency::Bsp { Consistency::Asp } else { asked.of_same_keys() };
        steps
            .stage("stream", move |worker| learn.run(worker))
            .threads(threads)
            .consistency(consistency)
            .consumes(input);
        steps.decide(move |progress| {
            let facts = objective::facts(progress, input)?;
            let rows = progress.metric("stream", "rows")?;
            let loss = progress.metric("stream", "loss")? / rows;
            if !loss.is_finite() {
                return Err(Error::data("the loss is no number: values of very different size? scale the features"));
            }
            progress.set("progressive_loss", loss);
            progress.progressive = progressive::gather(progress, "stream", (rows as u64, loss))?;
            let doubts = [
                doubt::of(&progress.progressive),
                sizes::note(progress.metric("stream", "spread")?, progress.metric("stream", "units")? > 0.0),
            ];
            progress.notes.extend(doubts.into_iter().flatten());
            for (name, of) in
                [("progressive_accuracy", "right"), ("alpha", "alphas"), ("beta", "betas"), ("constant", "constants")]
            {
                let workers = if of == "right" { rows } else { progress.metric("stream", "workers")? };
                progress.set(name, progress.metric("stream", of)? / workers);
            }
            if let Some(auc) = progress.metric("stream", "auc").ok().filter(|auc| auc.is_finite()) {
                progress.set("progressive_auc", auc);
            }
            progress.set("rows", rows);
            progress.set("features", facts.features as f64);
            progress.set("lambda", lambda);
            progress.metrics.clear();
            Ok(Flow::Next)
        });
        if kept {
            steps.stage("weights", move |worker| learn.finish(worker, weights)).threads(threads);
            steps.decide(|progress| {
                for name in RULE {
                    let value = progress.metric("weights", name)?;
                    progress.set(name, value);
                }
                progress.metrics.clear();
                Ok(Flow::Next)
            });
        }
        if let Some(held_out) = inputs.validation {
            crate::validation::plan(steps, "validation", held_out, weights, threads);
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
    /// alpha and beta by a block's rows. alpha is one over a row's norm, which was best or near it on rows of 14, 40, 197 and
    /// 1500 features; beta a gradient, so that a feature that was seen a few times is no longer new. Where one label is rare
    /// most gradients are smaller, and weights go further: with l the log odds, 4 p (1 - p) = 1 / cosh^2 (l / 2) and
    /// sqrt l, both near the best on rows of ones with 4 % positives. The intercept's step has to be in no unit of the features:
    /// 1 would be that of an intercept alone, and less is better beside many non-zeros, one over the root of their number as of
    /// one of them; what lies between is near the best of both with 2 % positives as with half.
    fn rule(&self, block: &Block) -> Rule {
        let (sum, norms) = sizes(block);
        let norm = (norms / block.rows().max(1) as f64).sqrt().max(1e-30);
        let positives = block.labels.iter().filter(|label| **label > 0.0).count();
        let odds = (positives + 1) as f64 / (block.rows() - positives + 1) as f64;
        // A block of sorted rows may have but one label.
        let log_odds = odds.ln().abs().min(MOST_ODDS);
        let rare = (log_odds / 2.0).cosh().powi(-2);
        let alpha = match self.step {
            Step::Fixed(step) => step,
            Step::Auto => log_odds.max(1.0).sqrt() / norm,
        } as f32;
        let beta = (rare * sum / block.nonzeros().max(1) as f64).max(1e-30) as f32;
        let nonzeros = (block.nonzeros() as f64 / block.rows().max(1) as f64).max(1.0);
        let constant = (norm / nonzeros.powf(0.25)) as f32;
        Rule { alpha, beta, l1: 0.0, l2: 0.0, constant }
    }

    /// The stage function. Reports `loss`, `right`, `rows`, `auc`, its [`Points`], the sums over `workers` of `alphas`,
    /// `betas` and `constants`, and `spread` and `units`.
    fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut indexer, mut state, mut start) = (Indexer::default(), Vec::new(), Vec::new());
        let (mut own, mut scratch) = (Own::new(self.sums, self.memory), Scratch::default());
        let mut judged = Judged { scores: Some(Scores::default()), ..Judged::default() };
        let (mut rule, mut points) = (None::<Rule>, Points::default());
        let mut pass = worker.pass(self.input);
        let (mut taken, mut sizes) = (0, Sizes::new(self.units));
        while let Some((at, block)) = pass.next(worker)? {
            taken += 1;
            if block.rows() == 0 {
                continue;
            }
            // Blocks are taken in order: those between this worker's are others'.
            let alone = worker.place.slaves == 1 && at + 1 == taken && worker.takers(self.input) <= 1;
            let workers = worker.place.slaves as f64 * (at + 1) as f64 / taken as f64;
            let had = sizes.has_units();
            let block = sizes.fit(worker, block)?;
            let sums = self.units.filter(|_| sizes.has_units()).map_or(self.sums, |units| units.sums);
            let table = sums.features;
            if sizes.has_units() != had {
                own.turn(worker, sums)?;
                rule = None;
            }
            let rule = rule.insert(self.agreed.next(worker, rule, sizes.has_units(), || self.rule(&block))?);
            let covered = own.covers(worker, *rule, (needed_len(&block), block.nonzeros()), alone)?;
            let mut rows = 0..0;
            while rows.end < block.rows() {
                points.pass(worker, judged.rows, judged.loss);
                let most = points.left(judged.rows).min(ROWS);
                rows = rows.end..block.rows().min(rows.end + most);
                // All that take rows have seen about as many.
                let seen = (judged.rows + rows.len() as u64) as f64 * workers;
                rule.l1 = (self.lambda * self.ratio * seen) as f32;
                rule.l2 = (self.lambda * (1.0 - self.ratio) * seen) as f32;
                let nonzeros = block.offsets[rows.start] as usize..block.offsets[rows.end] as usize;
                let (block, rows, rule) = (&*block, rows.clone(), *rule);
                let (scratch, judged) = (&mut scratch, &mut judged);
                if covered {
                    let (places, (state, bias)) = (&block.indices[nonzeros.clone()], own.parts());
                    widest(Batch { block, rows, places, state, bias, rule, scratch, judged });
                    own.learnt(worker, nonzeros.len(), alone)?;
                    continue;
                }
                own.count(nonzeros.len());
                let (keys, places) = indexer.index(rows.clone().map(|i| block.row(i).indices));
                let mut known: State = [0.0; 2];
                match sums.bias {
                    None => worker.get(table, keys, &mut state)?,
                    Some(bias) => {
                        state.resize(2 * keys.len(), 0.0);
                        let ticket =
                            worker.start_get(&[Pull { table: table.id, keys }, Pull { table: bias.id, keys: &[0] }])?;
                        worker.finish_get(ticket, &mut [f32::wrap_mut(&mut state), f32::wrap_mut(&mut known)])?;
                    }
                }
                start.clone_from(&state);
                let known_start = known;
                let bias = sums.bias.map(|_| &mut known);
                let (in_batch, _) = state.as_chunks_mut();
                widest(Batch { block, rows, places, state: in_batch, bias, rule, scratch, judged });
                state.iter_mut().zip(&start).for_each(|(now, before)| *now -= before);
                worker.add(table, keys, &state)?;
                if let Some(table) = sums.bias {
                    worker.add(table, &[0], &[known[0] - known_start[0], known[1] - known_start[1]])?;
                }
                worker.clock()?;
            }
        }
        points.pass(worker, judged.rows, judged.loss);
        points.report(worker);
        if self.kept {
            own.give_back(worker)?;
        }
        judged.report(worker);
        if rule.is_some() && worker.place.threads > 1 {
            let units = self.found(worker)?.is_some();
            rule = self.agreed.get(worker, units)?.or(rule);
        }
        if let Some(Rule { alpha, beta, constant, .. }) = rule {
            worker.report("workers", Metric::Count(1));
            worker.report("alphas", Metric::Sum(f64::from(alpha)));
            worker.report("betas", Metric::Sum(f64::from(beta)));
            worker.report("constants", Metric::Sum(f64::from(constant)));
            worker.report("spread", Metric::Max(sizes.spread));
            worker.report("units", Metric::Max(f64::from(u8::from(sizes.has_units()))));
        }
        Ok(())
    }

    /// The tables of units, if a worker has found any.
    fn found(&self, worker: &mut Worker<'_>) -> Result<Option<Units>> {
        match self.units {
            Some(units) => Ok(units.found(worker)?.then_some(units)),
            None => Ok(None),
        }
    }

    /// The stage function behind it: makes the weights. Reports the scalars of [`RULE`].
    fn finish(&self, worker: &mut Worker<'_>, weights: Vector) -> Result<()> {
        let rows = worker.scalar("rows", 0.0);
        let units = self.found(worker)?;
        let plain = self.agreed.get(worker, false)?;
        let found = if units.is_some() { self.agreed.get(worker, true)? } else { plain };
        let found = found.ok_or_else(|| Error::bug("rows were learnt from, and no worker has a rule"))?;
        let l1 = (self.lambda * self.ratio * rows) as f32;
        let l2 = (self.lambda * (1.0 - self.ratio) * rows) as f32;
        let rule = Rule { l1, l2, ..found };
        for (name, value) in RULE.into_iter().zip([rule.alpha, rule.beta, rule.constant]) {
            worker.report(name, Metric::Max(f64::from(value)));
        }
        let (mut state, mut made) = (Vec::new(), Vec::new());
        ranges(worker, |worker, keys| {
            match units {
                Some(units) => made = units.weights(worker, keys.clone(), &rule, (self.sums.features, plain))?,
                None => {
                    worker.get_range(self.sums.features, keys.clone(), &mut state)?;
                    made.clear();
                    made.extend(state.chunks_exact(2).map(|zn: &[f32]| rule.weight([zn[0], zn[1]])));
                }
            }
            worker.add_range(weights.features, keys, &made)
        })?;
        let Some(table) = self.sums.bias.filter(|_| worker.place.index == 0) else { return Ok(()) };
        let bias = match units {
            Some(units) => units.intercept(worker, &rule, (table, plain))?,
            None => {
                worker.get(table, &[0], &mut state)?;
                rule.free().weight([state[0], state[1]])
            }
        };
        weights.add_bias(worker, bias)
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{self, Rows, run};
    use crate::flags::{Common, Step, TOLERANCE};
    use crate::lr::{Lr, Solver};
    use crate::newton::Problem;
    use flexps_common::data::Block;
    use flexps_common::host::Host;
    use std::collections::HashMap;

    pub(super) fn job(common: Common) -> Lr {
        let common = Common { model: Some(fixtures::path("model")), epochs: 1, tolerance: TOLERANCE, ..common };
        Lr { common, solver: Solver::Ftrl, ..Lr::default() }
    }

    #[test]
    fn one_pass_comes_near_the_optimum_and_its_progressive_loss_is_honest() {
        let blocks = Rows { rows: 20_000, features: 60, ..Rows::sparse(1) }.blocks(20);
        for bias in [false, true] {
            let problem = Problem { blocks: &blocks, lambda: 1e-9, bias, features: 60 };
            let best = problem.solve().1;
            for (slaves, slots) in [(1, 1), (1, 2), (3, 1), (2, 2)] {
                let common = Common { bias, ..fixtures::flags() };
                let outcome = run(Host::cluster(slaves, slots), &job(common), &blocks);
                let progressive = outcome.progress.scalars["progressive_loss"];
                // Every row was new when it was scored: never better than the best in hindsight, nor far from it.
                assert!(progressive > best && progressive < best + 0.06, "{progressive} against {best}");
                let points = &outcome.progress.progressive;
                assert!(points.windows(2).all(|two| two[0].rows < two[1].rows), "{points:?}");
                assert_eq!(points.last().map(|last| (last.rows, last.loss)), Some((20_000, progressive)));
                // At 128, 256, ... rows of a worker; the first rows were scored by next to no model.
                assert!(points.len() >= 6 && points[0].loss > progressive, "{points:?}");
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
    fn one_worker_does_what_the_formulas_say_wherever_the_rows_features_lie() {
        // Few features, more of them, one far away, few again: in a copy of all, a longer one, by key list, in a copy.
        let few = |seed| Rows { rows: 300, features: 60, ..Rows::sparse(seed) }.blocks(1).remove(0);
        let more = Rows { rows: 300, features: 900, ..Rows::sparse(2) }.blocks(1).remove(0);
        let far = fixtures::block(&[1.0, -1.0], &[&[(3, 0.5), (2_000_000, 1.0)], &[(5, 1.0), (2_000_000, -0.5)]]);
        let blocks = [few(1), more, far, few(3)];
        for bias in [false, true] {
            let job = Lr { step: Step::Fixed(0.5), ..job(Common { bias, ..fixtures::flags() }) };
            let outcome = run(Host::new(), &job, &blocks);
            let [beta, constant] = ["beta", "constant"].map(|name| outcome.progress.scalars[name]);
            // The intercept's value of 1 stands for one of the features' size.
            let size = |key: u32| if key == u32::MAX { constant } else { 1.0 };
            let alpha = |key: u32| 0.5 * size(key);
            let weight = |key: u32, [z, n]: [f64; 2]| -z / ((beta / size(key) + n.sqrt()) / alpha(key));
            let (mut state, mut loss, mut rows) = (HashMap::<u32, [f64; 2]>::new(), 0.0, 0.0);
            for block in &blocks {
                for row in (0..block.rows()).map(|i| block.row(i)) {
                    let values = row.values.unwrap().iter().map(|v| f64::from(*v));
                    let constant = bias.then_some((u32::MAX, 1.0));
                    let all: Vec<_> = row.indices.iter().copied().zip(values).chain(constant).collect();
                    let known = |key: &u32| state.get(key).copied().unwrap_or_default();
                    let score: f64 = all.iter().map(|(key, value)| value * weight(*key, known(key))).sum();
                    let y = f64::from(row.label);
                    loss += (-y * score).exp().ln_1p();
                    rows += 1.0;
                    for (key, value) in all {
                        let [z, n] = state.entry(key).or_default();
                        let (w, g) = (weight(key, [*z, *n]), -y / (1.0 + (y * score).exp()) * value);
                        *z += g - ((*n + g * g).sqrt() - n.sqrt()) / alpha(key) * w;
                        *n += g * g;
                    }
                }
            }
            let progressive = outcome.progress.scalars["progressive_loss"];
            assert!((progressive - loss / rows).abs() < 1e-5, "{progressive}, not {}", loss / rows);
            let found = outcome.table("weights", 0..2_000_001);
            for (key, known) in state {
                let found = if key == u32::MAX { outcome.table("bias", 0..1)[0] } else { found[key as usize] };
                let weight = weight(key, known);
                assert!((found - weight).abs() < 1e-4, "{key}: {found}, not {weight}");
            }
        }
    }

    #[test]
    fn a_rare_label_is_learnt_about_as_fast_as_a_frequent_one() {
        // One row in 25 has a feature that tells its label.
        let rows: Vec<[(u32, f32); 2]> =
            (0..3000).map(|i| [(i % 40, 1.0), (40 + u32::from(i % 25 == 0), 1.0)]).collect();
        let rows: Vec<&[(u32, f32)]> = rows.iter().map(|row| &row[..]).collect();
        let labels: Vec<f32> = (0..3000).map(|i| if i % 25 == 0 { 1.0 } else { -1.0 }).collect();
        let outcome = run(Host::new(), &job(fixtures::flags()), &[fixtures::block(&labels, &rows)]);
        // What always the same probability costs.
        let blind = -(0.04f64 * 0.04f64.ln() + 0.96 * 0.96f64.ln());
        let progressive = outcome.progress.scalars["progressive_loss"];
        assert!(progressive < blind / 30.0, "{progressive} against {blind}");
    }

    /// `blocks` with all values times `by`.
    fn scaled(blocks: &[Block], by: f32) -> Vec<Block> {
        let mut blocks = blocks.to_vec();
        blocks.iter_mut().flat_map(|block| block.values.as_mut().unwrap()).for_each(|value| *value *= by);
        blocks
    }

    #[test]
    fn an_intercept_is_learnt_alike_in_any_unit_of_the_features() {
        let mut rare = Rows { rows: 8000, features: 60, ..Rows::sparse(3) }.blocks(8);
        let frequent = rare.clone();
        // One of 20 positive rows remains one: nearly all is told by the intercept.
        let labels = rare.iter_mut().flat_map(|block| &mut block.labels).filter(|label| **label > 0.0);
        labels.enumerate().filter(|(i, _)| i % 20 > 0).for_each(|(_, label)| *label = -1.0);
        for (blocks, slaves, slots) in [(&rare, 1, 1), (&frequent, 1, 1), (&frequent, 1, 2), (&rare, 3, 1)] {
            let loss = |by| {
                let job = job(Common { bias: true, ..fixtures::flags() });
                let outcome = run(Host::cluster(slaves, slots), &job, &scaled(blocks, by));
                assert_eq!(outcome.progress.notes, Vec::<String>::new());
                outcome.progress.scalars["progressive_loss"]
            };
            let usual = loss(1.0);
            assert!(usual < if std::ptr::eq(blocks, &rare) { 0.2 } else { 0.6 }, "{usual}");
            for by in [1e-12, 1e-6, 1e-3, 1e3, 1e6] {
                assert!((loss(by) / usual - 1.0).abs() < 1e-3, "{by}: {} against {usual}", loss(by));
            }
        }
    }

    #[test]
    fn rows_that_outgrow_the_first_ones_are_told_of() {
        let blocks = Rows { rows: 6000, features: 60, ..Rows::sparse(3) }.blocks(6);
        let mut grown = scaled(&blocks, 1e3);
        grown[0] = blocks[0].clone();
        let notes = |blocks: &[Block]| run(Host::new(), &job(fixtures::flags()), blocks).progress.notes;
        assert_eq!(notes(&blocks), Vec::<String>::new());
        let notes = notes(&grown);
        assert!(notes.len() == 1 && notes[0].contains("scale the features, or give a shorter --step"), "{notes:?}");
    }

    #[test]
    fn an_l1_penalty_leaves_weights_at_zero() {
        let blocks = Rows { rows: 4000, features: 400, ..Rows::sparse(2) }.blocks(4);
        let nonzero = |penalty, lambda| {
            let job = Lr { penalty, ..job(Common { lambda: Some(lambda), ..fixtures::flags() }) };
            let outcome = run(Host::new(), &job, &blocks);
            assert_eq!(outcome.progress.scalars["lambda"], lambda);
            outcome.table("weights", 0..400).iter().filter(|w| **w != 0.0).count()
        };
        use crate::primal::flags::Kind::{L1, L2};
        assert!(nonzero(L2, 1e-3) > 390);
        assert!(nonzero(L1, 1e-3) < 300 && nonzero(L1, 1.0) == 0);
        let none = run(Host::new(), &job(fixtures::flags()), &blocks);
        assert_eq!(none.progress.scalars["lambda"], 0.0, "what is told where none is given");
    }
}
