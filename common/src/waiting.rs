//! Waiting for a future on a thread of one's own.
//!
//! Invariant: beyond a moment in which others may use the processor, no polling; the thread sleeps until the future's
//! waker or a cancel unparks it, and looks at both.

use crate::error::Result;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// An answer that comes within this is not slept for: waking takes as long.
const MOMENT: Duration = Duration::from_micros(50);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's output, or the error of `check`, which is asked before each sleep: what it looks at must be changed
/// before this thread is unparked.
pub fn block_on<T>(future: impl Future<Output = T>, check: impl Fn() -> Result<()>) -> Result<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut since = None;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        check()?;
        if since.get_or_insert_with(Instant::now).elapsed() < MOMENT {
            std::thread::yield_now();
        } else {
            std::thread::park();
        }
    }
}
