//! Stochastic dual coordinate ascent (Shalev-Shwartz and Zhang, JMLR 2013): linear models with an L2 penalty, trained to
//! a certified distance from the optimum.
//!
//! minimise P(w, b) = (1/n) sum c f(y (w.x + b)) + lambda/2 |w|^2, c being the weight of a row's class, by maximising its
//! dual, one row's variable after the other. Every worker goes over its own rows with its own copy of the weights; copies
//! are joined a few times an epoch, those of several slaves mostly in the few features that couple their rows. Where joins
//! cost more than they bring, one worker of each slave goes alone. Where the gap falls slowly one slave's workers go on from
//! where a sweep led. A job ends when the duality gap is less than the
//! tolerance's part of P; of several classes each is such a problem, on the rows that were read once. Invariant: the
//! weights are those that the dual variables give, but for rounding, whatever the workers' number.

mod adopt;
pub mod alone;
mod bias;
mod classes;
mod couple;
mod crowd;
pub mod fast;
mod join;
pub mod loss;
pub mod pace;
mod rests;
mod rows;
mod stages;
mod steps;
mod stop;
mod subspace;
mod visit;

use crate::best::Best;
use crate::flags::{Common, Inputs, Model};
use crate::primal::judge::Judge;
use crate::primal::loss::with_smooth;
use crate::primal::measure::Measure;
use crate::primal::{flags::ClassWeights, problems};
use crate::vector::Vector;
use crate::{objective, validation};
use adopt::Adopt;
use alone::Case;
use clap::Args;
use classes::Classes;
use flexps_common::data::Wanted;
use flexps_common::plan::{Flow, Plan, Steps, Threads};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use join::Tables;
use loss::{Kind, with_loss};
use serde::{Deserialize, Serialize};
use stages::Stages;
use stop::Stop;

/// Of smaller files one worker learns as fast as one in each of two processes, whose joins go by messages; where rows have
/// little in common with the penalty, much faster.
const SLAVE_BYTES: u64 = 128 << 20;

/// The solver's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Sdca<'a> {
    /// What it shares with other jobs.
    pub common: &'a Common,
    /// f.
    pub loss: Kind,
    /// Workers; if none, as many as [`Threads::Cores`].
    pub threads: Option<u32>,
    /// What rows of a class count.
    pub class_weight: Option<&'a ClassWeights>,
    /// Its own.
    pub flags: Flags,
}

/// The flags that every job with this solver has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
// A job has both, and the groups that clap makes go by the name of the struct.
#[group(skip)]
pub struct Flags {
    /// sdca: joins of the workers' copies of the weights in an epoch; of several slaves all but the last are
    /// of those features alone that couple their rows [default: none where one worker of a slave is faster
    /// alone, else 8; of one slave's workers more for tighter tolerances and for the hinge, as far as
    /// features are few beside non-zeros; of slaves with more than 8192 features 8, or 64 below 1e-3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub joins: Option<u32>,

    /// sdca: how much the workers' ways are taken to overlap, from 1, not at all, to their number, wholly [default:
    /// 0.3 and half of their number; wholly where rows come in parts]
    #[arg(long, value_name = "TIMES", value_parser = crate::flags::positive)]
    pub overlap: Option<f64>,
}

impl Flags {
    /// Refuses them where another solver is the one.
    pub fn refuse(self) -> Result<()> {
        let given = [(self.joins.is_some(), "--joins"), (self.overlap.is_some(), "--overlap")];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(Error::user(format!(
                "{flag} goes with --solver sdca, which is not the one that the other flags ask for; leave {flag} out"
            ))),
            None => Ok(()),
        }
    }
}

