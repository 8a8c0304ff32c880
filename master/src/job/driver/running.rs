//! One run of a stage that is under way, and what it leaves.
//!
//! Invariant: metrics merge in shard order and paces in worker order, whoever ended first.

use super::{Driver, LISTED_STAGES, Moving, drop_first};
use crate::scheduler::Why;
use flexps_common::Result;
use flexps_common::ids::{SlaveId, StageRun};
use flexps_common::metrics::Metrics;
use flexps_common::report::{Access, StageReport};
use flexps_common::wire::control::Outcome;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Running {
    pub(super) run: StageRun,
    pub(super) stage: u32,
    /// The phase that began with it, or with one beside it.
    pub(super) phase: u64,
    pub(super) since: Duration,
    /// What decided where it runs.
    pub(super) placed: Why,
    pub(super) workers: Vec<(SlaveId, u32)>,
    pub(super) done: BTreeMap<SlaveId, Outcome>,
    /// The model is on its way to it: it goes on to its end when that is over.
    pub(super) moving: Option<Box<Moving>>,
    /// The transfers to it, among those reported.
    pub(super) transfers: Range<usize>,
    /// Of which tables its slaves have copies.
    pub(super) copied: Vec<usize>,
}

impl Running {
    /// Its threads.
    pub fn threads(&self) -> u32 {
        self.workers.iter().map(|(_, n)| n).sum()
    }

    /// Whether all workers have ended, and no model is on its way to them.
    pub(super) fn has_ended(&self) -> bool {
        self.moving.is_none() && self.done.len() == self.workers.len()
    }
}

impl Driver {
    /// A run has ended: what it measured counts, and its report is kept. An error when its metrics don't merge.
    pub(super) fn stage_ended(&mut self, now: Duration, ended: Running) -> Result<()> {
        let threads = ended.threads();
        let Running { stage, phase, since, placed, workers, done, transfers, copied, .. } = ended;
        let name = self.program.stages[stage as usize].name.clone();
        let mut metrics = Metrics::default();
        let mut report = StageReport {
            name: name.clone(),
            epoch: self.progress.epoch + 1,
            threads,
            slaves: workers.iter().map(|(id, _)| self.name(*id).to_owned()).collect(),
            placed: placed.to_string(),
            start: since.as_secs_f64(),
            seconds: now.saturating_sub(since).as_secs_f64(),
            ..StageReport::default()
        };
        for outcome in workers.iter().filter_map(|(id, _)| done.get(id)) {
            report.pace.merge(&outcome.pace);
        }
        for outcome in self.slaves.iter().filter_map(|id| done.get(id)) {
            metrics.merge(&outcome.metrics);
            report.worker_seconds += outcome.worker_seconds;
            report.wait_seconds += outcome.wait_seconds;
            report.bytes_sent += outcome.bytes_sent;
            report.bytes_received += outcome.bytes_received;
            report.rows += outcome.rows;
            report.model_disk.merge(&outcome.model_disk);
            report.cache.merge(&outcome.cache);
            report.sums.merge(&outcome.sums);
            report.filter.merge(&outcome.filter);
            report.packed.merge(&outcome.packed);
        }
        let waited = done.values().map(|outcome| outcome.model_wait_seconds).fold(0.0, f64::max);
        self.transfers[transfers].iter_mut().for_each(|transfer| transfer.waited_milliseconds = waited * 1e3);
        let by_shard = (0..).zip(&self.slaves).filter_map(|(shard, id)| Some((shard, done.get(id)?)));
        self.homes.ended(stage, phase, by_shard);
        report.model = self.homes.access(stage, threads);
        if !copied.is_empty() {
            let names: Vec<&str> = copied.iter().map(|table| self.tables[*table].as_str()).collect();
            report.model.why.push_str(&format!("; a copy of {} beside each", names.join(", ")));
        }
        if done.values().any(|outcome| outcome.raced) {
            report.model.access = Access::Racing;
        }
        if self.access == Some(report.model.access) {
            report.model.why += "; --model-access asks for it";
        }
        // While rows are being read a run takes as long as they do.
        self.tuners.ran(stage, threads, report.seconds, !self.reading());
        let checked = metrics.check().map_err(|e| e.context(format_args!("stage {name}")));
        self.progress.metrics.insert(name, metrics);
        drop_first(&mut self.stages, LISTED_STAGES, &mut self.unlisted.stages);
        self.stages.push(report);
        checked
    }
}
