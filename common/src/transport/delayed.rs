//! A channel whose requests are put off, as on a slow network: for experiments.
//!
//! Invariants: requests go out in the order in which they were made, each so much later; neither a caller nor a thread of
//! the runtime waits meanwhile.

use super::driver::Driver;
use super::{Caller, Channel, Haste, Packet};
use crate::error::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// A request that is put off.
struct Late {
    due: Instant,
    request: Packet,
    deadline: Duration,
    haste: Haste,
    answer: oneshot::Sender<Result<Packet>>,
}

/// See the module. Its task ends with it, behind the requests that are still put off.
pub(super) struct Delayed {
    delay: Duration,
    peer: Arc<str>,
    late: mpsc::UnboundedSender<Late>,
    driver: Option<Arc<Driver>>,
}

impl Delayed {
    /// Puts off the requests of `channel`. Called within the runtime that is to send them.
    pub fn new(channel: Channel, delay: Duration) -> Self {
        let (late, mut receive) = mpsc::unbounded_channel::<Late>();
        let (peer, runtime) = (channel.peer().clone(), Handle::current());
        let driver = channel.0.driver().cloned();
        runtime.clone().spawn(async move {
            while let Some(Late { due, request, deadline, haste, answer }) = receive.recv().await {
                tokio::time::sleep_until(due.into()).await;
                let pending = channel.begin(request, deadline, haste);
                runtime.spawn(async move {
                    // Who no longer waits needs no answer.
                    let _ = answer.send(pending.answer().await);
                });
            }
        });
        Self { delay, peer, late, driver }
    }
}

impl Caller for Delayed {
    fn start(&self, request: Packet, deadline: Duration, haste: Haste) -> oneshot::Receiver<Result<Packet>> {
        let (answer, receive) = oneshot::channel();
        // When the runtime is gone, the answer's sender goes with the request, and the caller hears that.
        let _ = self.late.send(Late { due: Instant::now() + self.delay, request, deadline, haste, answer });
        receive
    }

    fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    fn driver(&self) -> Option<&Arc<Driver>> {
        self.driver.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Result;
    use crate::transport::{Connection, Network, Packet, Service};
    use futures::future::BoxFuture;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[derive(Default)]
    struct Recorder(Mutex<Vec<u32>>);

    impl Service for Recorder {
        fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
            self.0.lock().push(request.message().unwrap());
            Box::pin(async move { Ok(request) })
        }
    }

    #[tokio::test]
    async fn requests_arrive_later_in_their_order_and_nobody_waits_to_send_them() {
        const DELAY: Duration = Duration::from_millis(300);
        let network = Network::in_process();
        let recorder = Arc::new(Recorder::default());
        let _listener = network.listen("a", recorder.clone()).await.unwrap();
        let channel = network.channel("a", "s1").delayed(DELAY);
        let start = Instant::now();
        let sent: Vec<_> =
            (0..50u32).map(|i| channel.start(Packet::control(&i).unwrap(), Duration::from_secs(10))).collect();
        assert!(start.elapsed() < DELAY, "sending took as long as the delay");
        drop(channel);
        for (i, pending) in (0..).zip(sent) {
            assert_eq!(pending.answer().await.unwrap().message::<u32>().unwrap(), i);
            assert!(start.elapsed() >= DELAY, "request {i} was not put off");
        }
        assert_eq!(*recorder.0.lock(), (0..50).collect::<Vec<_>>());
    }
}
