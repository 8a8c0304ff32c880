//! What happens to a job before it is queued: its inputs are listed and looked at, and the model's path is checked.

use crate::assigner::Source;
use crate::checkpoint::{Folder, Of, Refusal};
use crate::job::driver::Place;
use crate::job::reading::Listed;
use crate::tune::searches::{self, Known};
use flexps_common::data::dataset::Index;
use flexps_common::data::form::HEAD;
use flexps_common::data::schema::DataPath;
use flexps_common::data::sniff::{MOST_CLASSES, SAMPLE, Sample, may_hide_labels, sniff};
use flexps_common::data::{Form, InputSpec, Schema, look};
use flexps_common::experiment::Experiment;
use flexps_common::notes::note;
use flexps_common::plan::{Plan, Threads};
use flexps_common::storage::{FileMeta, Storage};
use flexps_common::{Error, Result, model};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Files of text that are looked into for labels: the ends of the list and some between.
const LOOKED_INTO: usize = 16;
/// Bytes of text that are looked through for labels: what takes some seconds.
const LOOKED_THROUGH: u64 = 4 << 30;
/// Files that are opened at a time.
const AT_A_TIME: usize = 16;

/// Labels that a remark lists.
const SHOWN: usize = 10;

/// What a job is about to read.
#[derive(Debug, Default)]
pub struct Prepared {
    /// By input.
    pub inputs: Vec<Listed>,
    /// Bytes of them by the host that holds these, where that is known.
    pub local: BTreeMap<String, u64>,
    /// Remarks for the user.
    pub notes: Vec<String>,
    /// What searches for threads found before.
    pub known: Known,
    /// Where they are kept, if this job's plan asks for one.
    pub searches: Option<PathBuf>,
    /// Where it keeps checkpoints, if it does, and from where it goes on.
    pub(crate) checkpoint: Option<Box<(Folder, Option<Place>)>>,
}

impl Prepared {
    /// Bytes of all inputs' files.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().flat_map(|input| &input.sources).map(|source| source.file.len).sum()
    }

    /// The same for a job that keeps checkpoints in a folder: looks for one to go on from. One that has lost a slave goes on from
    /// the beginning where that is of no use any more. What else fails may pass.
    pub(crate) async fn resume(mut self, storage: Storage, path: DataPath, of: Of, anew: bool) -> Result<Self> {
        let of = Of { inputs: self.digest(), ..of };
        let look = move || -> Result<(Folder, Result<Option<Place>, Refusal>)> {
            let folder = Folder::open(&storage, &path, of)?;
            let found = folder.found();
            Ok((folder, found))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let looked = looked.map_err(|e| Error::bug(format!("looking for a checkpoint ended early: {e}")))?;
        let told = |e: Error| e.context("--checkpoint");
        let (folder, found) = looked.map_err(|e| told(e).retryable())?;
        let place = match found {
            Ok(place) => place,
            Err(Refusal::Useless(e)) if anew => {
                note(&mut self.notes, [format!("started from the beginning: {}", told(e))]);
                None
            }
            Err(Refusal::Useless(e)) => return Err(told(e)),
            // The next checkpoint would take the place of one that may be whole.
            Err(Refusal::Unread(e)) => return Err(told(e).retryable()),
        };
        self.checkpoint = Some(Box::new((folder, place)));
        Ok(self)
    }

    /// A digest of all inputs' files: their names, lengths and times.
    fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for (place, input) in (0u64..).zip(&self.inputs) {
            for Source { file: FileMeta { path, len, modified, .. }, .. } in &input.sources {
                hasher.update(path.as_bytes());
                [place, path.len() as u64, *len, *modified].iter().for_each(|n| hasher.update(&n.to_le_bytes()));
            }
        }
        hasher.digest()
    }
}

/// Where what was found of threads is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Searches<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The plan's hash.
    pub plan_hash: u64,
    /// How the job is to run.
    pub experiment: &'a Experiment,
}

