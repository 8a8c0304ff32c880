//! The problems that one job solves on the same rows, one after the other: each fold held out, and at last none; in
//! each the classes against the rest; in each the lambdas, from the largest, each from the optimum before.
//!
//! Invariant: what is decided of a problem depends on its number and on what earlier ones reported.

use super::certificate;
use super::cost;
use super::flags::Flags;
use super::folds::{self, Folds, Place};
use super::guess;
use super::loss;
use super::measure::{Counts, Measure};
use super::multipliers;
use super::reach;
use super::rounding::{self, Rounded};
use super::task;
use super::time::Time;
use crate::objective;
use crate::sdca::loss::Kind;
use crate::told;
use flexps_common::data::{Facts, Labels};
use flexps_common::plan::{Flow, NO_MODEL, Progress, Table, TableOp};
use flexps_common::{Error, Result};

/// The smallest lambda of a path as a part of the largest, unless it is given.
const SPAN: f64 = 0.01;

/// How a number of one more class joins that of those before.
type Joined = fn(f64, f64) -> f64;

/// What the model's rounding may cost.
const RISE: (&str, Joined) = ("rise", f64::max);

/// Stands for the lambda of classes whose own are not the same, as along a path.
const UNLIKE: f64 = -1.0;

fn of_all(others: f64, own: f64) -> f64 {
    if others == 0.0 || (others - own).abs() <= 1e-9 * own { own } else { UNLIKE }
}

/// What is reported of the model that is kept; of losses of several classes, each of which is its part of their mean.
const KEPT: [(&str, Joined); 8] = [
    ("lambda", of_all),
    ("nonzeros", |all, own| all + own),
    ("objective", |all, own| all + own),
    ("gap", f64::max),
    ("rounds", f64::max),
    RISE,
    ("training_loss", |all, own| all + own),
    ("validation_loss", |all, own| all + own),
];

/// The scalar that remembers it until the last problem.
fn kept(name: &str) -> String {
    format!("kept_{name}")
}

/// The scalar that remembers what it was of the classes before: on a path, of which this one's may be kept again and again.
fn others(name: &str) -> String {
    format!("others_{name}")
}

/// The scalar that says of how many classes there are weights in the model, of another solver or of a model to start from.
pub const BEGUN: &str = "begun_classes";

/// Most problems of a job.
pub const MOST: u64 = 1_000_000;

/// All problems of a job.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The first pass.
    pub measure: Measure,
    /// The flags.
    pub flags: Flags,
    /// f.
    pub loss: Kind,
    /// As given; otherwise 1/n.
    pub lambda: Option<f64>,
    /// Of the objective.
    pub tolerance: f64,
    /// The part of lambda that is L1.
    pub ratio: f64,
    /// Whether there is an intercept.
    pub bias: bool,
    /// The weights.
    pub point: Table<f64>,
    /// What problems may take.
    pub time: Time,
    /// Bytes that a worker may keep for values by feature.
    pub memory: u64,
}

/// Of fewer non-zeros one worker of each slave learns alone: of 0.8 million (farm-ads) two, each by its own rows, made 21 rounds where
/// one made 6.
const ALONE: u64 = if cfg!(test) { 1000 } else { 2_000_000 };

impl Problems {
    /// How many lambdas a path has.
    pub fn steps(&self) -> u32 {
        self.flags.path.unwrap_or(1)
    }

    /// The rows' facts; labels that are numbers are no classes.
    fn facts(&self, progress: &Progress) -> Result<Facts> {
        let facts = objective::facts(progress, self.measure.input)?;
        let labels = if self.measure.numbers { Labels::numbers() } else { facts.labels };
        Ok(Facts { labels, ..facts })
    }

    fn is_by_matrix(&self, facts: &Facts) -> bool {
        let Self { loss, tolerance, memory, .. } = *self;
        let lambda = self.lambda.unwrap_or(1.0 / facts.rows.max(1) as f64);
        // Whoever works, the way is the same.
        cost::Case { facts, loss, lambda, tolerance, memory, threads: 1.0, slaves: 1.0 }.is_by_matrix()
    }

