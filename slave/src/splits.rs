//! How a reader comes by its splits: the master hands them out.
//!
//! Invariant: a reader ends when the master says that nothing is left for it, not when it has nothing at the moment. One that
//! was told to ask later does so at once when it has read a split to its end, so that the master knows.

use crate::node::REPORT_DEADLINE;
use crate::reader::NextSplit;
use crate::reader::held::Held;
use flexps_common::error::Error;
use flexps_common::ids::{InputId, JobId, SlaveId};
use flexps_common::transport::Channel;
use flexps_common::wire::control::{FromMaster, ToMaster};
use std::sync::Arc;
use std::time::Duration;

/// Asks the master for the splits of a job's input; `held` says how many of them were read.
pub fn asked_of(master: Channel, slave: SlaveId, job: JobId, input: InputId, held: Arc<Held>) -> NextSplit {
    Box::new(move || {
        let (master, held) = (master.clone(), held.clone());
        Box::pin(async move {
            loop {
                let ask = ToMaster::NextSplit { slave, job, input, read: held.read() };
                match master.ask(&ask, REPORT_DEADLINE).await? {
                    FromMaster::Split(split) => return Ok(split),
                    FromMaster::Later(ms) => held.pause(Duration::from_millis(ms)).await,
                    answer => return Err(Error::cluster(format!("no split from the master but {answer:?}"))),
                }
            }
        })
    })
}
