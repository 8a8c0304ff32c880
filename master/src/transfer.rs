//! Models between disks or HDFS and the shards: blocking, range by range, with several requests in flight.
//!
//! Invariant: never more than the window of chunks is in memory, and what is in flight when the work is stopped changes
//! nothing on the disk.

use bytes::Bytes;
use flexps_common::data::Facts;
use flexps_common::data::schema::{DataPath, Schema};
use flexps_common::home::Home;
use flexps_common::ids::{JobId, StageRun, TableId};
use flexps_common::model::{Description, Reader, TensorSpec, Writer};
use flexps_common::plan::{LoadSpec, TableSpec};
use flexps_common::storage::Storage;
use flexps_common::transport::{Channel, Packet, Pending};
use flexps_common::value::{Element, Type, Values};
use flexps_common::waiting::within;
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::kv::{FromShard, KeyList, Origin, Section, Seen, ToShard};
use flexps_common::wire::packing::Packing;
use flexps_common::{Error, Result, with_values};
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Requests in flight per slave.
pub(crate) const WINDOW: usize = 4;
/// How long a shard may take for one chunk.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How often one who waits for a shard looks whether to stop: a slave that is gone answers nothing.
const LOOK: Duration = Duration::from_millis(50);

/// The shards of a job.
pub struct Shards {
    /// The job.
    pub job: JobId,
    /// The bulk listeners of its slaves, in shard order.
    pub bulk: Vec<Channel>,
    /// Where the tables live, by table.
    pub homes: Vec<Home>,
    /// The snapshot that is read; what the tables are now, if none is given.
    pub snapshot: Option<u64>,
    /// Set by who wants the work to stop.
    pub stop: Arc<AtomicBool>,
}

/// A tensor to be saved: its name, its table, the number of keys.
pub struct Tensor {
    /// Its name in the model.
    pub name: String,
    /// Where its values are.
    pub table: TableId,
    /// The table's description.
    pub spec: TableSpec,
    /// Number of keys.
    pub keys: u64,
}

/// Requests in flight, of which the oldest is waited for before there are more than so many.
pub(crate) struct Flight<T> {
    most: usize,
    waiting: VecDeque<T>,
}

impl<T> Flight<T> {
    /// None yet.
    pub fn of(most: usize) -> Self {
        Self { most, waiting: VecDeque::new() }
    }

    /// One more; the oldest one is `done` with, if there are enough.
    pub fn add(&mut self, request: T, done: impl FnOnce(T) -> Result<()>) -> Result<()> {
        self.waiting.push_back(request);
        let enough = self.waiting.len() >= self.most;
        let oldest = if enough { self.waiting.pop_front() } else { None };
        oldest.map_or(Ok(()), done)
    }

    /// Those that are left.
    pub fn rest(self) -> impl Iterator<Item = T> {
        self.waiting.into_iter()
    }
}

impl Shards {
    fn origin(&self) -> Origin {
        // Run 0: everything that is pending comes first, and no clock is waited for.
        Origin { job: self.job, run: StageRun(0), worker: 0, clock: 0 }
    }

    /// An error once the work is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// A shard's answer, unless the work is stopped before.
    pub(crate) fn answer(&self, pending: Pending) -> Result<Packet> {
        let mut answer = pin!(pending.answer());
        loop {
            self.check()?;
            if let Some(answer) = within(answer.as_mut(), LOOK) {
                return answer;
            }
        }
    }

    fn get(&self, tensor: &Tensor, keys: &Range<u64>) -> Result<Pending> {
        let (table, start, count) = (tensor.table, keys.start as u32, (keys.end - keys.start) as u32);
        let request = match self.snapshot {
            Some(snapshot) => ToShard::Kept { job: self.job, snapshot, table, start, count },
            None => {
                let keys = KeyList::Range { start, count };
                let section = Section { table, element: tensor.spec.element, keys, packing: Packing::Raw };
                let (origin, seen, packs) = (self.origin(), Seen::default(), Vec::new());
                ToShard::Get { origin, sections: vec![section], seen, peek: true, packs }
            }
        };
        Ok(self.start(tensor.table, &tensor.spec, keys, Packet::control(&request)?))
    }

    /// Sends a request to the shard that serves these keys.
    fn start(&self, table: TableId, spec: &TableSpec, keys: &Range<u64>, request: Packet) -> Pending {
        let chunk = keys.start / u64::from(spec.chunk_keys());
        let home = &self.homes[usize::from(table.0)];
        let owner = &self.bulk[home.owner(chunk, self.bulk.len()) as usize];
        owner.start(request, DEADLINE).of(owner.peer().clone())
    }

    /// Writes a model from the shards' values to `path`, over one that is there only to `overwrite` it.
    pub fn save(
        &self,
        storage: &Storage,
        (path, overwrite): (&DataPath, bool),
        tensors: &[Tensor],
        description: &Description,
    ) -> Result<()> {
        let specs = tensors.iter().map(|t| TensorSpec { name: t.name.clone(), len: t.keys * u64::from(t.spec.width) });
        let mut writer = Writer::create(storage, path, overwrite, specs.collect())?;
        let mut put = |(tensor, keys, pending): (&Tensor, Range<u64>, Pending)| {
            let count = (keys.end - keys.start) as usize * tensor.spec.width as usize;
            let answer = self.answer(pending)?;
            match answer.message()? {
                FromShard::Values { .. } => write(&mut writer, answer.body, tensor.spec.element, count),
                other => Err(Error::bug(format!("a shard answered {other:?} to a range of keys"))),
            }
        };
        let mut flight = Flight::of(WINDOW * self.bulk.len());
        for (tensor, keys) in tensors.iter().flat_map(|t| chunks(&t.spec, t.keys).map(move |keys| (t, keys))) {
            self.check()?;
            let pending = self.get(tensor, &keys)?;
            flight.add((tensor, keys, pending), &mut put)?;
        }
        flight.rest().try_for_each(put)?;
        self.check()?;
        writer.finish(description)
    }

