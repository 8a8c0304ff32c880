//! The model of a running job, saved while its workers go on.
//!
//! Invariants: the values are those of one moment on all slaves, or nothing is saved; where updates are applied clock by
//! clock, of all clocks below one and no others; whatever comes of it, slaves are told to drop what they keep for it. A
//! job has one at a time.

use super::Master;
use crate::event::Reply;
use crate::transfer::{Shards, Tensor};
use flexps_common::data::schema::DataPath;
use flexps_common::error::Fault;
use flexps_common::home::Home;
use flexps_common::ids::JobId;
use flexps_common::model::Description;
use flexps_common::plan::NO_MODEL;
use flexps_common::storage::Storage;
use flexps_common::transport::Channel;
use flexps_common::wire::control::{FromMaster, FromSlave, ToSlave};
use flexps_common::wire::snapshot::{Meeting, Met, Moment, ToKeeper, Wanted};
use flexps_common::{Error, Result};
use futures::future::{join_all, try_join_all};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long all slaves may take to come to one moment: under BSP a clock, at most.
const WITHIN: Duration = Duration::from_secs(120);
/// How long they may take to drop what they keep.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);
/// Between one question and the next, where there is no moment to wait for.
const PAUSE: Duration = Duration::from_millis(5);

/// A snapshot under way.
struct Taking {
    job: JobId,
    snapshot: u64,
    storage: Storage,
    /// The slaves, in shard order.
    control: Vec<Channel>,
    shards: Shards,
    target: (DataPath, bool),
    tensors: Vec<Tensor>,
    description: Description,
}

impl Master {
    /// A client wants a running job's model.
    pub(super) fn snapshot(&mut self, wanted: Wanted, reply: Reply) {
        let taking = self.taking(wanted);
        tokio::spawn(async move {
            let result = match taking {
                Ok((taking, running)) => taking.take(running).await.map(FromMaster::Snapshot),
                Err(e) => Err(e),
            };
            // An error means that nobody waits for the answer any more.
            let _ = reply.send(result);
        });
    }

    /// Prepares it; with what ends when the job does, which has no other snapshot before that is dropped.
    fn taking(&mut self, wanted: Wanted) -> Result<(Taking, oneshot::Receiver<()>)> {
        let Wanted { job: id, path, overwrite } = wanted;
        let job = self.jobs.get_mut(&id).ok_or_else(|| super::clients::unknown(id))?;
        let Some(started) = job.started() else {
            return Err(Error::user(format!("job {id} does not run, so there is no model to be read")));
        };
        let slaves = started.slaves.clone();
        if started.snapshot.as_ref().is_some_and(|taking| !taking.is_closed()) {
            return Err(Error::user(format!("a snapshot of job {id} is under way; ask again when it is done")));
        }
        let (runs, running) = oneshot::channel();
        started.snapshot = Some(runs);
        let has_none = started.driver.progress.scalar(NO_MODEL, 0.0) > 0.0;
        let (save, tensors, description) = self.described(id)?.ok_or_else(|| {
            Error::user(format!(
                "job {id} keeps no model, since it was submitted without --model: there is none to read"
            ))
        })?;
        if has_none {
            return Err(Error::user(format!(
                "job {id} has no model yet that could be read: its solver makes one at its end, or once it learns from all \
                 rows; ask again later"
            )));
        }
        let target = DataPath(path);
        if target == save.path {
            return Err(Error::user(format!("job {id} will save its own model to {target}; give another path")));
        }
        self.snapshots += 1;
        let found: Vec<_> = slaves.iter().filter_map(|slave| self.slaves.get(*slave)).collect();
        let bulk = self.slaves.bulk(&slaves, &self.network);
        let taking = Taking {
            job: id,
            snapshot: self.snapshots,
            storage: self.storage.clone(),
            control: found.into_iter().map(|slave| slave.control.clone()).collect(),
            shards: Shards { job: id, bulk, homes: Vec::new(), snapshot: Some(self.snapshots), stop: Arc::default() },
            target: (target, overwrite),
            tensors,
            description,
        };
        Ok((taking, running))
    }
}

impl Taking {
    async fn take(self, mut running: oneshot::Receiver<()>) -> Result<Moment> {
        let (job, snapshot, control, stop) = (self.job, self.snapshot, self.control.clone(), self.shards.stop.clone());
        let saved = tokio::select! {
            saved = self.save() => saved,
            anew = &mut running => {
                stop.store(true, Ordering::Relaxed);
                // What slaves keep for it goes with the job.
                return Err(over(job, anew.is_ok()));
            }
        };
        let release = ToSlave::Snapshot(ToKeeper::Release { job, snapshot });
        // Those that did not hear it drop theirs with the next one, or with the job.
        join_all(control.iter().map(|slave| slave.ask::<_, FromSlave>(&release, RELEASE_WITHIN))).await;
        match saved {
            // Its workers are stopped: that it ends, or begins anew, comes to light when they have.
            Err(e) if e.fault == Fault::Cancelled => {
                let anew = tokio::time::timeout(WITHIN, running).await;
                Err(over(job, matches!(anew, Ok(Ok(())))))
            }
            saved => saved.map_err(|e| e.context(format!("a snapshot of job {job}"))),
        }
    }

    async fn save(self) -> Result<Moment> {
        let (moment, homes) = self.met().await?;
        let Taking { storage, shards, target: (path, overwrite), tensors, description, .. } = self;
        let shards = Shards { homes, ..shards };
        let work = move || shards.save(&storage, (&path, overwrite), &tensors, &description);
        let saved = tokio::task::spawn_blocking(work).await;
        saved.unwrap_or_else(|e| Err(Error::bug(format!("saving a snapshot ended early: {e}"))))?;
        Ok(moment)
    }

    /// Brings all slaves to keep one moment, and gives it with where the tables lived then.
    async fn met(&self) -> Result<(Moment, Vec<Home>)> {
        let begin = Instant::now();
        let (mut meeting, mut at) = (Meeting::default(), None);
        while let Some(left) = WITHIN.checked_sub(begin.elapsed()) {
            let mark = ToSlave::Snapshot(ToKeeper::Mark { job: self.job, snapshot: self.snapshot, at });
            let asked = self.control.iter().map(|slave| async {
                match slave.ask(&mark, left).await? {
                    FromSlave::Marked(marked) => Ok(marked),
                    other => Err(Error::bug(format!("a slave answered {other:?} to a snapshot"))),
                }
            });
            match meeting.hear(&try_join_all(asked).await?) {
                Met::All(moment, homes) => return Ok((moment, homes)),
                Met::Ask(next) => at = next,
            }
            if at.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let seconds = WITHIN.as_secs();
        Err(Error::cluster(format!("its slaves came to no moment that all of them keep within {seconds} s")))
    }
}

/// The job ended meanwhile, or began anew.
fn over(job: JobId, anew: bool) -> Error {
    Error::cluster(if anew {
        format!("a snapshot of job {job}: it lost a slave and started over before all was read; ask again later")
    } else {
        format!("a snapshot of job {job}: it ended before all was read")
    })
}
