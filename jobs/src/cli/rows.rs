//! Rows of files, one piece of text after the other, for commands that read on their own.
//!
//! Invariant: rows come in the order of the files and of their lines; memory is one piece's and a row's, however large the
//! files are.

use flexps_common::Result;
use flexps_common::data::dataset::{self, Index};
use flexps_common::data::form::{Form, HEAD};
use flexps_common::data::libsvm::{LONGEST_ROW, Parsed, Parser, Place, too_long};
use flexps_common::data::schema::DataPath;
use flexps_common::data::sniff::{Sample, note_label};
use flexps_common::data::{Block, InputSpec, Schema, Wanted, sniff};
use flexps_common::error;
use flexps_common::storage::{FileMeta, Listing, Reader, Storage, StorageOptions};
use flexps_master::prepare::ends_of;
use std::io::{self, Read};
use tokio::runtime::Handle;

/// Text that is parsed at a time.
const PIECE: usize = 4 << 20;

/// Listed files.
pub struct Files {
    /// What was listed.
    pub listing: Listing,
    storage: Storage,
    runtime: Handle,
}

impl Files {
    /// Lists `paths`. Reading blocks the calling thread, which must not be one of `runtime`'s.
    pub fn list(runtime: &Handle, paths: &[DataPath]) -> Result<Self> {
        let storage = Storage::new(StorageOptions::from_env());
        let listing = runtime.block_on(storage.list(paths))?;
        Ok(Self { listing, storage, runtime: runtime.clone() })
    }

    /// The same in the order of `paths`, each as often as it is given; sorted are only the files of a directory or a glob.
    pub fn as_given(runtime: &Handle, paths: &[DataPath]) -> Result<Self> {
        let mut files = Self::list(runtime, paths)?;
        let mut each = Vec::with_capacity(paths.len());
        for path in paths {
            each.extend(runtime.block_on(files.storage.list(std::slice::from_ref(path)))?.files);
        }
        files.listing.files = each;
        Ok(files)
    }

    /// How a file holds its rows.
    pub fn form(&self, file: &FileMeta) -> Result<Form> {
        let head = self.storage.read_range(file.listed(), 0..file.len.min(HEAD as u64));
        Form::detect(&self.runtime.block_on(head)?, &file.path)
    }

    /// What the files hold, as far as their ends show, which a job's master looks at.
    pub fn detect(&self) -> Result<Schema> {
        let mut samples = self.runtime.block_on(ends_of(&self.storage, self.listing.files.clone()))?;
        let spec = |wanted| InputSpec { wanted, ..InputSpec::new("input", Vec::new()) };
        let of = |wanted, samples: &[Sample]| sniff::sniff(&spec(wanted), samples);
        if sniff::may_hide_labels(&spec(Wanted::Classes), &samples) {
            samples.push(self.all_labels(of(Wanted::Numbers, &samples)?)?);
        }
        // Whole numbers are classes; what else there is can only be numbers.
        of(Wanted::Classes, &samples).or_else(|e| of(Wanted::Numbers, &samples).map_err(|_| e))
    }

    /// The labels of all rows, of which `numbers` is the schema of those whose labels may be any.
    fn all_labels(&self, numbers: Schema) -> Result<Sample> {
        let mut labels = Vec::new();
        self.each(&Schema { bad_rows: u64::MAX, ..numbers }, |parsed| {
            parsed.block.labels.into_iter().for_each(|label| note_label(&mut labels, label));
            Ok(())
        })?;
        Ok(Sample { labels, ..Sample::default() })
    }

    /// Calls `each` with the rows of every piece of text, or of every block.
    pub fn each(&self, schema: &Schema, mut each: impl FnMut(Parsed) -> Result<()>) -> Result<()> {
        let mut parser = Parser::new(schema.clone());
        let mut text = Vec::with_capacity(2 * PIECE);
        for file in &self.listing.files {
            let form = self.form(file)?;
            if form == Form::Dataset {
                self.each_block(file, schema, &mut each)?;
                continue;
            }
            let bytes = self.open(file)?;
            let mut bytes: Box<dyn Read + Send> = match form {
                Form::Packed(compression) => compression.decode(bytes)?,
                _ => Box::new(bytes),
            };
            let failed = |e: io::Error| match form {
                Form::Packed(compression) => compression.error(&file.path, e),
                _ => error::io(&file.path, &e),
            };
            let (mut offset, mut line) = (0, 1);
            text.clear();
            loop {
                let before = text.len();
                let got = bytes.by_ref().take(PIECE as u64).read_to_end(&mut text).map_err(failed)?;
                // Of a long row many pieces have no end.
                let end = text[before..].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| before + at + 1);
                let whole = if got == 0 { text.len() } else { end };
                if text.len() - whole > LONGEST_ROW {
                    return Err(too_long(&file.path, offset + whole as u64));
                }
                if whole == 0 && got > 0 {
                    continue;
                }
                let place = Place { path: &file.path, offset, line: Some(line) };
                each(parser.parse(&text[..whole], &place)?)?;
                if got == 0 {
                    break;
                }
                offset += whole as u64;
                line += text[..whole].iter().filter(|b| **b == b'\n').count() as u64;
                text.drain(..whole);
            }
        }
        Ok(())
    }

    fn each_block(&self, file: &FileMeta, schema: &Schema, each: &mut impl FnMut(Parsed) -> Result<()>) -> Result<()> {
        let edges = self.index(file)?.edges;
        for (start, end) in edges.iter().zip(edges.iter().skip(1)) {
            let bytes = self.runtime.block_on(self.storage.read_range(file.listed(), *start..*end))?;
            each(dataset::decode(&bytes, &file.path, *start, schema, Block::default())?)?;
        }
        Ok(())
    }

    /// The index of a dataset file.
    pub fn index(&self, file: &FileMeta) -> Result<Index> {
        self.runtime.block_on(Index::read(&self.storage, file.listed()))
    }

    fn open(&self, file: &FileMeta) -> Result<Blocking> {
        let reader = self.runtime.block_on(self.storage.open(file.listed(), 0..file.len))?;
        Ok(Blocking { reader, runtime: self.runtime.clone(), piece: Vec::new(), at: 0 })
    }
}

/// A file in storage as a plain reader.
struct Blocking {
    reader: Reader,
    runtime: Handle,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece.clear();
            self.at = 0;
            self.runtime.block_on(self.reader.append(&mut self.piece, PIECE)).map_err(io::Error::other)?;
        }
        let count = out.len().min(self.piece.len() - self.at);
        out[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
