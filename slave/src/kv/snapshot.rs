//! Tables as they were at one moment, while writers go on.
//!
//! Invariants: who changes a chunk for the first time behind that moment keeps what it was, under the chunk's lock, so each
//! chunk of a snapshot is whole; there is one snapshot at a time, and what was kept goes with it. A chunk is read where it
//! was served then, wherever its table has moved since.

use super::chunk::Data;
use super::table::Table;
use super::{Keys, Shard, with_table, with_values};
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::TableId;
use flexps_common::value::{Element, ValuesMut};
use std::sync::atomic::Ordering;

impl Shard {
    /// All tables, as they are now, are to be readable as `snapshot`. One before it, of this name or another, is dropped.
    pub fn take_snapshot(&self, snapshot: u64) {
        let mut named = self.named.lock();
        *named = (Some(snapshot), named.1 + 1);
        self.snapshot.store(named.1, Ordering::Release);
    }

    /// Reads `width` values per key as they were when the snapshot was taken. An error when it is not kept any more.
    pub fn read_snapshot(&self, snapshot: u64, table: TableId, keys: Keys<'_>, out: ValuesMut<'_>) -> Result<()> {
        let taken = |(name, count): (Option<u64>, u64)| (name == Some(snapshot)).then_some(count);
        let gone = || Error::cluster("the snapshot is not kept any more; another one was taken");
        let first = taken(*self.named.lock()).ok_or_else(gone)?;
        with_values!(self, table, ValuesMut(out), t, values => t.read_snapshot(first, keys, values))?;
        // What was read while it was dropped may be of later.
        if taken(*self.named.lock()) == Some(first) { Ok(()) } else { Err(gone()) }
    }

    /// Drops a snapshot and what was kept for it, if it is the one that is taken.
    pub fn release_snapshot(&self, snapshot: u64) {
        let mut named = self.named.lock();
        if named.0 == Some(snapshot) {
            named.0 = None;
            self.snapshot.store(0, Ordering::Release);
            for any in &self.tables {
                with_table!(any, t => t.chunks().for_each(|(_, chunk)| chunk.release(t.tier())));
            }
        }
    }

    /// Where the tables live, by table.
    pub fn homes(&self) -> Vec<Home> {
        self.homes.lock().clone()
    }
}

