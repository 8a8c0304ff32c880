//! Jobs that lose a slave while they read: their plans begin anew on the slaves that are left, if they fit there; and those
//! that lose one while they are opened: they queue anew, for any slaves.
//!
//! Invariant: what the slave had taken goes back once; rows that the others have read stay where they are, and their readers
//! read on.

use super::Master;
use super::drive::ORDER_WITHIN;
use crate::assigner::Back;
use crate::event::Asked;
use crate::job::{Job, admission};
use crate::size::size;
use crate::slaves::Slave;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::repeat::Repeat;
use flexps_common::wire::control::ToSlave;
use flexps_common::{Error, Result};
use std::time::Duration;

/// How often a job may lose a slave while it is opened: some jobs take slaves down.
const QUEUED_ANEW: usize = 3;

impl Master {
    /// What a job is told of a slave that it used and that is gone: the error by which it ends, or that it begins anew; what
    /// the slave had taken is given back then.
    pub(super) fn without(
        &mut self,
        id: JobId,
        (gone, slave): (SlaveId, &Slave),
        why: &str,
        now: Duration,
    ) -> (Error, bool) {
        let mut left = self.candidates(None);
        let called = format!("{} is gone ({why})", slave.called(gone));
        let Some(job) = self.jobs.get_mut(&id) else { return (Error::cluster(called), false) };
        let (plan, seconds) = (job.plan.clone(), now.saturating_sub(job.submitted).as_secs_f64());
        let Some(started) = job.started() else { return (Error::cluster(called), false) };
        let ends = Error::cluster(format!("{called} {}", started.driver.whereabouts()));
        let began = started.told_to_read;
        if began {
            left.retain(|other| started.slaves.contains(&other.id));
        }
        if left.is_empty() || !started.driver.may_begin_anew() {
            return (ends, false);
        }
        if let Err(lacks) = admission::choose(&plan, &left, u64::MAX) {
            return (Error::cluster(format!("{ends}: {lacks}")), false);
        }
        let back = match began {
            true => started.readings.give_back(gone),
            false => (job.report.repeats.len() < QUEUED_ANEW).then(Back::default),
        };
        let Some(Back { splits, bytes }) = back else { return (ends, false) };
        let what = match began {
            true => {
                let bits = if job.reproducible { "; on fewer slaves the last bits may be others" } else { "" };
                let size = size(bytes);
                format!(
                    "while rows were read: the others read the {splits} splits ({size}) that it had, and the plan began anew{bits}"
                )
            }
            false => "while it opened the job, which queued anew".to_owned(),
        };
        job.note([format!("{called} after {seconds:.1} s, {what}")]);
        let slave = slave.registration.name.clone();
        job.report.repeats.push(Repeat { slave, why: why.to_owned(), seconds, splits, bytes });
        (ends, true)
    }

    /// A job has stopped to begin anew: opens it on the slaves that are left, or queues it.
    pub(super) fn begin_anew(&mut self, id: JobId, now: Duration) -> Result<()> {
        self.books.job_ended(id, now);
        let Some(started) = self.jobs.get_mut(&id).and_then(Job::started) else { return Ok(()) };
        let of = started.slaves.clone();
        if !started.told_to_read {
            self.ask_all(id, &of, Asked::Farewell, &ToSlave::Close { job: id }, ORDER_WITHIN)?;
            self.jobs.get_mut(&id).into_iter().for_each(Job::listed_anew);
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
        self.open(id, now);
        Ok(())
    }
}
