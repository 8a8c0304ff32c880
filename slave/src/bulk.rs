//! The bulk listener: requests of other slaves' workers, and of the master, for this slave's shards and rows.
//!
//! Invariants: nothing is allocated for an answer beyond [`ANSWER`]; a request of a run that has not begun here yet waits
//! for it, and comes again before it has waited for too long; one of a run that is over fails.

use crate::checkpoint;
use crate::consistency::News;
use crate::draw;
use crate::job::OpenJob;
use crate::jobs::Jobs;
use crate::kv::Keys;
use crate::moves;
use crate::snapshots;
use crate::stage::exchange::{Due, Need, Readable, Source, Update, view};
use flexps_common::error::{Error, Result};
use flexps_common::ids::StageRun;
use flexps_common::transport::{Connection, Packet, Service};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::kv::{FromShard, Origin, Section, Seen, ToShard};
use flexps_common::wire::lists::KeyMemory;
use flexps_common::wire::moved::ToReceiver;
use flexps_common::wire::packing::Pack;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of values in one answer.
pub const ANSWER: usize = 64 << 20;

/// How long a request waits here for its run, for what it must see and for rows, before it is sent back to come again: well
/// within its deadline, however long a clock takes.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(10) };

/// The run under which the master loads and saves models.
const MASTER: StageRun = StageRun(0);

/// The bulk listener's service.
pub struct Bulk {
    /// The open jobs.
    pub jobs: Jobs,
    /// Key lists that senders need not send again.
    pub memory: Arc<KeyMemory>,
}

impl Service for Bulk {
    fn call(&self, _from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let (jobs, memory) = (self.jobs.clone(), self.memory.clone());
        Box::pin(async move {
            match request.message()? {
                ToShard::Get { origin, sections, seen, peek, packs } => {
                    let job = jobs.find(origin.job)?;
                    let answer = get(&job, &memory, (origin, seen), &sections, (peek, &packs), request.body).await;
                    put_off(&job, origin).await;
                    answer
                }
                ToShard::Add { origin, sequence, sections } => {
                    let job = jobs.find(origin.job)?;
                    let answer = add(&job, &memory, origin, sequence, &sections, request.body).await;
                    put_off(&job, origin).await;
                    answer
                }
                ToShard::Clock { job, run, slave, clock, updates, announced } => {
                    let keys = announced.iter().map(|next| Ok((next.clock, Arc::new(next.decode()?))));
                    let news = News { clock, keys: keys.collect::<Result<_>>()? };
                    let job = jobs.find(job)?;
                    let mut heard = Box::pin(async move {
                        // Of a run that is over nobody needs to hear.
                        if let Some(run) = job.runs.wait(run).await {
                            match run.heard(slave, news, updates) {
                                Due::Nothing => {}
                                Due::Little => run.apply_due(),
                                Due::Much => drop(tokio::task::spawn_blocking(move || run.apply_due())),
                            }
                        }
                    });
                    // One that has not begun may take longer than who tells waits for an answer.
                    if futures::poll!(heard.as_mut()).is_pending() {
                        tokio::spawn(heard);
                    }
                    Packet::control(&FromShard::Heard)
                }
                ToShard::Kept { job, snapshot, table, start, count } => {
                    snapshots::read(&*jobs.find(job)?, snapshot, table, Keys::Range { start, count })
                }
                ToShard::Checkpoint(message) => checkpoint::hear(&jobs, &message, request.body).await,
                ToShard::Probe => Packet::control(&FromShard::Heard),
                ToShard::Blocks { job, input } => in_time(draw::count(&*jobs.find(job)?, input)).await,
                ToShard::Rows { job, input, at } => {
                    let job = jobs.find(job)?;
                    // As a task: to copy a block is as long as messages about it are short.
                    let sent = tokio::spawn(async move { in_time(draw::send(&job, input, at)).await });
                    sent.await.map_err(|e| Error::bug(format!("a block's sending ended: {e}")))?
                }
                ToShard::Move(message) => {
                    let (job, phase) = (jobs.find(message.of().job)?, message.of().phase);
                    // A phase before it that is yet to begin here would take what came for this one for something else.
                    job.orders.done_below(phase).await;
                    let in_memory = matches!(message, ToReceiver::InMemory { .. });
                    let received = receive(job, message, request.body);
                    if !in_memory {
                        return received.await;
                    }
                    // As a task, so that the next one is taken meanwhile: to read is as long as messages are short.
                    tokio::spawn(received).await.map_err(|e| Error::bug(format!("a chunk's reading ended: {e}")))?
                }
            }
        })
    }
}

