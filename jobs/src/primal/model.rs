//! The stage that puts the weights of a problem into the model, and the one that takes them from there where another solver or job
//! has begun.
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
use flexps_common::value::Element;
use flexps_common::worker::Worker;

/// The stage function behind a problem: copies the point to where its class belongs in the model, if it is kept. Only features
/// that `rows` have have a weight. Reports `weights_off2` and `bias_off2`, the squares of what is lost.
pub fn keep(
    worker: &mut Worker<'_>,
    rows: Rows,
    point: Table<f64>,
    weights: Table<f32>,
    bias: Option<Table<f32>>,
) -> Result<()> {
    if worker.scalar("keep", 0.0) == 0.0 {
        return Ok(());
    }
    let class = worker.scalar("class", -1.0).max(0.0) as u32;
    let to = To { table: weights, first: class * worker.scalar("features", 0.0) as u32, rows };
    let bias = bias.filter(|_| worker.place.index == 0);
    let mut old = Vec::new();
    to.add(worker, weights, to.first, |old: &[f32]| old.iter().map(|weight| -weight).collect())?;
    if let Some(bias) = bias {
        worker.get(bias, &[class], &mut old)?;
        worker.add(bias, &[class], &[-old[0]])?;
    }
    // With what was there taken away before: a difference added at once would be rounded, and the sum with it again.
    worker.clock()?;
    let mut off2 = 0.0;
    to.add(worker, point, 0, |now: &[f64]| {
        off2 += now.iter().map(|weight| off(*weight).powi(2)).sum::<f64>();
        now.iter().map(|weight| *weight as f32).collect()
    })?;
    let value = worker.scalar("bias", 0.0);
    worker.report("weights_off2", Metric::Sum(off2));
    worker.report("bias_off2", Metric::Sum(if bias.is_some() { off(value).powi(2) } else { 0.0 }));
    bias.map_or(Ok(()), |bias| worker.add(bias, &[class], &[value as f32]))
}

/// Where the weights of a class are in the model.
struct To {
    table: Table<f32>,
    /// That of its first feature.
    first: Key,
    rows: Rows,
}

impl To {
    /// Adds to this worker's part of them what `made` makes of what `from` has, whose first feature's is at the key `first`.
    fn add<T: Element>(
        &self,
        worker: &mut Worker<'_>,
        from: Table<T>,
        first: Key,
        mut made: impl FnMut(&[T]) -> Vec<f32>,
    ) -> Result<()> {
        let mut held = Vec::new();
        match occurring(worker, self.rows)?.as_deref() {
            Some(KeyMap::Sorted(keys)) => {
                let own = &keys[worker.place.share(keys.len())];
                let behind = |first: Key| own.iter().map(|key| first + key).collect::<Vec<Key>>();
                worker.get(from, &behind(first), &mut held)?;
                let changed = behind(self.first).into_iter().zip(made(&held)).filter(|(_, by)| *by != 0.0);
                let (to, by): (Vec<Key>, Vec<f32>) = changed.unzip();
                worker.add(self.table, &to, &by)
            }
            _ => ranges(worker, |worker, keys| {
                worker.get_range(from, first + keys.start..first + keys.end, &mut held)?;
                let by = made(&held);
                if by.iter().any(|by| *by != 0.0) {
                    worker.add_range(self.table, self.first + keys.start..self.first + keys.end, &by)?;
                }
                Ok(())
            }),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use flexps_common::data::InputSpec;
    use flexps_common::host::Host;
    use flexps_common::plan::{Plan, Threads};

    #[test]
    fn a_weight_ends_as_the_nearest_number_whatever_was_there() {
        for (slaves, slots, apart) in [(1, 1, 1), (1, 2, 50), (2, 2, 50)] {
            let mut blocks = fixtures::Rows { features: 20, ..fixtures::Rows::sparse(5) }.blocks(4);
            blocks.iter_mut().flat_map(|block| &mut block.indices).for_each(|key| *key *= apart);
            let features = 19 * apart + 1;
            let mut plan = Plan::default();
            let spec = InputSpec::new("input", vec![fixtures::path("rows")]);
            let rows = Rows { input: plan.input(spec).unwrap(), memory: 1 << 20, drawn: false };
            let point: Table<f64> = plan.table("point", 1);
            let (weights, bias): (Table<f32>, Table<f32>) = (plan.table("weights", 1), plan.table("bias", 1));
            let scalars = [("features", f64::from(features)), ("keep", 1.0), ("bias", 0.3)];
            plan.scalars.extend(scalars.map(|(name, value)| (name.to_owned(), value)));
            plan.body.load(weights, &fixtures::path("m"), "weights", rows.input);
            plan.body.load(bias, &fixtures::path("m"), "bias", rows.input);
            let set =
                move |worker: &mut Worker<'_>| worker.add_range(point, 0..features, &vec![0.3; features as usize]);
            plan.body.stage("set", set).threads(Threads::Count(1));
            plan.body.stage("keep", move |worker| keep(worker, rows, point, weights, Some(bias))).input(rows.input);
            let host = Host::cluster(slaves, slots).rows(blocks);
            let host = host.tensor("m", "weights", vec![1e8; features as usize]).tensor("m", "bias", vec![-1e8]);
            let outcome = host.run(&plan).unwrap();
            let kept: Vec<f64> = outcome.table("weights", 0..features).into_iter().step_by(apart as usize).collect();
            assert_eq!(kept, [f64::from(0.3f32); 20], "{apart} apart on {slaves}");
            assert_eq!(outcome.table("bias", 0..1), [f64::from(0.3f32)]);
        }
    }
}
