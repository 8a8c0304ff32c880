//! What exhaustive searches found, kept in files: `offline` threads are searched for once.
//!
//! Invariant: a file belongs to one plan, one size of its inputs and one experiment, and is whole or absent; a search that a job's end cut
//! short goes on in the next one.

use flexps_common::curve::Optimize;
use flexps_common::error::io;
use flexps_common::experiment::Experiment;
use flexps_common::{Error, Result};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Seconds of runs by count, by the stage's place in the plan.
pub type Known = BTreeMap<u32, BTreeMap<u32, Vec<f64>>>;

/// The file of a plan whose inputs have so many bytes. What was found under an experiment says nothing of runs without it;
/// what they are to make least changes none of them.
pub fn file(folder: &Path, plan_hash: u64, bytes: u64, experiment: &Experiment) -> PathBuf {
    let experiment = Experiment { optimize: Optimize::default(), ..experiment.clone() };
    let of = match experiment == Experiment::default() {
        true => String::new(),
        // Made of numbers, texts and lists.
        false => format!("-{:016x}", xxh3_64(&serde_json::to_vec(&experiment).unwrap_or_default())),
    };
    folder.join(format!("{plan_hash:016x}-{bytes}{of}.json"))
}

/// What is known; nothing when nobody searched yet.
pub fn load(file: &Path) -> Result<Known> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| {
            Error::user(format!("{} holds no search for threads: {e}; remove it to search anew", file.display()))
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Known::new()),
        Err(e) => Err(io(file.display(), &e)),
    }
}

/// Keeps what is known, in place of what was.
pub fn save(file: &Path, known: &Known) -> Result<()> {
    let text = serde_json::to_string(known).map_err(Error::bug)?;
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let failed = |e: std::io::Error| io(file.display(), &e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    std::fs::write(&fresh, text).map_err(failed)?;
    std::fs::rename(&fresh, file).map_err(failed)
}
