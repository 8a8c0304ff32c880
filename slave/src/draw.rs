//! Rows of a job beyond a slave's own: what a stage that draws needs, fetched from the other slaves once.
//!
//! Invariants: which blocks are fetched depends on the job's slaves and rows alone, not on who answers first, so the same
//! plan on the same slaves draws the same rows; a few blocks are under way at a time, and no more is fetched than is asked
//! for.

use crate::job::OpenJob;
use crate::stage::link::Link;
use bytes::Bytes;
use flexps_common::data::Block;
use flexps_common::data::drawn::{Drawn, with_features};
use flexps_common::error::{Error, Result};
use flexps_common::ids::InputId;
use flexps_common::random::SplitMix64;
use flexps_common::transport::{Packet, Pending};
use flexps_common::value::Element;
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::kv::{FromShard, ToShard};
use std::collections::VecDeque;
use std::sync::Arc;

/// Blocks under way.
const WINDOW: usize = 4;

/// The rows that this slave is to have so that `share` of the whole input is here.
pub async fn draw(job: &OpenJob, input: InputId, share: f64) -> Result<Drawn> {
    let facts = job.input(input)?.facts().await?;
    let mut blocks = Vec::new();
    // Numbering the slave's rows comes first: other stages would do it while these are being copied.
    let map = job.rows(input)?.key_map().await?;
    for at in 0..job.rows(input)?.blocks().await? {
        blocks.extend(job.rows(input)?.block(at).await?);
    }
    if job.slaves() == 1 {
        return Ok(Drawn { map, blocks });
    }
    let mut blocks: Vec<_> = blocks.into_iter().map(|block| with_features(block, &map)).collect();
    let wanted = (share * facts.rows as f64).ceil() as u64;
    let mut have: u64 = blocks.iter().map(|block| block.rows() as u64).sum();
    let mut left = others(job, input).await?.into_iter();
    let mut under_way = VecDeque::new();
    loop {
        while have < wanted
            && under_way.len() < WINDOW
            && let Some((shard, at)) = left.next()
        {
            under_way.push_back(Asked::new(job.link(shard)?, ToShard::Rows { job: job.id, input, at })?);
        }
        let Some(next) = under_way.pop_front() else { break };
        let block = decode(next.answer().await?)?;
        if have < wanted {
            have += block.rows() as u64;
            blocks.push(Arc::new(block));
        }
    }
    Ok(Drawn::of(blocks, facts.features))
}

/// A question for another slave's rows.
struct Asked<'a> {
    link: &'a Link,
    question: ToShard,
    pending: Pending,
}

impl<'a> Asked<'a> {
    fn new(link: &'a Link, question: ToShard) -> Result<Self> {
        let pending = link.ask(&question, Bytes::new())?;
        Ok(Self { link, question, pending })
    }

    /// The answer, however long the other slave takes to read its rows and to number them.
    async fn answer(self) -> Result<Packet> {
        let mut answer = self.pending.answer().await?;
        while answer.message::<FromShard>()? == FromShard::NotYet {
            answer = self.link.ask(&self.question, Bytes::new())?.answer().await?;
        }
        Ok(answer)
    }
}

/// The blocks of the other slaves, shuffled.
async fn others(job: &OpenJob, input: InputId) -> Result<Vec<(u32, u32)>> {
    let mut all = Vec::new();
    for shard in (0..job.slaves() as u32).filter(|shard| *shard != job.shard.index()) {
        let asked = Asked::new(job.link(shard)?, ToShard::Blocks { job: job.id, input })?;
        match asked.answer().await?.message()? {
            FromShard::Blocks(blocks) => all.extend((0..blocks).map(|at| (shard, at))),
            other => return Err(Error::bug(format!("a slave answered {other:?} to a question for its blocks"))),
        }
    }
    let mut random = SplitMix64(u64::from(input.0));
    // Fisher and Yates.
    for last in (1..all.len()).rev() {
        all.swap(last, (random.draw() % (last as u64 + 1)) as usize);
    }
    Ok(all)
}

/// How many blocks there are, once all are read.
pub async fn count(job: &OpenJob, input: InputId) -> Result<Packet> {
    let blocks = job.rows(input)?.blocks().await?;
    Packet::control(&FromShard::Blocks(blocks as u32))
}

