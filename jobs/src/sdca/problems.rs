//! The problems of one job, one after the other, on the rows that were read once: each fold held out, and at last none; in each
//! the classes, each learnt against the rest.
//!
//! Invariant: `weights` holds the problem at hand, and at the end those of all rows: of two classes the last problem's, of more
//! all classes', one behind the other. A row that is held out has no part in any sum.

use super::loss::Kind;
use super::{bias, pace};
use crate::flags::{Common, Inputs};
use crate::objective;
use crate::primal::flags::ClassWeights;
use crate::primal::folds::{self, Folds, Place};
use crate::primal::judge::Judge;
use crate::primal::loss::with_smooth;
use crate::primal::measure::Measure;
use crate::primal::time::Time;
use crate::primal::{ranges, task};
use crate::told;
use crate::vector::Vector;
use flexps_common::data::Facts;
use flexps_common::plan::{Flow, NO_MODEL, Plan, Progress, Steps, Table, TableOp, Threads};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// What the decisions need.
#[derive(Debug, Clone)]
pub struct Problems {
    inputs: Inputs,
    measure: Measure,
    folds: Folds,
    class_weight: Option<ClassWeights>,
    /// The problem at hand, or the only one's weights.
    weights: Vector,
    /// Those of all classes that are done.
    done: Table<f32>,
    /// What problems may take.
    time: Time,
    /// Whether the job starts from a model.
    starts: bool,
    patient: bool,
}

impl Problems {
    /// Adds its table to the plan.
    pub fn new(
        plan: &mut Plan,
        common: &Common,
        (inputs, measure): (Inputs, Measure),
        folds: Folds,
        weights: Vector,
        by: Option<&ClassWeights>,
    ) -> Self {
        Self {
            inputs,
            measure,
            folds,
            class_weight: by.cloned(),
            weights,
            done: plan.table("done", 1),
            time: Time { limit: common.time_limit, path: false },
            starts: common.init_model.is_some(),
            patient: common.patience.is_some(),
        }
    }

    /// Behind the first pass: what holds for all problems.
    pub fn begin(&self, progress: &mut Progress, facts: &Facts) -> Result<()> {
        let counts = self.measure.counts(progress, "measure", facts.labels.all().len())?;
        let rows: Vec<f64> = (0..facts.labels.all().len()).map(|class| counts.trained(class, None)).collect();
        task::begin(progress, facts, &rows, self.class_weight.as_ref())?;
        let weights: Vec<f64> = (0..rows.len()).map(|class| task::weight(progress, class)).collect();
        progress.set("most_weight", weights.iter().copied().fold(0.0, f64::max));
        let classes = task::problems(&facts.labels);
        if classes > 1 {
            for (flag, given) in [("--init-model", self.starts), ("--patience", self.patient)] {
                if given {
                    let other =
                        if flag == "--init-model" { "; --solver newton starts from a model of several" } else { "" };
                    return Err(Error::user(format!("{flag} goes with two classes; these rows have {classes}{other}")));
                }
            }
        }
        progress.set("classes", classes as f64);
        self.start(progress, facts, 0)
    }

    /// Before the first epoch of the problem of this number.
    fn start(&self, progress: &mut Progress, facts: &Facts, number: u64) -> Result<()> {
        progress.set("problem", number as f64);
        self.time.start(progress, number, self.folds.all(&facts.labels));
        let place = self.place(progress, facts)?;
        task::set(progress, place.class, place.fold);
        let counts = self.measure.counts(progress, "measure", facts.labels.all().len())?;
        let rows = folds::trained(&counts, &facts.labels, place.fold)?;
        progress.set("rows", rows.iter().sum());
        progress.set("fresh", 1.0);
        progress.set("keep", 0.0);
        progress.set("judges_fold", 0.0);
        if self.weights.bias.is_some() {
            bias::begin(progress, 0.0, 0.0);
        }
        Ok(())
    }

    fn place(&self, progress: &Progress, facts: &Facts) -> Result<Place> {
        let place = self.folds.place(&facts.labels, progress.scalar("problem", 0.0) as u64);
        place.ok_or_else(|| Error::bug("there is no problem behind the last"))
    }

