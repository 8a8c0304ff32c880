//! Channels whose sockets are served by the threads that wait for their answers.

use super::*;

/// So many threads, each with its number, at the channel of a listener that echoes.
async fn by_threads(network: Network, threads: usize, each: impl Fn(&Channel, usize) + Send + Sync + 'static) {
    let (echo, _gone) = Echo::new();
    let listener = network.listen("127.0.0.1:0", echo).await.unwrap();
    let channel = network.served_by_waiters().unwrap().channel(listener.address(), "s1");
    let each = Arc::new(each);
    let threads: Vec<_> = (0..threads)
        .map(|thread| {
            let (channel, each) = (channel.clone(), each.clone());
            tokio::task::spawn_blocking(move || std::thread::spawn(move || each(&channel, thread)).join())
        })
        .collect();
    for thread in threads {
        thread.await.unwrap().unwrap();
    }
}

fn answered(pending: crate::transport::Pending, head: &str) {
    assert_eq!(pending.wait().unwrap().head, head.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_wait_together_each_get_their_own_answers() {
    on_both_ways(|network| {
        by_threads(network, 4, |channel, thread| {
            for round in 0..300 {
                let head = format!("{thread} {round}");
                let pending = channel.start(packet(head.as_bytes(), (round % 7) * 30_000), WITHIN);
                answered(pending, &head);
            }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_arrives_all_the_same() {
    on_both_ways(|network| {
        by_threads(network, 1, |channel, _| {
            let mut late: Vec<_> = (0..20).map(|i| channel.start(packet(&[i], 0), WITHIN)).collect();
            let start = std::time::Instant::now();
            while late.iter_mut().any(|pending| pending.try_answer().is_none()) {
                assert!(start.elapsed() < WITHIN, "nobody serves the sockets");
                late.retain_mut(|pending| pending.try_answer().is_none());
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_get_answers_while_threads_wait_for_others_that_do_not_come() {
    let (echo, _gone) = Echo::new();
    let network = network(|_| ());
    let listener = network.listen("127.0.0.1:0", echo.clone()).await.unwrap();
    let channel = network.served_by_waiters().unwrap().channel(listener.address(), "s1");
    let waits = channel.clone();
    let thread = std::thread::spawn(move || answered(waits.start(packet(b"wait", 0), WITHIN), "wait"));
    for _ in 0..20 {
        super::echo(&channel, 100_000).await;
    }
    echo.go.add_permits(1);
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
    super::echo(&channel, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_what_is_to_end_it() {
    let (echo, _gone) = Echo::new();
    let network = network(|_| ());
    let listener = network.listen("127.0.0.1:0", echo).await.unwrap();
    let channel = network.served_by_waiters().unwrap().channel(listener.address(), "s1");
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let ended = async move {
            let _ = ended.await;
            Error::cancelled()
        };
        channel.start(packet(b"wait", 0), WITHIN).wait_unless(ended)
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    end.send(()).unwrap();
    let error = tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.fault, Fault::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_sends_where_nobody_listens_any_more_is_held_up_by_nothing_that_cannot_be_ended() {
    let (echo, _gone) = Echo::new();
    let network = network(|_| ());
    let listener = network.listen("127.0.0.1:0", echo).await.unwrap();
    let channel = network.served_by_waiters().unwrap().channel(listener.address(), "s1");
    super::echo(&channel, 0).await;
    drop(listener);
    on_a_thread(channel, |channel| {
        let start = std::time::Instant::now();
        let sent: Vec<_> = (0..10).map(|_| channel.start(packet(b"echo", 1000), WITHIN)).collect();
        for pending in sent {
            let error = pending.wait_unless(std::future::ready(Error::cancelled())).unwrap_err();
            assert_eq!(error.fault, Fault::Cancelled);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_wait_for_credit_and_none_is_left_waiting() {
    let small = network(|o| o.credits = 100_000);
    by_threads(small, 4, |channel, _| {
        let mut under_way = std::collections::VecDeque::new();
        for _ in 0..100 {
            under_way.push_back(channel.start(packet(b"echo", 40_000), WITHIN));
            if under_way.len() > 3 {
                answered(under_way.pop_front().unwrap(), "echo");
            }
        }
        under_way.into_iter().for_each(|pending| answered(pending, "echo"));
    })
    .await;
}

/// What a thread does with a channel, on a thread of its own.
async fn on_a_thread(channel: Channel, does: impl FnOnce(&Channel) + Send + 'static) {
    let thread = std::thread::spawn(move || does(&channel));
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
}

/// The heads of so many requests.
fn heads(count: usize) -> Vec<Bytes> {
    (0..count).map(|i| i.to_string().into()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_start_in_order_each_once_whoever_writes_them() {
    on_both_ways(async |network| {
        let (echo, _gone) = Echo::new();
        let listener = network.listen("127.0.0.1:0", echo.clone()).await.unwrap();
        let channel = network.served_by_waiters().unwrap().channel(listener.address(), "s1");
        on_a_thread(channel, |channel| {
            let mut under_way = Vec::new();
            for (i, head) in heads(200).into_iter().enumerate() {
                // Large ones are written by the driver's own thread, many small ones at once.
                let body = [100_000, 10, 10, 30_000, 10][i % 5];
                under_way.push((head.clone(), channel.start(Packet { head, ..packet(b"", body) }, WITHIN)));
                match i % 11 {
                    3 => channel.flush(),
                    7 => under_way.drain(..).for_each(|(head, pending)| assert_eq!(pending.wait().unwrap().head, head)),
                    // By then the driver's own thread has come.
                    10 if i % 2 == 0 => std::thread::sleep(Duration::from_millis(5)),
                    _ => {}
                }
            }
            under_way.into_iter().for_each(|(head, pending)| assert_eq!(pending.wait().unwrap().head, head));
        })
        .await;
        assert_eq!(echo.heads(), heads(200));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_has_written_yet_outlive_their_connection() {
    let (echo, _gone) = Echo::new();
    let network = network(|o| o.same_host = false);
    let listener = network.listen("127.0.0.1:0", echo.clone()).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.served_by_waiters().unwrap().channel(&proxy.address, "s1");
    on_a_thread(channel, move |channel| {
        for few in heads(30).chunks(6) {
            let mut under_way: Vec<_> = Vec::new();
            for (i, head) in few.iter().enumerate() {
                under_way.push(channel.start(Packet { head: head.clone(), ..packet(b"", 10) }, WITHIN));
                if i == 2 {
                    proxy.cut.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            for (head, pending) in few.iter().zip(under_way) {
                assert_eq!(pending.wait().unwrap().head, *head);
            }
        }
    })
    .await;
    assert_eq!(echo.heads(), heads(30));
}