/// Prepares a job.
pub async fn prepare(storage: Storage, searches: Option<Searches<'_>>, plan: &Plan) -> Result<Prepared> {
    if let Some(save) = plan.save.clone() {
        let storage = storage.clone();
        let checked = tokio::task::spawn_blocking(move || model::check(&storage, &save.path, save.overwrite)).await;
        checked.map_err(|e| Error::bug(format!("checking the model's path ended early: {e}")))??;
    }
    let mut prepared = Prepared::default();
    for spec in &plan.inputs {
        let listing = storage.list(&spec.paths).await?;
        let (sources, heads) = heads(&storage, listing.files).await?;
        let schema = match spec.like.and_then(|id| prepared.inputs.get(id.0 as usize)) {
            Some(like) => Schema { bad_rows: spec.bad_rows, ..like.schema.clone() },
            None => {
                let mut samples = samples(&storage, &sources, heads).await?;
                if may_hide_labels(spec, &samples) {
                    samples.extend(all_labels(&storage, &sources).await?);
                }
                let schema = sniff(spec, &samples)?;
                prepared.notes.extend(detected(spec, &schema));
                schema
            }
        };
        note(&mut prepared.notes, listing.notes);
        for block in sources.iter().flat_map(|source| &source.file.blocks) {
            for host in &block.hosts {
                *prepared.local.entry(host.clone()).or_default() += block.end - block.start;
            }
        }
        prepared.inputs.push(Listed { sources, schema });
    }
    if plan.stages().iter().any(|stage| stage.threads == Threads::Offline) {
        let bytes = prepared.bytes();
        prepared.searches = searches.map(|of| searches::file(of.folder, of.plan_hash, bytes, of.experiment));
        if let Some(file) = prepared.searches.clone() {
            let loaded = tokio::task::spawn_blocking(move || searches::load(&file)).await;
            prepared.known = loaded.map_err(|e| Error::bug(format!("looking up threads ended early: {e}")))??;
        }
    }
    Ok(prepared)
}

/// What the ends of some of the files show: all that is known of an input's rows before it is read.
pub async fn ends_of(storage: &Storage, files: Vec<FileMeta>) -> Result<Vec<Sample>> {
    let (sources, heads) = heads(storage, files).await?;
    samples(storage, &sources, heads).await
}

/// What was looked at first of a file.
enum Head {
    /// Its first bytes.
    Bytes(Vec<u8>),
    /// What a dataset file's index says.
    Index(Sample),
}

/// The files, and what was looked at first of each that is looked into.
async fn heads(storage: &Storage, files: Vec<FileMeta>) -> Result<(Vec<Source>, Vec<Option<Head>>)> {
    let (step, last) = (files.len().div_ceil(LOOKED_INTO).max(1), files.len().saturating_sub(1));
    let looks = stream::iter(files.into_iter().enumerate());
    let looks = looks.map(|(i, file)| head(storage, file, i.is_multiple_of(step) || i == last)).buffered(AT_A_TIME);
    Ok(looks.try_collect::<Vec<_>>().await?.into_iter().unzip())
}

/// A file, and its first bytes, which tell how it holds its rows: of one of many no more than that takes. What a dataset file
/// says of all its rows is known in any case.
async fn head(storage: &Storage, file: FileMeta, chosen: bool) -> Result<(Source, Option<Head>)> {
    let most = if chosen { SAMPLE } else { HEAD };
    let head = storage.read_range(file.listed(), 0..file.len.min(most as u64)).await?;
    let form = Form::detect(&head, &file.path)?;
    if form != Form::Dataset {
        return Ok((Source { file, form, edges: Vec::new() }, chosen.then_some(Head::Bytes(head))));
    }
    let index = Index::read(storage, file.listed()).await?;
    let sample = index.sample(&file.path);
    Ok((Source { file, form, edges: index.edges }, Some(Head::Index(sample))))
}

/// The lines at the ends of the files that are looked into.
async fn samples(storage: &Storage, sources: &[Source], heads: Vec<Option<Head>>) -> Result<Vec<Sample>> {
    let chosen = sources.iter().zip(heads).filter_map(|(source, head)| Some((source, head?)));
    let looks: Vec<_> = chosen.map(|(source, head)| ends(storage, source, head)).collect();
    // All at once: a DataNode that hangs costs each of them seconds.
    let samples: Vec<Vec<Sample>> = stream::iter(looks).buffered(AT_A_TIME).try_collect().await?;
    Ok(samples.into_iter().flatten().collect())
}

/// All lines of the files of plain text, unless they are too many for this process alone, or were all seen; none behind a file
/// whose labels are no classes.
async fn all_labels(storage: &Storage, sources: &[Source]) -> Result<Vec<Sample>> {
    let text: Vec<&FileMeta> = sources.iter().filter(|s| s.form == Form::Text).map(|source| &source.file).collect();
    let bytes: u64 = text.iter().map(|file| file.len).sum();
    let unseen = sources.len() > LOOKED_INTO || text.iter().any(|file| file.len > SAMPLE as u64);
    if !unseen || bytes > LOOKED_THROUGH {
        return Ok(Vec::new());
    }
    let looks: Vec<_> = text.into_iter().map(|file| look::through(storage, file.listed())).collect();
    let (mut looks, mut samples) = (stream::iter(looks).buffered(AT_A_TIME), Vec::new());
    while let Some(sample) = looks.try_next().await? {
        let classes = sample.labels.len() <= MOST_CLASSES;
        samples.push(sample);
        if !classes {
            break;
        }
    }
    Ok(samples)
}

