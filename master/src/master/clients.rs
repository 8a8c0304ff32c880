//! What clients ask: submissions, news, cancels.

use super::{Master, TOLD_WITHIN};
use crate::checkpoint::Of;
use crate::event::{Event, Reply, Waiter};
use crate::history::Record;
use crate::job::program::Program;
use crate::job::{Job, Phase, Submission, admission, experiment};
use crate::prepare::{Searches, prepare};
use crate::scheduler;
use flexps_common::checkpoint::Checkpoint;
use flexps_common::ids::JobId;
use flexps_common::plan::Plan;
use flexps_common::report::State;
use flexps_common::transport::Connection;
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_common::{Error, Result};
use std::path::Path;
use std::time::Duration;

/// One who waits for news, and until when by the master's clock.
pub(super) struct Waiting {
    waiter: Waiter,
    until: Duration,
}

impl Master {
    pub(super) fn request(&mut self, from: Connection, message: ToMaster, reply: Reply, now: Duration) {
        let answer = match message {
            ToMaster::Register(registration) => self.register(registration, from, now),
            ToMaster::Submit { name, params, plan_hash, reproducible, token, scheduling, experiment, detached } => {
                let token = Some(token);
                let submission =
                    Submission { name, params, plan_hash, reproducible, token, scheduling, experiment, detached };
                self.submit(submission, now)
            }
            ToMaster::Snapshot(wanted) => return self.snapshot(wanted, reply),
            message => self.slave_message(from, message, now),
        };
        // An error means that nobody waits for the answer any more.
        let _ = reply.send(answer);
    }

    fn submit(&mut self, submission: Submission, now: Duration) -> Result<FromMaster> {
        if self.stopping.is_some() {
            return Err(Error::cluster("the master is ending").retryable());
        }
        if let Some(job) = self.jobs.values().find(|j| j.token == submission.token) {
            return Ok(FromMaster::Submitted(job.id));
        }
        if let Some(first) = submission.scheduling.after.iter().find(|id| !self.jobs.contains_key(id)) {
            return Err(unknown(*first).context("--after"));
        }
        let plan = self.plan(&submission)?;
        self.refuse_taken(&plan)?;
        self.refuse_checkpoint(&submission, &plan)?;
        if self.slaves.iter().next().is_some() {
            let candidates = self.candidates();
            let names: Vec<_> = candidates.iter().map(|slave| &*slave.name).collect();
            experiment::check(&submission.experiment, &names)?;
            admission::choose(&plan, &candidates, u64::MAX)?;
        }
        self.submitted += 1;
        self.counts.submitted += 1;
        let id = JobId(self.submitted);
        tracing::info!(job = %id, name = submission.name, "job submitted");
        self.log.push(&Record::of(id, &submission, now));
        if submission.detached {
            // Whoever is told its identity may forget it.
            self.log.flush();
        }
        let job = Job::new(id, submission, plan, now);
        self.list(&job);
        self.jobs.insert(id, job);
        Ok(FromMaster::Submitted(id))
    }

    /// Refuses a plan that would save its model where another job is about to save its own, to fail in the end.
    fn refuse_taken(&self, plan: &Plan) -> Result<()> {
        let Some(save) = plan.save.as_ref().filter(|save| !save.overwrite) else { return Ok(()) };
        let live = self.jobs.values().filter(|job| !matches!(job.phase, Phase::Ended));
        match live.into_iter().find(|job| job.plan.save.as_ref().is_some_and(|theirs| theirs.path == save.path)) {
            Some(job) => Err(Error::user(format!(
                "job {} will save its model to {}; give another path, or --overwrite",
                job.id, save.path
            ))),
            None => Ok(()),
        }
    }

    /// Refuses a checkpoint from which nobody could go on, or where another job's is about to be.
    fn refuse_checkpoint(&self, submission: &Submission, plan: &Plan) -> Result<()> {
        let Some(Checkpoint { folder, .. }) = &submission.scheduling.checkpoint else { return Ok(()) };
        if !Program::of(plan).is_resumable() {
            return Err(Error::user(format!(
                "--checkpoint: as it is asked for, {} has no rounds from whose begin it can go on (`flexps plan` calls them \
                 resumable); leave it out; --restarts has a job start over when a slave is lost",
                submission.name
            )));
        }
        if let Some(save) = plan.save.as_ref().filter(|save| Path::new(&folder.0).starts_with(&save.path.0)) {
            return Err(Error::user(format!("--checkpoint: the model goes to {}; give another folder", save.path)));
        }
        let taken = |job: &&Job| {
            let theirs = job.report.scheduling.checkpoint.as_ref();
            let same = |theirs: &Checkpoint| Path::new(&theirs.folder.0) == Path::new(&folder.0);
            !matches!(job.phase, Phase::Ended) && theirs.is_some_and(same)
        };
        match self.jobs.values().find(taken) {
            Some(job) => {
                Err(Error::user(format!("--checkpoint: job {} keeps its own in {folder}; give another", job.id)))
            }
            None => Ok(()),
        }
    }

    /// Has a job's inputs listed.
    pub(super) fn list(&self, job: &Job) {
        let (storage, searches, events) = (self.storage.clone(), self.searches.clone(), self.events.clone());
        let (id, plan_hash, plan, experiment) = (job.id, job.plan_hash, job.plan.clone(), job.experiment.clone());
        let keeps = job.report.scheduling.checkpoint.as_ref().map(|wanted| {
            let plan = lasting(&job.plan);
            let of = Of { job: job.name.clone(), params: job.report.params.clone(), plan, inputs: 0 };
            (wanted.folder.clone(), of, job.openings > 0)
        });
        tokio::spawn(async move {
            let searches = searches.as_deref().map(|folder| Searches { folder, plan_hash, experiment: &experiment });
            let prepared = prepare(storage.clone(), searches, &plan).await;
            let result = match (prepared, keeps) {
                (Ok(prepared), Some((folder, of, anew))) => prepared.resume(storage, folder, of, anew).await,
                (prepared, _) => prepared,
            };
            // An error means that the master has ended.
            let _ = events.send(Event::Prepared(id, result));
        });
    }

