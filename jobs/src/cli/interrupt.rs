//! Requests to end, as one stream: Ctrl-C and termination, and of a node that its terminal is closed.

use flexps_common::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, and SIGHUP where asked for; from its making on, none of them ends the process by itself.
pub struct Interrupt {
    int: Signal,
    term: Signal,
    hang_up: Option<Signal>,
}

impl Interrupt {
    /// Takes the signals over.
    pub fn new() -> Result<Self> {
        Ok(Self { int: take(SignalKind::interrupt())?, term: take(SignalKind::terminate())?, hang_up: None })
    }

    /// Takes SIGHUP over too, unless the process was started to ignore it, as by `nohup`.
    pub fn of_node() -> Result<Self> {
        let hang_up = if ignores_hang_up() { None } else { Some(take(SignalKind::hangup())?) };
        Ok(Self { hang_up, ..Self::new()? })
    }

    /// Waits for the next request to end.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            Some(()) = async { self.hang_up.as_mut()?.recv().await } => {}
        }
    }
}

fn take(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::cluster(format!("signals can't be taken over: {e}")))
}

/// Whether the first bit of the process's ignored signals is set.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