/// The lines at the start and at the end of a file; of a compressed one those at its start.
async fn ends(storage: &Storage, source: &Source, head: Head) -> Result<Vec<Sample>> {
    let file = source.file.listed();
    let head = match head {
        Head::Bytes(head) => head,
        Head::Index(sample) => return Ok(vec![sample]),
    };
    let seen = head.len() as u64;
    let mut samples = vec![look::start(storage, file, source.form, head).await?];
    if source.form == Form::Text && file.len > seen {
        samples.push(look::end(storage, file, seen).await?);
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
        let (all, count) = (schema.labels.all(), schema.labels.all().len());
        let shown = all.iter().take(SHOWN).map(text).collect::<Vec<_>>().join("/");
        let more = if count > SHOWN { format!("/… ({count} classes)") } else { String::new() };
        found.push(format!("labels {shown}{more}"));
    }
    (!found.is_empty()).then(|| format!("{} detected in --{}", found.join(", "), spec.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::data::Block;
    use flexps_common::data::dataset::Writer;

    #[test]
    fn files_behind_one_whose_labels_are_no_classes_are_not_looked_through() {
        let here = tempfile::tempdir().unwrap();
        let numbers: String = (0..20_000).map(|label| format!("{label} 1:1\n")).collect();
        (0..40).for_each(|i| std::fs::write(here.path().join(format!("part-{i:02}")), &numbers).unwrap());
        let storage = Storage::default();
        let paths = [DataPath(here.path().to_str().unwrap().to_owned())];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let samples = runtime.block_on(async {
            let (sources, _) = heads(&storage, storage.list(&paths).await.unwrap().files).await.unwrap();
            all_labels(&storage, &sources).await.unwrap()
        });
        assert_eq!(samples.iter().map(|sample| sample.labels.len()).collect::<Vec<_>>(), [MOST_CLASSES + 1]);
    }

    #[test]
    fn of_many_files_all_indices_are_looked_at_and_the_rows_of_some() {
        let here = tempfile::tempdir().unwrap();
        for place in 0u16..100 {
            let mut bytes = format!("{place} 1:1\n").repeat(1000).into_bytes();
            if place % 10 == 5 {
                bytes.clear();
                let (labels, offsets, indices) = (vec![f32::from(place)], vec![0, 1], vec![7]);
                let mut writer = Writer::new(&mut bytes, 1).unwrap();
                writer.block(&Block { labels, offsets, indices, values: None }).unwrap();
                writer.finish().unwrap();
            }
            std::fs::write(here.path().join(format!("part-{place:02}")), bytes).unwrap();
        }
        let storage = Storage::default();
        let paths = [DataPath(here.path().to_str().unwrap().to_owned())];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (heads, samples) = runtime.block_on(async {
            let files = storage.list(&paths).await.unwrap().files;
            let (_, heads) = heads(&storage, files.clone()).await.unwrap();
            (heads, ends_of(&storage, files).await.unwrap())
        });
        let held = heads.iter().filter(|head| matches!(head, Some(Head::Bytes(_)))).count();
        assert!((1..=LOOKED_INTO + 1).contains(&held), "{held} files' first bytes are held");
        let seen: Vec<f32> = samples.iter().flat_map(|sample| sample.labels.iter().copied()).collect();
        assert!((0u16..10).all(|i| seen.contains(&f32::from(10 * i + 5))), "{seen:?}");
        assert!(seen.contains(&0.0) && seen.contains(&99.0), "{seen:?}");
    }
    #[test]
    fn who_lost_a_slave_starts_from_the_beginning_where_the_checkpoint_is_damaged_and_not_where_it_can_not_be_read() {
        let here = tempfile::tempdir().unwrap();
        let folder = here.path().join("ck");
        let file = folder.join("checkpoint.bin");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let resumed = |anew| {
            let of = Of { job: "svrg".to_owned(), params: serde_json::json!({}), plan: 7, inputs: 0 };
            let path = DataPath(folder.to_str().unwrap().to_owned());
            runtime.block_on(Prepared::default().resume(Storage::default(), path, of, anew))
        };
        // In place of a file it can't be read.
        std::fs::create_dir_all(&file).unwrap();
        for anew in [true, false] {
            let error = resumed(anew).unwrap_err();
            assert!(error.retry && error.message.contains("checkpoint.bin"), "{error}");
        }
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "fxcheck2").unwrap();
        let error = resumed(false).unwrap_err();
        assert!(!error.retry && error.message.contains("it was cut short"), "{error}");
        let prepared = resumed(true).unwrap();
        assert!(prepared.notes.iter().any(|note| note.starts_with("started from the beginning: --checkpoint: ")));
        assert!(prepared.checkpoint.is_some_and(|found| found.1.is_none()));
        // A folder that can't be there now may be later.
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "").unwrap();
        assert!(resumed(true).unwrap_err().retry);
    }
}
