//! The flags that `lr` and `svrg` share: help text, limits and wire format in one place.
//!
//! Invariant: what parses is within its limits; what can only be judged together (`--staleness` without `ssp`) is
//! refused by [`Common::check`], which every plan calls first.

use crate::parts::Rows;
use clap::Args;
use flexps_common::data::InputSpec;
use flexps_common::data::schema::{DataPath, Labels, Wanted};
use flexps_common::plan::{Consistency, Plan, SaveSpec, SaveTensor};
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// MiB that a worker may take for values by feature.
const WORKER_MEMORY: u32 = 40;
/// Passes at most, unless given.
pub const EPOCHS: u64 = 100;
/// The tolerance, unless given.
pub const TOLERANCE: f64 = 1e-4;

/// Flags of every job that trains a linear model on rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Common {
    /// Training rows in libsvm format: files, directories, globs, local or hdfs:// [default: generated rows]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub input: Vec<DataPath>,

    /// Rows to judge the model by after each epoch
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub validation: Vec<DataPath>,

    /// Folder to save the model in, local or hdfs:// [default: not saved]
    #[arg(long, value_name = "DIR")]
    pub model: Option<DataPath>,

    /// Replace the model folder if it is there
    #[arg(long, requires = "model")]
    pub overwrite: bool,

    /// Folder of a saved model to start from, local or hdfs:// [default: zeros]
    #[arg(long, value_name = "DIR")]
    pub init_model: Option<DataPath>,

    /// Strength of the penalty, of L2 lambda/2 |w|^2 [default: 1/rows; lr --solver ftrl: 0]
    #[arg(long, value_parser = not_negative)]
    pub lambda: Option<f64>,

    /// Learn an unpenalised intercept too
    #[arg(long)]
    pub bias: bool,

    /// Passes at most
    #[arg(long, default_value_t = EPOCHS, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,

    /// Stop when the duality gap (sdca, newton, lasso), or what an epoch lowers the objective by (others), is less than
    /// this fraction of the objective; 0: never
    #[arg(long, default_value_t = TOLERANCE, value_name = "FRACTION", value_parser = not_negative)]
    pub tolerance: f64,

    /// Stop after the epoch in which this time is up: seconds, or 90s, 10m, 1h30m; a path ends there, but one
    /// beside --cv or of several classes fails
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub time_limit: Option<f64>,

    /// Stop when the validation loss has not improved for so many epochs [default: never]
    #[arg(long, requires = "validation", value_name = "EPOCHS", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: Option<u64>,

    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// What workers must see of one another: bsp, ssp, ssp:STALENESS, asp, sparse-ssp or sparse-ssp:STALENESS:SPECULATION
    /// (2:8 unless given; svrg's workers touch all of their features at each clock, so there it is ssp:STALENESS)
    #[arg(long, default_value = "bsp", value_name = "MODEL")]
    pub consistency: Model,

    /// Clocks that a worker may be ahead of the slowest under ssp [default: 2]
    #[arg(long, value_name = "CLOCKS")]
    pub staleness: Option<u32>,

    /// First feature number in the rows, 0 or 1 [default: found in the rows]
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u32).range(0..=1))]
    pub index_base: Option<u32>,

    /// Number of features [default: found in the rows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub features: Option<u64>,

    /// Labels of the classes, the negative one of two first, e.g. 0,1 [default: found in the rows]
    #[arg(long, value_name = "NEGATIVE,POSITIVE", allow_hyphen_values = true)]
    pub labels: Option<Labels>,

    /// Memory, in MiB, that a worker may take for values by feature; rows with more features come in parts [default: 40]
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
    pub worker_memory: Option<u32>,

    /// Bad rows to skip before the job fails
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub bad_rows: u64,
}

/// A consistency model as it is written on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Model {
    /// Bulk synchronous.
    #[default]
    Bsp,
    /// Stale synchronous, with its staleness when that was written.
    Ssp(Option<u32>),
    /// Asynchronous.
    Asp,
    /// Stale synchronous by key: staleness and speculation.
    SparseSsp(u32, u32),
}

/// Most clocks of speculation: a worker keeps so many batches and their keys.
const SPECULATION: u32 = 100;

/// The two numbers of a `sparse-ssp`.
fn sparse(text: &str) -> Result<Model> {
    let both = text.split_once(':').and_then(|(s, more)| Some((s.parse().ok()?, more.parse().ok()?)));
    match both {
        Some((staleness, speculation)) if speculation <= SPECULATION => Ok(Model::SparseSsp(staleness, speculation)),
        Some((_, speculation)) => {
            Err(Error::user(format!("a speculation of {speculation} clocks is out of range; give 0 to {SPECULATION}")))
        }
        None => Err(Error::user(format!("'{text}' is no staleness and speculation; give two numbers such as 2:8"))),
    }
}

