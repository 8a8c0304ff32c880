//! The masters that wrote into one history, one after the other.

use super::Record;
use flexps_common::ids::JobId;
use std::collections::BTreeSet;

/// What the last master recorded that ended a job, and what is left out with those before it.
#[derive(Debug, PartialEq)]
pub struct Last<'a> {
    /// What was recorded before it.
    pub earlier: &'a [Record],
    /// Its records.
    pub records: &'a [Record],
    /// Jobs that earlier masters ended.
    pub jobs: usize,
    /// How many masters those were.
    pub masters: usize,
}

/// The last master that ended a job, if any did.
pub fn last(records: &[Record]) -> Option<Last<'_>> {
    let (mut busy, mut start) = (Vec::new(), 0);
    for life in records.chunk_by(|_, next| !matches!(next, Record::Begin { .. })) {
        let jobs = ended(life);
        if jobs > 0 {
            busy.push((start, life, jobs));
        }
        start += life.len();
    }
    let (start, own, _) = busy.pop()?;
    let jobs = busy.iter().map(|(_, _, jobs)| jobs).sum();
    Some(Last { earlier: &records[..start], records: own, jobs, masters: busy.len() })
}

/// How many of the jobs that a master had have ended.
fn ended(life: &[Record]) -> usize {
    let (mut had, mut ended) = (BTreeSet::<JobId>::new(), BTreeSet::new());
    for record in life {
        match record {
            Record::Job { job, .. } => _ = had.insert(*job),
            Record::End { job, .. } if had.contains(job) => _ = ended.insert(*job),
            _ => {}
        }
    }
    ended.len()
}
