//! The records of a running master: the newest in memory, all of them in a file when one was named.
//!
//! Invariants: what tells of the master and its slaves is kept as long as it lives; of jobs and runs the newest are; the file
//! holds whole lines once [`Log::flush`] has returned.

use super::Record;
use super::read::read_each;
use flexps_common::error::io;
use flexps_common::{Error, Result};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes of records that are kept in memory, some 100,000 runs; older ones are in the file alone.
const KEPT: usize = 16 << 20;
/// Bytes that are read at a time.
const AT_ONCE: usize = 1 << 20;
/// Bytes of records in one answer, about.
const PAGE: usize = 512 << 10;

/// Where a page of records begins.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// At the record of a job or run with this number.
    At(u64),
    /// So many before the next one, or as many of them as a page holds.
    Last(u64),
}

/// Records, a line of JSON each.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The number of the oldest record of a job or run that is still in memory.
    pub first: u64,
    /// The number of the next one.
    pub next: u64,
    /// The number that the next record will have that happens: the same, where the page holds the newest one.
    pub end: u64,
    /// The records.
    pub lines: Vec<Box<str>>,
}

/// See the module.
#[derive(Default)]
pub struct Log {
    pinned: Vec<Box<str>>,
    lines: VecDeque<Box<str>>,
    /// Of `lines`.
    bytes: usize,
    dropped: u64,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Log {
    /// A log that appends to `file` as well, and gives the records that stand there already to `take`. What was torn at the
    /// file's end is cut off.
    pub fn open(file: Option<&Path>, take: impl FnMut(Record)) -> Result<Self> {
        let Some(path) = file else { return Ok(Self::default()) };
        let failed = |e: &std::io::Error| io(path.display().to_string(), e).context("--history");
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(|e| failed(&e))?;
        // Held until this process ends; a file system that has no locks goes without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let why = "another master writes it; give each its own, or end the other one";
            return Err(Error::user(format!("{}: {why}", path.display())).context("--history"));
        }
        let len = file.metadata().map_err(|e| failed(&e))?.len();
        if len > 0 {
            let end = read_each(&path.display().to_string(), BufReader::with_capacity(AT_ONCE, &file), take);
            let end = end.map_err(|e| e.context("--history"))?;
            if end.whole < len {
                tracing::warn!("{}", end.cut_off.unwrap_or_else(|| "the history's last line had no end".to_owned()));
                file.set_len(end.whole).map_err(|e| failed(&e))?;
            }
        }
        Ok(Self { file: Some((path.to_owned(), BufWriter::new(file))), ..Self::default() })
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record) {
        // Records hold numbers, texts and lists: what serde_json can always write.
        let line = serde_json::to_string(record).unwrap_or_default().into_boxed_str();
        if let Some((_, file)) = &mut self.file {
            // What fails here fails in `flush` too, and is told there.
            let _ = writeln!(file, "{line}");
        }
        if matches!(record, Record::Begin { .. }) {
            // What is told of masters before this one is in the file alone.
            self.pinned.clear();
            self.lines.clear();
            self.bytes = 0;
        }
        let ages = matches!(
            record,
            Record::Job { .. } | Record::Open { .. } | Record::Run { .. } | Record::Cancel { .. } | Record::End { .. }
        );
        if !ages {
            self.pinned.push(line);
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > KEPT
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    /// Whether what it holds outlives the master.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Hands what was appended to the system. A file that can't be written is told once and given up.
    pub fn flush(&mut self) {
        let failed = self.file.as_mut().and_then(|(_, file)| file.flush().err());
        if let (Some(error), Some((path, _))) = (failed, &self.file) {
            tracing::error!(path = %path.display(), "the history is no longer written: {error}");
            self.file = None;
        }
    }

    /// The number of the next record of a job or run.
    pub fn next(&self) -> u64 {
        self.dropped + self.lines.len() as u64
    }

    /// The number of the record at which a page begins.
    pub fn number(&self, start: Start) -> u64 {
        match start {
            Start::At(number) => number,
            Start::Last(count) => {
                let bytes = self.lines.iter().rev().take(count as usize).scan(0, |bytes, line| {
                    *bytes += line.len();
                    Some(*bytes)
                });
                // One, however long it is.
                let newest = (1..).zip(bytes).take_while(|(lines, bytes)| *lines == 1 || *bytes <= PAGE).count();
                self.next() - newest as u64
            }
        }
    }

    /// Records in pages: those of jobs and runs from number `from` on, or from the oldest on that is still there, as many as fit
    /// into an answer. The first page has the others in front.
    pub fn page(&self, from: u64) -> Page {
        let mut lines = if from == 0 { self.pinned.clone() } else { Vec::new() };
        let skip = from.saturating_sub(self.dropped);
        let (mut next, mut bytes) = (self.dropped + skip, 0);
        for line in self.lines.iter().skip(skip as usize) {
            if bytes > PAGE {
                break;
            }
            bytes += line.len();
            next += 1;
            lines.push(line.clone());
        }
        Page { first: self.dropped, next, end: self.next(), lines }
    }
}
