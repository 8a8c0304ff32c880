//! The gate: a TCP listener in front of the zeromq socket, which has no limits of its own. It follows the framing of each
//! connection, and passes bytes on to the socket's private unix path only when their message is within the limit.
//!
//! Invariants: no length that a peer claims is allocated here or behind the gate before it was checked; a connection has
//! [`UNKNOWN`] bytes a message, and few messages, until its greeting was accepted, and little time for that; one live connection per identity.

use super::framing::{self, Follower, GREETING, Refusal};
use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Most bytes of a message before the greeting was accepted.
pub(super) const UNKNOWN: usize = 4 << 10;
/// Most bytes of all of its messages: those of a greeting are some hundreds.
const UNKNOWN_ALL: usize = 16 << 10;
/// Time for the greeting, each of ZMTP's and ours.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time whose greeting was not accepted yet.
const STRANGERS: usize = 256;
/// Bytes moved at a time.
const BUFFER: usize = 256 << 10;

/// A live connection.
pub(super) struct Entry {
    /// Where it comes from.
    pub from: SocketAddr,
    limit: AtomicUsize,
    close: Notify,
    /// Its place among those who have not said who they are.
    stranger: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Entry {
    /// The greeting was accepted.
    pub fn admit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Release);
        self.stranger.lock().take();
    }

    /// Whether it was.
    pub fn is_welcome(&self) -> bool {
        self.limit.load(Ordering::Acquire) != UNKNOWN
    }

    /// Ends the connection once the bytes for it are out.
    pub fn close(&self) {
        self.close.notify_one();
    }
}

/// The live connections by identity.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<FxHashMap<Bytes, Arc<Entry>>>>);

impl Registry {
    pub fn get(&self, identity: &Bytes) -> Option<Arc<Entry>> {
        self.0.lock().get(identity).cloned()
    }

    fn enter(&self, identity: &Bytes, from: SocketAddr, permit: OwnedSemaphorePermit) -> Result<Present, Refusal> {
        let mut live = self.0.lock();
        if let Some(other) = live.get(identity) {
            return Err(format!("its identity is that of the connection from {}", other.from));
        }
        let stranger = Mutex::new(Some(permit));
        let entry = Arc::new(Entry { from, limit: AtomicUsize::new(UNKNOWN), close: Notify::new(), stranger });
        live.insert(identity.clone(), entry.clone());
        Ok(Present { registry: self.clone(), identity: identity.clone(), entry })
    }
}

/// A connection's place in the registry, left when dropped.
struct Present {
    registry: Registry,
    identity: Bytes,
    entry: Arc<Entry>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.identity);
    }
}

