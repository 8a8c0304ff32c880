//! The records of a running master: the newest in memory, all of them in a file when one was named.
//!
//! Invariants: what tells of the master and its slaves is kept as long as it lives; of jobs and runs the newest are; the file
//! holds whole lines once [`Log::flush`] has returned.

use super::Record;
use flexps_common::error::io;
use flexps_common::{Error, Result};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Records that are kept in memory; older ones are in the file alone.
const KEPT: usize = 200_000;
/// Bytes of records in one answer, about.
const PAGE: usize = 512 << 10;

/// See the module.
#[derive(Default)]
pub struct Log {
    pinned: Vec<String>,
    lines: VecDeque<String>,
    dropped: u64,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Log {
    /// A log that appends to `file` as well.
    pub fn open(file: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|e| io(path.display().to_string(), &e).context("--history"))?;
            Ok::<_, Error>((path.to_owned(), BufWriter::new(file)))
        };
        Ok(Self { file: file.map(open).transpose()?, ..Self::default() })
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record) {
        // Records hold numbers, texts and lists: what serde_json can always write.
        let line = serde_json::to_string(record).unwrap_or_default();
        if let Some((_, file)) = &mut self.file {
            // What fails here fails in `flush` too, and is told there.
            let _ = writeln!(file, "{line}");
        }
        if !matches!(record, Record::Job { .. } | Record::Run { .. } | Record::End { .. }) {
            self.pinned.push(line);
            return;
        }
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
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

    /// Records in pages: those of jobs and runs from number `from` on, as many as fit into an answer, and the number of the
    /// next one. The first page has the others in front.
    pub fn page(&self, from: u64) -> (Vec<String>, u64) {
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
