//! Solvers that work on the weights themselves, for smooth losses under L1, L2 or both, to a certified distance from the
//! optimum.
//!
//! minimise P(w, b) = (1/n) sum c f(w.x + b) + l1 |w|_1 + l2/2 |w|^2, c being the weight of a row's class. Rounds of a
//! wide stage over rows, which makes the gradient, a stage over features, which makes the certificate of it and picks
//! the features to work on, and one or more stages that learn. One job solves many such problems on the rows that it
//! read once: a path of penalties, several classes, folds. Invariant: a problem ends behind a certificate, so what is
//! reported belongs to the weights that are kept.

mod adopt;
mod bends;
mod bounds;
mod certificate;
mod columns;
mod coordinates;
pub mod cost;
mod descent;
pub mod flags;
pub mod folds;
mod foresight;
mod gradient;
pub mod gram;
mod guess;
mod inner;
pub mod judge;
mod kept;
mod kinked;
pub mod loss;
mod matrix;
mod means;
pub mod measure;
mod model;
mod moved;
mod multipliers;
mod newton;
mod norms;
mod occurring;
mod plane;
pub mod problems;
mod quadratic;
mod reach;
mod reduce;
mod rounding;
mod screen;
mod search;
mod split;
mod survey;
pub mod task;
pub mod time;

use crate::flags::{Common, Inputs};
use crate::objective::refuse_separable;
use crate::parts::Rows;
use crate::sdca::loss::Kind;
use crate::told;
use crate::vector::Vector;
use adopt::Adopt;
use descent::Descent;
use flags::Flags;
use flexps_common::data::Wanted;
use flexps_common::plan::{Flow, NO_MODEL, Plan, Progress, Steps, Table, Threads};
use flexps_common::{Error, Result};
use gradient::Gradient;
pub use gradient::add_scaled;
use guess::Guess;
use judge::Judge;
use loss::with_smooth;
use matrix::Matrix;
use measure::Measure;
pub use measure::remeasured;
use newton::Newton;
use norms::Norms;
use problems::Problems;
use screen::Screen;
pub use screen::ranges;
use time::Time;

/// A job by these solvers.
#[derive(Debug, Clone, Copy)]
pub struct Primal<'a> {
    /// What it shares with other jobs.
    pub common: &'a Common,
    /// Its own.
    pub flags: &'a Flags,
    /// What is added to the mean loss.
    pub penalty: flags::Kind,
    /// f.
    pub loss: Kind,
    /// Workers; if none, as many as [`Threads::Cores`].
    pub threads: Option<u32>,
    /// Whether labels are numbers, not classes.
    pub numbers: bool,
}

