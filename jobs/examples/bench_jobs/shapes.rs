//! `shapes`: a stage that repeats and takes its time in one of five ways, to see which threads `auto` finds for it.
//!
//! All workers of a run share the work, so its time on p threads is T(p) of the shape. `compute` divides arithmetic;
//! `locks` does half of it under one lock; `memory` streams over more than the caches hold; `communication` adds a whole table
//! for each worker, beside little arithmetic; `tiny` has next to nothing to divide.

use flexps_common::error::{Error, Result};
use flexps_common::job::Job;
use flexps_common::plan::{Plan, Table};
use flexps_common::worker::Worker;
use flexps_jobs::workers::Workers;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a unit of arithmetic takes: some 10 us.
const UNIT: u32 = 10_000;
/// Values that `memory` streams over: 128 MiB.
const STREAMED: usize = 1 << 24;
/// Values of the table of `communication`: 2 MiB.
const SENT: u32 = 1 << 19;

/// Runs of a stage of a shape.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct Shapes {
    /// compute, locks, memory, communication or tiny
    #[arg(long, default_value = "compute")]
    shape: String,
    /// Its threads
    #[arg(long, default_value = "auto", value_name = "N|auto|offline")]
    threads: Workers,
    /// Its runs
    #[arg(long, default_value_t = 200)]
    rounds: u64,
}

/// A shape, with what its workers share on a slave.
#[derive(Clone)]
enum Shape {
    Compute,
    Locks(Arc<Mutex<f64>>),
    Memory(Arc<OnceLock<Vec<f64>>>),
    Communication(Table<f32>),
    Tiny,
}

impl Job for Shapes {
    const NAME: &'static str = "shapes";
    const ABOUT: &'static str = "Repeats a stage whose time depends on its threads in one of five ways";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let shape = match self.shape.as_str() {
            "compute" => Shape::Compute,
            "locks" => Shape::Locks(Arc::default()),
            "memory" => Shape::Memory(Arc::default()),
            "communication" => Shape::Communication(plan.table("sent", 1)),
            "tiny" => Shape::Tiny,
            other => {
                let known = "compute, locks, memory, communication or tiny";
                return Err(Error::user(format!("'{other}' is no shape; give {known}")));
            }
        };
        plan.body.repeat(self.rounds, |round| {
            round.stage(&self.shape, move |worker| shape.run(worker)).threads(self.threads.threads());
        });
        Ok(())
    }
}

impl Shape {
    fn run(&self, worker: &mut Worker<'_>) -> Result<()> {
        match self {
            Self::Compute => own(worker, 4000).for_each(arithmetic),
            Self::Tiny => own(worker, 8).for_each(arithmetic),
            Self::Locks(lock) => own(worker, 2000).for_each(|unit| {
                arithmetic(unit);
                let mut held = lock.lock().unwrap_or_else(PoisonError::into_inner);
                arithmetic(unit);
                *held += 1.0;
            }),
            Self::Memory(values) => {
                let values = values.get_or_init(|| vec![1.0; STREAMED]);
                let range = own(worker, STREAMED as u32);
                black_box(values[range.start as usize..range.end as usize].iter().sum::<f64>());
            }
            Self::Communication(table) => {
                own(worker, 400).for_each(arithmetic);
                worker.add_range(*table, 0..SENT, &vec![1.0; SENT as usize])?;
            }
        }
        Ok(())
    }
}

/// This worker's share of so many units.
fn own(worker: &Worker<'_>, units: u32) -> std::ops::Range<u32> {
    let at = |index: usize| (u64::from(units) * index as u64 / worker.place.threads as u64) as u32;
    at(worker.place.index)..at(worker.place.index + 1)
}

fn arithmetic(unit: u32) {
    let mut x = f64::from(unit);
    (0..UNIT).for_each(|_| x = x.mul_add(0.999, 1.0));
    black_box(x);
}
