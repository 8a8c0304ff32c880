//! Channels and listeners over real sockets.

mod addresses;
mod crowd;
mod hostile;
mod still;
mod told;
mod waiters;
mod waiting;

use super::*;
use crate::error::Fault;
use crate::transport::{Channel, Connection, Network, Packet, Secret};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const WITHIN: Duration = Duration::from_secs(20);

/// Answers each request with itself; some heads mean more.
struct Echo {
    calls: Mutex<Vec<(Connection, Bytes)>>,
    gone: UnboundedSender<Connection>,
    /// Requests with the head `wait` end when this gets a permit.
    go: Arc<tokio::sync::Semaphore>,
}

impl Echo {
    fn new() -> (Arc<Self>, UnboundedReceiver<Connection>) {
        let (gone, receive) = unbounded_channel();
        (Arc::new(Self { calls: Mutex::default(), gone, go: Arc::new(tokio::sync::Semaphore::new(0)) }), receive)
    }

    fn heads(&self) -> Vec<Bytes> {
        self.calls.lock().iter().map(|(_, head)| head.clone()).collect()
    }
}

impl Service for Echo {
    fn call(&self, from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        self.calls.lock().push((from, request.head.clone()));
        let go = self.go.clone();
        Box::pin(async move {
            match &request.head[..] {
                b"fail" => Err(Error::data("row 7 is bad")),
                b"panic" => panic!("asked for"),
                b"wait" => {
                    go.acquire().await.expect("open").forget();
                    Ok(request)
                }
                b"big" => Ok(Packet { head: request.head, body: Bytes::from(vec![1; 1 << 20]) }),
                _ => Ok(request),
            }
        })
    }

    fn gone(&self, from: Connection) {
        let _ = self.gone.send(from);
    }
}

fn packet(head: &[u8], body: usize) -> Packet {
    Packet { head: Bytes::copy_from_slice(head), body: Bytes::from(vec![5; body]) }
}

fn network(change: impl FnOnce(&mut Options)) -> Network {
    let mut options = Options::new("node");
    change(&mut options);
    Network::zeromq(options)
}

/// Calls over TCP and over the unix socket alike.
async fn on_both_ways<F: Future<Output = ()>>(test: impl Fn(Network) -> F) {
    for same_host in [true, false] {
        test(network(|o| o.same_host = same_host)).await;
    }
}

async fn echo(channel: &Channel, body: usize) {
    let answer = channel.call(packet(b"echo", body), WITHIN).await.unwrap();
    assert_eq!((&answer.head[..], answer.body.len()), (&b"echo"[..], body));
    assert!(answer.body.iter().all(|b| *b == 5));
}

/// Passes TCP connections on until it is told to cut them.
struct Proxy {
    address: String,
    target: Arc<Mutex<String>>,
    cut: tokio::sync::watch::Sender<()>,
}

