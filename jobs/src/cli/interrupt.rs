//! Ctrl-C and termination, as one stream of requests to end.

use flexps_common::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM; from its making on, neither ends the process by itself.
pub struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    /// Takes the signals over.
    pub fn new() -> Result<Self> {
        let take = |kind| signal(kind).map_err(|e| Error::cluster(format!("signals can't be taken over: {e}")));
        Ok(Self { int: take(SignalKind::interrupt())?, term: take(SignalKind::terminate())? })
    }

    /// Waits for the next request to end.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
