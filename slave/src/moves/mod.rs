//! Sends chunks to the slaves that are to serve them, or to read copies of them: the direct way of a model from stage to
//! stage.
//!
//! Invariants: what is sent stays here unchanged until it is settled that it lives elsewhere, so a move that fails costs
//! nothing but time; a chunk goes in one message, whoever is to have it; at most `WINDOW` bytes are under way, and of those that
//! are to be passed on so few that they never take all that a channel holds, since room for what is passed on is needed
//! to answer them; a receiver that is silent fails the move by its deadline.

mod way;

use crate::job::OpenJob;
use crate::process_memory;
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::TableId;
use flexps_common::transport::{Packet, Pending};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{Copies, FromReceiver, MoveId, Offered, Proof, Sent, ToReceiver};
use flexps_common::wire::packing::Pack;
use std::collections::{BTreeMap, VecDeque};
use way::{UnderWay, Way};

/// Bytes under way: a part of a channel's byte credits.
const WINDOW: usize = 16 << 20;
/// Chunks in one offer.
const OFFER: usize = 1 << 16;

/// Sends what this slave serves and `homes` places elsewhere, and what it serves of the tables to be copied.
pub fn send(job: &OpenJob, of: MoveId, homes: &[Home], copies: &Copies) -> Result<Vec<Sent>> {
    // A run that is settled meanwhile is not this one's to end.
    let before: Vec<_> = job.runs.all().into_iter().filter(|run| run.settled.is_settled()).collect();
    job.staging.check(of.phase)?;
    // Updates that wait for the end of their stage belong to what is sent; the run that waits for the move has none.
    before.iter().try_for_each(|run| run.finish())?;
    let mut leaving: BTreeMap<u32, Vec<Offered>> = BTreeMap::new();
    for (table, home) in (0..).map(TableId).zip(homes) {
        for (shard, chunks) in job.shard.leaving(table, home)? {
            leaving.entry(shard).or_default().extend(chunks);
        }
    }
    let mut ways = Vec::new();
    for (shard, offered) in leaving {
        let Wanted { kept, read, left } = offer(job, of, shard, &offered)?;
        let left = left.into_iter().map(|place| offered[place]).collect();
        ways.push(Way::new(job, shard, Vec::new(), left, kept)?);
        ways.push(Way::reading(job, shard, read)?);
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
    for way in ways.iter_mut().filter(|way| way.sent.memory > 0) {
        way.sent.pace = job.link(way.shard)?.pace();
    }
    Ok(ways.into_iter().map(|way| way.sent).collect())
}

/// By what a receiver may find out whether it can read this slave's memory; none where it is not to.
fn proof(job: &OpenJob, shard: u32) -> Result<Option<Proof>> {
    let may = job.experiment.transfer != Transfer::Messages && job.link(shard)?.packer.way(false) == Pack::Raw;
    Ok(may.then(process_memory::proof))
}

/// What a receiver wants of the chunks that it was offered.
struct Wanted {
    /// How many it has.
    kept: u64,
    /// Those that it can read in this slave's memory.
    read: VecDeque<Offered>,
    /// The places of the others among all.
    left: Vec<usize>,
}

/// Offers chunks to a receiver.
fn offer(job: &OpenJob, of: MoveId, shard: u32, offered: &[Offered]) -> Result<Wanted> {
    let (link, proof) = (job.link(shard)?, proof(job, shard)?);
    let asked = offered.chunks(OFFER).map(|chunks| {
        let offer = ToReceiver::Offer { of, chunks: chunks.to_vec(), proof };
        link.ask(&ToShard::Move(offer), Default::default())
    });
    let (mut wanted, mut can_read) = (Vec::new(), true);
    for (first, asked) in (0..).step_by(OFFER).zip(asked.collect::<Result<Vec<_>>>()?) {
        let FromReceiver::Wanted { places, reads } = answer(asked)? else {
            return Err(Error::bug("a slave was offered chunks and says that it has them"));
        };
        can_read &= reads;
        wanted.extend(places.into_iter().map(|place| first + place as usize));
    }
    let kept = offered.len().saturating_sub(wanted.len()) as u64;
    let (mut read, mut left) = (VecDeque::new(), Vec::new());
    for place in wanted {
        let chunk = offered.get(place).ok_or_else(|| Error::bug("a slave wants a chunk that was not offered"))?;
        if can_read && job.shard.lies_still(chunk.id.table)? {
            read.push_back(*chunk);
        } else {
            left.push(place);
        }
    }
    Ok(Wanted { kept, read, left })
}

/// The ways of what this slave serves of tables to be copied: who can read it here does, of the others each chunk goes to one
/// that wants it, in turn, who passes it on to the rest.
fn copying(job: &OpenJob, of: MoveId, copies: &Copies) -> Result<Vec<Way>> {
    let mut offered = Vec::new();
    for table in &copies.tables {
        offered.extend(job.shard.served(*table)?);
    }
    let mut wanting: Vec<Vec<u32>> = vec![Vec::new(); offered.len()];
    let (mut kept, mut ways) = (0, Vec::new());
    for shard in copies.to.iter().filter(|shard| **shard != job.shard.index()) {
        let wanted = offer(job, of, *shard, &offered)?;
        kept += wanted.kept;
        wanted.left.into_iter().for_each(|place| wanting[place].push(*shard));
        ways.push(Way::reading(job, *shard, wanted.read)?);
    }
    let mut groups: BTreeMap<(u32, Vec<u32>), VecDeque<Offered>> = BTreeMap::new();
    for (at, (chunk, mut wanting)) in offered.into_iter().zip(wanting).enumerate() {
        if !wanting.is_empty() {
            let first = wanting.remove(at % wanting.len());
            groups.entry((first, wanting)).or_default().push_back(chunk);
        }
    }
    for ((shard, forward), left) in groups {
        ways.push(Way::new(job, shard, forward, left, 0)?);
    }
    if let Some(way) = ways.first_mut() {
        way.sent.kept = kept;
    }
    ways.iter_mut().for_each(|way| way.sent.copies = true);
    Ok(ways)
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

/// Whether chunks have come to where they were sent.
pub fn staged(answer: Packet) -> Result<()> {
    match moved(answer)? {
        FromReceiver::Staged => Ok(()),
        FromReceiver::Wanted { .. } => Err(Error::bug("a slave wants chunks that it just got")),
    }
}

fn answer(pending: Pending) -> Result<FromReceiver> {
    moved(pending.wait()?)
}

fn moved(answer: Packet) -> Result<FromReceiver> {
    match answer.message()? {
        FromShard::Moved(answer) => Ok(answer),
        other => Err(Error::bug(format!("a slave answered {other:?} to chunks"))),
    }
}
