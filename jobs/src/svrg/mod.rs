//! `svrg`: logistic regression by stochastic variance-reduced gradient (Johnson and Zhang, NIPS 2013).
//!
//! minimise F(w) = (1/n) sum log(1 + exp(-y (w.x + b))) + lambda/2 |w|^2. An epoch is a narrow stage, in which few
//! workers take stochastic steps from the anchor, and a wide one, in which all slots make the full gradient at the
//! point that they reached. That gradient also gives F, so each epoch is judged: one that raised F is taken back.
//! Invariant: at every decision `sums` holds the gradient of the losses at `anchor`, and `objective` is F there.

mod gradient;
mod replica;
mod stochastic;

use crate::best::Best;
use crate::first::First;
use crate::flags::{self, Common, Step};
use crate::objective;
use crate::parts::Parts;
use crate::rules::Rules;
use crate::sample;
use crate::shares;
use crate::step::{self, Growth};
use crate::told;
use crate::validation;
use crate::vector::Vector;
use crate::workers::Workers;
use clap::Args;
use flexps_common::data::Facts;
use flexps_common::job::{Job, Prepare};
use flexps_common::plan::{Consistency, Flow, Plan, Significant, Threads};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use stochastic::Stochastic;

/// Growth of the step per epoch.
const GROW: f64 = 1.4;

/// The first step: 0.2 / L, where L = max |x|^2 / 4 + lambda is the largest curvature of a single row. Short enough that the
/// first epochs, far from the optimum, are seldom taken back; growth soon makes up for it.
fn first_step(step: Step, facts: &Facts, bias: bool, lambda: f64) -> f64 {
    let widest = (facts.max_norm2 + f64::from(u8::from(bias))) / 4.0 + lambda;
    match step {
        Step::Fixed(step) => step,
        Step::Auto if widest > 0.0 => 0.2 / widest,
        // All rows are empty and nothing is penalised: any step does.
        Step::Auto => 1.0,
    }
}

/// Logistic regression by SVRG: a wide full-gradient stage, then a narrow stochastic one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Svrg {
    /// What it shares with other jobs.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,

    /// Threads of the full-gradient stage [default: all slots, but no more than cores]
    #[arg(long, value_name = "N|A..B|auto|offline")]
    pub wide: Option<Workers>,

    /// Threads of the stochastic stage [default: 1 on each slave, or 1 with --sample-share]
    #[arg(long, value_name = "N|A..B|auto|offline")]
    pub narrow: Option<Workers>,

    /// Run the stochastic stage on one slave, on this share of all rows, above 0 to 1: what that slave lacks of it comes
    /// once from others, in random blocks. A feature that none of these rows has stays as it is
    #[arg(long, value_name = "SHARE", value_parser = flags::share)]
    pub sample_share: Option<f64>,

    /// Step size
    #[arg(long, default_value_t, value_name = "auto|SIZE", value_parser = flags::step)]
    pub step: Step,

    /// Stochastic steps of an epoch, as a multiple of the rows
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", value_parser = flags::positive)]
    pub inner: f64,

    /// Merges of the workers' replicas in an epoch [default: 1 for one worker, 4 for several]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub joins: Option<u32>,

    /// In merges, hold back changes of weights on other slaves that are less than this share of the weight, until with later
    /// ones they are more, for so many further clocks at most [default: all go at once; 8 clocks]
    #[arg(long, value_name = "significant:SHARE[:CLOCKS]")]
    pub filter: Option<Significant>,
}

impl Job for Svrg {
    const NAME: &'static str = "svrg";
    const ABOUT: &'static str = "Logistic regression by stochastic variance-reduced gradient";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let flags = &self.common;
        flags.check()?;
        let (mut inputs, sampled) = (flags.inputs(plan)?, self.sample_share.is_some());
        inputs.rows.drawn = sampled;
        let rows = inputs.rows;
        let mut vector = |name| Vector::new(plan, name, flags.bias);
        let [weights, anchor, sums, next] = ["weights", "anchor", "sums", "next-sums"].map(&mut vector);
        let start = flags.init_model.as_ref().map(|_| vector("start"));
        let counts = plan.table::<f32>("rows-per-feature", 1);
        let best = Best::new(plan, flags);
        let wide = self.wide.map_or(Threads::Cores, Workers::threads);
        let narrow = match (self.sample_share, self.narrow) {
            (Some(_), None) => Threads::OneSlave(1),
            (Some(_), Some(Workers::Count(n))) => Threads::OneSlave(n),
            (Some(_), Some(Workers::Found(_) | Workers::Range(_))) => {
                return Err(Error::user("with --sample-share, --narrow is a number: all its threads are on one slave"));
            }
            (None, narrow) => narrow.map_or(Threads::PerSlave(1), Workers::threads),
        };

