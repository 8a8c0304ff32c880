//! Starting from a saved model: its weights go to where the job's own model has them, from which each class takes its part
//! ([`super::model::resume`]).
//!
//! Invariant: of a feature that no row has no weight is taken. At the optimum it has none, and as it bends no row's loss no step
//! leads there, while the penalty on it keeps every certificate away.

use super::gradient::block;
use super::problems::{BEGUN, Problems};
use super::screen::ranges;
use crate::parts::{Parts, Rows};
use crate::vector::Vector;
use flexps_common::Result;
use flexps_common::data::schema::DataPath;
use flexps_common::ids::Key;
use flexps_common::plan::{Steps, Table, Threads};
use flexps_common::worker::Worker;

/// What the stages need of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Adopt {
    /// The rows.
    pub rows: Rows,
    /// Where the weights of all classes go.
    pub model: Vector,
    /// For the features that rows have; zero at the start.
    pub held: Table<f32>,
}

impl Adopt {
    /// Plans the start from the model in the folder `from`, where no other solver has begun. The scalar `features` must be set.
    pub fn plan(self, steps: &mut Steps, from: &DataPath, threads: Threads, problems: Problems) {
        steps.when(BEGUN, 0.0, |steps| {
            self.model.load(steps, from, self.rows.input);
            steps.stage("held", move |worker| self.mark(worker)).threads(threads).input(self.rows.input);
            steps.decide(move |progress| problems.adopt(progress));
            steps.stage("adopt", move |worker| self.drop_others(worker)).threads(threads);
            steps.zero(self.held);
        });
    }

    /// The stage function over rows: leaves something for each feature that has a value other than 0.
    fn mark(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (mut parts, mut marks) = (Parts::new(worker, self.rows)?, Vec::new());
        while let Some(part) = parts.next(worker)? {
            marks.clear();
            marks.resize(part.map.len(), 0.0f32);
            for at in 0..part.blocks() {
                let block = block(worker, &part, at)?;
                for (at, index) in block.indices.iter().enumerate() {
                    if block.values.as_ref().is_none_or(|values| values[at] != 0.0) {
                        marks[*index as usize] = 1.0;
                    }
                }
            }
            worker.add_mapped(self.held, &part.map, &marks)?;
            if !part.is_all() {
                // So that the shards need not keep the marks of all parts.
                worker.clock()?;
            }
        }
        Ok(())
    }

    /// The stage function over features: takes the weights of those away for which nothing was left.
    fn drop_others(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (features, classes) = (worker.scalar("features", 0.0) as Key, worker.scalar(BEGUN, 1.0) as Key);
        let (mut held, mut weights) = (Vec::new(), Vec::new());
        ranges(worker, |worker, keys| {
            worker.get_range(self.held, keys.clone(), &mut held)?;
            for first in (0..classes).map(|class| class * features) {
                let own = first + keys.start..first + keys.end;
                worker.get_range(self.model.features, own.clone(), &mut weights)?;
                let gone = |(weight, held): (&f32, &f32)| if *held > 0.0 { 0.0 } else { -weight };
                let gone: Vec<f32> = weights.iter().zip(&held).map(gone).collect();
                if gone.iter().any(|by| *by != 0.0) {
                    worker.add_range(self.model.features, own, &gone)?;
                }
            }
            Ok(())
        })
    }
}
