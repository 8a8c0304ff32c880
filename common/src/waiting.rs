//! Waiting for a future on a thread of one's own.
//!
//! Invariant: beyond a moment in which others may use the processor, no polling; the thread sleeps until the future's
//! waker unparks it.

use crate::error::{Error, Result};
use futures::FutureExt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What comes within this is not slept for: waking takes as long.
const MOMENT: Duration = Duration::from_micros(50);

/// A moment of looking for something, before one sleeps until it comes.
#[derive(Debug, Default)]
pub struct Moment(Option<Instant>);

impl Moment {
    /// Lets others use the processor between two looks; false once the moment, which begins with the first call, is over.
    pub fn lasts(&mut self) -> bool {
        let lasts = self.0.get_or_insert_with(Instant::now).elapsed() < MOMENT;
        if lasts {
            std::thread::yield_now();
        }
        lasts
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's output.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut moment = Moment::default();
    look(future, || {
        if !moment.lasts() {
            std::thread::park();
        }
        None
    })
}

/// The future's output, if it comes within so long.
pub fn within<T>(future: impl Future<Output = T>, time: Duration) -> Option<T> {
    let end = Instant::now() + time;
    look(future.map(Some), || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Some(None),
        left => {
            std::thread::park_timeout(left);
            None
        }
    })
}

/// The future's output, or the error that ends the wait for it.
pub async fn unless<T>(future: impl Future<Output = T>, ended: impl Future<Output = Error>) -> Result<T> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        error = ended => Err(error),
    }
}

/// The future's output, or what `pause` ends the wait with, which sleeps between two looks.
fn look<T>(future: impl Future<Output = T>, mut pause: impl FnMut() -> Option<T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        if let Some(output) = pause() {
            return output;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn a_wait_ends_when_its_time_is_over_or_with_what_comes_before() {
        let start = Instant::now();
        assert_eq!(within(std::future::pending::<()>(), 20 * MOMENT), None);
        assert!(start.elapsed() >= 20 * MOMENT);
        let (send, receive) = oneshot::channel();
        let late = std::thread::spawn(move || {
            std::thread::sleep(20 * MOMENT);
            send.send(7)
        });
        assert_eq!(within(receive, Duration::from_secs(60)), Some(Ok(7)));
        late.join().unwrap().unwrap();
    }

    #[test]
    fn what_has_come_is_taken_though_the_wait_has_ended() {
        let ended = || std::future::ready(Error::cancelled());
        assert_eq!(block_on(unless(std::future::ready(7), ended())), Ok(7));
        assert_eq!(block_on(unless(std::future::pending::<()>(), ended())), Err(Error::cancelled()));
    }
}
