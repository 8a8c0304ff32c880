//! Sockets that are served by whoever waits for an answer of theirs: that thread writes its own request and takes its
//! own answer off the socket, so that no other one of its process need wake in between.
//!
//! Invariant: somebody serves the sockets at nearly all times: a thread that waits, or the driver's own, which comes when
//! for [`AWAY`] none has begun to wait, and leaves to the next one that does.

use crate::error::{Error, Result};
use crate::waiting::block_on;
use futures::FutureExt;
use parking_lot::Mutex;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;

/// The driver's own thread stays away for so long at least, since to take turns with it costs two switches.
const AWAY: Duration = Duration::from_millis(4);
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
    turns: Mutex<Turns>,
    /// Ends the turn of the driver's own thread; it may have ended already.
    leave: Notify,
}

/// Whose turn it is.
struct Turns {
    /// Threads that wait now.
    waiting: usize,
    /// How often one has begun to.
    waits: u64,
    own: Own,
    /// Where requests wait for somebody to serve. Only while nobody does.
    outboxes: Vec<Arc<dyn Outbox>>,
    /// Bytes of these.
    queued: usize,
}

/// Requests that are not with a socket yet.
pub(super) trait Outbox: Send + Sync {
    /// Hands them to the socket. Within the driver's runtime that wakes the task that writes them without a call of the system.
    fn put(&self);
}

/// When a request that was queued is to be handed to its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// By who made it: somebody serves, or is about to.
    Now,
    /// By who serves next.
    Later,
    /// The same, and that should be who made it, at once: many bytes wait.
    Much,
}

/// What the driver's own thread does, or is to do at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    /// It leaves the sockets to others.
    Away,
    /// It serves them until a thread begins to wait.
    Serves,
    /// The same, but past one such: it writes a large request better than who is to make the next one.
    Stays,
    /// It ends.
    Ended,
}

impl Driver {
    pub fn start() -> Result<Self> {
        let failed = |e: std::io::Error| Error::cluster(format!("the thread 'links' can't be started: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let shared = Arc::new(Shared {
            runtime: ManuallyDrop::new(runtime),
            turns: Mutex::new(Turns::default()),
            leave: Notify::new(),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || own.stand_in());
        let stand_in = thread.map_err(failed)?.thread().clone();
        Ok(Self { shared, stand_in })
    }

    /// The future's output, waited for on this thread, which serves the sockets meanwhile. Not to be called within a runtime.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let (shared, start) = (&self.shared, Instant::now());
        let (leaves, outboxes) = shared.turns.lock().begin();
        if leaves {
            shared.leave.notify_one();
        }
        let output = shared.runtime.block_on(async {
            put(outboxes);
            awake(future, start).await
        });
        shared.turns.lock().waiting -= 1;
        if start.elapsed() >= AWAY {
            // The driver's own thread may rest until this.
            self.stand_in.unpark();
        }
        output
    }

    /// A request of so many bytes was put into an outbox. It is written when a thread waits next, or with [`Driver::flush`]; a large
    /// one, or one that a runtime's task made, by the driver's own thread.
    pub fn queue(&self, bytes: usize, outbox: Arc<dyn Outbox>) -> When {
        let mut turns = self.shared.turns.lock();
        if bytes > MOST || Handle::try_current().is_ok() {
            turns.call(bytes > MOST);
            drop(turns);
            self.stand_in.unpark();
            return When::Now;
        }
        turns.queue(bytes, outbox)
    }

