//! Sends chunks to the slaves that are to serve them: the direct way of a model from stage to stage.
//!
//! Invariants: what is sent stays here unchanged until it is settled that it lives elsewhere, so a move that fails costs
//! nothing but time; at most `WINDOW` bytes are under way; a receiver that is silent fails the move by its deadline.

use crate::job::OpenJob;
use crate::stage::wait::block_on;
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::TableId;
use flexps_common::transport::Pending;
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{FromReceiver, MoveId, Offered, Sent, ToReceiver};
use std::collections::{BTreeMap, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of values in one message: a chunk. Much larger ones would be mapped and cleared by the system each time.
const MESSAGE: usize = 256 << 10;
/// Bytes under way.
const WINDOW: usize = 16 << 20;
/// Chunks in one offer.
const OFFER: usize = 1 << 16;

/// Sends what this slave serves and `homes` places elsewhere.
pub fn send(job: &OpenJob, of: MoveId, homes: &[Home]) -> Result<Vec<Sent>> {
    let before = job.current();
    // A run that is settled meanwhile is not this one's to end.
    job.staging.check(of.phase)?;
    // Updates that wait for the end of their stage belong to what is sent; the run that waits for the move has none.
    before.finish();
    let mut leaving: BTreeMap<u32, Vec<Offered>> = BTreeMap::new();
    for (table, home) in (0..).map(TableId).zip(homes) {
        for (shard, chunks) in job.shard.leaving(table, home)? {
            leaving.entry(shard).or_default().extend(chunks);
        }
    }
    let mut ways = Vec::new();
    for (shard, offered) in leaving {
        ways.push(Way::open(job, of, shard, offered)?);
    }
    let mut under_way = UnderWay::default();
    // In turn, so that all receivers work side by side.
    while ways.iter().any(|way| !way.left.is_empty()) {
        for way in &mut ways {
            job.current().check()?;
            under_way.wait(WINDOW)?;
            way.send_next(job, of, &mut under_way)?;
        }
    }
    under_way.wait(0)?;
    Ok(ways.into_iter().map(|way| way.sent).collect())
}

/// What goes to one receiver.
struct Way {
    shard: u32,
    left: VecDeque<Offered>,
    sent: Sent,
}

impl Way {
    /// Offers the chunks; keeps those that are wanted.
    fn open(job: &OpenJob, of: MoveId, shard: u32, offered: Vec<Offered>) -> Result<Self> {
        let link = job.link(shard)?;
        let mut left = VecDeque::new();
        let offers: Vec<_> = offered.chunks(OFFER).collect();
        let asked = offers.iter().map(|chunks| {
            link.ask(&ToShard::Move(ToReceiver::Offer { of, chunks: chunks.to_vec() }), Default::default())
        });
        for (chunks, asked) in offers.iter().zip(asked.collect::<Result<Vec<_>>>()?) {
            let FromReceiver::Wanted(places) = answer(asked)? else {
                return Err(Error::bug("a slave was offered chunks and says that it has them"));
            };
            for place in places {
                let chunk = chunks.get(place as usize);
                left.push_back(*chunk.ok_or_else(|| Error::bug("a slave wants a chunk that was not offered"))?);
            }
        }
        let kept = (offered.len() - left.len()) as u64;
        Ok(Self { shard, left, sent: Sent { to: link.slave, chunks: 0, bytes: 0, kept } })
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
        let body = body.finish();
        let (bytes, checksum) = (body.len(), xxh3_64(&body));
        self.sent.chunks += chunks.len() as u64;
        self.sent.bytes += bytes as u64;
        let message = ToShard::Move(ToReceiver::Chunks { of, chunks, checksum });
        let pending = job.link(self.shard)?.ask(&message, body)?;
        under_way.push(pending, bytes);
        Ok(())
    }
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
            match answer(message)? {
                FromReceiver::Staged => {}
                FromReceiver::Wanted(_) => return Err(Error::bug("a slave wants chunks that it just got")),
            }
        }
        Ok(())
    }
}

fn answer(pending: Pending) -> Result<FromReceiver> {
    // Not slept for at once: threads that only wake one another in turn would be put on one core.
    match block_on(pending.answer(), || Ok(()))??.message()? {
        FromShard::Moved(answer) => Ok(answer),
        other => Err(Error::bug(format!("a slave answered {other:?} to chunks"))),
    }
}
