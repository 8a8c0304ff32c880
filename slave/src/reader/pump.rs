//! Pulls splits and cuts their text into numbered chunks of whole lines; a dataset file's are its blocks.
//!
//! Invariant: chunks are numbered in the order of splits and offsets, whatever the parsers do; the text held is at most the
//! ring's, unless a single row is longer than a buffer.

use super::dataset::Blocks;
use super::held::Held;
use super::parsers::{Chunk, Kind, Ring};
use super::source::{Source, unmodified};
use super::store::{Read, Store};
use super::{NextSplit, Options};
use flexps_common::data::Form;
use flexps_common::error::{Error, Result};
use flexps_common::storage::{Storage, is_remote};
use flexps_common::wire::control::Split;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Chunks that a short split is cut into, if none of them is too short.
const CHUNKS: u64 = 16;
const LEAST_CHUNK: usize = 64 << 10;

/// Longest row, in bytes of text.
const LONGEST_ROW: usize = 256 << 20;

/// Reads all that `next_split` gives into `ring`, and tells `store` how it ended.
pub async fn run(
    options: Options,
    storage: Storage,
    held: Arc<Held>,
    next_split: NextSplit,
    ring: Ring,
    store: Arc<Store>,
) {
    let mut pump = Pump { options, storage, held, next_split, ring, store, read: Read::default(), buffer: Vec::new() };
    match pump.all().await {
        Ok(()) => pump.store.end(pump.read),
        Err(error) => pump.store.fail(error),
    }
}

struct Pump {
    options: Options,
    storage: Storage,
    held: Arc<Held>,
    next_split: NextSplit,
    ring: Ring,
    store: Arc<Store>,
    read: Read,
    /// The buffer that is being filled.
    buffer: Vec<u8>,
}

type Opening = JoinHandle<Result<Option<(Split, Opened)>>>;

/// What comes from a split.
enum Opened {
    Text(Source),
    Blocks(Blocks),
}

impl Pump {
    async fn all(&mut self) -> Result<()> {
        self.buffer = self.ring.take().await?;
        let mut opening = self.open_next();
        loop {
            let opened = opening.await.map_err(|e| Error::bug(format!("opening a split ended: {e}")))?;
            let Some((split, opened)) = opened? else { return Ok(()) };
            // The next split is fetched and opened while this one is read.
            opening = self.open_next();
            if self.held.claim(split.index, split.start) == Some(split.start) {
                // It was given away before it was begun.
                self.held.done(split.index);
                continue;
            }
            // Looked at again behind the last byte: rows of two versions must not mix.
            let result = match opened {
                Opened::Text(source) => self.text(source, self.chunk(split.end - split.start)).await,
                Opened::Blocks(blocks) => self.blocks(blocks).await,
            };
            if let Err(error) = result.and_then(|()| unmodified(&split)) {
                opening.abort();
                return Err(error);
            }
            let bytes = self.held.done(split.index);
            self.read.splits += 1;
            self.read.bytes += bytes;
            if !is_remote(&split.path) || split.hosts.contains(&self.options.host) {
                self.read.local_bytes += bytes;
            }
        }
    }

    fn open_next(&mut self) -> Opening {
        let (split, storage, held) = ((self.next_split)(), self.storage.clone(), self.held.clone());
        tokio::spawn(async move {
            let Some(split) = split.await? else { return Ok(None) };
            held.take(&split);
            unmodified(&split)?;
            let opened = match split.form {
                Form::Dataset => Opened::Blocks(Blocks::open(&storage, &split).await?),
                _ => Opened::Text(Source::open(&storage, &split, held).await?),
            };
            Ok(Some((split, opened)))
        })
    }

    /// Bytes of a chunk of a split of so many: a short one gives every worker something to do.
    fn chunk(&self, split: u64) -> usize {
        let share = usize::try_from(split / CHUNKS).unwrap_or(usize::MAX);
        share.max(LEAST_CHUNK).min(self.options.chunk).max(1)
    }

    /// Hands on the blocks of one split.
    async fn blocks(&mut self, mut blocks: Blocks) -> Result<()> {
        while let Some((offset, local)) = blocks.next(&mut self.buffer).await? {
            let next = self.ring.take().await?;
            self.give(next, &blocks.path, offset, local.map_or(Kind::Block, Kind::Local)).await?;
        }
        Ok(())
    }

    /// Cuts one split into chunks.
    async fn text(&mut self, mut source: Source, chunk: usize) -> Result<()> {
        let path: Arc<str> = source.path.as_str().into();
        let mut line = source.from_start.then_some(1);
        loop {
            let before = self.buffer.len();
            // A row that fills the buffer makes it grow.
            let most = if before < chunk { chunk - before } else { chunk };
            if source.fill(&mut self.buffer, most).await? == 0 {
                break;
            }
            if self.buffer.len() < chunk {
                continue;
            }
            match memchr::memrchr(b'\n', &self.buffer[before..]) {
                Some(at) => {
                    let end = before + at + 1;
                    let mut next = self.ring.take().await?;
                    next.extend_from_slice(&self.buffer[end..]);
                    let offset = source.offset_of(&self.buffer);
                    self.buffer.truncate(end);
                    let kind = self.lines(&mut line);
                    self.give(next, &path, offset, kind).await?;
                }
                None if self.buffer.len() >= LONGEST_ROW => {
                    return Err(Error::data(format!(
                        "{path}, row at byte {}: longer than {LONGEST_ROW} bytes; are its line ends those of text?",
                        source.offset_of(&self.buffer)
                    )));
                }
                None => {}
            }
        }
        if !self.buffer.is_empty() {
            let next = self.ring.take().await?;
            let offset = source.offset_of(&self.buffer);
            let kind = self.lines(&mut line);
            self.give(next, &path, offset, kind).await?;
        }
        Ok(())
    }

    /// What the filled buffer holds; counts its lines.
    fn lines(&self, line: &mut Option<u64>) -> Kind {
        let first = *line;
        if let Some(line) = line {
            *line += memchr::memchr_iter(b'\n', &self.buffer).count() as u64;
        }
        Kind::Lines(first)
    }

    /// Hands the filled buffer over and goes on with `next`.
    async fn give(&mut self, next: Vec<u8>, path: &Arc<str>, offset: u64, kind: Kind) -> Result<()> {
        if self.store.failed() {
            return Err(Error::cancelled());
        }
        self.store.room().await?;
        let bytes = std::mem::replace(&mut self.buffer, next);
        self.ring.give(Chunk { number: self.read.chunks, bytes, path: path.clone(), offset, kind })?;
        self.read.chunks += 1;
        Ok(())
    }
}
