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
mod still;
#[cfg(test)]
mod tests;

pub(super) use channel::ZmqCaller;

use super::driver::{Driver, Runner};
use super::options::Options;
use super::{Listener, Service};
use crate::error::{Error, Result};
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
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
    runner: Runner,
}

impl Zmq {
    pub(super) fn new(options: Options) -> Self {
        Self { options: Arc::new(options), runner: Runner::Runtime(Handle::current()) }
    }

    pub(super) fn served_by_waiters(&self) -> Result<Self> {
        Ok(Self { options: self.options.clone(), runner: Runner::Waiters(Arc::new(Driver::start()?)) })
    }

    pub(super) fn caller(&self, address: &str, peer: &str) -> ZmqCaller {
        ZmqCaller::new(address, peer, self.options.clone(), self.runner.clone())
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
        let thread = SocketThread::start(tcp.into_std().map_err(|e| bad(&e))?, service, &self.options).await?;
        Ok(Listener { address: bound.to_string(), _guard: Box::new(thread) })
    }
}

/// The thread that runs a listener's socket, gate and loop; it ends when this is dropped.
///
/// One thread, because the crate's sockets mix blocking and asynchronous locks on one table: a worker of a larger runtime
/// that blocks there may hold, in its own queue, the very task that owns the lock, and then the listener is dead for good.
struct SocketThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SocketThread {
    /// Serves what comes to `tcp`; requests run on the runtime from which this is called.
    async fn start(tcp: StdListener, service: Arc<dyn Service>, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| broken(&e))?;
        let ((stop, stopped), (ready, is_ready)) = (oneshot::channel(), oneshot::channel());
        let (requests, options) = (Handle::current(), options.clone());
        let serve = async move {
            let home = Home::make()?;
            let tcp = TcpListener::from_std(tcp).map_err(|e| broken(&e))?;
            let path = home.0.join("socket");
            let name = path.to_string_lossy().into_owned();
            let mut settings = SocketOptions::default();
            settings.read_buffer(1 << 10, READ, 2);
            let mut router = RouterSocket::with_options(settings);
            let monitor = router.monitor();
            router.bind(&format!("ipc://{name}")).await.map_err(|e| broken(&format!("{name}: {e}")))?;
            let (send, receive) = router.split();
            let registry = gate::Registry::default();
            let _ = ready.send(());
            let serving = listener::Router::new(service, requests, options, registry.clone(), name);
            tokio::select! {
                () = gate::run(tcp, path, registry) => {}
                () = serving.run(send, receive, monitor, stopped) => {}
            }
            Ok(())
        };
        let builder = std::thread::Builder::new().name("socket".to_owned());
        let thread = builder.spawn(move || runtime.block_on(serve)).map_err(|e| broken(&e))?;
        let mut this = Self { stop: Some(stop), thread: Some(thread) };
        match is_ready.await {
            Ok(()) => Ok(this),
            Err(_) => Err(this.end().unwrap_or_else(|| broken(&"its thread ended"))),
        }
    }

    /// Ends the thread, and with it its hold on the address; why it could not serve, if so.
    fn end(&mut self) -> Option<Error> {
        self.stop.take();
        self.thread.take()?.join().ok()?.err()
    }
}

impl Drop for SocketThread {
    fn drop(&mut self) {
        self.end();
    }
}

fn broken(reason: &dyn std::fmt::Display) -> Error {
    Error::cluster(format!("a socket can't be made: {reason}"))
}

/// A folder that only this user may enter, for one unix socket; removed when dropped.
struct Home(PathBuf);

const PREFIX: &str = "flexps-";
/// A folder of this age has its socket.
const SETTLED: Duration = Duration::from_secs(60);

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
        // One that is just being made is refused too.
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age < SETTLED) {
            continue;
        }
        let tried = std::os::unix::net::UnixStream::connect(entry.path().join("socket"));
        if tried.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