        let steps = &mut plan.body;
        if let (Some(start), Some(model)) = (start, &flags.init_model) {
            start.load(steps, model, rows.input);
        }
        let first = First { rows, start, gradient: Some(next), counts: None };
        steps.stage("first-gradient", move |worker| first.run(worker)).threads(wide).input(rows.input);
        // One worker alone needs no counts, but where another run may have more.
        let varies = !matches!(narrow, Threads::Count(_) | Threads::OneSlave(_) | Threads::PerSlave(_));
        let always = start.is_some() || varies;
        let share = move |worker: &mut Worker<'_>| {
            let merges = always || !sampled && (worker.place.threads > 1 || Parts::new(worker, rows)?.count() > 1);
            if merges { shares::count(worker, rows, counts) } else { Ok(()) }
        };
        // The same workers as the stochastic stage's: what they count of their rows is kept beside these.
        let counting = if sampled { Threads::PerSlave(1) } else { narrow };
        steps.rebuilt(|steps| _ = steps.stage("shares", share).threads(counting).input(rows.input).updates(counts));
        let (lambda, bias, step) = (flags.lambda, flags.bias, self.step);
        steps.decide(move |progress| {
            let facts = objective::begin(progress, rows, lambda)?;
            let step = step::first(first_step(step, &facts, bias, progress.scalar("lambda", 0.0)))?;
            progress.set("step", step);
            Ok(Flow::Next)
        });
        if let Some(start) = start {
            shares::adopt(steps, start, weights, counts, wide);
        }
        steps.norm2(weights.features, "norm2");
        steps.decide(move |progress| {
            let objective = objective::after(progress, "first-gradient")?;
            progress.set("objective", objective);
            weights.copy(progress, anchor);
            next.copy(progress, sums);
            Ok(Flow::Next)
        });

        let stochastic = Stochastic {
            rows,
            weights,
            anchor,
            sums,
            counts,
            inner: self.inner,
            joins: self.joins.unwrap_or(0),
            seed: flags.seed,
            draws: sampled,
        };
        let (rules, growth) = (Rules::new(flags), Growth::new(self.step, GROW));
        // A merge touches all features of a worker.
        let (consistency, sample_share) = (flags.consistency().of_same_keys(), self.sample_share);
        let filter = self.filter;
        steps.resumable(flags.epochs, |epoch| {
            let stage = epoch.stage("stochastic", move |worker| stochastic.run(worker));
            let stage = weights.may_round(stage).threads(narrow).consistency(consistency).filter(filter);
            match sample_share {
                Some(share) => stage.draws(rows.input, share),
                None => stage.input(rows.input),
            };
            next.zero(epoch);
            let stage = epoch.stage("full-gradient", move |worker| gradient::full(worker, rows, weights, next));
            weights.only_read(stage).threads(wide).consistency(Consistency::Bsp).input(rows.input);
            if let Some(held_out) = inputs.validation {
                validation::plan(epoch, "validation", held_out, weights, wide);
            }
            epoch.norm2(weights.features, "norm2");
            let has_validation = inputs.validation.is_some();
            epoch.decide(move |progress| {
                let held_out = has_validation.then(|| validation::loss(progress, "validation")).transpose()?;
                let before = progress.scalar("objective", f64::INFINITY);
                let after = objective::after(progress, "full-gradient")?;
                rules.refuse_separable(progress, "full-gradient")?;
                let used = progress.scalar("step", 0.0);
                let verdict = rules.judge(progress, (before, after), held_out, growth);
                growth.after(progress, used, &verdict);
                if verdict.keeps() {
                    if has_validation {
                        validation::note(progress, "validation")?;
                    }
                    weights.copy(progress, anchor);
                    next.copy(progress, sums);
                } else {
                    anchor.copy(progress, weights);
                }
                let keeps = verdict.keeps();
                let flow = verdict.flow()?;
                Ok(if keeps { best.after(progress, weights, flow) } else { flow })
            });
        });
        if inputs.validation.is_none() {
            validation::plan(steps, "training", rows, weights, wide);
            steps.decide(|progress| validation::note(progress, "training").map(|()| Flow::Next));
        }
        flags.save(plan, rows, weights.tensors());
        Ok(())
    }

    fn tells(name: &str) -> bool {
        told::of_model(name)
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        sample::prepare(&mut self.common, env)
    }
}

#[cfg(test)]
mod tests;
