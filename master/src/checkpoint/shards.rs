//! Tables between a checkpoint and the shards, chunk by chunk; columns go the same way.
//!
//! Invariant: no more than a window of parts is in memory; a checkpoint that is not finished changes nothing on the disk.

use super::file::{Part, Reader, Writer};
use super::{Column, Folder, columns};
use crate::job::driver::Place;
use crate::transfer::{DEADLINE, Flight, Shards, WINDOW};
use bytes::Bytes;
use flexps_common::ids::TableId;
use flexps_common::transport::{Packet, Pending};
use flexps_common::wire::checkpoint::{FromKept, LISTED, ToKept};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::Offered;
use flexps_common::{Error, Result};

impl Shards {
    /// Writes a checkpoint with these tables and columns; its size in bytes.
    pub fn keep(&self, folder: &Folder, place: &Place, tables: &[TableId], columns: &[Column]) -> Result<u64> {
        let mut writer = folder.begin(place)?;
        for table in tables {
            for shard in self.homes[usize::from(table.0)].members(self.bulk.len()) {
                self.keep_part(&mut writer, shard, *table)?;
            }
        }
        self.keep_columns(&mut writer, columns)?;
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
            let mut write = |pending| match self.told(pending)? {
                (FromKept::Chunk(head), values) => writer.part(&Part::Chunk(head), &values),
                (other, _) => Err(unexpected(&other)),
            };
            let mut flight = Flight::of(WINDOW);
            for chunk in &served {
                let asked = self.ask(shard, &ToKept::Give { job: self.job, chunk: *chunk }, Bytes::new())?;
                flight.add(asked, &mut write)?;
            }
            flight.rest().try_for_each(write)?;
            match served.last() {
                Some(Offered { id, .. }) if served.len() == LISTED => from = id.chunk + 1,
                _ => return Ok(()),
            }
        }
    }

    /// Makes the tables, which are zero, and the rows' columns those of the checkpoint that is there; its place.
    pub fn restore(&self, folder: &Folder, columns: &[Column]) -> Result<Place> {
        let mut reader = Reader::open(&*folder.store)?;
        reader.description()?;
        let place = reader.place()?;
        let mut flight = Flight::of(WINDOW * self.bulk.len());
        let taken = |pending| match self.told(pending)?.0 {
            FromKept::Taken => Ok(()),
            other => Err(unexpected(&other)),
        };
        while let Some((part, values)) = reader.part()? {
            let asked = match part {
                Part::Chunk(chunk) => {
                    let home = self.homes.get(usize::from(chunk.id.table.0));
                    let home = home.ok_or_else(|| Error::bug("a checkpoint with a table that the plan lacks"))?;
                    let shard = home.owner(chunk.id.chunk.into(), self.bulk.len());
                    vec![(shard, ToKept::Take { job: self.job, chunk }, values)]
                }
                Part::Column(head) => columns::to_take(self.job, columns, &head, &values)?,
            };
            for (shard, message, values) in asked {
                flight.add(self.ask(shard, &message, values)?, taken)?;
            }
        }
        flight.rest().try_for_each(taken)?;
        Ok(place)
    }

    pub(super) fn ask(&self, shard: u32, message: &ToKept, body: Bytes) -> Result<Pending> {
        self.check()?;
        let to = &self.bulk[shard as usize];
        let packet = Packet::bulk(&ToShard::Checkpoint(message.clone()), body)?;
        Ok(to.start(packet, DEADLINE).of(to.peer().clone()))
    }

    pub(super) fn told(&self, pending: Pending) -> Result<(FromKept, Bytes)> {
        let answer = self.answer(pending)?;
        match answer.message()? {
            FromShard::Checkpoint(told) => Ok((told, answer.body)),
            other => Err(Error::bug(format!("a shard answered {other:?} of a checkpoint"))),
        }
    }
}

pub(super) fn unexpected(told: &FromKept) -> Error {
    Error::bug(format!("a shard answered {told:?} of a checkpoint"))
}
