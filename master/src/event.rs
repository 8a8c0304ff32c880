//! What happens to a master, and the listener that makes events of requests, or passes them to the API.

use crate::api::Api;
use crate::history::{Page, Start};
use crate::job::driver::Place;
use crate::master::overview::{Overview, Waiting};
use crate::prepare::Prepared;
use flexps_common::ids::{InputId, JobId, SlaveId, StageRun};
use flexps_common::transport::{Connection, Packet, Service};
use flexps_common::wire::api::{JobLine, JobNews};
use flexps_common::wire::control::{FromMaster, FromSlave, ToMaster};
use flexps_common::wire::slaves::SlaveLine;
use flexps_common::{Error, Result};
use futures::future::{BoxFuture, ready};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
pub type Reply = oneshot::Sender<Result<FromMaster>>;

/// What a slave was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To open a job, for the so-many-th time.
    Open(u32),
    /// To read, to take facts: whatever is answered by `Ok` and must not fail.
    Order,
    /// To run workers.
    Launch(StageRun),
    /// To change tables in this phase.
    Ops(u64),
    /// To send the tables that move before this phase.
    Move(u64),
    /// To give away a part of this split.
    Give(u32, InputId, u32),
    /// To cancel a stage or to close a job: a failure changes nothing any more.
    Farewell,
}

/// One who waits for news of a job.
pub struct Waiter {
    /// The job.
    pub job: JobId,
    /// The token of its submission, if he gave it: no other job is meant.
    pub token: Option<u64>,
    /// The version that he knows; 0 at first.
    pub seen: u64,
    /// How long he waits for a newer one, or the job's end.
    pub wait: Duration,
    /// Where the news go.
    pub reply: oneshot::Sender<Result<JobNews>>,
}

/// What happened.
pub enum Event {
    /// A request came that is none of the API.
    Request(Connection, Box<ToMaster>, Reply),
    /// A slave tells what workers or readers of it did; it was answered when it came, since nothing follows from the answer.
    Report(Connection, Box<ToMaster>),
    /// A connection ended.
    Broken(Connection),
    /// A job's inputs were listed.
    Prepared(JobId, Result<Prepared>),
    /// A slave answered, or did not.
    Answer(JobId, SlaveId, Asked, Result<FromSlave>),
    /// A model was loaded.
    Loaded(JobId, Result<()>),
    /// A model was saved; a remark if the job's checkpoint was not removed then.
    Saved(JobId, Result<Option<String>>),
    /// A checkpoint of so many bytes was written.
    Kept(JobId, Result<u64>),
    /// Tables were restored as they were at a place.
    Restored(JobId, Result<Arc<Place>>),
    /// Somebody wants to see the whole.
    Look(oneshot::Sender<Overview>),
    /// Somebody wants to see its jobs alone.
    Jobs(oneshot::Sender<Vec<JobLine>>),
    /// Somebody wants to see its slaves alone.
    Slaves(oneshot::Sender<Vec<SlaveLine>>),
    /// Somebody wants to see what waits, alone.
    Queue(oneshot::Sender<Vec<Waiting>>),
    /// Somebody wants news of a job.
    Watch(Waiter),
    /// Somebody wants a job to end, that of this token if he gave it; he is told how it has, if it has already.
    Cancel(JobId, Option<u64>, oneshot::Sender<Result<Option<String>>>),
    /// Somebody wants a page of records.
    History(Start, oneshot::Sender<Page>),
    /// Another policy is to decide from now on.
    SetPolicy(String, oneshot::Sender<Result<()>>),
    /// Time went by.
    Tick,
    /// The master is to end.
    Stop,
}

/// The master's listener.
pub struct Front {
    /// Where requests go that are none of the API.
    pub events: mpsc::UnboundedSender<Event>,
    /// The same as over HTTP.
    pub api: Arc<Api>,
}

impl Service for Front {
    fn call(&self, from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let ended = || Error::cluster("the master is ending").retryable();
        let (reply, answer) = oneshot::channel();
        let sent = match request.message() {
            Ok(ToMaster::Api(request)) => {
                let api = self.api.clone();
                return Box::pin(async move { Packet::control(&FromMaster::Api(api.answer(&request).await)) });
            }
            // What was sent first is handled first.
            Ok(report @ (ToMaster::StageDone { .. } | ToMaster::ReadDone { .. })) => {
                let taken = self.events.send(Event::Report(from, Box::new(report))).map_err(|_| ended());
                return Box::pin(ready(taken.and_then(|()| Packet::control(&FromMaster::Ok))));
            }
            Ok(message) => Ok(self.events.send(Event::Request(from, Box::new(message), reply)).is_ok()),
            Err(e) => Err(e),
        };
        Box::pin(async move {
            if !sent? {
                return Err(ended());
            }
            Packet::control(&answer.await.map_err(|_| ended())??)
        })
    }

    fn gone(&self, from: Connection) {
        // An error means that the master has ended.
        let _ = self.events.send(Event::Broken(from));
    }
}
