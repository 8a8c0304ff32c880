//! The features of a slave's rows, numbered.
//!
//! Invariant: all blocks are renumbered, wherever they are, or none is.

use super::slot::Place;
use super::spill::Spill;
use flexps_common::data::Block;
use flexps_common::data::block::KeyMap;
use flexps_common::data::keys::{KeySet, is_enough};
use flexps_common::error::{Error, Result};
use flexps_common::machine;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// The state of the key map.
#[derive(Default)]
pub enum Keys {
    /// Nobody has asked for it.
    #[default]
    Unknown,
    /// Somebody makes it; blocks can't be taken.
    InWork,
    /// Made; all blocks are renumbered.
    Known(Arc<KeyMap>),
}

/// What `work` gives, done on a thread of its own, for it takes long; it comes to its end though nobody waits any more.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (send, done) = oneshot::channel();
    let thread = std::thread::Builder::new().name("numbering".to_owned());
    let started = thread.spawn(move || drop(send.send(work())));
    started.map_err(|e| Error::cluster(format!("no thread to number the features of rows: {e}")))?;
    done.await.map_err(|_| panicked())?
}

fn panicked() -> Error {
    Error::bug("a thread that numbers features panicked")
}

fn on_disk(spill: Option<&Spill>) -> Result<&Spill> {
    spill.ok_or_else(|| Error::bug("a block on disk without a file"))
}

/// The key map of all blocks; renumbers them if it is not the identity.
pub fn make(places: &mut [Place], spill: Option<&Spill>, features: u64) -> Result<KeyMap> {
    let threads = (machine::cores() as usize).clamp(1, places.len().max(1));
    let search = Search { places, spill, next: AtomicUsize::new(0), features, is_identity: AtomicBool::new(false) };
    let parts = in_threads(threads, |_| search.collect())?;
    if let (true, Ok(features)) = (search.is_identity.into_inner(), u32::try_from(features)) {
        return Ok(KeyMap::Identity(features));
    }
    let mut set = KeySet::default();
    for part in parts {
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

/// Which features occur in blocks that some threads share out.
struct Search<'a> {
    places: &'a [Place],
    spill: Option<&'a Spill>,
    next: AtomicUsize,
    features: u64,
    /// So many were found that the others don't matter.
    is_identity: AtomicBool,
}

impl Search<'_> {
    /// What one thread finds.
    fn collect(&self) -> Result<KeySet> {
        let (mut set, mut read) = (KeySet::default(), None);
        // Features that may have come to the set since they were counted.
        let (mut found, mut new) = (0, 0);
        while !self.is_identity.load(Ordering::Relaxed)
            && let Some(place) = self.places.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let mut insert = |block: &Block| {
                set.insert(&block.indices);
                new += block.indices.len() as u64;
            };
            match place {
                Place::Memory(block) => insert(block),
                Place::Disk(extent) => {
                    let block = on_disk(self.spill)?.read(extent, read.take())?;
                    insert(&block);
                    read = Some(block);
                }
                Place::Gone => {}
            }
            if is_enough(found + new, self.features) {
                (found, new) = (set.len(), 0);
                self.is_identity.fetch_or(is_enough(found, self.features), Ordering::Relaxed);
            }
        }
        Ok(set)
    }
}

/// Runs `work` on so many threads, and returns what each gave.
fn in_threads<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        let ended = running.into_iter().map(|t| t.join());
        ended.map(|r| r.map_err(|_| panicked())).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(blocks: &[&[u32]]) -> Vec<Place> {
        let block = |indices: &&[u32]| Block { indices: indices.to_vec(), ..Block::default() };
        blocks.iter().map(|indices| Place::Memory(Arc::new(block(indices)))).collect()
    }

    fn indices(places: &[Place]) -> Vec<u32> {
        let of = |place: &Place| match place {
            Place::Memory(block) => block.indices.clone(),
            Place::Disk(_) | Place::Gone => Vec::new(),
        };
        places.iter().flat_map(of).collect()
    }

    #[test]
    fn rows_keep_their_numbers_from_half_of_the_features_on_and_else_get_new_ones() {
        // Half of ten in one block, in all blocks together, in none: features that come twice don't count.
        for (blocks, features, identity) in [
            (&[&[0, 2, 4, 6, 8][..], &[9], &[9]][..], 10, true),
            (&[&[0, 2], &[4, 6], &[8]], 10, true),
            (&[&[0, 2, 4], &[0, 2, 4], &[0, 9]], 10, false),
            (&[&[3], &[3], &[3]], 4, false),
            (&[], 1, false),
        ] {
            let mut places = places(blocks);
            let before = indices(&places);
            let map = make(&mut places, None, features).unwrap();
            assert_eq!(matches!(map, KeyMap::Identity(_)), identity, "{blocks:?}");
            let after = indices(&places);
            assert_eq!(after == before, identity || before.is_empty(), "{after:?}");
            assert!(before.iter().zip(&after).all(|(key, at)| map.key(*at) == *key), "{before:?} {after:?}");
        }
    }
}
