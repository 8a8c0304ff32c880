//! A model on its way to the slaves of the next stage, whose workers have started and take rows meanwhile.
//!
//! Invariant: the stage is settled once, with the model where it was brought, or where it was before if any slave failed to
//! send its part in time; nothing is lost either way, since a slave keeps what it sent until then, and no worker uses a
//! table before.

use super::{Command, Driver, LISTED_STAGES, Phase, Running, drop_first};
use crate::job::homes::Choice;
use crate::scheduler::Why;
use flexps_common::Result;
use flexps_common::home::Transfer;
use flexps_common::ids::{SlaveId, TableId};
use flexps_common::report::{TransferReport, Way};
use flexps_common::wire::moved::{Copies, Sent};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a transfer may take at least.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Bytes a second below which a transfer has failed.
const SLOWEST: f64 = 10e6;

/// A transfer under way.
#[derive(Debug)]
pub struct Moving {
    answers: BTreeMap<SlaveId, Result<Vec<Sent>>>,
    until: Duration,
    since: Duration,
    choice: Choice,
    /// The shards with workers, rising.
    to: Vec<u32>,
}

impl Driver {
    /// The stage has its slots: launches it, and brings the model there, where that pays and none may run beside it.
    pub(super) fn place(
        &mut self,
        now: Duration,
        stage: u32,
        workers: Vec<(SlaveId, u32)>,
        why: Why,
        out: &mut Vec<Command>,
    ) {
        let alone = matches!(&self.phase, Phase::Stages(group) if group.is_alone());
        let runs = |id: &SlaveId| workers.iter().any(|(slave, _)| slave == id);
        let to: Vec<u32> = (0..).zip(&self.slaves).filter(|(_, id)| runs(id)).map(|(shard, _)| shard).collect();
        let reads = &self.program.stages[stage as usize].reads;
        let choice = match self.transfer {
            Transfer::Direct | Transfer::Messages if alone => self.homes.choose(stage, &to, reads, self.access),
            _ => Choice::staying(self.homes.now()),
        };
        if choice.moved.is_empty() && choice.copied.is_empty() {
            return self.launch(now, (stage, workers, why), None, out);
        }
        let within = AT_LEAST + Duration::from_secs_f64(choice.moving / SLOWEST);
        let copies = copies(&choice.copied, &to);
        let order = Command::Move { phase: self.phases, homes: choice.homes.clone(), copies, within };
        let moving = Moving { answers: BTreeMap::new(), until: now + within, since: now, choice, to };
        self.launch(now, (stage, workers, why), Some(Box::new(moving)), out);
        out.push(order);
    }

    fn on_its_way(&mut self) -> Option<&mut Running> {
        if let Phase::Stages(group) = &mut self.phase { group.moving() } else { None }
    }

    /// A slave has sent what a stage wants elsewhere, or could not.
    pub(super) fn sent(
        &mut self,
        now: Duration,
        (slave, phase): (SlaveId, u64),
        result: Result<Vec<Sent>>,
        out: &mut Vec<Command>,
    ) -> Result<()> {
        let slaves = self.slaves.len();
        let Some(running) = self.on_its_way().filter(|running| running.phase == phase) else { return Ok(()) };
        let Some(moving) = &mut running.moving else { return Ok(()) };
        moving.answers.insert(slave, result);
        if moving.answers.len() == slaves { self.moved(now, out) } else { Ok(()) }
    }

    /// Time went by: a model that takes too long stays where it was.
    pub(super) fn late(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        let moving = self.on_its_way().and_then(|running| running.moving.as_ref());
        if moving.is_some_and(|moving| now >= moving.until) { self.moved(now, out) } else { Ok(()) }
    }

