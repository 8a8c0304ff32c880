//! Carries out what a job's driver orders, and tells it what came of it.

use super::Master;
use super::books::Launched;
use crate::assigner::{Cut, Next};
use crate::checkpoint::Column;
use crate::event::{Asked, Event};
use crate::history::Record;
use crate::job::driver::{Command, Event as Step, Place};
use crate::job::{Job, Phase, Started, Turn, admission};
use crate::prepare::Prepared;
use crate::transfer::{Shards, Tensor};
use crate::tune::searches;
use flexps_common::error::Fault;
use flexps_common::ids::{InputId, JobId, SlaveId, TableId};
use flexps_common::model::{Description, created_by};
use flexps_common::plan::{ColumnSpec, SaveSpec, Threads};
use flexps_common::report::State;
use flexps_common::wire::control::{FromMaster, FromSlave, Outcome, ReadDone, ToSlave};
use flexps_common::wire::moved::MoveId;
use flexps_common::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a slave may take to take an order that it carries out later.
pub(super) const ORDER_WITHIN: Duration = Duration::from_secs(10);
/// Milliseconds in which a slave has mostly given away a part of what it reads.
const GIVEN_WITHIN: u64 = 2;
/// How long it may take to change whole tables, and so many more bytes of a job's a second longer: they may lie on disk.
const OPS_WITHIN: Duration = Duration::from_secs(60);
const OPS_A_SECOND: u64 = 16 << 20;
/// Jobs that have ended and are still listed.
pub(super) const KEPT_JOBS: usize = 200;
/// Of which so many with all their stage runs.
const KEPT_WHOLE: usize = 20;
/// Stage runs that the others keep.
const KEPT_STAGES: usize = 100;

impl Master {
    /// Gives a job's driver an event and carries out its commands.
    pub(super) fn step(&mut self, id: JobId, event: Step, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(started) = job.started() else { return };
        let commands = started.driver.step(now, event);
        if commands.is_empty() {
            return;
        }
        job.version += 1;
        for command in commands {
            // One that did not begin has no end to wait for.
            let failed = match command {
                Command::Load(_) => |e| Step::Loaded(Err(e)),
                Command::Save => |e| Step::Saved(Err(e)),
                Command::Keep(_) => |e| Step::Kept(Err(e)),
                Command::Restore => |e| Step::Restored(Err(e)),
                _ => Step::Fail,
            };
            if let Err(e) = self.carry_out(id, command, now) {
                return self.step(id, failed(e), now);
            }
        }
    }

    /// Ends a job by an error, wherever it is.
    pub(super) fn fail(&mut self, id: JobId, error: Error, now: Duration) {
        match self.jobs.get(&id).map(|j| &j.phase) {
            Some(Phase::Preparing | Phase::Queued(_)) => self.end(id, Err(error), now),
            Some(Phase::Started(_)) => self.step(id, Step::Fail(error), now),
            Some(Phase::Ended) | None => {}
        }
    }

