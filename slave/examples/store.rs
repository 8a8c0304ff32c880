//! How fast a shard's own table is read and updated, beside a plain loop over an array: sorted random keys of a table of
//! 10 million f32 values, in keys a second as JSON.
//!
//! `cargo run --release -p flexps-slave --example store`

use flexps_common::error::Result;
use flexps_common::ids::TableId;
use flexps_common::plan::Plan;
use flexps_common::value::{Values, ValuesMut};
use flexps_slave::kv::{Keys, Room, Shard};
use std::hint::black_box;
use std::time::Instant;

const KEYS: u32 = 10_000_000;
const REQUEST: usize = 10_000;
const LISTS: usize = 64;
const ROUNDS: usize = 100;

fn main() -> Result<()> {
    let mut plan = Plan::default();
    plan.table::<f32>("values", 1);
    let shard = Shard::new(&plan.tables, 0, 1, &Default::default(), &Room::unlimited())?;
    let table = TableId(0);
    let ones = vec![1.0f32; KEYS as usize];
    shard.add(table, Keys::Range { start: 0, count: KEYS }, Values::F32(&ones))?;
    let mut array = ones;

    let lists: Vec<Vec<u32>> = (0..LISTS as u64).map(random_keys).collect();
    let mut out = vec![0.0f32; REQUEST];
    let updates = vec![1e-3f32; REQUEST];
    // Interleaved, the best time of each list: others use this machine too.
    let mut best = vec![[f64::MAX; 4]; LISTS];
    for _ in 0..ROUNDS {
        for (keys, best) in lists.iter().zip(&mut best) {
            measure(&mut best[0], || {
                for (out, key) in out.iter_mut().zip(keys) {
                    *out = array[*key as usize];
                }
                Ok(())
            })?;
        }
        for (keys, best) in lists.iter().zip(&mut best) {
            measure(&mut best[1], || shard.get(table, Keys::List(keys), ValuesMut::F32(&mut out[..keys.len()])))?;
        }
        for (keys, best) in lists.iter().zip(&mut best) {
            measure(&mut best[2], || {
                for (update, key) in updates.iter().zip(keys) {
                    array[*key as usize] += update;
                }
                Ok(())
            })?;
        }
        for (keys, best) in lists.iter().zip(&mut best) {
            measure(&mut best[3], || shard.add(table, Keys::List(keys), Values::F32(&updates[..keys.len()])))?;
        }
        black_box((&out, &array));
    }
    let keys = lists.iter().map(Vec::len).sum::<usize>() as f64;
    let rate = |at: usize| keys / best.iter().map(|list| list[at]).sum::<f64>();
    let names = ["get_loop", "get_shard", "add_loop", "add_shard"].iter().enumerate();
    let figures: Vec<_> = names.map(|(at, name)| format!("\"{name}\": {:.0}", rate(at))).collect();
    println!("{{{}}}", figures.join(", "));
    Ok(())
}

fn measure(best: &mut f64, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    run()?;
    *best = best.min(start.elapsed().as_secs_f64());
    Ok(())
}

/// Sorted keys, by a linear congruential generator.
fn random_keys(seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut keys: Vec<u32> = (0..REQUEST)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (((state >> 32) * u64::from(KEYS)) >> 32) as u32
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
