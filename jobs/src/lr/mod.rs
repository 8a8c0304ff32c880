//! `lr`: logistic regression by mini-batch SGD, AdaGrad or SAGA through the store, under any consistency model.
//!
//! minimise F(w) = (1/n) sum log(1 + exp(-y (w.x + b))) + lambda/2 |w|^2. A worker fetches the weights of a batch's
//! features, and pushes what they change by; nothing else travels. So that the penalty too touches a batch's features
//! only, it is dealt out to the rows, as in Hogwild! (Recht et al., NIPS 2011): with c_j the number of rows that contain
//! feature j,
//! ```text
//! lambda/2 |w|^2 = (1/n) sum over rows i, features j of row i, of (n lambda / c_j) / 2 w_j^2
//! ```
//! which is an identity, so SGD on the rows' terms minimises F itself. After each epoch F is computed exactly; an epoch
//! that raised it is taken back and the step halved.
//! SGD and AdaGrad wander about the optimum, the nearer the shorter their steps. SAGA (Defazio, Bach and Lacoste-Julien,
//! NIPS 2014; sparse and asynchronous: Leblond, Pedregosa and Lacoste-Julien, AISTATS 2017) gets there with steps of one
//! length: it remembers of each row the gradient at its last visit, and takes the mean of these for what a batch lacks.
//! AdaGrad is reckoned by the workers, its squares in a table of their own, though shards know it as an update function: a
//! table's parameters are the plan's, while the step here is found from the rows and halved by decisions; and such a table
//! holds the squares between the weights, where norms, saved models and all that judge a model would take them for weights.
//! Invariants: at every decision `objective` is F at `anchor`; SAGA's sum is that of the gradients that it remembers, also
//! after an epoch that was taken back, which it remembers nonetheless.

mod batch;
mod train;

use crate::auto::Auto;
use crate::best::Best;
use crate::first::First;
use crate::flags::{self, Common, Model, Step};
use crate::logistic::Judged;
use crate::primal::{self, Primal};
use crate::rules::Rules;
use crate::sdca::{self, Sdca};
use crate::step::{self, Growth};
use crate::stream::Stream;
use crate::told;
use crate::vector::Vector;
use crate::workers::Workers;
use crate::{objective, sample, shares, validation};
use clap::Args;
use flexps_common::data::Facts;
use flexps_common::job::{Job, Prepare};
use flexps_common::plan::{Flow, Plan, Significant, Steps, Threads};
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use train::Train;

/// Growth of an automatic step per epoch.
const GROW: f64 = 1.3;
/// Rows of a mini-batch unless the user says otherwise.
const USUAL_BATCH: u32 = 100;

/// How a gradient becomes an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// The same step for all features
    #[default]
    Sgd,
    /// A step of its own for each feature, by the squares of its gradients so far
    Adagrad,
    /// The same step for all features, corrected by what each row's gradient was at its last visit: the way to tight
    /// tolerances, best in batches of 10 or so
    Saga,
}

/// The way to the optimum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// sdca or newton, by the rows, unless a flag asks for what only one of them or sgd has; the report says which and why
    #[default]
    Auto,
    /// Dual coordinate ascent, up to a certified duality gap of --tolerance
    Sdca,
    /// Newton's method, up to a certified duality gap; under an L1 penalty by coordinate descent
    Newton,
    /// One pass, row after row, while the rows are still being read, by FTRL-proximal; reports the progressive loss
    Ftrl,
    /// Mini-batches through the store, by --optimizer
    Sgd,
}

/// Logistic regression.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Lr {
    /// What it shares with other jobs.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,

    /// The way to the optimum
    #[arg(long, value_enum, default_value_t)]
    pub solver: Solver,

    /// Those of the dual solver.
    #[command(flatten)]
    #[serde(flatten)]
    pub sdca: sdca::Flags,

    /// What is added to the mean loss
    #[arg(long, value_enum, default_value_t)]
    pub penalty: primal::flags::Kind,

    /// Those of the solvers that work on weights.
    #[command(flatten)]
    #[serde(flatten)]
    pub primal: primal::flags::Flags,

    /// Worker threads [default: all slots, but no more than cores]; a range, `auto` and `offline` are for --solver sgd
    #[arg(long, value_name = "N|A..B|auto|offline")]
    pub threads: Option<Workers>,

    /// How a gradient becomes an update [default: sgd]
    #[arg(long, value_enum)]
    pub optimizer: Option<Optimizer>,

    /// Rows of a mini-batch [default: 100]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub batch: Option<u32>,

    /// Step size
    #[arg(long, default_value_t, value_name = "auto|SIZE", value_parser = flags::step)]
    pub step: Step,

    /// Hold back changes of weights on other slaves that are less than this share of the weight, until with later ones they
    /// are more, for so many further clocks at most [default: all go at once; 8 clocks]
    #[arg(long, value_name = "significant:SHARE[:CLOCKS]")]
    pub filter: Option<Significant>,
}

