//! Jobs that lose a slave. While they read, their plans begin anew on the slaves that are left, if they fit there; while they
//! are opened, or later if they may, they start over on any slaves.
//!
//! Invariant: what the slave had taken goes back once; rows that the others have read stay where they are, and their readers
//! read on. Of one that starts over nothing is left anywhere.

use super::Master;
use super::drive::ORDER_WITHIN;
use crate::assigner::Back;
use crate::event::Asked;
use crate::job::Job;
use crate::job::admission::{self, Candidate};
use crate::job::driver::Anew;
use crate::size::size;
use crate::slaves::Slave;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::repeat::Repeat;
use flexps_common::wire::control::ToSlave;
use flexps_common::{Error, Result};
use std::time::Duration;

/// How often a job may have lost a slave to queue anew when it loses one while it is opened: some jobs take slaves down.
const OPENED_ANEW: usize = 3;

impl Master {
    /// What a job is told of a slave that it used and that is gone: the error by which it ends, unless it begins anew; what
    /// the slave had taken is given back for that.
    pub(super) fn without(
        &mut self,
        id: JobId,
        (gone, slave): (SlaveId, &Slave),
        why: &str,
        now: Duration,
    ) -> (Error, Option<Anew>) {
        let all = self.candidates(None);
        let called = format!("{} is gone ({why})", slave.called(gone));
        let Some(job) = self.jobs.get_mut(&id) else { return (Error::cluster(called), None) };
        let (plan, seconds) = (job.plan.clone(), now.saturating_sub(job.submitted).as_secs_f64());
        let (restarts, opened) = (job.may_restart(), job.report.repeats.len());
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
        let may_start_over = if opening { opened < OPENED_ANEW } else { restarts };
        let anew = if back.is_some() { Anew::Plan } else { Anew::Job };
        let what = match back {
            Some(Back { splits, bytes }) => {
                let (size, bits) =
                    (size(bytes), if job.reproducible { "; on fewer slaves the last bits may be others" } else { "" });
                format!(
                    "while rows were read: the others read the {splits} splits ({size}) that it had, and the plan began anew{bits}"
                )
            }
            None if !may_start_over => return (without.unwrap_or(ends), None),
            None => match lacks(&all) {
                Some(error) => return (error, None),
                None if opening => "while the job was opened: it queued anew".to_owned(),
                None => format!("{place}: the job started over"),
            },
        };
        let Back { splits, bytes } = back.unwrap_or_default();
        job.note([format!("{called} after {seconds:.1} s, {what}")]);
        let slave = slave.registration.name.clone();
        job.report.repeats.push(Repeat { slave, why: why.to_owned(), seconds, splits, bytes });
        (ends, Some(anew))
    }

    /// A job has stopped to begin anew: opens it on the slaves that are left, or has it start over.
    pub(super) fn begin_anew(&mut self, id: JobId, anew: Anew, now: Duration) -> Result<()> {
        self.books.job_ended(id, now);
        let Some(started) = self.jobs.get_mut(&id).and_then(Job::started) else { return Ok(()) };
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
        self.open(id, now);
        Ok(())
    }
}
