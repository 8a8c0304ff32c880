//! Logs on stderr, where libraries speak in our words.
//!
//! Invariant: a warning of a library that users can meet is one readable line, and the same line comes again only after
//! [`AGAIN`].

use super::terminal::watched;
use flexps_common::tail::Tail;
use flexps_common::{Error, Result, storage};
use std::collections::HashMap;
use std::fmt::Result as Formatted;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// After which time a library's warning is news again.
const AGAIN: Duration = Duration::from_secs(600);

/// Sends logs that pass `filter` to stderr, and all from INFO on to `tail` if there is one.
pub fn to_stderr(filter: &str, tail: Option<Tail>) -> Result<()> {
    let refused = |why: &str| Error::user(format!("--log '{filter}': {why}; give warn, info, debug or CRATE=LEVEL"));
    // A name alone would be a crate of which all is logged, and a level that is mistyped nothing.
    let is_bare = |part: &&str| !part.is_empty() && !part.contains('=') && part.parse::<LevelFilter>().is_err();
    if let Some(word) = filter.split(',').map(str::trim).find(is_bare) {
        return Err(refused(&format!("'{word}' is no level")));
    }
    let filter = EnvFilter::try_new(filter).map_err(|e| refused(&e.to_string()))?;
    let words = Words { ours: tracing_subscriber::fmt::format().with_target(false), said: Mutex::default() };
    let stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(watched()).event_format(words);
    let kept = tail.map(|tail| {
        let layer = fmt::layer().with_writer(move || Kept(tail.clone())).with_ansi(false).with_target(false);
        layer.with_filter(LevelFilter::INFO)
    });
    tracing_subscriber::registry().with(stderr.with_filter(filter)).with(kept).init();
    Ok(())
}

/// Writes to the end of a log.
struct Kept(Tail);

impl Write for Kept {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.push(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes our events as they are, and libraries' warnings in our words.
struct Words {
    ours: Format<Full, SystemTime>,
    /// What libraries said, and when last.
    said: Mutex<HashMap<String, Instant>>,
}

impl Words {
    /// Whether `line` is news.
    fn is_news(&self, line: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(|e| e.into_inner());
        said.retain(|_, at| at.elapsed() < AGAIN);
        said.insert(line.to_owned(), Instant::now()).is_none()
    }
}

impl<S, N> FormatEvent<S, N> for Words
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> Formatted {
        if *event.metadata().level() != Level::WARN {
            return self.ours.format_event(context, writer, event);
        }
        let mut said = Said::default();
        event.record(&mut said);
        match said.in_our_words() {
            None => self.ours.format_event(context, writer, event),
            Some(line) if !line.is_empty() && self.is_news(&line) => {
                SystemTime.format_time(&mut writer)?;
                writeln!(writer, "  WARN {line}")
            }
            Some(_) => Ok(()),
        }
    }
}

/// What a library logged. Its crate's name is a field: events of the `log` crate share one place.
#[derive(Default)]
struct Said {
    target: String,
    message: String,
}

impl Said {
    /// Nothing when it may stay as it is; an empty line when nobody needs it.
    fn in_our_words(&self) -> Option<String> {
        match self.target.split("::").next() {
            Some("hdfs_native") => storage::readable(&self.message),
            // The folder that the socket lay in went first, with all that was in it.
            Some("zeromq") if self.message.starts_with("Could not delete unix socket") => Some(String::new()),
            _ => None,
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.target);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