impl FromStr for Model {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s.split_once(':') {
            None if s == "bsp" => Ok(Self::Bsp),
            None if s == "ssp" => Ok(Self::Ssp(None)),
            None if s == "asp" => Ok(Self::Asp),
            None if s == "sparse-ssp" => Ok(Self::SparseSsp(2, 8)),
            Some(("sparse-ssp", both)) => sparse(both),
            Some(("ssp", clocks)) if clocks.parse::<u32>().is_ok() => Ok(Self::Ssp(clocks.parse().ok())),
            _ => Err(Error::user(format!(
                "'{s}' is no consistency model; give bsp, ssp, ssp:STALENESS, asp, sparse-ssp or \
                 sparse-ssp:STALENESS:SPECULATION"
            ))),
        }
    }
}

impl TryFrom<String> for Model {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Model> for String {
    fn from(model: Model) -> Self {
        match model {
            Model::Bsp => "bsp".to_owned(),
            Model::Ssp(None) => "ssp".to_owned(),
            Model::Ssp(Some(clocks)) => format!("ssp:{clocks}"),
            Model::Asp => "asp".to_owned(),
            Model::SparseSsp(staleness, speculation) => format!("sparse-ssp:{staleness}:{speculation}"),
        }
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from(*self))
    }
}

/// The inputs of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// Rows to train on.
    pub rows: Rows,
    /// Rows to judge by.
    pub validation: Option<Rows>,
}

impl Common {
    /// Refuses what can't be meant together.
    pub fn check(&self) -> Result<()> {
        if self.staleness.is_some() && !matches!(self.consistency, Model::Ssp(None)) {
            return Err(Error::user(format!(
                "--staleness goes with --consistency ssp, not with {}; leave one of them out",
                self.consistency
            )));
        }
        Ok(())
    }

    /// A flag that is given of when to stop, which a solver that makes one pass doesn't ask.
    pub fn asks_for_epochs(&self) -> Option<&'static str> {
        let asked = [
            (![1, EPOCHS].contains(&self.epochs), "--epochs"),
            (self.tolerance != TOLERANCE, "--tolerance"),
            (self.time_limit.is_some(), "--time-limit"),
            (self.patience.is_some(), "--patience"),
        ];
        asked.into_iter().find_map(|(asked, flag)| asked.then_some(flag))
    }

    /// The consistency model of the stages that learn.
    pub fn consistency(&self) -> Consistency {
        match self.consistency {
            Model::Bsp => Consistency::Bsp,
            Model::Ssp(written) => Consistency::Ssp { staleness: written.or(self.staleness).unwrap_or(2) },
            Model::Asp => Consistency::Asp,
            Model::SparseSsp(staleness, speculation) => Consistency::SparseSsp { staleness, speculation },
        }
    }

    /// Adds the inputs to a plan; the validation rows share the schema of the training rows.
    pub fn inputs(&self, plan: &mut Plan) -> Result<Inputs> {
        self.inputs_as(plan, Wanted::Two)
    }

    /// Like [`Common::inputs`], for labels that are wanted as something else than two classes.
    pub fn inputs_as(&self, plan: &mut Plan, wanted: Wanted) -> Result<Inputs> {
        if let Some(labels) = self.labels.as_ref().filter(|labels| wanted == Wanted::Two && labels.all().len() > 2) {
            return Err(Error::user(format!(
                "--labels names {} classes, this solver learns two; flexps run lr --solver sdca or newton learns more",
                labels.all().len()
            )));
        }
        let mut spec = InputSpec {
            name: "input".to_owned(),
            paths: self.input.clone(),
            index_base: self.index_base,
            features: self.features,
            labels: self.labels.clone(),
            wanted,
            bad_rows: self.bad_rows,
            like: None,
        };
        let memory = u64::from(self.worker_memory.unwrap_or(WORKER_MEMORY)) << 20;
        let rows = Rows { input: plan.input(spec.clone())?, memory, drawn: false };
        if self.validation.is_empty() {
            return Ok(Inputs { rows, validation: None });
        }
        "validation".clone_into(&mut spec.name);
        spec.paths.clone_from(&self.validation);
        spec.like = Some(rows.input.id);
        let validation = Rows { input: plan.input(spec)?, memory, drawn: false };
        Ok(Inputs { rows, validation: Some(validation) })
    }

    /// Asks for the model to be saved if the user did.
    pub fn save(&self, plan: &mut Plan, rows: Rows, tensors: Vec<SaveTensor>) {
        if let Some(path) = self.model.clone() {
            plan.save(SaveSpec { path, overwrite: self.overwrite, tensors, input: rows.input.id });
        }
    }
}

