//! A stage run's workers, from launch to outcome.
//!
//! Invariant: whatever a worker does (return, fail, panic), it ends in its slot of the result, and the last one reports
//! for all, in worker order.

use super::backend::{Counters, Engine};
use super::cache::Cache;
use super::filter;
use super::pool::{Pool, Task};
use super::run::Run;
use super::sums::Sums;
use crate::job::OpenJob;
use crate::memory;
use flexps_common::caught;
use flexps_common::error::{Error, Fault, Result};
use flexps_common::ids::TableId;
use flexps_common::metrics::Metrics;
use flexps_common::plan::StageSpec;
use flexps_common::report::{FilterUse, PackUse};
use flexps_common::tail::Tail;
use flexps_common::wire::control::{Launch, Outcome, TableUse};
use flexps_common::worker::{Place, Worker};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Done = Box<dyn FnOnce(Outcome) + Send>;

/// What the workers of one stage run on one slave share.
struct Crew {
    job: Arc<OpenJob>,
    run: Arc<Run>,
    spec: StageSpec,
    scalars: Arc<BTreeMap<String, f64>>,
    log: Tail,
    state: Mutex<State>,
}

struct State {
    results: Vec<Option<Part>>,
    left: usize,
    done: Option<Done>,
}

/// How one worker's run went; its error, if any, is the run's.
struct Part {
    metrics: Metrics,
    elapsed: Duration,
    counters: Counters,
    filter: FilterUse,
    uses: Vec<TableUse>,
    failed: bool,
}

/// Starts this slave's workers of a stage run; `done` gets the outcome when the last one has ended. A slave without
/// workers takes part with its shard alone. The outcome has the lines of `log` when one of these workers failed, and not
/// another slave's.
pub fn launch(
    job: &Arc<OpenJob>,
    pool: &Pool,
    launch: Launch,
    log: Tail,
    done: impl FnOnce(Outcome) + Send + 'static,
) -> Result<()> {
    let run = job.begin(&launch)?;
    let threads = launch.workers.iter().map(|(_, n)| *n as usize).sum();
    let mut first = 0;
    let mut places = Vec::new();
    for (slave, workers) in &launch.workers {
        let workers = *workers as usize;
        if *slave == job.you() {
            places.extend((0..workers).map(|local_index| Place {
                index: first + local_index,
                threads,
                local_index,
                local_threads: workers,
                slaves: launch.workers.len(),
                epoch: launch.epoch,
            }));
        }
        first += workers;
    }
    if places.is_empty() {
        return Ok(());
    }
    let results = places.iter().map(|_| None).collect();
    let crew = Arc::new(Crew {
        job: job.clone(),
        run: run.clone(),
        spec: job.stage(launch.stage)?.clone(),
        scalars: Arc::new(launch.scalars),
        log,
        state: Mutex::new(State { results, left: places.len(), done: Some(Box::new(done)) }),
    });
    let task = |place: Place| -> Task {
        let crew = crew.clone();
        Box::new(move || crew.work(place))
    };
    pool.run(places.into_iter().map(task)).inspect_err(|e| run.cancel(e.clone()))
}

impl Crew {
    fn work(&self, place: Place) {
        let start = Instant::now();
        let filter = filter::of(self.spec.filter, &self.job.shard);
        let mut engine = Engine::new(self.job.clone(), self.run.clone(), place.clone(), self.scalars.clone(), filter);
        let mut metrics = Metrics::default();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut worker = Worker::new(place.clone(), &mut engine);
            let result = self.run.check().and_then(|()| (self.spec.run)(&mut worker));
            metrics = worker.metrics;
            result?;
            engine.end()
        }));
        let result = result.unwrap_or_else(|panic| Err(Error::bug(format!("panicked: {}", caught::text(&*panic)))));
        let result = result.map_err(Error::brief);
        let failed = result.as_ref().is_err_and(|e| e.fault != Fault::Cancelled);
        if let Err(e) = result {
            tracing::info!(job = %self.job.id, stage = self.spec.name, worker = place.index, error = %e, "a worker failed");
            self.run.cancel(e.context(self.name(&place)));
        }
        self.run.siblings.end(None);
        let filter = engine.filter.as_ref().map(|filter| filter.used()).unwrap_or_default();
        let Engine { counters, uses, .. } = engine;
        let part = Part { metrics, elapsed: start.elapsed(), counters, filter, uses, failed };
        self.report(place.local_index, part);
    }

    fn name(&self, place: &Place) -> String {
        let (job, here) = (&self.job.name, self.job.here());
        format!("{job} epoch {} stage {} worker {} on {here}", place.epoch + 1, self.spec.name, place.index)
    }

    fn report(&self, worker: usize, part: Part) {
        let (results, done) = {
            let mut state = self.state.lock();
            state.results[worker] = Some(part);
            state.left -= 1;
            if state.left > 0 {
                return;
            }
            (std::mem::take(&mut state.results), state.done.take())
        };
        let mut outcome = Outcome {
            error: self.run.error(),
            metrics: Metrics::default(),
            worker_seconds: 0.0,
            wait_seconds: 0.0,
            model_wait_seconds: 0.0,
            bytes_sent: 0,
            bytes_received: 0,
            rows: 0,
            pace: self.run.pace(),
            raced: self.run.settled.races(),
            tables: self.held(),
            model_disk: self.job.shard.take_disk_use(),
            cache: self.run.cache().map(Cache::used).unwrap_or_default(),
            sums: self.run.sums().map(Sums::used).unwrap_or_default(),
            filter: FilterUse::default(),
            packed: PackUse::default(),
            log: Vec::new(),
            peak_memory_bytes: memory::peak(),
        };
        if results.iter().flatten().any(|part| part.failed) {
            outcome.log = self.log.lines();
        }
        for part in results.into_iter().flatten() {
            outcome.metrics.merge(&part.metrics);
            outcome.worker_seconds += part.elapsed.as_secs_f64();
            outcome.wait_seconds += part.counters.waited.as_secs_f64();
            let model_waited = part.counters.model_waited.as_secs_f64();
            outcome.model_wait_seconds = outcome.model_wait_seconds.max(model_waited);
            outcome.bytes_sent += part.counters.sent;
            outcome.bytes_received += part.counters.received;
            outcome.rows += part.counters.rows;
            outcome.filter.merge(&part.filter);
            outcome.packed.merge(&part.counters.packed);
            outcome.pace.worker_waits.push(part.counters.waited.as_secs_f64());
            outcome.pace.worker_slept.push(part.counters.slept.as_secs_f64());
            for (sum, used) in outcome.tables.iter_mut().zip(part.uses) {
                sum.read_bytes += used.read_bytes;
                sum.written_bytes += used.written_bytes;
            }
        }
        if let Some(done) = done {
            done(outcome);
        }
    }

    /// What this slave serves of each table.
    fn held(&self) -> Vec<TableUse> {
        let tables = (0..self.job.shard.specs().len() as u16).map(TableId);
        // With one slave nothing ever moves, and nobody asks.
        let moves = self.job.slaves() > 1;
        let held = |table| if moves { self.job.shard.bytes(table).unwrap_or(0) } else { 0 };
        tables.map(|table| TableUse { held_bytes: held(table), ..TableUse::default() }).collect()
    }
}