    /// Fills a table, which is zero, with the tensor of a model that suits rows of this schema, and of these facts if they are known.
    pub fn load(
        &self,
        storage: &Storage,
        load: &LoadSpec,
        spec: &TableSpec,
        (schema, facts): (&Schema, Option<&Facts>),
    ) -> Result<()> {
        let LoadSpec { table, model, tensor, .. } = load;
        if !matches!(spec.update.as_str(), "add" | "assign") {
            return Err(Error::bug(format!(
                "table {} can't be loaded, since its update function is {}; load into one with `add`, then copy",
                spec.name, spec.update
            )));
        }
        let reader = Reader::open(storage, model)?;
        reader.description.check_suits(schema).map_err(|e| e.context(model))?;
        let width = u64::from(spec.width.max(1));
        let len = reader.len(tensor)?;
        if len % width != 0 || len / width > 1 << 32 {
            return Err(Error::user(format!(
                "{model}: tensor {tensor} has {len} values, which don't fit table {} with {width} per key",
                spec.name
            )));
        }
        facts
            .map_or(Ok(()), |facts| reader.description.check_width(len / width, facts))
            .map_err(|e| e.context(model))?;
        let mut flight = Flight::of(WINDOW * self.bulk.len());
        for (sequence, keys) in (0..).zip(chunks(spec, len / width)) {
            self.check()?;
            let mut values = vec![0.0f32; ((keys.end - keys.start) * width) as usize];
            reader.read(tensor, keys.start * width, &mut values)?;
            if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
                return Err(Error::data(format!("{model}: tensor {tensor} holds the value {bad}")));
            }
            let range = KeyList::Range { start: keys.start as u32, count: (keys.end - keys.start) as u32 };
            let section = Section { table: *table, element: spec.element, keys: range, packing: Packing::Raw };
            let request = ToShard::Add { origin: self.origin(), sequence, sections: vec![section] };
            let packet = Packet::bulk(&request, body(spec.element, &values))?;
            flight.add(self.start(*table, spec, &keys, packet), |oldest| self.added(oldest))?;
        }
        flight.rest().try_for_each(|pending| self.added(pending))
    }

    fn added(&self, pending: Pending) -> Result<()> {
        match self.answer(pending)?.message()? {
            FromShard::Added => Ok(()),
            other => Err(Error::bug(format!("a shard answered {other:?} to values"))),
        }
    }
}

/// The keys 0..n, chunk by chunk.
fn chunks(spec: &TableSpec, n: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let size = u64::from(spec.chunk_keys());
    (0..n.div_ceil(size)).map(move |c| c * size..n.min((c + 1) * size))
}

fn body(element: Type, values: &[f32]) -> Bytes {
    fn converted<T: Element>(values: &[f32], out: &mut BodyWriter) {
        for (to, from) in out.values_mut::<T>(values.len()).iter_mut().zip(values) {
            *to = T::from_f64(f64::from(*from));
        }
    }
    let mut out = BodyWriter::with_capacity(values.len() * element.size());
    match element {
        Type::F32 => out.values(f32::wrap(values)),
        Type::F64 => converted::<f64>(values, &mut out),
        Type::U32 => converted::<u32>(values, &mut out),
        Type::I32 => converted::<i32>(values, &mut out),
    }
    out.finish()
}

fn write(writer: &mut Writer, body: Bytes, element: Type, count: usize) -> Result<()> {
    let mut parts = BodyReader::new(body);
    let values = parts.values(element, count)?;
    parts.end()?;
    if let Values::F32(values) = values.get() {
        return writer.write(values);
    }
    let converted: Vec<f32> =
        with_values!(Values, values.get(), s => s.iter().map(|v| Element::to_f64(*v) as f32).collect());
    writer.write(&converted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::error::Fault;
    use flexps_common::plan::Plan;
    use flexps_common::transport::{Connection, Network, Service};
    use futures::future::BoxFuture;
    use std::time::Instant;

    /// A shard that answers nothing, as one whose slave was killed.
    struct Mute;

    impl Service for Mute {
        fn call(&self, _: Connection, _: Packet) -> BoxFuture<'static, Result<Packet>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_save_that_is_stopped_waits_for_no_shard_and_leaves_nothing() {
        let (network, folder) = (Network::in_process(), tempfile::tempdir().unwrap());
        let _shard = network.listen("h1-bulk", Arc::new(Mute)).await.unwrap();
        let (stop, mut plan) = (Arc::new(AtomicBool::new(false)), Plan::default());
        let table = plan.table::<f32>("w", 1).id;
        let (bulk, homes) = (vec![network.channel("h1-bulk", "h1")], vec![Home::default()]);
        let shards = Shards { job: JobId(1), bulk, homes, snapshot: None, stop: stop.clone() };
        let tensors = [Tensor { name: "weights".to_owned(), table, spec: plan.tables[0].clone(), keys: 10 }];
        let description = Description {
            created_by: String::new(),
            job: "svrg".to_owned(),
            params: serde_json::Value::Null,
            labels: Default::default(),
            index_base: 1,
            features: 10,
            facts: Facts::default(),
            objective: None,
            epochs: 1,
        };
        let path = DataPath(folder.path().join("m").to_str().unwrap().to_owned());
        let saving = tokio::task::spawn_blocking(move || {
            shards.save(&Storage::default(), (&path, false), &tensors, &description)
        });
        tokio::time::sleep(2 * LOOK).await;
        let start = Instant::now();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(saving.await.unwrap().unwrap_err().fault, Fault::Cancelled);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
