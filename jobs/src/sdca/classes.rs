//! Several classes, each learnt against the rest, one after the other, on the rows that were read once.
//!
//! Invariant: of two classes there is one problem, whose weights are those of the job; of more, `weights` holds the class at
//! hand, and at the end those of all classes, one behind the other.

use super::{bias, pace};
use crate::flags::Common;
use crate::primal::flags::ClassWeights;
use crate::primal::measure::Measure;
use crate::primal::{ranges, task};
use crate::vector::Vector;
use flexps_common::data::{Facts, Labels};
use flexps_common::plan::{Flow, Plan, Progress, Table, TableOp};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};

/// What the decisions need.
#[derive(Debug, Clone)]
pub struct Classes {
    measure: Measure,
    class_weight: Option<ClassWeights>,
    /// The class at hand, or the only problem's weights.
    weights: Vector,
    /// Those of all classes that are done.
    done: Table<f32>,
    /// Whether the job starts from a model.
    starts: bool,
    patient: bool,
}

impl Classes {
    /// Adds its table to the plan.
    pub fn new(plan: &mut Plan, common: &Common, measure: Measure, weights: Vector, by: Option<&ClassWeights>) -> Self {
        Self {
            measure,
            class_weight: by.cloned(),
            weights,
            done: plan.table("done", 1),
            starts: common.init_model.is_some(),
            patient: common.patience.is_some(),
        }
    }

    fn several(labels: &Labels) -> Option<usize> {
        Some(task::problems(labels)).filter(|classes| *classes > 1)
    }

    /// Behind the first pass: what holds for all classes.
    pub fn begin(&self, progress: &mut Progress, facts: &Facts) -> Result<()> {
        let counts = self.measure.counts(progress, "measure", facts.labels.all().len())?;
        let rows: Vec<f64> = (0..facts.labels.all().len()).map(|class| counts.trained(class, None)).collect();
        task::begin(progress, facts, &rows, self.class_weight.as_ref())?;
        let most = (0..rows.len()).map(|class| task::weight(progress, class)).fold(0.0, f64::max);
        progress.set("most_weight", most);
        if let Some(classes) = Self::several(&facts.labels) {
            for (flag, given) in [("--init-model", self.starts), ("--patience", self.patient)] {
                if given {
                    return Err(Error::user(format!("{flag} goes with two classes; these rows have {classes}")));
                }
            }
            progress.set("classes", classes as f64);
        }
        self.start(progress, 0);
        Ok(())
    }

    /// Before the first epoch of a class.
    fn start(&self, progress: &mut Progress, class: usize) {
        let several = progress.scalar("classes", 1.0) > 1.0;
        task::set(progress, several.then_some(class), None);
        progress.set("fresh", 1.0);
        progress.set("keep", 0.0);
        if self.weights.bias.is_some() {
            bias::begin(progress, 0.0, 0.0);
        }
    }

    /// Behind the certificate, which says `flow`: of several classes the job goes on behind the last epoch of one.
    pub fn certified(&self, progress: &mut Progress, flow: Flow) -> Flow {
        if progress.scalar("classes", 1.0) <= 1.0 {
            return flow;
        }
        let Flow::Stop(_) = flow else { return flow };
        progress.set("keep", 1.0);
        let class = progress.scalar("class", 0.0);
        progress.epoch_metrics.insert("class".to_owned(), class);
        let sum = progress.scalar("objectives", 0.0) + progress.scalar("objective", 0.0);
        let most = progress.scalar("most_gap", 0.0).max(progress.scalar("gap", 0.0));
        progress.set("objectives", sum);
        progress.set("most_gap", most);
        Flow::Next
    }

    /// The stage function behind an epoch: copies the weights of a class that is done to their place.
    pub fn keep(&self, worker: &mut Worker<'_>) -> Result<()> {
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

    /// Behind it: the next class, or the end, which is here too where another solver is to go on.
    pub fn next(&self, progress: &mut Progress) -> Flow {
        if progress.scalar("keep", 0.0) == 0.0 {
            return Flow::Next;
        }
        let (class, classes) = (progress.scalar("class", 0.0) as usize, progress.scalar("classes", 1.0));
        if class + 1 < classes as usize && progress.scalar(pace::GIVEN_UP, 0.0) == 0.0 {
            progress.set("first_epoch", (progress.epoch + 1) as f64);
            progress.ops.push(TableOp::Zero { table: self.weights.features.id });
            self.start(progress, class + 1);
            return Flow::Next;
        }
        progress.copy(self.done, self.weights.features);
        let (objective, gap) = (progress.scalar("objectives", 0.0), progress.scalar("most_gap", 0.0));
        progress.objective = Some(objective);
        progress.set("objective", objective);
        progress.set("gap", gap);
        progress.scalars.remove("training_accuracy");
        Flow::Stop(format!("{classes} classes learnt, to duality gaps of at most {gap:.2e}"))
    }
}
