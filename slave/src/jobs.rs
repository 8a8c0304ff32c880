//! The open jobs, shared by the node's loop, which changes them, and the bulk listener.

use crate::job::OpenJob;
use crate::memory;
use flexps_common::error::{Error, Result};
use flexps_common::ids::JobId;
use flexps_common::wire::slaves::Member;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Clone, Default)]
pub struct Jobs {
    open: Arc<RwLock<FxHashMap<JobId, Arc<OpenJob>>>>,
    /// Whether there ever was one.
    any: Arc<AtomicBool>,
}

impl Jobs {
    /// An open job.
    pub fn find(&self, id: JobId) -> Result<Arc<OpenJob>> {
        let found = self.open.read().get(&id).cloned();
        found.ok_or_else(|| Error::cluster(format!("job {id} is not open here; it ended or was never begun")))
    }

    /// Adds an open job. What memory took before is nothing of it, if no other is open; with the first one the process began.
    pub fn insert(&self, job: Arc<OpenJob>) {
        let mut open = self.open.write();
        if open.is_empty() && self.any.swap(true, Ordering::Relaxed) {
            memory::forget_peak();
        }
        open.insert(job.id, job);
    }

    /// Closes a job.
    pub fn close(&self, id: JobId, reason: &Error) {
        let job = self.open.write().remove(&id);
        if let Some(job) = job {
            job.close(reason);
        }
    }

    /// Closes those that were opened for another identity than this one, or by another master.
    pub fn close_others(&self, you: Member, reason: &Error) {
        let others: Vec<JobId> =
            self.open.read().values().filter(|job| job.member() != you).map(|job| job.id).collect();
        others.into_iter().for_each(|id| self.close(id, reason));
    }

    /// Closes all of them.
    pub fn close_all(&self, reason: &Error) {
        let jobs = std::mem::take(&mut *self.open.write());
        jobs.values().for_each(|job| job.close(reason));
    }

    /// Fails the stage runs in which nobody can go on any more. To be asked from time to time.
    pub fn untangle(&self) {
        self.open.read().values().for_each(|job| job.untangle());
    }
}
