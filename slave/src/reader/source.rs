//! The text of one split: the rows that start in it, decoded if the file is compressed.
//!
//! Invariant: over all splits of a file each row comes exactly once, whole. A row belongs to the split in which its first
//! byte lies: a split drops what precedes its first row, and reads on behind its end until its last row's.

use super::held::Held;
use flexps_common::data::Form;
use flexps_common::data::compression::Compression;
use flexps_common::error::{Error, Result, io};
use flexps_common::storage::{Listed, Reader, Storage, is_remote};
use flexps_common::wire::control::Split;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::runtime::Handle;

/// Bytes of each read behind a split's end.
const BEHIND: u64 = 64 << 10;

/// Bytes of each read of a compressed file.
const PACKED: usize = 1 << 20;

/// The rest of a split's text.
pub struct Source {
    /// The file, for messages.
    pub path: String,
    input: Input,
    /// Whether the text is known from the file's first byte on, so that its lines can be counted.
    pub from_start: bool,
}

enum Input {
    Plain(Plain),
    Packed(Packed),
}

struct Packed {
    compression: Compression,
    /// None while it is lent to a thread that decodes.
    decoder: Option<Box<dyn Read + Send>>,
    /// Offset in the file's text behind what was given out.
    given: u64,
}

struct Plain {
    reader: Reader,
    /// Offset behind what was given out.
    given: u64,
    /// Behind the split's last byte; the reader may stand beyond.
    end: u64,
    stage: Stage,
    /// Where the split may lose its last part to another reader.
    held: Arc<Held>,
    index: u32,
}

/// Where a plain split stands.
enum Stage {
    /// In the row that started in the split before.
    Skip,
    /// In its rows; the last byte that was read.
    Rows(u8),
    Done,
}

impl Source {
    /// Opens a split of a file of text.
    pub async fn open(storage: &Storage, split: &Split, held: Arc<Held>) -> Result<Self> {
        let input = match split.form {
            Form::Packed(compression) => {
                let reader = storage.open(listed(split), 0..split.file_len).await?;
                let file = Blocking { reader, piece: Vec::new(), at: 0, runtime: Handle::current() };
                // On a thread that may block: a decoder may read its header at once.
                let made = tokio::task::spawn_blocking(move || compression.decode(file));
                let decoder = Some(made.await.map_err(|e| Error::bug(format!("a decoder panicked: {e}")))??);
                Input::Packed(Packed { compression, decoder, given: 0 })
            }
            _ => {
                // The byte before the split tells whether a row starts with it.
                let start = split.start.saturating_sub(1);
                let reader = storage.open(listed(split), start..split.end).await?;
                let stage = match split.start {
                    _ if split.start >= split.end => Stage::Done,
                    0 => Stage::Rows(b'\n'),
                    _ => Stage::Skip,
                };
                let (given, end, index) = (start, split.end, split.index);
                Input::Plain(Plain { reader, given, end, stage, held, index })
            }
        };
        Ok(Self { path: split.path.clone(), input, from_start: split.start == 0 })
    }

    /// Appends about `most` bytes to `text`; 0 behind the split's last row.
    pub async fn fill(&mut self, text: &mut Vec<u8>, most: usize) -> Result<usize> {
        match &mut self.input {
            Input::Plain(plain) => plain.fill(text, most).await,
            Input::Packed(packed) => packed.fill(text, most, &self.path).await,
        }
    }

    /// The file, if it is a local one of plain text.
    pub fn file(&self) -> Option<Arc<File>> {
        match &self.input {
            Input::Plain(plain) => plain.reader.file(),
            Input::Packed(_) => None,
        }
    }

    /// Offset in the file's text of a text that ends with what was given out last.
    pub fn offset_of(&self, text: &[u8]) -> u64 {
        let (Input::Plain(Plain { given, .. }) | Input::Packed(Packed { given, .. })) = &self.input;
        given.saturating_sub(text.len() as u64)
    }
}

impl Plain {
    async fn fill(&mut self, text: &mut Vec<u8>, most: usize) -> Result<usize> {
        let from = text.len();
        loop {
            let position = self.reader.position();
            self.end = self.held.claim(self.index, position + most as u64).unwrap_or(self.end);
            // The reader's range may go on behind the split: no read passes over its end.
            let most = if position < self.end { most.min((self.end - position) as usize) } else { most };
            match self.stage {
                Stage::Done => return Ok(0),
                Stage::Skip if position >= self.end => self.stage = Stage::Done,
                Stage::Rows(b'\n') if position >= self.end => self.stage = Stage::Done,
                Stage::Skip => {
                    let got = self.reader.append(text, most).await?;
                    // A line end at the split's last byte starts the first row of the next one.
                    let seen = got.min((self.end - 1).saturating_sub(position) as usize);
                    match memchr::memchr(b'\n', &text[from..from + seen]) {
                        Some(at) => {
                            text.drain(from..=from + at);
                            self.given = self.reader.position();
                            let rest = text.len() - from;
                            self.stage = Stage::Rows(if rest > 0 { text[text.len() - 1] } else { b'\n' });
                            if rest > 0 {
                                return Ok(rest);
                            }
                        }
                        None => {
                            text.truncate(from);
                            if got == 0 {
                                self.stage = Stage::Done;
                            }
                        }
                    }
                }
                Stage::Rows(last) => {
                    let got = self.reader.append(text, most).await?;
                    if got == 0 {
                        // The split is read. If its last row is not, go on behind it.
                        let end = self.reader.end();
                        self.reader.extend(end + BEHIND);
                        if last == b'\n' || self.reader.end() == end {
                            self.stage = Stage::Done;
                            return Ok(0);
                        }
                        continue;
                    }
                    self.stage = Stage::Rows(text[text.len() - 1]);
                    self.given = self.reader.position();
                    // What of it lies behind the split holds the end of its last row.
                    let behind = (self.given.saturating_sub(self.end) as usize).min(got);
                    let begin = text.len() - behind;
                    if behind > 0
                        && let Some(at) = memchr::memchr(b'\n', &text[begin..])
                    {
                        self.given -= (behind - at - 1) as u64;
                        text.truncate(begin + at + 1);
                        self.stage = Stage::Done;
                    }
                    return Ok(text.len() - from);
                }
            }
        }
    }
}

