//! Dense chunks that a slave reads where they lie in another one's memory.
//!
//! Invariants: what is told of a chunk holds as long as its shard lives, as to the place, and as long as it is not changed, as
//! to the checksum; a chunk that was read has its version only once all of it is what the other side said.

use super::chunk::Data;
use super::moved::BROKEN;
use super::table::Table;
use super::{Shard, with_table};
use crate::process_memory;
use flexps_common::error::{Error, Result};
use flexps_common::ids::TableId;
use flexps_common::plan::Storage;
use flexps_common::value::Element;
use flexps_common::wire::moved::{ChunkId, Lying, Offered};
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::xxh3_64;

impl Shard {
    /// Whether the chunks of `table` lie in memory and stay where they are, whatever becomes of them.
    pub fn lies_still(&self, table: TableId) -> Result<bool> {
        Ok(self.spec(table)?.storage == Storage::Dense && !self.tier.is_limited())
    }

    /// Where a chunk lies that stays there.
    pub fn lying(&self, offered: &Offered) -> Result<Lying> {
        let ChunkId { table, chunk } = offered.id;
        let element = self.spec(table)?.element;
        let (address, checksum) = with_table!(self.table(table)?, t => t.lying(chunk, offered.version)?);
        Ok(Lying { id: offered.id, version: offered.version, element, address, checksum })
    }

    /// Bytes of a dense chunk of `table`.
    pub fn chunk_bytes(&self, table: TableId) -> Result<u64> {
        Ok(with_table!(self.table(table)?, t => t.chunk_bytes()))
    }

    /// Like [`Shard::import`], from the memory of a process.
    pub fn read(&self, chunk: &Lying, process: u32) -> Result<()> {
        let table = chunk.id.table;
        if self.spec(table)?.element != chunk.element {
            return Err(self.wrong_type(table, chunk.element));
        }
        with_table!(self.table(table)?, t => t.read(chunk, process))
    }
}

impl<T: Element> Table<T> {
    fn lying(&self, chunk: u32, version: u64) -> Result<(u64, u64)> {
        let data = self.offered(chunk, version)?;
        let Data::Dense(values) = &*data else { return Err(Error::bug("a sparse chunk is to be read in memory")) };
        Ok((values.as_ptr().addr() as u64, xxh3_64(bytemuck::cast_slice::<T, u8>(values))))
    }

    fn read(&self, chunk: &Lying, process: u32) -> Result<()> {
        let held = self.coming(chunk.id.chunk)?;
        let mut data = self.overwrite(held, BROKEN)?;
        let Data::Dense(to) = &mut *data else { return Err(self.unfit()) };
        let to = bytemuck::cast_slice_mut::<T, u8>(to);
        process_memory::read(process, chunk.address, to)?;
        // While it is in the cache.
        if xxh3_64(to) != chunk.checksum {
            return Err(Error::cluster("a chunk was read with a wrong checksum").retryable());
        }
        held.version.store(chunk.version, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::super::{Keys, Room};
    use super::*;
    use flexps_common::plan::TableSpec;
    use flexps_common::value::{Type, Values, ValuesMut};
    use std::sync::Arc;

    const TABLE: TableId = TableId(0);
    const CHUNK: u32 = 1 << 16;
    const ALL: Keys<'_> = Keys::Range { start: 0, count: CHUNK };

    /// One of two shards; the first one serves the first chunk.
    fn shard(index: u32, storage: Storage, room: &Arc<Room>) -> Shard {
        let (name, update, update_params) = ("w".into(), "add".into(), Vec::new());
        let spec = TableSpec { name, element: Type::F32, width: 1, storage, update, update_params };
        Shard::new(&[spec], index, 2, &Default::default(), room).unwrap()
    }

    /// A shard whose first chunk is all of `value`, and where that lies.
    fn sender(value: f32) -> (Shard, Offered, Lying) {
        let sender = shard(0, Storage::Dense, &Room::unlimited());
        sender.add(TABLE, ALL, Values::F32(&[value; CHUNK as usize])).unwrap();
        let offered = sender.served(TABLE).unwrap()[0];
        let lying = sender.lying(&offered).unwrap();
        (sender, offered, lying)
    }

    #[test]
    fn a_chunk_that_is_read_is_what_was_said_or_has_no_version() {
        let (sender, offered, lying) = sender(3.0);
        let receiver = shard(1, Storage::Dense, &Room::unlimited());
        let read = |chunk: &Lying| receiver.read(chunk, std::process::id());
        read(&lying).unwrap();
        assert!(receiver.has(&offered).unwrap());
        let nowhere = read(&Lying { address: 8, ..lying }).unwrap_err();
        assert!(nowhere.message.contains("the memory of process"), "{nowhere}");
        assert!(!receiver.has(&offered).unwrap(), "it was written in part");
        read(&lying).unwrap();
        // It changes after it was told of.
        sender.add(TABLE, Keys::List(&[77]), Values::F32(&[1.0])).unwrap();
        let changed = read(&lying).unwrap_err();
        assert!(changed.retry && changed.message.contains("a wrong checksum"), "{changed}");
        assert!(!receiver.has(&offered).unwrap());
        let other = read(&Lying { element: Type::F64, ..lying }).unwrap_err();
        assert!(other.message.contains("f32"), "{other}");
        let sparse = shard(1, Storage::Sparse, &Room::unlimited());
        let unfit = sparse.read(&lying, std::process::id()).unwrap_err();
        assert!(unfit.message.contains("does not fit"), "{unfit}");
        let own = sender.read(&lying, std::process::id()).unwrap_err();
        assert!(own.message.contains("came to the shard that serves it"), "{own}");
    }

    #[test]
    fn sparse_chunks_and_those_that_may_go_to_disk_do_not_lie_still() {
        let lies_still = |storage, room: &Arc<Room>| shard(0, storage, room).lies_still(TABLE).unwrap();
        assert!(lies_still(Storage::Dense, &Room::unlimited()));
        assert!(!lies_still(Storage::Sparse, &Room::unlimited()));
        assert!(!lies_still(Storage::Dense, &Room::new(1 << 40, &std::env::temp_dir())));
    }

    #[test]
    fn a_snapshot_finds_zeros_where_a_chunk_is_read_into_memory_that_was_used_before() {
        let room = Room::unlimited();
        let before = shard(0, Storage::Dense, &room);
        before.add(TABLE, ALL, Values::F32(&[9.0; CHUNK as usize])).unwrap();
        drop(before);
        let (_sender, offered, lying) = sender(3.0);
        let receiver = shard(1, Storage::Dense, &room);
        receiver.take_snapshot(1);
        receiver.read(&lying, std::process::id()).unwrap();
        let mut kept = vec![1.0; CHUNK as usize];
        receiver.read_snapshot(1, TABLE, ALL, ValuesMut::F32(&mut kept)).unwrap();
        assert!(kept.iter().all(|value| *value == 0.0) && receiver.has(&offered).unwrap());
    }
}