    /// The plan of what was submitted, with what the master itself decides about it.
    pub(super) fn plan(&self, submission: &Submission) -> Result<Plan> {
        let mut plan = self.registry.plan(&*self.registry.job(&submission.name, &submission.params)?)?;
        if plan.hash() != submission.plan_hash {
            return Err(Error::user(format!(
                "the master derives another plan for {} than this client; use the same build of flexps on both; a plan may \
                 depend on the job's parameters alone",
                submission.name
            )));
        }
        // The hash that all nodes agree on is that of the job's own plan; how many workers run, and which
        // memory is kept for them, is the master's affair.
        let Submission { scheduling, experiment, .. } = submission;
        experiment.fixed_threads.into_iter().for_each(|workers| plan.fix_threads(workers));
        scheduling.memory.into_iter().for_each(|bytes| plan.fix_memory(bytes));
        plan.most_slaves = scheduling.slaves;
        plan.compressed(experiment.compress).map_err(|e| e.context("--compress"))?;
        plan.check()?;
        experiment::fits(experiment, &plan)?;
        Ok(plan)
    }

    pub(super) fn set_policy(&mut self, name: &str, now: Duration) -> Result<()> {
        self.policy = scheduler::policy(name)?;
        tracing::info!(policy = name, "another policy");
        self.log.push(&Record::Policy { at: now.as_secs_f64(), policy: name.to_owned() });
        self.unplaced = true;
        Ok(())
    }

    /// Has a job end; when it has ended already, how.
    pub(super) fn cancel(&mut self, job: JobId, token: Option<u64>, now: Duration) -> Result<Option<String>> {
        let known = self.jobs.get_mut(&job).filter(|known| known.is_of(token)).ok_or_else(|| unknown(job))?;
        if matches!(known.phase, Phase::Ended) {
            return Ok(Some(ended(known)));
        }
        tracing::info!(%job, "job is to be cancelled");
        // No later master is to queue it again, whenever this one ends.
        if std::mem::take(&mut known.detached) && known.started().is_some() {
            self.log.push(&Record::Cancel { at: now.as_secs_f64(), job });
        }
        self.fail(job, Error::cancelled(), now);
        // Whoever is told so may rely on it.
        self.log.flush();
        Ok(None)
    }

    pub(super) fn watch(&mut self, waiter: Waiter, now: Duration) {
        let until = now + waiter.wait;
        if !waiter.wait.is_zero() && self.jobs.get(&waiter.job).is_some_and(|job| job.is_of(waiter.token)) {
            self.followed.insert(waiter.job, until + TOLD_WITHIN);
        }
        self.watched(Waiting { waiter, until }, now);
    }

    fn watched(&mut self, waiting: Waiting, now: Duration) {
        let id = waiting.waiter.job;
        let news = match self.jobs.get_mut(&id).filter(|job| job.is_of(waiting.waiter.token)) {
            None => Err(unknown(id)),
            Some(job) if due(job, &waiting, now) => {
                if matches!(job.phase, Phase::Ended) {
                    self.followed.remove(&id);
                    self.told |= self.stopping.is_some();
                }
                Ok(job.news(now))
            }
            Some(_) => return self.waiters.push(waiting),
        };
        let _ = waiting.waiter.reply.send(news);
    }

    /// Answers those who wait for news that are there, and those whose time is up.
    pub(super) fn news(&mut self, now: Duration) {
        for waiting in std::mem::take(&mut self.waiters) {
            // One whose client has gone is dropped.
            if !waiting.waiter.reply.is_closed() {
                self.watched(waiting, now);
            }
        }
    }
}

fn due(job: &Job, waiting: &Waiting, now: Duration) -> bool {
    job.version > waiting.waiter.seen || now >= waiting.until || matches!(job.phase, Phase::Ended)
}

fn ended(job: &Job) -> String {
    let how = match (job.report.state, &job.report.error) {
        (State::Cancelled, _) => "was cancelled".to_owned(),
        (State::Failed, Some(error)) => format!("failed: {error}"),
        (State::Failed, None) => "failed".to_owned(),
        (State::Done | State::Queued | State::Running, _) => "is done".to_owned(),
    };
    format!("{} has ended already: it {how}", job.id)
}

/// The hash of what must be the same where a job goes on from a checkpoint: where its model goes, and how much memory is kept
/// for its stages, is no reason not to.
fn lasting(plan: &Plan) -> u64 {
    let mut plan = Plan { save: None, ..plan.clone() };
    plan.fix_memory(0);
    plan.hash()
}

pub(super) fn unknown(job: JobId) -> Error {
    Error::user(format!("no job {job}; `flexps jobs` lists those that the master knows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_of_the_same_plan_whatever_memory_its_stages_ask_for() {
        let plan = |change: &dyn Fn(&mut Plan)| {
            let mut plan = Plan::default();
            plan.body.repeat(3, |epoch| _ = epoch.stage("work", |_| Ok(())));
            change(&mut plan);
            plan
        };
        let (plain, large) = (plan(&|_| ()), plan(&|plan| plan.fix_memory(1 << 30)));
        assert_ne!(plain.hash(), large.hash());
        assert_eq!(lasting(&plain), lasting(&large));
        assert_ne!(lasting(&plain), lasting(&plan(&|plan| plan.fix_threads(3))));
    }
}
