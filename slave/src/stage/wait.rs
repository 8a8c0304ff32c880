//! Waiting for a future on a worker's own thread.
//!
//! Invariant: no polling; the thread sleeps until the future's waker or a cancel unparks it, and looks at both.

use flexps_common::error::Result;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

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
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        check()?;
        std::thread::park();
    }
}