impl Packed {
    /// Appends decoded bytes, on a thread that may block and compute.
    async fn fill(&mut self, text: &mut Vec<u8>, most: usize, path: &str) -> Result<usize> {
        let Some(mut decoder) = self.decoder.take() else { return Err(Error::bug("a decoder was lent twice")) };
        let mut buffer = std::mem::take(text);
        let task = tokio::task::spawn_blocking(move || {
            let got = (&mut decoder).take(most as u64).read_to_end(&mut buffer);
            (decoder, buffer, got)
        });
        let (decoder, buffer, got) = task.await.map_err(|e| Error::bug(format!("a decoder panicked: {e}")))?;
        self.decoder = Some(decoder);
        *text = buffer;
        let got = got.map_err(|e| self.compression.error(path, e))?;
        self.given += got as u64;
        Ok(got)
    }
}

/// A file read from a thread that may block.
struct Blocking {
    reader: Reader,
    piece: Vec<u8>,
    at: usize,
    runtime: Handle,
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece.clear();
            self.at = 0;
            self.runtime.block_on(self.reader.append(&mut self.piece, PACKED)).map_err(std::io::Error::other)?;
        }
        let count = out.len().min(self.piece.len() - self.at);
        out[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// The file that a split is of.
pub fn listed(split: &Split) -> Listed<'_> {
    Listed { path: &split.path, len: split.file_len, modified: split.modified }
}

/// Whether a local file still is what was listed. Of a file in HDFS the storage checks that whenever it fetches its block
/// list, and the blocks of one list are of one version.
pub fn unmodified(split: &Split) -> Result<()> {
    if split.modified == 0 || is_remote(&split.path) {
        return Ok(());
    }
    let meta = std::fs::metadata(&split.path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::user(format!("{}: the file vanished after it was listed", split.path)),
        _ => io(&split.path, &e),
    })?;
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    if meta.len() == split.file_len && modified.is_none_or(|m| m.as_millis() as u64 == split.modified) {
        return Ok(());
    }
    Err(Error::user(format!(
        "{}: the file was written to after it was listed (it had {} bytes then, {} now); run again when nobody writes to \
         it any more",
        split.path,
        split.file_len,
        meta.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::InputId;

    /// What the splits of a file cut at `cuts` give, read by so many bytes.
    async fn texts(path: &str, len: u64, cuts: &[u64], most: usize) -> Vec<String> {
        let mut texts = Vec::new();
        let edges = [&[0], cuts, &[len]].concat();
        for (index, edge) in edges.windows(2).enumerate() {
            let split = Split {
                input: InputId(0),
                index: index as u32,
                path: path.to_owned(),
                start: edge[0],
                end: edge[1],
                file_len: len,
                modified: 0,
                form: Form::Text,
                hosts: vec![],
            };
            let held = Arc::new(Held::new(1));
            held.take(&split);
            let mut source = Source::open(&Storage::default(), &split, held).await.unwrap();
            let mut text = Vec::new();
            while source.fill(&mut text, most).await.unwrap() > 0 {}
            assert!(text.is_empty() || source.offset_of(&text) + text.len() as u64 <= len);
            texts.push(String::from_utf8(text).unwrap());
        }
        texts
    }

    #[test]
    fn a_cut_at_any_byte_gives_each_row_to_the_split_in_which_it_starts() {
        let text = "+1 1:1\n-1 2:0.5 70:1\n\n+1 3:1\n-1 4:1";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, text).unwrap();
        let (path, len) = (path.to_str().unwrap(), text.len());
        let starts_in = |from: usize, to: usize| -> String {
            let starts = (from..to).filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n');
            starts.map(|at| text[at..].split_inclusive('\n').next().unwrap_or_default()).collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for most in [1, 3, 1000] {
            for (one, two) in (0..len).flat_map(|one| (one..len).map(move |two| (one, two))) {
                let found = runtime.block_on(texts(path, len as u64, &[one as u64, two as u64], most));
                assert_eq!(found, [starts_in(0, one), starts_in(one, two), starts_in(two, len)], "{one} {two} {most}");
            }
        }
    }
}