/// A block as it travels, with features.
pub async fn send(job: &OpenJob, input: InputId, at: u32) -> Result<Packet> {
    let rows = job.rows(input)?;
    let map = rows.key_map().await?;
    let block = rows.block(at as usize).await?;
    let block =
        block.ok_or_else(|| Error::bug(format!("block {at} of input {input} was asked for and is not here")))?;
    encode(&with_features(block, &map))
}

fn encode(block: &Block) -> Result<Packet> {
    let mut body = BodyWriter::with_capacity(block.bytes() + 32);
    body.values(f32::wrap(&block.labels));
    body.pad();
    body.values(u32::wrap(&block.offsets));
    body.pad();
    body.values(u32::wrap(&block.indices));
    body.pad();
    if let Some(values) = &block.values {
        body.values(f32::wrap(values));
    }
    let (rows, nonzeros) = (block.rows() as u32, block.nonzeros() as u32);
    let head = FromShard::Rows { rows, nonzeros, values: block.values.is_some() };
    Packet::bulk(&head, body.finish())
}

fn decode(packet: Packet) -> Result<Block> {
    let FromShard::Rows { rows, nonzeros, values: has_values } = packet.message()? else {
        return Err(Error::bug("no rows came for a request for rows"));
    };
    let mut body = BodyReader::new(packet.body);
    let labels = part(&mut body, rows as usize)?;
    let offsets: Vec<u32> = part(&mut body, rows as usize + 1)?;
    let indices = part(&mut body, nonzeros as usize)?;
    let values = if has_values { Some(part(&mut body, nonzeros as usize)?) } else { None };
    body.end()?;
    let whole = offsets.first() == Some(&0) && offsets.last() == Some(&nonzeros) && offsets.is_sorted();
    if !whole {
        return Err(Error::cluster("a block of rows came with offsets that don't fit it"));
    }
    Ok(Block { labels, offsets, indices, values })
}

fn part<T: Element>(body: &mut BodyReader, count: usize) -> Result<Vec<T>> {
    let values = body.values(T::TYPE, count)?;
    values.typed().map(<[T]>::to_vec).ok_or_else(|| Error::bug("values of another type than was asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::{JobId, SlaveId};
    use flexps_common::plan::Compression;
    use flexps_common::transport::{Connection, Network, Service};
    use flexps_common::wire::slaves::Peer;
    use futures::future::BoxFuture;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Has read its rows when it is asked for the third time.
    #[derive(Default)]
    struct Slow(AtomicU32);

    impl Service for Slow {
        fn call(&self, _: Connection, _: Packet) -> BoxFuture<'static, Result<Packet>> {
            let before = self.0.fetch_add(1, Ordering::Relaxed);
            let answer = if before < 2 { FromShard::NotYet } else { FromShard::Blocks(7) };
            Box::pin(async move { Packet::control(&answer) })
        }
    }

    #[tokio::test]
    async fn a_slave_that_is_not_ready_yet_is_asked_again() {
        let network = Network::in_process();
        let _listener = network.listen("h2 bulk", Arc::new(Slow::default())).await.unwrap();
        let peer = Peer { id: SlaveId(2), name: "h2".to_owned(), bulk: "h2 bulk".to_owned() };
        let link = Link::new(&network, &peer, None, Compression::None, "h1 bulk");
        let asked = Asked::new(&link, ToShard::Blocks { job: JobId(1), input: InputId(0) }).unwrap();
        let answer = asked.answer().await.unwrap();
        assert_eq!(answer.message::<FromShard>().unwrap(), FromShard::Blocks(7));
    }

    #[test]
    fn a_block_survives_the_way_and_a_broken_one_is_refused() {
        let block = Block {
            labels: [1.0, -1.0, 1.0].into(),
            offsets: [0, 2, 2, 5].into(),
            indices: [3, 9, 0, 1, 70_000].into(),
            values: Some([0.5, -1.0, 2.0, 3.0, 4.0].into()),
        };
        assert_eq!(decode(encode(&block).unwrap()).unwrap(), block);
        let ones = Block { values: None, ..block.clone() };
        assert_eq!(decode(encode(&ones).unwrap()).unwrap(), ones);
        for offsets in [[0, 3, 2, 5], [1, 2, 2, 5], [0, 2, 2, 4]] {
            let bad = Block { offsets: offsets.into(), ..block.clone() };
            assert!(decode(encode(&bad).unwrap()).unwrap_err().message.contains("offsets that don't fit"));
        }
    }
}
