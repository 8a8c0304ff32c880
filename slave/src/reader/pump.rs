//! Pulls splits and cuts their text into numbered chunks of whole lines; a dataset file's are its blocks. Local files' are
//! read where they are parsed.
//!
//! Invariant: chunks are numbered in the order of splits and offsets, whatever the parsers do; the text held is at most the
//! ring's, unless a single row is longer than a buffer.

use super::dataset::Blocks;
use super::held::Held;
use super::parsers::{Chunk, Kind, Ring};
use super::source::{Source, unmodified};
use super::store::Store;
use super::text::{BEHIND, Text, bound_row};
use super::{NextSplit, Options};
use flexps_common::data::Form;
use flexps_common::error::{Error, Result};
use flexps_common::storage::{Storage, is_remote};
use flexps_common::wire::control::Split;
use std::fs::File;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Chunks that a short split is cut into, if none of them is too short.
const CHUNKS: u64 = 16;
const LEAST_CHUNK: usize = 64 << 10;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Chunks of text, each of which becomes a block: of which split, and where they start.
    pub chunks: Vec<(u32, u64)>,
    /// Splits.
    pub splits: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Of which local.
    pub local_bytes: u64,
}

/// Reads all that `next_split` gives into `ring`, and tells `store` how it ended.
pub async fn run(
    options: Options,
    storage: Storage,
    held: Arc<Held>,
    next_split: NextSplit,
    ring: Ring,
    store: Arc<Store>,
) {
    // This runs on the storage's thread, which ends with the last handle.
    let (of, _thread) = (store.clone(), storage.clone());
    let mut pump =
        Pump { options, storage, held, next_split, ring, store: of, read: Read::default(), buffer: Vec::new() };
    let result = match pump.all().await {
        Ok(()) => {
            pump.store.end(std::mem::take(&mut pump.read));
            // The parsers end with the ring.
            drop(pump);
            store.rest().await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        store.fail(error);
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
            let split = Arc::new(split);
            let chunk = self.chunk(split.end - split.start);
            let result = match opened {
                Opened::Text(source) => match source.file() {
                    Some(file) => self.local(&split, &file, chunk).await,
                    None => self.text(source, &split, chunk).await,
                },
                Opened::Blocks(blocks) => self.blocks(blocks, split.index).await,
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
    async fn blocks(&mut self, mut blocks: Blocks, split: u32) -> Result<()> {
        while let Some((offset, local)) = blocks.next(&mut self.buffer).await? {
            let next = self.ring.take().await?;
            let kind = local.map_or(Kind::Block, Kind::Local);
            self.give(next, &blocks.path, (split, offset), kind).await?;
        }
        Ok(())
    }

    /// Cuts one split of a local file into chunks, which are yet to be read.
    async fn local(&mut self, split: &Arc<Split>, file: &Arc<File>, chunk: usize) -> Result<()> {
        let path: Arc<str> = split.path.as_str().into();
        let mut start = split.start;
        loop {
            let upto = start.saturating_add(chunk as u64);
            // It may have lost its last part to another reader.
            let end = self.held.claim(split.index, upto).unwrap_or(split.end).min(upto);
            if start >= end {
                return Ok(());
            }
            let next = self.ring.take().await?;
            let text = Text { split: split.clone(), file: file.clone(), start, end };
            self.give(next, &path, (split.index, start), Kind::Text(text)).await?;
            start = end;
        }
    }

    /// Cuts one split into chunks: each ends with the row that goes over its last byte, as a local file's do.
    async fn text(&mut self, mut source: Source, split: &Split, chunk: usize) -> Result<()> {
        let Split { index, start, .. } = *split;
        let path: Arc<str> = source.path.as_str().into();
        let mut line = source.from_start.then_some(1);
        let (mut upto, mut seen) = (start.saturating_add(chunk as u64), 0);
        loop {
            let offset = source.offset_of(&self.buffer);
            while upto <= offset {
                upto = upto.saturating_add(chunk as u64);
            }
            let (own, there) = ((upto - offset) as usize, self.buffer.len());
            seen = seen.max(own - 1).min(there);
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[seen..]) {
                let end = seen + at + 1;
                let mut next = self.ring.take().await?;
                next.extend_from_slice(&self.buffer[end..]);
                self.buffer.truncate(end);
                let kind = self.lines(&mut line);
                self.give(next, &path, (index, offset), kind).await?;
                seen = 0;
                continue;
            }
            bound_row(&self.buffer, own, 0, &path, offset)?;
            seen = there;
            // A row that goes far over makes the buffer grow.
            let most = if there < own + BEHIND { own + BEHIND - there } else { chunk };
            if source.fill(&mut self.buffer, most).await? == 0 {
                break;
            }
        }
        if !self.buffer.is_empty() {
            let next = self.ring.take().await?;
            let offset = source.offset_of(&self.buffer);
            let kind = self.lines(&mut line);
            self.give(next, &path, (index, offset), kind).await?;
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

    /// Hands the filled buffer over, the text of a split from an offset on, and goes on with `next`.
    async fn give(&mut self, next: Vec<u8>, path: &Arc<str>, (split, offset): (u32, u64), kind: Kind) -> Result<()> {
        if self.store.failed() {
            return Err(Error::cancelled());
        }
        self.store.room().await?;
        let bytes = std::mem::replace(&mut self.buffer, next);
        self.ring.give(Chunk { number: self.read.chunks.len(), bytes, path: path.clone(), offset, kind })?;
        self.read.chunks.push((split, offset));
        Ok(())
    }
}
