//! Server-sent events: the master's overview, whenever it has changed.
//!
//! Invariants: the master is asked once per [`EVERY`] however many listen, and not at all when nobody does; of a listener that
//! does not read, only the newest picture is kept, and that is shared by all.

use super::answer::{self, Answer};
use crate::api::Api;
use crate::master::overview::Overview;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often the master is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How long one listens over one connection; less than a connection may live, so that the end is in order.
const LISTENS: Duration = Duration::from_secs(25);
/// After so long without news, a comment says that the connection lives.
const ALIVE: Duration = Duration::from_secs(5);
/// Who listens at once; others are told to come back. Leaves connections for all other requests.
const LISTENERS: usize = 64;

/// See the module.
pub struct Feed {
    newest: watch::Receiver<Bytes>,
    places: Arc<Semaphore>,
}

impl Feed {
    /// A feed, and the task that fills it.
    pub fn start(api: Arc<Api>) -> (Self, JoinHandle<()>) {
        let (publish, newest) = watch::channel(Bytes::new());
        let task = tokio::spawn(fill(api, publish));
        (Self { newest, places: Arc::new(Semaphore::new(LISTENERS)) }, task)
    }

    /// The answer to one who wants to listen.
    pub fn listen(&self, now: &Overview) -> Answer {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let why = format!("{LISTENERS} listen already; come back later");
            return answer::refusal(hyper::StatusCode::SERVICE_UNAVAILABLE, &why);
        };
        let first = stream::once(std::future::ready(event(now)));
        let (mut newest, end) = (self.newest.clone(), Instant::now() + LISTENS);
        newest.mark_unchanged();
        let more = stream::unfold((newest, place), move |(mut newest, place)| async move {
            if Instant::now() >= end {
                return None;
            }
            let piece = match tokio::time::timeout(ALIVE, newest.changed()).await {
                Err(_) => Bytes::from_static(b":\n\n"),
                // The master has ended.
                Ok(Err(_)) => return None,
                Ok(Ok(())) => newest.borrow_and_update().clone(),
            };
            Some((piece, (newest, place)))
        });
        answer::streamed("text/event-stream", first.chain(more).boxed())
    }
}

async fn fill(api: Arc<Api>, publish: watch::Sender<Bytes>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        // The feed's own receiver is always there.
        if publish.receiver_count() < 2 {
            continue;
        }
        // The master has ended.
        let Ok(overview) = api.look().await else { return };
        let essence = essence(&overview);
        if essence != last {
            last = essence;
            // An error means that nobody listens any more.
            let _ = publish.send(event(&overview));
        }
    }
}

/// What makes a picture another one: not the time alone, as long as nothing runs.
fn essence(overview: &Overview) -> String {
    let mut still = overview.clone();
    (still.seconds, still.up) = (0.0, 0.0);
    still.slaves.iter_mut().for_each(|slave| slave.silent = 0.0);
    serde_json::to_string(&still).unwrap_or_default()
}

fn event(overview: &Overview) -> Bytes {
    // JSON has no line breaks, so that one line holds it.
    let json = serde_json::to_string(overview).unwrap_or_default();
    format!("retry: 1000\nevent: overview\ndata: {json}\n\n").into()
}