impl Primal<'_> {
    /// What only these solvers do, if something of it is asked for.
    pub fn asked(&self) -> Option<&'static str> {
        let penalty = (self.penalty != flags::Kind::L2).then_some("--penalty");
        penalty.or(self.flags.l1_ratio.map(|_| "--l1-ratio")).or(self.flags.path.map(|_| "--path"))
    }

    /// What these and the dual solver do, but no other.
    fn asked_of_rounds(&self) -> Option<&'static str> {
        let labels = self.common.labels.as_ref().is_some_and(|labels| labels.all().len() > 2);
        let weights = self.flags.class_weight.as_ref().map(|_| "--class-weight");
        let folds = self.flags.cv.map(|_| "--cv");
        self.asked().or(folds).or(weights).or(labels.then_some("more than two --labels"))
    }

    /// Refuses what the dual solver does not do on its behalf.
    pub fn refuse_for_sdca(&self) -> Result<()> {
        Self::refuse("sdca", self.asked())
    }

    /// Refuses what mini-batches don't do on their behalf.
    pub fn refuse_for_sgd(&self) -> Result<()> {
        Self::refuse("sgd", self.asked_of_rounds())
    }

    fn refuse(solver: &str, asked: Option<&str>) -> Result<()> {
        match asked {
            Some(flag) => Err(Error::user(format!("--solver {solver} has no {flag}; leave one of them out"))),
            None => Ok(()),
        }
    }

    /// Plans the job.
    pub fn plan(&self, plan: &mut Plan) -> Result<()> {
        self.check()?;
        let wanted = if self.numbers { Wanted::Numbers } else { Wanted::Classes };
        let inputs = self.common.inputs_as(plan, wanted)?;
        let weights = Vector::new(plan, "weights", self.common.bias);
        let (measure, input) = (self.measure(inputs), inputs.rows.input);
        plan.body.rebuilt(|steps| {
            steps.stage("measure", move |worker| measure.run(worker)).threads(self.workers()).input(input);
            remeasured(steps);
        });
        self.solve(plan, inputs, weights, false)?;
        self.common.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }

    fn workers(&self) -> Threads {
        self.threads.map_or(Threads::Cores, Threads::Count)
    }

    fn measure(&self, inputs: Inputs) -> Measure {
        let folds = self.flags.cv.unwrap_or(1);
        Measure { input: inputs.rows.input, folds, numbers: self.numbers, seed: self.common.seed }
    }

    /// Plans what is behind the stage `measure`, which has counted the rows of each class. Another solver `may_have_begun`: the scalar
    /// [`problems::BEGUN`] says of how many classes the model has weights, all of features that rows have, from which this one goes on.
    pub fn solve(&self, plan: &mut Plan, inputs: Inputs, model: Vector, may_have_begun: bool) -> Result<()> {
        let common = self.common;
        // Until all is learnt it is in tables of its own.
        plan.scalars.insert(NO_MODEL.to_owned(), 1.0);
        let ratio = self.flags.ratio(self.penalty)?;
        let (threads, tolerance) = (self.workers(), common.tolerance);
        let Vector { features: weights, bias } = model;
        if self.loss == Kind::Hinge {
            plan.keep_column(inputs.rows.input, multipliers::COLUMN);
        }
        let point: Table<f64> = plan.table("point", 1);
        let gradient: Table<f64> = plan.table("gradient", 1);
        let sums: Table<f64> = plan.table("sums", 1);
        let problems = Problems {
            measure: self.measure(inputs),
            flags: self.flags.clone(),
            loss: self.loss,
            lambda: common.lambda,
            tolerance: common.tolerance,
            ratio,
            bias: common.bias,
            point,
            time: Time { limit: common.time_limit, path: self.flags.path.is_some() },
            memory: inputs.rows.memory,
        };
        let norms = self.flags.path.map(|_| plan.table::<f64>("norms", 2));
        let solver = Solver {
            rows: inputs.rows,
            threads,
            loss: self.loss,
            point,
            gradient,
            sums,
            norms,
            epochs: common.epochs,
            tolerance: common.tolerance,
            seed: common.seed,
            problems: problems.clone(),
        };
        let descent = Learner::Descent(plan.table("active", 1));
        let newton = (ratio == 0.0).then(|| Newton::new(plan, self.loss, inputs.rows, [point, gradient, sums]));

        let adopt = common.init_model.as_ref().map(|from| {
            plan.scalars.insert(problems::BEGUN.to_owned(), 0.0);
            (from, Adopt { rows: inputs.rows, model, held: plan.table("held", 1) })
        });
        let begun = problems.clone();
        if !self.numbers {
            judge::keep(plan, Inputs { validation: None, ..inputs }, self.flags.cv.is_some());
        }
        let steps = &mut plan.body;
        steps.decide(move |progress| begun.begin(progress));
        if let Some((from, adopt)) = adopt {
            adopt.plan(steps, from, threads, problems.clone());
        }
        if let Some(norms) = norms {
            let measured = Norms { rows: inputs.rows, norms };
            // Where a feature's norm lies depends on the slaves, which may be others where the job goes on from a checkpoint.
            steps.rebuilt(|steps| {
                let stage = steps.stage("norms", move |worker| measured.run(worker));
                stage.threads(threads).input(inputs.rows.input).updates(norms);
            });
        }
        steps.resumable(problems::MOST, |problem| {
            let (starts, ends) = (problems.clone(), problems.clone());
            problem.decide(move |progress| starts.start(progress));
            if may_have_begun || common.init_model.is_some() {
                problem.when("resumes", 1.0, |problem| {
                    problem.stage("resume", move |worker| model::resume(worker, point, weights, bias)).threads(threads);
                    problem.decide(move |progress| {
                        if bias.is_some() {
                            let bias = progress.metric("resume", "bias")?;
                            progress.set("bias", bias);
                        }
                        Ok(Flow::Next)
                    });
                });
            }
            match newton {
                None => {
                    for (alone, threads) in [(1.0, Threads::PerSlave(1)), (0.0, solver.threads)] {
                        let solver = Solver { threads, ..solver.clone() };
                        problem.when("alone", alone, |problem| solver.plan(problem, descent));
                    }
                }
                Some(newton) => {
                    problem.when("few", 1.0, |problem| solver.plan(problem, Learner::Matrix));
                    problem.when("few", 0.0, |problem| solver.plan(problem, Learner::Newton(newton)));
                }
            }
            let (classes, steps) = (!self.numbers, problems.steps());
            let judge = Judge { rows: inputs.rows, point, held_out: true, classes, guesses: true, steps };
            if self.flags.cv.is_some() {
                self.judge(problem, folds::STAGE, judge);
            }
            // Classes may keep weights of different steps.
            let judging = |rows| Judge { rows, held_out: false, guesses: false, ..judge };
            let validation = inputs.validation.map(judging);
            if let Some(judge) = validation {
                self.judge(problem, "validation", judge);
            }
            let judged = validation.map(|_| "validation");
            problem.decide(move |progress| ends.finish(progress, judged));
            problem
                .stage("keep", move |worker| model::keep(worker, inputs.rows, point, weights, bias))
                .threads(threads)
                .input(inputs.rows.input);
            let last = problems.clone();
            problem.decide(move |progress| {
                last.rounded(progress, tolerance)?;
                last.end(progress)
            });
        });
        if let Some(rows) = inputs.validation {
            let guess = Guess { rows, model };
            steps.when(guess::SEVERAL, 1.0, |steps| {
                steps.stage(guess::STAGE, move |worker| guess.run(worker)).threads(threads).input(rows.input);
                steps.decide(guess::guessed);
            });
        }
        steps.decide(Problems::conclude);
        Ok(())
    }

    fn judge(&self, steps: &mut Steps, name: &str, judge: Judge<f64>) {
        let kind = self.loss;
        steps
            .stage(name, move |worker| with_smooth!(kind, loss => judge.run(loss, worker)))
            .threads(self.workers())
            .input(judge.rows.input);
    }

    /// Refuses what can't be meant together.
    pub fn check(&self) -> Result<()> {
        self.common.check()?;
        if let Some(what) = flags::refused(self.common) {
            return Err(Error::user(what));
        }
        let ratio = self.flags.ratio(self.penalty)?;
        if self.loss == Kind::Hinge && ratio > 0.0 {
            return Err(Error::user(
                "the hinge has a kink, so it is learnt with the L2 penalty alone; --loss squared-hinge is smooth",
            ));
        }
        if self.loss == Kind::Hinge && self.common.lambda == Some(0.0) {
            return Err(Error::user("--lambda 0 leaves the hinge no dual; give more, or --loss squared-hinge"));
        }
        if self.flags.path.is_some() && ratio == 0.0 {
            return Err(Error::user(
                "--path needs an L1 penalty, which has a largest lambda: give --penalty l1 or elastic-net",
            ));
        }
        if self.common.init_model.is_some() && (self.flags.path.is_some() || self.flags.cv.is_some()) {
            return Err(Error::user("--init-model starts one problem; it can't be given with --path or --cv"));
        }
        if self.common.lambda == Some(0.0) && ratio > 0.0 {
            return Err(Error::user("--lambda 0 is no L1 penalty; give more, or leave --penalty out"));
        }
        Ok(())
    }
}

