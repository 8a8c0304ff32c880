//! Names that stand for several addresses.

use super::*;
use std::net::SocketAddr;

/// An address of this machine at which nobody listens.
fn closed() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_address_of_a_name_that_greets_is_used() {
    let (service, _gone) = Echo::new();
    let listener = network(|_| {}).listen("127.0.0.1:0", service).await.unwrap();
    let good: SocketAddr = listener.address().parse().unwrap();
    // Connections to it are made, and nobody says a word there.
    let silent = StdListener::bind("127.0.0.1:0").unwrap();
    let options = Options::new("node");
    for targets in [vec![good], vec![closed(), good], vec![silent.local_addr().unwrap(), closed(), good]] {
        let (target, _) = link::find(&targets, &options).await.unwrap_or_else(|e| panic!("{targets:?}: {e}"));
        assert_eq!(target, good, "{targets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_address_of_a_name_greets_what_tells_most_is_said() {
    let (service, _gone) = Echo::new();
    let of_another = network(|o| o.cluster = "another".to_owned());
    let listener = of_another.listen("127.0.0.1:0", service).await.unwrap();
    let (other, options): (SocketAddr, _) = (listener.address().parse().unwrap(), Options::new("node"));
    let (first, second) = (closed(), closed());
    let error = link::find(&[first], &options).await.unwrap_err();
    assert!(error.retry && error.message.starts_with("connection refused"), "{error}");
    let error = link::find(&[first, second], &options).await.unwrap_err();
    assert!(error.retry && error.message.contains("connection refused"), "{error}");
    let error = link::find(&[first, other, second], &options).await.unwrap_err();
    assert!(!error.retry && error.message.starts_with(&format!("{other}: ")), "{error}");
}
