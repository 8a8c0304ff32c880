//! The records of a running master: the newest in memory, all of them in a file when one was named.
//!
//! Invariants: what tells of the master and its slaves is kept as long as it lives; of jobs and runs the newest are; the file
//! holds whole lines once [`Log::flush`] has returned.

use super::{Record, read, text};
use flexps_common::error::io;
use flexps_common::{Error, Result};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of records that are kept in memory, some 100,000 runs; older ones are in the file alone.
const KEPT: usize = 16 << 20;
/// Bytes of records in one answer, about.
const PAGE: usize = 512 << 10;

/// Where a page of records begins.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// At the record of a job or run with this number.
    At(u64),
    /// So many before the next one.
    Last(u64),
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
    /// A log that appends to `file` as well, and the records that stand there already. What was torn at the file's end is
    /// cut off.
    pub fn open(file: Option<&Path>) -> Result<(Self, Vec<Record>)> {
        let Some(path) = file else { return Ok((Self::default(), Vec::new())) };
        let failed = |e: &std::io::Error| io(path.display().to_string(), e).context("--history");
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(|e| failed(&e))?;
        // Held until this process ends; a file system that has no locks goes without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let why = "another master writes it; give each its own, or end the other one";
            return Err(Error::user(format!("{}: {why}", path.display())).context("--history"));
        }
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
        let (name, len) = (path.display().to_string(), bytes.len());
        let mut records = Vec::new();
        if len > 0 {
            let text = text(&name, bytes).map_err(|e| e.context("--history"))?;
            let (all, torn) = read(&name, &text).map_err(|e| e.context("--history"))?;
            records = all;
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            if whole < len {
                tracing::warn!("{}", torn.unwrap_or_else(|| "the history's last line had no end".to_owned()));
                file.set_len(whole as u64).map_err(|e| failed(&e))?;
                records.truncate(text[..whole].lines().filter(|line| !line.trim().is_empty()).count());
            }
        }
        Ok((Self { file: Some((path.to_owned(), BufWriter::new(file))), ..Self::default() }, records))
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
        if !matches!(record, Record::Job { .. } | Record::Open { .. } | Record::Run { .. } | Record::End { .. }) {
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
            Start::Last(count) => self.next().saturating_sub(count),
        }
    }

    /// Records in pages: those of jobs and runs from number `from` on, as many as fit into an answer, and the number of the
    /// next one. The first page has the others in front.
    pub fn page(&self, from: u64) -> (Vec<Box<str>>, u64) {
        let mut page = if from == 0 { self.pinned.clone() } else { Vec::new() };
        let skip = from.saturating_sub(self.dropped);
        let (mut next, mut bytes) = (self.dropped + skip, 0);
        for line in self.lines.iter().skip(skip as usize) {
            if bytes > PAGE {
                break;
            }
            bytes += line.len();
            next += 1;
            page.push(line.clone());
        }
        (page, next)
    }
}
