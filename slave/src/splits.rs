//! How a reader comes by its splits: the master hands them out.
//!
//! Invariant: a reader ends when the master says that nothing is left for it, not when it has nothing at the moment. One that
//! was told to ask later does so at once when it has read a split to its end, so that the master knows.

use crate::node::{MASTER_LOST, unknown_there};
use crate::reader::NextSplit;
use crate::reader::held::Held;
use flexps_common::error::Error;
use flexps_common::ids::{InputId, JobId};
use flexps_common::transport::Channel;
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_common::wire::slaves::Member;
use std::sync::Arc;
use std::time::Duration;

/// Whose splits: a slave's, of a job's input, in the reading that the master counts so.
#[derive(Debug, Clone, Copy)]
pub struct Of {
    /// The slave.
    pub slave: Member,
    /// The job.
    pub job: JobId,
    /// The input.
    pub input: InputId,
    /// The reading.
    pub time: u32,
}

/// Asks the master for splits; `held` says how many of them were read.
pub fn asked_of(master: Channel, of: Of, held: Arc<Held>) -> NextSplit {
    let Of { slave, job, input, time } = of;
    Box::new(move || {
        let (master, held) = (master.clone(), held.clone());
        Box::pin(async move {
            loop {
                let ask = ToMaster::NextSplit { slave, job, input, time, read: held.read() };
                // As long as the master may stand still: it may have handed out a split by then, so there is no asking anew.
                match master.ask(&ask, MASTER_LOST).await? {
                    FromMaster::Split(split) => return Ok(split),
                    FromMaster::Unknown => return Err(unknown_there()),
                    FromMaster::Later(ms) => held.pause(Duration::from_millis(ms)).await,
                    answer => return Err(Error::cluster(format!("no split from the master but {answer:?}"))),
                }
            }
        })
    })
}