/// An answer that may take long: if it does, whoever waits for it is to ask again.
async fn in_time(answer: impl Future<Output = Result<Packet>>) -> Result<Packet> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| Packet::control(&FromShard::NotYet))
}

/// Takes a part of a model that moves here, and passes on what others are to have of it.
async fn receive(job: Arc<OpenJob>, message: ToReceiver, body: bytes::Bytes) -> Result<Packet> {
    // First, so that it is on its way while this one is written.
    let passed_on = moves::pass_on(&job, &message, &body)?;
    let answer = job.staging.receive(&job.shard, message, body)?;
    for pending in passed_on {
        moves::staged(pending.answer().await?)?;
    }
    Packet::control(&FromShard::Moved(answer))
}

async fn get(
    job: &OpenJob,
    memory: &KeyMemory,
    (origin, seen): (Origin, Seen),
    sections: &[Section],
    (peek, packs): (bool, &[Pack]),
    body: bytes::Bytes,
) -> Result<Packet> {
    let mut body = BodyReader::new(body);
    let (mut keys, mut bytes) = (Vec::with_capacity(sections.len()), 0usize);
    for section in sections {
        let Some(list) = memory.resolve(section.keys, &mut body)? else { return unknown() };
        let width = job.shard.spec(section.table)?.width as usize;
        bytes = bytes.saturating_add(list.len().saturating_mul(width * section.element.size()));
        keys.push((list, width));
    }
    body.end()?;
    if bytes > ANSWER {
        return Err(Error::bug(format!("a read of {bytes} bytes in one message, at most {ANSWER} are allowed")));
    }
    let shown = if origin.run == MASTER {
        job.finish_all().await?;
        0
    } else {
        let need = Need { clock: if peek { 0 } else { origin.clock }, seen };
        match tokio::time::timeout(PATIENCE, shown(job, origin.run, need)).await {
            Ok(shown) => shown?,
            Err(_) => return Packet::control(&FromShard::NotYet),
        }
    };
    let (mut values, mut packings) = (BodyWriter::with_capacity(bytes + 8 * sections.len()), Vec::new());
    for (at, (section, (keys, width))) in sections.iter().zip(&keys).enumerate() {
        values.pad();
        let (start, count) = (values.len(), keys.len() * width);
        job.shard.get(section.table, view(keys), values.wrapped_mut(section.element, count))?;
        if let Some(pack) = packs.get(at) {
            let places = start..start + count * section.element.size();
            packings.push(values.pack(places, section.element, *pack));
            values.pad();
        }
    }
    Packet::bulk(&FromShard::Values { shown, packings }, values.finish())
}

/// Waits until a read of a run sees what it must: all updates of the clocks below the number that comes.
async fn shown(job: &OpenJob, run: StageRun, need: Need) -> Result<u64> {
    let run = job.run(run).await?;
    match run.readable(need)? {
        Readable::Now(shown) => Ok(shown),
        Readable::Later(readable) => readable.await.map_err(|_| run.broken()),
    }
}

async fn add(
    job: &OpenJob,
    memory: &KeyMemory,
    origin: Origin,
    sequence: u64,
    sections: &[Section],
    body: bytes::Bytes,
) -> Result<Packet> {
    let mut body = BodyReader::new(body);
    let mut update = Vec::with_capacity(sections.len());
    for section in sections {
        let Some(keys) = memory.resolve(section.keys, &mut body)? else { return unknown() };
        let width = job.shard.spec(section.table)?.width as usize;
        let values = body.unpacked(section.element, keys.len() * width, section.packing)?;
        update.push(Update { table: section.table, keys, values });
    }
    body.end()?;
    if origin.run == MASTER {
        job.finish_all().await?;
        for part in &update {
            let values = part.values.get();
            job.shard.check(part.table, view(&part.keys), values.kind(), values.len())?;
        }
        for part in &update {
            job.shard.add(part.table, view(&part.keys), part.values.get())?;
        }
    } else {
        let source = Source { clock: origin.clock, worker: origin.worker, sequence };
        match tokio::time::timeout(PATIENCE, job.run(origin.run)).await {
            Ok(run) => run?.add(source, update)?,
            Err(_) => return Packet::control(&FromShard::NotYet),
        }
    }
    Packet::control(&FromShard::Added)
}

/// Holds back an answer to another slave by the delay that is put in here, if one is.
async fn put_off(job: &OpenJob, origin: Origin) {
    let delay = job.experiment.delays(job.here()).filter(|_| origin.run != MASTER);
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
}

fn unknown() -> Result<Packet> {
    Packet::control(&FromShard::UnknownKeys)
}