/// A part of a whole.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("'{text}' is no part of a whole; give a number above 0, at most 1"))
}

/// A finite number that is not negative.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        Ok(_) => Err(format!("{text} is out of range; give 0 or more")),
        Err(_) => Err(format!("'{text}' is no number; give one such as 0.001 or 1e-6")),
    }
}

/// A finite number above zero.
pub fn positive(text: &str) -> Result<f64, String> {
    match not_negative(text)? {
        0.0 => Err("0 is out of range; give more than 0".to_owned()),
        x => Ok(x),
    }
}

/// MiB: a number, with or without the unit, or a number of GiB.
pub fn mebibytes(text: &str) -> Result<u32, String> {
    let (number, each) = match text.strip_suffix("GiB") {
        Some(number) => (number, 1024),
        None => (text.strip_suffix("MiB").unwrap_or(text), 1),
    };
    let all = number.trim().parse::<u32>().ok().and_then(|n| n.checked_mul(each)).filter(|n| *n > 0);
    all.ok_or_else(|| format!("'{text}' is no amount of memory; give MiB, such as 64, 64MiB or 1GiB"))
}

/// A step size: a number above zero, or none for `auto`.
pub fn step(text: &str) -> Result<Step, String> {
    if text == "auto" { Ok(Step::Auto) } else { positive(text).map(Step::Fixed) }
}

/// A step size as it is written on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// From the data.
    #[default]
    Auto,
    /// This one.
    Fixed(f64),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Auto => f.write_str("auto"),
            Step::Fixed(step) => write!(f, "{step}"),
        }
    }
}

/// A length of time in seconds: a number, or numbers with the units ms, s, m, h, d.
pub fn seconds(text: &str) -> Result<f64, String> {
    let bad = || format!("'{text}' is no length of time; give seconds, or 90s, 10m, 1h30m");
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "" | "s" => 1.0,
                "ms" => 1e-3,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return Err(bad()),
            };
        rest = rest[letters..].trim_start();
    }
    if total > 0.0 { Ok(total) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_with_and_without_units() {
        for (text, expected) in
            [("90", 90.0), ("1.5", 1.5), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("250ms", 0.25)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "m", "10 parsecs", "-5", "1..2"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn consistency_models_survive_writing_and_reading() {
        for text in ["bsp", "ssp", "ssp:7", "asp", "sparse-ssp:0:0", "sparse-ssp:3:100"] {
            let model: Model = text.parse().unwrap();
            assert_eq!(model.to_string(), text);
            assert_eq!(serde_json::to_string(&model).unwrap(), format!("{text:?}"));
        }
        for text in
            ["ssp:", "ssp:x", "bsp:1", "BSP", "", "sparse-ssp:", "sparse-ssp:2", "sparse-ssp:2:x", "sparse-ssp:2:101"]
        {
            assert!(text.parse::<Model>().is_err(), "{text}");
        }
        assert_eq!("sparse-ssp".parse::<Model>().unwrap(), Model::SparseSsp(2, 8));
    }

    #[test]
    fn memory_is_in_mebibytes_whatever_its_unit() {
        for (text, means) in [("64", Some(64)), ("64MiB", Some(64)), ("2 GiB", Some(2048)), ("0", None), ("4KiB", None)]
        {
            assert_eq!(mebibytes(text).ok(), means, "{text}");
        }
    }

    #[test]
    fn staleness_without_ssp_is_refused() {
        let ssp = Common { staleness: Some(4), consistency: Model::Ssp(None), ..Common::default() };
        assert!(ssp.check().is_ok());
        assert_eq!(ssp.consistency(), Consistency::Ssp { staleness: 4 });
        for consistency in [Model::Bsp, Model::Asp, Model::Ssp(Some(1)), Model::SparseSsp(2, 8)] {
            assert!(Common { consistency, ..ssp.clone() }.check().is_err());
        }
    }

    #[test]
    fn steps_are_auto_or_above_zero() {
        assert_eq!(step("auto"), Ok(Step::Auto));
        assert_eq!(step("0.5"), Ok(Step::Fixed(0.5)));
        for text in ["0", "-1", "nan", "inf", "fast"] {
            assert!(step(text).is_err(), "{text}");
        }
    }
}