/// Accepts connections for the socket at `path` until dropped.
pub(super) async fn run(listener: TcpListener, path: PathBuf, registry: Registry) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let Ok(permit) = strangers.clone().try_acquire_owned() else {
                    tracing::warn!(%from, "connection refused: {STRANGERS} others have not said who they are yet");
                    continue;
                };
                let (path, registry) = (path.clone(), registry.clone());
                connections.spawn(async move {
                    if let Err(reason) = serve(stream, from, path, registry, permit).await {
                        tracing::warn!(%from, "connection refused: {reason}");
                    }
                });
            }
            // Out of file descriptors, or the peer went already; others may still be served.
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    mut outer: TcpStream,
    from: SocketAddr,
    path: PathBuf,
    registry: Registry,
    permit: OwnedSemaphorePermit,
) -> Result<(), Refusal> {
    let io = |e: std::io::Error| e.to_string();
    outer.set_nodelay(true).map_err(io)?;
    let hello = tokio::time::timeout(PATIENCE, shake(&mut outer));
    let Some((opening, identity, early)) =
        hello.await.map_err(|_| format!("no ZMTP greeting within {PATIENCE:?}"))??
    else {
        return Ok(());
    };
    let present = registry.enter(&identity, from, permit)?;
    let mut follower = Follower::default();
    follower.follow(&early, UNKNOWN)?;
    let mut inner = UnixStream::connect(path).await.map_err(io)?;
    inner.write_all(&opening).await.map_err(io)?;
    inner.write_all(&early).await.map_err(io)?;
    // The socket's own greeting: the peer got the gate's.
    inner.read_exact(&mut [0; GREETING]).await.map_err(io)?;

    let (outer_read, outer_write) = outer.into_split();
    let (inner_read, inner_write) = inner.into_split();
    // A task of its own, so that both directions move at once; it ends with the socket's side of the connection.
    let mut down = tokio::spawn(pass(inner_read, outer_write));
    let entry = present.entry.clone();
    let up = async {
        let unwelcome = async {
            tokio::time::sleep(PATIENCE).await;
            if entry.is_welcome() {
                std::future::pending().await
            }
        };
        tokio::select! {
            ended = follow(outer_read, inner_write, &entry, follower) => ended,
            () = unwelcome => Err(format!("it was not welcome within {PATIENCE:?}")),
            () = entry.close.notified() => {
                // What was said last, e.g. why it is refused, still goes out.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
        }
    };
    let result = tokio::select! {
        result = up => result,
        _ = &mut down => return Ok(()),
    };
    // The peer's end is closed: the socket notices by the closed unix stream, and then nothing more comes down.
    down.abort();
    result
}

/// ZMTP's handshake as far as the peer's READY: all that it sent so far (which the socket has not seen), its identity, and
/// bytes behind READY. None when the peer left before it said anything.
async fn shake(outer: &mut TcpStream) -> Result<Option<(Vec<u8>, Bytes, Vec<u8>)>, Refusal> {
    let io = |e: std::io::Error| format!("it ended within its ZMTP greeting: {e}");
    let mut seen = [0; GREETING];
    let mut have = 0;
    while have < GREETING {
        match outer.read(&mut seen[have..]).await.map_err(io)? {
            0 if have == 0 => return Ok(None),
            0 => return Err(format!("it ended after {have} bytes of its ZMTP greeting")),
            n => have += n,
        }
        if seen[0] != 0xff {
            break;
        }
    }
    framing::check_greeting(&seen)?;
    outer.write_all(&framing::greeting()).await.map_err(io)?;
    let mut opening = seen.to_vec();
    let mut chunk = [0; framing::MAX_READY];
    loop {
        if let Some((header, len)) = framing::ready_header(&opening[GREETING..])? {
            let end = GREETING + header + len;
            if opening.len() >= end {
                let early = opening.split_off(end);
                let identity = framing::ready_identity(&opening[GREETING + header..])?;
                return Ok(Some((opening, identity, early)));
            }
        }
        match outer.read(&mut chunk).await.map_err(io)? {
            0 => return Err("it ended before its READY command".to_owned()),
            n => opening.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Passes a peer's bytes on, checked.
async fn follow(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    entry: &Entry,
    mut follower: Follower,
) -> Result<(), Refusal> {
    // Strangers get a small buffer; a full one is made when the first full read after the welcome shows that it pays.
    let (mut buffer, mut said) = (vec![0; UNKNOWN], 0);
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return Ok(()) };
        if n == 0 {
            return Ok(());
        }
        let limit = entry.limit.load(Ordering::Acquire);
        if limit == UNKNOWN {
            said += n;
            if said > UNKNOWN_ALL {
                return Err(format!("it sent more than {UNKNOWN_ALL} bytes and was not welcome yet"));
            }
        }
        follower.follow(&buffer[..n], limit)?;
        if to.write_all(&buffer[..n]).await.is_err() {
            return Ok(());
        }
        if n == buffer.len() && n < BUFFER && limit != UNKNOWN {
            buffer = vec![0; BUFFER];
        }
    }
}

/// Passes the socket's bytes on.
async fn pass(mut from: tokio::net::unix::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
    let mut buffer = vec![0; UNKNOWN];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        if n == buffer.len() && n < BUFFER {
            buffer = vec![0; BUFFER];
        }
    }
}
