//! Chunks that came from other slaves and are not taken over yet.
//!
//! Invariant: what is staged belongs to one move, the latest; it changes no table before the launch of its phase, and is
//! dropped when another phase begins. A chunk that comes late finds its phase begun and is refused.

use crate::kv::{Shard, Staged};
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::wire::body::BodyReader;
use flexps_common::wire::moved::{ChunkHead, ChunkId, FromReceiver, Offered, ToReceiver};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

/// What came for a job.
#[derive(Default)]
pub struct Staging(Mutex<State>);

#[derive(Default)]
struct State {
    /// The last phase that began here.
    begun: u64,
    /// The move's phase; 0 when nothing is staged.
    phase: u64,
    /// What was wanted: the versions that must come.
    wanted: FxHashMap<ChunkId, u64>,
    came: FxHashMap<ChunkId, (u64, Staged)>,
    /// Offered chunks that lay here already, with their versions.
    current: FxHashMap<ChunkId, u64>,
}

impl State {
    fn of(&mut self, phase: u64) -> Result<&mut Self> {
        if phase <= self.begun || phase < self.phase {
            return Err(Error::cluster(format!("a chunk came for phase {phase}, which is over")));
        }
        if phase > self.phase {
            *self = State { begun: self.begun, phase, ..State::default() };
        }
        Ok(self)
    }
}

impl Staging {
    /// Takes a message of another slave.
    pub fn receive(&self, shard: &Shard, message: ToReceiver, body: Bytes) -> Result<FromReceiver> {
        match message {
            ToReceiver::Offer { of, chunks } => self.offered(shard, of.phase, &chunks).map(FromReceiver::Wanted),
            ToReceiver::Chunks { of, chunks, checksum } => {
                self.stage(shard, of.phase, &chunks, checksum, body).map(|()| FromReceiver::Staged)
            }
        }
    }

    fn offered(&self, shard: &Shard, phase: u64, chunks: &[Offered]) -> Result<Vec<u32>> {
        let mut state = self.0.lock();
        let state = state.of(phase)?;
        let mut wanted = Vec::new();
        for (place, offered) in (0..).zip(chunks) {
            if shard.has(offered)? {
                state.current.insert(offered.id, offered.version);
            } else {
                state.wanted.insert(offered.id, offered.version);
                wanted.push(place);
            }
        }
        Ok(wanted)
    }

    fn stage(&self, shard: &Shard, phase: u64, chunks: &[ChunkHead], checksum: u64, body: Bytes) -> Result<()> {
        self.0.lock().of(phase)?;
        if xxh3_64(&body) != checksum {
            return Err(Error::cluster("chunks came with a wrong checksum").retryable());
        }
        // Without the lock: several messages are read side by side.
        let mut body = BodyReader::new(body);
        let came = chunks.iter().map(|head| Ok((head, shard.stage(head, &mut body)?)));
        let came = came.collect::<Result<Vec<_>>>()?;
        body.end()?;
        let mut state = self.0.lock();
        let state = state.of(phase)?;
        for (head, staged) in came {
            if state.wanted.get(&head.id) != Some(&head.version) {
                let ChunkId { table, chunk } = head.id;
                return Err(Error::bug(format!("chunk {chunk} of table {table} came unasked")));
            }
            state.came.insert(head.id, (head.version, staged));
        }
        Ok(())
    }

    /// A phase begins, with the tables at `homes`: takes over what came for it, drops everything else.
    pub fn begin(&self, shard: &Shard, phase: u64, homes: &[Home]) -> Result<()> {
        let mut state = self.0.lock();
        let State { phase: of, came, current, .. } = std::mem::take(&mut *state);
        state.begun = phase;
        let (came, current) = if of == phase { (came, current) } else { Default::default() };
        shard.settle(homes, came, &current)?;
        shard.begin_phase(phase);
        Ok(())
    }

    /// A phase of operations begins: the tables stay where they are.
    pub fn begin_ops(&self, shard: &Shard, phase: u64) {
        *self.0.lock() = State { begun: phase, ..State::default() };
        shard.begin_phase(phase);
    }
}
