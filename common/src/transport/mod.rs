//! Requests and answers between processes, or within one: the same calls over zeromq and over in-process channels.
//!
//! Invariants: every call has a deadline and names its peer when it fails; the bytes that a sender holds for a slow
//! receiver are bounded; no frame above its limit is ever allocated; a request that is sent again is not run again.

use crate::caught;
use crate::error::{Error, Fault, Result};
use crate::waiting::unless;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request or an answer: an encoded message and, for bulk values, a body that is never copied within a process.
#[derive(Debug, Clone, Default)]
pub struct Packet {
    /// A message encoded by [`crate::wire::codec`].
    pub head: Bytes,
    /// Bulk values; empty for control messages.
    pub body: Bytes,
}

impl Packet {
    /// A packet without body.
    pub fn control<M: serde::Serialize>(message: &M) -> Result<Self> {
        Self::bulk(message, Bytes::new())
    }

    /// A packet with a body.
    pub fn bulk<M: serde::Serialize>(message: &M, body: Bytes) -> Result<Self> {
        Ok(Self { head: crate::wire::codec::encode(message)?.into(), body })
    }

    /// The message in the head.
    pub fn message<M: serde::de::DeserializeOwned>(&self) -> Result<M> {
        crate::wire::codec::decode(&self.head)
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The connection that a request came over; unique within a listener's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// What answers a listener's requests. Called once per request, however often it was sent.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Requests of one connection are started in order of sending; answers may overtake.
    fn call(&self, from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>>;
    /// A connection ended.
    fn gone(&self, _from: Connection) {}
}

mod delayed;
mod driver;
mod in_process;
mod options;
mod zmq;

use driver::Driver;
pub use options::{Options, Secret};

/// The ways by which the nodes of one cluster reach one another.
#[derive(Clone)]
pub enum Network {
    /// All nodes live in this process.
    InProcess(in_process::Hub),
    /// Nodes are processes and speak over sockets.
    Zeromq(zmq::Zmq),
}

/// A bound address; requests are served until it is dropped.
pub struct Listener {
    address: String,
    _guard: Box<dyn Send + Sync>,
}

/// A way to one peer's listener. Cheap to clone; all clones share the connection and its byte credits.
#[derive(Clone)]
pub struct Channel(std::sync::Arc<dyn Caller>);

/// What carries a channel's calls.
trait Caller: Send + Sync {
    /// Queues the request; never blocks a runtime thread. The answer, or the reason why there is none within the deadline,
    /// comes through the returned receiver.
    fn start(&self, request: Packet, deadline: Duration, haste: Haste) -> oneshot::Receiver<Result<Packet>>;
    fn peer(&self) -> &Arc<str>;
    /// What a thread that waits for an answer serves meanwhile.
    fn driver(&self) -> Option<&Arc<Driver>> {
        None
    }
}

/// Whether somebody waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// It goes at once.
    Waits,
    /// It may go a moment later, with others; an error goes at once.
    Patient,
}

/// A call under way.
pub struct Pending {
    peer: Arc<str>,
    answer: oneshot::Receiver<Result<Packet>>,
    driver: Option<Arc<Driver>>,
    /// Whose answer it is, for errors that don't say so.
    of: Option<Arc<str>>,
}

impl Network {
    /// A network within this process.
    pub fn in_process() -> Self {
        Self::InProcess(in_process::Hub::default())
    }

    /// A network of sockets. Called within the tokio runtime that its tasks are to run on.
    pub fn zeromq(options: Options) -> Self {
        Self::Zeromq(zmq::Zmq::new(options))
    }

    /// The same network, whose channels are served by the threads that wait for their answers ([`Pending::wait`]); for
    /// channels that are waited for by threads, not by tasks. Small requests are written when a thread waits, with
    /// [`Channel::flush`], or some milliseconds later.
    pub fn served_by_waiters(&self) -> Result<Self> {
        match self {
            Network::InProcess(hub) => Ok(Network::InProcess(hub.clone())),
            Network::Zeromq(sockets) => Ok(Network::Zeromq(sockets.served_by_waiters()?)),
        }
    }

    /// Serves requests at `address` (`127.0.0.1:7070`; port 0 takes a free one). In-process addresses are any name.
    pub async fn listen(&self, address: &str, service: Arc<dyn Service>) -> Result<Listener> {
        match self {
            Network::InProcess(hub) => hub.listen(address, service),
            Network::Zeromq(sockets) => sockets.listen(address, service).await,
        }
    }

