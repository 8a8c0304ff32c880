//! Peers that send garbage, too much, or under another's name; and 10^6 mutations of what good ones send.

use super::*;
use crate::transport::zmq::frames::{Down, Up, Welcome};
use crate::transport::zmq::greeting::{Challenge, Hello};
use crate::wire::codec;
use crate::wire::mutated::{mutate, peak, survives};
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a raw peer reads until its connection ends.
async fn raw(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The gate may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.expect("closed by the gate");
    answer
}

fn opening(identity: &[u8]) -> Vec<u8> {
    [&framing::greeting()[..], &framing::ready(identity)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_oversize_frames_end_their_connection_alone() {
    let network = network(|o| o.same_host = false);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    echo(&channel, 5).await;
    raw(listener.address(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    raw(listener.address(), &[0xff; 100]).await;
    let huge = |length: u64| [&opening(b"raw")[..], &[2], &length.to_be_bytes()].concat();
    for length in [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 20] {
        raw(listener.address(), &huge(length)).await;
    }
    let mut ready = framing::greeting().to_vec();
    ready.extend([6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    raw(listener.address(), &ready).await;
    // Frames that are well formed but no messages of ours are answered with a refusal.
    let answer = raw(listener.address(), &[&opening(b"raw")[..], &[0, 3, 1, 2, 3]].concat()).await;
    assert!(String::from_utf8_lossy(&answer).contains("decoded"), "{answer:?}");
    echo(&channel, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_never_welcome_is_not_listened_to_for_long() {
    let network = network(|o| o.same_host = false);
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service).await.unwrap();
    let channel = network.channel(listener.address(), "s1");
    let ping = codec::encode(&Up::Ping).unwrap();
    let frame = [&[0, ping.len() as u8][..], &ping].concat();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        stream.write_all(&opening(b"flood")).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let flood = frame.repeat(1 << 14);
        let mut sent = 0;
        // Without reading an answer, until the gate closes.
        let flooding = async {
            while sent < 64 << 20 && write.write_all(&flood).await.is_ok() {
                sent += flood.len();
            }
        };
        tokio::time::timeout(WITHIN, flooding).await.expect("closed by the gate");
        assert!(sent < 64 << 20, "{sent} bytes of one who did not greet");
        let mut answers = Vec::new();
        let _ = tokio::time::timeout(WITHIN, read.read_to_end(&mut answers)).await.expect("closed by the gate");
        assert!(answers.len() < 1 << 20, "{} bytes of answers", answers.len());
    }
    echo(&channel, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_one_identity_is_refused() {
    let network = network(|_| {});
    let (service, _) = Echo::new();
    let listener = network.listen("127.0.0.1:0", service).await.unwrap();
    let mut first = TcpStream::connect(listener.address()).await.unwrap();
    first.write_all(&opening(b"twin")).await.unwrap();
    // The gate's greeting, then the socket's READY: the first one is through.
    first.read_exact(&mut [0; framing::GREETING + 2]).await.unwrap();
    let answer = raw(listener.address(), &opening(b"twin")).await;
    assert!(answer.len() <= framing::GREETING);
    drop(first);
}

#[test]
fn mutated_messages_of_the_transport_are_refused_or_mean_what_they_say() {
    let options = Options { secret: Secret::new(b"rosebud").ok(), ..Options::new("slave") };
    let hello = Hello::new(&options, [7; 16]);
    let challenge = Challenge::new(&options, &hello, Some("/tmp/x".into())).unwrap();
    let up = [
        Up::Proof(challenge.answer(&options, &hello).unwrap()),
        Up::Hello(hello),
        Up::Declined("no".into()),
        Up::Resume(vec![1, 2, 1 << 60]),
        Up::Request { id: 9, acks: vec![4, 5] },
        Up::Tell { id: 10, acks: vec![9] },
        Up::Acks(vec![8]),
        Up::Ping,
        Up::Bye,
    ];
    survives(&up, 500_000);
    let down = [
        Down::Challenge(challenge),
        Down::Welcome(Welcome { listener: 1, resumed: true }),
        Down::Refused(Error::user("no")),
        Down::Answer { id: 4 },
        Down::Failed { id: 4, error: Error::bug("oh").retryable() },
        Down::Pong,
        Down::Stranger,
    ];
    survives(&down, 500_000);
}

#[test]
fn mutated_bytes_at_the_gate_allocate_nothing_beyond_the_limit() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    let mut clean = opening(b"identity");
    for len in [3usize, 300, 10, 4000] {
        let header = if len > 255 { [&[2][..], &(len as u64).to_be_bytes()].concat() } else { vec![1, len as u8] };
        clean.extend(header);
        clean.resize(clean.len() + len, 7);
    }
    let mut passed = 0;
    for _ in 0..1_000_000 {
        let mut bytes = clean.clone();
        mutate(&mut bytes, &mut rng);
        let pieces = rng.random_range(1..600);
        let (peak, result) = peak(|| {
            let greeting = bytes.first_chunk::<{ framing::GREETING }>().ok_or("short")?;
            framing::check_greeting(greeting)?;
            let rest = &bytes[framing::GREETING..];
            let Some((header, len)) = framing::ready_header(rest)? else { return Ok(()) };
            let body = rest.get(header..header + len).ok_or("short")?;
            framing::ready_identity(body)?;
            let mut follower = framing::Follower::default();
            rest[header + len..].chunks(pieces).try_for_each(|piece| follower.follow(piece, gate::UNKNOWN))
        });
        assert!(peak <= 2 * framing::MAX_READY, "{peak}");
        passed += usize::from(result.is_ok());
    }
    assert!(passed > 1000, "{passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_something_else_listens_is_called_that() {
    let huge = [&framing::greeting()[..], &[6], &u64::MAX.to_be_bytes()].concat();
    let huge_hello = [&opening(b"x")[..], &[2], &u64::MAX.to_be_bytes()].concat();
    for answer in [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], &huge, &huge_hello] {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap().to_string();
        let answer = answer.to_vec();
        tokio::spawn(async move {
            let (mut stream, _) = other.accept().await.unwrap();
            stream.write_all(&answer).await.unwrap();
            // Open until the other side has enough.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let error = network(|_| {}).channel(&address, "the master").call(packet(b"echo", 0), WITHIN).await.unwrap_err();
        assert_eq!(error.fault, Fault::User, "{error}");
        assert!(error.message.contains("something else than flexps") && error.message.contains(&address), "{error}");
    }
}
