//! What a slave does for a checkpoint of a job: gives the chunks that it serves and its rows' columns, and takes those of an
//! earlier start.
//!
//! Invariant: no stage runs meanwhile, so nothing is changed but by this.

use crate::job::OpenJob;
use crate::jobs::Jobs;
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::ids::JobId;
use flexps_common::transport::Packet;
use flexps_common::value::OwnedValues;
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::checkpoint::{BlockRows, ColumnValues, FromKept, LISTED, ToKept};
use flexps_common::wire::kv::FromShard;
use flexps_common::wire::moved::Offered;
use std::ops::Range;
use std::sync::Arc;

/// Does what the master says.
pub async fn hear(jobs: &Jobs, message: &ToKept, body: Bytes) -> Result<Packet> {
    let (answer, body) = match message {
        ToKept::Serves { job, table, from } => {
            let served = settled(jobs, *job).await?.shard.served(*table)?;
            let behind = served.into_iter().filter(|chunk| chunk.id.chunk >= *from);
            (FromKept::Served(behind.take(LISTED).collect::<Vec<Offered>>()), Bytes::new())
        }
        ToKept::Give { job, chunk } => {
            let mut values = BodyWriter::default();
            let head = jobs.find(*job)?.shard.export(chunk, &mut values)?;
            (FromKept::Chunk(head), values.finish())
        }
        ToKept::Take { job, chunk } => {
            let (job, mut values) = (settled(jobs, *job).await?, BodyReader::new(body));
            job.shard.restore(chunk, &mut values)?;
            values.end()?;
            (FromKept::Taken, Bytes::new())
        }
        ToKept::GiveColumn { job, column, rows } => give(&*jobs.find(*job)?, column, *rows)?,
        ToKept::TakeColumn { job, column, rows, values } => {
            take(&*jobs.find(*job)?, column, *rows, *values, body)?;
            (FromKept::Taken, Bytes::new())
        }
    };
    Packet::bulk(&FromShard::Checkpoint(answer), body)
}

/// A job of which no update waits for the end of its stage any more.
async fn settled(jobs: &Jobs, id: JobId) -> Result<Arc<OpenJob>> {
    let job = jobs.find(id)?;
    job.finish_all().await?;
    Ok(job)
}

/// What rows have in a column, if their block has it.
fn give(job: &OpenJob, name: &str, rows: BlockRows) -> Result<(FromKept, Bytes)> {
    let mut values = BodyWriter::default();
    let given = change(job, name, rows, |column| {
        let Some(column) = column else { return Ok(None) };
        let (width, column) = (width(name, rows, column)?, column.borrow());
        let size = column.kind().size();
        let places = places(rows, width * size)?;
        values.bytes(&column.bytes()[places]);
        Ok(Some(ColumnValues { element: column.kind(), width: width as u32 }))
    })?;
    Ok((FromKept::Column(given), values.finish()))
}

/// Puts what rows have into their block's column.
fn take(job: &OpenJob, name: &str, rows: BlockRows, values: ColumnValues, body: Bytes) -> Result<()> {
    let ColumnValues { element, width: each } = values;
    let mut body = BodyReader::new(body);
    let values = body.values(element, rows.count as usize * each as usize)?;
    body.end()?;
    change(job, name, rows, |column| {
        let column = column.get_or_insert_with(|| OwnedValues::zeros(element, rows.of as usize * each as usize));
        let found = (column.borrow().kind(), width(name, rows, column)?);
        if found != (element, each as usize) {
            let ((kind, has), block) = (found, rows.block);
            return Err(Error::bug(format!(
                "column {name} of block {block} holds {has} {kind} a row, not {each} {element}"
            )));
        }
        let places = places(rows, each as usize * element.size())?;
        column.borrow_mut().bytes_mut()[places].copy_from_slice(values.get().bytes());
        Ok(())
    })
}

/// Takes a block's column out of the slave's keeping and puts it back, as it is then.
fn change<T>(
    job: &OpenJob,
    name: &str,
    rows: BlockRows,
    change: impl FnOnce(&mut Option<OwnedValues>) -> Result<T>,
) -> Result<T> {
    let (input, block) = (rows.input, rows.block as usize);
    let mut column = job.take_column(input, block, name);
    let changed = change(&mut column);
    if let Some(column) = column {
        job.put_column(input, block, name, column);
    }
    changed
}

/// How many values of a column each row has.
fn width(name: &str, rows: BlockRows, column: &OwnedValues) -> Result<usize> {
    let (values, of) = (column.borrow().len(), rows.of as usize);
    match values.checked_div(of) {
        Some(width @ 1..) if width * of == values => Ok(width),
        _ => Err(Error::bug(format!(
            "column {name} of block {} holds {values} values for {of} rows: one that goes with checkpoints has as many for each",
            rows.block
        ))),
    }
}

/// Where rows lie among their block's bytes, each of which has so many.
fn places(rows: BlockRows, each: usize) -> Result<Range<usize>> {
    let (from, behind) = (u64::from(rows.from), u64::from(rows.from) + u64::from(rows.count));
    if behind > u64::from(rows.of) {
        return Err(Error::bug(format!("rows {from} to {behind} of a block of {}", rows.of)));
    }
    Ok(from as usize * each..behind as usize * each)
}
