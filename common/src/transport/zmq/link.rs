//! One connection of a channel: a DEALER that is connected and welcome.
//!
//! Invariant: a link exists only after both sides' proofs were checked.

use super::frames::{self, Down, Up, Welcome};
use super::greeting::{Hello, SessionId};
use super::probe;
use crate::error::{Error, Result};
use crate::transport::Packet;
use crate::transport::options::Options;
use futures::channel::mpsc;
use futures::stream::{FuturesUnordered, StreamExt};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend,
};

/// Time to connect, and to be welcomed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an address may be slow before the next one of the same name is asked as well.
const HEDGE: Duration = Duration::from_millis(500);

/// A connection.
pub(super) struct Link {
    send: Option<DealerSendHalf>,
    receive: DealerRecvHalf,
    monitor: mpsc::Receiver<SocketEvent>,
}

/// Connects to the listener at `address` and greets it.
pub(super) async fn open(address: &str, options: &Options, session: SessionId) -> Result<(Link, Welcome)> {
    let (targets, beyond) = resolve(address, options).await?;
    let found = find(&targets, options).await;
    let (target, path) = found.map_err(|error| if beyond { without_secret(error) } else { error })?;
    // The path has a random part, so finding it proves that the listener is on this machine, and run by a user whose
    // private folder this one may enter.
    if let Some(path) = path.filter(|path| options.same_host && std::fs::metadata(path).is_ok())
        && let Ok(direct) = greet(&format!("ipc://{path}"), options, session).await
    {
        return Ok(direct);
    }
    greet(&format!("tcp://{target}"), options, session).await
}

/// All addresses behind a name, in the resolver's order; without a secret those on loopback alone, and whether there are
/// others.
async fn resolve(address: &str, options: &Options) -> Result<(Vec<SocketAddr>, bool)> {
    if !is_address(address) {
        return Err(Error::user(format!("'{address}' is no address; give HOST:PORT, e.g. 127.0.0.1:7070")));
    }
    let mut targets: Vec<_> = tokio::net::lookup_host(address).await.map_err(|e| unreachable(plain(&e)))?.collect();
    if targets.is_empty() {
        return Err(unreachable("its name has no address".to_owned()));
    }
    let all = targets.len();
    targets.retain(|target| target.ip().is_loopback() || options.secret.is_some());
    if targets.is_empty() {
        return Err(Error::user(format!("{address} is not on this machine's loopback: {}", super::NEEDS_SECRET)));
    }
    let beyond = targets.len() < all;
    Ok((targets, beyond))
}

/// The first of `targets` at which a listener proves itself, and the path of its unix socket. The next one is asked once
/// one has failed or is slow: a name may stand for addresses at which nobody listens, as `localhost` does.
pub(super) async fn find(targets: &[SocketAddr], options: &Options) -> Result<(SocketAddr, Option<String>)> {
    let several = targets.len() > 1;
    let mut waiting = targets.iter().copied();
    let mut failed: Option<Error> = None;
    let asking = async {
        let mut asked = FuturesUnordered::new();
        loop {
            if let Some(target) = waiting.next() {
                asked.push(async move { (target, probe::probe(target, options).await) });
            }
            tokio::select! {
                Some((target, answer)) = asked.next() => match answer {
                    Ok(path) => return Some((target, path)),
                    Err(error) => {
                        let error = if several { error.context(target) } else { error };
                        // That a listener refuses says more than that there is none.
                        if failed.as_ref().is_none_or(|before| before.retry && !error.retry) {
                            failed = Some(error);
                        }
                    }
                },
                () = tokio::time::sleep(HEDGE), if waiting.len() > 0 => {}
                else => return None,
            }
        }
    };
    let late = || unreachable(format!("it did not greet within {PATIENCE:?}"));
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(failed.unwrap_or_else(late)),
        Err(_) => Err(failed.filter(|error| !error.retry).unwrap_or_else(late)),
    }
}

/// The error where addresses beyond loopback were passed over.
fn without_secret(error: Error) -> Error {
    let message = format!("{}; its other addresses were not tried: {}", error.message, super::NEEDS_SECRET);
    Error { message, ..error }
}

/// Whether it is a host and a port; what is not will never be reached. Whether there is such a host may change.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let (bare, _scope) = bare.split_once('%').unwrap_or((bare, ""));
    let named = !host.is_empty() && !host.contains(|c: char| matches!(c, ':' | '/' | '[' | ']') || c.is_whitespace());
    (named || bare.parse::<Ipv6Addr>().is_ok()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

async fn greet(endpoint: &str, options: &Options, session: SessionId) -> Result<(Link, Welcome)> {
    let mut settings = SocketOptions::default();
    let identity: [u8; 16] = rand::random();
    let identity = identity[..].try_into().map_err(|e| Error::bug(format!("an identity: {e}")))?;
    settings.peer_identity(identity).connect_timeout(PATIENCE).read_buffer(1 << 10, super::READ, 2);
    let mut socket = DealerSocket::with_options(settings);
    let monitor = socket.monitor();
    socket.connect(endpoint).await.map_err(|e| unreachable(e.to_string()))?;
    let (send, receive) = socket.split();
    let mut link = Link { send: Some(send), receive, monitor };
    let welcomed = tokio::time::timeout(PATIENCE, link.introduce(options, session)).await;
    let welcome = welcomed.map_err(|_| unreachable(format!("it did not greet within {PATIENCE:?}")))??;
    Ok((link, welcome))
}

impl Link {
    async fn introduce(&mut self, options: &Options, session: SessionId) -> Result<Welcome> {
        let hello = Hello::new(options, session);
        self.say(&Up::Hello(hello.clone())).await?;
        loop {
            match self.receive().await?.0 {
                Down::Challenge(challenge) => match challenge.answer(options, &hello) {
                    Ok(proof) => self.say(&Up::Proof(proof)).await?,
                    Err(error) => {
                        self.say(&Up::Declined(error.message.clone())).await?;
                        return Err(error);
                    }
                },
                Down::Welcome(welcome) => return Ok(welcome),
                Down::Refused(error) => return Err(error.context("refused")),
                other => return Err(unreachable(format!("it greeted with {other:?}"))),
            }
        }
    }

    async fn say(&mut self, up: &Up) -> Result<()> {
        match &mut self.send {
            Some(send) => send.send(frames::message(up, None)?).await.map_err(|e| unreachable(e.to_string())),
            None => Err(Error::bug("a connection without a sender")),
        }
    }

    /// Hands out what requests are sent by.
    pub fn sender(&mut self) -> Option<DealerSendHalf> {
        self.send.take()
    }

    /// The next message; an error when the connection is lost.
    pub async fn receive(&mut self) -> Result<(Down, Packet)> {
        loop {
            tokio::select! {
                message = self.receive.recv() => {
                    let message = message.map_err(|e| unreachable(e.to_string()))?;
                    return frames::parse(&message.into_vec());
                }
                event = self.monitor.next() => if let Some(SocketEvent::Disconnected(_)) | None = event {
                    return Err(unreachable("the connection was lost".to_owned()));
                }
            }
        }
    }
}

pub(super) fn unreachable(reason: String) -> Error {
    Error::cluster(reason).retryable()
}

/// An I/O error without the operating system's number.
pub(super) fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7070", "node-7:1", "localhost:65535", "[::1]:7070", "[fe80::1%2]:7070", "fd00::1:70"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "127.0.0.1", ":7070", ":99999", "h:99999", "h:0", "h:", "h:x", "::1", "[::1]", "[h]:7", "http://h:7"]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
