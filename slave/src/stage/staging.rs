//! Chunks that come from other slaves for the next phase.
//!
//! Invariant: what comes belongs to one move, the latest; it changes no table that this slave serves, and is of use only if
//! the launch of its phase says that the tables live here. A chunk that comes late finds its phase begun and is refused.

use super::sync::{RwLock, RwLockReadGuard};
use crate::kv::{Expected, Shard};
use crate::process_memory;
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::TableId;
use flexps_common::wire::body::BodyReader;
use flexps_common::wire::moved::{ChunkHead, ChunkId, FromReceiver, Lying, Offered, Proof, ToReceiver};
use flexps_common::wire::packing::{Packing, unpack};
use xxhash_rust::xxh3::xxh3_64;

/// What comes for a job. Chunks are written under the shared lock, side by side; a phase begins under the other.
#[derive(Default)]
pub struct Staging(RwLock<State>);

#[derive(Default)]
struct State {
    /// The last phase that began here.
    begun: u64,
    /// The move's phase; 0 before the first.
    phase: u64,
    /// Whether operations change tables as a whole just now.
    changing: bool,
    /// What was offered, whether it lay here already or has to come.
    offered: Expected,
}

impl State {
    fn check(&self, phase: u64) -> Result<()> {
        if phase > self.begun && phase >= self.phase {
            return Ok(());
        }
        Err(Error::cluster(format!("a chunk came for phase {phase}, which is over")))
    }

    fn check_asked(&self, phase: u64, id: ChunkId, version: u64) -> Result<()> {
        if self.phase == phase && self.offered.get(&id) == Some(&version) {
            return Ok(());
        }
        let ChunkId { table, chunk } = id;
        Err(Error::bug(format!("chunk {chunk} of table {table} came unasked")))
    }
}

impl Staging {
    /// Takes a message of another slave.
    pub fn receive(&self, shard: &Shard, message: ToReceiver, body: Bytes) -> Result<FromReceiver> {
        match message {
            ToReceiver::Offer { of, chunks, proof } => {
                let places = self.offered(shard, of.phase, &chunks)?;
                Ok(FromReceiver::Wanted { places, reads: proof.is_some_and(|proof| process_memory::holds(&proof)) })
            }
            ToReceiver::InMemory { of, chunks, proof } => {
                self.read(shard, of.phase, &chunks, &proof).map(|()| FromReceiver::Staged)
            }
            ToReceiver::Chunks { of, chunks, packing, bytes, checksum, .. } => {
                if xxh3_64(&body) != checksum {
                    return Err(Error::cluster("chunks came with a wrong checksum").retryable());
                }
                let body = unpacked(&chunks, packing, bytes as usize, body)?;
                self.write(shard, of.phase, &chunks, body).map(|()| FromReceiver::Staged)
            }
        }
    }

    fn offered(&self, shard: &Shard, phase: u64, chunks: &[Offered]) -> Result<Vec<u32>> {
        let mut state = self.0.write();
        state.check(phase)?;
        if phase > state.phase {
            state.phase = phase;
            state.offered.clear();
        }
        let mut wanted = Vec::new();
        for (place, offered) in (0..).zip(chunks) {
            if !shard.has(offered)? {
                wanted.push(place);
            }
            state.offered.insert(offered.id, offered.version);
        }
        Ok(wanted)
    }

    fn write(&self, shard: &Shard, phase: u64, chunks: &[ChunkHead], body: Bytes) -> Result<()> {
        let state = self.open(phase)?;
        let mut body = BodyReader::new(body);
        for head in chunks {
            state.check_asked(phase, head.id, head.version)?;
            shard.import(head, &mut body)?;
        }
        body.end()
    }

    fn read(&self, shard: &Shard, phase: u64, chunks: &[Lying], proof: &Proof) -> Result<()> {
        let state = self.open(phase)?;
        if !process_memory::holds(proof) {
            return Err(
                Error::cluster("chunks were to be read in the memory of a process that has none of them").retryable()
            );
        }
        for chunk in chunks {
            state.check_asked(phase, chunk.id, chunk.version)?;
            shard.read(chunk, proof.process)?;
        }
        Ok(())
    }

    /// While this is held no phase begins.
    fn open(&self, phase: u64) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.0.read();
        state.check(phase)?;
        Ok(state)
    }

    /// An error when the phase has begun here.
    pub fn check(&self, phase: u64) -> Result<()> {
        self.open(phase).map(drop)
    }

    /// What `look` finds in the present phase, in which the job stays meanwhile; none while tables are changed as a whole,
    /// or nothing has begun.
    pub fn at_rest<T>(&self, look: impl FnOnce(u64) -> T) -> Option<T> {
        let state = self.0.read();
        (state.begun > 0 && !state.changing).then(|| look(state.begun))
    }

    /// A phase begins, with the tables at `homes` and `copies` of some here: what came for it may be needed, whatever else
    /// came is not.
    pub fn begin(&self, shard: &Shard, phase: u64, homes: &[Home], copies: &[TableId]) -> Result<()> {
        let mut state = self.0.write();
        let offered = std::mem::take(&mut state.offered);
        (state.begun, state.changing) = (phase, false);
        let expected = if state.phase == phase { offered } else { Expected::default() };
        shard.settle(homes, copies, &expected)?;
        shard.begin_phase(phase);
        Ok(())
    }

    /// A phase of operations begins: the tables stay where they are.
    pub fn begin_ops(&self, shard: &Shard, phase: u64) {
        let mut state = self.0.write();
        (state.begun, state.changing) = (phase, true);
        state.offered.clear();
        shard.begin_phase(phase);
    }

    /// They are done.
    pub fn end_ops(&self) {
        self.0.write().changing = false;
    }
}

/// The body of a message with chunks as they were written.
fn unpacked(chunks: &[ChunkHead], packing: Packing, bytes: usize, body: Bytes) -> Result<Bytes> {
    match chunks.first() {
        Some(first) if packing != Packing::Raw => {
            if let Packing::Half { .. } = packing {
                return Err(Error::bug("chunks came rounded"));
            }
            unpack(&body, packing, first.element, bytes / first.element.size()).map(Bytes::from)
        }
        _ => Ok(body),
    }
}
