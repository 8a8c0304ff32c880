//! The checkpoint of a job: its place in its plan and its tables, in a folder on the master's machine.
//!
//! Invariants: at the folder's path there is a whole checkpoint or none, as with a model; it is gone on from by the job that
//! wrote it alone: the same parameters, build and input files.

mod file;
mod shards;
#[cfg(test)]
mod tests;

use crate::job::driver::Place;
use file::{NAME, Reader, Writer};
use flexps_common::data::schema::DataPath;
use flexps_common::error::io;
use flexps_common::ids::build_id;
use flexps_common::model::created_by;
use flexps_common::side::Side;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The file that says what a checkpoint is of.
const DESCRIPTION: &str = "checkpoint.json";

/// What a checkpoint is of: all that must be the same where a job goes on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Of {
    /// The job's name in the registry.
    pub job: String,
    /// Its parameters.
    pub params: Value,
    /// Its plan's hash.
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

/// Where a job keeps its checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    path: PathBuf,
    of: Of,
}

impl Folder {
    /// The folder of a job; an error when none can be there, or something else is.
    pub fn new(path: &DataPath, of: Of) -> Result<Self> {
        let local = (!path.0.contains("://")).then(|| PathBuf::from(&path.0));
        let path = local.ok_or_else(|| Error::user(format!("{path}: a checkpoint is a folder on a local disk")))?;
        if fs::symlink_metadata(&path).is_ok() {
            let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if !empty && !path.join(DESCRIPTION).is_file() {
                return Err(Error::user(format!("{} exists and is no checkpoint; give another path", path.display())));
            }
        }
        let folder = Self { path, of };
        folder.side().map(|_| folder)
    }

    /// A hidden folder beside it.
    fn side(&self) -> Result<Side> {
        let nowhere =
            || Error::user(format!("{} can't be a checkpoint's folder; give another path", self.path.display()));
        let parent = self.path.parent().filter(|_| self.path.file_name().is_some()).ok_or_else(nowhere)?;
        let failed = |e: &std::io::Error| io(format!("{} can't be made", self.path.display()), e);
        fs::create_dir_all(parent).map_err(|e| failed(&e))?;
        Side::folder(&self.path).map_err(|e| failed(&e))?.ok_or_else(nowhere)
    }

    /// The place that is kept there, if one is; an error when it is of another job.
    pub fn found(&self) -> Result<Option<Place>> {
        let name = self.path.join(DESCRIPTION);
        if !name.is_file() {
            return Ok(None);
        }
        let json = fs::read(&name).map_err(|e| io(name.display(), &e))?;
        let found: Description = serde_json::from_slice(&json).map_err(|e| {
            Error::data(format!("{}: not the description of a checkpoint: {e}; remove the folder", name.display()))
        })?;
        if let Some(other) = self.differs(&found) {
            return Err(Error::user(format!(
                "{} holds a checkpoint of {other}; give another folder, or remove that one to start from the beginning",
                self.path.display()
            )));
        }
        Reader::open(&self.path)?.place().map(Some)
    }

    /// What a checkpoint is of that is not this job's.
    fn differs(&self, found: &Description) -> Option<String> {
        let (ours, theirs) = (&self.of, &found.of);
        if ours.job != theirs.job {
            return Some(format!("another job, {}", theirs.job));
        }
        if let Some(differs) = parameter(&theirs.params, &ours.params) {
            return Some(format!("{} with other parameters: {differs}", theirs.job));
        }
        if found.build != build_id() {
            return Some(format!("another build of flexps ({})", found.created_by));
        }
        if ours.inputs != theirs.inputs {
            return Some("other input files, or of these before they were changed".to_owned());
        }
        (ours.plan != theirs.plan).then(|| "another plan".to_owned())
    }

    /// Begins the next one, which takes the present one's place when it is finished.
    fn begin(&self, place: &Place) -> Result<Writer> {
        Writer::create(self.side()?, place)
    }

    /// Puts a checkpoint in its place; its size in bytes.
    fn finish(&self, writer: Writer, place: &Place) -> Result<u64> {
        let description = Description {
            created_by: created_by(),
            build: build_id(),
            of: self.of.clone(),
            behind: place.behind(),
            objective: place.objective(),
            seconds: place.elapsed().as_secs_f64(),
        };
        let mut json = serde_json::to_vec_pretty(&description)
            .map_err(|e| Error::bug(format!("the description of a checkpoint: {e}")))?;
        json.push(b'\n');
        writer.finish(&self.path, DESCRIPTION, &json)
    }

    /// The job is done, so nobody goes on from here. Where it can't be removed that is only logged: the model is there.
    pub fn remove(&self) {
        let files = [DESCRIPTION, NAME].map(|name| self.path.join(name));
        if !files[0].is_file() {
            return;
        }
        // What else somebody put there stays, and the folder with it.
        let removed = files.iter().try_for_each(fs::remove_file).and_then(|()| fs::remove_dir(&self.path));
        if let Err(e) = removed {
            tracing::warn!(folder = %self.path.display(), "a checkpoint that is of no use any more can't be removed: {e}");
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The first parameter that two sets don't have in common: `epochs is 5, and 10 here`.
fn parameter(theirs: &Value, ours: &Value) -> Option<String> {
    if theirs == ours {
        return None;
    }
    let none = serde_json::Map::new();
    let [theirs, ours] = [theirs, ours].map(|params| params.as_object().unwrap_or(&none));
    let names = theirs.keys().chain(ours.keys());
    let differs = names.into_iter().find(|name| theirs.get(*name) != ours.get(*name))?;
    let value = |params: &serde_json::Map<String, Value>| params.get(differs).cloned().unwrap_or_default();
    Some(format!("{differs} is {}, and {} here", value(theirs), value(ours)))
}
