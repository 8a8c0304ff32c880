//! A process that stands still.

use super::*;

/// Waits in the middle of a call while nothing of this process that the test's runtime carries goes on.
#[tokio::test]
async fn a_call_is_not_late_because_who_waits_for_it_stood_still() {
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    echo(&channel, 1).await;
    let pending = channel.start(packet(b"wait", 0), Duration::from_secs(2));
    while !service.heads().iter().any(|head| &head[..] == b"wait") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::thread::sleep(Duration::from_millis(3_200));
    // The looks at deadlines come before the answer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.go.add_permits(1);
    assert_eq!(&pending.answer().await.unwrap().head[..], b"wait");
}
