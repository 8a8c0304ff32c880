//! What a slave does for a snapshot of a job: keeps its tables at one moment, shows them, and drops them again.
//!
//! Invariant: what is kept belongs to the phase and the boundary that are told; no other phase begins meanwhile.

use crate::bulk::ANSWER;
use crate::consistency::ENDED;
use crate::job::OpenJob;
use crate::jobs::Jobs;
use crate::kv::Keys;
use crate::stage::mark::Marking;
use flexps_common::error::{Error, Result};
use flexps_common::ids::TableId;
use flexps_common::transport::Packet;
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::control::FromSlave;
use flexps_common::wire::kv::FromShard;
use flexps_common::wire::snapshot::{Boundary, Marked, Moment, ToKeeper};

/// Does what the master says.
pub async fn hear(jobs: &Jobs, message: ToKeeper) -> Result<FromSlave> {
    match message {
        ToKeeper::Mark { job, snapshot, at } => mark(&*jobs.find(job)?, snapshot, at).await.map(FromSlave::Marked),
        ToKeeper::Release { job, snapshot } => {
            jobs.find(job)?.shard.release_snapshot(snapshot);
            Ok(FromSlave::Ok)
        }
    }
}

/// Values of keys as a snapshot keeps them.
pub fn read(job: &OpenJob, snapshot: u64, table: TableId, keys: Keys<'_>) -> Result<Packet> {
    let spec = job.shard.spec(table)?;
    let count = keys.len().saturating_mul(spec.width as usize);
    let bytes = count.saturating_mul(spec.element.size());
    if bytes > ANSWER {
        return Err(Error::bug(format!("a read of {bytes} bytes in one message, at most {ANSWER} are allowed")));
    }
    let mut values = BodyWriter::with_capacity(bytes + 8);
    job.shard.read_snapshot(snapshot, table, keys, values.wrapped_mut(spec.element, count))?;
    Packet::bulk(&FromShard::Values { shown: 0, packings: Vec::new() }, values.finish())
}

/// Keeps the tables as they are at a boundary of the present phase, or now, where clocks don't say what is in them.
async fn mark(job: &OpenJob, snapshot: u64, at: Option<Boundary>) -> Result<Marked> {
    // Stages side by side have no boundary in common.
    let Some(run) = job.runs.alone() else { return Ok(Marked::Busy) };
    run.settled.wait().await?;
    // Under its lock no other phase begins.
    let found = job.staging.at_rest(|phase| {
        let (stage, epoch) = job.launched.lock().clone();
        let moment = Moment { phase, stage, epoch, clock: None };
        let clock = at.filter(|at| at.phase == phase).map(|at| at.clock);
        // Of the run that was waited for, or of none.
        let marking =
            job.runs.alone().filter(|now| now.id == run.id).map(|run| run.mark(snapshot, clock)).transpose()?;
        Ok((moment, marking, job.shard.homes()))
    });
    Ok(match found.transpose()? {
        Some((moment, Some(Marking::Now), homes)) => Marked::Kept { moment, homes },
        Some((moment, Some(Marking::At(clock, taken)), homes)) => match taken.await {
            Ok(()) => {
                // At the end of all clocks there is what is there behind the stage.
                let clock = Some(clock).filter(|clock| *clock < ENDED);
                Marked::Kept { moment: Moment { clock, ..moment }, homes }
            }
            // Another one was asked for, or the run was cancelled.
            Err(_) => Marked::Busy,
        },
        Some((Moment { phase, .. }, Some(Marking::Late(clock)), _)) => Marked::Late(Boundary { phase, clock }),
        Some((_, None, _)) | None => Marked::Busy,
    })
}
