//! Requests that nobody waits for, and calls that wait side by side.

use super::*;
use crate::transport::Pending;

fn tell(channel: &Channel, head: &str) -> Pending {
    channel.tell(packet(head.as_bytes(), 100), WITHIN)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_starts_in_order_among_the_other_requests_and_is_answered_too() {
    on_both_ways(async |network| {
        let (service, _) = Echo::new();
        let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
        let channel = network.channel(listener.address(), "s1");
        let heads: Vec<String> = (0..500).map(|i| i.to_string()).collect();
        let one = |(i, head): (usize, &String)| match i % 5 {
            0 => channel.start(packet(head.as_bytes(), 100), WITHIN),
            _ => tell(&channel, head),
        };
        for pending in heads.iter().enumerate().map(one).collect::<Vec<_>>() {
            assert_eq!(pending.answer().await.unwrap().body.len(), 100);
        }
        assert_eq!(service.heads(), heads);
        assert_eq!(tell(&channel, "fail").answer().await.unwrap_err(), Error::data("row 7 is bad"));
        // Nothing else follows that could take its answer along.
        assert_eq!(&tell(&channel, "last").answer().await.unwrap().head[..], b"last");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_over_a_connection_that_breaks_runs_once_and_is_answered_over_the_next() {
    let network = network(|o| o.same_host = false);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.channel(&proxy.address, "s1");
    let mut heads = Vec::new();
    for round in 0..20 {
        let told = heads.len()..heads.len() + 50;
        heads.extend(told.clone().map(|i| i.to_string()));
        let pending: Vec<_> = heads[told].iter().map(|head| tell(&channel, head)).collect();
        // In half of the rounds all have run, and their answers are held back.
        while round % 2 == 0 && service.heads().len() < heads.len() {
            tokio::task::yield_now().await;
        }
        proxy.cut.send_replace(());
        for one in pending {
            one.answer().await.unwrap();
        }
    }
    assert_eq!(service.heads(), heads);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_ends_by_its_own_deadline_whatever_others_wait_for() {
    const SHORT: Duration = Duration::from_millis(100);
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    let long = channel.start(packet(b"wait", 9), WITHIN);
    for within in [3 * SHORT, 2 * SHORT, SHORT] {
        let error = channel.call(packet(b"wait", 9), within).await.unwrap_err();
        assert!(error.message.contains(&format!("did not answer within {within:?}")), "{error}");
    }
    let (other, short) = (channel.start(packet(b"wait", 9), WITHIN), channel.start(packet(b"wait", 9), SHORT));
    assert!(short.answer().await.unwrap_err().retry);
    service.go.add_permits(6);
    assert!(other.answer().await.is_ok() && long.answer().await.is_ok());
}
