//! What a slave tells the master of a job unasked.
//!
//! Invariant: the master hears it, unless the job is closed before: what fails on the way is told again.

use crate::jobs::Jobs;
use flexps_common::ids::JobId;
use flexps_common::transport::{Channel, Packet};
use flexps_common::wire::control::{HEARTBEAT_MS, ToMaster};
use std::time::Duration;
use tracing::warn;

/// How long the master may take for an answer to a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Tells the master something of a job, again and again until it has heard it or the job is closed.
pub fn report(runtime: &tokio::runtime::Handle, master: Channel, jobs: Jobs, job: JobId, message: ToMaster) {
    let packet = match Packet::control(&message) {
        Ok(packet) => packet,
        Err(e) => {
            warn!(%job, error = %e, "a report can't be sent");
            return;
        }
    };
    // Started here, so that an empty stage's report does not wait for a runtime thread.
    let mut pending = master.tell(packet.clone(), REPORT_DEADLINE);
    runtime.spawn(async move {
        while let Err(e) = pending.answer().await {
            if !e.retry || jobs.find(job).is_err() {
                warn!(%job, error = %e, "the master did not take a report");
                return;
            }
            tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
            pending = master.tell(packet.clone(), REPORT_DEADLINE);
        }
    });
}
