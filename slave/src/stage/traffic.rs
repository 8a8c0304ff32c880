//! What a worker's reads and updates are on the way: cut by shard, sent, answered, sent again.
//!
//! Invariants: at most `WINDOW` bytes of a worker's reads, and of its updates, are under way at once; nobody waits for
//! others before the answers for updates of ended clocks were taken, since some may have to be sent again.

use super::backend::Engine;
use super::cut::{self, Cutter, Item, Message};
use super::exchange::{Source, Update, owned};
use super::items::{check_len, check_out, describe};
use super::link::{Answered, Queue, UnderWay};
use super::{slices, sums};
use crate::kv::Keys;
use flexps_common::error::{Error, Result};
use flexps_common::ids::TableId;
use flexps_common::transport::Packet;
use flexps_common::value::{Values, ValuesMut};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::kv::Origin;
use flexps_common::worker::{Backend, Pull};
use std::ops::Range;
use std::time::Instant;

/// Bytes of values under way in each direction of one worker: enough to keep a network busy.
const WINDOW: usize = 16 << 20;

/// Bytes of values of a read that may be sent before its clock may begin: those that wait at a shard take of what a channel
/// may have under way, and the updates that they wait for must find room beside them.
const EARLY: usize = 64 << 10;

impl Engine {
    /// Before a read is sent: its keys must be announced, and a peek, which waits at no shard, or a large read waits here.
    pub(super) fn prepare(&mut self, items: &[Item<'_>], peek: bool) -> Result<()> {
        if !peek {
            self.touch(items)?;
        }
        if peek || items.iter().map(Item::bytes).sum::<usize>() > EARLY { self.begin() } else { Ok(()) }
    }

    /// Sends messages of a read while there is room.
    pub(super) fn send(
        &mut self,
        peek: bool,
        queue: &mut Queue,
        mut more: impl FnMut() -> Option<Message>,
    ) -> Result<()> {
        while queue.bytes < WINDOW
            && let Some(message) = more()
        {
            let link = self.job.link(message.shard)?;
            let under_way = link.get(
                self.origin(),
                self.run.seen(&self.place, link.slave),
                peek,
                message,
                &self.run.rights.may_round,
            )?;
            self.counters.sent += under_way.bytes() as u64;
            queue.push(under_way);
        }
        Ok(())
    }

    /// Takes the answers of a read, sending on as they come. All of them show the updates of clocks below the number that
    /// comes back.
    pub(super) fn receive(
        &mut self,
        peek: bool,
        mut queue: Queue,
        mut more: impl FnMut() -> Option<Message>,
        out: &mut [ValuesMut<'_>],
    ) -> Result<u64> {
        let (job, mut least) = (self.job.clone(), u64::MAX);
        loop {
            self.send(peek, &mut queue, &mut more)?;
            let Some(mut first) = queue.pop() else { return Ok(least) };
            self.settle_ended()?;
            let answer = self.answer(&mut first)?;
            let link = job.link(first.shard())?;
            match first.read(link, answer, out)? {
                Answered::Values { shown, packed } => {
                    least = least.min(shown);
                    if link.packer.is_on() {
                        self.counters.packed.merge(&packed);
                    }
                }
                Answered::Again(again) => {
                    self.counters.sent += again.bytes() as u64;
                    queue.push(again);
                }
            }
        }
    }

    /// Reads this slave's own part.
    pub(super) fn read_local(
        &self,
        items: &[Item<'_>],
        local: &[(usize, Range<usize>)],
        out: &mut [ValuesMut<'_>],
    ) -> Result<()> {
        for (item, places) in local {
            let Item { table, spec, keys, .. } = items[*item];
            let width = spec.width as usize;
            let to = slices::part_mut(&mut out[*item], places.start * width..places.end * width);
            let keys = cut::part(keys, places.clone());
            if self.run.settled.races() {
                self.job.shard.race_get(table, keys, to)?
            } else {
                self.job.shard.get(table, keys, to)?
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, table: TableId, keys: Keys<'_>, peek: bool, mut out: ValuesMut<'_>) -> Result<()> {
        if let (Keys::List(keys), false) = (keys, peek)
            && self.run.cache().is_some_and(|cache| cache.holds(table, keys.len()))
        {
            let ticket = self.start_get(&[Pull { table, keys }])?;
            return self.finish_get(ticket, &mut [out]);
        }
        self.run.check()?;
        self.follow.read(Instant::now());
        self.settled()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, &[(table, keys)])?;
        self.prepare(&items, peek)?;
        check_out(&items, std::slice::from_ref(&out))?;
        self.count(&items, |used| &mut used.read_bytes);
        let out = std::slice::from_mut(&mut out);
        let mut cutter = Cutter::new(&items)?;
        let mut queue = Queue::default();
        // The others work while this slave's part is read, unless there is more than fits the window.
        self.send(peek, &mut queue, || cutter.message())?;
        self.job.flush();
        self.begin()?;
        self.read_local(&items, &std::mem::take(&mut cutter.local), out)?;
        self.receive(peek, queue, || cutter.message(), out)?;
        self.read_local(&items, &cutter.local, out)?;
        self.have_read(&items, out);
        Ok(())
    }

    pub(super) fn update(&mut self, items: &[(TableId, Keys<'_>)], values: &[Values<'_>]) -> Result<()> {
        self.run.check()?;
        self.settled()?;
        let (job, run) = (self.job.clone(), self.run.clone());
        let items = describe(&job, &run, items)?;
        items.iter().try_for_each(|item| run.rights.update(item.table, || item.spec.name.clone()))?;
        self.touch(&items)?;
        self.begin()?;
        for (item, values) in items.iter().zip(values) {
            // All of it, not only the part of this shard: a wrong length must not shift the values of others.
            check_len(item, values.len(), values.kind())?;
        }
        self.count(&items, |used| &mut used.written_bytes);
        let mut cutter = Cutter::new(&items)?;
        while let Some(message) = cutter.message() {
            self.filter_update(message, values)?;
        }
        self.remember(&items);
        let mut kept = Vec::new();
        for (item, places) in cutter.local {
            let (values, Item { table, spec, keys, .. }) = (values[item], items[item]);
            let width = spec.width as usize;
            let values = slices::part(values, places.start * width..places.end * width);
            let keys = cut::part(keys, places);
            if self.run.settled.races() {
                self.job.shard.race_add(table, keys, values)?;
            } else if self.run.keeps_none() {
                self.job.shard.add(table, keys, values)?;
            } else {
                kept.push(keep(table, keys, values)?);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let (clock, worker) = (self.clock, self.place.index as u32);
        let sequence = self.next_sequence();
        self.run.add_own(Source { clock, worker, sequence }, kept)
    }

    /// Sends an update's message, but for what goes in a sum.
    pub(super) fn pass_update(&mut self, mut message: Message, values: &[Values<'_>]) -> Result<()> {
        if let Some(sums) = self.run.sums() {
            sums.take(self.place.local_index, &mut message, values);
        }
        if message.pieces.is_empty() {
            return Ok(());
        }
        // One of its own for each: a shard takes two of the same number for the same message.
        let (origin, sequence) = (self.origin(), self.next_sequence());
        self.send_update(origin, sequence, message, values)
    }

    fn send_update(&mut self, origin: Origin, sequence: u64, message: Message, values: &[Values<'_>]) -> Result<()> {
        self.settle(WINDOW)?;
        let job = self.job.clone();
        let link = job.link(message.shard)?;
        let under_way = link.add(origin, sequence, message, values, &self.run.rights.may_round)?;
        self.counters.sent += under_way.bytes() as u64;
        if link.packer.is_on() {
            self.counters.packed.merge(&under_way.packed());
        }
        *self.sent.entry(link.slave).or_default() += 1;
        self.updates.push(under_way);
        Ok(())
    }

    /// Before the worker ends its clock, or its function, which have begun: sends the sums of the clock if it is the last
    /// one here.
    pub(super) fn send_sums(&mut self, gone: bool) -> Result<()> {
        let run = self.run.clone();
        let Some(sums) = run.sums() else { return Ok(()) };
        let (parts, messages) = sums.end(self.place.local_index, gone);
        let values: Vec<_> = parts.iter().map(|part| part.values.borrow()).collect();
        // In the name of the first worker here, whoever sends them: they are applied in the same place each time.
        let worker = self.origin().worker - self.place.local_index as u32;
        for (number, message) in messages.into_iter().enumerate() {
            self.send_update(Origin { worker, ..self.origin() }, sums::FIRST + number as u64, message, &values)?;
        }
        Ok(())
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Waits until fewer than `room` bytes of updates, or none, are under way.
    pub(super) fn settle(&mut self, room: usize) -> Result<()> {
        while self.updates.bytes >= room && self.settle_first()? {}
        Ok(())
    }

    /// Waits for the updates of ended clocks.
    pub(super) fn settle_ended(&mut self) -> Result<()> {
        while self.ended > 0 && self.settle_first()? {}
        Ok(())
    }

    /// Waits for the update that was sent first; whether there was one.
    fn settle_first(&mut self) -> Result<bool> {
        let Some(mut first) = self.updates.pop() else { return Ok(false) };
        let answer = self.answer(&mut first)?;
        self.added(first, answer)?;
        Ok(true)
    }

    /// Takes the answers for updates that have come.
    pub(super) fn settle_answered(&mut self) -> Result<()> {
        while let Some(answer) = self.updates.answered()
            && let Some(first) = self.updates.pop()
        {
            let answer = answer?;
            self.counters.received += answer.len() as u64;
            self.added(first, answer)?;
        }
        Ok(())
    }

    /// The update that was sent first was answered.
    fn added(&mut self, first: UnderWay, mut answer: Packet) -> Result<()> {
        let job = self.job.clone();
        let link = job.link(first.shard())?;
        let mut message = first;
        while let Some(mut again) = message.added(link, &answer)? {
            self.counters.sent += again.bytes() as u64;
            answer = self.answer(&mut again)?;
            message = again;
        }
        self.ended = self.ended.saturating_sub(1);
        Ok(())
    }

    fn answer(&mut self, under_way: &mut UnderWay) -> Result<Packet> {
        let pending = under_way.pending().ok_or_else(|| Error::bug("an answer was taken twice"))?;
        let start = Instant::now();
        let answer = pending.wait_unless(self.run.cancelled());
        self.counters.waited += start.elapsed();
        let answer = answer?;
        self.counters.received += answer.len() as u64;
        Ok(answer)
    }
}

/// A copy of an update that its shard keeps.
fn keep(table: TableId, keys: Keys<'_>, values: Values<'_>) -> Result<Update> {
    let mut body = BodyWriter::with_capacity(values.bytes().len());
    body.values(values);
    let values = BodyReader::new(body.finish()).values(values.kind(), values.len())?;
    Ok(Update { table, keys: owned(keys), values })
}
