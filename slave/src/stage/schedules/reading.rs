//! Reads at other shards, through the cache of a slave with several workers, as the engine does them.

use super::cache::{Brought, Cache, Fetch, Found};
use super::{CHUNK, Fault, SPARSE, SSP, TABLE, WORKERS, World, case, explore};
use crate::stage::exchange::{Need, Readable};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{Key, SlaveId};
use flexps_common::plan::Consistency;
use flexps_common::value::OwnedValues;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Keys that were found in a cache. Schedules have one thread of the system.
    pub static HITS: Cell<usize> = const { Cell::new(0) };
}

impl World {
    /// What a worker reads of each worker's key at a shard of another slave.
    pub fn read(&self, worker: usize, shard: usize, clock: u64) -> Result<[f32; 3]> {
        let (here, local) = WORKERS[worker];
        let run = &self.runs[here];
        let Some(cache) = run.cache() else { return self.fetch(worker, shard, clock).map(|(_, values)| values) };
        let keys = [0, 1, 2].map(|other| other as Key + shard as Key * CHUNK);
        let mut out = [0.0; 3];
        let too_long = self.case.fault == Fault::KeepLong;
        let mut fetch = cache.begin(local, clock.saturating_sub(u64::from(too_long)));
        if too_long {
            // Else siblings at the clock before would wait for a read of this one.
            cache.release(local);
            fetch = fetch.alone();
        }
        let found = self.look(cache, &fetch, (worker, shard, clock), &keys, &mut out)?;
        cache.release(local);
        if !found.awaited.is_empty() {
            let landed = cache.wait(&fetch, &found, || run.check())?;
            let fetch = fetch.alone();
            for (place, flight) in found.awaited {
                let (key, place) = (keys[place as usize], place as usize);
                let brought = landed[flight].iter().flat_map(|all| &**all).next();
                let at = brought.and_then(|brought| brought.keys.iter().position(|other| *other == key));
                if let (Some(Brought { values: OwnedValues::F32(values), .. }), Some(at)) = (brought, at) {
                    HITS.set(HITS.get() + 1);
                    out[place] = values[at];
                } else {
                    let again = self.look(cache, &fetch, (worker, shard, clock), &[key], &mut out[place..=place])?;
                    assert!(again.awaited.is_empty());
                }
            }
        }
        Ok(out)
    }

    /// Looks for keys and fetches those that nobody has or fetches.
    fn look(
        &self,
        cache: &Cache,
        fetch: &Fetch,
        (worker, shard, clock): (usize, usize, u64),
        keys: &[Key],
        out: &mut [f32],
    ) -> Result<Found> {
        let mut found = Found::default();
        cache.look(fetch, TABLE, keys, 0, bytemuck::cast_slice_mut(out), &mut found);
        let (missing, places) = std::mem::take(&mut found.missing);
        HITS.set(HITS.get() + keys.len() - missing.len() - found.awaited.len());
        if !missing.is_empty() {
            let (shown, all) = self.fetch(worker, shard, clock)?;
            let values: Vec<_> = missing.iter().map(|key| all[(key % CHUNK) as usize]).collect();
            places.iter().zip(&values).for_each(|(place, value)| out[*place as usize] = *value);
            let brought = Brought { table: TABLE, keys: missing, values: OwnedValues::F32(values) };
            cache.land(fetch, Arc::new(vec![brought]), shown);
        }
        Ok(found)
    }

    /// What a shard answers, and the least clock that was not complete there.
    fn fetch(&self, worker: usize, shard: usize, clock: u64) -> Result<(u64, [f32; 3])> {
        let mut seen = match self.case.fault {
            Fault::Overtake => Default::default(),
            _ => self.runs[WORKERS[worker].0].seen(&Self::place(worker), SlaveId(shard as u32)),
        };
        if self.case.fault == Fault::ReadAlone {
            seen.workers.retain(|(of, ..)| *of as usize == worker);
        }
        let shown = match self.runs[shard].readable(Need { clock, seen })? {
            _ if self.case.fault == Fault::ReadEarly => clock,
            Readable::Now(shown) => shown,
            Readable::Later(readable) => shuttle::future::block_on(readable).map_err(|_| Error::cancelled())?,
        };
        Ok((shown, self.values(shard)))
    }
}

#[test]
#[should_panic(expected = "reads nothing")]
fn a_value_under_bsp_that_is_read_one_clock_too_long_is_noticed() {
    explore(case(Consistency::Bsp, Fault::KeepLong));
}

#[test]
#[should_panic(expected = "reads nothing")]
fn a_value_under_ssp_that_is_read_one_clock_too_long_is_noticed() {
    explore(case(SSP, Fault::KeepLong));
}

#[test]
#[should_panic(expected = "reads nothing")]
fn a_value_that_hides_the_workers_own_update_is_noticed() {
    explore(case(Consistency::Asp, Fault::KeepOwn));
}

#[test]
#[should_panic(expected = "reads nothing")]
fn a_value_that_was_read_before_a_siblings_update_came_is_noticed() {
    explore(case(SSP, Fault::ReadAlone));
}

#[test]
fn reads_of_siblings_are_shared_under_all_models_but_sparse_ssp() {
    for model in [Consistency::Bsp, SSP, Consistency::Asp] {
        HITS.set(0);
        explore(case(model, Fault::None));
        assert!(HITS.get() > 100, "{} hits under {model:?}", HITS.get());
    }
    HITS.set(0);
    explore(case(SPARSE, Fault::None));
    assert_eq!(HITS.get(), 0);
}