    /// A job's inputs are listed, and its checkpoint is looked for: it queues.
    pub(super) fn prepared(&mut self, id: JobId, result: Result<Prepared>, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id).filter(|j| matches!(j.phase, Phase::Preparing)) else { return };
        match result {
            Ok(prepared) => {
                job.phase = Phase::Queued(prepared);
                job.queued = (now, 0);
                job.waiting = None;
                job.trying = None;
                job.version += 1;
                self.unplaced = true;
            }
            Err(e) if job.tries_again(&e, now) => tracing::warn!(job = %id, "to be prepared again: {e}"),
            Err(e) => self.end(id, Err(e), now),
        }
    }

    /// Has jobs prepared once more for which that is due.
    pub(super) fn try_again(&mut self, now: Duration) {
        let due = self.jobs.values_mut().filter_map(|job| job.is_tried(now).then_some(job.id));
        for id in due.collect::<Vec<_>>() {
            self.jobs.get(&id).into_iter().for_each(|job| self.list(job));
        }
    }

    pub(super) fn answered(
        &mut self,
        id: JobId,
        slave: SlaveId,
        asked: Asked,
        result: Result<FromSlave>,
        now: Duration,
    ) {
        // Its jobs have heard that it is gone.
        if self.slaves.get(slave).is_none() {
            return tracing::debug!(job = %id, %slave, "an answer of a slave that is gone");
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(e) if asked == Asked::Farewell => return tracing::debug!(job = %id, %slave, "farewell failed: {e}"),
            // It may be heard of still, but whether its workers run nobody knows, and their slots would never come back.
            Err(e) if e.retry && matches!(asked, Asked::Launch(_)) => return self.gone(slave, &e.message, now),
            Err(e) => {
                let called = self.slaves.get(slave).map_or_else(|| slave.to_string(), |s| s.called(slave));
                let e = if e.message.contains(&called) { e } else { e.context(called) };
                return self.refused(id, slave, asked, e, now);
            }
        };
        match (asked, answer) {
            (Asked::Ops(count), FromSlave::Numbers(numbers)) => {
                self.step(id, Step::Numbers(slave, count, numbers), now)
            }
            (Asked::Move(phase), FromSlave::Sent(sent)) => self.step(id, Step::Sent(slave, phase, Ok(sent)), now),
            (Asked::Open(time), _) => self.opened(id, slave, time, now),
            (Asked::Give(time, input, index), FromSlave::Kept(end)) => {
                if let Some(reading) = self.reading((id, time)).and_then(|s| s.readings.get_mut(input)) {
                    reading.kept(index, end);
                }
            }
            _ => {}
        }
    }

    /// A slave did not do as it was asked.
    fn refused(&mut self, id: JobId, slave: SlaveId, asked: Asked, error: Error, now: Duration) {
        match asked {
            // By the slave: no workers of it run, so none are waited for.
            Asked::Launch(run) if self.give_back(slave, id, run, true, now) => {
                self.step(id, Step::StageDone(slave, run, Outcome { error: Some(error), ..Outcome::default() }), now);
            }
            // The stage does without: if the slave is gone, that is noticed otherwise.
            Asked::Move(phase) => self.step(id, Step::Sent(slave, phase, Err(error)), now),
            _ => self.fail(id, error, now),
        }
    }

    /// What a slave is told that asks for its next split.
    pub(super) fn next_split(
        &mut self,
        (id, time): (JobId, u32),
        slave: SlaveId,
        input: InputId,
        read: u64,
        now: Duration,
    ) -> Result<FromMaster> {
        let started = self.reading((id, time));
        let next = started.and_then(|s| s.readings.next(input, slave, read, now)).ok_or_else(Error::cancelled)?;
        Ok(match next {
            Next::Split(split) => FromMaster::Split(Some(split)),
            Next::End => FromMaster::Split(None),
            Next::Wait(wait) => FromMaster::Later(wait.as_millis() as u64),
            Next::Cut(Cut { slave, index, keep }) => {
                let message = ToSlave::Give { job: id, input, index, keep };
                self.ask_all(id, &[slave], Asked::Give(time, input, index), &message, ORDER_WITHIN)?;
                FromMaster::Later(GIVEN_WITHIN)
            }
        })
    }

    fn opened(&mut self, id: JobId, slave: SlaveId, time: u32, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.openings == time) else { return };
        let Some(started) = job.started() else { return };
        started.opening.remove(&slave);
        if !started.opening.is_empty() {
            return;
        }
        let slaves = started.slaves.clone();
        let reading = started.time;
        let mut schemas: Vec<_> = started.readings.iter().map(|r| r.schema().clone()).collect();
        if std::mem::replace(&mut started.told_to_read, true) {
            // It is opened again, and they read on.
            schemas.clear();
        }
        for (place, schema) in (0..).zip(schemas) {
            let read = ToSlave::Read { job: id, input: InputId(place), time: reading, schema };
            if let Err(e) = self.ask_all(id, &slaves, Asked::Order, &read, ORDER_WITHIN) {
                return self.fail(id, e, now);
            }
        }
        self.step(id, Step::Opened, now);
    }

    /// A job that is in this reading of its inputs.
    fn reading(&mut self, (id, time): (JobId, u32)) -> Option<&mut Started> {
        self.jobs.get_mut(&id)?.started().filter(|started| started.time == time)
    }

    pub(super) fn read_done(
        &mut self,
        (id, time): (JobId, u32),
        slave: SlaveId,
        input: InputId,
        result: Result<ReadDone>,
        now: Duration,
    ) {
        self.jobs.get_mut(&id).into_iter().for_each(|job| job.version += 1);
        let Some(slaves) = self.reading((id, time)).map(|started| started.slaves.clone()) else { return };
        // A bad row is the same wherever it is read; whether a file can be read may depend on where.
        let anywhere = slaves.len() < 2;
        let result = result.map_err(|e| match self.slaves.get(slave) {
            Some(at) if !anywhere && matches!(e.fault, Fault::User | Fault::Cluster) => e.context(at.called(slave)),
            _ => e,
        });
        let Some(reading) = self.reading((id, time)).and_then(|started| started.readings.get_mut(input)) else {
            return;
        };
        match result.and_then(|part| reading.done(slave, part, now)) {
            Err(e) => self.step(id, Step::Unread(slave, e), now),
            Ok(None) => {}
            Ok(Some(facts)) => {
                let message = ToSlave::Facts { job: id, input, facts: facts.clone() };
                match self.ask_all(id, &slaves, Asked::Order, &message, ORDER_WITHIN) {
                    Ok(()) => self.step(id, Step::Facts(input, facts), now),
                    Err(e) => self.fail(id, e, now),
                }
            }
        }
    }

    fn carry_out(&mut self, id: JobId, command: Command, now: Duration) -> Result<()> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        let (plan, name) = (job.plan.clone(), job.name.clone());
        let (queued, opened) = (job.queued, job.opened);
        let Some(started) = job.started() else { return Ok(()) };
        let slaves = started.slaves.clone();
        match command {
            Command::Place { stage, after } => {
                // The first ones go on waiting where the job did in the queue.
                let (queued, lead) = match started.driver.stages.is_empty() {
                    true => (queued, now.saturating_sub(opened)),
                    false => ((now, 0), Duration::ZERO),
                };
                started.ready.insert(stage, Turn { queued, lead, after, why: None });
                self.unplaced = true;
            }
            Command::Launch(launch) => {
                let threads: u32 = launch.workers.iter().map(|(_, n)| n).sum();
                let lacks = || Error::bug(format!("the plan has no stage {}", launch.stage));
                let spec = plan.stage(launch.stage).ok_or_else(lacks)?;
                let (stage, memory) = (&spec.name, spec.memory);
                let turn = started.ready.remove(&launch.stage).unwrap_or_default();
                tracing::info!(job = %id, stage, epoch = launch.epoch + 1, threads, "stage starts");
                self.slaves.take(id, launch.run, &launch.workers, memory);
                let owner = self.books.owner(job.report.scheduling.share());
                let (run, place, workers, epoch) = (launch.run, launch.stage, &launch.workers, launch.epoch + 1);
                let (turn, want) = (&turn, admission::want(spec, (threads, threads), job.reproducible));
                let bound = spec.on.is_some() || matches!(spec.threads, Threads::Visit(_));
                let launched =
                    Launched { id, job: &name, stage, place, run, epoch, workers, owner, turn, want, memory, bound };
                self.books.launched(&launched, now);
                let asked = Asked::Launch(launch.run);
                self.ask_all(id, &slaves, asked, &ToSlave::Launch(launch), ORDER_WITHIN)?;
            }
            Command::Ops { phase, ops } => {
                let within = OPS_WITHIN + Duration::from_secs(started.driver.bytes() / OPS_A_SECOND);
                self.ask_all(id, &slaves, Asked::Ops(phase), &ToSlave::Ops { job: id, phase, ops }, within)?;
            }
            Command::Move { phase, homes, copies, within } => {
                let message = ToSlave::Move { of: MoveId { job: id, phase }, homes, copies };
                self.ask_all(id, &slaves, Asked::Move(phase), &message, within)?;
            }
            Command::Settle { phase, run, homes, copies } => {
                let message = ToSlave::Settle { of: MoveId { job: id, phase }, run, homes, copies };
                self.ask_all(id, &slaves, Asked::Order, &message, ORDER_WITHIN)?;
            }
            Command::Load(load) => {
                let spec = plan.tables[load.table.0 as usize].clone();
                let reading = started.readings.get(load.input);
                let reading = reading.ok_or_else(|| Error::bug("a model is for rows that the plan lacks"))?;
                let (schema, facts) = (reading.schema().clone(), reading.facts().cloned());
                let storage = self.storage.clone();
                self.transfer(id, Event::Loaded, move |shards| {
                    shards.load(&storage, &load, &spec, (&schema, facts.as_ref()))
                });
            }
            Command::Save => self.save(id)?,
            Command::Keep(place) => self.keep(id, place),
            Command::Restore => self.restore(id),
            Command::CancelStage(run, of, reason) => {
                let message = ToSlave::CancelStage { job: id, run, reason };
                self.ask_all(id, &of, Asked::Farewell, &message, ORDER_WITHIN)?;
            }
            Command::StopTransfer => started.stop.store(true, Ordering::Relaxed),
            Command::Again(anew) => self.begin_anew(id, anew, now)?,
            Command::End(result) => self.end(id, result, now),
        }
        Ok(())
    }

    /// A job's model is saved, or is not; a remark if its checkpoint was not removed.
    pub(super) fn saved(&mut self, id: JobId, result: Result<Option<String>>, now: Duration) {
        let result = result.map(|remark| {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.note(remark);
            }
        });
        self.step(id, Step::Saved(result), now);
    }

    fn save(&mut self, id: JobId) -> Result<()> {
        let described = self.described(id)?;
        let folder = self.jobs.get_mut(&id).and_then(Job::started).and_then(|started| started.checkpoint.clone());
        let storage = self.storage.clone();
        self.transfer(id, Event::Saved, move |shards| {
            if let Some((save, tensors, description)) = described {
                shards.save(&storage, (&save.path, save.overwrite), &tensors, &description)?;
            }
            // That is no failure: the model is there.
            let left = folder.and_then(|folder| folder.remove().err());
            Ok(left.map(|e| format!("what is in the checkpoint's folder was not removed: {e}")))
        });
        Ok(())
    }

    /// Writes a checkpoint of a place.
    fn keep(&mut self, id: JobId, place: Arc<Place>) {
        let Some(started) = self.jobs.get_mut(&id).and_then(Job::started) else { return };
        let (folder, remade) = (started.checkpoint.clone(), started.driver.remade(&place));
        let tables = (0..).map(TableId).take(started.driver.homes().len());
        let tables: Vec<TableId> = tables.filter(|table| !remade.contains(table)).collect();
        let columns = self.columns(id);
        self.transfer(id, Event::Kept, move |shards| match folder {
            Some(folder) => shards.keep(&folder, &place, &tables, &columns?),
            None => Err(Error::bug("a checkpoint of a job that keeps none")),
        });
    }

    /// Makes the tables, and what rows keep, those of the checkpoint.
    fn restore(&mut self, id: JobId) {
        let Some(started) = self.jobs.get_mut(&id).and_then(Job::started) else { return };
        let folder = started.checkpoint.clone();
        let columns = self.columns(id);
        self.transfer(id, Event::Restored, move |shards| match folder {
            Some(folder) => shards.restore(&folder, &columns?).map(Arc::new),
            None => Err(Error::bug("a job that keeps no checkpoint goes on from one")),
        });
    }

    /// The columns that go with a job's checkpoints, and who has their rows now.
    fn columns(&mut self, id: JobId) -> Result<Vec<Column>> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(Vec::new()) };
        let specs = job.plan.columns.clone();
        let Some(started) = job.started() else { return Ok(Vec::new()) };
        let column = |spec: ColumnSpec| {
            let reading = started.readings.get(spec.input);
            let reading =
                reading.ok_or_else(|| Error::bug(format!("rows of input {} that nobody reads", spec.input)))?;
            Ok(Column { spec, pieces: reading.pieces()? })
        };
        specs.into_iter().map(column).collect()
    }

    /// What a job's model is made of, and what is known of it by now; none for a job that keeps none.
    pub(super) fn described(&mut self, id: JobId) -> Result<Option<(SaveSpec, Vec<Tensor>, Description)>> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(None) };
        let (plan, name, params) = (job.plan.clone(), job.name.clone(), job.report.params.clone());
        let Some((started, save)) = job.started().zip(plan.save.clone()) else { return Ok(None) };
        let progress = &started.driver.progress;
        let facts = progress.facts.get(usize::from(save.input.0)).cloned().flatten();
        let known = started.readings.get(save.input).zip(facts);
        let Some((reading, facts)) = known else {
            return Err(Error::cluster(format!("job {id} ({name}) has not read its input yet; try again later")));
        };
        let description = Description {
            created_by: created_by(),
            job: name,
            params,
            labels: reading.schema().labels.clone(),
            index_base: reading.schema().index_base,
            features: facts.features,
            objective: progress.objective.filter(|x| x.is_finite()),
            epochs: started.driver.unlisted.epochs + started.driver.epochs.len() as u64,
            facts,
        };
        let mut tensors = Vec::new();
        for tensor in &save.tensors {
            let TableId(place) = tensor.table;
            let spec = plan.tables.get(place as usize).cloned();
            let spec =
                spec.ok_or_else(|| Error::bug(format!("tensor {} is of a table that the plan lacks", tensor.name)))?;
            let classes = if tensor.by_class { description.labels.all().len() } else { 0 };
            let keys =
                tensor.keys.map_or(description.features, u64::from) * if classes > 2 { classes as u64 } else { 1 };
            tensors.push(Tensor { name: tensor.name.clone(), table: tensor.table, spec, keys });
        }
        Ok(Some((save, tensors, description)))
    }

    /// Runs what moves tables to or from the disk on a thread of its own.
    fn transfer<T: Send + 'static>(
        &mut self,
        id: JobId,
        done: fn(JobId, Result<T>) -> Event,
        work: impl FnOnce(&Shards) -> Result<T> + Send + 'static,
    ) {
        let Some(started) = self.jobs.get_mut(&id).and_then(Job::started) else { return };
        let stop = Arc::clone(&started.stop);
        let bulk = self.slaves.bulk(&started.slaves, &self.network);
        let homes = started.driver.homes().to_vec();
        let (shards, events) = (Shards { job: id, bulk, homes, snapshot: None, stop }, self.events.clone());
        tokio::spawn(async move {
            let worked = tokio::task::spawn_blocking(move || work(&shards)).await;
            let result = worked.unwrap_or_else(|e| Err(Error::bug(format!("moving a model ended early: {e}"))));
            // An error means that the master has ended.
            let _ = events.send(done(id, result));
        });
    }

    /// A job has ended: its slaves drop what it had, its report is final, those who wait for it are told.
    fn end(&mut self, id: JobId, result: Result<()>, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let slaves = job.started().map(|s| s.slaves.clone()).unwrap_or_default();
        match &result {
            Ok(()) => tracing::info!(job = %id, "job is done"),
            Err(e) => tracing::info!(job = %id, "job ended: {e}"),
        }
        if let Some((file, known)) = job.started().and_then(|s| Some((s.searches.clone()?, s.driver.tuners.searched())))
        {
            tokio::task::spawn_blocking(move || {
                if let Err(e) = searches::save(&file, &known) {
                    tracing::warn!(error = %e, "a search for threads is lost");
                }
            });
        }
        job.end(result, now);
        self.ended = now;
        let (state, detached) = (job.report.state, job.detached);
        let error = job.report.error.as_ref().map(|e| e.message.clone());
        let record = Record::End { at: now.as_secs_f64(), job: id, state, error };
        self.counts.ended(&job.report, job.sent);
        // What can't be encoded can't have been opened either.
        let _ = self.ask_all(id, &slaves, Asked::Farewell, &ToSlave::Close { job: id }, ORDER_WITHIN);
        self.books.job_ended(id, now);
        // One that a later master queues again has not ended.
        let stopped = self.stopping.is_some() && state == State::Cancelled;
        if !(stopped && detached && self.log.is_kept()) {
            self.log.push(&record);
        }
        // Those that were to run after it wait for slots only from now on.
        let follows =
            |job: &&mut Job| matches!(job.phase, Phase::Queued(_)) && job.report.scheduling.after.contains(&id);
        self.jobs.values_mut().filter(follows).for_each(|job| job.queued = (now, 0));
        self.unplaced = true;
        self.forget(now);
        self.news(now);
    }

    /// Drops what is too old to be asked for: of the jobs that have ended those that did so first, but for those whose end
    /// others wait for.
    fn forget(&mut self, now: Duration) {
        let waiting = self.jobs.values().filter(|job| !job.report.state.ended());
        let awaited: BTreeSet<JobId> = waiting.flat_map(|job| job.report.scheduling.after.iter().copied()).collect();
        let told = |id| !awaited.contains(&id) && self.followed.get(&id).is_none_or(|until| *until <= now);
        let ended = self.jobs.values().filter(|job| matches!(job.phase, Phase::Ended) && told(job.id));
        let mut ended: Vec<(Duration, JobId)> = ended.map(|job| (job.ended(), job.id)).collect();
        ended.sort_unstable();
        let old = |kept| &ended[..ended.len().saturating_sub(kept)];
        for (_, id) in old(KEPT_JOBS) {
            self.jobs.remove(id);
            self.followed.remove(id);
        }
        for (_, id) in old(KEPT_WHOLE) {
            if let Some(job) = self.jobs.get_mut(id) {
                job.keep_stages(KEPT_STAGES);
            }
        }
    }
}
