//! A model on its way to the slaves of the next stage, whose workers have started and take rows meanwhile.
//!
//! Invariant: the stage is settled once, with the model where it was brought, or where it was before if any slave failed to
//! send its part in time; nothing is lost either way, since a slave keeps what it sent until then, and no worker uses a
//! table before.

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
    pub(super) answers: BTreeMap<SlaveId, Result<Vec<Sent>>>,
    pub(super) until: Duration,
    since: Duration,
    choice: Choice,
}

impl Driver {
    /// The stage has its slots: launches it, and brings the model there, where that pays.
    pub(super) fn place(&mut self, now: Duration, stage: u32, workers: Vec<(SlaveId, u32)>, out: &mut Vec<Command>) {
        self.phases += 1;
        let choice = self.choose(stage, &workers);
        if choice.moved.is_empty() {
            return self.launch(now, stage, workers, None, out);
        }
        let within = AT_LEAST + Duration::from_secs_f64(choice.moving / SLOWEST);
        let order = Command::Move { phase: self.phases, homes: choice.homes.clone(), within };
        let moving = Moving { answers: BTreeMap::new(), until: now + within, since: now, choice };
        self.launch(now, stage, workers, Some(Box::new(moving)), out);
        out.push(order);
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

    /// All slaves have answered, or it took too long: the stage may use the model.
    pub(super) fn moved(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        let Phase::Running { run, stage, phase, moving, transfer, .. } = &mut self.phase else { return Ok(()) };
        let (run, stage, phase) = (*run, *stage, *phase);
        let Some(moving) = moving.take() else { return Ok(()) };
        if self.transfers.len() < LISTED_STAGES {
            *transfer = Some(self.transfers.len());
        }
        let Moving { answers, since, choice, .. } = *moving;
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
            waited_milliseconds: 0.0,
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
        out.push(Command::Settle { phase, run, homes: self.homes.now().to_vec() });
        self.end_stage(now, out)
    }
}
