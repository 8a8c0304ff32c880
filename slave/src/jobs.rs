//! The open jobs, shared by the node's loop, which changes them, and the bulk listener.

use crate::job::OpenJob;
use flexps_common::error::{Error, Result};
use flexps_common::ids::{JobId, SlaveId};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Default)]
pub struct Jobs(Arc<RwLock<FxHashMap<JobId, Arc<OpenJob>>>>);

impl Jobs {
    /// An open job.
    pub fn find(&self, id: JobId) -> Result<Arc<OpenJob>> {
        let found = self.0.read().get(&id).cloned();
        found.ok_or_else(|| Error::cluster(format!("job {id} is not open here; it ended or was never begun")))
    }

    /// Adds an open job.
    pub fn insert(&self, job: Arc<OpenJob>) {
        self.0.write().insert(job.id, job);
    }

    /// Closes a job.
    pub fn close(&self, id: JobId, reason: &Error) {
        let job = self.0.write().remove(&id);
        if let Some(job) = job {
            job.close(reason);
        }
    }

    /// Closes those that were opened for another identity than this one.
    pub fn close_others(&self, you: SlaveId, reason: &Error) {
        let others: Vec<JobId> = self.0.read().values().filter(|job| job.you() != you).map(|job| job.id).collect();
        others.into_iter().for_each(|id| self.close(id, reason));
    }

    /// Closes all of them.
    pub fn close_all(&self, reason: &Error) {
        let jobs = std::mem::take(&mut *self.0.write());
        jobs.values().for_each(|job| job.close(reason));
    }
    /// Fails the stage runs in which nobody can go on any more. To be asked from time to time.
    pub fn untangle(&self) {
        self.0.read().values().for_each(|job| job.untangle());
    }
}
