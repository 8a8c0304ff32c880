//! The two streams: data on stdout, talk on stderr.
//!
//! Invariant: a reader that closes stdout early (`| head`) ends the command quietly.

use flexps_common::{Error, Result, caught};
use std::io::{IsTerminal, Write};

/// Writes data to stdout.
pub fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The result of a write to stdout; leaves the process with 0 when its reader is gone.
pub fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(flexps_common::error::io("stdout", &e)),
    }
}

/// Says one line to the user.
pub fn say(line: &str) {
    // Nobody reads stderr any more: there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says an error.
pub fn error(error: &Error) {
    say(&format!("error: {error}"));
}

/// Whether a person watches stderr.
pub fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Makes a panic of any thread one line that says where it happened and that it is ours to mend. A worker runs the job's
/// code, and its panic is the job's failure, which says all but the place.
pub fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default();
        let place = panic.location().map_or(String::from("an unknown place"), ToString::to_string);
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("worker-")) {
            tracing::info!(%place, cause = message, "a worker panicked");
            return;
        }
        if caught::within() {
            tracing::info!(%place, cause = message, "a job's code panicked");
            return;
        }
        say(&format!(
            "bug: flexps {} panicked at {place} in thread {}: {message}; please report this line",
            env!("CARGO_PKG_VERSION"),
            thread.name().unwrap_or("without name"),
        ));
    }));
}