impl Job for Lr {
    const NAME: &'static str = "lr";
    const ABOUT: &'static str =
        "Logistic regression: dual coordinate ascent, Newton's method, mini-batches through the store, or one pass";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let Self { common, sdca, penalty, primal: flags, .. } = self;
        let loss = sdca::loss::Kind::Logistic;
        let threads = self.threads.and_then(Workers::count);
        let primal = Primal { common, flags, penalty: *penalty, loss, threads, numbers: false };
        let class_weight = flags.class_weight.as_ref();
        let sdca = Sdca { common, loss, threads, class_weight, cv: flags.cv, flags: *sdca };
        let solver = self.solver(&primal);
        if solver != Solver::Sgd && self.threads.is_some() && threads.is_none() {
            // The others' workers keep what they know of their rows, which must then stay theirs.
            return Err(Error::user(
                "--threads auto, offline and ranges go with --solver sgd; give a number, or that solver",
            ));
        }
        if solver != Solver::Sgd
            && let Some(flag) = self.asks_for_sgd().find(|flag| solver != Solver::Ftrl || *flag != "--step")
        {
            return Err(Error::user(format!("{flag} goes with --solver sgd; give that solver, or leave {flag} out")));
        }
        if solver != Solver::Sdca {
            self.sdca.refuse()?;
        }
        match solver {
            Solver::Sgd => {
                primal.refuse_for_sgd()?;
                return self.plan_sgd(plan);
            }
            Solver::Newton => return primal.plan(plan),
            Solver::Auto => return Auto { sdca, primal }.plan(plan),
            Solver::Ftrl => {
                let lacks = [
                    (flags.path.is_some(), "--path"),
                    (flags.cv.is_some(), "--cv"),
                    (flags.class_weight.is_some(), "--class-weight"),
                ];
                if let Some((_, flag)) = lacks.into_iter().find(|(given, _)| *given) {
                    return Err(Error::user(format!("--solver ftrl has no {flag}; leave one of them out")));
                }
                if let Some(flag) = common.asks_for_epochs() {
                    return Err(Error::user(format!(
                        "--solver ftrl makes one pass whatever {flag} says; leave it out"
                    )));
                }
                let ratio = flags.ratio(*penalty)?;
                if ratio > 0.0 && common.lambda.is_none() {
                    return Err(Error::user(
                        "--solver ftrl penalises nothing unless told how much: --penalty needs --lambda; give it, or leave \
                         --penalty out",
                    ));
                }
                return Stream { common, ratio, step: self.step, threads }.plan(plan);
            }
            Solver::Sdca => primal.refuse_for_sdca()?,
        }
        sdca.plan(plan)
    }

    fn tells(name: &str) -> bool {
        told::of_model(name)
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        sample::prepare(&mut self.common, env)
    }
}

impl Lr {
    /// What `auto` stands for, as far as the flags tell; where they leave the choice, the rows decide.
    fn solver(&self, primal: &Primal<'_>) -> Solver {
        let stale = self.common.consistency != Model::Bsp;
        match self.solver {
            Solver::Auto if self.asks_for_sgd().next().is_some() || stale => Solver::Sgd,
            Solver::Auto if primal.asked().is_some() => Solver::Newton,
            Solver::Auto if self.sdca != sdca::Flags::default() => Solver::Sdca,
            Solver::Auto if Sdca::refused(&self.common).is_some() => Solver::Newton,
            Solver::Auto if primal::flags::refused(&self.common).is_some() => Solver::Sdca,
            given => given,
        }
    }