    /// A channel to the listener at `address`. Connects at the first call and again when the connection breaks; `peer` is
    /// what errors call the other side.
    pub fn channel(&self, address: &str, peer: &str) -> Channel {
        match self {
            Network::InProcess(hub) => Channel(Arc::new(hub.caller(address, peer))),
            Network::Zeromq(sockets) => Channel(Arc::new(sockets.caller(address, peer))),
        }
    }
}

impl Listener {
    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Channel {
    /// Sends a request and waits for its answer. An error that the other side's service returned comes back as it was;
    /// an error of the way there names the peer and may be retried.
    pub async fn call(&self, request: Packet, deadline: Duration) -> Result<Packet> {
        self.start(request, deadline).answer().await
    }

    /// Sends a control message and waits for the decoded answer.
    pub async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        request: &Q,
        deadline: Duration,
    ) -> Result<A> {
        self.call(Packet::control(request)?, deadline).await?.message()
    }

    /// Queues a request. Works from any thread and does not wait, unless the peer's byte credits are used up.
    pub fn start(&self, request: Packet, deadline: Duration) -> Pending {
        self.begin(request, deadline, Haste::Waits)
    }

    /// The same for a request that nobody waits for: over sockets its answer, unless it is an error, comes up to a tenth of
    /// a second later, so that many go in one piece and wake the other side once.
    pub fn tell(&self, request: Packet, deadline: Duration) -> Pending {
        self.begin(request, deadline, Haste::Patient)
    }

    /// Requests that were queued are written now, where they would wait for a thread to wait
    /// ([`Network::served_by_waiters`]). Not to be called within a runtime.
    pub fn flush(&self) {
        if let Some(driver) = self.0.driver() {
            driver.flush();
        }
    }

    fn begin(&self, request: Packet, deadline: Duration, haste: Haste) -> Pending {
        let (peer, driver) = (self.0.peer().clone(), self.0.driver().cloned());
        Pending { peer, answer: self.0.start(request, deadline, haste), driver, of: None }
    }

    /// What errors call the other side.
    pub fn peer(&self) -> &Arc<str> {
        self.0.peer()
    }

    /// The same way for requests that leave by `delay` later, for experiments. Called within the runtime that is to send
    /// them.
    pub fn delayed(self, delay: Duration) -> Self {
        Self(Arc::new(delayed::Delayed::new(self, delay)))
    }
}

impl Pending {
    /// The same call, where an error names whose answer it is: the other side's own do not. One of the way there does, if that
    /// is a part of what the channel calls its peer.
    #[must_use]
    pub fn of(mut self, whose: Arc<str>) -> Self {
        self.of = Some(whose);
        self
    }

    /// The answer.
    pub async fn answer(self) -> Result<Packet> {
        let answer = self.answer.await.unwrap_or_else(|_| Err(gone(&self.peer)));
        answer.map_err(|e| named(e, self.of.as_deref()))
    }

    /// The answer, if it has come; none comes after it.
    pub fn try_answer(&mut self) -> Option<Result<Packet>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer.map_err(|e| named(e, self.of.as_deref()))),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(gone(&self.peer))),
        }
    }

    /// The answer, waited for on a thread that is not the runtime's.
    pub fn wait(self) -> Result<Packet> {
        self.wait_unless(std::future::pending())
    }

    /// The same, or the error that ends the wait.
    pub fn wait_unless(self, ended: impl Future<Output = Error>) -> Result<Packet> {
        let driver = self.driver.clone();
        driver::wait(driver.as_deref(), unless(self.answer(), ended))?
    }
}

/// Calls a service; a panic of its becomes an error.
fn serve(service: &dyn Service, from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
    let panicked = |panic: Box<dyn Any + Send>| {
        Err(Error::bug(format!("panicked at this request: {}; its log says where", caught::text(&*panic))))
    };
    match std::panic::catch_unwind(AssertUnwindSafe(|| service.call(from, request))) {
        Ok(answer) => Box::pin(async move { AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(panicked) }),
        Err(panic) => Box::pin(std::future::ready(panicked(panic))),
    }
}

/// What was called off is nobody's fault.
fn named(error: Error, of: Option<&str>) -> Error {
    match of {
        Some(whose) if error.fault != Fault::Cancelled && !error.message.contains(whose) => error.context(whose),
        _ => error,
    }
}

fn gone(peer: &str) -> Error {
    Error::cluster(format!("the connection to {peer} is closed")).retryable()
}
