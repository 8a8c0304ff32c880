//! Jobs that lose a slave while they read: their plans begin anew on the slaves that are left, if they fit there.
//!
//! Invariant: what the slave had taken goes back once; rows that the others have read stay where they are, and their readers
//! read on.

use super::Master;
use crate::job::{Job, admission};
use crate::size::size;
use crate::slaves::Slave;
use flexps_common::Error;
use flexps_common::ids::{JobId, SlaveId};
use flexps_common::repeat::Repeat;
use std::time::Duration;

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
        let (plan, submitted) = (job.plan.clone(), job.submitted);
        let Some(started) = job.started() else { return (Error::cluster(called), false) };
        let ends = Error::cluster(format!("{called} {}", started.driver.whereabouts()));
        left.retain(|other| started.slaves.contains(&other.id));
        if left.is_empty() || !started.driver.may_begin_anew() {
            return (ends, false);
        }
        if let Err(lacks) = admission::choose(&plan, &left, u64::MAX) {
            return (Error::cluster(format!("{ends}: {lacks}")), false);
        }
        let Some(back) = started.readings.give_back(gone) else { return (ends, false) };
        let repeat = Repeat {
            slave: slave.registration.name.clone(),
            why: why.to_owned(),
            seconds: now.saturating_sub(submitted).as_secs_f64(),
            splits: back.splits,
            bytes: back.bytes,
        };
        let Repeat { seconds, splits, .. } = repeat;
        let bits = if job.reproducible { "; on fewer slaves the last bits may be others" } else { "" };
        job.report.notes.push(format!(
            "{called} after {seconds:.1} s, while rows were read: the others read the {splits} splits ({}) that it had, and the \
             plan began anew{bits}",
            size(back.bytes)
        ));
        job.report.repeats.push(repeat);
        (ends, true)
    }

    /// A job has stopped to begin anew: opens it on the slaves that are left.
    pub(super) fn begin_anew(&mut self, id: JobId, now: Duration) {
        self.books.job_ended(id, now);
        let Some(of) = self.jobs.get_mut(&id).and_then(Job::started).map(|started| started.slaves.clone()) else {
            return;
        };
        let named = |id: &SlaveId| Some((*id, self.slaves.get(*id)?.registration.name.clone()));
        let left: Vec<(SlaveId, String)> = of.iter().filter_map(named).collect();
        let slaves: Vec<SlaveId> = left.iter().map(|(id, _)| *id).collect();
        let list = self.shared_list(slaves.clone());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.slaves = list;
        let (plan, experiment) = (job.plan.clone(), job.experiment.clone());
        let Some(started) = job.started() else { return };
        started.slaves = slaves;
        started.ready.clear();
        started.stop = Default::default();
        started.driver.begin_anew(&plan, &left, &experiment);
        self.open(id, now);
    }
}
