//! What happens to a master, and the listener that makes events of requests.

use crate::master::overview::Overview;
use crate::prepare::Prepared;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::transport::{Connection, Packet, Service};
use flexps_common::wire::control::{FromMaster, FromSlave, ToMaster};
use flexps_common::{Error, Result};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
pub type Reply = oneshot::Sender<Result<FromMaster>>;

/// What a slave was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To open a job.
    Open,
    /// To read, to take facts: whatever is answered by `Ok` and must not fail.
    Order,
    /// To run workers.
    Launch(StageRun),
    /// To change tables in this phase.
    Ops(u64),
    /// To send the tables that move before this phase.
    Move(u64),
    /// To give away a part of this split.
    Give(InputId, u32),
    /// To cancel a stage or to close a job: a failure changes nothing any more.
    Farewell,
}

/// What happened.
pub enum Event {
    /// A request came.
    Request(Connection, Box<ToMaster>, Reply),
    /// A connection ended.
    Broken(Connection),
    /// A job's inputs were listed.
    Prepared(JobId, Result<Prepared>),
    /// A slave answered, or did not.
    Answer(JobId, SlaveId, Asked, Result<FromSlave>),
    /// A model was loaded.
    Loaded(JobId, Result<()>),
    /// A model was saved.
    Saved(JobId, Result<()>),
    /// Somebody wants to see the whole.
    Look(oneshot::Sender<Overview>),
    /// Time went by.
    Tick,
    /// The master is to end.
    Stop,
}

/// The master's listener.
pub struct Front(pub mpsc::UnboundedSender<Event>);

impl Service for Front {
    fn call(&self, from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let (reply, answer) = oneshot::channel();
        let sent = request.message().map(|message| self.0.send(Event::Request(from, Box::new(message), reply)).is_ok());
        Box::pin(async move {
            let ended = || Error::cluster("the master is ending").retryable();
            if !sent? {
                return Err(ended());
            }
            Packet::control(&answer.await.map_err(|_| ended())??)
        })
    }

    fn gone(&self, from: Connection) {
        // An error means that the master has ended.
        let _ = self.0.send(Event::Broken(from));
    }
}