    /// Flags of mini-batches that are given.
    fn asks_for_sgd(&self) -> impl Iterator<Item = &'static str> {
        let asked = [
            (self.optimizer.is_some(), "--optimizer"),
            (self.batch.is_some(), "--batch"),
            (self.step != Step::default(), "--step"),
            (self.filter.is_some(), "--filter"),
        ];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, flag)| flag)
    }

    fn plan_sgd(&self, plan: &mut Plan) -> Result<()> {
        let flags = &self.common;
        flags.check()?;
        let inputs = flags.inputs(plan)?;
        let rows = inputs.rows;
        let mut vector = |name| Vector::new(plan, name, flags.bias);
        let [weights, anchor] = ["weights", "anchor"].map(&mut vector);
        let optimizer = self.optimizer.unwrap_or_default();
        let (state, old_state) = match optimizer {
            Optimizer::Sgd => (None, None),
            Optimizer::Adagrad => (Some(vector("squares")), Some(vector("anchor-squares"))),
            Optimizer::Saga => (Some(vector("sums")), None),
        };
        let start = flags.init_model.as_ref().map(|_| vector("start"));
        let counts = plan.table::<f32>("rows-per-feature", 1);
        let best = Best::new(plan, flags);
        if optimizer == Optimizer::Saga {
            plan.keep_column(rows.input, train::SLOPES);
        }
        let threads = self.threads.map_or(Threads::Cores, Workers::threads);

        let steps = &mut plan.body;
        if let (Some(start), Some(model)) = (start, &flags.init_model) {
            start.load(steps, model, rows.input);
        }
        let first = First { rows, start, gradient: None, counts: Some(counts) };
        steps.stage("first-pass", move |worker| first.run(worker)).threads(threads).input(rows.input);
        let (lambda, job) = (flags.lambda, self.clone());
        steps.decide(move |progress| {
            let facts = objective::begin(progress, rows, lambda)?;
            let step = step::first(job.first_step(&facts, progress.scalar("lambda", 0.0)))?;
            progress.set("step", step);
            Ok(Flow::Next)
        });
        if let Some(start) = start {
            shares::adopt(steps, start, weights, counts, threads);
        }
        steps.norm2(weights.features, "norm2");
        steps.decide(move |progress| {
            let objective = objective::after(progress, "first-pass")?;
            progress.set("objective", objective);
            weights.copy(progress, anchor);
            Ok(Flow::Next)
        });

        let train = Train {
            rows,
            weights,
            optimizer,
            state,
            counts,
            batch: self.batch.unwrap_or(USUAL_BATCH) as usize,
            seed: flags.seed,
        };
        let rules = Rules::new(flags);
        let growth = Growth::new(self.step, GROW);
        let (consistency, filter) = (flags.consistency(), self.filter);
        let held_out = inputs.validation;
        let round = |epoch: &mut Steps| {
            let stage = epoch.stage("train", move |worker| train.run(worker));
            weights.may_round(stage).threads(threads).consistency(consistency).filter(filter).input(rows.input);
            let stage =
                epoch.stage("objective", move |worker| validation::judge(worker, rows, weights, Judged::default()));
            weights.only_read(stage).threads(threads).input(rows.input);
            if let Some(held_out) = held_out {
                validation::plan(epoch, "validation", held_out, weights, threads);
            }
            epoch.norm2(weights.features, "norm2");
            epoch.decide(move |progress| {
                let validation_loss = held_out.map(|_| validation::loss(progress, "validation")).transpose()?;
                let before = progress.scalar("objective", f64::INFINITY);
                let after = objective::after(progress, "objective")?;
                rules.refuse_separable(progress, "objective")?;
                let used = progress.scalar("step", 0.0);
                let verdict = rules.judge(progress, (before, after), validation_loss, growth);
                let keeps = verdict.keeps();
                growth.after(progress, used, &verdict);
                for (now, old) in std::iter::once((weights, anchor)).chain(state.zip(old_state)) {
                    if keeps { now.copy(progress, old) } else { old.copy(progress, now) }
                }
                if keeps && held_out.is_some() {
                    validation::note(progress, "validation")?;
                }
                let flow = verdict.flow()?;
                Ok(if keeps { best.after(progress, weights, flow) } else { flow })
            });
        };
        steps.resumable(flags.epochs, round);
        if held_out.is_none() {
            validation::plan(steps, "training", rows, weights, threads);
            steps.decide(|progress| validation::note(progress, "training").map(|()| Flow::Next));
        }
        flags.save(plan, rows, weights.tensors());
        Ok(())
    }

    /// The first step. SGD: 4 / L, where L = mean |x|^2 / 4 + lambda bounds the curvature of F; optimistic, since the
    /// safeguard halves it. SAGA: 1 / L. AdaGrad moves each weight by up to the step: so much that a typical row's score
    /// moves by 1.
    fn first_step(&self, facts: &Facts, lambda: f64) -> f64 {
        let bias = f64::from(u8::from(self.common.bias));
        let mean_norm2 = facts.sum_norm2 / facts.rows as f64 + bias;
        match (self.step, self.optimizer.unwrap_or_default()) {
            (Step::Fixed(step), _) => step,
            (Step::Auto, _) if mean_norm2 == 0.0 => 1.0,
            (Step::Auto, Optimizer::Sgd) => 4.0 / (mean_norm2 / 4.0 + lambda),
            (Step::Auto, Optimizer::Saga) => 1.0 / (mean_norm2 / 4.0 + lambda),
            (Step::Auto, Optimizer::Adagrad) => 1.0 / mean_norm2.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests;