    fn counts(&self, progress: &Progress) -> Result<Counts> {
        let classes = self.facts(progress)?.labels.all().len();
        self.measure.counts(progress, "measure", classes)
    }

    fn folds(&self) -> Folds {
        Folds { count: self.flags.cv.unwrap_or(0), steps: self.steps() }
    }

    /// The place of the problem of this number; none behind the last.
    pub fn place(&self, facts: &Facts, number: u64) -> Option<Place> {
        self.folds().place(&facts.labels, number)
    }

    /// Behind the first pass: what holds for all problems.
    pub fn begin(&self, progress: &mut Progress) -> Result<Flow> {
        let facts = self.facts(progress)?;
        let counts = self.counts(progress)?;
        let rows: Vec<f64> = (0..facts.labels.all().len()).map(|class| counts.trained(class, None)).collect();
        task::begin(progress, &facts, &rows, self.flags.class_weight.as_ref())?;
        // Without any penalty the matrix may have no inverse.
        let few = self.lambda != Some(0.0) && self.is_by_matrix(&facts);
        guess::begin(progress, task::problems(&facts.labels));
        progress.set("longest", facts.max_norm2.sqrt());
        progress.set("few", f64::from(u8::from(few)));
        progress.set("alone", f64::from(u8::from(!few && facts.nonzeros < ALONE)));
        Ok(Flow::Next)
    }

    /// The weights of a model to start from are in their place, of each class.
    pub fn adopt(&self, progress: &mut Progress) -> Result<Flow> {
        let classes = task::problems(&self.facts(progress)?.labels);
        progress.set(BEGUN, classes as f64);
        Ok(Flow::Next)
    }

    /// Before a problem's first round.
    pub fn start(&self, progress: &mut Progress) -> Result<Flow> {
        let facts = self.facts(progress)?;
        let place = self.place(&facts, progress.epoch).unwrap_or(Place { fold: None, class: None, step: 0 });
        let counts = self.counts(progress)?;
        task::set(progress, place.class, place.fold);
        self.time.start(progress, progress.epoch, self.folds().all(&facts.labels));
        let all = facts.labels.all().len().max(1);
        let rows = folds::trained(&counts, &facts.labels, place.fold)?;
        let trained: f64 = rows.iter().sum();
        progress.set("trained_rows", trained);
        progress.set("path_step", f64::from(place.step));
        progress.set("decrease", f64::INFINITY);
        progress.set("foreseen", 0.0);
        progress.set("length", 1.0);
        progress.set("first_residual", 0.0);
        multipliers::start(progress, self.loss == Kind::Hinge, progress.scalar("few", 0.0) > 0.0);
        progress.set("path_left", f64::from(self.steps() - 1 - place.step));
        // Whether all features have to be looked at, whether their gradient has to be made for it, and whether the scores at
        // the point are known; below, whether no feature has a weight.
        // Where all features are learnt by the matrix, whoever learns looks itself; a model that is given may need no more.
        progress.set("reached", 0.0);
        let begun = progress.scalar(BEGUN, 0.0);
        let resumes = place.step == 0 && place.fold.is_none() && (place.class.unwrap_or(0) as f64) < begun;
        progress.set("resumes", f64::from(u8::from(resumes)));
        let learns = self.ratio == 0.0 && progress.scalar("few", 0.0) == 1.0 && !resumes;
        progress.set("look", f64::from(u8::from(!learns)));
        if place.step == 0 {
            let set = [("moved", 1.0), ("scored", 0.0), ("pace", 0.0)];
            set.into_iter().for_each(|(name, value)| progress.set(name, value));
        }
        if place.step > 0 {
            if reach::reached(progress) > 0.0 {
                progress.set("look", 0.0);
            }
            let (most, least) = (progress.scalar("most_lambda", 0.0), progress.scalar("least_lambda", 0.0));
            let part = f64::from(place.step) / f64::from(self.steps() - 1);
            self.set_lambda(progress, most * (least / most).powf(part));
            return Ok(Flow::Next);
        }
        progress.set("blank", f64::from(u8::from(!resumes)));
        progress.ops.push(TableOp::Zero { table: self.point.id });
        if self.bias {
            let weighted = |class: usize| rows[class] * task::weight(progress, class);
            let (targets, sum) = match (place.class, &facts.labels.all().len()) {
                (_, 0) => (counts.labels(place.fold), trained),
                (class, _) => {
                    let positive = class.unwrap_or(1);
                    let total: f64 = (0..all).map(weighted).sum();
                    (2.0 * weighted(positive) - total, total)
                }
            };
            progress.set("bias", loss::constant(self.loss, targets, sum));
        } else {
            progress.set("bias", 0.0);
        }
        self.set_lambda(progress, self.lambda.unwrap_or(1.0 / facts.rows as f64));
        if self.flags.path.is_some() {
            // The largest comes from the gradient of the first round, of all folds the first one's: they are compared by step.
            let known = progress.scalar(&path_of(place), 0.0);
            progress.set("most_lambda", known);
            if known > 0.0 {
                self.set_steps(progress, known);
            }
        }
        Ok(Flow::Next)
    }