    /// Behind the certificate, which says `flow`: the job goes on behind the last epoch of a problem that is not its last, and of
    /// several classes behind each.
    pub fn certified(&self, progress: &mut Progress, flow: Flow) -> Result<Flow> {
        let place = self.place(progress, &objective::facts(progress, self.inputs.rows.input)?)?;
        // Those of several classes are in their place when the job has ended.
        if place.fold.is_none() && place.class.is_none() {
            progress.set(NO_MODEL, 0.0);
        }
        let Flow::Stop(why) = flow else { return Ok(flow) };
        let gap = progress.scalar("gap", 0.0);
        let named = [("fold", place.fold.map(f64::from)), ("class", place.class.map(|class| class as f64))];
        let named = named.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)));
        progress.epoch_metrics.extend(named);
        if place.fold.is_some() {
            if progress.scalar(pace::GIVEN_UP, 0.0) > 0.0 {
                return Ok(Flow::Stop(why));
            }
            let most = progress.scalar("most_gap_of_folds", 0.0).max(gap);
            progress.set("most_gap_of_folds", most);
            progress.set("judges_fold", 1.0);
            return Ok(Flow::Next);
        }
        if place.class.is_none() {
            return Ok(Flow::Stop(self.told(progress, why)));
        }
        progress.set("keep", 1.0);
        let sum = progress.scalar("objectives", 0.0) + progress.scalar("objective", 0.0);
        let most = progress.scalar("most_gap", 0.0).max(gap);
        progress.set("objectives", sum);
        progress.set("most_gap", most);
        Ok(Flow::Next)
    }

    /// Why the job ends, and how near the optimum those without a fold were.
    fn told(&self, progress: &Progress, why: String) -> String {
        match self.folds.count {
            0 => why,
            count => {
                let gap = progress.scalar("most_gap_of_folds", 0.0);
                format!(
                    "{} held out, to duality gaps of at most {gap:.2e}; {why}",
                    told::count(u64::from(count), "fold")
                )
            }
        }
    }

    /// Plans what is behind the last epoch of a problem, but for the last problem of two classes, behind which the job has ended.
    pub fn plan_end(&self, epoch: &mut Steps, kind: Kind, threads: Threads) {
        let (rows, point) = (self.inputs.rows, self.weights.features);
        let judge = Judge { rows, point, held_out: true, classes: true, guesses: true, steps: 1 };
        let judging = move |epoch: &mut Steps, name: &str, judge: Judge<f32>| {
            epoch
                .stage(name, move |worker| with_smooth!(kind, loss => judge.run(loss, worker)))
                .threads(threads)
                .input(judge.rows.input);
        };
        if self.folds.count > 0 {
            epoch.when("judges_fold", 1.0, |epoch| judging(epoch, folds::STAGE, judge));
        }
        let kept = self.clone();
        epoch.when("keep", 1.0, |epoch| {
            epoch.stage("keep", move |worker| kept.keep(worker)).threads(threads);
            if let Some(rows) = self.inputs.validation {
                judging(epoch, "class-validation", Judge { rows, held_out: false, ..judge });
            }
        });
    }

    /// The stage function behind an epoch: copies the weights of a class that is done to their place.
    fn keep(&self, worker: &mut Worker<'_>) -> Result<()> {
        let class = worker.scalar("class", 0.0) as u32;
        let first = class * worker.scalar("features", 0.0) as u32;
        let mut now = Vec::new();
        ranges(worker, |worker, keys| {
            worker.get_range(self.weights.features, keys.clone(), &mut now)?;
            worker.add_range(self.done, first + keys.start..first + keys.end, &now)
        })
    }

    /// Puts the intercept of the class at hand into its table.
    pub fn keep_bias(&self, worker: &mut Worker<'_>) -> Result<()> {
        let Some(table) = self.weights.bias.filter(|_| worker.place.index == 0) else { return Ok(()) };
        let class = worker.scalar("class", 0.0).max(0.0) as u32;
        let mut before = Vec::new();
        worker.get(table, &[class], &mut before)?;
        worker.add(table, &[class], &[worker.scalar("bias", 0.0) as f32 - before[0]])
    }

    /// Behind it: the next problem, or the end, which is here too where another solver is to go on.
    pub fn next(&self, progress: &mut Progress) -> Result<Flow> {
        let is = |progress: &Progress, name| progress.scalar(name, 0.0) > 0.0;
        if !is(progress, "keep") && !is(progress, "judges_fold") {
            return Ok(Flow::Next);
        }
        let facts = objective::facts(progress, self.inputs.rows.input)?;
        if is(progress, "judges_fold") {
            let place = self.place(progress, &facts)?;
            self.folds.finish(progress, place, &facts.labels)?;
        } else if self.inputs.validation.is_some() {
            let rows = progress.metric("class-validation", "rows")?;
            let right = progress.metric("class-validation", "right")? / rows;
            progress.set("validation_accuracy", right);
        }
        let next = progress.scalar("problem", 0.0) as u64 + 1;
        if self.folds.place(&facts.labels, next).is_some() && !is(progress, pace::GIVEN_UP) {
            progress.set("first_epoch", (progress.epoch + 1) as f64);
            progress.ops.push(TableOp::Zero { table: self.weights.features.id });
            self.start(progress, &facts, next)?;
            return Ok(Flow::Next);
        }
        progress.copy(self.done, self.weights.features);
        let (objective, gap) = (progress.scalar("objectives", 0.0), progress.scalar("most_gap", 0.0));
        progress.objective = Some(objective);
        progress.set("objective", objective);
        progress.set("gap", gap);
        progress.scalars.remove("training_accuracy");
        let classes = progress.scalar("classes", 1.0);
        let why = format!("{classes} classes learnt, to duality gaps of at most {gap:.2e}");
        Ok(Flow::Stop(self.told(progress, why)))
    }
}
