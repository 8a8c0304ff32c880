//! `flexps predict`: one line a row.

use super::args::{Output, PredictArgs};
use super::rows::Files;
use super::scoring::{Scoring, highest};
use super::terminal::written;
use flexps_common::{Error, Result};
use std::io::{BufWriter, Write};
use tokio::runtime::Handle;

/// Prints the label or the probability of each row; of a model of numbers, its number; of more than two classes, a
/// probability for each, their sum 1.
pub fn predict(runtime: &Handle, args: &PredictArgs) -> Result<()> {
    let mut scoring = Scoring::open(runtime, &args.applied, Files::as_given)?;
    scoring.ignore_labels();
    let labels = scoring.labels();
    let numbers = labels.all().is_empty();
    if numbers && args.output == Output::Probability {
        return Err(Error::user(
            "the model predicts numbers, which have no probability; leave --output probability out",
        ));
    }
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    scoring.each(|_, scores| {
        written(match (args.output, scores) {
            (_, [score]) if numbers => writeln!(out, "{score}"),
            (Output::Label, [score]) => writeln!(out, "{}", labels.of(*score as f32)),
            (Output::Label, all) => writeln!(out, "{}", labels.of(highest(all) as f32)),
            (Output::Probability, [score]) => writeln!(out, "{}", probability(*score)),
            (Output::Probability, all) => {
                let total: f64 = all.iter().copied().map(probability).sum();
                let each: Vec<_> = all.iter().map(|score| (probability(*score) / total).to_string()).collect();
                writeln!(out, "{}", each.join(" "))
            }
        })
    })?;
    written(out.flush())
}

fn probability(score: f64) -> f64 {
    // Never 0, so that a sum of them isn't.
    (1.0 / (1.0 + (-score).exp())).max(f64::MIN_POSITIVE)
}
