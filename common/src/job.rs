//! A job: parameters that are at once command-line flags, help text and wire format, and the plan that they make.

use crate::caught::caught;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::updates::{Update, Updates};
use clap::{ArgMatches, Args, Command};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An algorithm that flexps can run.
pub trait Job: Args + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What follows `flexps run`.
    const NAME: &'static str;
    /// One line of help.
    const ABOUT: &'static str;

    /// Describes the job. Pure: the same parameters give the same plan on every node. What [`Plan::check`] refuses is not run.
    fn plan(&self, plan: &mut Plan) -> Result<()>;

    /// Whether the report is to tell a metric or a scalar of this name; the others are the job's own affair.
    fn tells(_name: &str) -> bool {
        true
    }

    /// Fills in, on the submitter alone and before the first plan, what the user left out, e.g. generated rows.
    fn prepare(&mut self, _env: &Prepare) -> Result<()> {
        Ok(())
    }
}

/// What [`Job::prepare`] may use.
pub struct Prepare {
    /// The user's cache folder for generated data.
    pub cache: PathBuf,
    /// Says one line to the user.
    pub say: fn(&str),
}

/// A job whose type is no longer known.
pub trait DynJob: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Its plan, checked by itself; see [`Registry::plan`].
    fn plan(&self) -> Result<Plan>;
    /// Its parameters as JSON, as they go over the wire.
    fn params(&self) -> Result<String>;
    /// See [`Job::prepare`].
    fn prepare(&mut self, env: &Prepare) -> Result<()>;
}

impl<J: Job> DynJob for J {
    fn name(&self) -> &'static str {
        J::NAME
    }

    fn plan(&self) -> Result<Plan> {
        let mut plan = Plan { tells: Some(J::tells), ..Plan::default() };
        Job::plan(self, &mut plan)?;
        plan.check()?;
        Ok(plan)
    }

    fn params(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::bug(format!("parameters of {}: {e}", J::NAME)))
    }

    fn prepare(&mut self, env: &Prepare) -> Result<()> {
        Job::prepare(self, env)
    }
}

/// How to make a job of one kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Its line of help.
    pub about: &'static str,
    /// Adds its flags to a command.
    pub augment: fn(Command) -> Command,
    /// Makes one from parsed flags.
    pub from_matches: fn(&ArgMatches) -> Result<Box<dyn DynJob>>,
    /// Makes one from its parameters as JSON.
    pub from_params: fn(&str) -> Result<Box<dyn DynJob>>,
}

impl Kind {
    /// Whether a flag, or a parameter, of this name is its own.
    pub fn has(&self, name: &str) -> bool {
        (self.augment)(Command::new(self.name)).get_arguments().any(|arg| arg.get_long() == Some(name))
    }

    /// Makes one from parameters that are named like its flags, `{"batch-size": 100, "bias": true}`; what is not named is
    /// as on the command line.
    pub fn from_flags(&self, params: &serde_json::Map<String, serde_json::Value>) -> Result<Box<dyn DynJob>> {
        let flags = params.iter().flat_map(|(name, value)| flag(name, value));
        let command = (self.augment)(Command::new(self.name).no_binary_name(true));
        let made = command.try_get_matches_from(flags).map_err(|e| {
            // The first line says what is wrong, a tip what was meant.
            let text = e.to_string();
            let mut lines = text.trim_start_matches("error: ").lines();
            let mut what = lines.next().unwrap_or_default().to_owned();
            // Flags that are missing stand below, one a line.
            if what.ends_with(':') {
                let missing: Vec<_> = lines.by_ref().map(str::trim).take_while(|line| !line.is_empty()).collect();
                what = format!("{what} {}", missing.join(", "));
            }
            match lines.find_map(|line| line.trim().strip_prefix("tip: ")) {
                Some(tip) => Error::user(format!("{what}; {tip}")),
                None => Error::user(format!("{what}; `flexps run {} --help` lists what there is", self.name)),
            }
        });
        made.and_then(|matches| (self.from_matches)(&matches)).map_err(|e| e.context(self.name))
    }
}

/// A parameter as the flag that `flexps run` takes: `batch-size = 100` is `--batch-size=100`, `true` the bare flag, a list
/// the flag again and again.
fn flag(name: &str, value: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    let name = format!("--{}", name.replace('_', "-"));
    match value {
        Value::Bool(true) => vec![name],
        Value::Bool(false) | Value::Null => Vec::new(),
        Value::Array(all) => all.iter().flat_map(|value| flag(&name[2..], value)).collect(),
        Value::String(text) => vec![format!("{name}={text}")],
        value => vec![format!("{name}={value}")],
    }
}