/// Who learns between two certificates.
#[derive(Debug, Clone, Copy)]
enum Learner {
    /// Newton's method under an L1 penalty on some features, listed in the table: by coordinate descent, or, where they are few, by
    /// the matrix.
    Descent(Table<u32>),
    /// Newton's method without one on all, where they are few, by the matrix.
    Matrix,
    /// Newton's method on all, by products with the matrix.
    Newton(Newton),
}

/// The rounds of one problem.
#[derive(Debug, Clone)]
struct Solver {
    rows: Rows,
    threads: Threads,
    loss: Kind,
    point: Table<f64>,
    gradient: Table<f64>,
    sums: Table<f64>,
    norms: Option<Table<f64>>,
    epochs: u64,
    tolerance: f64,
    seed: u64,
    problems: Problems,
}

impl Solver {
    /// Plans the rounds.
    fn plan(&self, steps: &mut Steps, learner: Learner) {
        let (kind, input) = (self.loss, self.rows.input);
        let (active, diagonal) = match learner {
            Learner::Descent(active) => (Some(active), None),
            Learner::Matrix => (None, None),
            Learner::Newton(newton) => (None, Some(newton.diagonal)),
        };
        let wide = Gradient {
            rows: self.rows,
            point: self.point,
            gradient: self.gradient,
            diagonal,
            packs: active.is_some(),
            anchors: self.norms.is_some(),
        };
        let Self { point, gradient, sums, norms, rows, .. } = *self;
        let screen = Screen { point, gradient, active, sums, norms, rows };
        steps.resumable(self.epochs, |round| {
            round.when("look", 1.0, |round| {
                // Where only the penalty is another, the gradient is what it was.
                round.when("moved", 1.0, |round| {
                    round.zero(self.gradient);
                    if let Some(diagonal) = diagonal {
                        round.zero(diagonal);
                    }
                    round
                        .stage("gradient", move |worker| with_smooth!(kind, loss => wide.run(loss, worker)))
                        .threads(self.threads)
                        .input(input);
                });
                if let Some(active) = active {
                    round.zero(active);
                }
                round.stage("screen", move |worker| screen.run(worker)).threads(self.threads).input(input);
                if !matches!(learner, Learner::Newton(_)) {
                    let decided = self.clone();
                    round.decide(move |progress| {
                        reach::looked(progress, "screen");
                        progress.set("moved", 0.0);
                        decided.certified(progress)
                    });
                }
            });
            let decided = self.clone();
            match learner {
                Learner::Descent(active) => {
                    let descent = Descent {
                        rows: self.rows,
                        point: self.point,
                        active,
                        sums: self.sums,
                        bias: self.problems.bias,
                        quadratic: kind == Kind::Squared,
                        norms: self.norms,
                        tolerance: self.tolerance,
                        seed: self.seed,
                    };
                    round
                        .stage("descent", move |worker| with_smooth!(kind, loss => descent.run(loss, worker)))
                        .threads(self.threads)
                        .input(input);
                    round.decide(move |progress| decided.learnt(progress, "descent"));
                }
                Learner::Matrix => {
                    let matrix = Matrix {
                        rows: self.rows,
                        point: self.point,
                        sums: self.sums,
                        bias: self.problems.bias,
                        tolerance: self.tolerance,
                    };
                    round
                        .stage("matrix", move |worker| with_smooth!(kind, loss => matrix.run(loss, worker)))
                        .threads(self.threads)
                        .input(input);
                    round.decide(move |progress| decided.learnt(progress, "matrix"));
                }
                Learner::Newton(newton) => {
                    round.decide(move |progress| match decided.certified(progress)? {
                        Flow::Next => newton::judge(progress, decided.problems.bias),
                        ends => Ok(ends),
                    });
                    newton.plan(round, self.threads, self.problems.bias);
                }
            }
        });
    }

