//! Stochastic dual coordinate ascent (Shalev-Shwartz and Zhang, JMLR 2013): linear models with an L2 penalty, trained to
//! a certified distance from the optimum.
//!
//! minimise P(w, b) = (1/n) sum c f(y (w.x + b)) + lambda/2 |w|^2, c being the weight of a row's class, by maximising its
//! dual, one row's variable after the other. Every worker goes over its own rows with its own copy of the weights; copies
//! are joined a few times an epoch, those of several slaves mostly in the few features that couple their rows. Where joins
//! cost more than they bring, one worker of each slave goes alone. Where the gap falls slowly one slave's workers go on from
//! where a sweep led. A job ends when the duality gap is less than the tolerance's part of P; each of several classes is such a
//! problem, for each fold that is held out, on the rows that were read once. Invariant: the weights are those that the dual
//! variables give, but for rounding, whatever the workers' number.

mod adopt;
pub mod alone;
mod bias;
mod couple;
mod crowd;
mod enough;
pub mod fast;
mod join;
mod least;
pub mod loss;
pub mod pace;
mod problems;
mod renew;
mod rests;
mod rows;
mod stages;
mod steps;
mod stop;
mod subspace;
mod visit;

use crate::best::Best;
use crate::flags::{Common, Inputs, Model};
use crate::primal::flags::ClassWeights;
use crate::primal::folds::Folds;
use crate::primal::judge;
use crate::primal::measure::Measure;
use crate::primal::problems::MOST;
use crate::vector::Vector;
use crate::{objective, validation};
use adopt::Adopt;
use alone::Case;
use clap::Args;
use flexps_common::data::Wanted;
use flexps_common::plan::{Flow, NO_MODEL, Plan, Steps, Threads};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use join::Tables;
use least::Least;
use loss::{Kind, with_loss};
use problems::Problems;
use renew::Renew;
use serde::{Deserialize, Serialize};
use stages::Stages;
use stop::Stop;

/// Of smaller files one worker learns as fast as one in each of two processes, whose joins go by messages; where rows have
/// little in common with the penalty, much faster.
pub const SLAVE_BYTES: u64 = 128 << 20;

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
    /// Folds to judge by, if any.
    pub cv: Option<u32>,
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
        plan.slave_bytes = SLAVE_BYTES;
        plan.body.rebuilt(|steps| self.measure(steps, inputs));
        self.solve(plan, inputs, weights);
        self.common.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }

    fn workers(&self) -> Threads {
        self.threads.map_or(Threads::Cores, Threads::Count)
    }

    /// Plans the first pass.
    pub fn measure(&self, steps: &mut Steps, inputs: Inputs) {
        let measure = self.measured(inputs);
        steps
            .stage("measure", move |worker| rows::measure(worker, measure))
            .threads(self.workers())
            .input(measure.input);
    }

    fn measured(&self, inputs: Inputs) -> Measure {
        let folds = self.cv.unwrap_or(1);
        Measure { input: inputs.rows.input, folds, numbers: false, seed: self.common.seed }
    }

    /// Plans what is behind it.
    pub fn solve(&self, plan: &mut Plan, inputs: Inputs, weights: Vector) {
        let flags = self.common;
        plan.scalars.insert(NO_MODEL.to_owned(), 1.0);
        let (rows, input) = (inputs.rows, inputs.rows.input);
        let terms = plan.table("terms", join::TERMS as u32);
        let tables = Tables { weights: weights.features, terms, way: plan.table("way", 1) };
        let threads = self.workers();
        if let Some(overlap) = self.flags.overlap {
            plan.scalars.insert("overlap".to_owned(), overlap);
        }
        let stages = Stages { rows, tables, joins: self.flags.joins, seed: flags.seed, tolerance: flags.tolerance };
        let least = Least { weights, kept: Vector::new(plan, "kept", flags.bias) };
        let (stop, lambda, kind, ours) = (Stop::new(flags, least), flags.lambda, self.loss, self.flags);
        let folds = Folds { count: self.cv.unwrap_or(0), steps: 1 };
        let measured = (inputs, self.measured(inputs));
        let problems = Problems::new(plan, flags, measured, folds, weights, self.class_weight);
        let best = Best::new(plan, flags);
        let adopt = Adopt { rows, start: Vector::new(plan, "start", flags.bias), weights: weights.features };

        [rows::DUAL, rows::WAY].into_iter().for_each(|column| plan.keep_column(input, column));
        judge::keep(plan, inputs, self.cv.is_some());
        let renew = Renew::new(plan, rows, weights.features);
        let steps = &mut plan.body;
        let begun = problems.clone();
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
        steps.resumable(MOST, |epoch| {
            for (alone, threads) in [(1.0, Threads::PerSlave(1)), (0.0, threads)] {
                epoch.when("alone", alone, |epoch| {
                    epoch
                        .stage("ascent", move |worker| with_loss!(kind, L => stages.ascend::<L>(worker)))
                        .threads(threads)
                        .input(input);
                });
            }
            epoch.norm2(weights.features, "norm2");
            epoch.decide(move |progress| {
                stop.before(progress)?;
                renew::before(progress);
                Ok(Flow::Next)
            });
            renew.plan(epoch, threads);
            let [certified, behind, next] = [problems.clone(), problems.clone(), problems.clone()];
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
            let has_validation = inputs.validation.is_some();
            epoch.decide(move |progress| {
                let judges = has_validation && validation::judges(|name, default| progress.scalar(name, default));
                let held_out = judges.then(|| validation::loss(progress, "validation")).transpose()?;
                if judges {
                    validation::note(progress, "validation")?;
                }
                let flow = stop.after(progress, held_out)?;
                let flow = if judges { best.after(progress, weights, flow) } else { flow };
                behind.certified(progress, flow)
            });
            problems.plan_end(epoch, kind, threads);
            epoch.decide(move |progress| {
                let flow = next.next(progress)?;
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
        let of_one =
            [("--init-model", self.common.init_model.is_some()), ("--patience", self.common.patience.is_some())];
        if let Some((flag, _)) = of_one.into_iter().find(|(_, given)| *given && self.cv.is_some()) {
            return Err(Error::user(format!(
                "{flag} is for one problem, and --cv makes several; leave one of them out"
            )));
        }
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
