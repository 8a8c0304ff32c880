//! Requests that wait at a listener for something.

use super::*;
use tokio::sync::watch;

/// Requests with the head `wait` end when another one comes, after as long a step as their body has bytes, in milliseconds.
/// Each answers with the name of the thread that it ended on.
struct Waiting(watch::Sender<bool>);

impl Service for Waiting {
    fn call(&self, _from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let (go, mut goes) = (self.0.clone(), self.0.subscribe());
        Box::pin(async move {
            if &request.head[..] == b"wait" {
                goes.wait_for(|goes| *goes).await.expect("open");
                std::thread::sleep(Duration::from_millis(request.body.len() as u64));
            } else {
                go.send_replace(true);
            }
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            Ok(Packet { head: name.into(), body: Bytes::new() })
        })
    }
}

/// The threads on which requests end that wait and then take so many milliseconds each.
async fn ended_on(takes: usize) -> Vec<Bytes> {
    let network = network(|_| {});
    let listener = network.listen("127.0.0.1:0", Arc::new(Waiting(watch::Sender::new(false)))).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    let waiting: Vec<_> = (0..5).map(|_| channel.start(packet(b"wait", takes), WITHIN)).collect();
    // Behind them, since requests of a channel begin in their order.
    channel.call(packet(b"go", 0), WITHIN).await.unwrap();
    let mut names = Vec::new();
    for one in waiting {
        names.push(one.answer().await.unwrap().head);
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_ends_on_the_thread_that_answers_while_it_is_quick() {
    let mut on_it = false;
    // A thread may be held up now and then, so that something quick takes long.
    for _ in 0..20 {
        on_it |= ended_on(0).await.iter().all(|name| &name[..] == b"socket");
    }
    assert!(on_it);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_and_takes_long_leaves_that_thread_to_others() {
    let names = ended_on(5).await;
    assert!(names.iter().filter(|name| &name[..] == b"socket").count() <= 1, "{names:?}");
}
