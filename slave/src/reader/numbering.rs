//! The features of a slave's rows, numbered.
//!
//! Invariant: all blocks are renumbered, wherever they are, or none is.

use super::spill::Spill;
use super::store::Place;
use flexps_common::data::block::KeyMap;
use flexps_common::data::keys::KeySet;
use flexps_common::error::{Error, Result};
use flexps_common::machine;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn on_disk(spill: Option<&Spill>) -> Result<&Spill> {
    spill.ok_or_else(|| Error::bug("a block on disk without a file"))
}

/// The key map of all blocks; renumbers them if it is not the identity.
pub fn make(places: &mut [Place], spill: Option<&Spill>, features: u64) -> Result<KeyMap> {
    let threads = (machine::cores() as usize).clamp(1, places.len().max(1));
    let next = AtomicUsize::new(0);
    let places_seen: &[Place] = places;
    let collect = || {
        let (mut set, mut read) = (KeySet::default(), None);
        while let Some(place) = places_seen.get(next.fetch_add(1, Ordering::Relaxed)) {
            match place {
                Place::Memory(block) => set.insert(&block.indices),
                Place::Disk(extent) => {
                    let block = on_disk(spill)?.read(extent, read.take())?;
                    set.insert(&block.indices);
                    read = Some(block);
                }
                Place::Gone => {}
            }
        }
        Ok(set)
    };
    let mut set = KeySet::default();
    for part in in_threads(threads, |_| collect())? {
        set.merge(&part?);
    }
    let ranks = set.into_ranks();
    let map = ranks.map(features);
    if matches!(map, KeyMap::Identity(_)) {
        return Ok(map);
    }
    let share = places.len().div_ceil(threads).max(1);
    let shares: Vec<_> = places.chunks_mut(share).map(Mutex::new).collect();
    let renumbered = in_threads(shares.len(), |i| {
        let mut read = None;
        for place in shares[i].lock().iter_mut() {
            match place {
                // A copy if a worker still holds the block: it goes on with features.
                Place::Memory(block) => ranks.renumber(&mut Arc::make_mut(block).indices),
                // Once and for all: it would cost as much as a pass in each of them.
                Place::Disk(extent) => {
                    let spill = on_disk(spill)?;
                    let mut block = spill.read(extent, read.take())?;
                    ranks.renumber(&mut block.indices);
                    spill.rewrite(extent, &block)?;
                    read = Some(block);
                }
                Place::Gone => {}
            }
        }
        Ok(())
    })?;
    renumbered.into_iter().collect::<Result<()>>()?;
    Ok(map)
}

/// Runs `work` on so many threads, and returns what each gave.
fn in_threads<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        let ended = running.into_iter().map(|t| t.join());
        ended.map(|r| r.map_err(|_| Error::bug("a thread that numbers features panicked"))).collect()
    })
}
