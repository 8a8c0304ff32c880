//! The stage that puts the weights of a problem into the model, and the one that takes them from there where another solver has
//! begun.
//!
//! Invariant: a weight of the model is the number nearest to that of the problem that its table can hold.

use super::occurring::occurring;
use super::screen::ranges;
use crate::parts::Rows;
use flexps_common::Result;
use flexps_common::data::block::KeyMap;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// The stage function before the first problem of a job that starts from a model: reports its intercept as `bias`.
pub fn read_bias(worker: &mut Worker<'_>, bias: Table<f32>) -> Result<()> {
    let mut value = Vec::new();
    worker.get(bias, &[0], &mut value)?;
    worker.report("bias", Metric::Max(f64::from(value[0])));
    Ok(())
}

/// The stage function behind a problem: copies the point to where its class belongs in the model, if it is kept. Where
/// `rows` are given, only their features have a weight. Reports `weights_off2` and `bias_off2`, the squares of what is lost.
pub fn keep(
    worker: &mut Worker<'_>,
    rows: Option<Rows>,
    point: Table<f64>,
    weights: Table<f32>,
    bias: Option<Table<f32>>,
) -> Result<()> {
    if worker.scalar("keep", 0.0) == 0.0 {
        return Ok(());
    }
    let class = worker.scalar("class", -1.0).max(0.0) as u32;
    let first = class * worker.scalar("features", 0.0) as u32;
    let (mut now, mut old) = (Vec::new(), Vec::new());
    let mut off2 = 0.0;
    // Differences of what the table can hold, so that it ends with the nearest number to each weight.
    let mut differ = |old: &mut [f32], now: &[f64]| {
        for (old, now) in old.iter_mut().zip(now) {
            off2 += off(*now).powi(2);
            *old = *now as f32 - *old;
        }
    };
    let occurring = rows.map_or(Ok(None), |rows| occurring(worker, rows))?;
    match occurring.as_deref() {
        Some(KeyMap::Sorted(keys)) => {
            let own = &keys[worker.place.share(keys.len())];
            let to: Vec<Key> = own.iter().map(|key| first + key).collect();
            worker.get(point, own, &mut now)?;
            worker.get(weights, &to, &mut old)?;
            differ(&mut old, &now);
            let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != 0.0).collect();
            let (to, by): (Vec<Key>, Vec<f32>) = changed.into_iter().map(|at| (to[at], old[at])).unzip();
            worker.add(weights, &to, &by)?;
        }
        _ => ranges(worker, |worker, keys| {
            let to = first + keys.start..first + keys.end;
            worker.get_range(point, keys, &mut now)?;
            worker.get_range(weights, to.clone(), &mut old)?;
            differ(&mut old, &now);
            worker.add_range(weights, to, &old)
        })?,
    }
    let bias = bias.filter(|_| worker.place.index == 0);
    let value = worker.scalar("bias", 0.0);
    worker.report("weights_off2", Metric::Sum(off2));
    worker.report("bias_off2", Metric::Sum(if bias.is_some() { off(value).powi(2) } else { 0.0 }));
    let Some(bias) = bias else { return Ok(()) };
    worker.get(bias, &[class], &mut old)?;
    worker.add(bias, &[class], &[value as f32 - old[0]])
}

/// What the model's number is off a weight.
fn off(weight: f64) -> f64 {
    f64::from(weight as f32) - weight
}

/// The stage function before a problem whose class the model has weights of: adds them to the point, which is zero. Reports `bias`.
pub fn resume(worker: &mut Worker<'_>, point: Table<f64>, weights: Table<f32>, bias: Option<Table<f32>>) -> Result<()> {
    let class = worker.scalar("class", -1.0).max(0.0) as u32;
    let first = class * worker.scalar("features", 0.0) as u32;
    let mut now = Vec::new();
    ranges(worker, |worker, keys| {
        worker.get_range(weights, first + keys.start..first + keys.end, &mut now)?;
        let wide: Vec<f64> = now.iter().map(|weight| f64::from(*weight)).collect();
        worker.add_range(point, keys, &wide)
    })?;
    let Some(bias) = bias else { return Ok(()) };
    worker.get(bias, &[class], &mut now)?;
    worker.report("bias", Metric::Max(f64::from(now[0])));
    Ok(())
}