    fn set_lambda(&self, progress: &mut Progress, lambda: f64) {
        progress.set("lambda", lambda);
        progress.set("l1", lambda * self.ratio);
        progress.set("l2", lambda * (1.0 - self.ratio));
    }

    /// Behind the first gradient of a path: its lambdas. Whether they were set here.
    pub fn set_path(&self, progress: &mut Progress) -> Result<bool> {
        if self.flags.path.is_none() || progress.scalar("most_lambda", 0.0) > 0.0 {
            return Ok(false);
        }
        let most = progress.metric("screen", "most")? / self.ratio;
        if most == 0.0 {
            return Err(Error::data("no feature tells the labels apart: the model is zero for every lambda; no path"));
        }
        let least = self.lambda.unwrap_or(SPAN * most);
        if least >= most {
            return Err(Error::user(format!(
                "--lambda {least} leaves no weight: a path goes down from {most:.6} to it; give less"
            )));
        }
        let facts = self.facts(progress)?;
        if let Some(place) = self.place(&facts, progress.epoch) {
            progress.set(&path_of(place), most);
        }
        self.set_steps(progress, most);
        Ok(true)
    }

    /// Begins a path from this lambda on.
    fn set_steps(&self, progress: &mut Progress, most: f64) {
        let least = self.lambda.unwrap_or(SPAN * most);
        progress.set("most_lambda", most);
        progress.set("least_lambda", least);
        progress.set("path_ratio", (least / most).powf(1.0 / f64::from(self.steps() - 1)));
        self.set_lambda(progress, most);
    }

    /// Behind a problem: its numbers, what cross-validation makes of them, and whether its weights are kept.
    pub fn finish(&self, progress: &mut Progress, judged: Option<&str>) -> Result<Flow> {
        let facts = self.facts(progress)?;
        let place = self.place(&facts, progress.epoch).unwrap_or(Place { fold: None, class: None, step: 0 });
        note(progress, place);
        let only = place.class.is_none() && self.flags.cv.is_none();
        let ends = self.time.ends_path(progress, progress.epoch, self.folds().all(&facts.labels), only)?;
        progress.set("path_ends", f64::from(u8::from(ends)));
        if place.fold.is_some() {
            return self.finish_fold(progress, place, &facts);
        }
        let judged = judged.map(|stage| self.judged(progress, stage, place)).transpose()?;
        let found = judged.iter().flatten().filter(|(name, _)| *name != "validation_auc");
        progress.epoch_metrics.extend(found.map(|(name, value)| ((*name).to_owned(), *value)));
        if place.step == 0 {
            let first = place.class.is_none_or(|class| class == 0);
            for (name, _) in KEPT {
                let before = if first { 0.0 } else { progress.scalar(&kept(name), 0.0) };
                progress.set(&others(name), before);
            }
        }
        let keeps = self.keeps(progress, place, ends, judged.as_deref());
        progress.set("keep", f64::from(u8::from(keeps)));
        if keeps {
            let rows = progress.scalar("trained_rows", 1.0);
            progress.set("training_loss", progress.scalar("loss", 0.0) / rows);
            if facts.labels.all().len() == 2 {
                progress.set("training_accuracy", progress.scalar("right", 0.0) / rows);
            }
            judged.iter().flatten().for_each(|(name, value)| progress.set(name, *value));
            let classes = place.class.map_or(1.0, |_| facts.labels.all().len() as f64);
            for name in ["training_loss", "validation_loss"] {
                progress.scalars.entry(name.to_owned()).and_modify(|loss| *loss /= classes);
            }
            // What the rounding costs is known behind the stage that keeps the weights: [`Problems::rounded`] joins it again.
            KEPT.iter().for_each(|kept| join(progress, *kept));
        }
        Ok(Flow::Next)
    }

