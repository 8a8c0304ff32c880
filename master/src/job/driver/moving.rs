//! A model on its way to the slaves of the next stage.
//!
//! Invariant: the stage is launched once, with the model where it was brought, or where it was before if any slave failed to
//! send its part in time; nothing is lost either way, since a slave keeps what it sent until the launch.

use super::{Command, Driver, LISTED_STAGES, Phase};
use crate::job::homes::Choice;
use flexps_common::Result;
use flexps_common::home::Transfer;
use flexps_common::ids::SlaveId;
use flexps_common::report::{TransferReport, Way};
use flexps_common::wire::moved::Sent;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a transfer may take at least.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Bytes a second below which a transfer has failed.
const SLOWEST: f64 = 10e6;

/// A transfer under way.
#[derive(Debug)]
pub struct Moving {
    pub(super) stage: u32,
    pub(super) phase: u64,
    pub(super) answers: BTreeMap<SlaveId, Result<Vec<Sent>>>,
    pub(super) until: Duration,
    since: Duration,
    workers: Vec<(SlaveId, u32)>,
    choice: Choice,
}

impl Driver {
    /// The stage has its slots: brings the model there, where that pays, and launches it.
    pub(super) fn place(&mut self, now: Duration, stage: u32, workers: Vec<(SlaveId, u32)>, out: &mut Vec<Command>) {
        self.phases += 1;
        let choice = self.choose(stage, &workers);
        if choice.moved.is_empty() {
            return self.launch(now, stage, workers, out);
        }
        let within = AT_LEAST + Duration::from_secs_f64(choice.moving / SLOWEST);
        out.push(Command::Move { phase: self.phases, homes: choice.homes.clone(), within });
        let (phase, until) = (self.phases, now + within);
        let answers = BTreeMap::new();
        self.phase = Phase::Moving(Moving { stage, phase, answers, until, since: now, workers, choice });
    }

    fn choose(&self, stage: u32, workers: &[(SlaveId, u32)]) -> Choice {
        let runs = |id: &SlaveId| workers.iter().any(|(slave, _)| slave == id);
        let shards = (0..).zip(&self.slaves).filter(|(_, id)| runs(id));
        let shards: Vec<u32> = shards.map(|(shard, _)| shard).collect();
        match self.transfer {
            Transfer::Direct => self.homes.choose(stage, &shards, self.access),
            Transfer::Kv => Choice { homes: self.homes.now().to_vec(), moved: vec![], busiest: [0.0; 2], moving: 0.0 },
        }
    }

    /// All slaves have answered, or it took too long: launches the stage.
    pub(super) fn moved(&mut self, now: Duration, out: &mut Vec<Command>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Opening);
        let Phase::Moving(Moving { stage, phase, answers, since, workers, choice, .. }) = phase else { return };
        let failed = self.slaves.iter().find_map(|id| match answers.get(id) {
            Some(Ok(_)) => None,
            Some(Err(e)) => Some(e.message.clone()),
            None => Some(format!("slave {id} ({}) did not send its part in time", self.name(*id))),
        });
        let sent: Vec<Sent> = answers.into_values().flatten().flatten().collect();
        let sum = |of: fn(&Sent) -> u64| sent.iter().map(of).sum::<u64>();
        let (bytes, chunks, kept) = (sum(|s| s.bytes), sum(|s| s.chunks), sum(|s| s.kept));
        let seconds = now.saturating_sub(since).as_secs_f64();
        let (from, to) = (self.homes.living(&choice.moved), &choice.homes[choice.moved[0]]);
        let to = to.members(self.slaves.len());
        let way = match (&failed, bytes, from.len(), to.len()) {
            (Some(_), ..) => Way::Stayed,
            (_, 0, ..) => Way::Kept,
            (.., 1) => Way::Gather,
            (_, _, 1, _) => Way::Scatter,
            _ => Way::Exchange,
        };
        let names = |shards: &[u32]| shards.iter().map(|s| self.name(self.slaves[*s as usize]).to_owned()).collect();
        let report = TransferReport {
            stage: self.stage_name(stage).to_owned(),
            epoch: self.progress.epoch + 1,
            tables: choice.moved.iter().map(|table| self.tables[*table].clone()).collect(),
            from: names(&from),
            to: names(&to),
            way,
            bytes,
            chunks,
            kept,
            milliseconds: seconds * 1e3,
            expected_bytes: choice.busiest[0] as u64,
            shards_bytes: choice.busiest[1] as u64,
            shards_milliseconds: (bytes > 0).then(|| choice.busiest[1] / bytes as f64 * seconds * 1e3),
            failed,
        };
        if report.failed.is_none() {
            self.homes.begin(phase, choice.homes);
        }
        if self.transfers.len() < LISTED_STAGES {
            self.transfers.push(report);
        }
        self.launch(now, stage, workers, out);
    }
}
