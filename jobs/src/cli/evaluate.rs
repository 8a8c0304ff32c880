//! `flexps evaluate`: accuracy, log loss and AUC of a saved model; of more than two classes accuracy and recall; of
//! numbers RMSE and R2. The log loss takes scores for log odds, also those of an svm, which are none.
//!
//! Invariant: the AUC is exact: the scores of all rows are sorted, and pairs with equal scores count half.

use super::args::EvaluateArgs;
use super::rows::Files;
use super::scoring::{Scoring, highest};
use super::terminal::{out, say};
use crate::svm::Svm;
use flexps_common::job::Job;
use flexps_common::{Error, Result};
use tokio::runtime::Handle;

/// Judges a model.
pub fn evaluate(runtime: &Handle, args: &EvaluateArgs) -> Result<()> {
    let scoring = Scoring::open(runtime, &args.applied, Files::list)?;
    let lines = match scoring.labels().all().len() {
        0 => numbers(&scoring)?,
        2 => two_classes(&scoring)?,
        _ => classes(&scoring)?,
    };
    if lines[0].1 == Some(0.0) {
        let paths: Vec<_> = args.applied.input.iter().map(|path| path.0.as_str()).collect();
        return Err(Error::data(format!("no rows in --input {}: there is nothing to judge", paths.join(" "))));
    }
    if scoring.job() == Svm::NAME && scoring.labels().all().len() == 2 {
        say(
            "the log loss takes an svm's scores for log odds; training's validation_loss is the mean of the job's own loss",
        );
    }
    if args.json {
        let object: serde_json::Map<_, _> = lines
            .iter()
            .map(|(name, value)| match *name {
                "rows" => ("rows".to_owned(), (value.unwrap_or(0.0) as u64).into()),
                name => (name.to_lowercase().replace(' ', "_"), (*value).into()),
            })
            .collect();
        return out(&format!("{}\n", serde_json::Value::Object(object)));
    }
    let text = |(name, value): &(&str, Option<f64>)| match value {
        Some(rows) if *name == "rows" => format!("rows      {rows}\n"),
        Some(value) => format!("{name:<9} {value:.6}\n"),
        None => format!("{name:<9} undefined: the rows are all alike\n"),
    };
    out(&lines.iter().map(text).collect::<String>())
}

/// Names and values, the number of rows first; a value that the rows don't define is none.
type Lines = Vec<(&'static str, Option<f64>)>;

fn two_classes(scoring: &Scoring) -> Result<Lines> {
    let mut scored: Vec<(f64, bool)> = Vec::new();
    let (mut right, mut loss) = (0u64, 0.0);
    scoring.each(|label, scores| {
        let (score, positive) = (scores[0], label > 0.0);
        right += u64::from((score > 0.0) == positive);
        loss += log_loss(if positive { score } else { -score });
        scored.push((score, positive));
        Ok(())
    })?;
    let rows = scored.len() as f64;
    let auc = auc(&mut scored);
    Ok(vec![
        ("rows", Some(rows)),
        ("accuracy", Some(right as f64 / rows)),
        ("log loss", Some(loss / rows)),
        ("AUC", auc),
    ])
}

/// The class with the highest score counts; the recall is the mean over the classes that the rows have.
fn classes(scoring: &Scoring) -> Result<Lines> {
    let mut counts = vec![(0u64, 0u64); scoring.labels().all().len()];
    scoring.each(|label, scores| {
        let (right, rows) = &mut counts[label as usize];
        *right += u64::from(highest(scores) == label as usize);
        *rows += 1;
        Ok(())
    })?;
    let (right, rows) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let there: Vec<f64> = counts.iter().filter(|(_, n)| *n > 0).map(|(right, n)| *right as f64 / *n as f64).collect();
    let recall = there.iter().sum::<f64>() / there.len() as f64;
    Ok(vec![("rows", Some(rows as f64)), ("accuracy", Some(right as f64 / rows as f64)), ("recall", Some(recall))])
}

/// Root of the mean squared error, and the part of the variance that the model explains.
fn numbers(scoring: &Scoring) -> Result<Lines> {
    let (mut rows, mut errors, mut mean, mut spread) = (0.0, 0.0, 0.0, 0.0);
    scoring.each(|label, scores| {
        let label = f64::from(label);
        rows += 1.0;
        errors += (label - scores[0]).powi(2);
        // Welford's way: no difference of large sums.
        let off = label - mean;
        mean += off / rows;
        spread += off * (label - mean);
        Ok(())
    })?;
    let explained = (spread > 0.0).then(|| 1.0 - errors / spread);
    Ok(vec![("rows", Some(rows)), ("RMSE", Some((errors / rows).sqrt())), ("R2", explained)])
}

/// log(1 + e^-z), without overflow.
fn log_loss(z: f64) -> f64 {
    if z > 0.0 { (-z).exp().ln_1p() } else { -z + z.exp().ln_1p() }
}

/// The share of pairs of a positive and a negative in which the positive has the higher score; none when a class is
/// missing. Sorts the scores.
fn auc(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, positive)| *positive).count() as f64;
    let negatives = scored.len() as f64 - positives;
    let (mut below, mut won) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let p = tied.iter().filter(|(_, positive)| *positive).count() as f64;
        let n = tied.len() as f64 - p;
        won += p * (below + n / 2.0);
        below += n;
    }
    (positives > 0.0 && negatives > 0.0).then(|| won / (positives * negatives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tied_scores_count_half() {
        assert_eq!(auc(&mut [(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(auc(&mut [(1.0, true), (0.5, false), (-0.0, true), (0.0, false)]), Some(2.5 / 4.0));
        assert_eq!(auc(&mut [(2.0, true)]), None);
    }

    #[test]
    fn log_loss_has_no_overflow() {
        assert_eq!(log_loss(1000.0), 0.0);
        assert_eq!(log_loss(-1000.0), 1000.0);
        assert!((log_loss(0.0) - 2f64.ln()).abs() < 1e-15);
    }
}