    /// What the stage of this name showed of validation rows. How many labels of several classes are right is known behind the last.
    fn judged(&self, progress: &Progress, stage: &str, place: Place) -> Result<Vec<(&'static str, f64)>> {
        let rows = progress.metric(stage, "rows")?;
        let mut found = vec![("validation_loss", progress.metric(stage, "loss")? / rows)];
        if !self.measure.numbers && place.class.is_none() {
            found.push(("validation_accuracy", progress.metric(stage, "right")? / rows));
        }
        found.extend(
            progress.metric(stage, "auc").ok().filter(|auc| auc.is_finite()).map(|auc| ("validation_auc", auc)),
        );
        Ok(found)
    }

    /// Whether the weights of a problem that is no fold's are kept: of a path those that do best where they were `judged` or folds
    /// were; else those at its end.
    fn keeps(&self, progress: &mut Progress, place: Place, ends: bool, judged: Option<&[(&str, f64)]>) -> bool {
        match (judged, self.flags.path, self.flags.cv) {
            (_, Some(_), Some(_)) => place.step == self.best(progress),
            (Some(found), Some(_), None) => {
                let loss = found.first().map_or(f64::INFINITY, |(_, loss)| *loss);
                let best = place.step == 0 || loss < progress.scalar("best_validation_loss", f64::INFINITY);
                if best {
                    progress.set("best_validation_loss", loss);
                }
                best
            }
            _ => ends || place.step + 1 == self.steps(),
        }
    }

    /// Behind a problem whose weights were kept: what the model's rounding may cost, the most of all classes.
    pub fn rounded(&self, progress: &mut Progress, tolerance: f64) -> Result<()> {
        if progress.scalar("keep", 0.0) == 0.0 {
            return Ok(());
        }
        let facts = self.facts(progress)?;
        let weights = (0..facts.labels.all().len()).map(|class| task::weight(progress, class));
        let rounded = Rounded {
            loss: self.loss,
            norm2: facts.sum_norm2 / progress.scalar("trained_rows", 1.0),
            weight: weights.fold(0.0, f64::max).max(f64::from(u8::from(facts.labels.all().is_empty()))),
            tolerance,
        };
        let rise = rounded.rise(progress)?.unwrap_or(0.0);
        progress.set("rise", rise);
        join(progress, RISE);
        Ok(())
    }

    /// Behind all that a problem does: whether it was the last.
    pub fn end(&self, progress: &mut Progress) -> Result<Flow> {
        let ends = progress.scalar("path_ends", 0.0) == 1.0;
        if !ends && self.place(&self.facts(progress)?, progress.epoch + 1).is_some() {
            return Ok(Flow::Next);
        }
        let count = progress.epoch + 1;
        let problems = told::count(count, "problem");
        let unreached = progress.scalar("unreached", 0.0);
        let short = format!("to the tolerance that was asked for{}", Time::why_short(progress, unreached));
        let solved = match unreached {
            0.0 => format!("{problems} solved"),
            1.0 if count == 1 => format!("{problems}, not solved {short}"),
            some => format!("{problems}, {some} of them not {short}"),
        };
        let last = match progress.scalar("gap", 0.0) {
            gap if gap.is_finite() => format!("the last to a duality gap of {gap:.2e}"),
            _ => "none certified, without a penalty".to_owned(),
        };
        let lambda = progress.scalar("lambda", 0.0);
        let end = if ends { format!("; the time is up, so the path ends at lambda {lambda}") } else { String::new() };
        Ok(Flow::Stop(format!("{solved}, {last}{end}")))
    }

