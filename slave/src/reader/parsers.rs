//! The parser threads, and the ring of buffers between them and the pump.
//!
//! Invariant: no buffer is ever lost, so that the pump never waits in vain: each comes back when it is parsed, also when
//! parsing failed. A parser that panics fails the reading.

use super::dataset::Local;
use super::store::Store;
use super::text::{BEHIND, Text};
use super::{Options, SPARE_BUFFERS};
use crossbeam_channel as channel;
use flexps_common::data::libsvm::{KEPT_MESSAGES, Parsed, Parser, Place};
use flexps_common::data::{Schema, dataset};
use flexps_common::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Bytes that a parser keeps to read local files into.
const MOST_KEPT: usize = 16 << 20;

/// Whole lines of a file, or a block of a dataset file.
pub struct Chunk {
    /// Its place among all; the block gets the same.
    pub number: usize,
    /// The bytes; of a local file none.
    pub bytes: Vec<u8>,
    /// The file.
    pub path: Arc<str>,
    /// Offset of the first byte in the file's text, or in the dataset file.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a chunk is.
pub enum Kind {
    /// Lines; the number of the first one, from 1, when it is known.
    Lines(Option<u64>),
    /// Lines of a local file, which are to be read.
    Text(Text),
    /// A block.
    Block,
    /// A block of a local file, which is to be read.
    Local(Local),
}

/// The pump's end of the ring. When it is dropped, the parsers end after the last chunk.
pub struct Ring {
    free: mpsc::Receiver<Vec<u8>>,
    full: channel::Sender<Chunk>,
}

impl Ring {
    /// An empty buffer, as soon as there is one.
    pub async fn take(&mut self) -> Result<Vec<u8>> {
        self.free.recv().await.ok_or_else(gone)
    }

    /// Hands a chunk to the parsers; does not wait, since there is room for every buffer of the ring.
    pub fn give(&self, chunk: Chunk) -> Result<()> {
        self.full.send(chunk).map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::bug("all parser threads are gone")
}

/// Starts the threads and fills the ring.
pub fn start(options: &Options, schema: &Schema, store: &Arc<Store>) -> Result<Ring> {
    let parsers = options.parsers.max(1);
    let buffers = parsers + SPARE_BUFFERS;
    let (give_back, free) = mpsc::channel(buffers);
    let (full, work) = channel::bounded(buffers);
    for _ in 0..buffers {
        // There is room for all.
        let _ = give_back.try_send(Vec::with_capacity(options.chunk + BEHIND));
    }
    for i in 0..parsers {
        let (give_back, work, store) = (give_back.clone(), work.clone(), store.clone());
        let (parser, chunk) = (Parser::new(schema.clone()), options.chunk + BEHIND);
        std::thread::Builder::new()
            .name(format!("parse-{i}"))
            .spawn(move || parse_all(parser, chunk, &work, &give_back, &store))
            .map_err(|e| Error::cluster(format!("a parser thread can't be started: {e}")))?;
    }
    Ok(Ring { free, full })
}

fn parse_all(
    mut parser: Parser,
    chunk_bytes: usize,
    work: &channel::Receiver<Chunk>,
    give_back: &mpsc::Sender<Vec<u8>>,
    store: &Store,
) {
    let mut memory = Vec::new();
    for chunk in work {
        if !store.failed()
            && let Err(error) = parse(&mut parser, &mut memory, &chunk, store)
        {
            store.fail(error);
        }
        let mut buffer = chunk.bytes;
        buffer.clear();
        if buffer.capacity() > 2 * chunk_bytes {
            // A giant row passed; its memory is not kept.
            buffer = Vec::with_capacity(chunk_bytes);
        }
        if memory.capacity() > MOST_KEPT {
            memory = Vec::new();
        }
        let _ = give_back.try_send(buffer);
    }
}

/// Makes a block of a local file's lines. These are counted only when one of them is bad and will be told of.
fn lines(parser: &mut Parser, memory: &mut Vec<u8>, text: &Text, path: &str, store: &Store) -> Result<Parsed> {
    let (bytes, offset) = text.read(memory)?;
    let parsed = parser.parse(bytes, &Place { path, offset, line: None });
    if parsed.as_ref().is_ok_and(|parsed| parsed.bad.is_empty()) || store.bad_rows() >= KEPT_MESSAGES as u64 {
        return parsed;
    }
    match text.line(offset)? {
        None => parsed,
        line => parser.parse(bytes, &Place { path, offset, line }),
    }
}

/// Makes a block of a chunk. `memory` is for what is read here, and kept for the next one.
fn parse(parser: &mut Parser, memory: &mut Vec<u8>, chunk: &Chunk, store: &Store) -> Result<()> {
    let Chunk { bytes, path, offset, .. } = chunk;
    let began = Instant::now();
    if let Some(spare) = store.spare() {
        parser.reuse(spare);
    }
    let decode = |parser: &mut Parser, bytes: &[u8]| {
        let spare = parser.spare();
        dataset::decode(bytes, path, *offset, parser.schema(), spare)
    };
    let parsed = catch_unwind(AssertUnwindSafe(|| match &chunk.kind {
        Kind::Lines(line) => parser.parse(bytes, &Place { path, offset: *offset, line: *line }),
        Kind::Text(text) => lines(parser, memory, text, path, store),
        Kind::Block => decode(parser, bytes),
        Kind::Local(local) => decode(parser, local.read(path, memory)?),
    }))
    .unwrap_or_else(|_| {
        Err(Error::bug(format!("the parser panicked in {} at byte {} or behind", chunk.path, chunk.offset)))
    })?;
    store.put(chunk.number, parsed, began)
}
