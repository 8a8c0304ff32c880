//! `flexps data convert`: rows to dataset files, read and parsed as a job on one slave would.
//!
//! Invariant: at the output there is nothing new or all of it: it is written beside and renamed. A dataset file's blocks are
//! those that one slave cuts the text into, so that a job on one slave gives the same bits from either.

use super::outputs::{self, Folder};
use super::table::count;
use super::terminal::say;
use bytesize::ByteSize;
use clap::Args;
use flexps_common::data::dataset::Writer;
use flexps_common::data::schema::DataPath;
use flexps_common::data::{InputSpec, Schema, Wanted};
use flexps_common::error::{Error, Result, io};
use flexps_common::ids::InputId;
use flexps_common::plan::Plan;
use flexps_common::storage::{Storage, StorageOptions};
use flexps_master::assigner::{Source, cut};
use flexps_master::prepare::prepare;
use flexps_slave::reader::held::Held;
use flexps_slave::reader::{CacheRoom, NextSplit, Options, Reader};
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Rows that were parsed and are not yet written: more of them, which very long ones alone are, go to disk.
const WAITING: u64 = 128 << 20;

/// `flexps data convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Files, directories, globs or hdfs:// URLs of rows
    #[arg(required = true, value_name = "INPUT")]
    pub input: Vec<DataPath>,
    /// File to write, local or hdfs://; or a folder, which exists or ends with /, for a file of each file
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// First feature number in the rows, 0 or 1 [default: found in the rows]
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u32).range(0..=1))]
    pub index_base: Option<u32>,
    /// Bad rows to leave out of each file that is written before the command fails
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub bad_rows: u64,
}

/// What was written.
#[derive(Default)]
struct Sum {
    rows: u64,
    nonzeros: u64,
    bytes: u64,
}

/// Converts rows.
pub fn convert(runtime: &Handle, args: &ConvertArgs) -> Result<()> {
    let shown = args.output.to_string_lossy();
    let storage = Storage::new(StorageOptions::from_env());
    let mut plan = Plan::default();
    plan.input(InputSpec {
        index_base: args.index_base,
        wanted: Wanted::Numbers,
        bad_rows: args.bad_rows,
        ..InputSpec::new("input", args.input.clone())
    })?;
    let mut prepared = runtime.block_on(prepare(storage.clone(), None, &plan))?;
    prepared.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let Some(listed) = prepared.inputs.pop() else { return Err(Error::bug("an input was not listed")) };
    if let Some(input) = listed.sources.iter().find(|source| same(&source.file.path, &args.output)) {
        return Err(Error::user(format!(
            "--output {shown}: that is {}, which is to be read; give another path",
            input.file.path
        )));
    }
    let conversion = Conversion { runtime, storage, schema: listed.schema };
    let before: u64 = listed.sources.iter().map(|source| source.file.len).sum();
    let sum = match outputs::is_folder(runtime, &conversion.storage, &args.output)? {
        true => conversion.folder(&listed.sources, &args.output)?,
        false => conversion.file(&listed.sources, &args.output)?,
    };
    let size = |bytes| ByteSize(bytes).display().si();
    let what = format!("{}, {}", count(sum.rows, "row"), count(sum.nonzeros, "non-zero"));
    say(&format!("{what} in {shown}: {} became {}", size(before), size(sum.bytes)));
    Ok(())
}

/// Whether an input is the file at `output`.
fn same(input: &str, output: &Path) -> bool {
    let there = (std::fs::canonicalize(input).ok(), std::fs::canonicalize(output).ok());
    Path::new(input) == output || matches!(there, (Some(input), Some(output)) if input == output)
}

struct Conversion<'a> {
    runtime: &'a Handle,
    storage: Storage,
    schema: Schema,
}

impl Conversion<'_> {
    /// A file of each source.
    fn folder(&self, sources: &[Source], output: &Path) -> Result<Sum> {
        let folder = Folder::begin(self.runtime, &self.storage, output)?;
        let mut sum = Sum::default();
        for (i, source) in sources.iter().enumerate() {
            let name = format!("part-{i:05}.rows");
            folder.file(&name, |file| {
                let one = self.write(std::slice::from_ref(source), file);
                let one = one.map_err(|e| io(output.join(&name).display(), &e))?;
                // Spark and MapReduce leave empty files among the others.
                if one.rows == 0 {
                    say(&format!("note: {}: no rows", source.file.path));
                    return Ok(false);
                }
                sum.rows += one.rows;
                sum.nonzeros += one.nonzeros;
                sum.bytes += one.bytes;
                Ok(true)
            })?;
        }
        if sum.rows == 0 {
            return Err(nothing(sources));
        }
        folder.put()?;
        Ok(sum)
    }

    /// A file of all sources.
    fn file(&self, sources: &[Source], output: &Path) -> Result<Sum> {
        let mut sum = Sum::default();
        outputs::file(self.runtime, &self.storage, output, |file| {
            sum = self.write(sources, file).map_err(|e| io(output.display(), &e))?;
            if sum.rows == 0 { Err(nothing(sources)) } else { Ok(()) }
        })?;
        Ok(sum)
    }

    fn write(&self, sources: &[Source], file: &mut dyn Write) -> std::io::Result<Sum> {
        let mut splits = VecDeque::from(cut(InputId(0), sources, 1).0);
        let next: NextSplit = Box::new(move || {
            let split = splits.pop_front();
            Box::pin(async move { Ok(split) })
        });
        // Blocks are as long as those of a job that keeps its rows: one that consumes them takes them as they come.
        let options = Options { room: CacheRoom::of(WAITING), consumed: true, patient: true, ..Options::new("") };
        let ours = std::io::Error::other::<Error>;
        // Nobody asks for a part of what is read.
        let held = Arc::new(Held::new(u64::MAX));
        let reader = Reader::start(options, self.schema.clone(), self.storage.clone(), held, next).map_err(ours)?;
        let mut writer = Writer::new(file, self.schema.index_base)?;
        let mut at = 0;
        while let Some(block) = self.runtime.block_on(reader.block(at)).map_err(ours)? {
            writer.block(&block)?;
            at += 1;
        }
        let done = self.runtime.block_on(reader.done()).map_err(ours)?;
        done.notes.iter().for_each(|note| say(&format!("note: {note}")));
        let (index, bytes) = writer.finish()?;
        Ok(Sum { rows: index.rows, nonzeros: index.nonzeros, bytes })
    }
}

fn nothing(sources: &[Source]) -> Error {
    let first = sources.first().map_or("", |source| source.file.path.as_str());
    Error::data(format!("{first}: no rows: there is nothing to convert"))
}
