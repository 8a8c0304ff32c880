//! Sends chunks to the slaves that are to serve them, or to read copies of them: the direct way of a model from stage to
//! stage.
//!
//! Invariants: what is sent stays here unchanged until it is settled that it lives elsewhere, so a move that fails costs
//! nothing but time; a chunk is sent once, whoever is to have it; at most `WINDOW` bytes are under way, and of those that
//! are to be passed on so few that they never take all that a channel holds, since room for what is passed on is needed
//! to answer them; a receiver that is silent fails the move by its deadline.

use crate::job::OpenJob;
use crate::stage::wait::block_on;
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::{SlaveId, TableId};
use flexps_common::transport::{Packet, Pending};
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{Copies, FromReceiver, MoveId, Offered, Sent, ToReceiver};
use std::collections::{BTreeMap, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of values in one message: a chunk. Much larger ones would be mapped and cleared by the system each time.
const MESSAGE: usize = 256 << 10;
/// Bytes under way: a part of a channel's byte credits.
const WINDOW: usize = 16 << 20;
/// Chunks in one offer.
const OFFER: usize = 1 << 16;

/// Sends what this slave serves and `homes` places elsewhere, and what it serves of the tables to be copied.
pub fn send(job: &OpenJob, of: MoveId, homes: &[Home], copies: &Copies) -> Result<Vec<Sent>> {
    let before = job.runs.all();
    // A run that is settled meanwhile is not this one's to end.
    job.staging.check(of.phase)?;
    // Updates that wait for the end of their stage belong to what is sent; the run that waits for the move has none.
    before.iter().for_each(|run| run.finish());
    let mut leaving: BTreeMap<u32, Vec<Offered>> = BTreeMap::new();
    for (table, home) in (0..).map(TableId).zip(homes) {
        for (shard, chunks) in job.shard.leaving(table, home)? {
            leaving.entry(shard).or_default().extend(chunks);
        }
    }
    let mut ways = Vec::new();
    for (shard, offered) in leaving {
        let wanted = offer(job, of, shard, &offered)?;
        let kept = (offered.len() - wanted.len()) as u64;
        let left = wanted.into_iter().map(|place| offered[place]).collect();
        ways.push(Way::new(job, shard, Vec::new(), left, kept)?);
    }
    let mut window = WINDOW;
    if !copies.tables.is_empty() {
        ways.extend(copying(job, of, copies)?);
        // All that serve a table send at once, and each of them through all of the others.
        for table in &copies.tables {
            window = window.min(WINDOW / job.shard.servers(*table)?.max(1));
        }
    }
    let mut under_way = UnderWay::default();
    // In turn, so that all receivers work side by side.
    while ways.iter().any(|way| !way.left.is_empty()) {
        for way in &mut ways {
            job.runs.check()?;
            under_way.wait(window)?;
            way.send_next(job, of, &mut under_way)?;
        }
    }
    under_way.wait(0)?;
    Ok(ways.into_iter().map(|way| way.sent).collect())
}

/// Offers chunks to a receiver; the places of those that it wants.
fn offer(job: &OpenJob, of: MoveId, shard: u32, offered: &[Offered]) -> Result<Vec<usize>> {
    let link = job.link(shard)?;
    let asked = offered
        .chunks(OFFER)
        .map(|chunks| link.ask(&ToShard::Move(ToReceiver::Offer { of, chunks: chunks.to_vec() }), Default::default()));
    let mut wanted = Vec::new();
    for (first, asked) in (0..).step_by(OFFER).zip(asked.collect::<Result<Vec<_>>>()?) {
        let FromReceiver::Wanted(places) = answer(asked)? else {
            return Err(Error::bug("a slave was offered chunks and says that it has them"));
        };
        wanted.extend(places.into_iter().map(|place| first + place as usize));
    }
    match wanted.iter().find(|place| **place >= offered.len()) {
        Some(_) => Err(Error::bug("a slave wants a chunk that was not offered")),
        None => Ok(wanted),
    }
}

/// The ways of what this slave serves of tables to be copied: each chunk goes to one of those that want it, in turn, who
/// passes it on to the others.
fn copying(job: &OpenJob, of: MoveId, copies: &Copies) -> Result<Vec<Way>> {
    let mut offered = Vec::new();
    for table in &copies.tables {
        offered.extend(job.shard.served(*table)?);
    }
    let mut wanting: Vec<Vec<u32>> = vec![Vec::new(); offered.len()];
    let mut kept = 0;
    for shard in copies.to.iter().filter(|shard| **shard != job.shard.index()) {
        let wanted = offer(job, of, *shard, &offered)?;
        kept += (offered.len() - wanted.len()) as u64;
        wanted.into_iter().for_each(|place| wanting[place].push(*shard));
    }
    let mut groups: BTreeMap<(u32, Vec<u32>), VecDeque<Offered>> = BTreeMap::new();
    for (at, (chunk, mut wanting)) in offered.into_iter().zip(wanting).enumerate() {
        if !wanting.is_empty() {
            let first = wanting.remove(at % wanting.len());
            groups.entry((first, wanting)).or_default().push_back(chunk);
        }
    }
    let mut ways = Vec::new();
    for ((shard, forward), left) in groups {
        let way = Way::new(job, shard, forward, left, std::mem::take(&mut kept))?;
        ways.push(Way { sent: Sent { copies: true, ..way.sent }, ..way });
    }
    if kept > 0 {
        let to = job.you();
        ways.push(Way {
            shard: 0,
            forward: Vec::new(),
            left: VecDeque::new(),
            sent: Sent { kept, copies: true, ..none(to) },
        });
    }
    Ok(ways)
}

fn none(to: SlaveId) -> Sent {
    Sent { to, chunks: 0, bytes: 0, kept: 0, forwarded: 0, raw: 0, copies: false }
}

/// What goes to one receiver, and through it to others.
struct Way {
    shard: u32,
    forward: Vec<u32>,
    left: VecDeque<Offered>,
    sent: Sent,
}

impl Way {
    fn new(job: &OpenJob, shard: u32, forward: Vec<u32>, left: VecDeque<Offered>, kept: u64) -> Result<Self> {
        let to = job.link(shard)?.slave;
        Ok(Self { shard, forward, left, sent: Sent { kept, ..none(to) } })
    }

    fn send_next(&mut self, job: &OpenJob, of: MoveId, under_way: &mut UnderWay) -> Result<()> {
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

/// Sends chunks on to those that are to have them too.
pub fn pass_on(job: &OpenJob, message: &ToReceiver, body: &Bytes) -> Result<Vec<Pending>> {
    let ToReceiver::Chunks { of, chunks, packing, bytes, checksum, forward } = message else { return Ok(Vec::new()) };
    let (of, packing, bytes, checksum) = (*of, *packing, *bytes, *checksum);
    let pass = |shard: &u32| {
        let (chunks, forward) = (chunks.clone(), Vec::new());
        let message = ToReceiver::Chunks { of, chunks, packing, bytes, checksum, forward };
        job.link(*shard)?.ask(&ToShard::Move(message), body.clone())
    };
    forward.iter().map(pass).collect()
}

/// Messages that were not answered yet, in order.
#[derive(Default)]
struct UnderWay {
    messages: VecDeque<(Pending, usize)>,
    bytes: usize,
}

impl UnderWay {
    fn push(&mut self, message: Pending, bytes: usize) {
        self.messages.push_back((message, bytes));
        self.bytes += bytes;
    }

    /// Waits until at most so many bytes are under way.
    fn wait(&mut self, most: usize) -> Result<()> {
        while self.bytes > most
            && let Some((message, bytes)) = self.messages.pop_front()
        {
            self.bytes -= bytes;
            // Not slept for at once: threads that only wake one another in turn would be put on one core.
            staged(block_on(message.answer(), || Ok(()))??)?;
        }
        Ok(())
    }
}

/// Whether chunks have come to where they were sent.
pub fn staged(answer: Packet) -> Result<()> {
    match moved(answer)? {
        FromReceiver::Staged => Ok(()),
        FromReceiver::Wanted(_) => Err(Error::bug("a slave wants chunks that it just got")),
    }
}

fn answer(pending: Pending) -> Result<FromReceiver> {
    moved(block_on(pending.answer(), || Ok(()))??)
}

fn moved(answer: Packet) -> Result<FromReceiver> {
    match answer.message()? {
        FromShard::Moved(answer) => Ok(answer),
        other => Err(Error::bug(format!("a slave answered {other:?} to chunks"))),
    }
}
