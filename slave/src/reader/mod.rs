//! The reader: one input's part of one slave, from splits to cached blocks.
//!
//! A task pulls splits and fills buffers of a small ring with whole lines, numbered in order (`pump`, `source`); parser
//! threads turn them into blocks, out of order (`parsers`); local files' lines (`text`) and blocks of a dataset file
//! (`dataset`) go the same way, and are read by the parsers; `store` keeps blocks by number, on disk when memory is used up
//! (`spill`), from where they are read ahead (`ahead`); `held` says what of the splits may still go to another slave, `takers`
//! which workers take rows that are consumed, `backlog` when reading waits for these. Invariant: the same splits in the same
//! order give the same blocks at the same numbers; every waiting call ends, with a block or with the cause of the failure;
//! besides the cached rows no more than the ring, the parsers' scratch memory, one read and what `ahead` keeps are held.

mod ahead;
mod backlog;
mod dataset;
pub mod held;
mod numbering;
mod parsers;
mod pump;
mod room;
mod slot;
mod source;
mod spill;
mod store;
mod takers;
mod text;

#[cfg(test)]
mod tests;

use flexps_common::data::block::KeyMap;
use flexps_common::data::{Block, Schema};
use flexps_common::error::{Error, Result};
use flexps_common::machine;
use flexps_common::storage::Storage;
use flexps_common::wire::control::{ReadDone, Split};
use futures::future::BoxFuture;
use held::Held;
pub use room::CacheRoom;
use std::path::PathBuf;
use std::sync::Arc;
use store::Store;
use tokio::task::JoinHandle;

/// Bytes of text that make a block, unless a row is longer or a split ends.
const CHUNK: usize = 4 << 20;

/// As many of rows that are consumed: a block is to be learnt from before long, and what was parsed to be in the caches then.
const CONSUMED_CHUNK: usize = 1 << 20;

/// More parsers would wait for the one stream that feeds them, and would hold more than 64 MiB with it.
const MOST_PARSERS: usize = 4;

/// Buffers in the ring beside those that are being parsed: one is filled, one waits.
const SPARE_BUFFERS: usize = 2;

/// How to read.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host whose blocks are local.
    pub host: String,
    /// Where rows are kept in memory; what does not fit is kept on disk.
    pub room: Arc<CacheRoom>,
    /// Where on disk.
    pub spill: PathBuf,
    /// Parser threads.
    pub parsers: usize,
    /// Bytes of text per block.
    pub chunk: usize,
    /// Whether each block is asked for once: it is then given up, and its memory filled again.
    pub consumed: bool,
    /// Whether who asks for consumed blocks waits for nothing else, so that reading may wait for that however long it takes.
    pub patient: bool,
}

impl Options {
    /// All rows in memory, a parser per core.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            room: CacheRoom::of(u64::MAX),
            spill: std::env::temp_dir(),
            parsers: (machine::cores() as usize).min(MOST_PARSERS),
            chunk: CHUNK,
            consumed: false,
            patient: false,
        }
    }

    /// These for rows that a job consumes, if it does.
    pub fn consumed(self, consumed: bool) -> Self {
        let chunk = if consumed { self.chunk.min(CONSUMED_CHUNK) } else { self.chunk };
        Self { chunk, consumed, ..self }
    }
}

/// Asks for the next split; none when all are given out. Called for the next split while one is read.
pub type NextSplit = Box<dyn FnMut() -> BoxFuture<'static, Result<Option<Split>>> + Send>;

/// An input's part that is being read, or was. Dropping it ends the reading and drops the rows.
pub struct Reader {
    store: Arc<Store>,
    held: Arc<Held>,
    pump: JoinHandle<()>,
}

impl Reader {
    /// Starts to read, on the storage's thread. `held` is empty, and shows how far the reader is.
    pub fn start(
        options: Options,
        schema: Schema,
        storage: Storage,
        held: Arc<Held>,
        next_split: NextSplit,
    ) -> Result<Self> {
        let store = Arc::new(Store::new(schema.clone(), &options));
        let ring = parsers::start(&options, &schema, &store)?;
        let runtime = storage.runtime()?;
        let pump = runtime.spawn(pump::run(options, storage, held.clone(), next_split, ring, store.clone()));
        Ok(Self { store, held, pump })
    }

    /// Block `at`, as soon as it is parsed; none behind the last one.
    pub async fn block(&self, at: usize) -> Result<Option<Arc<Block>>> {
        self.store.block(at).await
    }

    /// Waits until the worker of this number on the slave may take a block of consumed rows: one that is not needed waits
    /// until none is left.
    pub async fn admit(&self, worker: usize) -> Result<()> {
        self.store.admit(worker).await
    }

    /// How many workers take consumed rows, or are about to.
    pub fn takers(&self) -> usize {
        self.store.takers()
    }

    /// Block `at` will be asked for soon: if it is on disk, reading it begins.
    pub fn expect(&self, at: usize) {
        self.store.expect(at);
    }

    /// Number of blocks; waits until all are parsed.
    pub async fn blocks(&self) -> Result<usize> {
        self.store.blocks().await
    }

    /// The distinct features of all rows; waits until all are parsed. Its first call renumbers the rows, unless nearly all
    /// features occur: blocks taken later hold local numbers.
    pub async fn key_map(&self) -> Result<Arc<KeyMap>> {
        self.store.key_map().await
    }

    /// What was read, once all of it is parsed.
    pub async fn done(&self) -> Result<ReadDone> {
        self.store.done().await
    }

    /// Gives away a part of a split, see [`Held::give`].
    pub fn give(&self, index: u32, keep: f64) -> Option<u64> {
        self.held.give(index, keep)
    }

    /// Ends the reading and all waits, with `error`. Blocks that were there still are, for who holds them.
    pub fn cancel(&self, error: Error) {
        self.store.fail(error);
        self.pump.abort();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cancel(Error::cancelled());
    }
}
