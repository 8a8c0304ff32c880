//! The masters that wrote into one history, one after the other.

use super::Record;
use flexps_common::ids::JobId;
use std::collections::BTreeSet;

/// What the last master recorded that ended a job, and what is left out with those before it.
#[derive(Debug, PartialEq)]
pub struct Last<'a> {
    /// Its records.
    pub records: &'a [Record],
    /// Jobs that earlier masters ended.
    pub jobs: usize,
    /// How many masters those were.
    pub masters: usize,
}

/// The last master that ended a job, if any did.
pub fn last(records: &[Record]) -> Option<Last<'_>> {
    let lives = records.chunk_by(|_, next| !matches!(next, Record::Begin { .. }));
    let mut busy: Vec<(&[Record], usize)> =
        lives.map(|life| (life, ended(life))).filter(|(_, jobs)| *jobs > 0).collect();
    let (records, _) = busy.pop()?;
    Some(Last { records, jobs: busy.iter().map(|(_, jobs)| jobs).sum(), masters: busy.len() })
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