    /// What was queued is written now. Not to be called within a runtime.
    pub fn flush(&self) {
        let outboxes = self.shared.turns.lock().pass();
        if !outboxes.is_empty() {
            self.shared.runtime.block_on(async {
                put(outboxes);
                tokio::task::yield_now().await;
            });
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

    /// See [`Driver::queue`].
    pub fn queue(&self, bytes: usize, outbox: Arc<dyn Outbox>) -> When {
        match self {
            Self::Runtime(_) => When::Now,
            Self::Waiters(driver) => driver.queue(bytes, outbox),
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
        self.shared.turns.lock().own = Own::Ended;
        self.shared.leave.notify_one();
        self.stand_in.unpark();
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting: 0, waits: 0, own: Own::Serves, outboxes: Vec::new(), queued: 0 }
    }
}

impl Turns {
    /// Whether a request may wait for who serves next.
    fn queue(&mut self, bytes: usize, outbox: Arc<dyn Outbox>) -> When {
        if self.own != Own::Away || self.waiting > 0 {
            return When::Now;
        }
        if !self.outboxes.iter().any(|known| Arc::ptr_eq(known, &outbox)) {
            self.outboxes.push(outbox);
        }
        self.queued += bytes;
        if self.queued > MOST { When::Much } else { When::Later }
    }

    /// What whoever serves now is to put.
    fn take(&mut self) -> Vec<Arc<dyn Outbox>> {
        self.queued = 0;
        std::mem::take(&mut self.outboxes)
    }

    /// A thread begins to wait; whether the driver's own is to leave to it, and what it is to put.
    fn begin(&mut self) -> (bool, Vec<Arc<dyn Outbox>>) {
        self.waiting += 1;
        self.waits += 1;
        let before = self.own;
        match before {
            Own::Serves => self.own = Own::Away,
            Own::Stays => self.own = Own::Serves,
            Own::Away | Own::Ended => {}
        }
        (before == Own::Serves, self.take())
    }

    /// The driver's own thread is to come at once, for a large request or another one.
    fn call(&mut self, large: bool) {
        if large {
            self.own = Own::Stays;
        } else if self.own == Own::Away {
            self.own = Own::Serves;
        }
    }

    /// A thread serves in passing if there is something to put.
    fn pass(&mut self) -> Vec<Arc<dyn Outbox>> {
        self.waits += u64::from(!self.outboxes.is_empty());
        self.take()
    }

    /// The driver's own thread comes: what it is to put, unless others serve.
    fn come(&mut self) -> Option<Vec<Arc<dyn Outbox>>> {
        if self.waiting > 0 && self.own != Own::Ended {
            self.own = Own::Away;
        }
        matches!(self.own, Own::Serves | Own::Stays).then(|| self.take())
    }
}

impl Shared {
    /// The driver's own thread.
    fn stand_in(&self) {
        while self.stay_away() {
            let outboxes = self.turns.lock().come();
            if let Some(outboxes) = outboxes {
                self.runtime.block_on(async {
                    put(outboxes);
                    self.leave.notified().await;
                });
            }
        }
    }

    /// Until it is called, or nobody has begun to wait for a while; false once it is to end.
    fn stay_away(&self) -> bool {
        loop {
            let Turns { own, waits, .. } = *self.turns.lock();
            if own != Own::Away {
                return own != Own::Ended;
            }
            std::thread::park_timeout(AWAY);
            let rests = {
                let mut turns = self.turns.lock();
                let idle = turns.own == Own::Away && turns.waits == waits;
                if idle && turns.waiting == 0 {
                    turns.own = Own::Serves;
                }
                idle && turns.waiting > 0
            };
            if rests {
                // Who waits for so long says when it ends, and this looks again in any case.
                std::thread::park_timeout(REST);
            }
        }
    }
}

fn put(outboxes: Vec<Arc<dyn Outbox>>) {
    outboxes.into_iter().for_each(|outbox| outbox.put());
}

/// The future, looked at for a moment before this thread sleeps.
async fn awake<T>(future: impl Future<Output = T>, start: Instant) -> T {
    let mut future = pin!(future);
    while start.elapsed() < MOMENT {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
        // The tasks write what was put and take what has come.
        tokio::task::yield_now().await;
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
        std::thread::yield_now();
    }
    future.await
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is not used after this. In the background, since whoever drops it may be within a runtime.
        unsafe { ManuallyDrop::take(&mut self.runtime) }.shutdown_background();
    }
}
