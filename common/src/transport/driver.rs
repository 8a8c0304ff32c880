//! Sockets that are served by whoever waits for an answer of theirs: that thread writes its own request and takes its
//! own answer off the socket, so that no other one of its process need wake in between.
//!
//! Invariant: somebody serves the sockets at nearly all times: a thread that waits, or the driver's own, which comes when
//! for [`AWAY`] none has begun to wait, and leaves to the next one that does.

use crate::error::{Error, Result};
use crate::waiting::block_on;
use futures::FutureExt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;

/// The driver's own thread stays away for so long at least, since to take turns with it costs two switches.
const AWAY: Duration = Duration::from_millis(1);
/// It looks so seldom while one thread waits on and on.
const REST: Duration = Duration::from_millis(20);
/// An answer that comes within this is not slept for: waking takes as long, and longer where a core was idle.
const MOMENT: Duration = Duration::from_micros(50);
/// Requests that wait to be written with others are no more than so many bytes.
const MOST: usize = 64 << 10;

/// See the module. Dropping it ends the tasks of its sockets.
pub(super) struct Driver {
    shared: Arc<Shared>,
    stand_in: Thread,
}

struct Shared {
    /// Whoever is within its `block_on` serves the sockets; of several one does.
    runtime: ManuallyDrop<Runtime>,
    /// Bytes of requests since somebody last served.
    queued: AtomicUsize,
    /// Threads that wait now.
    waiting: AtomicUsize,
    /// How often one has begun to.
    waits: AtomicU64,
    /// The driver's own thread serves, or is about to.
    present: AtomicBool,
    /// It is to leave.
    leave: Notify,
    /// It is to come at once.
    called: AtomicBool,
    /// That was for a large request since the last wait.
    large: AtomicBool,
    ended: AtomicBool,
}

impl Driver {
    pub fn start() -> Result<Self> {
        let failed = |e: std::io::Error| Error::cluster(format!("the thread 'links' can't be started: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let shared = Arc::new(Shared {
            runtime: ManuallyDrop::new(runtime),
            queued: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waits: AtomicU64::new(0),
            present: AtomicBool::new(false),
            leave: Notify::new(),
            called: AtomicBool::new(false),
            large: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || own.stand_in());
        let stand_in = thread.map_err(failed)?.thread().clone();
        Ok(Self { shared, stand_in })
    }

    /// The future's output, waited for on this thread, which serves the sockets meanwhile. Not to be called within a runtime.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let (shared, start) = (&self.shared, Instant::now());
        shared.queued.store(0, SeqCst);
        shared.waiting.fetch_add(1, SeqCst);
        shared.waits.fetch_add(1, SeqCst);
        // It writes large requests better than who is to make the next one.
        if !shared.large.swap(false, SeqCst) && shared.present.load(SeqCst) {
            shared.leave.notify_one();
        }
        let output = shared.runtime.block_on(awake(future, start));
        shared.waiting.fetch_sub(1, SeqCst);
        if start.elapsed() >= AWAY {
            // The driver's own thread may rest until this.
            self.stand_in.unpark();
        }
        output
    }

    /// A request of so many bytes was queued. It is written when a thread waits next, or with [`Driver::flush`]; a large one, or one
    /// that a runtime's task made, by the driver's own thread.
    pub fn queued(&self, bytes: usize) {
        let shared = &self.shared;
        if bytes > MOST || Handle::try_current().is_ok() {
            shared.large.store(bytes > MOST, SeqCst);
            shared.called.store(true, SeqCst);
            self.stand_in.unpark();
        } else if shared.queued.fetch_add(bytes, SeqCst) + bytes > MOST {
            self.flush();
        }
    }

    /// What was queued is written now. Not to be called within a runtime.
    pub fn flush(&self) {
        let shared = &self.shared;
        if shared.queued.swap(0, SeqCst) > 0 && !shared.present.load(SeqCst) {
            shared.waits.fetch_add(1, SeqCst);
            shared.runtime.block_on(tokio::task::yield_now());
        }
    }
}

/// The future's output, waited for on this thread, which is not a runtime's and serves the sockets of `driver`, if there is one.
pub(super) fn wait<T>(driver: Option<&Driver>, future: impl Future<Output = T>) -> T {
    match driver {
        Some(driver) => driver.wait(future),
        None => block_on(future),
    }
}

/// What serves a channel's socket.
#[derive(Clone)]
pub(super) enum Runner {
    /// A runtime's threads.
    Runtime(Handle),
    /// Those that wait.
    Waiters(Arc<Driver>),
}

impl Runner {
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Runtime(runtime) => runtime.spawn(task),
            Self::Waiters(driver) => driver.shared.runtime.spawn(task),
        };
    }

    /// The future's output, waited for on this thread, which is not a runtime's.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        // For its timers.
        let _entered = if let Self::Runtime(runtime) = self { Some(runtime.enter()) } else { None };
        wait(self.driver().map(Arc::as_ref), future)
    }

    /// See [`Driver::queued`].
    pub fn queued(&self, bytes: usize) {
        if let Self::Waiters(driver) = self {
            driver.queued(bytes);
        }
    }

    pub fn driver(&self) -> Option<&Arc<Driver>> {
        match self {
            Self::Runtime(_) => None,
            Self::Waiters(driver) => Some(driver),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.shared.leave.notify_one();
        self.stand_in.unpark();
    }
}

impl Shared {
    /// The driver's own thread.
    fn stand_in(&self) {
        while !self.ended.load(SeqCst) {
            self.present.store(true, SeqCst);
            if self.waiting.load(SeqCst) == 0 {
                self.runtime.block_on(self.leave.notified());
            }
            self.present.store(false, SeqCst);
            self.stay_away();
        }
    }

    fn stay_away(&self) {
        while !self.ended.load(SeqCst) {
            let before = self.waits.load(SeqCst);
            std::thread::park_timeout(AWAY);
            if self.called.swap(false, SeqCst) {
                return;
            }
            if self.waits.load(SeqCst) == before {
                if self.waiting.load(SeqCst) == 0 {
                    return;
                }
                // Who waits for so long says when it ends, and this looks again in any case.
                std::thread::park_timeout(REST);
            }
        }
    }
}

/// The future, looked at for a moment before this thread sleeps.
async fn awake<T>(future: impl Future<Output = T>, start: Instant) -> T {
    let mut future = pin!(future);
    while start.elapsed() < MOMENT {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
    future.await
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is not used after this. In the background, since whoever drops it may be within a runtime.
        unsafe { ManuallyDrop::take(&mut self.runtime) }.shutdown_background();
    }
}
