//! The master's pages: one small HTTP server with the API, metrics, events and a page for people.
//!
//! Invariants: a connection carries one request, lives 30 s at most and holds bounded memory, whatever its client
//! does; no request changes the master's state but through the events that any client's message becomes; beyond loopback
//! nobody is answered who does not show the cluster's token.

mod answer;
mod feed;
mod guard;
mod metrics;
mod pages;

use crate::api::Api;
use answer::Answer;
use flexps_common::transport::Secret;
use flexps_common::{Error, Result};
use guard::Guard;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pages::Pages;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long a connection may live; a page that listens to events comes back by itself.
const LONGEST: Duration = Duration::from_secs(30);
/// How long the head of a request may take to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Connections at once; further ones are told to come back.
const CONNECTIONS: usize = 128;
/// Bytes that a connection may have in its buffer.
const BUFFER: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;

/// Where and for whom pages are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address and port; port 0 takes a free one.
    pub address: String,
    /// The cluster's secret: with one, every request must show its token; without one, only loopback is served.
    pub secret: Option<Secret>,
    /// Names of this machine under which a browser may ask for it, beside addresses and `localhost`.
    pub names: Vec<String>,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    address: String,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A bound address, at which nobody is answered yet.
pub(crate) struct Bound {
    address: String,
    listener: TcpListener,
    guard: Guard,
}

/// Takes the address at which pages are to be served, unless it can't be had or must not be.
pub(crate) async fn bind(options: &Options) -> Result<Bound> {
    let Options { address, secret, names } = options;
    let bad = |e: &dyn std::fmt::Display| Error::user(format!("--http {address}: {e}; give HOST:PORT"));
    let targets: Vec<_> = tokio::net::lookup_host(address).await.map_err(|e| bad(&e))?.collect();
    if secret.is_none() && targets.iter().any(|target| !target.ip().is_loopback()) {
        return Err(Error::user(format!(
            "--http {address}: beyond loopback a shared secret is needed; give a secret file or set FLEXPS_SECRET"
        )));
    }
    let listener = TcpListener::bind(&targets[..]).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::user(format!("--http {address} is in use; choose another address, or end the process that has it"))
        }
        _ => bad(&e),
    })?;
    let bound = listener.local_addr().map_err(|e| bad(&e))?.to_string();
    let guard = Guard::new(address, names.clone(), secret.as_ref())?;
    Ok(Bound { address: bound, listener, guard })
}

impl Bound {
    /// Starts a server of the API and what stands beside it.
    pub(crate) fn serve(self, api: Arc<Api>) -> Server {
        let Self { address, listener, guard } = self;
        let (feed, feeding) = feed::Feed::start(api.clone());
        let accepting = tokio::spawn(accept(listener, Arc::new(Pages { api, feed, guard })));
        Server { address, tasks: [accepting, feeding] }
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // One that takes longer is cut off; what its client makes of it is its own affair.
                    let _ = tokio::time::timeout(LONGEST, serve(stream, pages)).await;
                });
            }
            Err(_) => {
                // As much as the system takes at once; nobody waits for the rest.
                let _ = stream
                    .try_write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n");
            }
        }
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>) {
    // Without it small answers wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<Answer, Infallible>(pages.answer(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS);
    if let Err(e) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a page's connection ended: {e}");
    }
}
