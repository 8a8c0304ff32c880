//! The master as a node: options in, a handle out, and one loop that owns all state.
//!
//! Invariant: everything that changes the state is an event, handled one at a time by the loop's own task; what may
//! block or wait runs elsewhere and comes back as an event.

use crate::api::Api;
use crate::event::{Event, Front};
use crate::http;
use crate::master::Master;
use crate::scheduler::Policy;
use flexps_common::job::Registry;
use flexps_common::storage::Storage;
use flexps_common::transport::{Listener, Network};
use flexps_common::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often the loop looks at its deadlines and sends news to those who wait for it.
const TICK: Duration = Duration::from_millis(50);

/// How long a master that has ended lets its last answers leave.
const LEAVE: Duration = Duration::from_millis(200);

/// Most further events that are handled before stages are matched with slots.
const AT_ONCE: usize = 256;

/// How a master is started.
pub struct Options {
    /// Where it listens, e.g. `127.0.0.1:7070`; in process, any name.
    pub bind: String,
    /// Decides which stage starts where.
    pub policy: Box<dyn Policy>,
    /// The way to the inputs.
    pub storage: Storage,
    /// The folder where searches for threads are kept; they end with their job when none is given.
    pub searches: Option<PathBuf>,
    /// The weights of users' and queues' shares; the others weigh 1.
    pub shares: BTreeMap<String, f64>,
    /// Where records are appended.
    pub history: Option<PathBuf>,
    /// Where pages are served, if anywhere.
    pub http: Option<http::Options>,
}

/// A running master. It ends by [`Handle::stop`] alone.
pub struct Handle {
    address: String,
    http: Option<http::Server>,
    events: mpsc::UnboundedSender<Event>,
    task: JoinHandle<()>,
}

/// Starts a master on the current runtime.
pub async fn start(network: Network, registry: Registry, options: Options) -> Result<Handle> {
    let (events, inbox) = mpsc::unbounded_channel();
    let api = Arc::new(Api::new(registry.clone(), events.clone()));
    let front = Front { events: events.clone(), api: api.clone() };
    let listener = network.listen(&options.bind, Arc::new(front)).await?;
    let address = listener.address().to_owned();
    tracing::info!(address, policy = options.policy.name(), "master listens");
    let pages = match &options.http {
        Some(pages) => Some(http::bind(pages).await?),
        None => None,
    };
    // Last, since it writes into the history: a start that fails changes nothing there.
    let master = Master::new(network, registry, options, events.clone())?;
    let http = pages.map(|pages| pages.serve(api));
    let task = tokio::spawn(run(master, inbox, listener));
    Ok(Handle { address, http, events, task })
}

async fn run(mut master: Master, mut inbox: mpsc::UnboundedReceiver<Event>, listener: Listener) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !master.stopped() {
        let event = tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => event,
                None => break,
            },
            _ = ticks.tick() => Event::Tick,
        };
        master.wake();
        master.handle(event);
        // Stages are matched with slots once for all that has come meanwhile.
        for event in std::iter::from_fn(|| inbox.try_recv().ok()).take(AT_ONCE) {
            master.handle(event);
        }
        master.settle();
    }
    if master.told() {
        tokio::time::sleep(LEAVE).await;
    }
    drop(listener);
}

impl Handle {
    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its pages are; the port is the real one.
    pub fn pages(&self) -> Option<&str> {
        self.http.as_ref().map(http::Server::address)
    }

    /// Cancels all jobs, closes them on their slaves, and ends. Returns at once; see [`Handle::wait`].
    pub fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.events.send(Event::Stop);
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> Result<()> {
        (&mut self.task).await.map_err(|e| Error::bug(format!("the master ended early: {e}")))
    }
}
