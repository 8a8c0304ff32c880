//! What a slave does for a checkpoint of a job: gives the chunks that it serves, and takes those of an earlier start.
//!
//! Invariant: no stage runs meanwhile, so nothing is changed but by this.

use crate::job::OpenJob;
use crate::jobs::Jobs;
use bytes::Bytes;
use flexps_common::error::Result;
use flexps_common::ids::JobId;
use flexps_common::transport::Packet;
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::checkpoint::{FromKept, LISTED, ToKept};
use flexps_common::wire::kv::FromShard;
use flexps_common::wire::moved::Offered;
use std::sync::Arc;

/// Does what the master says.
pub fn hear(jobs: &Jobs, message: &ToKept, body: Bytes) -> Result<Packet> {
    let (answer, body) = match message {
        ToKept::Serves { job, table, from } => {
            let served = settled(jobs, *job)?.shard.served(*table)?;
            let behind = served.into_iter().filter(|chunk| chunk.id.chunk >= *from);
            (FromKept::Served(behind.take(LISTED).collect::<Vec<Offered>>()), Bytes::new())
        }
        ToKept::Give { job, chunk } => {
            let mut values = BodyWriter::default();
            let head = jobs.find(*job)?.shard.export(chunk, &mut values)?;
            (FromKept::Chunk(head), values.finish())
        }
        ToKept::Take { job, chunk } => {
            let (job, mut values) = (settled(jobs, *job)?, BodyReader::new(body));
            job.shard.restore(chunk, &mut values)?;
            values.end()?;
            (FromKept::Taken, Bytes::new())
        }
    };
    Packet::bulk(&FromShard::Checkpoint(answer), body)
}

/// A job of which no update waits for the end of its stage any more.
fn settled(jobs: &Jobs, id: JobId) -> Result<Arc<OpenJob>> {
    let job = jobs.find(id)?;
    job.runs.finish();
    Ok(job)
}