/// The jobs that a binary knows, by name, and the update functions that their tables may name.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Kind>,
    /// A name that was given to two jobs.
    twice: Option<&'static str>,
    updates: Updates,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job.
    #[must_use]
    pub fn with<J: Job>(mut self) -> Self {
        let before = self.kinds.insert(
            J::NAME,
            Kind {
                name: J::NAME,
                about: J::ABOUT,
                augment: J::augment_args,
                from_matches: |matches| match J::from_arg_matches(matches) {
                    Ok(job) => Ok(Box::new(job)),
                    Err(e) => Err(Error::user(e)),
                },
                from_params: |params| match serde_json::from_str::<J>(params) {
                    Ok(job) => Ok(Box::new(job)),
                    Err(e) => Err(Error::user(format!("parameters of {}: {e}", J::NAME))),
                },
            },
        );
        self.twice = self.twice.or(before.map(|kind| kind.name));
        self
    }

    /// Refuses jobs that can't be told apart, or asked for: `flexps` does so when it starts.
    pub fn check(&self) -> Result<()> {
        if let Some(name) = self.twice {
            return Err(Error::bug(format!("two jobs of this build are called '{name}'; give yours another name")));
        }
        let plain = |name: &str| {
            let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            !name.is_empty() && !name.starts_with('-') && name.chars().all(simple)
        };
        match self.kinds.keys().find(|name| !plain(name)) {
            Some(name) => Err(Error::bug(format!(
                "a job of this build is called '{name}'; names are made of a-z, 0-9, - and _, to be typed behind `flexps run`"
            ))),
            None => Ok(()),
        }
    }

    /// Adds an update function; `make` gets a table's `update_params`.
    #[must_use]
    pub fn update<U: Update>(
        self,
        name: &'static str,
        make: impl Fn(&[f64]) -> Result<U> + Send + Sync + 'static,
    ) -> Self {
        Self { updates: self.updates.with(name, make), ..self }
    }

    /// The update functions beside the engine's.
    pub fn updates(&self) -> &Updates {
        &self.updates
    }

    /// A job's plan. An error when the update function of a table is not known, or its code panics.
    pub fn plan(&self, job: &dyn DynJob) -> Result<Plan> {
        let plan = caught(|| format!("the plan of {}", job.name()), || job.plan())?;
        self.updates.check(&plan)?;
        Ok(plan)
    }

    /// All kinds, by name.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values()
    }

    /// The kind called `name`.
    pub fn kind(&self, name: &str) -> Result<&Kind> {
        self.kinds.get(name).ok_or_else(|| {
            let known: Vec<_> = self.kinds.keys().copied().collect();
            Error::user(format!("no job is called '{name}'; this build knows {}", known.join(", ")))
        })
    }

    /// The job `name` with `params` (JSON). An error when it has no such parameter, as where another build wrote them.
    pub fn job(&self, name: &str, params: &str) -> Result<Box<dyn DynJob>> {
        let job = (self.kind(name)?.from_params)(params)?;
        match left_out(params, &job.params()?) {
            Some(unknown) => Err(Error::user(format!(
                "parameters of {name}: this build knows no '{unknown}'; run the same build on both sides"
            ))),
            None => Ok(job),
        }
    }
}

/// The first of the parameters that were given, and ask for something, which is not among those that were taken.
fn left_out(given: &str, taken: &str) -> Option<String> {
    use serde_json::{Map, Value};
    let [given, taken] =
        [given, taken].map(|text| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default());
    let asks = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    given.into_iter().find(|(name, value)| asks(value) && !taken.contains_key(name)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Args)]
    struct Shaped {
        #[arg(long)]
        by: f64,
    }

    macro_rules! named {
        ($type:ident, $name:literal) => {
            #[derive(Serialize, Deserialize, Args)]
            struct $type {}

            impl Job for $type {
                const NAME: &'static str = $name;
                const ABOUT: &'static str = "";

                fn plan(&self, _: &mut Plan) -> Result<()> {
                    Ok(())
                }
            }
        };
    }

    named!(One, "one");
    named!(Other, "one");
    named!(Spoken, "two words");

    impl Job for Shaped {
        const NAME: &'static str = "shaped";
        const ABOUT: &'static str = "has a number that its plan depends on";

        fn plan(&self, plan: &mut Plan) -> Result<()> {
            plan.scalars.insert("by".to_owned(), self.by);
            Ok(())
        }
    }

    #[test]
    fn parameters_come_back_to_the_last_bit_and_so_does_the_plan() {
        let registry = Registry::new().with::<Shaped>();
        let mut random = crate::random::SplitMix64(3);
        for by in [0.916_345_371_808_551_9, 9_163.453_718_085_519].into_iter().chain((0..500).map(|_| random.unit())) {
            let params = Shaped { by }.params().unwrap();
            let plan = registry.job("shaped", &params).unwrap().plan().unwrap();
            assert_eq!(plan.scalars["by"].to_bits(), by.to_bits(), "{by}");
        }
    }

    #[test]
    fn a_parameter_that_this_build_does_not_know_is_refused_unless_it_asks_for_nothing() {
        let registry = Registry::new().with::<Shaped>();
        let error = |params| registry.job("shaped", params).err().map(|e| e.message);
        for asks_nothing in [r#"{"by": 1.5}"#, r#"{"by": 1.5, "warm": null, "far": false}"#] {
            assert_eq!(error(asks_nothing), None);
        }
        let unknown = error(r#"{"by": 1.5, "warm": null, "times": 0}"#).unwrap();
        assert_eq!(unknown, "parameters of shaped: this build knows no 'times'; run the same build on both sides");
    }

    #[test]
    fn jobs_that_no_line_can_ask_for_are_refused() {
        let message = |registry: Registry| registry.check().unwrap_err().message;
        assert_eq!(Registry::new().with::<One>().with::<Shaped>().check(), Ok(()));
        assert!(
            message(Registry::new().with::<One>().with::<Other>())
                .starts_with("two jobs of this build are called 'one'")
        );
        assert!(message(Registry::new().with::<Spoken>()).contains("'two words'"));
    }
}
