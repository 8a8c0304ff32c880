//! Many who come at once.

use super::*;

/// A listener that died of this did so about once in a thousand times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_come_and_go_together_never_stop_a_listener() {
    const ROUNDS: usize = 400;
    const PEERS: usize = 3;
    for round in 0..ROUNDS {
        let (service, _gone) = Echo::new();
        let listener = network(|_| {}).listen("127.0.0.1:0", service).await.unwrap();
        let peers: Vec<_> = (0..PEERS)
            .map(|_| {
                let channel = network(|_| {}).channel(listener.address(), "the listener");
                tokio::spawn(async move { channel.call(packet(b"echo", 10), Duration::from_secs(4)).await })
            })
            .collect();
        for peer in peers {
            peer.await.unwrap().unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
    }
}
