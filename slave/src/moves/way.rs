//! What goes from this slave to one receiver, message by message. Dense chunks that lie in memory are read there by a receiver
//! that can: it gets to know where, by messages without a body.
//!
//! Invariant: what was sent is under way until it is answered.

use super::staged;
use crate::job::OpenJob;
use crate::process_memory;
use flexps_common::error::Result;
use flexps_common::transport::Pending;
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::kv::ToShard;
use flexps_common::wire::moved::{MoveId, Offered, Sent, ToReceiver};
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of values in one message: a chunk. Much larger ones would be mapped and cleared by the system each time.
const MESSAGE: usize = 256 << 10;
/// Bytes of chunks that one message tells the places of.
const PLACES: u64 = 1 << 20;

/// What goes to one receiver, and through it to others.
pub struct Way {
    /// The receiver.
    pub shard: u32,
    /// The others.
    forward: Vec<u32>,
    /// Whether the receiver reads it in this slave's memory.
    reads: bool,
    /// What is left to go.
    pub left: VecDeque<Offered>,
    /// What went.
    pub sent: Sent,
}

impl Way {
    /// Of these chunks nothing went yet; `kept` are those that the receiver had.
    pub fn new(job: &OpenJob, shard: u32, forward: Vec<u32>, left: VecDeque<Offered>, kept: u64) -> Result<Self> {
        let to = job.link(shard)?.slave;
        let sent = Sent { to, chunks: 0, bytes: 0, kept, forwarded: 0, raw: 0, memory: 0, pace: None, copies: false };
        Ok(Self { shard, forward, reads: false, left, sent })
    }

    /// Of these chunks the receiver is to read all here.
    pub fn reading(job: &OpenJob, shard: u32, left: VecDeque<Offered>) -> Result<Self> {
        Ok(Self { reads: true, ..Self::new(job, shard, Vec::new(), left, 0)? })
    }

    /// Sends the next message, if anything is left.
    pub fn send_next(&mut self, job: &OpenJob, of: MoveId, under_way: &mut UnderWay) -> Result<()> {
        if self.reads { self.tell_next(job, of, under_way) } else { self.pack_next(job, of, under_way) }
    }

    fn tell_next(&mut self, job: &OpenJob, of: MoveId, under_way: &mut UnderWay) -> Result<()> {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < PLACES
            && let Some(next) = self.left.pop_front()
        {
            bytes += job.shard.chunk_bytes(next.id.table)?;
            chunks.push(job.shard.lying(&next)?);
        }
        if chunks.is_empty() {
            return Ok(());
        }
        self.sent.chunks += chunks.len() as u64;
        [&mut self.sent.bytes, &mut self.sent.raw, &mut self.sent.memory].into_iter().for_each(|sum| *sum += bytes);
        let message = ToReceiver::InMemory { of, chunks, proof: process_memory::proof() };
        let pending = job.link(self.shard)?.ask(&ToShard::Move(message), Default::default())?;
        under_way.push(pending, bytes as usize);
        Ok(())
    }

    fn pack_next(&mut self, job: &OpenJob, of: MoveId, under_way: &mut UnderWay) -> Result<()> {
        let mut body = BodyWriter::with_capacity(MESSAGE);
        let mut chunks = Vec::new();
        while body.len() < MESSAGE
            && let Some(next) = self.left.pop_front()
        {
            chunks.push(job.shard.export(&next, &mut body)?);
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let (link, body) = (job.link(self.shard)?, body.finish());
        let (raw, element) = (body.len() as u32, chunks[0].element);
        let (packing, body) = link.packer.pack_chunks(body, element);
        let (bytes, checksum) = (body.len(), xxh3_64(&body));
        self.sent.chunks += (chunks.len() * (1 + self.forward.len())) as u64;
        self.sent.bytes += bytes as u64;
        self.sent.forwarded += (bytes * self.forward.len()) as u64;
        self.sent.raw += u64::from(raw) * (1 + self.forward.len()) as u64;
        let forward = self.forward.clone();
        let message = ToShard::Move(ToReceiver::Chunks { of, chunks, packing, bytes: raw, checksum, forward });
        let pending = link.ask(&message, body)?;
        under_way.push(pending, bytes);
        Ok(())
    }
}

/// Messages that were not answered yet, in order.
#[derive(Default)]
pub struct UnderWay {
    messages: VecDeque<(Pending, usize)>,
    bytes: usize,
}

impl UnderWay {
    fn push(&mut self, message: Pending, bytes: usize) {
        self.messages.push_back((message, bytes));
        self.bytes += bytes;
    }

    /// Waits until at most so many bytes are under way.
    pub fn wait(&mut self, most: usize) -> Result<()> {
        while self.bytes > most
            && let Some((message, bytes)) = self.messages.pop_front()
        {
            self.bytes -= bytes;
            staged(message.wait()?)?;
        }
        Ok(())
    }
}
