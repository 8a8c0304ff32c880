//! Tables between a checkpoint and the shards, chunk by chunk.
//!
//! Invariant: no more than a window of chunks is in memory; a checkpoint that is not finished changes nothing on the disk.

use super::Folder;
use super::file::{Reader, Writer};
use crate::job::driver::Place;
use crate::transfer::{DEADLINE, Shards, WINDOW};
use bytes::Bytes;
use flexps_common::ids::TableId;
use flexps_common::transport::{Packet, Pending};
use flexps_common::wire::checkpoint::{FromKept, LISTED, ToKept};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::Offered;
use flexps_common::{Error, Result};
use std::collections::VecDeque;

impl Shards {
    /// Writes a checkpoint with these tables; its size in bytes.
    pub fn keep(&self, folder: &Folder, place: &Place, tables: &[TableId]) -> Result<u64> {
        let mut writer = folder.begin(place)?;
        for table in tables {
            for shard in self.homes[usize::from(table.0)].members(self.bulk.len()) {
                self.keep_part(&mut writer, shard, *table)?;
            }
        }
        self.check()?;
        writer.finish()
    }

    /// Writes what a shard serves of a table.
    fn keep_part(&self, writer: &mut Writer, shard: u32, table: TableId) -> Result<()> {
        let mut from = 0;
        loop {
            let asked = self.ask(shard, &ToKept::Serves { job: self.job, table, from }, Bytes::new())?;
            let served = match self.told(asked)?.0 {
                FromKept::Served(served) => served,
                other => return Err(unexpected(&other)),
            };
            let mut flight = VecDeque::new();
            for chunk in &served {
                flight.push_back(self.ask(shard, &ToKept::Give { job: self.job, chunk: *chunk }, Bytes::new())?);
                if flight.len() >= WINDOW {
                    self.write_next(writer, &mut flight)?;
                }
            }
            while !flight.is_empty() {
                self.write_next(writer, &mut flight)?;
            }
            match served.last() {
                Some(Offered { id, .. }) if served.len() == LISTED => from = id.chunk + 1,
                _ => return Ok(()),
            }
        }
    }

    fn write_next(&self, writer: &mut Writer, flight: &mut VecDeque<Pending>) -> Result<()> {
        let Some(pending) = flight.pop_front() else { return Ok(()) };
        match self.told(pending)? {
            (FromKept::Chunk(head), values) => writer.chunk(&head, &values),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Makes the tables, which are zero, those of a checkpoint.
    pub fn restore(&self, folder: &Folder) -> Result<()> {
        let mut reader = Reader::open(folder.path())?;
        reader.description()?;
        reader.place()?;
        let mut flight = VecDeque::new();
        while let Some((head, values)) = reader.chunk()? {
            let home = self.homes.get(usize::from(head.id.table.0));
            let home = home.ok_or_else(|| Error::bug("a checkpoint with a table that the plan lacks"))?;
            let shard = home.owner(head.id.chunk.into(), self.bulk.len());
            flight.push_back(self.ask(shard, &ToKept::Take { job: self.job, chunk: head }, values)?);
            if flight.len() >= WINDOW * self.bulk.len() {
                self.taken(flight.pop_front())?;
            }
        }
        while !flight.is_empty() {
            self.taken(flight.pop_front())?;
        }
        Ok(())
    }

    fn taken(&self, pending: Option<Pending>) -> Result<()> {
        let Some(pending) = pending else { return Ok(()) };
        match self.told(pending)?.0 {
            FromKept::Taken => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, shard: u32, message: &ToKept, body: Bytes) -> Result<Pending> {
        self.check()?;
        let to = &self.bulk[shard as usize];
        let packet = Packet::bulk(&ToShard::Checkpoint(message.clone()), body)?;
        Ok(to.start(packet, DEADLINE).of(to.peer().clone()))
    }

    fn told(&self, pending: Pending) -> Result<(FromKept, Bytes)> {
        let answer = self.answer(pending)?;
        match answer.message()? {
            FromShard::Checkpoint(told) => Ok((told, answer.body)),
            other => Err(Error::bug(format!("a shard answered {other:?} of a checkpoint"))),
        }
    }
}

fn unexpected(told: &FromKept) -> Error {
    Error::bug(format!("a shard answered {told:?} of a checkpoint"))
}
