//! Runtimes beside the one that a process was started on, so that what is busy never delays what must be prompt.

use crate::error::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime that may be dropped anywhere; its tasks then end at their next wait.
pub struct Background {
    /// To spawn on it.
    pub handle: Handle,
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts so many threads.
    pub fn new(name: &str, threads: usize) -> Result<Self> {
        let built = Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build();
        let runtime = built.map_err(|e| Error::cluster(format!("no thread '{name}' can be started: {e}")))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
