//! Calls between nodes of one process: a request runs on the caller's thread until it waits for something, then as a task
//! of the runtime; its packets are moved, not copied.

use super::{Caller, Connection, Haste, Listener, Packet, Service};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The listeners of one process, by address.
#[derive(Clone, Default)]
pub struct Hub(Arc<Inner>);

/// A service and the runtime that its requests run on.
type Bound = (Arc<dyn Service>, Handle);

#[derive(Default)]
struct Inner {
    bound: Mutex<FxHashMap<String, Bound>>,
    next: AtomicU64,
}

struct Guard(Arc<Inner>, String);

impl Drop for Guard {
    fn drop(&mut self) {
        // The service goes outside the lock: it may hold the last callers of other listeners, whose end looks here too.
        let service = self.0.bound.lock().remove(&self.1);
        drop(service);
    }
}

/// A caller of one address.
pub struct HubCaller {
    hub: Arc<Inner>,
    address: String,
    peer: Arc<str>,
    connection: Connection,
}

impl Hub {
    pub(super) fn listen(&self, address: &str, service: Arc<dyn Service>) -> Result<Listener> {
        let mut bound = self.0.bound.lock();
        if bound.contains_key(address) {
            return Err(Error::user(format!("{address} is in use; choose another address")));
        }
        bound.insert(address.to_owned(), (service, Handle::current()));
        let guard = Guard(self.0.clone(), address.to_owned());
        Ok(Listener { address: address.to_owned(), _guard: Box::new(guard) })
    }

    pub(super) fn caller(&self, address: &str, peer: &str) -> HubCaller {
        let connection = Connection(self.0.next.fetch_add(1, Ordering::Relaxed));
        HubCaller { hub: self.0.clone(), address: address.to_owned(), peer: peer.into(), connection }
    }
}

impl Drop for HubCaller {
    fn drop(&mut self) {
        let found = self.hub.bound.lock().get(&self.address).cloned();
        if let Some((service, _)) = found {
            service.gone(self.connection);
        }
    }
}

impl Caller for HubCaller {
    fn start(&self, request: Packet, deadline: Duration, _: Haste) -> oneshot::Receiver<Result<Packet>> {
        let (send, receive) = oneshot::channel();
        let found = self.hub.bound.lock().get(&self.address).cloned();
        match found {
            None => {
                let _ = send.send(Err(super::gone(&self.peer)));
            }
            Some((service, runtime)) => {
                let mut answer = super::serve(&*service, self.connection, request);
                // What is answered at once is answered on this thread: no other needs to wake.
                let _within = runtime.enter();
                if let Poll::Ready(result) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    let _ = send.send(result);
                    return receive;
                }
                let peer = self.peer.clone();
                runtime.spawn(async move {
                    let result = tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
                        Err(Error::cluster(format!("{peer} did not answer within {deadline:?}")).retryable())
                    });
                    let _ = send.send(result);
                });
            }
        }
        receive
    }

    fn peer(&self) -> &Arc<str> {
        &self.peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Network;
    use futures::future::BoxFuture;
    use std::thread::ThreadId;

    struct Teller;

    impl Service for Teller {
        fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
            Box::pin(async move {
                match request.message::<u8>()? {
                    0 => {}
                    1 => tokio::time::sleep(Duration::from_millis(1)).await,
                    2 => std::future::pending().await,
                    _ => panic!("asked for"),
                }
                Packet::control(&format!("{:?}", std::thread::current().id()))
            })
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_need_not_wait_is_answered_on_the_callers_thread() {
        let network = Network::in_process();
        let _listener = network.listen("a", Arc::new(Teller)).await.unwrap();
        let channel = network.channel("a", "s1");
        let ask = move |what: u8| -> Result<(ThreadId, String)> {
            let answer = channel.start(Packet::control(&what)?, Duration::from_millis(200)).wait()?;
            Ok((std::thread::current().id(), answer.message()?))
        };
        let told = std::thread::spawn(move || [0, 1, 2, 3].map(ask)).join().unwrap();
        let [Ok((here, at_once)), Ok((_, later)), Err(late), Err(panicked)] = told else { panic!("{told:?}") };
        assert_eq!(at_once, format!("{here:?}"));
        assert_ne!(later, at_once);
        assert!(late.retry && late.message.contains("s1"), "{late}");
        assert_eq!(panicked.fault, crate::error::Fault::Bug);
    }

    #[tokio::test]
    async fn a_service_that_holds_channels_goes_with_its_listener() {
        struct Holder(crate::transport::Channel);
        impl Service for Holder {
            fn call(&self, _: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
                let pending = self.0.start(request, Duration::from_secs(1));
                Box::pin(pending.answer())
            }
        }
        let network = Network::in_process();
        let listener = network.listen("a", Arc::new(Holder(network.channel("b", "s1")))).await.unwrap();
        drop(listener);
        drop(network.listen("a", Arc::new(Teller)).await.unwrap());
    }

    #[tokio::test]
    async fn an_address_in_use_and_one_that_nobody_has_are_said() {
        let network = Network::in_process();
        let listener = network.listen("a", Arc::new(Teller)).await.unwrap();
        assert!(network.listen("a", Arc::new(Teller)).await.err().unwrap().message.contains("in use"));
        drop(listener);
        let error = network.channel("a", "s1").ask::<u8, String>(&0, Duration::from_secs(1)).await.unwrap_err();
        assert!(error.retry && error.message.contains("s1"), "{error}");
    }
}
