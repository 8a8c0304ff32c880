//! Jobs that lose a slave. While they read, their plans begin anew on the slaves that are left, if they fit there; while they
//! are opened, or later if they may, they start over on any slaves.
//!
//! Invariant: what the slave had taken goes back once; rows that the others have read stay where they are, and their readers
//! read on. Of one that starts over nothing is left anywhere.

use super::Master;
use super::drive::ORDER_WITHIN;
use crate::event::Asked;
use crate::job::Job;
use crate::job::admission::{self, Candidate};
use crate::job::driver::Anew;
use crate::job::lost::Lost;
use crate::slaves::Slave;
use flexps_common::data::Facts;
use flexps_common::ids::{InputId, JobId, SlaveId};
use flexps_common::wire::control::ToSlave;
use flexps_common::{Error, Result};
use std::time::Duration;

/// How often a job may have lost a slave to queue anew when it loses one while it is opened: some jobs take slaves down.
const OPENED_ANEW: usize = 3;

impl Master {
    /// What a job is told of a slave that it used and that is gone: the error by which it ends, unless it begins anew; what
    /// the slave had taken is given back for that, and its report tells of it once it has.
    pub(super) fn without(
        &mut self,
        id: JobId,
        (gone, slave): (SlaveId, &Slave),
        why: &str,
        now: Duration,
    ) -> (Error, Option<Anew>) {
        let all = self.candidates();
        let called = format!("{} is gone ({why})", slave.called(gone));
        let Some(job) = self.jobs.get_mut(&id) else { return (Error::cluster(called), None) };
        let (plan, seconds) = (job.plan.clone(), now.saturating_sub(job.submitted).as_secs_f64());
        let (restarts, allowed) = (job.may_restart(), job.report.scheduling.restarts as usize);
        let before = job.report.repeats.len();
        let Some(started) = job.started() else { return (Error::cluster(called), None) };
        let place = started.driver.whereabouts();
        let ends = Error::cluster(format!("{called} {place}"));
        if !started.driver.may_begin_anew() {
            return (ends, None);
        }
        let own: Vec<Candidate> = all.iter().filter(|other| started.slaves.contains(&other.id)).cloned().collect();
        let lacks = |slaves: &[Candidate]| match slaves {
            [] => Some(ends.clone()),
            some => Some(Error::cluster(format!("{ends}: {}", admission::choose(&plan, some, u64::MAX).err()?))),
        };
        let opening = !started.told_to_read;
        let without = lacks(&own);
        let back = if opening || without.is_some() { None } else { started.readings.give_back(gone) };
        if back.is_none() {
            if !(if opening { before + started.lost.len() < OPENED_ANEW + allowed } else { restarts }) {
                return (without.unwrap_or(ends), None);
            }
            // One that may start over waits for slaves, as any that was just submitted.
            if let Some(error) = lacks(&all).filter(|_| allowed == 0) {
                return (error, None);
            }
        }
        let anew = if back.is_some() { Anew::Plan } else { Anew::Job };
        started.lost.push(Lost {
            slave: slave.registration.name.clone(),
            called,
            why: why.to_owned(),
            place,
            seconds,
            back,
        });
        (ends, Some(anew))
    }

    /// A job has stopped to begin anew: opens it on the slaves that are left, or has it start over.
    pub(super) fn begin_anew(&mut self, id: JobId, anew: Anew, now: Duration) -> Result<()> {
        self.books.job_ended(id, now);
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        job.tell_lost(anew);
        let Some(started) = job.started() else { return Ok(()) };
        if let Some(taking) = started.snapshot.take() {
            // One that has ended needs no word.
            let _ = taking.send(());
        }
        let of = started.slaves.clone();
        if anew == Anew::Job {
            self.ask_all(id, &of, Asked::Farewell, &ToSlave::Close { job: id }, ORDER_WITHIN)?;
            self.jobs.get_mut(&id).into_iter().for_each(Job::start_over);
            self.jobs.get(&id).into_iter().for_each(|job| self.list(job));
            return Ok(());
        }
        let named = |id: &SlaveId| Some((*id, self.slaves.get(*id)?.registration.name.clone()));
        let left: Vec<(SlaveId, String)> = of.iter().filter_map(named).collect();
        let slaves: Vec<SlaveId> = left.iter().map(|(id, _)| *id).collect();
        let list = self.shared_list(slaves.clone());
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        job.slaves = list;
        let (plan, experiment) = (job.plan.clone(), job.experiment.clone());
        let Some(started) = job.started() else { return Ok(()) };
        started.slaves = slaves;
        started.ready.clear();
        started.stop = Default::default();
        started.driver.begin_anew(&plan, &left, &experiment);
        // What was read to its end while workers stopped is told once more, behind the opening: nobody reads it again.
        let read: Vec<(InputId, Facts)> = (0..)
            .map(InputId)
            .zip(started.readings.iter())
            .filter_map(|(id, of)| Some((id, of.facts()?.clone())))
            .collect();
        for (input, facts) in &read {
            started.driver.progress.facts[usize::from(input.0)] = Some(facts.clone());
        }
        let slaves = started.slaves.clone();
        self.open(id, now);
        for (input, facts) in read {
            self.ask_all(id, &slaves, Asked::Order, &ToSlave::Facts { job: id, input, facts }, ORDER_WITHIN)?;
        }
        Ok(())
    }
}