impl Sdca<'_> {
    /// Plans the job.
    pub fn plan(&self, plan: &mut Plan) -> Result<()> {
        self.check()?;
        let inputs = self.common.inputs_as(plan, Wanted::Classes)?;
        let weights = Vector::new(plan, "weights", self.common.bias);
        self.measure(plan, inputs);
        self.solve(plan, inputs, weights);
        self.common.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }

    fn workers(&self) -> Threads {
        self.threads.map_or(Threads::Cores, Threads::Count)
    }

    /// Plans the first pass.
    pub fn measure(&self, plan: &mut Plan, inputs: Inputs) {
        let input = inputs.rows.input;
        plan.slave_bytes = SLAVE_BYTES;
        plan.body.stage("measure", move |worker| rows::measure(worker, input)).threads(self.workers()).input(input);
    }

    /// Plans what is behind it.
    pub fn solve(&self, plan: &mut Plan, inputs: Inputs, weights: Vector) {
        let flags = self.common;
        let (rows, input) = (inputs.rows, inputs.rows.input);
        let terms = plan.table("terms", join::TERMS as u32);
        let tables = Tables { weights: weights.features, terms, way: plan.table("way", 1) };
        let threads = self.workers();
        if let Some(overlap) = self.flags.overlap {
            plan.scalars.insert("overlap".to_owned(), overlap);
        }
        let stages = Stages { rows, tables, joins: self.flags.joins, seed: flags.seed, tolerance: flags.tolerance };
        let (stop, lambda, kind, ours) = (Stop::new(flags), flags.lambda, self.loss, self.flags);
        let measured = Measure { input, folds: 1, numbers: false, seed: flags.seed };
        let classes = Classes::new(plan, flags, measured, weights, self.class_weight);
        let best = Best::new(plan, flags);
        let adopt = Adopt { rows, start: Vector::new(plan, "start", flags.bias), weights: weights.features };

        let steps = &mut plan.body;
        let begun = classes.clone();
        steps.decide(move |progress| {
            let facts = objective::begin(progress, inputs.rows, lambda)?;
            begun.begin(progress, &facts)?;
            stop.begin(progress);
            let crowd = crowd::Sample::of(progress)?;
            let at_once = with_loss!(kind, L => crowd.as_ref().is_some_and(crowd::Sample::steps_at_once::<L>));
            let coherent = with_loss!(kind, L => crowd.as_ref().is_some_and(crowd::Sample::is_coherent::<L>));
            progress.set("at_once", f64::from(u8::from(at_once)));
            progress.set("coherent", f64::from(u8::from(coherent)));
            let [threads, slaves] = ["workers", "slaves"].map(|name| progress.metric("measure", name));
            let (lambda, tolerance) = (progress.scalar("lambda", 0.0), stages.tolerance);
            let case = Case { facts: &facts, loss: kind, lambda, tolerance, threads: threads?, slaves: slaves? };
            progress.set("alone", f64::from(u8::from(case.suits(ours))));
            Ok(Flow::Next)
        });
        if let Some(model) = &flags.init_model {
            adopt.plan(steps, model, kind, threads);
        }
        steps.repeat(problems::MOST, |epoch| {
            for (alone, threads) in [(1.0, Threads::PerSlave(1)), (0.0, threads)] {
                epoch.when("alone", alone, |epoch| {
                    epoch
                        .stage("ascent", move |worker| with_loss!(kind, L => stages.ascend::<L>(worker)))
                        .threads(threads)
                        .input(input);
                });
            }
            epoch.norm2(weights.features, "norm2");
            epoch.decide(move |progress| stop.before(progress).map(|()| Flow::Next));
            let [certified, kept, next] = [classes.clone(), classes.clone(), classes.clone()];
            let certificate = move |epoch: &mut Steps| {
                let certify = move |worker: &mut Worker<'_>| {
                    certified.keep_bias(worker)?;
                    with_loss!(kind, L => stages.certify::<L>(worker))
                };
                epoch.stage("certificate", certify).threads(threads).input(input);
            };
            // The stage also keeps an intercept, of each epoch.
            match flags.bias {
                true => certificate(epoch),
                false => _ = epoch.when("judge", 1.0, certificate),
            }
            if let Some(held_out) = inputs.validation {
                validation::plan_by(epoch, "validation", held_out, weights.features, kind, threads);
            }
            let (has_validation, behind) = (inputs.validation.is_some(), classes.clone());
            epoch.decide(move |progress| {
                let two = has_validation && progress.scalar("classes", 1.0) <= 1.0;
                let held_out = two.then(|| validation::loss(progress, "validation")).transpose()?;
                if two {
                    validation::note(progress, "validation")?;
                }
                let flow = stop.after(progress, held_out)?;
                let flow = if two { best.after(progress, weights, flow) } else { flow };
                Ok(behind.certified(progress, flow))
            });
            // What follows is for several classes: of two the job has ended.
            epoch.when("keep", 1.0, |epoch| {
                epoch.stage("keep", move |worker| kept.keep(worker)).threads(threads);
            });
            if let Some(rows) = inputs.validation {
                let judge = Judge { rows, point: weights.features, held_out: false, classes: true };
                epoch
                    .stage("class-validation", move |worker| match worker.scalar("keep", 0.0) > 0.0 {
                        true => with_smooth!(kind, loss => judge.run(loss, worker)),
                        false => Ok(()),
                    })
                    .threads(threads)
                    .input(rows.input);
            }
            epoch.decide(move |progress| {
                if has_validation && progress.scalar("keep", 0.0) > 0.0 {
                    let rows = progress.metric("class-validation", "rows")?;
                    let right = progress.metric("class-validation", "right")? / rows;
                    progress.set("validation_accuracy", right);
                }
                let flow = next.next(progress);
                if progress.scalar("fresh", 0.0) > 0.0 {
                    stop.begin(progress);
                }
                Ok(flow)
            });
        });
    }

    /// Refuses what it can't do.
    pub fn check(&self) -> Result<()> {
        self.common.check()?;
        Self::refused(self.common).map_or(Ok(()), |what| Err(Error::user(what)))
    }

    /// What the flags ask for that this solver can't do.
    pub fn refused(flags: &Common) -> Option<&'static str> {
        if flags.lambda == Some(0.0) {
            return Some("sdca needs a penalty: --lambda 0 leaves it no dual; --solver newton does without");
        }
        if flags.consistency != Model::Bsp {
            return Some(
                "sdca's workers join in step: --consistency must be bsp; only lr --solver sgd and svrg take others",
            );
        }
        None
    }
}

#[cfg(test)]
mod tests;
