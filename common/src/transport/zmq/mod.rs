//! Nodes in processes of their own: one DEALER per channel, one ROUTER per listener, and what the zeromq crate lacks.
//!
//! Invariants: the crate's sockets see only what the gate let through or what comes over a path that none but this user
//! may enter; an address beyond loopback is neither bound nor joined without a secret.

mod calls;
mod channel;
mod frames;
mod framing;
mod gate;
mod greeting;
mod link;
mod listener;
mod probe;
mod session;
#[cfg(test)]
mod tests;

pub(super) use channel::ZmqCaller;

use super::options::Options;
use super::{Listener, Service};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use zeromq::{RouterSocket, Socket, SocketOptions};

/// Why an address is refused.
const NEEDS_SECRET: &str = "beyond loopback a shared secret is needed; give a secret file or set FLEXPS_SECRET";
/// Bytes that a socket reads at a time.
const READ: usize = 256 << 10;

/// What the channels and listeners of a process have in common.
#[derive(Clone)]
pub struct Zmq {
    options: Arc<Options>,
    runtime: Handle,
}

impl Zmq {
    pub(super) fn new(options: Options) -> Self {
        Self { options: Arc::new(options), runtime: Handle::current() }
    }

    pub(super) fn caller(&self, address: &str, peer: &str) -> ZmqCaller {
        ZmqCaller::new(address, peer, self.options.clone(), &self.runtime)
    }

    pub(super) async fn listen(&self, address: &str, service: Arc<dyn Service>) -> Result<Listener> {
        let bad = |e: &dyn std::fmt::Display| Error::user(format!("can't listen at {address}: {e}; give HOST:PORT"));
        let targets: Vec<_> = tokio::net::lookup_host(address).await.map_err(|e| bad(&e))?.collect();
        if self.options.secret.is_none() && targets.iter().any(|target| !target.ip().is_loopback()) {
            return Err(Error::user(format!("can't listen at {address}: {NEEDS_SECRET}")));
        }
        let tcp = TcpListener::bind(&targets[..]).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                Error::user(format!("{address} is in use; choose another address, or end the process that has it"))
            }
            _ => bad(&e),
        })?;
        let bound = tcp.local_addr().map_err(|e| bad(&e))?;

        let home = Home::make()?;
        let path = home.0.join("socket");
        let mut settings = SocketOptions::default();
        settings.read_buffer(1 << 10, READ, 2);
        let mut router = RouterSocket::with_options(settings);
        let monitor = router.monitor();
        let name = path.to_string_lossy().into_owned();
        let broken = |e| Error::cluster(format!("the socket {name} can't be made: {e}"));
        router.bind(&format!("ipc://{name}")).await.map_err(broken)?;
        let (send, receive) = router.split();

        let registry = gate::Registry::default();
        let gate = tokio::spawn(gate::run(tcp, path, registry.clone()));
        let loop_ = listener::Router::new(service, (*self.options).clone(), registry, name);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(loop_.run(send, receive, monitor, stopped));
        let guard = Guard { gate, _stop: stop, _home: home };
        Ok(Listener { address: bound.to_string(), _guard: Box::new(guard) })
    }
}

/// What ends with a listener.
struct Guard {
    gate: tokio::task::JoinHandle<()>,
    /// The loop stops when this is dropped.
    _stop: oneshot::Sender<()>,
    _home: Home,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gate.abort();
    }
}

/// A folder that only this user may enter, for one unix socket; removed when dropped.
struct Home(PathBuf);

const PREFIX: &str = "flexps-";

impl Home {
    fn make() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        // A unix socket's path holds 107 bytes at most.
        let temp = Some(std::env::temp_dir()).filter(|temp| temp.as_os_str().len() <= 50);
        let temp = temp.unwrap_or_else(|| PathBuf::from("/tmp"));
        sweep(&temp);
        let path = temp.join(format!("{PREFIX}{:032x}", rand::random::<u128>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| crate::error::io(path.display(), &e))?;
        Ok(Self(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders that killed processes left: those whose socket nobody listens at.
fn sweep(temp: &Path) {
    let Ok(entries) = std::fs::read_dir(temp) else { return };
    let ours = entries.flatten().filter(|entry| {
        entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|rest| rest.len() == 32)
    });
    for entry in ours {
        let tried = std::os::unix::net::UnixStream::connect(entry.path().join("socket"));
        if tried.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
