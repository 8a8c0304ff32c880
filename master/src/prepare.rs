//! What happens to a job before it is queued: its inputs are listed and looked at, and the model's path is checked.

use crate::assigner::Source;
use crate::job::reading::Listed;
use crate::tune::searches::{self, Known};
use flexps_common::data::dataset::Index;
use flexps_common::data::sniff::{SAMPLE, Sample, sniff};
use flexps_common::data::{Form, InputSpec, Schema, look};
use flexps_common::notes::note;
use flexps_common::plan::{Plan, Threads};
use flexps_common::storage::{FileMeta, Storage};
use flexps_common::{Error, Result, model};
use futures::{StreamExt, TryStreamExt, stream};
use std::path::{Path, PathBuf};

/// Files that are looked into for labels: the ends of the list and some between.
const LOOKED_INTO: usize = 16;
/// Files that are opened at a time.
const AT_A_TIME: usize = 16;

/// What a job is about to read.
#[derive(Debug, Default)]
pub struct Prepared {
    /// By input.
    pub inputs: Vec<Listed>,
    /// Remarks for the user.
    pub notes: Vec<String>,
    /// What searches for threads found before.
    pub known: Known,
    /// Where they are kept, if this job's plan asks for one.
    pub searches: Option<PathBuf>,
}

impl Prepared {
    /// Bytes of all inputs' files.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().flat_map(|input| &input.sources).map(|source| source.file.len).sum()
    }
}

/// Prepares a job; `searches` is the folder of what was found of threads.
pub async fn prepare(storage: Storage, searches: Option<&Path>, plan_hash: u64, plan: &Plan) -> Result<Prepared> {
    if let Some(save) = plan.save.clone() {
        let checked = tokio::task::spawn_blocking(move || model::check(&save.path, save.overwrite)).await;
        checked.map_err(|e| Error::bug(format!("checking the model's path ended early: {e}")))??;
    }
    let mut prepared = Prepared::default();
    for spec in &plan.inputs {
        let listing = storage.list(&spec.paths).await?;
        let (sources, heads): (Vec<Source>, Vec<Head>) = stream::iter(listing.files)
            .map(|file| head(&storage, file))
            .buffered(AT_A_TIME)
            .try_collect::<Vec<_>>()
            .await?
            .into_iter()
            .unzip();
        let schema = match spec.like.and_then(|id| prepared.inputs.get(id.0 as usize)) {
            Some(like) => Schema { bad_rows: spec.bad_rows, ..like.schema.clone() },
            None => {
                let samples = samples(&storage, &sources, heads).await?;
                let schema = sniff(spec, &samples)?;
                prepared.notes.extend(detected(spec, &schema));
                schema
            }
        };
        note(&mut prepared.notes, listing.notes);
        prepared.inputs.push(Listed { sources, schema });
    }
    if plan.stages().iter().any(|stage| stage.threads == Threads::Offline) {
        let bytes = prepared.bytes();
        prepared.searches = searches.map(|folder| searches::file(folder, plan_hash, bytes));
        if let Some(file) = prepared.searches.clone() {
            let loaded = tokio::task::spawn_blocking(move || searches::load(&file)).await;
            prepared.known = loaded.map_err(|e| Error::bug(format!("looking up threads ended early: {e}")))??;
        }
    }
    Ok(prepared)
}

/// What was looked at first of a file.
enum Head {
    /// Its first bytes.
    Bytes(Vec<u8>),
    /// What a dataset file's index says.
    Index(Sample),
}

/// A file, and its first bytes, which tell how it holds its rows.
async fn head(storage: &Storage, file: FileMeta) -> Result<(Source, Head)> {
    let head = storage.read_range(&file.path, file.len, 0..file.len.min(SAMPLE as u64)).await?;
    let form = Form::detect(&head, &file.path)?;
    if form != Form::Dataset {
        return Ok((Source { file, form, edges: Vec::new() }, Head::Bytes(head)));
    }
    let index = Index::read(storage, &file.path, file.len).await?;
    let sample = index.sample(&file.path);
    Ok((Source { file, form, edges: index.edges }, Head::Index(sample)))
}

/// The lines at the ends of some of the files.
async fn samples(storage: &Storage, sources: &[Source], heads: Vec<Head>) -> Result<Vec<Sample>> {
    let step = sources.len().div_ceil(LOOKED_INTO).max(1);
    let last = sources.len().saturating_sub(1);
    let chosen = sources.iter().zip(heads).enumerate().filter(|(i, _)| i.is_multiple_of(step) || *i == last);
    let looks: Vec<_> = chosen.map(|(_, (source, head))| ends(storage, source, head)).collect();
    // All at once: a DataNode that hangs costs each of them seconds.
    let samples: Vec<Vec<Sample>> = stream::iter(looks).buffered(AT_A_TIME).try_collect().await?;
    Ok(samples.into_iter().flatten().collect())
}

/// The lines at the start and at the end of a file; of a compressed one those at its start.
async fn ends(storage: &Storage, source: &Source, head: Head) -> Result<Vec<Sample>> {
    let FileMeta { path, len, .. } = &source.file;
    let head = match head {
        Head::Bytes(head) => head,
        Head::Index(sample) => return Ok(vec![sample]),
    };
    let seen = head.len() as u64;
    let mut samples = vec![look::start(storage, path, *len, source.form, head).await?];
    if source.form == Form::Text && *len > seen {
        samples.push(look::end(storage, path, *len, seen).await?);
    }
    Ok(samples)
}

/// What was found rather than given, in words.
fn detected(spec: &InputSpec, schema: &Schema) -> Option<String> {
    let mut found = Vec::new();
    if schema.base_detected {
        found.push(format!("index base {}", schema.index_base));
    }
    if schema.labels_detected {
        // With a sign where the negative one has its own.
        let signed = schema.labels.all().first().is_some_and(|least| *least < 0.0);
        let text = |label: &f32| if signed && *label > 0.0 { format!("{label:+}") } else { label.to_string() };
        found.push(format!("labels {}", schema.labels.all().iter().map(text).collect::<Vec<_>>().join("/")));
    }
    (!found.is_empty()).then(|| format!("{} detected in --{}", found.join(", "), spec.name))
}