    /// Behind the last problem: what is reported is of the model that is kept.
    pub fn conclude(progress: &mut Progress) -> Result<Flow> {
        for (name, _) in KEPT {
            if let Some(value) = progress.scalars.get(&kept(name)).copied() {
                progress.set(name, value);
            }
        }
        if progress.scalar("lambda", 0.0) == UNLIKE {
            progress.leave_out("lambda");
        }
        progress.set(NO_MODEL, 0.0);
        progress.objective = Some(progress.scalar("objective", 0.0));
        let rise = Some(progress.scalar("rise", 0.0)).filter(|rise| *rise > 0.0);
        progress.notes.extend(rise.map(rounding::told));
        // Those of the last problem, which may be another.
        progress.metrics.clear();
        Ok(Flow::Next)
    }

    /// Adds what the held-out rows showed.
    fn finish_fold(&self, progress: &mut Progress, place: Place, facts: &Facts) -> Result<Flow> {
        progress.set("keep", 0.0);
        self.folds().finish(progress, place, &facts.labels)?;
        Ok(Flow::Next)
    }

    fn best(&self, progress: &Progress) -> u32 {
        self.folds().best(progress)
    }

    /// Behind the certificate of a round, by what the stages `over_rows` and `over_features` reported: notes it, and says
    /// whether it is enough. `tolerance` is asked for as a part of the objective.
    pub fn certified(
        &self,
        progress: &mut Progress,
        [over_rows, over_features]: [&str; 2],
        tolerance: f64,
    ) -> Result<Option<String>> {
        let (certificate, _) = certificate::read(progress, over_rows, over_features, self.bias)?;
        let relative = certificate.gap / certificate.objective.abs().max(f64::MIN_POSITIVE);
        progress.objective = Some(certificate.objective);
        progress.set("objective", certificate.objective);
        progress.set("gap", relative);
        let round = (progress.epoch + 1) as f64;
        progress.set("rounds", round);
        for (stage, name) in [(over_features, "nonzeros"), (over_rows, "right"), (over_rows, "loss")] {
            let value = progress.metric(stage, name)?;
            progress.set(name, value);
        }
        if progress.scalar("l1", 0.0) == 0.0 && progress.scalar("l2", 0.0) == 0.0 {
            return Ok(None);
        }
        let why = format!("duality gap {relative:.2e}, at most {tolerance} was asked");
        let reached = relative <= tolerance || certificate.gap == 0.0;
        progress.set("reached", f64::from(u8::from(reached)));
        Ok(reached.then_some(why))
    }
}

/// Joins a number of the model that is kept with those of the classes before, where the problem at hand has one.
fn join(progress: &mut Progress, (name, joined): (&str, Joined)) {
    if let Some(own) = progress.scalars.get(name).copied() {
        progress.set(&kept(name), joined(progress.scalar(&others(name), 0.0), own));
    }
}

/// The scalar that holds the largest lambda of a class's paths.
fn path_of(place: Place) -> String {
    format!("most_lambda_{}", place.class.unwrap_or(0))
}

/// The numbers of a problem that has ended.
fn note(progress: &mut Progress, place: Place) {
    for name in ["lambda", "gap", "nonzeros", "rounds"] {
        if let Some(value) = progress.scalars.get(name).copied() {
            progress.epoch_metrics.insert(name.to_owned(), value);
        }
    }
    for (name, value) in [("fold", place.fold.map(f64::from)), ("class", place.class.map(|class| class as f64))] {
        if let Some(value) = value {
            progress.epoch_metrics.insert(name.to_owned(), value);
        }
    }
    if progress.scalar("reached", 0.0) == 0.0 {
        let others = progress.scalar("unreached", 0.0);
        progress.set("unreached", others + 1.0);
    }
}