impl Proxy {
    async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = Arc::new(Mutex::new(target.to_owned()));
        let (cut, cuts) = tokio::sync::watch::channel(());
        let aim = target.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (aim, mut cuts) = (aim.lock().clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(aim).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, target, cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_errors_come_back_as_they_were() {
    on_both_ways(async |network| {
        let (service, _) = Echo::new();
        let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
        let channel = network.channel(listener.address(), "s1");
        for body in [0, 1, 255, 256, 70_000, 3 << 20] {
            echo(&channel, body).await;
        }
        let error = channel.call(packet(b"fail", 0), WITHIN).await.unwrap_err();
        assert_eq!(error, Error::data("row 7 is bad"));
        let error = channel.call(packet(b"panic", 0), WITHIN).await.unwrap_err();
        assert_eq!(error.fault, Fault::Bug);
        assert_eq!(service.heads().len(), 8);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_channel_start_in_order_of_sending() {
    on_both_ways(async |network| {
        let (service, _) = Echo::new();
        let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
        let channel = network.channel(listener.address(), "s1");
        let heads: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
        let pending: Vec<_> = heads.iter().map(|h| channel.start(packet(h.as_bytes(), 100), WITHIN)).collect();
        for one in pending {
            one.answer().await.unwrap();
        }
        assert_eq!(service.heads(), heads);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_again_and_nothing_runs_twice() {
    let network = network(|o| o.same_host = false);
    let (service, mut gone) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.channel(&proxy.address, "s1");
    let mut heads = Vec::new();
    for round in 0..20 {
        let pending: Vec<_> = (0..50)
            .map(|i| {
                let head = format!("{round} {i}");
                heads.push(head.clone());
                channel.start(packet(head.as_bytes(), 50_000), WITHIN)
            })
            .collect();
        proxy.cut.send_replace(());
        for one in pending {
            one.answer().await.unwrap();
        }
    }
    assert_eq!(service.heads(), heads);
    assert!(gone.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ran_while_the_connection_was_lost_is_answered_from_memory() {
    let network = network(|o| o.same_host = false);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.channel(&proxy.address, "s1");
    let pending = channel.start(packet(b"wait", 9), WITHIN);
    while service.heads().is_empty() {
        tokio::task::yield_now().await;
    }
    let good = std::mem::replace(&mut *proxy.target.lock(), "127.0.0.1:1".to_owned());
    proxy.cut.send_replace(());
    service.go.add_permits(1);
    while service.go.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    *proxy.target.lock() = good;
    assert_eq!(pending.answer().await.unwrap().body.len(), 9);
    assert_eq!(service.heads(), ["wait"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_restarted_gets_what_is_unanswered() {
    on_both_ways(async |network| {
        let (first, _) = Echo::new();
        let listener = network.listen("127.0.0.1:0", first.clone()).await.unwrap();
        let address = listener.address().to_owned();
        let channel = network.channel(&address, "s1");
        echo(&channel, 10).await;
        let pending = channel.start(packet(b"wait", 9), WITHIN);
        while first.heads().len() < 2 {
            tokio::task::yield_now().await;
        }
        drop(listener);
        let (second, _) = Echo::new();
        second.go.add_permits(1);
        let _listener = loop {
            match network.listen(&address, second.clone()).await {
                Ok(listener) => break listener,
                Err(error) => assert!(error.message.contains("in use"), "{error}"),
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(pending.answer().await.unwrap().body.len(), 9);
        assert_eq!(second.heads(), ["wait"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_names_the_peer_and_what_is_wrong() {
    on_both_ways(async |network| {
        let (service, _) = Echo::new();
        let listener = network.listen("127.0.0.1:0", service).await.unwrap();
        let channel = network.channel(listener.address(), "s7");
        let short = Duration::from_millis(200);
        let error = channel.call(packet(b"wait", 0), short).await.unwrap_err();
        assert!(error.retry && error.message.contains("s7") && error.message.contains("200ms"), "{error}");
        echo(&channel, 5).await;

        let dead = network.channel("127.0.0.1:1", "s8");
        let error = dead.call(packet(b"echo", 0), short).await.unwrap_err();
        assert!(error.retry && error.message.contains("s8 at 127.0.0.1:1"), "{error}");
        assert!(error.message.contains("connection refused"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_sends_to_a_slow_receiver_waits_for_credits() {
    const CREDITS: usize = 300_000;
    let network = network(|o| o.credits = CREDITS);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    let (started, mut starts) = unbounded_channel();
    let sender = std::thread::spawn(move || {
        let pending: Vec<_> = (0..40)
            .map(|_| {
                let one = channel.start(packet(b"wait", 100_000), WITHIN);
                started.send(()).unwrap();
                one
            })
            .collect();
        pending.into_iter().all(|one| one.wait().is_ok())
    });
    for answered in 0..40 {
        // Two fit; each answer lets one more go.
        while service.heads().len() < (answered + 2).min(40) {
            tokio::task::yield_now().await;
        }
        assert!(service.heads().len() <= answered + 2);
        service.go.add_permits(1);
    }
    assert!(tokio::task::spawn_blocking(|| sender.join()).await.unwrap().unwrap());
    assert_eq!(std::iter::from_fn(|| starts.try_recv().ok()).count(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_never_waits_is_stopped_at_twice_the_credits() {
    let network = network(|o| o.credits = 300_000);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    let pending: Vec<_> = (0..40).map(|_| channel.start(packet(b"wait", 100_000), WITHIN)).collect();
    service.go.add_permits(40);
    let (mut taken, mut refused) = (0, 0);
    for one in pending {
        match one.answer().await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(error.message.contains("as fast as"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(taken <= 7 && taken + refused == 40, "{taken} {refused}");
}

/// A client that speaks the protocol but reads nothing after its welcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_acknowledges_nothing_gets_no_more_answers_than_allowed() {
    use super::frames::{Down, Up, message};
    use zeromq::SocketSend;
    let options = Options { answers: 4 << 20, ..Options::new("node") };
    let network = Network::zeromq(options.clone());
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let (mut link, _) = link::open(listener.address(), &options, [7; 16]).await.unwrap();
    let mut send = link.sender().unwrap();
    for id in 1..=100 {
        let up = Up::Request { id, acks: Vec::new() };
        send.send(message(&up, Some(&packet(b"big", 0))).unwrap()).await.unwrap();
    }
    send.send(message(&Up::Ping, None).unwrap()).await.unwrap();
    let mut answers = Vec::new();
    loop {
        match link.receive().await.unwrap().0 {
            Down::Answer { id } => answers.push(id),
            Down::Pong => break,
            other => panic!("{other:?}"),
        }
    }
    // All hundred were taken before the ping; what ran at the limit may go beyond it.
    let ran = service.heads().len();
    assert!(ran < 100, "{ran}");
    let mut acks = Vec::new();
    while answers.len() + acks.len() < 100 {
        acks.append(&mut answers);
        send.send(message(&Up::Acks(acks.clone()), None).unwrap()).await.unwrap();
        if let Down::Answer { id } = link.receive().await.unwrap().0 {
            answers.push(id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_channel_and_a_lost_one_are_told_to_the_service() {
    on_both_ways(async |network| {
        let (service, mut gone) = Echo::new();
        let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
        let channel = network.channel(listener.address(), "s1");
        echo(&channel, 1).await;
        drop(channel);
        let from = service.calls.lock()[0].0;
        assert_eq!(tokio::time::timeout(Duration::from_millis(900), gone.recv()).await.unwrap(), Some(from));
    })
    .await;
    let network = network(|o| {
        o.same_host = false;
        o.grace = Duration::from_millis(300);
    });
    let (service, mut gone) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.channel(&proxy.address, "s1");
    echo(&channel, 1).await;
    *proxy.target.lock() = "127.0.0.1:1".to_owned();
    proxy.cut.send_replace(());
    let from = service.calls.lock()[0].0;
    assert_eq!(tokio::time::timeout(WITHIN, gone.recv()).await.unwrap(), Some(from));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_the_greeting_is_said_and_is_the_users_to_mend() {
    let base = || Options { secret: Secret::new(b"rosebud").ok(), build: 1, ..Options::new("master") };
    let (service, _) = Echo::new();
    let listener = Network::zeromq(base()).listen("127.0.0.1:0", service.clone()).await.unwrap();
    let refused = async |options: Options, text: &str| {
        let channel = Network::zeromq(options).channel(listener.address(), "the master");
        let error = channel.call(packet(b"echo", 0), WITHIN).await.unwrap_err();
        assert_eq!(error.fault, Fault::User, "{error}");
        assert!(error.message.contains(text) && error.message.contains("the master at 127.0.0.1"), "{error}");
        assert!(!error.message.contains("rosebud") && !error.message.contains("sledge"), "{error}");
    };
    refused(Options { secret: Secret::new(b"sledge").ok(), ..base() }, "secrets differ").await;
    refused(Options { secret: None, ..base() }, "has none").await;
    refused(Options { cluster: "other".into(), ..base() }, "'other'").await;
    for (role, text) in [("slave", "a slave of another build"), ("client", "a client of another build")] {
        refused(Options { build: 2, role, ..base() }, text).await;
    }
    assert!(service.heads().is_empty());
    echo(&Network::zeromq(base()).channel(listener.address(), "m"), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_beyond_loopback_needs_a_secret() {
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let error = network.listen("0.0.0.0:0", service.clone()).await.err().unwrap();
    assert!(error.fault == Fault::User && error.message.contains("secret"), "{error}");
    let error = network.channel("192.0.2.1:9", "m").call(packet(b"echo", 0), WITHIN).await.unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("secret"), "{error}");
    let options = Options { secret: Secret::new(b"rosebud").ok(), ..Options::new("m") };
    Network::zeromq(options).listen("0.0.0.0:0", service).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_address_is_refused_at_once() {
    let network = network(|_| {});
    for address in ["127.0.0.1", ":99999", "127.0.0.1:99999"] {
        let channel = network.channel(address, "the master");
        let call = channel.call(packet(b"echo", 0), Duration::from_secs(600));
        let error = tokio::time::timeout(WITHIN, call).await.expect("nobody tries").unwrap_err();
        assert!(error.fault == Fault::User && error.message.contains(address), "{error}");
        assert!(error.message.contains("give HOST:PORT"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_the_users_mistake() {
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service.clone()).await.unwrap();
    let error = network.listen(listener.address(), service.clone()).await.err().unwrap();
    assert_eq!(error.fault, Fault::User);
    assert!(error.message.contains(&format!("{} is in use", listener.address())), "{error}");
    assert!(network.listen("nonsense", service).await.err().unwrap().fault == Fault::User);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_folder_is_private_and_goes_with_the_listener() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::make().unwrap();
    let path = home.0.clone();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    drop(home);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_on_one_machine_go_past_tcp() {
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service).await.unwrap();
    let proxy = Proxy::to(listener.address()).await;
    let channel = network.channel(&proxy.address, "s1");
    echo(&channel, 1).await;
    *proxy.target.lock() = "127.0.0.1:1".to_owned();
    proxy.cut.send_replace(());
    echo(&channel, 70_000).await;
}