    /// Without a penalty there is no certificate: what the last step brought has to do.
    fn unpenalised(&self, progress: &Progress) -> Result<Option<String>> {
        let (right, rows) = (progress.scalar("right", 0.0), progress.scalar("trained_rows", 1.0));
        if self.loss == Kind::Logistic {
            refuse_separable(right, rows)?;
        }
        let decrease = progress.scalar("decrease", f64::INFINITY);
        let enough = decrease <= 0.1 * self.tolerance || progress.scalar("objective", 1.0) == 0.0;
        let why = format!(
            "the last step lowered the objective by {decrease:.2e} of it; without a penalty nothing is certified"
        );
        Ok(enough.then_some(why))
    }

    /// Behind the certificate of a round.
    fn certified(&self, progress: &mut Progress) -> Result<Flow> {
        if self.problems.set_path(progress)? {
            // The list of features was made for another penalty.
            return Ok(Flow::Again);
        }
        if let (Ok(active), Ok(near)) = (progress.metric("screen", "active"), progress.metric("screen", "near")) {
            progress.set("active", active);
            progress.set("listed", active + near);
        }
        if let Some(why) = self.problems.certified(progress, ["gradient", "screen"], self.tolerance)? {
            return Ok(Flow::Stop(why));
        }
        if progress.scalar("l1", 0.0) == 0.0
            && progress.scalar("l2", 0.0) == 0.0
            && let Some(why) = self.unpenalised(progress)?
        {
            progress.set("reached", 1.0);
            return Ok(Flow::Stop(why));
        }
        if progress.epoch + 1 >= self.epochs {
            return Ok(Flow::Stop(told::all_made(self.epochs, "round")));
        }
        let late = self.problems.time.late(progress);
        Ok(late.map_or_else(|| multipliers::looked(progress), Flow::Stop))
    }

    /// Behind the stage that learns, which may have ended with a certificate.
    fn learnt(&self, progress: &mut Progress, stage: &str) -> Result<Flow> {
        let bias = progress.metric(stage, "bias")?;
        progress.set("bias", bias);
        ["moved", "scored", "look"].into_iter().for_each(|name| progress.set(name, 1.0));
        progress.set("blank", 0.0);
        let foreseen = progress.metric(stage, "foreseen")?;
        progress.set("foreseen", foreseen);
        if let Ok(far) = progress.metric(stage, "strayed") {
            reach::strayed(progress, far);
        }
        if progress.metric(stage, "certified").is_ok_and(|certified| certified == 1.0)
            && let Some(why) = self.problems.certified(progress, [stage; 2], self.tolerance)?
        {
            return Ok(Flow::Stop(why));
        }
        // No round is the last without a certificate.
        Ok(if progress.epoch + 1 >= self.epochs { Flow::Again } else { Flow::Next })
    }
}

#[cfg(test)]
mod tests;