    /// All slaves have answered, or it took too long: the stage may use the model.
    fn moved(&mut self, now: Duration, out: &mut Vec<Command>) -> Result<()> {
        let Some(running) = self.on_its_way() else { return Ok(()) };
        let (run, stage, phase) = (running.run, running.stage, running.phase);
        let Some(moving) = running.moving.take() else { return Ok(()) };
        // Of a run that stands alone: no other one knows the places of its own.
        drop_first(&mut self.transfers, LISTED_STAGES, &mut self.unlisted.transfers);
        let first = self.transfers.len();
        let failed = self.slaves.iter().find_map(|id| match moving.answers.get(id) {
            Some(Ok(_)) => None,
            Some(Err(e)) => Some(e.message.clone()),
            None => Some(format!("slave {id} ({}) did not send its part in time", self.name(*id))),
        });
        self.learn_pace(&moving);
        for copied in [false, true] {
            let report = self.report(now, stage, &moving, copied, &failed);
            self.transfers.extend(report);
        }
        let Moving { choice, to, .. } = *moving;
        let copied = if failed.is_none() { choice.copied.clone() } else { Vec::new() };
        if failed.is_none() {
            self.homes.begin(phase, choice, &to);
        }
        let copies = copies(&copied, &to);
        out.push(Command::Settle { phase, run, homes: self.homes.now().to_vec(), copies });
        let transfers = first..self.transfers.len();
        if let Phase::Stages(group) = &mut self.phase
            && let Some(running) = group.run(run)
        {
            (running.transfers, running.copied) = (transfers, copied);
        }
        self.end_stage(now, run, out)
    }

    /// Transfers that went by memory before it was known what messages would have taken have their estimates now.
    fn learn_pace(&mut self, moving: &Moving) {
        let Some(pace) = pace(moving.answers.values().flatten().flatten()) else { return };
        let known =
            |transfer: &&mut TransferReport| transfer.memory_bytes > 0 && transfer.shards_milliseconds.is_none();
        for transfer in self.transfers.iter_mut().filter(known) {
            transfer.shards_milliseconds = Some(transfer.shards_bytes as f64 * pace * 1e3);
        }
    }

    /// What the report says of the tables that moved, or of those that were copied; nothing when there are none.
    fn report(
        &self,
        now: Duration,
        stage: u32,
        moving: &Moving,
        copied: bool,
        failed: &Option<String>,
    ) -> Option<TransferReport> {
        let Moving { answers, since, choice, to, .. } = moving;
        let tables = if copied { &choice.copied } else { &choice.moved };
        let first = *tables.first()?;
        let sent: Vec<&Sent> = answers.values().flatten().flatten().filter(|sent| sent.copies == copied).collect();
        let sum = |of: fn(&Sent) -> u64| sent.iter().map(|sent| of(sent)).sum::<u64>();
        let (bytes, chunks, kept) = (sum(|s| s.bytes + s.forwarded), sum(|s| s.chunks), sum(|s| s.kept));
        let (raw_bytes, memory_bytes) = (sum(|s| s.raw), sum(|s| s.memory));
        let seconds = now.saturating_sub(*since).as_secs_f64();
        let from = self.homes.living(tables);
        let to = if copied { to.clone() } else { choice.homes[first].members(self.slaves.len()) };
        let way = match (failed, bytes, from.len(), to.len()) {
            (Some(_), ..) => Way::Stayed,
            (_, 0, ..) => Way::Kept,
            _ if copied => Way::Broadcast,
            (.., 1) => Way::Gather,
            (_, _, 1, _) => Way::Scatter,
            _ => Way::Exchange,
        };
        // Updates and reads over the shards go in messages.
        let pace = match raw_bytes {
            0 => None,
            _ if memory_bytes > 0 => pace(sent.iter().copied()),
            _ => Some(seconds / raw_bytes as f64),
        };
        let names = |shards: &[u32]| shards.iter().map(|s| self.name(self.slaves[*s as usize]).to_owned()).collect();
        Some(TransferReport {
            stage: self.stage_name(stage).to_owned(),
            epoch: self.progress.epoch + 1,
            tables: tables.iter().map(|table| self.tables[*table].clone()).collect(),
            from: names(&from),
            to: names(&to),
            way,
            bytes,
            raw_bytes,
            memory_bytes,
            chunks,
            kept,
            milliseconds: seconds * 1e3,
            waited_milliseconds: 0.0,
            expected_bytes: choice.busiest[0] as u64,
            shards_bytes: choice.busiest[1] as u64,
            shards_milliseconds: pace.map(|pace| choice.busiest[1] * pace * 1e3),
            failed: failed.clone(),
        })
    }
}

/// What messages take for a byte between the slowest of these slaves of which that is known.
fn pace<'a>(sent: impl Iterator<Item = &'a Sent>) -> Option<f64> {
    sent.filter_map(|sent| sent.pace).reduce(f64::max)
}

fn copies(tables: &[usize], to: &[u32]) -> Copies {
    let to = if tables.is_empty() { Vec::new() } else { to.to_vec() };
    Copies { tables: tables.iter().map(|table| TableId(*table as u16)).collect(), to }
}
