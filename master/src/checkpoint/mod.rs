//! The checkpoint of a job: its place in its plan, its tables and what rows must keep, in a file of a folder, which is on a local
//! disk of the master's machine or in HDFS.
//!
//! Invariants: the file is whole or absent: it is written beside its place, stored, and renamed; a folder has one live job: on a
//! disk that holds its lock, in HDFS no other of the same master may, and one of another master loses its checkpoint only to one
//! that went on from it, see `remote`; a checkpoint is gone on from by the job that wrote it alone: the same parameters, build and
//! input files.

mod columns;
mod file;
mod local;
mod refusal;
mod remote;
mod shards;
mod store;
#[cfg(test)]
mod tests;

use crate::job::driver::Place;
pub use columns::Column;
use file::{Reader, Writer};
use flexps_common::data::schema::DataPath;
use flexps_common::ids::build_id;
use flexps_common::model::created_by;
use flexps_common::storage::Storage;
use flexps_common::{Error, Result};
pub use refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use store::Store;

/// Parameters that say what becomes of the model, as jobs call them: they may change where a job goes on.
const OF_THE_END: [&str; 2] = ["model", "overwrite"];

/// What a checkpoint is of: all that must be the same where a job goes on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Of {
    /// The job's name in the registry.
    pub job: String,
    /// Its parameters.
    pub params: Value,
    /// The hash of its plan, but for what it saves.
    pub plan: u64,
    /// A digest of its input files' names, lengths and times.
    pub inputs: u64,
}

/// What a checkpoint says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    created_by: String,
    build: u64,
    #[serde(flatten)]
    of: Of,
    /// Where in the plan it is.
    behind: String,
    objective: Option<f64>,
    /// That the job had taken.
    seconds: f64,
}

/// Where a job keeps its checkpoint. What it does waits, so it is asked where a thread may.
#[derive(Debug, Clone)]
pub struct Folder {
    store: Arc<dyn Store>,
    of: Of,
}

impl Folder {
    /// The folder of a job, made if need be; an error when none can be there, or another live job keeps its checkpoint in it.
    pub fn open(storage: &Storage, path: &DataPath, of: Of) -> Result<Self> {
        Ok(Self { store: store::open(storage, path)?, of })
    }

    /// The place that is kept there, if one is; an error when it is of another job, damaged anywhere, or can't be read.
    pub fn found(&self) -> Result<Option<Place>, Refusal> {
        let place = if self.store.look()? { Some(self.read()?) } else { None };
        self.store.sweep();
        Ok(place)
    }

    /// The place of the checkpoint that is there, which is read to its end.
    fn read(&self) -> Result<Place, Refusal> {
        let described = self.described();
        let anothers = described.as_ref().ok().and_then(|(_, found)| self.anothers(found));
        // One of which nobody knows whose it is stays.
        if anothers.is_none() && !matches!(described, Err(Refusal::Unread(_))) {
            self.store.own();
        }
        let (mut reader, found) = described?;
        if let Some(other) = anothers.or_else(|| self.outdated(&found)) {
            return Err(Refusal::Useless(Error::user(format!(
                "{} holds a checkpoint of {other}; give another folder, or remove that one to start from the beginning",
                self.name()
            ))));
        }
        let place = reader.place()?;
        while reader.part()?.is_some() {}
        Ok(place)
    }

    /// What the checkpoint that is there says of itself, and the rest of it.
    fn described(&self) -> Result<(Reader, Description), Refusal> {
        let mut reader = Reader::open(&*self.store)?;
        let found = serde_json::from_slice(&reader.description()?)
            .map_err(|e| reader.bad(&format!("its description can't be read ({e})")))?;
        Ok((reader, found))
    }

    /// What a checkpoint is of that another job wrote.
    fn anothers(&self, found: &Description) -> Option<String> {
        let (ours, theirs) = (&self.of, &found.of);
        if ours.job != theirs.job {
            return Some(format!("another job, {}", theirs.job));
        }
        if let Some(differs) = parameter(&theirs.params, &ours.params) {
            return Some(format!("{} with other parameters: {differs}", theirs.job));
        }
        (found.build != build_id()).then(|| format!("another build of flexps ({})", found.created_by))
    }

    /// What one is of that this job may have written, but of no use any more.
    fn outdated(&self, found: &Description) -> Option<String> {
        let (ours, theirs) = (&self.of, &found.of);
        if ours.inputs != theirs.inputs {
            return Some("other input files, or of these before one of them was changed".to_owned());
        }
        (ours.plan != theirs.plan).then(|| "another plan".to_owned())
    }

    /// Begins the next one, which takes the present one's place when it is finished.
    fn begin(&self, place: &Place) -> Result<Writer> {
        let description = Description {
            created_by: created_by(),
            build: build_id(),
            of: self.of.clone(),
            behind: place.behind(),
            objective: place.objective(),
            seconds: place.elapsed().as_secs_f64(),
        };
        let json = serde_json::to_vec(&description)
            .map_err(|e| Error::bug(format!("the description of a checkpoint: {e}")))?;
        Writer::create(self.store.clone().begin()?, &json, place)
    }

    /// The job is done, so nobody goes on from here: removes its checkpoint, and the folder if nothing else is in it.
    pub fn remove(&self) -> Result<()> {
        self.store.remove()
    }

    /// Where it is, for users.
    pub fn name(&self) -> String {
        self.store.folder()
    }
}

/// The first parameter that matters and that two sets don't have in common: `--epochs is 5 there, and 10 here`.
fn parameter(theirs: &Value, ours: &Value) -> Option<String> {
    let none = serde_json::Map::new();
    let [theirs, ours] = [theirs, ours].map(|params| params.as_object().unwrap_or(&none));
    let matters = |name: &&String| !OF_THE_END.contains(&name.as_str());
    let value = |params: &serde_json::Map<String, Value>, name: &String| match params.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => "not given".to_owned(),
        Some(Value::Bool(true)) => "given".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let pair = |name| (name, value(theirs, name), value(ours, name));
    let mut pairs = theirs.keys().chain(ours.keys()).filter(matters).map(pair);
    let (name, there, here) = pairs.find(|(_, there, here)| there != here)?;
    Some(format!("--{} is {there} there, and {here} here", name.replace('_', "-")))
}
