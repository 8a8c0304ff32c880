//! `flexps predict`: one line a row.

use super::args::{Output, PredictArgs};
use super::scoring::Scoring;
use super::terminal::written;
use flexps_common::Result;
use std::io::{BufWriter, Write};
use tokio::runtime::Handle;

/// Prints the label or the probability of each row.
pub fn predict(runtime: &Handle, args: &PredictArgs) -> Result<()> {
    let mut scoring = Scoring::open(runtime, &args.applied)?;
    scoring.ignore_labels()?;
    let labels = scoring.labels();
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    scoring.each(|_, score| {
        written(match args.output {
            Output::Label => writeln!(out, "{}", if score > 0.0 { labels.positive } else { labels.negative }),
            Output::Probability => writeln!(out, "{}", 1.0 / (1.0 + (-score).exp())),
        })
    })?;
    written(out.flush())
}