impl<T: Element> Table<T> {
    fn read_snapshot(&self, snapshot: u64, keys: Keys<'_>, mut out: &mut [T]) -> Result<()> {
        self.check_len(keys, out.len())?;
        let (mask, width, mut rest) = (self.mask(), self.width(), keys);
        while let Some((chunk, run, next)) = rest.split_run(self.chunk_keys().ilog2()) {
            let (part, after) = out.split_at_mut(run.len() * width);
            let read = |data: &Data<T>| match run {
                Keys::List(keys) => data.get(mask, width, keys, part),
                Keys::Range { start, count } => {
                    let at = (start & mask) as usize;
                    data.get_range(at..at + count as usize, width, part);
                }
            };
            match self.find(chunk) {
                None => part.fill(T::default()),
                Some(chunk) => chunk.at_snapshot(self.tier(), self.blank(), snapshot, read)?,
            }
            (rest, out) = (next, after);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Room;
    use super::*;
    use flexps_common::plan::{Storage, TableSpec};
    use flexps_common::value::{Type, Values};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    const TABLE: TableId = TableId(0);
    const KEYS: u32 = 3 << 16;

    fn shard(storage: Storage, room: &Arc<Room>) -> Shard {
        let spec = TableSpec {
            name: "t".into(),
            element: Type::F32,
            width: 1,
            storage,
            update: "add".into(),
            update_params: Vec::new(),
        };
        Shard::new(&[spec], 0, 1, &Default::default(), room).unwrap()
    }

    fn read(shard: &Shard, snapshot: u64) -> Result<Vec<f32>> {
        let mut out = vec![9.0; KEYS as usize];
        let keys = Keys::Range { start: 0, count: KEYS };
        shard.read_snapshot(snapshot, TABLE, keys, ValuesMut::F32(&mut out)).map(|()| out)
    }

    fn now(shard: &Shard) -> Vec<f32> {
        let mut out = vec![0.0; KEYS as usize];
        shard.get(TABLE, Keys::Range { start: 0, count: KEYS }, ValuesMut::F32(&mut out)).unwrap();
        out
    }

    #[test]
    fn a_snapshot_is_what_was_there_whatever_is_written_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        // The last one holds a chunk, so that what is kept and what is not in use lies on disk.
        let rooms = [Room::unlimited(), Room::unlimited(), Room::new(4 << 16, folder.path())];
        for (storage, room) in [Storage::Dense, Storage::Sparse, Storage::Dense].into_iter().zip(rooms) {
            let shard = shard(storage, &room);
            // Chunks 0 and 1 were written, chunk 2 was not.
            shard.add(TABLE, Keys::List(&[5, 70_000]), Values::F32(&[1.0, 2.0])).unwrap();
            let before = now(&shard);
            shard.take_snapshot(1);
            for _ in 0..2 {
                shard.add(TABLE, Keys::List(&[5, 6, 140_000]), Values::F32(&[1.0, 1.0, 1.0])).unwrap();
                assert!(read(&shard, 1).unwrap() == before);
            }
            let later = now(&shard);
            assert!(later != before);
            // Taken again under the same name it is of the later moment.
            shard.take_snapshot(1);
            shard.add(TABLE, Keys::List(&[7]), Values::F32(&[1.0])).unwrap();
            assert!(read(&shard, 1).unwrap() == later);
            let later = now(&shard);
            // The next one drops it.
            shard.take_snapshot(2);
            shard.add(TABLE, Keys::List(&[5]), Values::F32(&[1.0])).unwrap();
            assert!(read(&shard, 2).unwrap() == later);
            assert!(read(&shard, 1).unwrap_err().message.contains("not kept any more"));
            shard.release_snapshot(1);
            assert!(read(&shard, 2).is_ok(), "another one was released");
            shard.release_snapshot(2);
            assert!(read(&shard, 2).is_err());
            assert_eq!(now(&shard)[5], 4.0);
        }
    }

    #[test]
    fn where_memory_is_limited_a_snapshot_takes_none() {
        let folder = tempfile::tempdir().unwrap();
        let shard = shard(Storage::Dense, &Room::new(3 * (4 << 16), folder.path()));
        let all = Keys::Range { start: 0, count: KEYS };
        let write = || shard.add(TABLE, all, Values::F32(&[1.0; KEYS as usize])).unwrap();
        let chunk = 4 << 16;
        write();
        for snapshot in 1..5u64 {
            assert_eq!(shard.take_disk_use().written_bytes, 0, "all of it fits");
            shard.take_snapshot(snapshot);
            write();
            write();
            assert_eq!(shard.take_disk_use().written_bytes, 3 * chunk);
            assert!(read(&shard, snapshot).unwrap().iter().all(|x| *x == 2.0 * snapshot as f32 - 1.0));
            assert_eq!(shard.take_disk_use().read_bytes, 3 * chunk);
            shard.release_snapshot(snapshot);
        }
        // The file has room for one, however many there were.
        assert_eq!(shard.tier.file_bytes(), 3 * chunk);
    }

    #[test]
    fn what_workers_race_for_behind_a_snapshot_is_kept_too() {
        let shard = shard(Storage::Dense, &Room::unlimited());
        shard.add(TABLE, Keys::List(&[5, 70_000]), Values::F32(&[1.0, 2.0])).unwrap();
        let before = now(&shard);
        shard.take_snapshot(1);
        shard.begin_phase(2);
        for _ in 0..3 {
            shard.race_add(TABLE, Keys::List(&[5, 6, 140_000]), Values::F32(&[1.0; 3])).unwrap();
            assert!(read(&shard, 1).unwrap() == before);
        }
        assert_eq!(now(&shard)[5], 4.0);
    }

    #[test]
    fn each_chunk_of_a_snapshot_is_whole_while_writers_go_on() {
        let (shard, stop) = (Arc::new(shard(Storage::Dense, &Room::unlimited())), Arc::new(AtomicBool::new(false)));
        // Each update of a chunk leaves its sum as it is.
        let writers = [0u32, 1, 2].map(|chunk| {
            let (shard, stop) = (shard.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    let first = (chunk << 16) + at % 60_000;
                    shard.add(TABLE, Keys::List(&[first, first + 5000]), Values::F32(&[1.0, -1.0])).unwrap();
                    at += 7;
                }
            })
        });
        let mut last = vec![0.0; KEYS as usize];
        for snapshot in 1..40 {
            shard.take_snapshot(snapshot);
            let first = read(&shard, snapshot).unwrap();
            for chunk in first.chunks(1 << 16) {
                assert_eq!(chunk.iter().sum::<f32>(), 0.0, "a chunk in the middle of an update");
            }
            std::thread::yield_now();
            shard.release_snapshot(snapshot);
            last = first;
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(last.iter().any(|value| *value != 0.0), "nobody wrote");
    }
}
